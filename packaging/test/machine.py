"""A booted machine with Portreeve as its service, and the load on it."""

import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import ssl
import subprocess
import time

from harness import Certificates, Process

HERE = pathlib.Path(__file__).parent
RIG = HERE / "rig"
CONFIGURATION = "/etc/portreeve/envoy3.yaml"
TOKEN = "dispatcher-token-0123456789"
CLONE_NEWNET = 0x40000000


class Machine:
    """A fresh machine of a Debian release; it is gone with the `with` block. What the build made is in /opt/built."""

    def __init__(self, suite, built):
        self.suite, self.built = suite, built
        self.certificates = Certificates()
        self.context = ssl.create_default_context(cafile=self.certificates.authority)
        self.environment = os.environ | {
            "RIG_SUITE": suite,
            "RIG_NAME": f"portreeve-{suite}",
            "RIG_BIND": f"{built}:/opt/built",
        }

    def __enter__(self):
        # What a run left that was killed.
        self._rig("stop")
        self._rig("boot")
        started = HERE.parent.parent / f".cache/rig/run/portreeve-{self.suite}/pid"
        self.init = int(started.read_text())
        return self

    def __exit__(self, *_):
        self._rig("stop")

    def _rig(self, command):
        subprocess.run([RIG, command], env=self.environment, check=True, timeout=180)

    def run(self, *command, check=True, timeout=120, **options):
        """Runs a command inside; its output is text."""
        result = subprocess.run(
            [RIG, "in", *map(str, command)],
            # A group of its own: nothing that is signalled inside reaches the tests.
            start_new_session=True,
            env=self.environment, capture_output=True, text=True, errors="replace", timeout=timeout, **options,
        )
        if check and result.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: status {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def sh(self, script, **options):
        return self.run("sh", "-c", script, **options)

    def write(self, path, text):
        self.run("sh", "-c", f"mkdir -p $(dirname {path}); cat >{path}", input=text)

    @contextlib.contextmanager
    def network(self):
        """This thread is in the machine's network; sockets that it makes meanwhile stay there."""
        with open("/proc/self/ns/net") as own, open(f"/proc/{self.init}/ns/net") as inner:
            set_namespace(inner)
            try:
                yield
            finally:
                set_namespace(own)

    def fetch(self, path, timeout=10):
        """The status and the body of a request on a new TLS connection."""
        with self.network():
            connection = http.client.HTTPSConnection("localhost", 443, timeout=timeout, context=self.context)
            with contextlib.closing(connection):
                connection.request("GET", path, headers={"connection": "close"})
                answer = connection.getresponse()
                return answer.status, answer.read().decode()

    def admin(self, path):
        with self.network():
            connection = http.client.HTTPConnection("127.0.0.1", 8001, timeout=10)
            with contextlib.closing(connection):
                connection.request("GET", path)
                return connection.getresponse().read().decode()

    def show(self, *properties):
        """Properties of the service, as systemd knows them."""
        lines = self.run("systemctl", "show", "-p", ",".join(properties), "portreeve").stdout.splitlines()
        values = dict(line.split("=", 1) for line in lines)
        return values[properties[0]] if len(properties) == 1 else tuple(values[name] for name in properties)

    def main_pid(self):
        """The process that serves; 0 while there is none."""
        return int(self.show("MainPID"))

    def serving_pid(self):
        """Waits until there is one."""
        eventually(lambda: self.show("ActiveState") == "active" and self.main_pid(), 30)
        return self.main_pid()

    def kill(self, pids):
        for pid in pids:
            assert pid > 1, pid
            self.run("sh", "-c", f"kill -9 {pid}", check=False)

    def thread(self, pid, name):
        """A thread of a process inside, by the number that it has outside."""
        inside = os.readlink(f"/proc/{self.init}/ns/pid")
        for task in pathlib.Path("/proc").glob("[0-9]*/task/*"):
            with contextlib.suppress(OSError):
                same = os.readlink(task / "ns/pid") == inside and (task / "comm").read_text().strip() == name
                group = [line.split() for line in (task / "status").read_text().splitlines() if line.startswith("NStgid:")]
                if same and int(group[0][-1]) == pid:
                    return int(task.name)
        raise LookupError(f"no thread {name} of process {pid}")

    def processes(self):
        """The ids of all processes of the service."""
        files = "/sys/fs/cgroup/system.slice/portreeve.service/cgroup.procs"
        return [int(pid) for pid in self.sh(f"cat {files}", check=False).stdout.split()]

    def journal(self, *options):
        return self.run("journalctl", "-u", "portreeve", "-o", "cat", "--no-pager", *options).stdout

    def cursor(self):
        """Where the journal ends now, for `journal("--after-cursor", …)`."""
        shown = self.run("journalctl", "-n", "0", "--show-cursor", "--no-pager").stdout
        return shown.split("-- cursor: ")[1].strip() if "-- cursor: " in shown else None

    def drop_in(self, text, options=""):
        """Settings of the service beside those of its unit, and options of the daemon; they take effect at a start."""
        self.write("/etc/systemd/system/portreeve.service.d/test.conf", f"[Service]\n{text}\n")
        self.write("/etc/default/portreeve", f"PORTREEVE_OPTIONS={options}\n")
        self.run("systemctl", "daemon-reload")

    def install(self):
        """The package, or, for `run --binary`, what it would do."""
        if packages := sorted(pathlib.Path(self.built).glob("*.deb")):
            return self.run("dpkg", "-i", f"/opt/built/{packages[0].name}")
        self.sh(
            "cp /opt/built/portreeve /usr/bin/ && cp /opt/built/portreeve.service /usr/lib/systemd/system/"
            " && cp /opt/built/portreeve.sysusers /usr/lib/sysusers.d/portreeve.conf && systemd-sysusers portreeve.conf"
            " && systemctl daemon-reload && systemctl enable -q portreeve"
        )

    def other_key(self):
        """A private key that fits no certificate."""
        command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def configure(self, **changes):
        """Writes config/ingress.yaml, with `@NAME@` replaced, and what it refers to."""
        text = (HERE / "config/ingress.yaml").read_text().replace("@MARKER@", changes.pop("marker", "first"))
        for old, new in changes.pop("replace", {}).items():
            assert old in text, old
            text = text.replace(old, new, 1)
        self.write(CONFIGURATION, text)
        self.write("/etc/portreeve/test.pem", self.certificates.pem.read_text())
        self.write("/etc/portreeve/test.token", TOKEN + "\n")
        self.sh("chgrp -R portreeve /etc/portreeve; chmod 640 /etc/portreeve/test.*")
        return text

    def start(self, seconds=30):
        """Starts the service anew, whatever it was."""
        self.run("systemctl", "reset-failed", "portreeve", check=False)
        self.run("systemctl", "restart", "portreeve", timeout=seconds + 90)

    def reload(self, check=True, timeout=120):
        return self.run("systemctl", "reload", "portreeve", check=check, timeout=timeout)

    def workers(self, *command, check=True):
        return self.run(
            "env", f"PORTREEVE_TOKEN={TOKEN}", "portreeve", "workers", "--address", "https://localhost:443",
            "--ca", "/etc/portreeve/test-ca.pem", *command, check=check,
        )

    def trust(self):
        """Lets commands inside verify the test's certificate."""
        self.write("/etc/portreeve/test-ca.pem", self.certificates.authority.read_text())

    def statistics(self):
        """/stats/prometheus: the counters by name and labels. Histograms begin anew in every process, as Envoy's do."""
        counters, kinds = {}, {}
        for line in self.admin("/stats/prometheus").splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                kinds[name] = kind
            elif line and not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                if kinds.get(series.split("{")[0]) == "counter":
                    counters[series] = float(value)
        return counters


class Load(Process):
    """Clients of every kind, until `finish`."""

    def __init__(self, machine, *options):
        command = [RIG, "net", f"{machine.built}/load", "--ca", machine.certificates.authority, *options]
        super().__init__(command, env=machine.environment)
        self.until("^ready$", 60)

    def finish(self):
        """Ends in order; what was seen."""
        self.child.terminate()
        return json.loads(self.until("^{", 90)[-1])


def reasons(report):
    """What failed, for the tally."""
    kinds = report["kinds"].items()
    failed = [f"{name}: {kind['failures']} of {kind['requests']}: {kind['reasons']}" for name, kind in kinds if kind["failures"]]
    return "; ".join(failed) or ("some clients did not end" if report["unfinished"] else "")


def untouched(report):
    """Whether not one request failed, and every kind was served."""
    return not report["failures"] and not report["unfinished"] and all(kind["requests"] for kind in report["kinds"].values())


def eventually(condition, seconds):
    """Whether the condition holds within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


def set_namespace(file):
    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
