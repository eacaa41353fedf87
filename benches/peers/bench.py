"""CPU per request of Portreeve beside its peers, or instructions per request beside an earlier Portreeve.

README.md says how it measures and how to read it.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
PROXY_CPU, LOAD_CPU = "0", "1"
HTTP1_UPSTREAM, HTTP2_UPSTREAM = 18000, 18001
FIRST_PORT = 18100
TLS13 = ["--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519"]
EDITS = ["x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-envoy-expected-rq-timeout-ms"]
ANSWER_EDITS = ["server", "x-envoy-upstream-service-time"]


class Workload:
    """What the load generator asks for, and of which proxy set-up."""

    def __init__(self, title, requests, load, path, tls=False, grpc=False, body=None):
        self.title, self.requests, self.load, self.path = title, requests, load, path
        self.tls, self.grpc, self.body = tls, grpc, body
        self.http1 = "--h1" in load


HTTP1, HTTP2 = ["--h1", "-c100"], ["-c20", "-m10"]
FEW_HTTP1, FEW_HTTP2 = ["--h1", "-c16"], ["-c4", "-m4"]
GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
WORKLOADS = {
    "http1": Workload("HTTP/1.1, 1 kB", 40_000, HTTP1, "/1k"),
    "http1-tls": Workload("HTTP/1.1 over TLS 1.3, 1 kB", 30_000, HTTP1, "/1k", tls=True),
    "http2-tls": Workload("HTTP/2 over TLS 1.3, 1 kB", 40_000, HTTP2, "/1k", tls=True),
    "grpc": Workload("gRPC, HTTP/2 over TLS to h2c, 1 kB", 40_000, HTTP2 + GRPC, "/pkg.Service/1k", tls=True, grpc=True, body=100),
    "down": Workload("1 MB down, HTTP/1.1 over TLS", 1200, FEW_HTTP1, "/1m", tls=True),
    "down-http2": Workload("1 MB down, HTTP/2 over TLS", 1200, FEW_HTTP2, "/1m", tls=True),
    "up": Workload("1 MB up, HTTP/1.1 over TLS", 1000, FEW_HTTP1, "/0", tls=True, body=1 << 20),
    "up-http2": Workload("1 MB up, HTTP/2 over TLS", 1000, FEW_HTTP2, "/0", tls=True, body=1 << 20),
}


class Bench:
    def __init__(self, options, work):
        self.options, self.work = options, pathlib.Path(work)
        self.certificate = self.work / "server.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
            + ["-subj", "/CN=localhost", "-keyout", self.certificate, "-out", self.work / "certificate.pem"],
            check=True, capture_output=True,
        )
        with open(self.certificate, "a") as file:
            file.write((self.work / "certificate.pem").read_text())

    # Set-ups: the command line of each proxy for a workload.

    def commands(self):
        before = lambda port, workload: self.portreeve(port, workload, self.options.before)
        return {"portreeve": self.portreeve, "before": before, "haproxy": self.haproxy, "nginx": self.nginx, "envoy": self.envoy}

    def render(self, template, port, workload, **values):
        values |= {"port": port, "work": self.work, "certificate": self.certificate}
        values["upstream"] = HTTP2_UPSTREAM if workload.grpc else HTTP1_UPSTREAM
        text = (HERE / "config" / template).read_text()
        for name, value in values.items():
            text = text.replace(f"@{name.upper()}@", str(value))
        file = self.work / f"{port}-{template}"
        file.write_text(text)
        return file

    def envoy_file(self, port, workload):
        tls = f"""
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - {{ certificate_chain: {{ filename: "{self.certificate}" }}, private_key: {{ filename: "{self.certificate}" }} }}"""
        protocol = """
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }"""
        return self.render("envoy.yaml", port, workload, tls=tls if workload.tls else "", protocol=protocol if workload.grpc else "")

    def portreeve(self, port, workload, binary=None):
        return [binary or self.options.portreeve, "run", "-c", self.envoy_file(port, workload), "--concurrency", "1", "-l", "warn"]

    def envoy(self, port, workload):
        file = self.envoy_file(port, workload)
        return [self.options.envoy, "-c", file, "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"]

    def haproxy(self, port, workload):
        bind = f"ssl crt {self.certificate} alpn h2,http/1.1" if workload.tls else ""
        scheme, protocol = "https" if workload.tls else "http", "proto h2" if workload.grpc else ""
        return ["haproxy", "-db", "-f", self.render("haproxy.cfg", port, workload, bind=bind, scheme=scheme, protocol=protocol)]

    def nginx(self, port, workload):
        kind = "grpc" if workload.grpc else "proxy"
        edits = {"X-Request-Id": "$request_id", "X-Forwarded-For": "$proxy_add_x_forwarded_for"}
        edits |= {"X-Forwarded-Proto": "$scheme", "X-Envoy-Expected-Rq-Timeout-Ms": "15000"}
        location = " ".join(f"{kind}_set_header {name} {value};" for name, value in edits.items())
        location += " add_header x-envoy-upstream-service-time 0;"
        if workload.grpc:
            location += " grpc_pass grpc://one;"
        else:
            location += ' proxy_pass http://one; proxy_http_version 1.1; proxy_set_header Connection "";'
            location += " proxy_set_header Host $host; proxy_request_buffering off; proxy_max_temp_file_size 0;"
        listen = "ssl http2" if workload.tls else ""
        return ["nginx", "-c", self.render("nginx.conf", port, workload, listen=listen, location=location)]

    # Measuring.

    def load(self, port, workload, requests):
        """Sends that many requests, and returns how many were answered with 2xx."""
        command = ["taskset", "-c", LOAD_CPU, "h2load", "-n", str(requests), *workload.load]
        if workload.body:
            body = self.work / f"body-{workload.body}"
            if not body.exists():
                # The first five bytes are a gRPC frame's head.
                body.write_bytes((workload.body - 5).to_bytes(5, "big") + b"z" * (workload.body - 5))
            command += ["-d", body]
        command += TLS13 if workload.tls else []
        command.append(f"http{'s' if workload.tls else ''}://127.0.0.1:{port}{workload.path}")
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        answered = re.search(r"status codes: (\d+) 2xx", result.stdout)
        return int(answered[1]) if answered else 0

    def differences(self, port, workload):
        """Which of the header edits a proxy does not make, or makes over a different protocol than meant."""
        path = "/pkg.Service/headers" if workload.grpc else "/headers"
        seen, answer = probe_http1(port, path, workload.tls) if workload.http1 else probe_http2(port, path, workload)
        missing = [f"request {name}" for name in EDITS if f"{name}:" not in seen.lower()]
        return missing + [f"answer {name}" for name in ANSWER_EDITS if f"{name}:" not in answer.lower()]

    def run(self, name):
        """One workload: all proxies up at once, rounds in turn; the first round only warms up."""
        workload = WORKLOADS[name]
        samples, problems = {}, []
        with contextlib.ExitStack() as stack:
            running = {}
            for port, (proxy, command) in enumerate(self.commands().items(), FIRST_PORT):
                if proxy in self.options.proxies:
                    running[proxy] = (stack.enter_context(process(command(port, workload), PROXY_CPU, port)), port)
                    missing = self.differences(port, workload)
                    problems += [f"{proxy}: no {', '.join(missing)}"] if missing else []
                    samples[proxy] = []
            for turn in range(self.options.rounds + 1):
                requests = max(200, int(workload.requests * self.options.scale / (1 if turn else 10)))
                for proxy, (child, port) in running.items():
                    before = cpu(child.pid)
                    answered = self.load(port, workload, requests)
                    if answered != requests:
                        problems.append(f"{proxy}: {requests - answered} of {requests} requests were not answered with 2xx")
                    if turn and answered:
                        samples[proxy].append((cpu(child.pid) - before) / 1000 / answered)
        medians = {proxy: round(statistics.median(values), 1) for proxy, values in samples.items() if values}
        return {"title": workload.title, "median": medians, "samples": samples, "problems": sorted(set(problems))}

    def count(self, name):
        """One workload in instructions: what some hundred requests more take, one Portreeve after the other."""
        workload, few = WORKLOADS[name], 100
        many = max(200, workload.requests // 40)
        medians, problems = {}, []
        for proxy in self.options.proxies:
            counts = []
            for requests in (few, few + many):
                command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *self.commands()[proxy](FIRST_PORT, workload)]
                with process(command, PROXY_CPU, FIRST_PORT) as child:
                    answered = self.load(FIRST_PORT, workload, requests)
                    child.send_signal(signal.SIGTERM)
                    collected = re.search(r"Collected : (\d+)", child.communicate(timeout=60)[1].decode())
                if answered != requests:
                    problems.append(f"{proxy}: {requests - answered} of {requests} requests were not answered with 2xx")
                counts.append(int(collected[1]))
            medians[proxy] = round((counts[1] - counts[0]) / many / 1000, 1)
        return {"title": workload.title, "median": medians, "problems": problems}


@contextlib.contextmanager
def process(command, processor, port):
    """A process on one CPU, ready when its port answers, ended by its id."""
    pinned = ["taskset", "-c", processor, *map(str, command)]
    child = subprocess.Popen(pinned, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > end:
                    child.kill()
                    raise RuntimeError(f"{pinned[3]} did not start:\n{child.stderr.read().decode()}")
                time.sleep(0.02)
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stderr.close()


def cpu(pid):
    """Nanoseconds that all threads of a process have run."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def probe_http1(port, path, tls):
    context = ssl._create_unverified_context() if tls else None
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context) if tls else http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse()
    seen = answer.read().decode()
    connection.close()
    return seen, str(answer.headers)


def probe_http2(port, path, workload):
    extra = GRPC if workload.grpc else []
    verbose = subprocess.run(["nghttp", "-v", *extra, f"https://127.0.0.1:{port}{path}"], capture_output=True, text=True, timeout=10)
    plain = "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", verbose.stdout).splitlines())
    answer = "\n".join(re.findall(r"recv \(stream_id=\d+\) (.*)", plain))
    return plain.replace(answer, ""), answer


def table(unit, results, proxies):
    """The medians, and Portreeve's ratio to each peer."""
    peers = [proxy for proxy in proxies if proxy != "portreeve"]
    heads = [f"{unit} per request", *proxies, *(f"÷ {peer}" for peer in peers)]
    rows = []
    for result in results.values():
        median = result["median"]
        ratios = [median["portreeve"] / median[peer] if "portreeve" in median and peer in median else None for peer in peers]
        cells = [f"{median[proxy]:.1f}" if proxy in median else "–" for proxy in proxies]
        rows.append([result["title"], *cells, *(f"{ratio:.2f}" if ratio else "–" for ratio in ratios)])
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    for row in [heads, ["-" * width for width in widths], *rows]:
        first, *rest = (cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths)))
        print("| " + " | ".join([first, *rest]) + " |")


def main():
    names = ["portreeve", "before", "haproxy", "nginx", "envoy"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--portreeve", required=True, help="the binary to measure")
    parser.add_argument("--envoy", required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--before", help="another Portreeve to compare with, of the same cargo profile")
    parser.add_argument("--instructions", action="store_true", help="count with valgrind; Portreeve and --before only")
    parser.add_argument("--proxies", type=lambda text: text.split(","), default=names, help=f"of {','.join(names)}")
    parser.add_argument("--workloads", type=lambda text: text.split(","), default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests in a round")
    parser.add_argument("--json", type=pathlib.Path, help="also write every sample to this file")
    options = parser.parse_args()
    if os.cpu_count() < 2:
        sys.exit("The bench needs two CPUs: one for the proxy, one for the load.")
    able = {"portreeve", *(["before"] if options.before else []), *([] if options.instructions else names[2:])}
    options.proxies = [name for name in names if name in options.proxies and name in able]
    results = {}
    with tempfile.TemporaryDirectory(prefix="portreeve-bench-") as work:
        bench = Bench(options, work)
        with process([options.upstream, HTTP1_UPSTREAM, HTTP2_UPSTREAM], LOAD_CPU, HTTP2_UPSTREAM):
            for name in options.workloads:
                print(f"measuring {WORKLOADS[name].title}", file=sys.stderr, flush=True)
                results[name] = bench.count(name) if options.instructions else bench.run(name)
    table("1000 instructions" if options.instructions else "CPU-µs", results, options.proxies)
    problems = [f"{result['title']}: {problem}" for result in results.values() for problem in result["problems"]]
    print("\n".join(["", "NOT THE SAME WORK:", *problems]) if problems else "\nEvery answer was 2xx, and every proxy made the same header edits.")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
