"""`portreeve demo`: every line that it prints, run as it stands, and what the demo itself logs of it."""

import os
import signal
import subprocess
import tempfile

from harness import CACHE, Process, free_port

# What is tried, in the order of the printed lines; all that each is to print; and what the demo is to log.
LINES = [
    ("curl, HTTP/1.1", ['worker "sample" says hello: GET /hello HTTP/1.1'], r" HTTP/1.1 GET /worker/sample/hello 200 - "),
    ("curl, HTTP/2", ['worker "sample" says hello: GET /hello HTTP/2.0'], r" HTTP/2 GET /worker/sample/hello 200 - "),
    ("the page for browsers", ["<html", "new WebSocket("], r" GET /worker/sample/ 200 - "),
    ("WebSocket", [" 101 Switching Protocols", "M-^A^Ehello"], r" GET /worker/sample/echo 101 - "),
    ("grpcurl, one call", ['"text": "hello"', '"worker": "sample"'], r" POST /portreeve.demo.v1.Echo/Say 200 - "),
    ("grpcurl, a conversation", ['"text": "one"', '"text": "two"', '"number": "2"'], r" POST /portreeve.demo.v1.Echo/Chat 200 - "),
    ("one call by path", ["^Ehello^R^Fsample", "grpc-status: 0"], r" POST /worker/sample/portreeve.demo.v1.Echo/Say 200 - "),
    ("a conversation by path", ["^Cone^R^Fsample^X^A", "^Ctwo^R^Fsample^X^B", "grpc-status: 0"],
     r" POST /worker/sample/portreeve.demo.v1.Echo/Chat 200 - "),
    ("a second worker is registered", ['"duration": "30s"', "/worker/second/"], r" POST /\S+/Register 200 - "),
    ("the very next request reaches it", ["HTTP/2 200", 'worker "second" says hello'], r" GET /worker/second/hello 200 - "),
    ("workers list", [" /worker/sample/ envoy-prefix:sample", " /worker/second/ envoy-prefix:second"], r" POST /\S+/List 200 - "),
    ("the admin interface", ["sample::added_via_api::true"], None),
]
# Those that are run again when the second worker's lease has ended.
REQUEST, LIST = 9, 10


def run(portreeve, tally):
    with tempfile.TemporaryDirectory(prefix="portreeve-interop-") as directory, Demo(portreeve, directory) as demo:
        known = len(demo.commands) == len(LINES)
        if not tally.check(f"the demo prints {len(LINES)} lines to try", known, demo.commands):
            return
        for command, (name, prints, logs) in zip(demo.commands, LINES):
            demo.check(tally, name, command, prints, logs)
        ports_in_use(tally, portreeve, demo)
        expiry(tally, demo)
        demo.child.send_signal(signal.SIGINT)
        tally.check("Ctrl-C ends the demo", demo.child.wait(10) == 0, demo.child.returncode)


class Demo(Process):
    """A demo on ports that were free, and what it says to try."""

    def __init__(self, binary, directory):
        self.port, self.admin_port, self.directory = free_port(), free_port(), directory
        super().__init__([binary, "demo", *self.options(self.port, self.admin_port)])
        lines = [line.strip() for line in self.until("Ctrl-C ends the demo", 20) if line.startswith("    ")]
        # An address is for a browser, which has been told about the authority.
        browser = f"curl --cacert {directory}/ca.pem "
        self.commands = [browser + line if line.startswith("https://") else line for line in lines]

    def options(self, port, admin_port):
        return ["--port", str(port), "--admin-port", str(admin_port), "--directory", self.directory]

    def check(self, tally, name, command, prints, logs):
        """Runs a line as a shell would, and compares what it prints and what the demo logs meanwhile."""
        try:
            result = execute("sh", "-c", command)
            output = result.stdout + result.stderr
            passed = result.returncode == 0 and all(text in output for text in prints)
            if passed and logs:
                self.until(logs, 5)
        except (subprocess.TimeoutExpired, RuntimeError) as error:
            passed, output = False, error
        tally.check(name, passed, f"{command}\n{output}")


def execute(*command):
    environment = os.environ | {"PATH": f"{CACHE.resolve()}/bin:{os.environ['PATH']}"}
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=30, env=environment
    )


def ports_in_use(tally, portreeve, demo):
    """A second demo on either port of the first."""
    for option, taken, options in [
        ("--port", demo.port, demo.options(demo.port, free_port())),
        ("--admin-port", demo.admin_port, demo.options(free_port(), demo.admin_port)),
    ]:
        result = execute(portreeve, "demo", *options)
        expected = (1, "", f"portreeve: port {taken} of 127.0.0.1 is in use; choose another with {option}\n")
        got = (result.returncode, result.stdout, result.stderr)
        tally.check(f"a port in use is said, with {option}, and ends with 1", got == expected, got)


def expiry(tally, demo):
    """Nobody renews the second worker."""
    demo.until(r"the lease has ended .*worker=second", 40)
    prints, logs = ["HTTP/2 503", "no healthy upstream"], r" GET /worker/second/hello 503 UH "
    demo.check(tally, "answered 503, flag UH, when its lease has ended", demo.commands[REQUEST], prints, logs)
    demo.check(tally, "workers list calls it expired", demo.commands[LIST], ["second  sample   demo   expired"], None)
