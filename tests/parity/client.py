"""The client of the cases: one connection, over which a case's requests go one after the other; it reports what it saw."""

import contextlib
import re
import select
import socket
import ssl
import subprocess
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import hpack

from upstream import Reader, body_of, describe_tls, pairs, parse_head, send_pieces

# How long an answer may take, and how long a connection that may stay open is watched for its end.
PATIENCE, LOOK = 8.0, 0.03


def exchange(port, case, directory):
    """Runs a case's requests against a port: a list of what was seen, and last the fate of the connection."""
    protocol = case.get("protocol", "http1")
    seen = []
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if "preamble" in case:
                send_pieces(connection, case["preamble"])
            if protocol.startswith("tls-"):
                options = case.get("tls", {})
                if options.get("status"):
                    seen.append({"ocsp": ocsp_status(port, options, directory)})
                connection = secure(connection, protocol, options, directory)
                seen.append({"tls": describe_tls(connection)})
                if "resume" in options:
                    seen[-1]["resumed"] = connection.session_reused
            if protocol.endswith("tcp"):
                seen.append(tcp(connection, case))
            elif "frames" in case:
                seen.append(frames(connection, case))
            elif protocol.endswith("http2") and "raw" not in case:
                seen += http2(connection, case)
            else:
                seen += http1(connection, case)
        except ssl.SSLError as error:
            seen.append({"tls": error.reason or "end of file"})
        except TimeoutError:
            seen.append({"fate": f"nothing in {PATIENCE} seconds"})
        except (ConnectionError, EOFError) as error:
            seen.append({"fate": "reset" if isinstance(error, ConnectionError) else "closed without an answer"})
    return seen


def secure(connection, protocol, options, directory):
    """`tls:` of a case: sni, certificate (a file of the directory), min, max, ciphers, alpn, curve; `resume` goes on with the session of
    a connection before, made to this port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(directory / options.get("ca", "ca.pem"))
    if not options.get("verify", True):
        context.verify_mode = ssl.CERT_NONE
    if "certificate" in options:
        context.load_cert_chain(directory / options["certificate"])
    for bound, attribute in (("min", "minimum_version"), ("max", "maximum_version")):
        if bound in options:
            setattr(context, attribute, ssl.TLSVersion["TLSv" + str(options[bound]).replace(".", "_")])
    if "ciphers" in options:
        context.set_ciphers(options["ciphers"])
    if "curve" in options:
        context.set_ecdh_curve(options["curve"])
    alpn = options.get("alpn", {"tls-http1": ["http/1.1"], "tls-http2": ["h2"]}.get(protocol, []))
    if alpn:
        context.set_alpn_protocols(alpn)
    session = None
    if "resume" in options:
        first = socket.create_connection(("127.0.0.1", options["resume"]), timeout=PATIENCE)
        with context.wrap_socket(first, server_hostname=options.get("sni", "host.test")) as first:
            first.sendall(b"HEAD /first HTTP/1.1\r\nhost: host.test\r\n\r\n")
            first.recv(65536)  # tickets come before the answer
            session = first.session
    return context.wrap_socket(connection, server_hostname=options.get("sni", "host.test") or None, session=session)


def ocsp_status(port, options, directory):
    """What a client that asks for the state of the certificate (`status: true`) gets stapled to it."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", options.get("sni", "host.test"), "-status"]
    request = "HEAD /status HTTP/1.1\r\nhost: host.test\r\nconnection: close\r\n\r\n"
    said = subprocess.run(
        [*command, "-ign_eof", "-CAfile", directory / "ca.pem"], input=request, capture_output=True, text=True, timeout=PATIENCE
    ).stdout
    if "OCSP response: no response sent" in said:
        return "none"
    status = re.search(r"OCSP Response Status: (\w+)", said)
    return status.group(1) if status else "refused"


def requests_of(case):
    """The requests of a case; a case that is one request says it on its own level."""
    return case["requests"] if "requests" in case else [case]


def target_of(request):
    method, _, target = str(request.get("request", "GET /")).partition(" ")
    return method, target


def http1(connection, case):
    reader, seen = Reader(connection), []
    for request in requests_of(case):
        method, target = target_of(request)
        if "raw" in request:
            with contextlib.suppress(ConnectionError):
                send_pieces(connection, request["raw"])
            line = request["raw"] if isinstance(request["raw"], str) else str(request["raw"][0])
            method = line.partition(" ")[0]
            count = request.get("answers", 1)
        else:
            time.sleep(request.get("after", 0))
            send_http1(connection, request, method, target)
            count = 1
        if request.get("shutdown"):
            connection.shutdown(socket.SHUT_WR)
        for _ in range(count):
            answer = read_http1(reader, method)
            seen.append(answer)
            if answer.get("status") == 101 or method == "CONNECT" and answer.get("status") == 200:
                if "tunnel" in request:
                    send_pieces(connection, request["tunnel"])
                    sent = "".join(piece for piece in as_list(request["tunnel"]) if isinstance(piece, str))
                    answer["tunnel"] = reader.exactly(len(sent))
                    return seen
            if "fate" in answer:
                return seen
    closing = any(name.lower() == "connection" and value == "close" for name, value in answer["headers"])
    seen.append({"fate": fate(connection, reader, PATIENCE if closing else LOOK)})
    return seen


def as_list(value):
    return value if isinstance(value, list) else [value]


def send_http1(connection, request, method, target):
    headers = pairs(request.get("headers", {}))
    names = {name.lower() for name, _ in headers}
    body, trailers = body_of(request), pairs(request.get("trailers", {}))
    chunked = bool(trailers) or request.get("chunked")
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in names:
        lines.append("Host: host.test")
    lines += [f"{name}: {value}" for name, value in headers]
    if chunked:
        lines.append("transfer-encoding: chunked")
    elif body and "content-length" not in names:
        lines.append(f"content-length: {len(body)}")
    payload = body
    if chunked:
        payload = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n" if body else b"0\r\n"
        payload += "".join(f"{name}: {value}\r\n" for name, value in trailers).encode() + b"\r\n"
    with contextlib.suppress(ConnectionError):
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + payload)


def read_http1(reader, method):
    """The next answer, with the informational ones before it."""
    informational = []
    while True:
        try:
            head = reader.head()
        except ConnectionResetError:
            return {"fate": "reset"}
        if not head:
            return {"fate": "closed without an answer"}
        line, headers = parse_head(head)
        status = int(line.split()[1])
        if status >= 200 or status == 101:
            break
        informational.append([line, headers])
    answer = {"status": status, "line": line, "headers": headers}
    if informational:
        answer["informational"] = informational
    fields = {name.lower(): value for name, value in headers}
    with contextlib.suppress(ConnectionResetError):
        try:
            if method == "HEAD" or status in (101, 204, 304) or method == "CONNECT" and status == 200:
                pass
            elif fields.get("transfer-encoding", "").lower() == "chunked":
                answer["body"], answer["trailers"] = reader.chunks()
            elif "content-length" in fields:
                answer["body"] = reader.exactly(int(fields["content-length"]))
            else:
                answer["body"] = reader.rest()
        except EOFError:
            answer["fate"] = "cut off"
    return answer


def fate(connection, reader, patience):
    """What becomes of a connection after the last answer, within so many seconds: it is `open`, or the peer ends it."""
    if reader.buffer:
        return f"more: {reader.buffer[:200]!r}"
    pending = isinstance(connection, ssl.SSLSocket) and connection.pending()
    if not pending and not select.select([connection], [], [], patience)[0]:
        return "open"
    try:
        data = connection.recv(200)
    except (ConnectionError, ssl.SSLError):
        return "closed"
    return f"more: {data!r}" if data else "closed"


def http2(connection, case):
    lenient = {"validate_inbound_headers": False, "validate_outbound_headers": False, "normalize_outbound_headers": False}
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1", **lenient))
    peer.initiate_connection()
    connection.sendall(peer.data_to_send())
    seen, scheme = [], "https" if isinstance(connection, ssl.SSLSocket) else "http"
    for request in requests_of(case):
        time.sleep(request.get("after", 0))
        answer = {}
        seen.append(answer)
        stream = send_http2(connection, peer, request, scheme)
        while "end" not in answer and "fate" not in answer:
            read_http2(connection, peer, stream, answer, request)
        answer.pop("end", None)
        if "fate" in answer:
            return seen
    if select.select([connection], [], [], LOOK)[0]:
        answer = {}
        read_http2(connection, peer, 0, answer, {})
        seen.append({"fate": answer.get("fate", "open")})
    else:
        seen.append({"fate": "open"})
        leave(connection)
    return seen


def leave(connection):
    """Ends a connection so that all that was sent is read, and counted, before its end."""
    connection.settimeout(1)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def send_http2(connection, peer, request, scheme):
    method, target = target_of(request)
    fields = pairs(request.get("headers", {}))
    names = {name for name, _ in fields}
    pseudo = [(":method", method), (":scheme", scheme), (":authority", "host.test"), (":path", target)]
    if method == "CONNECT" and ":protocol" not in names:
        pseudo = [(":method", method), (":authority", target)]
    headers = [pair for pair in pseudo if pair[0] not in names and not (pair[0] == ":authority" and "host" in names)]
    if "pseudo" in request:
        headers = []
    headers += pairs(request.get("pseudo", [])) if isinstance(request.get("pseudo"), dict) else [tuple(pair) for pair in request.get("pseudo", [])]
    own_pseudo = [pair for pair in fields if pair[0].startswith(":")]
    headers = headers + own_pseudo + [pair for pair in fields if not pair[0].startswith(":")]
    body, trailers = body_of(request), pairs(request.get("trailers", {}))
    stream = peer.get_next_available_stream_id()
    ends = not body and not trailers and not request.get("unended") and "tunnel" not in request
    peer.send_headers(stream, headers, end_stream=ends)
    connection.sendall(peer.data_to_send())
    while body:
        size = min(peer.local_flow_control_window(stream), peer.max_outbound_frame_size, len(body))
        if not size:
            peer.receive_data(connection.recv(65536))
            continue
        last = size == len(body) and not trailers and not request.get("unended")
        peer.send_data(stream, body[:size], end_stream=last)
        connection.sendall(peer.data_to_send())
        body = body[size:]
    if trailers:
        peer.send_headers(stream, trailers, end_stream=True)
    if "tunnel" in request:
        peer.send_data(stream, str(request["tunnel"]).encode("latin-1"))
    connection.sendall(peer.data_to_send())
    return stream


def read_http2(connection, peer, stream, answer, request):
    """Adds to `answer` what comes next; `end` when the stream has ended."""
    try:
        data = connection.recv(65536)
        events = peer.receive_data(data) if data else None
    except ConnectionResetError:
        events = None
    except h2.exceptions.ProtocolError as error:
        answer["fate"] = f"the peer breaks HTTP/2: {error}"
        return
    if events is None:
        answer["fate"] = answer.get("goaway", "closed")
        answer.pop("goaway", None)
        return
    for event in events:
        match event:
            case h2.events.InformationalResponseReceived():
                answer.setdefault("informational", []).append([(str(name), str(value)) for name, value in event.headers])
            case h2.events.ResponseReceived() if event.stream_id == stream:
                headers = [(str(name), str(value)) for name, value in event.headers]
                answer["status"], answer["headers"] = int(headers[0][1]), headers[1:]
            case h2.events.DataReceived():
                answer["body"] = answer.get("body", b"") + event.data
                peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if len(answer["body"]) >= len(str(request.get("tunnel", ""))) > 0:
                    answer["end"] = True
            case h2.events.TrailersReceived():
                answer["trailers"] = [(str(name), str(value)) for name, value in event.headers]
            case h2.events.StreamEnded() if event.stream_id == stream:
                answer["end"] = True
            case h2.events.StreamReset() if event.stream_id == stream:
                answer["reset"], answer["end"] = h2.errors.ErrorCodes(event.error_code).name, True
            case h2.events.ConnectionTerminated():
                answer["goaway"] = f"GOAWAY {h2.errors.ErrorCodes(event.error_code).name}"
    connection.sendall(peer.data_to_send())
    if "goaway" in answer and "end" in answer:
        answer["fate"] = answer.pop("goaway")


FRAMES = {"data": 0, "headers": 1, "priority": 2, "reset": 3, "settings": 4, "ping": 6, "window_update": 8, "continuation": 9}


def frames(connection, case):
    """Sends HTTP/2 frames as they are: `{TYPE: payload, stream: 1, flags: 4, times: 100, step: 2}`, numbers are pauses. Reports what
    came: statuses, resets, GOAWAY, and the connection's fate."""
    received, deadline = b"", time.monotonic() + case.get("look", 1.0)
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4))
        for entry in case["frames"]:
            if isinstance(entry, (int, float)):
                time.sleep(entry)
            else:
                connection.sendall(b"".join(frame(entry, count) for count in range(entry.get("times", 1))))
    fate = "open"
    try:
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not (data := connection.recv(65536)):
                fate = "closed"
                break
            received += data
    except TimeoutError:
        pass
    except ConnectionError:
        fate = "closed"
    return {"fate": fate, **received_frames(received)}


def frame(entry, count):
    kind = next(name for name in FRAMES if name in entry)
    stream = entry.get("stream", 0) + count * entry.get("step", 0)
    payload, flags = entry[kind], entry.get("flags", 0)
    if isinstance(payload, dict):
        payload = b"".join(literal(str(name)) + literal(str(value))[1:] for name, value in payload.items())
    else:
        payload = bytes.fromhex(payload) if "hex" in entry or kind not in ("data",) else str(payload).encode()
    return len(payload).to_bytes(3, "big") + bytes([FRAMES[kind], flags]) + stream.to_bytes(4, "big") + payload


def literal(text):
    """A new name or a value in HPACK, never indexed and not compressed; one of a name begins a field."""
    data = text.encode("latin-1")
    if len(data) < 127:
        return b"\x10" + bytes([len(data)]) + data
    rest, size = len(data) - 127, b"\x7f"
    while rest >= 128:
        size, rest = size + bytes([rest % 128 + 128]), rest // 128
    return b"\x10" + size + bytes([rest]) + data


def received_frames(data):
    decoder, seen = hpack.Decoder(), {"statuses": [], "resets": []}
    while len(data) >= 9:
        length, kind, stream = int.from_bytes(data[:3], "big"), data[3], int.from_bytes(data[5:9], "big")
        payload, data = data[9 : 9 + length], data[9 + length :]
        if kind == 1:
            seen["statuses"] += [f"{stream}: {value}" for name, value in decoder.decode(payload) if name == ":status"]
        elif kind == 3:
            seen["resets"].append(f"{stream}: {h2.errors.ErrorCodes(int.from_bytes(payload, 'big')).name}")
        elif kind == 7:
            seen["goaway"] = h2.errors.ErrorCodes(int.from_bytes(payload[4:8], "big")).name
    for name in ("statuses", "resets"):
        counted = sorted(seen.pop(name))
        seen[name] = " ".join(counted) if len(counted) < 8 else f"{len(counted)} of them"
    return seen


def tcp(connection, case):
    """Sends the pieces of `raw`, reads what comes until its end, or until nothing comes for `look` seconds."""
    if "raw" in case:
        send_pieces(connection, case["raw"])
    if case.get("shutdown"):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
    received = b""
    connection.settimeout(case.get("look", 0.3))
    try:
        while data := connection.recv(65536):
            received += data
        end = "closed"
    except TimeoutError:
        end = "open"
    except ConnectionError:
        end = "reset"
    answer = case.get("answer", {})
    if end != "open" and not received and "raw" in case and not (isinstance(answer, dict) and answer.get("reset")):
        # What the client has sent and nobody reads makes the end a reset, if it has come by then.
        end = "ended"
    return {"body": received, "fate": end}
