"""Runs the suites on booted machines: main.py BUILT [SUITE...], where BUILT is the folder that packaging/test/run has filled.

Prints a line for each check, `ok` or `FAILED`, and last those that failed and the count. Exits with 1 if anything failed.
"""

import importlib
import pathlib
import sys
import time
import traceback

sys.path.append(str(pathlib.Path(__file__).parents[2] / "interop"))

from harness import Tally
from machine import Machine

# On which releases each runs: 12 has the oldest systemd that counts, 13 another one, and rpm.
SUITES = {
    "packages": ["bookworm", "trixie"],
    "service": ["bookworm"],
    "container": ["bookworm"],
    "reload": ["bookworm"],
    "crash": ["trixie"],
}


def main(built, names):
    tally = Tally()
    quick = (pathlib.Path(built) / "portreeve").exists()
    for name in names or SUITES:
        if name == "packages" and quick:
            print("skipped packages: only a binary is given", flush=True)
            continue
        for suite in SUITES[name]:
            print(f"== {name} on Debian {suite}", flush=True)
            started = time.monotonic()
            try:
                with Machine(suite, built) as machine:
                    before = len(tally.failures)
                    try:
                        importlib.import_module(name).run(machine, tally)
                    except Exception:
                        print(machine.run("journalctl", "-u", "portreeve", "-n", "60", "--no-pager", check=False).stdout)
                        raise
                    if len(tally.failures) > before:
                        print("warnings in the journal, of systemd too:")
                        print(machine.run("journalctl", "-p", "warning", "-n", "60", "--no-pager", check=False).stdout)
            except Exception as error:
                traceback.print_exc()
                tally.check(f"{name} on {suite} runs to its end", False, f"{type(error).__name__}: {error}")
            print(f"   {name} on {suite} took {time.monotonic() - started:.0f} s", flush=True)
    return tally.summary()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
