"""What breaks: the process, the new process in the middle of a hand-off, a full disk, no descriptors left."""

import contextlib
import ctypes
import http.client
import os
import random
import socket
import subprocess
import threading
import time

from machine import RIG, Load, eventually, reasons, untouched
from reload import marker

OPTIONS = "--concurrency 2 --drain-time-s 60"


def run(machine, tally):
    machine.install()
    machine.drop_in("", OPTIONS)
    machine.configure()
    machine.trust()
    machine.start()
    # Here too, for what it waits for is another systemd's work than in the suite of reloads.
    marker(machine, tally)
    machine.configure()
    machine.reload()
    killed(machine, tally)
    hung(machine, tally)
    thread_hung(machine, tally)
    killed_while_warming(machine, tally)
    killed_at_any_moment(machine, tally)
    full_disk(machine, tally)
    no_descriptors(machine, tally)
    ordinary_stop(machine, tally)


def killed(machine, tally):
    """kill -9 under load: clients wait."""
    with Load(machine) as load:
        before = int(machine.show("NRestarts"))
        for _ in range(3):
            machine.kill([machine.serving_pid()])
            answers = [attempt(lambda: machine.fetch("/x")[0]) for _ in range(20)]
            tally.check("kill -9: connections made right after it wait and are answered", answers == [200] * 20, answers)
            time.sleep(1)
        report = load.finish()
    restarts = int(machine.show("NRestarts")) - before
    tally.check("systemd restarts it each time", restarts == 3, restarts)
    # Each client may lose the one connection that the process was serving.
    lost = {name: kind["failures"] for name, kind in report["kinds"].items()}
    limit = {"http1_keepalive": 6, "http1_new": 2, "http1_slow": 2, "http2": 40, "grpc": 3, "websocket": 3, "resumption_tls12": 1, "resumption_tls13": 1}
    more = {name: count for name, count in lost.items() if count > 3 * limit[name]}
    refused = [reason for kind in report["kinds"].values() for reason in kind["reasons"] if "refused" in reason or "503" in reason]
    tally.check("only what was being served is lost, nobody is refused", not more and not refused and not report["unfinished"], f"{more} {refused} {reasons(report)}")
    # Which shows as well that the load notices.
    tally.check("streams are lost with the process that served them", min(lost["grpc"], lost["websocket"]) >= 3, lost)


def attempt(action):
    """What it answers, or how it fails."""
    try:
        return action()
    except Exception as error:
        return repr(error)


def hung(machine, tally):
    """SIGSTOP: the watchdog notices."""
    machine.drop_in("WatchdogSec=3s", OPTIONS)
    machine.start()
    before, restarts = machine.serving_pid(), int(machine.show("NRestarts"))
    machine.sh(f"kill -STOP {before}")
    answer = attempt(lambda: machine.fetch("/x", timeout=20))
    now = machine.main_pid()
    tally.check("SIGSTOP: the watchdog replaces the process, a client waits and is answered",
                now not in (before, 0) and int(machine.show("NRestarts")) == restarts + 1 and answer in [(503, answer[1]), (200, answer[1])], (before, now, answer))
    journal = machine.run("journalctl", "-u", "portreeve", "-n", "30", "-o", "cat", "--no-pager").stdout
    tally.check("the journal says so", "atchdog" in journal, journal)
    machine.drop_in("", OPTIONS)
    machine.start()


def thread_hung(machine, tally):
    """One worker does not go on, all others do."""
    machine.drop_in("WatchdogSec=3s", OPTIONS)
    machine.start()
    before, cursor = machine.serving_pid(), machine.cursor()
    hold(machine.thread(before, "worker-1"))
    eventually(lambda: machine.main_pid() not in (before, 0), 30)
    journal = machine.journal("--after-cursor", cursor)
    tally.check("a hung worker thread: the watchdog replaces the process", machine.serving_pid() != before, journal)
    tally.check("the journal says which thread does not answer", "the worker does not answer" in journal, journal)
    tally.check("the next process serves", machine.fetch("/x")[0] in (200, 503))
    machine.drop_in("", OPTIONS)
    machine.start()


def hold(thread):
    """Stops one thread as a debugger does, for as long as it lives."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
        if ptrace(request, thread, None, None):
            raise OSError(ctypes.get_errno(), "ptrace")
    # A process is not gone before whoever holds one of its threads has seen that one end.
    threading.Thread(target=see_end, args=(thread,), daemon=True).start()


def see_end(thread):
    every_kind = 0x4000_0000  # __WALL
    while os.WIFSTOPPED(os.waitpid(thread, every_kind)[1]):
        pass


@contextlib.contextmanager
def silent_resolver(machine):
    """A name server that does not answer: a cluster that asks it takes long to warm."""
    with machine.network():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 53))
    machine.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    with server:
        yield
    machine.write("/etc/resolv.conf", "")


WAITING = """
  - name: slow
    type: STRICT_DNS
    connect_timeout: 1s
    load_assignment:
      cluster_name: slow
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: nobody.example, port_value: 80 } } }
  - name: echo"""


def killed_while_warming(machine, tally):
    """The new process dies before it is ready."""
    with Load(machine) as load, silent_resolver(machine):
        machine.configure(replace={"\n  - name: echo": WAITING})
        before, wrong = machine.main_pid(), []
        for number in range(12):
            old = set(machine.processes())
            reload = in_background(machine)
            if not eventually(lambda: set(machine.processes()) - old, 10):
                wrong.append((number, "no new process"))
                break
            time.sleep(random.uniform(0, 1))
            new = set(machine.processes()) - old
            machine.kill(new)
            began = time.monotonic()
            output, _ = reload.communicate(timeout=60)
            took = time.monotonic() - began
            if reload.returncode == 0 or machine.main_pid() != before or took > 5:
                wrong.append((number, reload.returncode, machine.main_pid(), before, f"{took:.1f} s", output))
        status = machine.show("StatusText")
        machine.configure()
        machine.reload()
        report = load.finish()
    tally.check("the new process is killed while it warms, 12 times: each reload fails at once, the old one serves on", not wrong, wrong[:3])
    tally.check("the status line says why", "reload failed" in status, status)
    tally.check("then a reload succeeds", machine.main_pid() != before)
    tally.check("traffic is untouched by that", untouched(report), reasons(report))


def in_background(machine):
    return subprocess.Popen(
        [RIG, "in", "portreeve", "reload", "--wait"], env=machine.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def killed_at_any_moment(machine, tally):
    """In any step of the hand-off, before and after the commit: the service stays, and nobody is refused."""
    refusals, over = [], threading.Event()

    def knock():
        while not over.is_set():
            answer = attempt(lambda: machine.fetch("/marker", timeout=30))
            # A connection that the killed process had taken may be cut; none may be refused.
            if "refused" in str(answer):
                refusals.append(answer)

    clients = [threading.Thread(target=knock) for _ in range(2)]
    [client.start() for client in clients]
    began = time.monotonic()
    machine.reload()
    usual = time.monotonic() - began
    outcomes = {"before": 0, "after": 0, "missed": 0}
    wrong = []
    for number in range(25):
        before, old = machine.main_pid(), set(machine.processes())
        reload = in_background(machine)
        time.sleep(random.uniform(0.0, 0.8) * usual)
        new = set(machine.processes()) - old
        machine.kill(new)
        output, _ = reload.communicate(timeout=60)
        outcomes["missed" if not new else "after" if reload.returncode == 0 else "before"] += 1
        if not eventually(lambda: machine.show("ActiveState", "SubState") == ("active", "running") and machine.main_pid() != 0, 10):
            wrong.append((number, machine.show("ActiveState", "SubState", "MainPID"), output))
        elif attempt(lambda: machine.fetch("/marker", timeout=15)) != (200, "first"):
            wrong.append((number, "no answer", output))
        elif reload.returncode and machine.main_pid() != before and new and "ended" not in output:
            wrong.append((number, "another main process after a reload that failed", output))
    over.set()
    [client.join(40) for client in clients]
    tally.check(f"the new process is killed at any moment, 25 times {outcomes}: the service answers after each", not wrong, wrong[:3])
    tally.check("nobody is refused meanwhile", not refusals, refusals[:3])


def full_disk(machine, tally):
    """State and logs cannot be written."""
    full = "mount -t tmpfs -o size=64k,mode=755 full {0} && chown portreeve: {0} && (cat /dev/zero >{0}/filler || true) 2>/dev/null"
    machine.run("systemctl", "stop", "portreeve")
    for path in ["/var/lib/portreeve", "/var/log/portreeve"]:
        machine.sh(full.format(path))
    machine.start()
    with Load(machine) as load:
        before = machine.main_pid()
        result = machine.reload(check=False)
        registered = machine.workers("register", "x", "--service", "query", "--to", "127.0.0.1:9001", "--path", "/worker/x", check=False)
        report = load.finish()
    tally.check("disks for state and logs are full: it starts, reloads and serves", result.returncode == 0 and machine.main_pid() != before and untouched(report), result.stderr + reasons(report))
    tally.check("a registration is either taken or refused with its reason", registered.returncode == 0 or registered.stderr, registered)
    machine.run("systemctl", "stop", "portreeve")
    machine.sh("umount /var/lib/portreeve /var/log/portreeve")
    machine.start()


def no_descriptors(machine, tally):
    """More connections than descriptors."""
    machine.drop_in("LimitNOFILE=150", OPTIONS)
    machine.start()
    before = machine.main_pid()
    with machine.network():
        crowd = [socket.create_connection(("127.0.0.1", 443), timeout=5) for _ in range(400)]
    time.sleep(4)
    alive = machine.main_pid() == before and int(machine.show("NRestarts")) == 0
    ticks = lambda: sum(map(int, machine.sh(f"cat /proc/{before}/stat").stdout.rsplit(")", 1)[1].split()[11:13]))
    used = ticks()
    time.sleep(1)
    used = ticks() - used
    [connection.close() for connection in crowd]
    answered = eventually(lambda: attempt(lambda: machine.fetch("/marker", timeout=5)) == (200, "first"), 15)
    tally.check("400 connections, 150 descriptors: the process stays, and does not spin", alive and used < 50, f"alive: {alive}, {used} of 100 ticks")
    tally.check("it answers when they have gone", answered and machine.main_pid() == before, machine.journal("-n", "20"))
    result = machine.reload(check=False)
    tally.check("it reloads then", result.returncode == 0, result.stderr)


def ordinary_stop(machine, tally):
    """SIGTERM drains within TimeoutStopSec."""
    # For its upstream.
    with Load(machine, "--kinds", "http1_new") as load:
        with machine.network():
            connection = http.client.HTTPSConnection("localhost", 443, timeout=30, context=machine.context)
            connection.connect()
        connection.putrequest("POST", "/echo")
        connection.putheader("content-length", "20")
        connection.endheaders()
        connection.send(b"x")
        began = time.monotonic()
        stop = threading.Thread(target=machine.run, args=("systemctl", "stop", "portreeve"))
        stop.start()
        for _ in range(19):
            time.sleep(0.1)
            connection.send(b"x")
        answer = attempt(lambda: connection.getresponse().read())
        stop.join()
        took = time.monotonic() - began
        load.finish()
    result = machine.show("Result", "ActiveState")
    tally.check("systemctl stop lets requests finish", answer == b"x" * 20 and took < 30 and result == ("success", "inactive"), (answer, f"{took:.1f} s", result))
