"""Clients that people use, each with its own HTTP stack: curl, nghttp2, httpx, and gRPC's own library on both sides."""

import asyncio
import concurrent.futures
import hashlib
import ssl
import subprocess
import tempfile
import threading

import grpc
import httpx

from harness import Certificates, Handler, Portreeve, Upstream

LARGE = b"0123456789abcdef" * 500_000


def run(portreeve, tally):
    certificates = Certificates()
    calls = grpc.server(concurrent.futures.ThreadPoolExecutor(32), handlers=[Echo()])
    values = {"pem": certificates.pem, "calls": calls.add_insecure_port("127.0.0.1:0")}
    calls.start()
    with Upstream(Page) as pages, Portreeve(portreeve, "clients.yaml", pages=pages.server_port, **values) as proxy:
        curl(tally, proxy.ports["tls"], proxy.ports["plain"], certificates.authority)
        nghttp2(tally, proxy.ports["tls"], proxy.ports["plain"])
        httpx_client(tally, proxy.ports["tls"], certificates.authority)
        grpc_client(tally, proxy.ports["tls"], certificates.authority)
        tally.check("Portreeve is still there", proxy.child.poll() is None, "".join(proxy.recent))
    calls.stop(0)


class Page(Handler):
    """Says what it got: the length and digest of the body; `/large` is eight megabytes."""

    def answer(self):
        body = self.body()
        text = LARGE if self.path == "/large" else f"{self.command} {len(body)} {hashlib.sha256(body).hexdigest()}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def body(self):
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = answer


def received(method, body):
    """What the upstream says of a request."""
    return f"{method} {len(body)} {hashlib.sha256(body).hexdigest()}"


def curl(tally, tls, plain, authority):
    def fetch(*arguments, stdin=None):
        command = ["curl", "--silent", "--show-error", "--max-time", "30", "--cacert", authority, *arguments]
        result = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, timeout=60)
        return result.stdout.decode() or result.stderr.decode()

    secure, clear = f"https://localhost:{tls}", f"http://localhost:{plain}"
    version = ["--write-out", " HTTP/%{http_version} %{num_connects}"]
    empty = received("GET", b"")
    for name, wanted, arguments in [
        ("HTTP/1.1 over TLS", f"{empty} HTTP/1.1 1", ["--http1.1", secure]),
        ("HTTP/2 over TLS", f"{empty} HTTP/2 1", ["--http2", secure]),
        ("HTTP/1.1", f"{empty} HTTP/1.1 1", ["--http1.1", clear]),
        ("HTTP/2 with prior knowledge", f"{empty} HTTP/2 1", ["--http2-prior-knowledge", clear]),
        ("an upgrade to h2c that is not taken up", f"{empty} HTTP/1.1 1", ["--http2", clear]),
        ("TLS 1.2", f"{empty} HTTP/2 1", ["--tls-max", "1.2", secure]),
        ("HTTP/1.0", "426 HTTP/1.1 1", ["--http1.0", "--output", "/dev/null", "--write-out", "%{http_code} HTTP/%{http_version} %{num_connects}", clear]),
        ("two requests on one connection", f"{empty} HTTP/1.1 1{empty} HTTP/1.1 0", ["--http1.1", secure, secure]),
        ("an early end of HEAD", "200", ["--head", "--output", "/dev/null", "--write-out", "%{http_code}", secure]),
    ]:
        said = fetch(*([] if "--write-out" in arguments else version), *arguments)
        tally.check(f"curl: {name}", said == wanted, said)
    with tempfile.NamedTemporaryFile() as file:
        file.write(LARGE)
        file.flush()
        for name, arguments in [("HTTP/1.1", ["--http1.1"]), ("HTTP/2", ["--http2"])]:
            said = fetch(*arguments, "--upload-file", file.name, secure)
            tally.check(f"curl: an upload with its length, {name}", said == received("PUT", LARGE), said)
            said = fetch(*arguments, "--upload-file", "-", secure, stdin=LARGE)
            tally.check(f"curl: an upload of unknown length, {name}", said == received("PUT", LARGE), said)
            said = fetch(*arguments, "--header", "expect: 100-continue", "--data-binary", "@" + file.name, secure)
            tally.check(f"curl: expect 100-continue, {name}", said == received("POST", LARGE), said)
            said = fetch(*arguments, f"{secure}/large")
            tally.check(f"curl: a large download, {name}", said == LARGE.decode(), said[:200])
    urls = [f"{secure}/{number}" for number in range(100)]
    said = fetch("--parallel", "--parallel-max", "50", "--http2", "--write-out", "\n", *urls)
    tally.check("curl: a hundred requests at a time", said.count(empty) == 100, said[:300])


def nghttp2(tally, tls, plain):
    for name, command in [
        ("nghttp over TLS", ["nghttp", "--stat", f"https://localhost:{tls}/a", f"https://localhost:{tls}/b"]),
        ("nghttp without TLS", ["nghttp", "--stat", f"http://localhost:{plain}/a"]),
        ("nghttp with padding and small windows", ["nghttp", "--stat", "-b", "200", "-w", "10", "-W", "12", f"https://localhost:{tls}/large"]),
    ]:
        said = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60).stdout
        answered = sum(" 200 " in line for line in said.splitlines()[-8:])
        tally.check(name, answered == len(command) - command.index(next(part for part in command if part.startswith("http"))), said[-600:])
    for name, options in [("one stream at a time", ["-m1"]), ("a hundred streams at a time", ["-m100"])]:
        command = ["h2load", "-n2000", "-c10", *options, f"https://localhost:{tls}/"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        tally.check(f"h2load: {name}", "2000 succeeded, 0 failed, 0 errored" in said, said[-800:])


def httpx_client(tally, port, authority):
    context = ssl.create_default_context(cafile=authority)
    for version, options in [("HTTP/1.1", {}), ("HTTP/2", {"http2": True, "http1": False})]:
        with httpx.Client(verify=context, base_url=f"https://localhost:{port}", timeout=30, **options) as client:
            answer = client.get("/")
            seen = (answer.http_version, answer.text)
            tally.check(f"httpx: GET, {version}", seen == (version, received("GET", b"")), seen)
            parts = (LARGE[at : at + 50_000] for at in range(0, len(LARGE), 50_000))
            answer = client.post("/", content=parts)
            tally.check(f"httpx: a streamed upload, {version}", answer.text == received("POST", LARGE), answer.text)
            answer = client.get("/large")
            tally.check(f"httpx: a large download, {version}", answer.content == LARGE, len(answer.content))
        # Not in threads: over HTTP/2 httpx shares its connection among them without care, behind any server.
        answers = asyncio.run(many(verify=context, base_url=f"https://localhost:{port}", timeout=30, **options))
        tally.check(f"httpx: many requests at a time, {version}", answers == {received("DELETE", b"")}, answers)


async def many(**options):
    """The distinct answers to two hundred requests at a time."""
    async with httpx.AsyncClient(**options) as client:
        answers = await asyncio.gather(*(client.delete(f"/{number}") for number in range(200)))
    return {answer.text for answer in answers}


class Echo(grpc.GenericRpcHandler):
    """Methods of every kind over plain bytes."""

    def service(self, details):
        metadata = dict(details.invocation_metadata)

        def unary(request, context):
            context.send_initial_metadata([("x-initial", metadata.get("x-ask", ""))])
            context.set_trailing_metadata([("x-trailing-bin", b"\x00\xff")])
            return request

        def fail(_, context):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: ü, 100 %")

        def wait(_, context):
            context.add_callback(self.cancelled.set)
            self.cancelled.wait(20)
            return b""

        methods = {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Fail": grpc.unary_unary_rpc_method_handler(fail),
            "Wait": grpc.unary_unary_rpc_method_handler(wait),
            "Down": grpc.unary_stream_rpc_method_handler(lambda request, _: (request for _ in range(1000))),
            "Up": grpc.stream_unary_rpc_method_handler(lambda requests, _: str(sum(map(len, requests))).encode()),
            "Both": grpc.stream_stream_rpc_method_handler(lambda requests, _: requests),
        }
        return methods.get(details.method.rpartition("/")[2])

    cancelled = threading.Event()


def grpc_client(tally, port, authority):
    credentials = grpc.ssl_channel_credentials(authority.read_bytes())
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
        unary = channel.unary_unary("/echo.Echo/Unary")
        answer, call = unary.with_call(b"abc", metadata=[("x-ask", "1")], timeout=10)
        seen = (answer, dict(call.initial_metadata()).get("x-initial"), dict(call.trailing_metadata()).get("x-trailing-bin"))
        tally.check("gRPC: a unary call with metadata both ways", seen == (b"abc", "1", b"\x00\xff"), seen)
        answer = unary(LARGE[:3_000_000], timeout=20, compression=grpc.Compression.Gzip)
        tally.check("gRPC: a large message, compressed", answer == LARGE[:3_000_000], len(answer))
        answers = list(channel.unary_stream("/echo.Echo/Down")(b"x" * 1000, timeout=20))
        tally.check("gRPC: a server's stream", len(answers) == 1000, len(answers))
        answer = channel.stream_unary("/echo.Echo/Up")((b"x" * 1000 for _ in range(1000)), timeout=20)
        tally.check("gRPC: a client's stream", answer == b"1000000", answer)
        answers = list(channel.stream_stream("/echo.Echo/Both")((b"%d" % number for number in range(500)), timeout=20))
        tally.check("gRPC: a stream both ways", answers == [b"%d" % number for number in range(500)], len(answers))
        seen = failure(lambda: channel.unary_unary("/echo.Echo/Fail")(b"", timeout=10))
        tally.check("gRPC: a status with its message", seen == (grpc.StatusCode.FAILED_PRECONDITION, "no: ü, 100 %"), seen)
        seen = failure(lambda: channel.unary_unary("/echo.Echo/None")(b"", timeout=10))
        tally.check("gRPC: a method that is not there", seen[0] == grpc.StatusCode.UNIMPLEMENTED, seen)
        seen = failure(lambda: channel.unary_unary("/nobody.Nobody/Unary")(b"", timeout=10))
        tally.check("gRPC: a cluster where nobody listens", seen[0] == grpc.StatusCode.UNAVAILABLE, seen)
        seen = failure(lambda: channel.unary_unary("/echo.Echo/Wait")(b"", timeout=0.3))
        tally.check("gRPC: a deadline", seen[0] == grpc.StatusCode.DEADLINE_EXCEEDED, seen)
        tally.check("gRPC: the server hears of it", Echo.cancelled.wait(10))
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            answers = set(pool.map(lambda _: unary(b"many", timeout=20), range(500)))
        tally.check("gRPC: many calls at a time", answers == {b"many"}, answers)


def failure(call):
    """Status and message that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return None, "no failure"
