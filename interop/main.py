"""Runs the suites one after the other: main.py PORTREEVE [SUITE...].

A suite may name a part of itself: `parity/redirect`. Prints a line for each check, `ok` or `FAILED`, and last those
that failed and the count. Exits with 1 if anything failed.
"""

import importlib
import pathlib
import sys
import time
import traceback

from harness import Tally

SUITES = ["conformance", "registration", "demo", "clients", "browser", "deephaven", "corpus", "metrics", "parity"]
sys.path.append(str(pathlib.Path(__file__).parent.parent / "tests" / "parity"))


def main(portreeve, names):
    tally = Tally()
    for name in names or SUITES:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        try:
            suite, _, part = name.partition("/")
            importlib.import_module(suite).run(portreeve, tally, *([part] if part else []))
        except Exception as error:
            traceback.print_exc()
            tally.check(f"{name} runs to its end", False, f"{type(error).__name__}: {error}")
        print(f"   {name} took {time.monotonic() - started:.0f} s", flush=True)
    return tally.summary()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
