"""Reloads under load: nobody notices a good one, nothing comes of a bad one."""

import re
import threading
import time

from machine import CONFIGURATION, Load, eventually, reasons, untouched

RELOADS = 50
# Connections are asked to go over half of the drain time. Streams that are open for all reloads need the whole of them.
OPTIONS = "--concurrency 2 --drain-time-s 3600"


def run(machine, tally):
    machine.install()
    machine.drop_in("", OPTIONS)
    machine.configure()
    machine.trust()
    machine.start()
    marker(machine, tally)
    in_a_row(machine, tally)
    short_drain(machine, tally)
    machine.drop_in("", OPTIONS)
    machine.start()
    other_listeners(machine, tally)
    bad_configurations(machine, tally)
    bad_binaries(machine, tally)
    hang_up(machine, tally)


def marker(machine, tally):
    """`systemctl reload` returns only when the new process serves."""
    late = []
    for number in range(20):
        machine.configure(marker=f"marker {number}")
        machine.reload()
        answer = machine.fetch("/marker")
        if answer != (200, f"marker {number}"):
            late.append((number, answer))
    tally.check("the first request after `systemctl reload` sees the new configuration, 20 times", not late, late)


def in_a_row(machine, tally):
    """50 reloads under load of every kind."""
    machine.configure()
    machine.start()
    first = machine.main_pid()
    ids = ["short", "long"]
    machine.workers("register", "short", "--service", "query", "--to", "127.0.0.1:9001", "--path", "/worker/short", "--lease", "15s")
    machine.workers("register", "long", "--service", "query", "--to", "127.0.0.1:9001", "--path", "/worker/long", "--lease", "1h")
    with Load(machine) as load, Watch(machine) as watch, Renewal(machine, "short", "15s") as renewal:
        # What the first process of all costs is no measure: the later ones have taken over.
        machine.reload()
        size, files = memory(machine)
        began = time.monotonic()
        for _ in range(RELOADS - 1):
            machine.reload()
        took = time.monotonic() - began
        later_size, later_files = memory(machine)
        generations = len(machine.processes())
        shown = machine.run("portreeve", "status").stdout.count("draining")
        registered = [name for name in ids if name not in machine.workers("list").stdout]
        statuses = [machine.fetch(f"/worker/{name}/x")[0] for name in ids]
        report = load.finish()
    tally.check(f"{RELOADS} reloads under load ({took:.0f} s, {report['requests']} requests): none fails", untouched(report), reasons(report))
    connections = {name: kind["connections"] for name, kind in report["kinds"].items()}
    tally.check("streams and WebSockets stay open over all of them", connections["grpc"] == connections["websocket"] == 3, connections)
    for version in ["resumption_tls12", "resumption_tls13"]:
        kind = report["kinds"][version]
        # One to begin with. Each generation may need another only if it does not know the keys of the one before.
        tally.check(f"sessions are resumed across reloads ({version[-5:]})", kind["full_handshakes"] <= 1, kind)
    tally.check("no registration is lost", not registered and statuses == [200, 200] and not renewal.failures,
                f"not listed: {registered}; answers {statuses}; renewals {renewal.failures[:3]}")
    tally.check(f"counters never go back ({watch.scrapes} scrapes)", not watch.backward and watch.scrapes > 20 and len(watch.last) > 20, (watch.backward[:5], len(watch.last)))
    tally.check("portreeve status shows those that drain", shown in (generations - 1, generations - 2), f"{shown} of {generations - 1}")
    tally.check("the admin interface is never away", not watch.failures, watch.failures[:3])
    gone = eventually(lambda: len(machine.processes()) == 1, 30)
    tally.check(f"old processes end with their last connection (there were {generations})", gone, machine.run("portreeve", "status", check=False).stdout)
    tally.check("the main process is another", machine.main_pid() != first)
    tally.check("memory stays flat", later_size < size * 1.25 + 4096, f"{size} kB after the first reload, {later_size} kB after {RELOADS}")
    tally.check("descriptors stay flat", later_files < files + 60, f"{files} after the first reload, {later_files} after {RELOADS}")
    counters = machine.statistics()
    counted = sum(value for name, value in counters.items() if name.startswith("envoy_http_downstream_rq_total{") and "public" in name)
    exchanges = sum(report["kinds"][name]["requests"] for name in report["kinds"] if name not in ("grpc", "websocket"))
    tally.check("no request is missing in the counters, whichever process served it", counted >= exchanges, f"{counted} counted, {exchanges} made")


class Watch:
    """Scrapes the statistics all the time, and notes every counter that goes back."""

    def __init__(self, machine):
        self.machine, self.over = machine, threading.Event()
        self.scrapes, self.backward, self.failures, self.last = 0, [], [], {}
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        while not self.over.wait(0.1):
            try:
                counters = self.machine.statistics()
            except OSError as error:
                self.failures.append(repr(error))
                continue
            self.scrapes += 1
            for name, value in counters.items():
                # A series may be away until something counts by it again; it goes on from where it was.
                if value < self.last.get(name, 0):
                    self.backward.append(f"{name}: {self.last[name]:.0f}, then {value:.0f}")
            self.last |= counters

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(20)


class Renewal(Watch):
    """A worker that renews its registration every few seconds, by registering it again."""

    def __init__(self, machine, name, lease):
        super().__init__(machine)
        self.name, self.lease = name, lease

    def _watch(self):
        while not self.over.wait(4):
            result = self.machine.workers(
                "register", self.name, "--service", "query", "--to", "127.0.0.1:9001", "--path", f"/worker/{self.name}",
                "--lease", self.lease, check=False,
            )
            if result.returncode:
                self.failures.append(result.stderr)


def memory(machine):
    """What the main process alone needs, in kB, and how many descriptors it has."""
    pid = machine.main_pid()
    rollup = machine.sh(f"cat /proc/{pid}/smaps_rollup").stdout
    private = sum(int(kilobytes) for kilobytes in re.findall(r"^Private_\w+: +(\d+) kB", rollup, re.MULTILINE))
    return private, int(machine.sh(f"ls /proc/{pid}/fd | wc -l").stdout)


def short_drain(machine, tally):
    """The whole life of a drain, several at once: clients without endless streams are all moved over, without a failure."""
    machine.drop_in("", "--concurrency 2 --drain-time-s 6")
    machine.start()
    with Load(machine, "--kinds", "http1_keepalive,http1_new,http1_slow,http2,resumption_tls12,resumption_tls13") as load:
        for _ in range(4):
            machine.reload()
            time.sleep(2)
        gone = eventually(lambda: len(machine.processes()) == 1, 15)
        report = load.finish()
    moved = {name: kind["connections"] for name, kind in report["kinds"].items()}
    tally.check("a short drain time: all clients are moved over, none fails", untouched(report), reasons(report))
    tally.check("after the drain time the old processes are gone", gone, machine.processes())
    tally.check("clients were told to go", moved["http1_keepalive"] > 6 and moved["http2"] > 2, moved)


def other_listeners(machine, tally):
    """Listeners that are added, removed, moved."""
    added = """
  - name: more
    address: { socket_address: { address: 127.0.0.1, port_value: @PORT@ } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: more
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [ { match: { prefix: / }, direct_response: { status: 204 } } ]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:"""
    open_ports = lambda: set(re.findall(r":(808\d)\s", machine.run("ss", "-Hltn").stdout))
    with Load(machine) as load:
        machine.configure(replace={"\n  clusters:": added.replace("@PORT@", "8081")})
        machine.reload()
        tally.check("a reload adds a listener", open_ports() == {"8081"}, open_ports())
        machine.configure(replace={"\n  clusters:": added.replace("@PORT@", "8082")})
        machine.reload()
        tally.check("a reload moves a listener", open_ports() == {"8082"}, open_ports())
        machine.configure()
        machine.reload()
        tally.check("a reload removes a listener", open_ports() == set(), open_ports())
        report = load.finish()
    tally.check("the other listener's traffic is untouched", untouched(report), reasons(report))


# What is wrong, the change that makes it so, and what of the reason must be said; `LINE` stands for the changed line's number.
BAD = [
    ("a tab in the YAML", {"  - name: public\n": "\t- name: public\n"}, "envoy3.yaml:LINE"),
    ("an unknown field", {"stat_prefix: public": "stat_prefixx: public"}, "envoy3.yaml:LINE"),
    ("an unknown filter", {"filters.http.router.v3.Router": "filters.http.rooter.v3.Router"}, "envoy3.yaml:LINE"),
    ("a value that is refused", {"port_value: 443": "port_value: 70000"}, "envoy3.yaml:LINE"),
    ("a certificate that is missing", {"filename: /etc/portreeve/test.pem": "filename: /etc/portreeve/none.pem"}, "envoy3.yaml:LINE"),
    ("a key that does not fit", {"private_key: { filename: /etc/portreeve/test.pem": "private_key: { filename: /etc/portreeve/other.pem"}, "envoy3.yaml:LINE"),
    ("a cluster that does not exist", {"route: { cluster: echo": "route: { cluster: nowhere"}, "nowhere"),
    ("a port of somebody else", {"port_value: 443": "port_value: 9001"}, "9001"),
    ("a port of the admin interface of somebody else", {"port_value: 8001": "port_value: 9002"}, "9002"),
]


def bad_configurations(machine, tally):
    machine.write("/etc/portreeve/other.pem", machine.other_key())
    machine.sh("chgrp portreeve /etc/portreeve/other.pem; chmod 640 /etc/portreeve/other.pem")
    with Load(machine) as load:
        before = machine.main_pid()
        for name, change, reason in BAD:
            text = machine.configure(replace=change)
            (new,) = change.values()
            line = 1 + text[: text.index(new)].count("\n")
            refused(machine, tally, name, before, reason.replace("LINE", str(line)))
        machine.sh(f"rm {CONFIGURATION}")
        refused(machine, tally, "a file that is missing", before, "envoy3.yaml")
        machine.configure(replace={"port_value: 443": "port_value: 70000"})
        cursor = machine.cursor()
        machine.run("systemctl", "kill", "--kill-whom=main", "-s", "HUP", "portreeve")
        said = eventually(lambda: "envoy3.yaml:" in machine.show("StatusText"), 20)
        journal = machine.journal("--after-cursor", cursor)
        tally.check("SIGHUP with a bad file: the reason is in the status line and in the journal",
                    said and "envoy3.yaml:" in journal and machine.main_pid() == before, machine.show("StatusText") + journal)
        machine.configure(marker="after")
        machine.reload()
        tally.check("a good reload follows upon bad ones", machine.fetch("/marker") == (200, "after") and machine.main_pid() != before)
        report = load.finish()
    tally.check("traffic is untouched by bad configurations", untouched(report), reasons(report))


def refused(machine, tally, name, main_pid, reason):
    """A reload that must fail and say why: on the terminal, in the status line and in the journal."""
    cursor = machine.cursor()
    by_systemd = machine.reload(check=False)
    journal = machine.journal("--after-cursor", cursor)
    by_hand = machine.run("portreeve", "reload", "--wait", check=False)
    status, now = machine.show("StatusText", "MainPID")
    missing = [
        what
        for what, fine in {
            "systemctl reload fails": by_systemd.returncode != 0,
            "portreeve reload fails": by_hand.returncode == 1,
            "the reason on the terminal": reason in by_hand.stderr,
            "the reason in the journal": reason in journal,
            "the status line": "reload failed" in status and reason in status,
            "the same main process": int(now) == main_pid,
        }.items()
        if not fine
    ]
    tally.check(f"{name}: the reload fails, the old process serves on", not missing,
                f"not so: {', '.join(missing)}; expected {reason!r}\nstatus: {status}\nterminal: {by_hand.stderr}\njournal: {journal}")


def bad_binaries(machine, tally):
    """An upgrade whose binary does not start."""
    machine.configure()
    with Load(machine) as load:
        before = machine.main_pid()
        for name, script in [
            ("a new binary that ends at once", "printf '#!/bin/sh\\nexit 3\\n' >/usr/bin/portreeve.new; chmod 755 /usr/bin/portreeve.new"),
            ("a new binary that crashes", "printf '#!/bin/sh\\nkill -SEGV $$\\n' >/usr/bin/portreeve.new; chmod 755 /usr/bin/portreeve.new"),
            ("a new binary that cannot be executed", "printf '' >/usr/bin/portreeve.new; chmod 644 /usr/bin/portreeve.new"),
        ]:
            machine.sh(f"cp -p /usr/bin/portreeve /root/kept; {script}; mv /usr/bin/portreeve.new /usr/bin/portreeve")
            result = machine.run("/root/kept", "reload", "--wait", "--control-path", "/run/portreeve/control.sock", check=False)
            machine.sh("mv /root/kept /usr/bin/portreeve")
            tally.check(f"{name}: the reload fails, the old process serves on",
                        result.returncode == 1 and machine.main_pid() == before and "the running process serves on" in result.stderr, result.stderr)
        machine.reload()
        report = load.finish()
    tally.check("traffic is untouched by bad binaries", untouched(report), reasons(report))


def hang_up(machine, tally):
    """Who gives the reload up, or asks for two at once."""
    machine.configure(marker="hung up")
    with Load(machine) as load:
        before = machine.main_pid()
        machine.run("timeout", "-s", "INT", "0.05", "portreeve", "reload", "--wait", check=False)
        time.sleep(1)
        both = [threading.Thread(target=machine.reload, kwargs={"check": False}) for _ in range(2)]
        [thread.start() for thread in both]
        [thread.join() for thread in both]
        result = machine.reload(check=False)
        tally.check("after a reload that was given up, and two at once, the next one succeeds",
                    result.returncode == 0 and machine.main_pid() != before and machine.fetch("/marker") == (200, "hung up"), result.stderr)
        report = load.finish()
    tally.check("traffic is untouched by that", untouched(report), reasons(report))
