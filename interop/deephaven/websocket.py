"""One gRPC call over a WebSocket: websocket.py HOST PORT CA FRAMING [HEADER=VALUE...].

Deephaven's JavaScript client has two framings: `grpc-websockets` is one call for each socket, and in
`grpc-websockets-multiplex` every message begins with the number of a call.
"""

import base64
import os
import socket
import ssl
import struct
import sys

PATH = "/io.deephaven.proto.backplane.grpc.ConfigService/GetAuthenticationConstants"
BINARY, CLOSE = 2, 8


def main(host, port, authority, framing, *headers):
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["http/1.1"])
    with context.wrap_socket(socket.create_connection((host, int(port)), 10), server_hostname=host) as connection:
        stream = connection.makefile("rwb")
        head = handshake(stream, f"{host}:{port}", framing, headers)
        assert " 101 " in head[0], head
        assert f"sec-websocket-protocol: {framing}" in [line.lower() for line in head], head
        call = struct.pack(">i", 1) if framing.endswith("multiplex") else b""
        metadata = b"content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n"
        if call:
            metadata += b"grpc-websockets-path: " + PATH[1:].encode() + b"\r\n"
        send(stream, call + metadata)
        send(stream, call + b"\0" + b"\0" + struct.pack(">I", 0))
        send(stream, call + b"\1")
        received = b""
        while b"grpc-status:" not in received.replace(b"grpc-status: ", b"grpc-status:"):
            opcode, payload = receive(stream)
            assert opcode != CLOSE, payload
            received += payload
        assert b"grpc-status:0" in received.replace(b"grpc-status: ", b"grpc-status:"), received
        print(f"{len(received)} bytes and status 0", flush=True)


def handshake(stream, host, framing, headers):
    lines = [f"GET {PATH} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13"]
    lines += [f"Sec-WebSocket-Protocol: {framing}", *(header.replace("=", ": ", 1) for header in headers), "", ""]
    stream.write("\r\n".join(lines).encode())
    stream.flush()
    head = []
    while line := stream.readline().decode().strip():
        head.append(line)
    return head


def send(stream, payload):
    """One masked frame, as clients must send them."""
    assert len(payload) < 65536
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0x80 | 126]) + struct.pack(">H", len(payload))
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    stream.write(bytes([0x80 | BINARY]) + size + mask + masked)
    stream.flush()


def receive(stream):
    first, size = stream.read(2)
    if size == 126:
        (size,) = struct.unpack(">H", stream.read(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", stream.read(8))
    return first & 15, stream.read(size)


main(*sys.argv[1:])
