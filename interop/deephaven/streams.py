"""Many calls at once on one channel: streams.py HOST PORT CA COUNT [HEADER=VALUE...].

Opens COUNT calls that stay open, then makes one more, which must be answered: the server takes 128 streams on one
connection, so an ingress has to open a further one.
"""

import os
import sys
import time

import grpc
from deephaven_core.proto import config_pb2, config_pb2_grpc, session_pb2, session_pb2_grpc


def main(host, port, authority, count, *headers):
    with open(authority, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    channel = grpc.secure_channel(f"{host}:{port}", credentials)
    metadata = [tuple(header.split("=", 1)) for header in headers]

    constants = config_pb2_grpc.ConfigServiceStub(channel).GetConfigurationConstants
    request = config_pb2.ConfigurationConstantsRequest()
    _, call = constants.with_call(request, metadata=[*metadata, ("authorization", "Anonymous")], timeout=20)
    answered = [*call.initial_metadata(), *call.trailing_metadata()]
    metadata.append(("authorization", next(value for key, value in answered if key == "authorization")))

    notification = session_pb2_grpc.SessionServiceStub(channel).TerminationNotification
    waiting = session_pb2.TerminationNotificationRequest()
    calls = [notification.future(waiting, metadata=metadata) for _ in range(int(count))]
    time.sleep(1)
    started = time.monotonic()
    constants(request, metadata=metadata, timeout=10)
    elapsed = time.monotonic() - started
    ended = [call for call in calls if call.done()]
    assert not ended, f"{len(ended)} of the waiting calls ended: {ended[0].exception()}"
    print(f"{count} calls open, one more answered in {elapsed * 1000:.0f} ms", flush=True)


try:
    main(*sys.argv[1:])
    status = 0
except BaseException as error:
    print(repr(error)[:1000], file=sys.stderr, flush=True)
    status = 1
os._exit(status)
