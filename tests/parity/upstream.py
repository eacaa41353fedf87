"""The upstream of the cases: an HTTP/1.1, HTTP/2 or raw TCP server that records what reaches it and answers as it is told."""

import collections
import contextlib
import socket
import ssl
import threading
import time

import h2.config
import h2.connection
import h2.errors
import h2.events

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Upstream:
    """One port, for one cluster. What arrives is appended to `records`; `answers` is shared by the upstreams of a run."""

    def __init__(self, name, answers, records, context=None):
        self.name, self.answers, self.records, self.context = name, answers, records, context
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError, ConnectionError, EOFError, ssl.SSLError, h2.exceptions.ProtocolError), connection:
            tls, peer = None, connection.getpeername()[0]
            if peer != "127.0.0.1":
                self._record(peer=peer)
            if self.context and connection.recv(1, socket.MSG_PEEK) == b"\x16":
                connection = self.context.wrap_socket(connection, server_side=True)
                tls = describe_tls(connection, server_side=True)
            if self.answers.tcp:
                self._serve_tcp(connection, tls)
                return
            reader = Reader(connection)
            if reader.peek(3) == b"PRI":
                self._serve_http2(connection, reader, tls)
            else:
                while self._serve_http1(connection, reader, tls):
                    pass

    def _record(self, **facts):
        record = {"cluster": self.name, **{name: value for name, value in facts.items() if value is not None}}
        self.records.append(record)
        return record

    def _serve_tcp(self, connection, tls):
        """Sends what the answer says, then echoes; `raw` alone ends after it."""
        record = self._record(tcp=b"", tls=tls)
        answer = self.answers.next()
        if "raw" in answer:
            send_pieces(connection, answer["raw"])
        if answer.get("reset"):
            reset(connection)
            return
        if answer.get("close"):
            connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            record["tcp"] += data
            if not answer.get("close") and not answer.get("silent"):
                connection.sendall(data)
        record["eof"] = True

    def _serve_http1(self, connection, reader, tls):
        head = reader.head()
        if not head:
            return False
        line, headers = parse_head(head)
        record = self._record(protocol="HTTP/1.1", line=line, headers=headers, tls=tls)
        answer = self.answers.next()
        fields = {name.lower(): value for name, value in headers}
        if answer.get("early"):
            self._answer_http1(connection, line, answer)
        chunked = fields.get("transfer-encoding", "").lower() == "chunked"
        if fields.get("expect", "").lower() == "100-continue" and not answer.get("no_continue"):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if chunked:
            record["body"], record["trailers"] = reader.chunks()
        elif "content-length" in fields:
            record["body"] = reader.exactly(int(fields["content-length"]))
        if not answer.get("early"):
            self._answer_http1(connection, line, answer)
        if answer.get("status") == 101 or (line.startswith("CONNECT ") and answer.get("status", 200) == 200):
            record["tunnel"] = b""
            while data := reader.some():
                record["tunnel"] += data
                connection.sendall(data)
            return False
        return not (answer.get("close") or answer.get("reset") or "connection" in fields and fields["connection"] == "close")

    def _answer_http1(self, connection, line, answer):
        time.sleep(answer.get("delay", 0))
        if "raw" in answer:
            send_pieces(connection, answer["raw"])
        elif not answer.get("reset"):
            body, trailers = body_of(answer, "ok"), dict(answer.get("trailers", {}))
            status = answer.get("status", 200)
            for code in answer.get("informational", []):
                connection.sendall(f"HTTP/1.1 {code} Informational\r\nx-info: {code}\r\n\r\n".encode())
            head = f"HTTP/1.1 {status} {answer.get('reason', 'Reason')}\r\n"
            names = {name.lower() for name, _ in pairs(answer.get("headers", {}))}
            head += "".join(f"{name}: {value}\r\n" for name, value in pairs(answer.get("headers", {})))
            framed = status not in (204, 304) and status >= 200 and not line.startswith("CONNECT ")
            if trailers or answer.get("chunked"):
                head += "transfer-encoding: chunked\r\n\r\n"
                payload = (f"{len(body):x}\r\n".encode() + body + b"\r\n" if body else b"") + b"0\r\n"
                payload += "".join(f"{name}: {value}\r\n" for name, value in trailers.items()).encode() + b"\r\n"
            else:
                head += f"content-length: {len(body)}\r\n" if framed and "content-length" not in names else ""
                head += "\r\n"
                payload = body if framed else b""
            if line.startswith("HEAD "):
                payload = b""
            connection.sendall(head.encode("latin-1"))
            time.sleep(answer.get("pause", 0))
            connection.sendall(payload)
        if answer.get("reset"):
            reset(connection)
        elif answer.get("close"):
            connection.shutdown(socket.SHUT_RDWR)

    def _serve_http2(self, connection, reader, tls):
        config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
        peer = h2.connection.H2Connection(config)
        peer.initiate_connection()
        peer.local_settings.enable_connect_protocol = 1
        connection.sendall(peer.data_to_send())
        records = {}
        while data := reader.some():
            for event in peer.receive_data(data):
                match event:
                    case h2.events.RequestReceived():
                        headers = [(str(name), str(value)) for name, value in event.headers]
                        record = self._record(protocol="HTTP/2", headers=headers, body=b"", tls=tls)
                        records[event.stream_id] = record, self.answers.next()
                        answer = records[event.stream_id][1]
                        if (":method", "CONNECT") in headers and answer.get("status", 200) == 200:
                            record["tunnel"] = b""
                            peer.send_headers(event.stream_id, [(":status", "200"), *pairs(answer.get("headers", {}))])
                        elif answer.get("early"):
                            self._answer_http2(connection, peer, event.stream_id, records[event.stream_id][1])
                    case h2.events.DataReceived():
                        peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        record = records[event.stream_id][0]
                        if "tunnel" in record:
                            record["tunnel"] += event.data
                            peer.send_data(event.stream_id, event.data)
                        else:
                            record["body"] += event.data
                    case h2.events.TrailersReceived():
                        trailers = [(str(name), str(value)) for name, value in event.headers]
                        records[event.stream_id][0]["trailers"] = trailers
                    case h2.events.StreamReset():
                        if event.stream_id in records:
                            records[event.stream_id][0]["reset"] = int(event.error_code)
                    case h2.events.StreamEnded():
                        record, answer = records[event.stream_id]
                        if "tunnel" in record:
                            peer.end_stream(event.stream_id)
                        elif not answer.get("early"):
                            self._answer_http2(connection, peer, event.stream_id, answer)
            connection.sendall(peer.data_to_send())

    def _answer_http2(self, connection, peer, stream, answer):
        connection.sendall(peer.data_to_send())
        time.sleep(answer.get("delay", 0))
        if answer.get("reset"):
            code = answer["reset"] if isinstance(answer["reset"], str) else "INTERNAL_ERROR"
            with contextlib.suppress(h2.exceptions.ProtocolError):
                peer.reset_stream(stream, h2.errors.ErrorCodes[code])
            connection.sendall(peer.data_to_send())
            return
        for code in answer.get("informational", []):
            peer.send_headers(stream, [(":status", str(code)), ("x-info", str(code))])
        body, trailers = body_of(answer, "ok"), answer.get("trailers", {})
        headers = [(":status", str(answer.get("status", 200))), *pairs(answer.get("headers", {}))]
        with contextlib.suppress(h2.exceptions.ProtocolError):
            peer.send_headers(stream, headers, end_stream=not body and not trailers)
            while body:
                connection.sendall(peer.data_to_send())
                size = min(peer.local_flow_control_window(stream), peer.max_outbound_frame_size, len(body))
                if not size:
                    break
                peer.send_data(stream, body[:size], end_stream=size == len(body) and not trailers)
                body = body[size:]
            if trailers:
                peer.send_headers(stream, pairs(trailers), end_stream=True)
        connection.sendall(peer.data_to_send())


class Answers:
    """What the upstreams say next: the answers of a case in their order, the last one again and again."""

    def __init__(self):
        self.lock = threading.Lock()
        self.script([{}])

    def script(self, answers, tcp=False):
        with self.lock:
            self.queue, self.tcp = collections.deque(answers), tcp

    def next(self):
        with self.lock:
            return self.queue.popleft() if len(self.queue) > 1 else self.queue[0]


class Reader:
    """Reads HTTP/1.1 from a socket."""

    def __init__(self, connection):
        self.connection, self.buffer = connection, b""

    def _more(self):
        data = self.connection.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data

    def peek(self, size):
        while len(self.buffer) < size:
            try:
                self._more()
            except EOFError:
                break
        return self.buffer[:size]

    def some(self):
        data, self.buffer = self.buffer, b""
        return data or self.connection.recv(65536)

    def until(self, end):
        while end not in self.buffer:
            self._more()
        found, _, self.buffer = self.buffer.partition(end)
        return found

    def head(self):
        """Up to the empty line; empty if the connection ends before."""
        try:
            return self.until(b"\r\n\r\n")
        except EOFError:
            return b""

    def exactly(self, size):
        while len(self.buffer) < size:
            self._more()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def chunks(self):
        """Body and trailers."""
        body = b""
        while size := int(self.until(b"\r\n").split(b";")[0], 16):
            body += self.exactly(size)
            self.until(b"\r\n")
        trailers = []
        while line := self.until(b"\r\n"):
            trailers.append(split_field(line))
        return body, trailers

    def rest(self):
        with contextlib.suppress(ConnectionError):
            while data := self.connection.recv(65536):
                self.buffer += data
        data, self.buffer = self.buffer, b""
        return data


def split_field(line):
    name, _, value = line.decode("latin-1").partition(":")
    return name, value.strip()


def parse_head(head):
    line, *fields = head.split(b"\r\n")
    return line.decode("latin-1"), [split_field(field) for field in fields]


def pairs(headers):
    """Headers as pairs, from a mapping (in which a list repeats a name) or from "name: value" lines."""
    if isinstance(headers, dict):
        return [(name, str(value)) for name, values in headers.items() for value in (values if isinstance(values, list) else [values])]
    return [split_field(str(line).encode("latin-1")) for line in headers]


def body_of(message, default=""):
    """`body` of a request or an answer: a text, or `{size: N}` bytes."""
    body = message.get("body", default)
    if isinstance(body, dict):
        return b"x" * body["size"]
    return str(body).encode()


def send_pieces(connection, pieces):
    """Texts are sent (as Latin-1), numbers are seconds to wait."""
    for piece in pieces if isinstance(pieces, list) else [pieces]:
        if isinstance(piece, (int, float)):
            time.sleep(piece)
        else:
            connection.sendall(piece.encode("latin-1"))


def reset(connection):
    """Ends a connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


def describe_tls(connection, server_side=False):
    """What a handshake agreed on, and whom the peer is."""
    peer = connection.getpeercert()
    facts = {"version": connection.version(), "alpn": connection.selected_alpn_protocol()}
    if peer:
        facts["peer"] = ", ".join("=".join(pair) for part in peer["subject"] for pair in part)
    if server_side:
        facts["sni"] = getattr(connection, "sni", None)
    else:
        facts["cipher"] = connection.cipher()[0]
    return {name: value for name, value in facts.items() if value is not None}
