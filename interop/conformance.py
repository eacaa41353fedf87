"""h2spec, the HTTP/2 conformance suite, against the TLS port."""

import http.server
import re
import subprocess
import threading

from harness import CACHE, Certificates, Portreeve


class Page(http.server.BaseHTTPRequestHandler):
    """An upstream that takes any request."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        self.rfile.read(length)
        body = b"x" * 1024
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_HEAD = do_OPTIONS = answer

    def log_message(self, *_):
        pass


def run(portreeve, tally):
    certificates = Certificates()
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    with Portreeve(portreeve, "conformance.yaml", pem=certificates.pem, upstream=upstream.server_port) as proxy:
        command = [CACHE / "bin/h2spec", "--tls", "--insecure", "--host", "127.0.0.1", "--port", str(proxy.ports["main"])]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        counts = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", result.stdout)
        if not counts:
            tally.check("h2spec runs", False, result.stdout[-2000:] + result.stderr[-2000:])
            return
        tests, passed, skipped, failed = map(int, counts.groups())
        details = "\n".join(line for line in result.stdout.split("Failures:")[-1].splitlines() if line.strip())
        tally.check(f"h2spec: {passed} of {tests} cases pass, {skipped} skipped", failed == 0 and passed > 100, details)
        tally.check("Portreeve survives h2spec", proxy.child.poll() is None, "".join(proxy.recent))
    upstream.shutdown()
