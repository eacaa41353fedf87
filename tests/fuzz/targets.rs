//! The targets: what each parser must hold for any input.

use std::{cell::RefCell, convert::Infallible, fmt::Write as _, rc::Rc, str};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use portreeve::{
    access_log::Format,
    config::{self, Colours, Diagnostics, Report, Source},
    http::{
        Request,
        body::Body,
        grpc, http1,
        path::{EscapedSlashes, Normalized, PathRules, normalize},
    },
    matcher::UriTemplate,
    net::{
        Io,
        proxy_protocol::{self, Parsed},
    },
    proto,
    tls::{ClientHello, Inspected},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::UnixStream,
};

/// Formats of access logs. A format without commands is its own text.
pub fn access_log_format(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(format) = Format::parse(text)
        && let Some(literal) = format.as_literal()
    {
        assert_eq!(literal, text.replace("%%", "%"));
    }
}

/// What a client sends first to a TLS port: read without waiting for more than the limit.
pub fn client_hello(input: &[u8]) {
    const LIMIT: usize = 2_048;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(input).await.unwrap();
        drop(theirs);
        let seen = ClientHello::inspect(&mut Io::unix(ours).unwrap(), LIMIT).await.unwrap();
        assert!(!matches!(seen, Inspected::Tls(_)) || input.first() == Some(&22));
        assert!(!matches!(seen, Inspected::TooLarge) || input.len() >= LIMIT);
    });
}

/// Documents: every problem has a place that can be shown.
pub fn configuration(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let source = Source::new("fuzz.yaml", text);
    let report = Report::new();
    let message: Option<proto::bootstrap::Bootstrap> = config::load(&source, &report);
    let diagnostics = Diagnostics::new(&source, report);
    assert!(message.is_some() || diagnostics.errors() > 0, "refused in silence");
    let _ = diagnostics.render(Colours::Off);
}

/// `grpc-timeout`: what is understood is written and read again as the same time, or as a longer one where digits run out.
pub fn grpc_timeout(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let headers = |value| HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), value)]);
    if let Some(timeout) = grpc::timeout(&headers(value)) {
        let again = grpc::timeout(&headers(grpc::timeout_value(timeout)));
        assert!(again.is_some_and(|again| again >= timeout), "{timeout:?} became {again:?}");
    }
}

/// Paths under all rules: a path that is normal stays as it is.
pub fn path(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for escaped_slashes in [EscapedSlashes::Keep, EscapedSlashes::Reject, EscapedSlashes::UnescapeAndForward] {
        let rules = PathRules { normalize_path: true, merge_slashes: true, escaped_slashes };
        if let Normalized::Forward(path) = normalize(text, rules)
            && path.starts_with('/')
        {
            let plain = path.split('?').next().unwrap();
            assert!(!plain.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
            assert!(!plain.contains("//"), "{path}");
            assert_eq!(normalize(&path, rules), Normalized::Forward(path.as_ref().into()));
        }
    }
}

/// PROXY headers: what was understood, written anew, is understood as the same; half a header is never taken for a whole one.
pub fn proxy_protocol(input: &[u8]) {
    let Parsed::Header(header) = proxy_protocol::parse(input) else { return };
    assert!(header.length <= input.len());
    assert!(proxy_protocol::may_begin(header.version, input));
    for end in 0..header.length {
        assert!(!matches!(proxy_protocol::parse(&input[..end]), Parsed::Header(_)), "whole after {end} bytes");
    }
    let tlvs = header.tlvs.iter().map(|(kind, value)| (*kind, value.as_slice()));
    for written in [proxy_protocol::v1(header.addresses), proxy_protocol::v2(header.addresses, tlvs)] {
        let Parsed::Header(again) = proxy_protocol::parse(&written) else { panic!("{}", written.escape_ascii()) };
        assert_eq!((again.addresses, again.length), (header.addresses, written.len()));
    }
}

/// A template in the first line, and a path.
pub fn uri_template(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (template, path) = text.split_once('\n').unwrap_or((text, "/"));
    if let Ok(template) = UriTemplate::parse(template) {
        assert_eq!(template.matches(path.as_bytes()), template.captures(path.as_bytes()).is_some());
    }
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
