"""A Deephaven server on loopback: server.py PORT DIRECTORY. Prints READY; ends with SIGTERM."""

import signal
import sys
import threading

from deephaven_server import Server

port, directory = int(sys.argv[1]), sys.argv[2]
options = ["-Xmx2g", "-DAuthHandlers=io.deephaven.auth.AnonymousAuthenticationHandler"]
options += [f"-Ddeephaven.{name}Dir={directory}" for name in ("config", "cache", "data")]
stop = threading.Event()
server = Server(host="127.0.0.1", port=port, jvm_args=options)
server.start()
signal.signal(signal.SIGTERM, signal.SIG_DFL)
print(f"READY on {server.port}", flush=True)
stop.wait()
