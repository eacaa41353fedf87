"""What the unit promises besides reloads: sockets of systemd, and logs."""

import json
import re
import time

from machine import eventually


def run(machine, tally):
    machine.install()
    machine.drop_in("", "--concurrency 2")
    machine.configure()
    machine.start()
    log_files(machine, tally)
    log_to_the_journal(machine, tally)
    log_entries(machine, tally)
    journal(machine, tally)
    socket_activation(machine, tally)


def log_files(machine, tally):
    """SIGUSR1, which logrotate sends, opens the access log anew."""
    machine.fetch("/marker")
    log = "/var/log/portreeve/access.log"
    written = eventually(lambda: "/marker" in machine.sh(f"cat {log}", check=False).stdout, 5)
    machine.sh(f"mv {log} {log}.1")
    machine.run("systemctl", "kill", "--kill-whom=main", "-s", "USR1", "portreeve")
    opened = eventually(lambda: machine.sh(f"test -e {log}", check=False).returncode == 0, 5)
    machine.fetch("/marker?again")
    again = eventually(lambda: "/marker?again" in machine.sh(f"cat {log}", check=False).stdout, 5)
    tally.check("SIGUSR1 opens the access log anew", written and opened and again, (written, opened, again))


def log_to_the_journal(machine, tally):
    """The standard output is a socket under systemd, which cannot be opened by its name (envoyproxy/envoy#8297)."""
    machine.configure(replace={"path: /var/log/portreeve/access.log": "path: /dev/stdout"})
    machine.start()
    machine.fetch("/marker?journal")
    tally.check("/dev/stdout as access log goes to the journal", eventually(lambda: "/marker?journal" in machine.journal(), 5), machine.journal("-n", "5"))
    machine.reload()
    machine.fetch("/marker?reloaded")
    tally.check("after a reload too", eventually(lambda: "/marker?reloaded" in machine.journal(), 5), machine.journal("-n", "5"))


def log_entries(machine, tally):
    """The journal as an access log of its own: each fact is a field."""
    machine.configure(replace={
        "envoy.extensions.access_loggers.file.v3.FileAccessLog": "portreeve.access_log.v1.JournalAccessLog",
        "path: /var/log/portreeve/access.log": 'fields: { MARKER_QUERY: "%QUERY_PARAM(q)%" }',
    })
    machine.start()
    machine.fetch("/marker?q=entry")

    def entries():
        found = machine.run("journalctl", "PORTREEVE_PATH=/marker?q=entry", "-o", "json", "--no-pager", check=False).stdout
        return [json.loads(line) for line in found.splitlines()]

    eventually(entries, 10)
    entry = entries()[-1] if entries() else {}
    wanted = {
        "MESSAGE": "GET /marker?q=entry HTTP/1.1 200 -",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "portreeve",
        "PORTREEVE_STATUS": "200",
        "PORTREEVE_DETAILS": "direct_response",
        "PORTREEVE_AUTHORITY": "localhost",
        "MARKER_QUERY": "entry",
        "_SYSTEMD_UNIT": "portreeve.service",
    }
    tally.check("an entry of the journal has the facts of a request as fields", entry.items() >= wanted.items(), entry)


def journal(machine, tally):
    """What is logged of the process's life can be found by field."""
    fields = machine.run("journalctl", "-u", "portreeve", "-o", "verbose", "--no-pager", "-n", "400").stdout
    messages = re.findall(r"MESSAGE_ID=(\w+)", fields)
    priorities = set(re.findall(r"PRIORITY=(\d)", fields))
    tally.check("events of the process's life have a MESSAGE_ID, and lines a priority", messages and "6" in priorities, (messages[:3], priorities))


def socket_activation(machine, tally):
    """portreeve.socket: the first connection starts the service."""
    machine.drop_in("", "--concurrency 2")
    machine.configure(marker="activated")
    machine.run("systemctl", "stop", "portreeve")
    if not machine.sh("test -e /usr/lib/systemd/system/portreeve.socket", check=False).returncode == 0:
        machine.sh("cp /opt/built/portreeve.socket /usr/lib/systemd/system/; systemctl daemon-reload")
    machine.run("systemctl", "start", "portreeve.socket")
    before = machine.show("ActiveState")
    answer = machine.fetch("/marker", timeout=20)
    tally.check("portreeve.socket: the first connection starts the service, and is answered",
                before == "inactive" and answer == (200, "activated"), (before, answer))
    result = machine.reload(check=False)
    answers = {machine.fetch("/marker") for _ in range(20)}
    tally.check("a reload keeps the sockets of systemd", result.returncode == 0 and answers == {(200, "activated")}, (result.stderr, answers))
    machine.run("systemctl", "stop", "portreeve.socket", "portreeve", check=False)
    time.sleep(0.5)
    tally.check("stopped, nothing listens", not machine.sh("ss -Hltn 'sport = :443'").stdout)
