//! HTTP on the wire: what is a request for us, and what the other parser of ours or another's thinks of it.

use std::{cell::RefCell, convert::Infallible, fmt::Write as _, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Response, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use portreeve::http::{Request, body::Body, http1, http2};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::LocalSet,
    time::timeout,
};

/// How an HTTP/2 client begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frames after the preface: the connection ends, whatever they are, and every request is told the end of its body.
pub fn http2(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let echo = |request: Request| async move {
        let body = request.into_body().collect().await;
        Response::new(body.map_or(Body::empty(), |body| Body::full(body.to_bytes())))
    };
    let (client, server) = duplex(1 << 16);
    let (bytes, tasks) = ([PREFACE, input].concat(), LocalSet::new());
    let within = Duration::from_mins(1);
    let ended = tasks.block_on(&runtime, async {
        let options = http2::Options::default();
        let watch = http2::Watch::uncounted();
        let connection = http2::serve(server, (&options, 1 << 16), &watch, echo, std::future::pending());
        timeout(within, async { tokio::join!(connection, send(client, &bytes)) }).await
    });
    assert!(ended.is_ok(), "the connection does not end");
    let ended = runtime.block_on(async { timeout(within, tasks).await });
    assert!(ended.is_ok(), "a stream does not end with its connection");
}

/// Requests of HTTP/1: whatever passes is for hyper what it is for us, as it came and as it goes on.
pub fn http1(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let ours = read_by_us(input).await;
        for (ours, theirs) in ours.iter().zip(read_by_hyper(input).await) {
            assert_eq!(*ours, theirs);
        }
        for message in &ours {
            assert_eq!(read_by_hyper(&message.to_bytes()).await, std::slice::from_ref(message));
        }
    });
}

/// A request that was read to its end.
#[derive(Debug, PartialEq)]
struct Message {
    line: String,
    /// Without those that frame the body.
    fields: Vec<(String, Bytes)>,
    body: Bytes,
}

impl Message {
    fn new(head: &http::request::Parts, body: Bytes) -> Message {
        let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        let fields = head.headers.iter().filter(|(name, _)| !framing.contains(name));
        let fields = fields.map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes())));
        Message { line: format!("{} {}", head.method, head.uri), fields: fields.collect(), body }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} HTTP/1.1\r\n", self.line).into_bytes();
        for (name, value) in &self.fields {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        let mut length = String::new();
        write!(length, "content-length: {}\r\n\r\n", self.body.len()).unwrap();
        bytes.extend_from_slice(length.as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

async fn read_by_us(input: &[u8]) -> Vec<Message> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    let service = move |request: Request| {
        let log = Rc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                log.borrow_mut().push(Message::new(&head, body.to_bytes()));
            }
            Response::new(Body::empty())
        }
    };
    let (client, server) = duplex(1 << 16);
    let options = http1::Options { allow_custom_methods: true, delayed_close: None, ..http1::Options::default() };
    // How it ends is in what was seen.
    let _ = tokio::join!(http1::serve(server, &options, &service, std::future::pending()), send(client, input));
    seen.take()
}

async fn read_by_hyper(input: &[u8]) -> Vec<Message> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let log = Rc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                log.borrow_mut().push(Message::new(&head, body.to_bytes()));
            }
            Ok::<_, Infallible>(Response::new(http_body_util::Empty::<Bytes>::new()))
        }
    });
    let (client, server) = duplex(1 << 16);
    let connection =
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
    let _ = tokio::join!(connection, send(client, input));
    seen.take()
}

/// Sends all, and reads until the other side has answered all and closed.
async fn send(mut client: DuplexStream, input: &[u8]) {
    // Whoever refuses the first bytes may not take the rest.
    let _ = client.write_all(input).await;
    let _ = client.shutdown().await;
    let _ = client.read_to_end(&mut Vec::new()).await;
}
