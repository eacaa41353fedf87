"""The real grpcurl against the registration API on the public TLS port, and what its calls do to requests."""

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request

from harness import CACHE, Certificates, Handler, Portreeve, Upstream

REGISTRY = "portreeve.registration.v1.WorkerRegistry"
TOKEN = "dispatcher-token-0123456789"
OTHER = "other-token-0123456789abcdef"


class Grpcurl:
    """grpcurl as one caller."""

    def __init__(self, address, authority, token=None):
        self.command = [CACHE / "bin/grpcurl", "-cacert", authority, "-max-time", "20"]
        if token:
            self.command += ["-H", f"authorization: Bearer {token}"]
        self.address = address

    def run(self, *arguments, data=None):
        """The name of the gRPC status (or OK) and all that was printed."""
        body = ["-d", json.dumps(data)] if data is not None else []
        command = [str(part) for part in [*self.command, *body, self.address, *arguments]]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
        output = result.stdout + result.stderr
        if result.returncode == 0:
            return "OK", output
        named = [line.split("Code: ")[1] for line in output.splitlines() if "Code: " in line]
        # Where grpcurl fails before the call, it says the status in prose.
        return (named[0].strip() if named else "Unauthenticated" if "Unauthenticated" in output else "?"), output

    def call(self, method, data):
        status, output = self.run(f"{REGISTRY}/{method}", data=data)
        return status, output, json.loads(output) if status == "OK" else None


class Worker(Handler):
    """Says which path it was asked for."""

    def do_GET(self):
        body = f"worker saw {self.path}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def run(portreeve, tally):
    certificates = Certificates()
    values = {"pem": certificates.pem, "token": TOKEN, "other": OTHER}
    with Upstream(Worker) as worker, Portreeve(portreeve, "registration.yaml", **values) as proxy:
        address = f"localhost:{proxy.ports['main']}"
        context = ssl.create_default_context(cafile=certificates.authority)

        def fetch(path, headers={}):
            request = urllib.request.Request(f"https://{address}{path}", headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        def caller(token=None):
            return Grpcurl(address, certificates.authority, token)

        registration = {
            "worker_id": "query-1",
            "service": "queries",
            "addresses": [{"host": "127.0.0.1", "port": worker.server_port}],
            "protocol": "PROTOCOL_HTTP1",
            "routes": [
                {"path_prefix": "/worker/query-1"},
                {"header": {"name": "envoy-prefix", "value": "query-1"}},
            ],
            "metadata": {"started-by": "interop"},
        }
        discovery(tally, caller)
        refusals(tally, caller, registration)
        lifecycle(tally, caller(TOKEN), caller(OTHER), fetch, registration)
        expiry(tally, caller(TOKEN), fetch, registration)


def discovery(tally, caller):
    """Reflection and health."""
    status, output = caller(TOKEN).run("list")
    tally.check("grpcurl list", REGISTRY in output and "grpc.health.v1.Health" in output, output)
    status, output = caller(TOKEN).run("describe", REGISTRY)
    tally.check("grpcurl describe", "rpc Register" in output and "rpc Deregister" in output, output)
    status, output = caller(TOKEN).run("describe", "portreeve.registration.v1.RegisterRequest")
    tally.check("grpcurl describe of a message", "worker_id" in output, output)
    status, output = caller().run("grpc.health.v1.Health/Check", data={"service": REGISTRY})
    # Without a token there is no reflection either, from which grpcurl learns the method.
    tally.check("reflection needs a token", status == "Unauthenticated", output)
    status, output = caller(TOKEN).run("grpc.health.v1.Health/Check", data={"service": REGISTRY})
    tally.check("health says SERVING", "SERVING" in output, output)


def refusals(tally, caller, registration):
    """Callers and requests that are turned away, and why."""
    status, output = caller("wrong-token-0123456789").run("list")
    tally.check("a wrong token is refused", status == "Unauthenticated", output)

    def refused(name, status, words, **changes):
        got, output, _ = caller(TOKEN).call("Register", registration | changes)
        tally.check(f"{name}: {status}", got == status and all(word in output for word in words), output)

    refused("no worker id", "InvalidArgument", ["worker_id"], worker_id="")
    refused("no address", "InvalidArgument", ["addresses"], addresses=[])
    refused("a bad port", "InvalidArgument", ["addresses[0].port"], addresses=[{"host": "127.0.0.1", "port": 70000}])
    refused("a bad path", "InvalidArgument", ["routes[0].path_prefix"], routes=[{"path_prefix": "worker"}])
    both = {"worker_id": "", "routes": [{"header": {"name": "a b", "value": "x"}}]}
    refused("two wrong fields are both named", "InvalidArgument", ["worker_id", "routes[0].header.name"], **both)
    refused("an address of the metadata service", "PermissionDenied", ["169.254.169.254"],
            addresses=[{"host": "169.254.169.254", "port": 80}])
    status, output, _ = caller(OTHER).call("Register", registration)
    tally.check("loopback for a caller without networks: PermissionDenied", status == "PermissionDenied", output)
    status, output, _ = caller(TOKEN).call("Get", {"worker_id": "nobody"})
    tally.check("an unknown worker: NotFound", status == "NotFound", output)


def lifecycle(tally, owner, other, fetch, registration):
    """Register, Renew, List, Get, Drain, Deregister; each seen by the very next request."""
    tally.check("before: 404", fetch("/worker/query-1/x")[0] == 404)
    status, output, answer = owner.call("Register", registration)
    if not tally.check("Register", status == "OK" and answer["lease"]["id"], output):
        return
    got = fetch("/worker/query-1/x?y=1")
    tally.check("the very next request, by path", got == (200, "worker saw /x?y=1"), got)
    got = fetch("/anything", {"envoy-prefix": "query-1"})
    tally.check("the very next request, by header", got == (200, "worker saw /anything"), got)
    tally.check("an empty header selects nothing", fetch("/anything", {"envoy-prefix": ""})[0] == 404)
    urls = [entry["url"] for entry in answer.get("publicUrls", [])]
    tally.check("the answer has the public URL", any(url.endswith("/worker/query-1/") for url in urls), urls)

    stolen = registration | {"worker_id": "thief", "addresses": [{"host": "192.0.2.1", "port": 80}]}
    status, output, _ = other.call("Register", stolen)
    tally.check("a route that is held: AlreadyExists, with the holder", status == "AlreadyExists" and "query-1" in output, output)
    status, output, _ = other.call("Deregister", {"worker_id": "query-1"})
    tally.check("what another owns: PermissionDenied", status == "PermissionDenied", output)

    status, output, answer = owner.call("Renew", {"worker_ids": ["query-1", "nobody"]})
    renewals = answer["renewals"] if answer else []
    tally.check("Renew", len(renewals) == 2 and "lease" in renewals[0] and renewals[1]["refusal"]["code"] == 5, output)
    status, output, answer = owner.call("List", {})
    tally.check("List", status == "OK" and [r["worker"]["workerId"] for r in answer["registrations"]] == ["query-1"], output)

    status, output, answer = owner.call("Drain", {"worker_id": "query-1"})
    tally.check("Drain", status == "OK" and answer["registration"]["state"] == "STATE_DRAINING", output)
    tally.check("a draining worker gets nothing: 503", fetch("/worker/query-1/x")[0] == 503)
    owner.call("Register", registration)
    tally.check("Register makes it active again", fetch("/worker/query-1/x")[0] == 200)
    status, output, _ = owner.call("Deregister", {"worker_id": "query-1"})
    tally.check("Deregister", status == "OK", output)
    tally.check("after: 404", fetch("/worker/query-1/x")[0] == 404)


def expiry(tally, owner, fetch, registration):
    """A lease that nobody renews."""
    status, output, answer = owner.call("Register", registration | {"lease_time": "1s"})
    tally.check("a lease of one second", status == "OK" and answer["lease"]["duration"] == "1s", output)
    state, end = None, time.monotonic() + 10
    while state != "STATE_EXPIRED" and time.monotonic() < end:
        time.sleep(0.2)
        _, output, answer = owner.call("Get", {"worker_id": "query-1"})
        state = answer and answer["registration"]["state"]
    tally.check("the lease ends", state == "STATE_EXPIRED", output)
    tally.check("requests get 503", fetch("/worker/query-1/x")[0] == 503)
