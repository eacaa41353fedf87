"""The Python client at work: client.py HOST PORT CA [HEADER=VALUE...].

Makes a table on the server, uploads and downloads two million rows, follows a ticking table.
"""

import os
import sys
import time
import traceback

import pyarrow
from pydeephaven import Session

ROWS = 2_000_000


def main(host, port, authority, *headers):
    pairs = (header.split("=", 1) for header in headers)
    with open(authority, "rb") as file:
        roots = file.read()
    session = Session(
        host=host,
        port=int(port),
        auth_type="Anonymous",
        never_timeout=True,
        session_type="python",
        use_tls=True,
        tls_root_certs=roots,
        extra_headers={name.encode(): value.encode() for name, value in pairs},
    )
    squares = session.empty_table(1000).update(["X = i", "Y = X * X"]).to_arrow()
    assert squares.num_rows == 1000 and squares.column("Y")[999].as_py() == 999 * 999, squares

    numbers = pyarrow.table({
        "Key": pyarrow.array(range(ROWS), pyarrow.int64()),
        "Value": pyarrow.array([float(row) for row in range(ROWS)], pyarrow.float64()),
    })
    started = time.monotonic()
    there = session.import_table(numbers)
    uploaded = time.monotonic()
    back = there.to_arrow()
    downloaded = time.monotonic()
    assert back.num_rows == ROWS and back.column("Key")[ROWS - 1].as_py() == ROWS - 1

    session.run_script("from deephaven import time_table\nticking = time_table('PT0.1S')\n")
    deadline = time.monotonic() + 20
    while session.open_table("ticking").to_arrow().num_rows < 3:
        assert time.monotonic() < deadline, "the table does not tick"
        time.sleep(0.1)

    megabytes = numbers.nbytes / 1e6
    up, down = megabytes / (uploaded - started), megabytes / (downloaded - uploaded)
    print(f"{megabytes:.0f} MB up at {up:.0f} MB/s, down at {down:.0f} MB/s", flush=True)


try:
    main(*sys.argv[1:])
    status = 0
except BaseException:
    traceback.print_exc()
    sys.stderr.flush()
    status = 1
# The session's threads would keep the interpreter alive.
os._exit(status)
