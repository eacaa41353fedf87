"""A browser, headless Chromium, at the TLS port: a page, gRPC-Web by `fetch` over HTTP/2, a WebSocket."""

import base64
import contextlib
import hashlib
import json
import pathlib
import struct
import tempfile
import time
import urllib.error
import urllib.request

from harness import Certificates, Handler, Portreeve, Process, Upstream, free_port

PAGE = "<!doctype html><title>Behind Portreeve</title><script src=/script.js></script><p id=text>hello</p>"
# What the page does; the answer is what the checks below look at.
ASK = """
const done = arguments[0];
const frame = new Uint8Array([0, 0, 0, 0, 3, 97, 98, 99]);
(async () => {
  const answer = await fetch('/echo.Echo/Say', {
    method: 'POST', headers: {'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1'}, body: frame});
  const body = new Uint8Array(await answer.arrayBuffer());
  const many = await Promise.all([...Array(200).keys()].map(async n => (await fetch('/n/' + n)).text()));
  const upload = await (await fetch('/length', {method: 'POST', body: new Uint8Array(3000000)})).text();
  const words = await new Promise((resolve, reject) => {
    const socket = new WebSocket('wss://' + location.host + '/socket');
    const seen = [];
    socket.onopen = () => { socket.send('one'); socket.send('x'.repeat(70000)); };
    socket.onmessage = event => { seen.push(event.data.length); if (seen.length == 2) socket.close(1000); };
    socket.onerror = () => reject('the WebSocket fails');
    socket.onclose = event => resolve([...seen, event.code]);
  });
  const entries = performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'));
  const protocols = [...new Set(entries.map(entry => entry.nextHopProtocol))];
  done({text: document.getElementById('text').textContent, body: [...body], many: many.length, last: many[199],
        upload, words, protocols, script: window.loaded});
})().catch(error => done({error: String(error)}));
"""


class Page(Handler):
    """What the page needs of an upstream."""

    def do_GET(self):
        if self.path == "/socket":
            self.echo()
        elif self.path == "/script.js":
            self.answer("text/javascript", b"window.loaded = true")
        elif self.path.startswith("/n/"):
            self.answer("text/plain", self.path[3:].encode())
        else:
            self.answer("text/html", PAGE.encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/length":
            self.answer("text/plain", str(len(body)).encode())
        else:
            trailers = b"grpc-status:0\r\n"
            self.answer("application/grpc-web+proto", body + b"\x80" + struct.pack(">I", len(trailers)) + trailers)

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def echo(self):
        """A WebSocket that sends every message back, until the client closes it."""
        accept = hashlib.sha1(self.headers["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.send_response(101)
        for name, value in [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-accept", base64.b64encode(accept).decode())]:
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        opcode = None
        while opcode != 8:
            first, size = self.rfile.read(2)
            opcode, size = first & 15, size & 127
            if size == 126:
                (size,) = struct.unpack(">H", self.rfile.read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self.rfile.read(8))
            mask = self.rfile.read(4)
            payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(size)))
            head = bytes([first, len(payload)]) if len(payload) < 126 else bytes([first, 127]) + struct.pack(">Q", len(payload))
            self.wfile.write(head + payload)


class Browser:
    """A headless Chromium, driven as W3C WebDriver says."""

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            port = free_port()
            self.url = f"http://127.0.0.1:{port}"
            profile = stack.enter_context(tempfile.TemporaryDirectory(prefix="portreeve-browser-", ignore_cleanup_errors=True))
            driver = stack.enter_context(Process(["chromedriver", f"--port={port}"]))
            driver.until("started successfully", 30)
            arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
            options = {"goog:chromeOptions": {"args": arguments}, "acceptInsecureCerts": True, "timeouts": {"script": 60000}}
            session = self.command("POST", "/session", {"capabilities": {"alwaysMatch": options}})
            self.url += f"/session/{session['sessionId']}"
            stack.callback(self.command, "DELETE", "")
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *reason):
        self.stack.__exit__(*reason)

    def command(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.read().decode()[:800]}") from error

    def open(self, url):
        self.command("POST", "/url", {"url": url})

    def ask(self, script):
        """What a script passes to its last argument."""
        return self.command("POST", "/execute/async", {"script": script, "args": []})

    def until(self, expression, seconds):
        """The first true value of an expression."""
        end = time.monotonic() + seconds
        while not (value := self.command("POST", "/execute/sync", {"script": f"return {expression}", "args": []})):
            if time.monotonic() > end:
                return value
            time.sleep(0.2)
        return value


def run(portreeve, tally):
    certificates = Certificates()
    with Upstream(Page) as upstream, Portreeve(
        portreeve, "conformance.yaml", pem=certificates.pem, upstream=upstream.server_port
    ) as proxy, Browser() as browser:
        browser.open(f"https://localhost:{proxy.ports['main']}/")
        seen = browser.ask(ASK)
        tally.check("a browser loads a page and its script", seen.get("text") == "hello" and seen.get("script"), seen)
        tally.check("it speaks HTTP/2", seen.get("protocols") == ["h2"], seen)
        trailer = list(b"grpc-status:0\r\n")
        wanted = [0, 0, 0, 0, 3, 97, 98, 99, 0x80, 0, 0, 0, len(trailer), *trailer]
        tally.check("a gRPC-Web call by fetch gets its message and its status", seen.get("body") == wanted, seen)
        tally.check("two hundred requests at a time are answered", (seen.get("many"), seen.get("last")) == (200, "199"), seen)
        tally.check("an upload of three megabytes arrives", seen.get("upload") == "3000000", seen)
        tally.check("a WebSocket echoes and closes", seen.get("words") == [3, 70000, 1000], seen)


def ide(tally, port):
    """Deephaven's web UI against a real server: it runs its calls by `fetch`, as gRPC-Web over HTTP/2."""
    with Browser() as browser:
        browser.open(f"https://localhost:{port}/ide/")
        calls = "performance.getEntriesByType('resource').filter(entry => entry.name.includes('/io.deephaven.'))"
        opened = browser.until(f"document.querySelector('.console-input') && {calls}.map(entry => entry.nextHopProtocol)", 90)
        says = browser.until("document.title + ': ' + document.body.innerText.slice(0, 300)", 1)
        tally.check(f"the IDE opens its console in a browser, after {len(opened or [])} calls", bool(opened), says)
        tally.check("its calls go over HTTP/2", set(opened or []) == {"h2"}, opened)
