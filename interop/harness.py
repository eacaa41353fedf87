"""What the suites are written in: processes that end, the Portreeve under test, upstreams, certificates, the tally."""

import collections
import contextlib
import http.server
import itertools
import pathlib
import queue
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
CACHE = HERE.parent / ".cache"


class Tally:
    """Counts checks, prints each, and repeats at the end those that failed."""

    def __init__(self):
        self.passed, self.failures = 0, []

    def check(self, name, passed, detail=""):
        if passed:
            self.passed += 1
            print(f"ok      {name}", flush=True)
        else:
            self.failures.append(" ".join(f"{name}: {detail}".rstrip(": ").split()))
            print(f"FAILED  {name}\n        {detail}".rstrip(), flush=True)
        return bool(passed)

    def summary(self):
        """Prints what failed, a line each, and the counts, which .ci/run reads; 1 if anything failed."""
        if self.failures:
            print("failed checks:")
        for failure in self.failures:
            print(f"- {failure[:300]}")
        print(f"{self.passed} passed, {len(self.failures)} failed", flush=True)
        return 1 if self.failures else 0


class Process:
    """A process whose output is read line by line; it ends with the `with` block."""

    def __init__(self, command, **options):
        self.child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **options,
        )
        self.recent = collections.deque(maxlen=40)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.recent.append(line)
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def until(self, pattern, seconds):
        """The lines up to the first that matches `pattern`."""
        end, seen = time.monotonic() + seconds, []
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise RuntimeError(f"no line with {pattern!r} from {self.child.args[0]}:\n" + "".join(self.recent))
            seen.append(line)
            if re.search(pattern, line):
                return seen

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Portreeve(Process):
    """Portreeve with a configuration of interop/config, in which `@NAME@` stands for a value."""

    def __init__(self, binary, configuration, **values):
        self.directory = tempfile.TemporaryDirectory(prefix="portreeve-interop-")
        text = (HERE / "config" / configuration).read_text()
        for name, value in values.items():
            text = text.replace(f"@{name.upper()}@", str(value))
        file = pathlib.Path(self.directory.name) / configuration
        file.write_text(text)
        super().__init__([binary, "run", "-c", file, "--concurrency", "2"])
        report = "\n".join(self.until(r"ready$", 20))
        listeners = re.findall(r"listener started.*? listener=\"?([\w-]+)\"? address=\"?\S+:(\d+)", report)
        self.ports = {name: int(port) for name, port in listeners}

    def __exit__(self, *reason):
        super().__exit__(*reason)
        self.directory.cleanup()


class Handler(http.server.BaseHTTPRequestHandler):
    """What an upstream does with a request; it logs none."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


class Upstream(http.server.ThreadingHTTPServer):
    """Serves as a handler says until the end of the `with` block. Clients may leave early and by the thousand."""

    request_queue_size = 1024

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *arguments):
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*arguments)

    def __exit__(self, *reason):
        self.shutdown()
        super().__exit__(*reason)


class Certificates:
    """An authority and a certificate of it for localhost, as files."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="portreeve-interop-")
        at = pathlib.Path(self.directory.name)
        self.authority, self.pem = at / "ca.pem", at / "server.pem"
        names = at / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl("req", "-x509", *key, "-days", 30, "-subj", "/CN=Interop Authority", "-keyout", at / "ca.key", "-out", self.authority)
        openssl("req", *key, "-subj", "/CN=localhost", "-keyout", at / "server.key", "-out", at / "server.csr")
        openssl(
            *("x509", "-req", "-in", at / "server.csr", "-CA", self.authority, "-CAkey", at / "ca.key"),
            *("-CAcreateserial", "-days", 30, "-extfile", names, "-out", at / "server.crt"),
        )
        self.pem.write_text((at / "server.crt").read_text() + (at / "server.key").read_text())


def openssl(*arguments):
    """What it writes to standard output."""
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30).stdout


# Below those that the system gives to clients, and each once before any comes again: nobody may have bound it yet. With these
# digits all ports take as many bytes in HTTP/2 (HPACK's Huffman code), so that two runs count the same.
PORTS = [int("".join(digits)) for digits in itertools.product("12", *["3456789"] * 4)]
random.shuffle(PORTS)
NEXT_PORT = itertools.cycle(PORTS)


def free_port():
    """A port that is free now, for peers that cannot choose one themselves."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", next(NEXT_PORT)))
            return probe.getsockname()[1]


def closed_port():
    """A port where nobody listens, for as long as the socket lives that comes with it."""
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    return closed.getsockname()[1], closed
