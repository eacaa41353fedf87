"""h2spec, the HTTP/2 conformance suite, against the TLS port."""

import re
import subprocess

from harness import CACHE, Certificates, Handler, Portreeve, Upstream


class Page(Handler):
    """Takes any request."""

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        self.rfile.read(length)
        body = b"x" * 1024
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_HEAD = do_OPTIONS = answer


def run(portreeve, tally):
    certificates = Certificates()
    with Upstream(Page) as upstream, Portreeve(
        portreeve, "conformance.yaml", pem=certificates.pem, upstream=upstream.server_port
    ) as proxy:
        command = [CACHE / "bin/h2spec", "--tls", "--insecure", "--timeout", "10", "--host", "127.0.0.1", "--port", str(proxy.ports["main"])]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        counts = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", result.stdout)
        if not counts:
            tally.check("h2spec runs", False, result.stderr[-2000:] + result.stdout[-2000:])
            return
        tests, passed, skipped, failed = map(int, counts.groups())
        details = "\n".join(line for line in result.stdout.split("Failures:")[-1].splitlines() if line.strip())
        tally.check(f"h2spec: {passed} of {tests} cases pass, {skipped} skipped", failed == 0 and passed > 100, details)
        tally.check("Portreeve survives h2spec", proxy.child.poll() is None, "".join(proxy.recent))
