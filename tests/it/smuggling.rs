//! Requests that two servers could read differently: each is a row of a table, with its answer and what may reach the upstream.
//!
//! The upstream keeps every byte that it gets. Behind each row a last request follows on the same connection: a refusal must be the end of
//! that connection, and let no request through; whatever passes must leave the last request what it is.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{
    client::{self, exchange},
    message::get,
    portreeve::{Config, Portreeve},
    upstream::{self, Upstream},
    within,
};

/// What is sent, by its name, and the status that it gets: 200 says that it passes.
type Case = (&'static str, String, u16);

/// What would be a request of its own for a server that saw the one before end early.
const SMUGGLED: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nhost: a\r\n{fields}\r\n{body}")
}

fn coded(transfer_encoding: &str) -> String {
    post(transfer_encoding, SMUGGLED)
}

fn sized(content_length: &str) -> String {
    post(content_length, "hello")
}

fn chunks(body: &str) -> String {
    post("transfer-encoding: chunked\r\n", body)
}

fn with(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

fn line(line: &str) -> String {
    format!("{line}\r\nhost: a\r\n\r\n")
}

/// A server, and the bytes that its upstream got.
struct Observed {
    _upstream: Upstream,
    portreeve: Portreeve,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Observed {
    async fn start(manager: &str) -> Observed {
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        let upstream = upstream::raw(move |mut stream, _| {
            let log = Arc::clone(&log);
            async move {
                let mut buffer = [0; 65536];
                let mut request = Vec::new();
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    log.lock().unwrap().extend_from_slice(&buffer[..count]);
                    request.extend_from_slice(&buffer[..count]);
                    if is_complete(&request) {
                        request.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            }
        })
        .await;
        let portreeve = Config::to(&upstream).manager(manager).start().await;
        Observed { _upstream: upstream, portreeve, received }
    }

    async fn check(&self, cases: impl IntoIterator<Item = Case>) {
        let mut wrong = Vec::new();
        for (name, bytes, status) in cases {
            self.received.lock().unwrap().clear();
            let answer = exchange(self.portreeve.address(), bytes + LAST).await;
            let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
            let received = String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned();
            let requests = received.lines().filter(|line| line.ends_with(" HTTP/1.1")).count();
            let right = if status == 200 {
                statuses == ["200", "200"] && requests == 2 && !received.contains("/smuggled HTTP")
            } else {
                statuses == [status.to_string()]
                    && !received.contains("/smuggled")
                    && !received.contains("/last")
                    && !is_complete(received.as_bytes())
            };
            if !right {
                wrong.push(format!("{name}: wanted {status}, got {statuses:?}, and the upstream {received:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(self.portreeve.send(get("/x")).await.status, 200, "the server goes on");
    }
}

/// Whether these bytes are one whole request, as a server sees it that reads what HTTP/1.1 says and no more.
fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
    match length {
        Some(length) => body.len() >= length,
        None if head.contains("\r\ntransfer-encoding: ") => body.starts_with("0\r\n") || body.contains("\r\n0\r\n"),
        None => true,
    }
}

#[tokio::test]
async fn bodies_with_two_ends_are_refused() {
    let cases = [
        ("length, then coding", coded("content-length: 6\r\ntransfer-encoding: chunked\r\n"), 400),
        ("coding, then length", coded("transfer-encoding: chunked\r\ncontent-length: 6\r\n"), 400),
        ("white space before the colon", coded("transfer-encoding : chunked\r\n"), 400),
        ("a coding that is none", coded("transfer-encoding: xchunked\r\n"), 501),
        ("a vertical tab", coded("transfer-encoding: \x0bchunked\r\n"), 400),
        ("a folded line", coded("transfer-encoding:\r\n chunked\r\n"), 400),
        ("the coding twice", coded("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"), 501),
        ("two codings", coded("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n"), 501),
        ("chunked is not the last", coded("transfer-encoding: chunked, identity\r\n"), 501),
        ("chunked is not the only one", coded("transfer-encoding: gzip, chunked\r\n"), 501),
        ("identity", coded("transfer-encoding: identity\r\n"), 501),
        ("nothing", coded("transfer-encoding:\r\n"), 501),
        ("quotes", coded("transfer-encoding: \"chunked\"\r\n"), 501),
        ("a comma behind it", coded("transfer-encoding: chunked,\r\n"), 501),
        ("a parameter", coded("transfer-encoding: chunked;q=1\r\n"), 501),
        ("a bare CR in the name", coded("transfer-encoding\r: chunked\r\n"), 400),
        ("a NUL behind it", coded("transfer-encoding: chunked\0\r\n"), 400),
        ("HTTP/1.0", format!("POST /x HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{SMUGGLED}"), 426),
        ("a tab before it", post("transfer-encoding:\tchunked\r\n", "0\r\n\r\n"), 200),
        ("capitals", post("Transfer-Encoding: CHUNKED\r\n", "0\r\n\r\n"), 200),
        ("lengths that differ", sized("content-length: 1\r\ncontent-length: 5\r\n"), 400),
        ("the length twice", sized("content-length: 5\r\ncontent-length: 5\r\n"), 400),
        ("a list", sized("content-length: 5, 5\r\n"), 400),
        ("a plus", sized("content-length: +5\r\n"), 400),
        ("a minus", sized("content-length: -5\r\n"), 400),
        ("hexadecimal", sized("content-length: 0x5\r\n"), 400),
        ("an exponent", sized("content-length: 5e0\r\n"), 400),
        ("two numbers", sized("content-length: 5 5\r\n"), 400),
        ("letters", sized("content-length: 5x\r\n"), 400),
        ("an empty length", sized("content-length:\r\n"), 400),
        ("more than 64 bits", sized("content-length: 18446744073709551621\r\n"), 400),
        ("more than 63 bits", sized("content-length: 9223372036854775808\r\n"), 400),
        ("white space before the colon of a length", sized("content-length : 5\r\n"), 400),
        ("leading zeros", sized("content-length: 005\r\n"), 200),
        ("white space around", sized("content-length: \t5 \r\n"), 200),
    ];
    Observed::start("server_name: test").await.check(cases).await;
}

#[tokio::test]
async fn a_transfer_coding_counts_before_a_length_where_that_is_allowed() {
    let observed = Observed::start("http_protocol_options: { allow_chunked_length: true }").await;
    let cases = [
        ("both", post("content-length: 6\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"), 200),
        ("both, and another coding", coded("content-length: 6\r\ntransfer-encoding: gzip\r\n"), 400),
    ];
    observed.check(cases).await;
    assert!(!String::from_utf8_lossy(&observed.received.lock().unwrap()).contains("content-length: 6"));
}

#[tokio::test]
async fn chunks_that_are_none_are_refused() {
    let long = |bytes: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(bytes));
    let cases = [
        ("chunks", chunks("5\r\nhello\r\n0\r\n\r\n"), 200),
        ("an extension", chunks("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"), 200),
        ("white space", chunks("5 \r\nhello\r\n0\r\n\r\n"), 200),
        ("a last chunk of two zeros", chunks("5\r\nhello\r\n00\r\n\r\n"), 200),
        ("a long extension", chunks(&long(20_000)), 400),
        ("many extensions", chunks(&(format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100) + "0\r\n\r\n")), 400),
        ("an extension with LF", chunks("5;a\nb\r\nhello\r\n0\r\n\r\n"), 400),
        ("an extension with CR", chunks("5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
        ("an extension with NUL", chunks("5;a\0b\r\nhello\r\n0\r\n\r\n"), 400),
        ("an extension without semicolon", chunks("5 a\r\nhello\r\n0\r\n\r\n"), 400),
        ("white space first", chunks(" 5\r\nhello\r\n0\r\n\r\n"), 400),
        ("LF alone", chunks("5\nhello\r\n0\r\n\r\n"), 400),
        ("CR alone", chunks("5\rhello\r\n0\r\n\r\n"), 400),
        ("a prefix", chunks("0x5\r\nhello\r\n0\r\n\r\n"), 400),
        ("a plus", chunks("+5\r\nhello\r\n0\r\n\r\n"), 400),
        ("a minus", chunks("-5\r\nhello\r\n0\r\n\r\n"), 400),
        ("no digit", chunks("g\r\nhello\r\n0\r\n\r\n"), 400),
        ("no size", chunks("\r\nhello\r\n0\r\n\r\n"), 400),
        ("64 bits", chunks("FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"), 400),
        ("more than 64 bits", chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"), 400),
        ("zeros without end", chunks(&format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(200))), 400),
        ("no line end after a chunk", chunks("5\r\nhello0\r\n\r\n"), 400),
        ("more than a chunk's size", chunks("5\r\nhelloXX\r\n0\r\n\r\n"), 400),
        ("LF after a chunk", chunks("5\r\nhello\n0\r\n\r\n"), 400),
        ("LF at the end", chunks("5\r\nhello\r\n0\r\n\n"), 400),
        ("LF after the last chunk", chunks("5\r\nhello\r\n0\n\r\n"), 400),
        ("a trailer", chunks("5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"), 200),
        ("a length in the trailers", chunks("5\r\nhello\r\n0\r\ncontent-length: 7\r\n\r\n"), 200),
        ("a coding in the trailers", chunks("5\r\nhello\r\n0\r\ntransfer-encoding: chunked\r\n\r\n"), 200),
        ("a host in the trailers", chunks("5\r\nhello\r\n0\r\nhost: b\r\n\r\n"), 200),
        ("a trailer that is none", chunks("5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n"), 400),
        ("a folded trailer", chunks("5\r\nhello\r\n0\r\nx: 1\r\n 2\r\n\r\n"), 400),
        ("large trailers", chunks(&format!("5\r\nhello\r\n0\r\nx: {}\r\n\r\n", "x".repeat(70_000))), 431),
        ("many trailers", chunks(&format!("5\r\nhello\r\n0\r\n{}\r\n", "x: 1\r\n".repeat(200))), 431),
    ];
    Observed::start("server_name: test").await.check(cases).await;
}

#[tokio::test]
async fn heads_that_servers_read_differently_are_refused() {
    let many = |count: usize| with(&"x: 1\r\n".repeat(count));
    let cases = [
        ("a folded line", with("x: 1\r\n 2\r\n"), 400),
        ("a folded line by a tab", with("x: 1\r\n\t2\r\n"), 400),
        ("a folded first line", "GET /x HTTP/1.1\r\n host: a\r\n\r\n".into(), 400),
        ("CR in a value", with("x: 1\r2\r\n"), 400),
        ("CR CR LF", with("x: 1\r\r\n"), 400),
        ("CR in a name", with("x\r: 1\r\n"), 400),
        ("NUL in a value", with("x: 1\x002\r\n"), 400),
        ("NUL in a name", with("x\0: 1\r\n"), 400),
        ("a control character", with("x: 1\x012\r\n"), 400),
        ("DEL", with("x: 1\x7f2\r\n"), 400),
        ("no name", with(": 1\r\n"), 400),
        ("white space in a name", with("x y: 1\r\n"), 400),
        ("white space before the colon", with("x : 1\r\n"), 400),
        ("no colon", with("x\r\n"), 400),
        ("brackets in a name", with("x(y): 1\r\n"), 400),
        ("a pseudo-header", with(":path: /y\r\n"), 400),
        ("LF line ends", "GET /x HTTP/1.1\nhost: a\n\n".into(), 200),
        ("a tab in a value", with("x: 1\t2\r\n"), 200),
        ("bytes beyond ASCII in a value", with("x: ä\r\n"), 200),
        ("an empty value", with("x:\r\n"), 200),
        ("as many fields as may be", many(99), 200),
        ("too many fields", many(100), 431),
        ("too large a field", with(&format!("x: {}\r\n", "x".repeat(62_000))), 431),
        ("two hosts", with("host: b\r\n"), 400),
        ("the host twice", with("host: a\r\n"), 400),
        ("no host", "GET /x HTTP/1.1\r\n\r\n".into(), 400),
        ("a host with user information", "GET /x HTTP/1.1\r\nhost: u@a\r\n\r\n".into(), 400),
        ("a host with a space", "GET /x HTTP/1.1\r\nhost: a b\r\n\r\n".into(), 400),
        ("a host with a path", "GET /x HTTP/1.1\r\nhost: a/b\r\n\r\n".into(), 400),
        ("a host with a query", "GET /x HTTP/1.1\r\nhost: a?b\r\n\r\n".into(), 400),
        ("a host with a quote", "GET /x HTTP/1.1\r\nhost: a\"b\r\n\r\n".into(), 400),
    ];
    Observed::start("server_name: test").await.check(cases).await;
}

#[tokio::test]
async fn request_lines_that_servers_read_differently_are_refused() {
    let cases = [
        ("two spaces", line("GET  /x HTTP/1.1"), 400),
        ("tabs", line("GET\t/x\tHTTP/1.1"), 400),
        ("a space behind", line("GET /x HTTP/1.1 "), 400),
        ("a space before", line(" GET /x HTTP/1.1"), 400),
        ("a space in the target", line("GET /x /y HTTP/1.1"), 400),
        ("a tab in the target", line("GET /x\t HTTP/1.1"), 400),
        ("NUL in the target", line("GET /x\0 HTTP/1.1"), 400),
        ("DEL in the target", line("GET /x\x7f HTTP/1.1"), 400),
        ("bytes beyond ASCII in the target", line("GET /xä HTTP/1.1"), 400),
        ("a fragment", line("GET /x#y HTTP/1.1"), 400),
        ("no target", line("GET  HTTP/1.1"), 400),
        ("a relative target", line("GET x HTTP/1.1"), 400),
        ("an authority", line("GET a:80 HTTP/1.1"), 400),
        ("an asterisk for GET", line("GET * HTTP/1.1"), 400),
        ("a tunnel to a path", line("CONNECT /x HTTP/1.1"), 400),
        ("a tunnel to no port", line("CONNECT a HTTP/1.1"), 400),
        ("another scheme", line("GET ftp://a/x HTTP/1.1"), 400),
        ("an absolute URL without host", line("GET http:///x HTTP/1.1"), 400),
        ("an absolute URL with user information", line("GET http://u:p@a/x HTTP/1.1"), 400),
        ("an absolute URL with no port", line("GET http://a:99999/x HTTP/1.1"), 400),
        ("an absolute URL", line("GET http://b/x HTTP/1.1"), 200),
        ("empty lines before", format!("\r\n\r\n{}", line("GET /x HTTP/1.1")), 200),
        ("an unknown method", line("FOO /x HTTP/1.1"), 400),
        ("a method in small letters", line("get /x HTTP/1.1"), 400),
        ("a method with a colon", line("G:T /x HTTP/1.1"), 400),
        ("a control character in the method", line("G\x01T /x HTTP/1.1"), 400),
        ("a long method", line(&format!("{} /x HTTP/1.1", "A".repeat(5000))), 400),
        ("HTTP/1.0", line("GET /x HTTP/1.0"), 426),
        ("HTTP/1.2", line("GET /x HTTP/1.2"), 426),
        ("HTTP/2.0", line("GET /x HTTP/2.0"), 426),
        ("HTTP/0.9", "GET /x\r\n\r\n".into(), 426),
        ("a version of two digits", line("GET /x HTTP/1.10"), 400),
        ("a version in small letters", line("GET /x http/1.1"), 400),
        ("no HTTP", "\x16\x03\x01\x02\r\n\r\n".into(), 400),
        ("a long target", line(&format!("GET /{} HTTP/1.1", "x".repeat(62_000))), 431),
    ];
    Observed::start("server_name: test").await.check(cases).await;
}

#[tokio::test]
async fn the_host_of_an_absolute_url_takes_the_place_of_another() {
    let observed = Observed::start("server_name: test").await;
    exchange(observed.portreeve.address(), line("GET http://b/x HTTP/1.1") + LAST).await;
    let received = String::from_utf8_lossy(&observed.received.lock().unwrap()).into_owned();
    let first = received.split("\r\n\r\n").next().unwrap();
    assert!(first.contains("\r\nhost: b\r\n") && !first.contains("\r\nhost: a\r\n"), "{first}");
}

/// A HEADERS frame with these fields as they are, which no HTTP/2 client would send, and what came back: the first frame of the stream.
async fn http2(observed: &Observed, fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let flags = if body.is_empty() { 5 } else { 4 };
    bytes.extend_from_slice(&[0, 0, u8::try_from(block.len()).unwrap(), 1, flags, 0, 0, 0, 1]);
    bytes.extend_from_slice(&block);
    if !body.is_empty() {
        bytes.extend_from_slice(&[0, 0, u8::try_from(body.len()).unwrap(), 0, 1, 0, 0, 0, 1]);
        bytes.extend_from_slice(body.as_bytes());
    }
    let mut stream = client::connect(observed.portreeve.address()).await;
    stream.write_all(&bytes).await.unwrap();
    loop {
        let mut head = [0; 9];
        if within("a frame", stream.read_exact(&mut head)).await.is_err() {
            return Vec::new();
        }
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        within("its payload", stream.read_exact(&mut payload)).await.unwrap();
        if matches!(head[3], 1 | 3 | 7) {
            return [&head[3..4], &payload].concat();
        }
    }
}

#[tokio::test]
async fn http2_requests_that_mean_something_else_in_http1_are_refused() {
    let observed = Observed::start("server_name: test").await;
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x")];
    let and = |fields: &[(&'static str, &'static str)]| [&usual[..], fields].concat();
    let without = |name: &str| usual.into_iter().filter(|(other, _)| *other != name).collect::<Vec<_>>();
    let instead = |name: &'static str, value: &'static str| {
        usual.map(|(other, old)| (other, if other == name { value } else { old })).to_vec()
    };
    let passed = http2(&observed, &usual, "").await;
    assert_eq!(passed.get(..2), Some(&[1, 0x88][..]), "a request passes: {passed:?}");
    for (name, fields) in [
        ("a pseudo-header twice", and(&[(":path", "/y")])),
        ("an unknown pseudo-header", and(&[(":foo", "1")])),
        ("a pseudo-header of responses", and(&[(":status", "200")])),
        ("a pseudo-header behind a field", [&[("x", "1")][..], &usual].concat()),
        ("capitals", and(&[("X-A", "1")])),
        ("connection", and(&[("connection", "close")])),
        ("keep-alive", and(&[("keep-alive", "1")])),
        ("proxy-connection", and(&[("proxy-connection", "close")])),
        ("transfer-encoding", and(&[("transfer-encoding", "chunked")])),
        ("upgrade", and(&[("upgrade", "websocket")])),
        ("te", and(&[("te", "gzip")])),
        ("no path", without(":path")),
        ("no method", without(":method")),
        ("an empty path", instead(":path", "")),
        ("a relative path", instead(":path", "x")),
        ("a path with a space", instead(":path", "/x HTTP/1.1")),
        ("a path with line ends", instead(":path", "/x HTTP/1.1\r\nx: 1")),
        ("a method with line ends", instead(":method", "GET / HTTP/1.1\r\n\r\nGET")),
        ("a method with a space", instead(":method", "GET /smuggled")),
        ("an authority with line ends", instead(":authority", "a\r\nx: 1")),
        ("an authority with user information", instead(":authority", "u@a")),
        ("CR LF in a value", and(&[("x", "1\r\ny: 2")])),
        ("LF in a value", and(&[("x", "1\ny: 2")])),
        ("CR in a value", and(&[("x", "1\ry")])),
        ("NUL in a value", and(&[("x", "1\0")])),
        ("CR LF in a name", and(&[("x: 1\r\ny", "2")])),
        ("a space in a name", and(&[("x y", "2")])),
        ("a colon in a name", and(&[("x:", "2")])),
        ("a length that is none", and(&[("content-length", "x")])),
        ("a length without a body", and(&[("content-length", "5")])),
        ("two lengths", and(&[("content-length", "0"), ("content-length", "1")])),
    ] {
        observed.received.lock().unwrap().clear();
        let answer = http2(&observed, &fields, "").await;
        let received = String::from_utf8_lossy(&observed.received.lock().unwrap()).into_owned();
        assert!(
            answer.get(..2) != Some(&[1, 0x88]) && received.is_empty(),
            "{name}: {answer:?}, upstream {received:?}"
        );
    }
    // The authority counts, and the other host goes nowhere.
    observed.received.lock().unwrap().clear();
    let answer = http2(&observed, &and(&[("host", "b")]), "").await;
    let received = String::from_utf8_lossy(&observed.received.lock().unwrap()).into_owned();
    assert!(
        answer.starts_with(&[1, 0x88]) && received.contains("host: a\r\n") && !received.contains("host: b"),
        "{received}"
    );
    let sized = [&[(":method", "POST")], &usual[1..], &[("content-length", "3")]].concat();
    let answer = http2(&observed, &sized, "hello").await;
    assert_ne!(answer.get(..2), Some(&[1, 0x88][..]), "a body longer than its length");
}
