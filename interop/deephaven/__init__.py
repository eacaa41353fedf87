"""A real Deephaven server behind the TLS port, by static routes and as a registered worker, with its own clients."""

import pathlib
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request

import browser
from harness import CACHE, HERE, Certificates, Portreeve, Process, free_port
from registration import Grpcurl

PYTHON = CACHE / "deephaven/bin/python"
SCRIPTS = HERE / "deephaven"
TOKEN = "dispatcher-token-0123456789"


def run(portreeve, tally):
    certificates = Certificates()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="portreeve-deephaven-") as state:
        with Process([PYTHON, SCRIPTS / "server.py", port, state]) as server:
            server.until(r"^READY", 180)
            values = {"pem": certificates.pem, "worker": port, "token": TOKEN}
            with Portreeve(portreeve, "deephaven.yaml", **values) as proxy:
                ingress = Ingress(proxy.ports["listener_0"], certificates.authority)
                static(tally, ingress)
                registered(tally, ingress, port)
                tally.check("Portreeve is still there", proxy.child.poll() is None, "".join(proxy.recent))


class Ingress:
    """The public port, and how Deephaven's clients are started against it."""

    def __init__(self, port, authority):
        self.port, self.authority = port, authority
        self.context = ssl.create_default_context(cafile=authority)

    def script(self, tally, name, script, *arguments):
        """Runs a client, which says what it saw and exits with 0 if all was well."""
        command = [PYTHON, SCRIPTS / script, "localhost", self.port, self.authority, *arguments]
        try:
            result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
            said = (result.stdout + result.stderr).strip()
            passed = result.returncode == 0
        except subprocess.TimeoutExpired as expired:
            said, passed = f"did not end: {expired.stdout} {expired.stderr}", False
        last = said.splitlines()[-1] if passed and said else ""
        tally.check(f"{name}: {last}" if last else name, passed, said[-2000:])

    def fetch(self, path):
        """The status, length and text of a page, without following redirects."""
        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None

        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=self.context), Stay)
        try:
            with opener.open(f"https://localhost:{self.port}{path}", timeout=30) as answer:
                return answer.status, len(answer.read()), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, len(error.read()), error.headers


def static(tally, ingress):
    """Routes of the configuration: by header, by path prefix, and everything else."""
    ingress.script(tally, "static: tables, upload and download", "client.py")
    ingress.script(tally, "static: with envoy-prefix", "client.py", "envoy-prefix=static")
    ingress.script(tally, "static: with an empty envoy-prefix", "client.py", "envoy-prefix=")
    pages(tally, ingress, "static", "")
    pages(tally, ingress, "static, by path", "/worker/static")
    websockets(tally, ingress, "static")
    browser.ide(tally, ingress.port)


def registered(tally, ingress, port):
    """The same server once more, as a worker that registers itself."""
    grpcurl = Grpcurl(f"localhost:{ingress.port}", ingress.authority, TOKEN)
    status, output, _ = grpcurl.call("Register", {
        "worker_id": "dh-1",
        "service": "deephaven",
        "addresses": [{"host": "127.0.0.1", "port": port}],
        "protocol": "PROTOCOL_H2C",
        "routes": [{"path_prefix": "/worker/dh-1"}, {"header": {"name": "envoy-prefix", "value": "dh-1"}}],
    })
    if not tally.check("the worker registers", status == "OK", output):
        return
    ingress.script(tally, "registered: tables, upload and download", "client.py", "envoy-prefix=dh-1")
    ingress.script(tally, "registered: 140 streams on one channel", "streams.py", "140", "envoy-prefix=dh-1")
    pages(tally, ingress, "registered", "/worker/dh-1")
    websockets(tally, ingress, "registered", "envoy-prefix=dh-1")
    status, output, _ = grpcurl.call("Deregister", {"worker_id": "dh-1", "drain_time": "1s"})
    tally.check("the worker deregisters", status == "OK", output)


def pages(tally, ingress, name, prefix):
    """The files of the web UI."""
    status, _, headers = ingress.fetch(f"{prefix}/")
    tally.check(f"{name}: / redirects to the IDE", status == 302 and "/ide/" in headers.get("location", ""), status)
    for path, least in [("/ide/", 300), ("/jsapi/dh-core.js", 1_000_000), ("/jsapi/dh-internal.js", 100), ("/js-plugins/manifest.json", 2)]:
        status, length, _ = ingress.fetch(prefix + path)
        tally.check(f"{name}: {path} loads ({length} bytes)", status == 200 and length >= least, status)


def websockets(tally, ingress, name, *headers):
    """gRPC calls over WebSocket, in both of Deephaven's framings."""
    for framing in ["grpc-websockets", "grpc-websockets-multiplex"]:
        ingress.script(tally, f"{name}: a call over WebSocket, {framing}", "websocket.py", framing, *headers)
