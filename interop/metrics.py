"""Prometheus reads our metrics: what its own tool says of names, types, labels and values."""

import http.client
import ssl
import subprocess

from harness import Certificates, Handler, Portreeve, Upstream, free_port

# What the tool would call otherwise: these names are Envoy's, and it says the same of Envoy.
ENVOYS = ("no help text", 'counter metrics should have "_total" suffix', "should not contain abbreviated units",
          'should not have "_count" suffix', 'should not have "_total" suffix', "use base unit")


def run(portreeve, tally):
    certificates, admin = Certificates(), free_port()
    with Upstream(Page) as pages, Portreeve(portreeve, "metrics.yaml", pages=pages.server_port, pem=certificates.pem, admin=admin) as proxy:
        context = ssl.create_default_context(cafile=certificates.authority)
        for path in ("/", "/missing"):
            get(http.client.HTTPSConnection("localhost", proxy.ports["public"], context=context), path)
        for query in ("", "?usedonly", "?histogram_buckets=summary"):
            metrics = get(http.client.HTTPConnection("127.0.0.1", admin), f"/stats/prometheus{query}")
            tool = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, timeout=60)
            said = (tool.stdout + tool.stderr).decode().splitlines()
            complaints = [line for line in said if not any(known in line for known in ENVOYS)]
            tally.check(f"promtool reads /stats/prometheus{query}", not complaints and b"envoy_vhost_vcluster_upstream_rq{" in metrics, complaints[:5])


def get(connection, path):
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body


class Page(Handler):
    """The front page, and nothing else."""

    def do_GET(self):
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
