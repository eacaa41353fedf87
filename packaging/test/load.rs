//! The load of the system tests: clients of every kind, for the whole run, and the upstream that they reach through Portreeve.
//!
//! They are strict: a refused connection, a reset, an answer that is cut short or differs, a 5xx, a stream that ends before its
//! client ends it, and a request that was given up after the upstream had seen it are failures. What the protocols allow is none:
//! `Connection: close` is followed by a new connection, streams above the last id of a GOAWAY are sent again.
//!
//! On SIGTERM or after `--seconds` everything ends in order, and one line of JSON says how it went; before, one line `ready` says
//! that every kind has been answered.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use clap::Parser;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::StreamExt as _;

/// Nothing may take longer: a new connection may have to wait for a process that is restarted, but not for ever.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Args {
    /// The TLS port
    #[arg(long, default_value = "127.0.0.1:443")]
    address: SocketAddr,
    /// The name on the certificate
    #[arg(long, default_value = "localhost")]
    name: String,
    /// The authority that has signed it
    #[arg(long)]
    ca: PathBuf,
    /// Where the upstream listens: HTTP/1.1 here, HTTP/2 on the next port
    #[arg(long, default_value = "127.0.0.1:9001")]
    upstream: SocketAddr,
    /// Only these kinds of client
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// How long to go on; without it until SIGTERM
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let load = Rc::new(Load::new(&args)?);
    serve_upstream(args.upstream, &load.seen).await?;

    let mut clients = Clients { only: args.kinds, load: load.clone(), tasks: JoinSet::new(), kinds: BTreeMap::new() };
    clients.add("http1_keepalive", 6, keepalive);
    clients.add("http1_new", 2, new_connection);
    clients.add("http1_slow", 2, slow);
    clients.add("http2", 2, http2);
    clients.add("grpc", 3, grpc);
    clients.add("websocket", 3, websocket);
    clients.add("resumption_tls12", 1, async |load, kind| resume(load, kind, &load.tls12).await);
    clients.add("resumption_tls13", 1, async |load, kind| resume(load, kind, &load.tls13).await);
    let Clients { mut tasks, kinds, .. } = clients;

    let began = Instant::now();
    let end = async {
        match args.seconds {
            Some(seconds) => sleep(Duration::from_secs(seconds)).await,
            None => drop(signals.next().await),
        }
    };
    tokio::pin!(end);
    let all_answered = async {
        while kinds.values().any(|kind| kind.0.borrow().requests == 0) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = &mut end => {}
        () = all_answered => {
            say("ready")?;
            end.await;
        }
    }
    load.ending.set(true);
    let unfinished = timeout(PATIENCE * 2, async { while tasks.join_next().await.is_some() {} }).await.is_err();
    let kinds: BTreeMap<_, _> = kinds.iter().map(|(name, kind)| (name, kind.0.borrow())).collect();
    let report = serde_json::json!({
        "seconds": began.elapsed().as_secs(),
        "unfinished": unfinished,
        "requests": kinds.values().map(|kind| kind.requests).sum::<u64>(),
        "failures": kinds.values().map(|kind| kind.failures).sum::<u64>(),
        "kinds": kinds.iter().map(|(name, counts)| (*name, &**counts)).collect::<BTreeMap<_, _>>(),
    });
    say(&report.to_string())
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// What one kind of client has seen.
#[derive(Default, Serialize)]
struct Counts {
    /// Answered as they should be; of streams, messages
    requests: u64,
    failures: u64,
    /// The first few, with the second at which they came
    reasons: Vec<String>,
    connections: u64,
    /// Streams that a GOAWAY has turned away and that were sent again
    retried: u64,
    full_handshakes: u64,
    resumed_handshakes: u64,
    slowest_ms: u128,
}

#[derive(Clone, Default)]
struct Kind(Rc<RefCell<Counts>>);

impl Kind {
    fn answered(&self, began: Instant) {
        let mut counts = self.0.borrow_mut();
        counts.requests += 1;
        counts.slowest_ms = counts.slowest_ms.max(began.elapsed().as_millis());
    }

    fn failed(&self, second: f64, error: &anyhow::Error) {
        let mut counts = self.0.borrow_mut();
        counts.failures += 1;
        if counts.reasons.len() < 5 {
            counts.reasons.push(format!("{second:.2} s: {error:#}"));
        }
    }
}

/// What all clients know.
struct Load {
    address: SocketAddr,
    name: ServerName<'static>,
    http1: TlsConnector,
    http2: TlsConnector,
    /// These resume sessions.
    tls12: TlsConnector,
    tls13: TlsConnector,
    began: Instant,
    ending: Cell<bool>,
    next: Cell<u64>,
    /// The requests that have reached the upstream and are not answered yet
    seen: Seen,
}

type Seen = Rc<RefCell<HashSet<u64>>>;

impl Load {
    fn new(args: &Args) -> anyhow::Result<Load> {
        let mut roots = RootCertStore::empty();
        for certificate in rustls_pemfile::certs(&mut BufReader::new(File::open(&args.ca)?)) {
            roots.add(certificate?)?;
        }
        let connector = |alpn: &str, versions, resumption| -> anyhow::Result<TlsConnector> {
            let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_protocol_versions(versions)?
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![alpn.into()];
            config.resumption = resumption;
            Ok(Arc::new(config).into())
        };
        let both = &[&TLS12, &TLS13];
        Ok(Load {
            address: args.address,
            name: ServerName::try_from(args.name.clone())?,
            http1: connector("http/1.1", both, Resumption::disabled())?,
            http2: connector("h2", both, Resumption::disabled())?,
            tls12: connector("http/1.1", &[&TLS12], Resumption::default())?,
            tls13: connector("http/1.1", &[&TLS13], Resumption::default())?,
            began: Instant::now(),
            ending: Cell::new(false),
            next: Cell::new(1),
            seen: Seen::default(),
        })
    }

    fn ending(&self) -> bool {
        self.ending.get()
    }

    async fn connect(&self, kind: &Kind, connector: &TlsConnector) -> anyhow::Result<TlsStream<TcpStream>> {
        kind.0.borrow_mut().connections += 1;
        patiently("connection", async {
            let stream = TcpStream::connect(self.address).await.context("connect")?;
            stream.set_nodelay(true)?;
            connector.connect(self.name.clone(), stream).await.context("TLS handshake")
        })
        .await
    }

    /// A number for a request, and a body that no other request has.
    fn body(&self) -> (u64, String) {
        let id = self.next.replace(self.next.get() + 1);
        // Now and then more than a socket's buffer takes at once.
        let length = if id.is_multiple_of(50) { 300_000 } else { 100 };
        let body = format!("{id:020}").repeat(length / 20);
        (id, body)
    }
}

async fn patiently<T>(what: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| anyhow::anyhow!("{what}: nothing for {PATIENCE:?}"))?
}

struct Clients {
    only: Vec<String>,
    load: Rc<Load>,
    tasks: JoinSet<()>,
    kinds: BTreeMap<&'static str, Kind>,
}

impl Clients {
    /// Starts clients that make one connection after the other. `connection` answers `Ok` when it has ended as it may.
    fn add<C>(&mut self, name: &'static str, count: usize, connection: C)
    where
        C: AsyncFn(&Rc<Load>, &Kind) -> anyhow::Result<()> + Copy + 'static,
    {
        if !self.only.is_empty() && !self.only.iter().any(|only| only == name) {
            return;
        }
        let kind = Kind::default();
        self.kinds.insert(name, kind.clone());
        for _ in 0..count {
            let (load, kind) = (self.load.clone(), kind.clone());
            self.tasks.spawn_local(async move {
                while !load.ending() {
                    if let Err(error) = connection(&load, &kind).await {
                        kind.failed(load.began.elapsed().as_secs_f64(), &error);
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            });
        }
    }
}

/// HTTP/1.1 requests until an answer says `Connection: close`.
async fn keepalive(load: &Rc<Load>, kind: &Kind) -> anyhow::Result<()> {
    let mut connection = Http1 { stream: load.connect(kind, &load.http1).await?, buffer: BytesMut::new() };
    while !load.ending() {
        let began = Instant::now();
        let close = connection.exchange(load, "keep-alive").await?;
        kind.answered(began);
        if close {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// One HTTP/1.1 request.
async fn new_connection(load: &Rc<Load>, kind: &Kind) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut connection = Http1 { stream: load.connect(kind, &load.http1).await?, buffer: BytesMut::new() };
    connection.exchange(load, "close").await?;
    kind.answered(began);
    sleep(Duration::from_millis(20)).await;
    Ok(())
}

/// HTTP/1.1 requests whose bodies take seconds, so that reloads fall into them.
async fn slow(load: &Rc<Load>, kind: &Kind) -> anyhow::Result<()> {
    let mut connection = Http1 { stream: load.connect(kind, &load.http1).await?, buffer: BytesMut::new() };
    while !load.ending() {
        let began = Instant::now();
        let (id, body) = load.body();
        connection.send(id, "keep-alive", body.len(), b"").await?;
        for part in body.as_bytes().chunks(body.len().div_ceil(20)) {
            sleep(Duration::from_millis(100)).await;
            connection.stream.write_all(part).await?;
            connection.stream.flush().await?;
        }
        let close = connection.answer(&body).await?;
        load.seen.borrow_mut().remove(&id);
        kind.answered(began);
        if close {
            break;
        }
    }
    Ok(())
}

/// One HTTP/1.1 request, and whether its session was a resumed one.
async fn resume(load: &Rc<Load>, kind: &Kind, connector: &TlsConnector) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut connection = Http1 { stream: load.connect(kind, connector).await?, buffer: BytesMut::new() };
    // Tickets of TLS 1.3 come with the answer.
    connection.exchange(load, "keep-alive").await?;
    match connection.stream.get_ref().1.handshake_kind() {
        Some(HandshakeKind::Resumed) => kind.0.borrow_mut().resumed_handshakes += 1,
        _ => kind.0.borrow_mut().full_handshakes += 1,
    }
    kind.answered(began);
    connection.stream.shutdown().await?;
    sleep(Duration::from_millis(100)).await;
    Ok(())
}

struct Http1 {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
}

impl Http1 {
    /// A request and its answer; whether the connection is to be closed.
    async fn exchange(&mut self, load: &Load, connection: &str) -> anyhow::Result<bool> {
        let (id, body) = load.body();
        self.send(id, connection, body.len(), body.as_bytes()).await?;
        let close = self.answer(&body).await?;
        load.seen.borrow_mut().remove(&id);
        Ok(close)
    }

    async fn send(&mut self, id: u64, connection: &str, length: usize, body: &[u8]) -> anyhow::Result<()> {
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: localhost\r\nx-load: {id}\r\nconnection: {connection}\r\ncontent-length: {length}\r\n\r\n"
        );
        self.write(&[head.as_bytes(), body].concat()).await
    }

    async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await.context("request")?;
        self.stream.flush().await.context("request")
    }

    /// Reads an answer with this body; whether the connection is to be closed.
    async fn answer(&mut self, expected: &str) -> anyhow::Result<bool> {
        patiently("answer", async {
            let head = self.head().await?;
            let has = |name: &str, word: &str| {
                head.lines()
                    .filter_map(|line| line.split_once(':'))
                    .any(|(key, value)| key.eq_ignore_ascii_case(name) && value.to_ascii_lowercase().contains(word))
            };
            let status = head.lines().next().unwrap_or_default();
            let mut body = BytesMut::new();
            if has("transfer-encoding", "chunked") {
                loop {
                    let size = self.line().await?;
                    let size = usize::from_str_radix(size.trim(), 16).context("chunk size")?;
                    self.fill(size + 2).await?;
                    body.extend_from_slice(&self.buffer.split_to(size));
                    self.buffer.advance(2);
                    if size == 0 {
                        break;
                    }
                }
            } else {
                let length = head
                    .lines()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
                let length: usize = length.with_context(|| format!("no length in {head:?}"))?;
                self.fill(length).await?;
                body = self.buffer.split_to(length);
            }
            ensure!(status.starts_with("HTTP/1.1 200"), "{status}: {}", String::from_utf8_lossy(&body));
            ensure!(body == expected.as_bytes(), "another body than expected, {} bytes", body.len());
            Ok(has("connection", "close"))
        })
        .await
    }

    async fn head(&mut self) -> anyhow::Result<String> {
        let mut head = String::new();
        loop {
            let line = self.line().await?;
            if line == "\r\n" {
                return Ok(head);
            }
            head += &line;
        }
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                return Ok(String::from_utf8(self.buffer.split_to(end + 1).to_vec())?);
            }
            self.fill(self.buffer.len() + 1).await?;
        }
    }

    async fn fill(&mut self, length: usize) -> anyhow::Result<()> {
        while self.buffer.len() < length {
            let read = self.stream.read_buf(&mut self.buffer).await.context("answer")?;
            ensure!(read > 0, "the connection was closed, {} bytes short", length - self.buffer.len());
        }
        Ok(())
    }
}

/// A WebSocket: messages, and each comes back.
async fn websocket(load: &Rc<Load>, kind: &Kind) -> anyhow::Result<()> {
    let mut connection = Http1 { stream: load.connect(kind, &load.http1).await?, buffer: BytesMut::new() };
    let key = BASE64_STANDARD.encode([7; 16]);
    let request = format!(
        "GET /socket HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: {key}\r\n\r\n"
    );
    connection.write(request.as_bytes()).await?;
    let head = patiently("upgrade", connection.head()).await?;
    ensure!(head.starts_with("HTTP/1.1 101") && head.contains(&accept(&key)), "not a WebSocket: {head}");
    for number in 0_u64.. {
        let began = Instant::now();
        // Masked, as clients must, 20 bytes; the mask of zeros leaves them as they are. At the end a message that closes.
        let opcode = if load.ending() { 0x88 } else { 0x81 };
        let message = [&[opcode, 0x94, 0, 0, 0, 0][..], format!("{number:020}").as_bytes()].concat();
        connection.write(&message).await?;
        patiently("message", connection.fill(message.len())).await?;
        ensure!(connection.buffer == message, "another message than expected");
        connection.buffer.clear();
        kind.answered(began);
        if opcode == 0x88 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    connection.stream.shutdown().await.context("end")
}

fn accept(key: &str) -> String {
    let digest = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    BASE64_STANDARD.encode(digest)
}

/// An HTTP/2 connection with many streams at once, until it is told to go away.
async fn http2(load: &Rc<Load>, kind: &Kind) -> anyhow::Result<()> {
    let requests = open_http2(load, kind).await?;
    let mut streams = JoinSet::new();
    for _ in 0..20 {
        let (load, kind, requests) = (load.clone(), kind.clone(), requests.clone());
        streams.spawn_local(async move {
            while !load.ending() {
                let (began, (id, body)) = (Instant::now(), load.body());
                let answer = patiently("answer", exchange(requests.clone(), id, body.into())).await;
                let reached = load.seen.borrow_mut().remove(&id);
                match answer {
                    Ok(()) => kind.answered(began),
                    // The next connection sends it.
                    Err(error) if went_away(&error) && !reached => {
                        kind.0.borrow_mut().retried += 1;
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        });
    }
    drop(requests);
    while let Some(stream) = streams.join_next().await {
        if let Err(error) = stream? {
            kind.failed(load.began.elapsed().as_secs_f64(), &error);
        }
    }
    Ok(())
}

async fn open_http2(load: &Load, kind: &Kind) -> anyhow::Result<h2::client::SendRequest<Bytes>> {
    let stream = load.connect(kind, &load.http2).await?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (requests, connection) = builder.handshake(stream).await.context("HTTP/2 handshake")?;
    // What ends the connection ends its streams, which report it.
    spawn_local(connection);
    Ok(requests)
}

fn went_away(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<h2::Error>();
    error.is_some_and(|error| error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR))
}

async fn exchange(requests: h2::client::SendRequest<Bytes>, id: u64, body: Bytes) -> anyhow::Result<()> {
    let request = Request::post("https://localhost/echo").header("x-load", id).body(())?;
    let (response, mut sender) = requests.ready().await?.send_request(request, false)?;
    sender.send_data(body.clone(), true)?;
    let (head, mut received) = response.await?.into_parts();
    let mut echo = BytesMut::new();
    while let Some(data) = received.data().await {
        echo.extend_from_slice(&taken(&mut received, data?)?);
    }
    ensure!(head.status == StatusCode::OK, "{}: {}", head.status, String::from_utf8_lossy(&echo));
    ensure!(echo == body, "another body than expected, {} bytes", echo.len());
    Ok(())
}

fn taken(stream: &mut RecvStream, data: Bytes) -> Result<Bytes, h2::Error> {
    stream.flow_control().release_capacity(data.len())?;
    Ok(data)
}

/// A gRPC call in both directions that stays open: a GOAWAY does not end it.
async fn grpc(load: &Rc<Load>, kind: &Kind) -> anyhow::Result<()> {
    let requests = open_http2(load, kind).await?;
    let request = Request::post("https://localhost/load.Echo/Chat")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut sender) = requests.ready().await?.send_request(request, false)?;
    let mut received = patiently("headers", async { Ok(response.await?.into_body()) }).await?;
    for number in 0_u64.. {
        let began = Instant::now();
        let message = Bytes::from([&[0, 0, 0, 0, 20][..], format!("{number:020}").as_bytes()].concat());
        sender.send_data(message.clone(), false)?;
        let mut echo = BytesMut::new();
        while echo.len() < message.len() {
            match patiently("message", async { Ok(received.data().await) }).await? {
                Some(data) => echo.extend_from_slice(&taken(&mut received, data?)?),
                None => bail!("the call has ended: {:?}", received.trailers().await?),
            }
        }
        ensure!(echo == message, "another message than expected");
        kind.answered(began);
        if load.ending() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    sender.send_data(Bytes::new(), true)?;
    let trailers = patiently("trailers", async {
        ensure!(received.data().await.is_none(), "a message that was not asked for");
        Ok(received.trailers().await?)
    });
    let trailers = trailers.await?.unwrap_or_default();
    ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "trailers {trailers:?}");
    Ok(())
}

/// Echoes: HTTP/1.1 with WebSocket on this port, HTTP/2 with gRPC's trailers on the next.
async fn serve_upstream(address: SocketAddr, seen: &Seen) -> anyhow::Result<()> {
    let http1 = TcpListener::bind(address).await?;
    let http2 = TcpListener::bind((address.ip(), address.port() + 1)).await?;
    let notes = seen.clone();
    spawn_local(async move {
        while let Ok((stream, _)) = http1.accept().await {
            let notes = notes.clone();
            let service = service_fn(move |request| {
                note(&notes, request.headers());
                async { Ok::<_, Infallible>(echo_http1(request)) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // The proxy may close it when it likes.
            spawn_local(async move { connection.with_upgrades().await.ok() });
        }
    });
    let notes = seen.clone();
    spawn_local(async move {
        while let Ok((stream, _)) = http2.accept().await {
            let notes = notes.clone();
            spawn_local(async move { echo_http2(stream, notes).await.ok() });
        }
    });
    Ok(())
}

fn note(seen: &Seen, headers: &HeaderMap) {
    let id: Option<u64> = headers.get("x-load").and_then(|id| id.to_str().ok()?.parse().ok());
    seen.borrow_mut().extend(id);
}

type Echo = BoxBody<Bytes, hyper::Error>;

fn echo_http1(mut request: Request<Incoming>) -> Response<Echo> {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        return Response::new(request.into_body().boxed());
    };
    let accept = accept(&String::from_utf8_lossy(key.as_bytes()));
    let upgrade = hyper::upgrade::on(&mut request);
    spawn_local(async move {
        // Bytes, not frames: a proxy does not look into them.
        if let Ok(stream) = upgrade.await {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(stream));
            tokio::io::copy(&mut from, &mut to).await.ok();
            to.shutdown().await.ok();
        }
    });
    let mut response = Response::new(request.into_body().boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.extend(HeaderValue::from_str(&accept).map(|accept| (http::header::SEC_WEBSOCKET_ACCEPT, accept)));
    response
}

async fn echo_http2(stream: TcpStream, seen: Seen) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        note(&seen, request.headers());
        spawn_local(async move {
            let mut response = Response::new(());
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            let mut sender = respond.send_response(response, false)?;
            let mut received = request.into_body();
            while let Some(data) = received.data().await {
                let data = taken(&mut received, data?)?;
                send(&mut sender, data).await?;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            sender.send_trailers(trailers)?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

/// Sends all of it, as the window allows.
async fn send(sender: &mut SendStream<Bytes>, mut data: Bytes) -> anyhow::Result<()> {
    while !data.is_empty() {
        sender.reserve_capacity(data.len());
        let capacity = poll_fn(|context| sender.poll_capacity(context)).await.context("the stream is closed")??;
        sender.send_data(data.split_to(capacity.min(data.len())), false)?;
    }
    Ok(())
}
