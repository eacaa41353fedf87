"""A container without a service manager, as far as a root folder and namespaces make one: the process is the first of its own."""

import contextlib
import http.client

from machine import eventually

ROOT = "/srv/container"

CONFIGURATION = """
admin: { address: { socket_address: { address: 0.0.0.0, port_value: 8001 } } }
static_resources:
  listeners:
  - name: main
    address: { socket_address: { address: 0.0.0.0, port_value: 8000 } }
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates:
            - { certificate_chain: { filename: /lighttpd.pem }, private_key: { filename: /lighttpd.pem } }
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          access_log:
          - name: stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: /dev/stdout
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: / }
                direct_response: { status: 200, body: { inline_string: "@MARKER@" } }
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"""

# The user of the image (packaging/Containerfile); the shell around it says how it ended.
START = f"""
mkdir -p {ROOT}/usr/bin {ROOT}/proc {ROOT}/dev {ROOT}/tmp
for file in $(ldd /usr/bin/portreeve | grep -o '/[^ ]*'); do
  mkdir -p {ROOT}$(dirname $file) && cp -L $file {ROOT}$file
done
cp /usr/bin/portreeve {ROOT}/usr/bin/
chmod 1777 {ROOT}/tmp
chown 101:101 {ROOT}/lighttpd.pem
mount --rbind /dev {ROOT}/dev
setsid sh -c 'unshare --pid --fork --mount --root={ROOT} --mount-proc --setuid=101 --setgid=101 \
  /usr/bin/portreeve run -c /config.yaml --drain-time-s 2 >/tmp/container.log 2>&1; echo $? >/tmp/container.status' </dev/null >/dev/null 2>&1 &
"""


def run(machine, tally):
    machine.install()
    machine.run("systemctl", "stop", "portreeve", check=False)
    machine.write(f"{ROOT}/lighttpd.pem", machine.certificates.pem.read_text())
    configure(machine, "first")
    machine.sh(START)
    eventually(lambda: answer(machine) == "first", 20)
    tally.check("in a container it serves /config.yaml with /lighttpd.pem", answer(machine) == "first")
    eventually(lambda: '"GET / HTTP/1.1" 200' in log(machine), 10)
    tally.check("its access log is the container's output", '"GET / HTTP/1.1" 200' in log(machine), log(machine))

    first, supervised = pids(machine)
    configure(machine, "second")
    machine.sh(f"kill -HUP {first}")
    eventually(lambda: answer(machine) == "second", 20)
    tally.check("SIGHUP to its first process reloads", answer(machine) == "second")
    eventually(lambda: supervised not in pids(machine), 20)
    tally.check("the first process stays, the one before ends", pids(machine)[0] == first and len(pids(machine)) == 2, pids(machine))

    configure(machine, "third").run("sh", "-c", f"sed -i s/direct_response/direct_respons/ {ROOT}/config.yaml")
    machine.sh(f"kill -HUP {first}")
    eventually(lambda: "did you mean" in log(machine), 20)
    tally.check("a bad configuration is told in the log, and changes nothing", answer(machine) == "second" and "/config.yaml:" in log(machine))

    configure(machine, "fourth")
    machine.kill([pids(machine)[1]])
    tally.check("kill -9 of the serving process: a connection waits for the next one", answer(machine) == "fourth")
    tally.check("the first process stays", pids(machine)[0] == first, pids(machine))

    machine.sh(f"kill -TERM {first}")
    eventually(lambda: machine.sh("cat /tmp/container.status", check=False).stdout, 20)
    status = machine.sh("cat /tmp/container.status").stdout.strip()
    tally.check("SIGTERM ends it with status 0", status == "0" and not pids(machine), f"{status} {pids(machine)}")


def configure(machine, marker):
    machine.write(f"{ROOT}/config.yaml", CONFIGURATION.replace("@MARKER@", marker))
    return machine


def answer(machine):
    """What a new connection is answered; nothing while nobody listens."""
    with contextlib.suppress(ConnectionRefusedError), machine.network():
        connection = http.client.HTTPSConnection("localhost", 8000, timeout=10, context=machine.context)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"connection": "close"})
            return connection.getresponse().read().decode()
    return None


def log(machine):
    return machine.sh("cat /tmp/container.log").stdout


def pids(machine):
    """The container's processes as the machine numbers them, the first one first."""
    return [int(pid) for pid in machine.sh("pgrep -o -f '^/usr/bin/portreeve run -c /config.yaml'; "
        "pgrep -f '^/usr/bin/portreeve run -c /config.yaml' | tail -n +2", check=False).stdout.split()]
