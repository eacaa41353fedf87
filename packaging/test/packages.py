"""The packages: install, upgrade under load, downgrade, remove, purge; deb on every machine, rpm where rpm is."""

import pathlib

from machine import CONFIGURATION, Load, eventually, reasons, untouched


def run(machine, tally):
    built = pathlib.Path(machine.built)
    (old_deb, new_deb), (old_rpm, new_rpm) = sorted(built.glob("*.deb")), sorted(built.glob("*.rpm"))
    deb(machine, tally, f"/opt/built/{old_deb.name}", f"/opt/built/{new_deb.name}")
    if machine.sh("command -v rpm", check=False).returncode == 0:
        rpm(machine, tally, f"/opt/built/{old_rpm.name}", f"/opt/built/{new_rpm.name}")


def deb(machine, tally, old, new):
    before = files(machine)
    result = machine.run("dpkg", "-i", old, check=False)
    tally.check("the deb installs", result.returncode == 0, result.stdout + result.stderr)
    installed(machine, tally)
    traffic(machine, tally, ["dpkg", "-i"], new, old)
    changed = machine.sh(f"cat {CONFIGURATION}").stdout
    machine.run("dpkg", "-r", "portreeve")
    removed(machine, tally, "remove")
    tally.check("remove keeps the configuration", machine.sh(f"cat {CONFIGURATION}", check=False).stdout == changed)
    machine.run("dpkg", "-P", "portreeve")
    left = sorted(files(machine) - before)
    tally.check("purge leaves nothing", not left, left)
    status = machine.run("systemctl", "is-enabled", "portreeve", check=False)
    tally.check("purge: systemd does not know the unit", "not-found" in status.stdout or "No such file" in status.stderr, status)


def rpm(machine, tally, old, new):
    # On a Debian system rpm's database knows nothing of what a package may require.
    result = machine.run("rpm", "-i", "--nodeps", old, check=False)
    tally.check("the rpm installs", result.returncode == 0, result.stderr)
    # As on Fedora, the preset enables it, and the administrator starts it.
    machine.run("systemctl", "start", "portreeve", check=False)
    installed(machine, tally)
    traffic(machine, tally, ["rpm", "-U", "--nodeps", "--oldpackage"], new, old)
    result = machine.run("rpm", "-e", "portreeve", check=False)
    tally.check("the rpm is erased", result.returncode == 0, result.stderr)
    removed(machine, tally, "erase")


def installed(machine, tally):
    """What there is after the installation, with the configuration that it brings."""
    enabled = machine.run("systemctl", "is-enabled", "portreeve", check=False).stdout.strip()
    active = machine.run("systemctl", "is-active", "portreeve", check=False).stdout.strip()
    tally.check("the service is enabled and active", (enabled, active) == ("enabled", "active"), (enabled, active, machine.journal()))
    own, machine.context = machine.context, unverified()
    try:
        status, body = machine.fetch("/")
    finally:
        machine.context = own
    tally.check("it answers over TLS", status == 200 and "Portreeve is running" in body, (status, body))
    user = machine.sh(f"ps -o user= -p {machine.main_pid()}").stdout.strip()
    tally.check("on port 443, without root", user == "portreeve", user)
    journal = machine.journal()
    missing = [line for line in ["configuration loaded", "listener started", "ready"] if line not in journal]
    tally.check("journalctl shows the start-up lines", not missing, f"{missing} not in\n{journal}")
    said = machine.run("systemd-analyze", "security", "--no-pager", "portreeve.service", check=False).stdout.strip().splitlines()
    exposure = next((float(word) for word in (said[-1].split() if said else []) if word.replace(".", "").isdigit()), 10.0)
    tally.check("systemd-analyze security is at most 1.5", exposure <= 1.5, said[-1:])


def traffic(machine, tally, install, new, old):
    """An upgrade and a way back under load."""
    machine.configure()
    machine.trust()
    machine.reload()
    configuration = machine.sh(f"cat {CONFIGURATION}").stdout
    with Load(machine) as load:
        for name, package in [("upgrade", new), ("downgrade", old)]:
            before = machine.main_pid()
            result = machine.run(*install, package, check=False)
            program = machine.sh(f"readlink /proc/{machine.main_pid()}/exe").stdout.strip()
            tally.check(f"{name} under load: the other version takes over",
                        result.returncode == 0 and machine.main_pid() != before and program == "/usr/bin/portreeve",
                        f"{program}\n{result.stdout}{result.stderr}")
        report = load.finish()
    tally.check("not one request fails", untouched(report), reasons(report))
    tally.check("the changed configuration file is kept", machine.sh(f"cat {CONFIGURATION}").stdout == configuration)
    tally.check("old processes end", eventually(lambda: len(machine.processes()) == 1, 20), machine.processes())


def removed(machine, tally, how):
    active = machine.run("systemctl", "is-active", "portreeve", check=False).stdout.strip()
    listening = machine.sh("ss -Hltn 'sport = :443'").stdout
    tally.check(f"{how}: the service is stopped, the program gone",
                active != "active" and not listening and not machine.processes() and machine.sh("test -e /usr/bin/portreeve", check=False).returncode != 0,
                (active, listening, machine.processes()))


def files(machine):
    """Whatever carries our name, or lies where it does."""
    return set(machine.sh("find / -xdev \\( -path /proc -o -path /sys -o -path /opt -o -path /var/log/journal -o -path /tmp \\) -prune -o -name '*portreeve*' -print").stdout.splitlines())


def unverified():
    """For the self-signed certificate of the first start."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
