//! Upstreams: servers that answer as they are told, and remember what they were asked.
//!
//! `upstream::http1().route("/", "hello").start().await` is one. Tests that need a peer with other manners take the
//! connections themselves: `upstream::raw`.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Stream,
    message::{Answer, Request, append},
};

/// What an upstream does with a request.
#[derive(Clone)]
pub enum Reply {
    Answer(Box<Answer>),
    /// Switches protocols, and sends back every byte that comes after.
    Echo,
    /// Never answers.
    Silence,
    /// Breaks off: closes the connection (HTTP/1.1), resets the stream (HTTP/2).
    Reset,
}

impl From<&str> for Reply {
    fn from(text: &str) -> Reply {
        Reply::Answer(Box::new(Answer {
            status: 200,
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(text.as_bytes()),
            trailers: HeaderMap::new(),
        }))
    }
}

impl Reply {
    pub fn status(self, status: u16) -> Reply {
        self.change(|answer| answer.status = status)
    }

    pub fn header(self, name: &str, value: &str) -> Reply {
        self.change(|answer| append(&mut answer.headers, name, value))
    }

    pub fn trailer(self, name: &str, value: &str) -> Reply {
        self.change(|answer| append(&mut answer.trailers, name, value))
    }

    fn change(mut self, change: impl FnOnce(&mut Answer)) -> Reply {
        if let Reply::Answer(answer) = &mut self {
            change(answer);
        }
        self
    }
}

/// A running upstream; it ends with this value.
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
}

impl Upstream {
    /// What it was asked, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The latest request.
    pub fn last(&self) -> Request {
        self.requests().pop().expect("a request reached the upstream")
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

/// An HTTP/1.1 server.
pub fn http1() -> Builder {
    Builder { http2: None, tls: None, routes: Vec::new() }
}

/// An HTTP/2 server, by prior knowledge or, with `tls`, by ALPN.
pub fn http2() -> Builder {
    Builder { http2: Some(h2::server::Builder::new()), ..http1() }
}

/// A server whose connections `serve` gets, with their numbers from 0.
pub async fn raw<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    accept(Arc::default(), serve).await
}

/// A server that speaks HTTP/2 by prior knowledge, and answers nobody before it is told `true`.
pub async fn gated() -> (watch::Sender<bool>, Upstream) {
    let (release, gate) = watch::channel(false);
    let upstream = raw(move |stream, _| {
        let gate = gate.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut gate = gate.clone();
                tokio::spawn(async move {
                    gate.wait_for(|open| *open).await.unwrap();
                    respond.send_response(http::Response::new(()), true).unwrap();
                });
            }
        }
    });
    (release, upstream.await)
}

async fn accept<F>(seen: Arc<Seen>, serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counter = seen.clone();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            connections.spawn(serve(stream, counter.connections.fetch_add(1, Ordering::SeqCst)));
        }
    });
    Upstream { address, seen, task }
}

/// A server to be.
pub struct Builder {
    http2: Option<h2::server::Builder>,
    tls: Option<Arc<ServerConfig>>,
    routes: Vec<(String, Reply)>,
}

impl Builder {
    /// Paths that begin with `prefix` get `reply`; the first such route wins.
    #[must_use]
    pub fn route(mut self, prefix: &str, reply: impl Into<Reply>) -> Builder {
        self.routes.push((prefix.to_owned(), reply.into()));
        self
    }

    #[must_use]
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Builder {
        self.tls = Some(config);
        self
    }

    /// Lets a client have this many streams on one HTTP/2 connection.
    #[must_use]
    pub fn max_streams(mut self, streams: u32) -> Builder {
        self.http2.as_mut().expect("an HTTP/2 upstream").max_concurrent_streams(streams);
        self
    }

    pub async fn start(self) -> Upstream {
        let seen = Arc::new(Seen::default());
        let server = Arc::new(Server { builder: self, seen: seen.clone() });
        accept(seen, move |stream, _| server.clone().serve(stream)).await
    }
}

struct Server {
    builder: Builder,
    seen: Arc<Seen>,
}

impl Server {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let stream: Box<dyn Stream> = match self.builder.tls.clone() {
            None => Box::new(stream),
            Some(config) => match TlsAcceptor::from(config).accept(stream).await {
                Ok(stream) => Box::new(stream),
                Err(_) => return,
            },
        };
        match &self.builder.http2 {
            None => self.serve_http1(stream).await,
            Some(settings) => self.clone().serve_http2(stream, settings).await,
        }
    }

    /// Remembers a request and finds its reply.
    fn reply(&self, request: Request) -> Reply {
        let path = request.uri.path().to_owned();
        self.seen.requests.lock().unwrap().push(request);
        let route = self.builder.routes.iter().find(|(prefix, _)| path.starts_with(prefix));
        route.map_or_else(|| Reply::from("no such route").status(404), |(_, reply)| reply.clone())
    }

    async fn serve_http1(self: Arc<Self>, stream: Box<dyn Stream>) {
        let service = service_fn(move |request: http::Request<Incoming>| self.clone().answer_http1(request));
        // The peer may break off in the middle, and a `Reset` does.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
    }

    async fn answer_http1(
        self: Arc<Self>,
        mut request: http::Request<Incoming>,
    ) -> Result<http::Response<BoxBody<Bytes, Infallible>>, io::Error> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let received =
            Request { method: head.method, uri: head.uri, headers: head.headers, body: body.to_bytes(), trailers };
        let protocol = received.headers.get("upgrade").cloned();
        match self.reply(received) {
            Reply::Answer(answer) => Ok(response(&answer, Full::new(answer.body.clone()).boxed())),
            Reply::Silence => std::future::pending().await,
            Reply::Reset => Err(io::Error::other("told to break off")),
            Reply::Echo => {
                tokio::spawn(async move {
                    if let Ok(stream) = upgrade.await {
                        let (mut from, mut to) = tokio::io::split(TokioIo::new(stream));
                        // The client may break off.
                        let _ = tokio::io::copy(&mut from, &mut to).await;
                        let _ = to.shutdown().await;
                    }
                });
                let mut response = http::Response::new(Empty::new().boxed());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
                response.headers_mut().insert("upgrade", protocol.expect("a request to upgrade"));
                Ok(response)
            }
        }
    }

    async fn serve_http2(self: Arc<Self>, stream: Box<dyn Stream>, settings: &h2::server::Builder) {
        let Ok(mut connection) = settings.handshake::<_, Bytes>(stream).await else { return };
        let mut streams = JoinSet::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            streams.spawn(self.clone().answer_http2(request, respond));
        }
    }

    async fn answer_http2(
        self: Arc<Self>,
        request: http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
    ) {
        let (head, body) = request.into_parts();
        let Ok((body, trailers)) = collect(body).await else { return };
        let received = Request { method: head.method, uri: head.uri, headers: head.headers, body, trailers };
        match self.reply(received) {
            Reply::Answer(answer) => {
                let Ok(mut stream) = respond.send_response(response(&answer, ()), false) else { return };
                // The client may have reset the stream.
                let _ = stream.send_data(answer.body, answer.trailers.is_empty());
                if !answer.trailers.is_empty() {
                    let _ = stream.send_trailers(answer.trailers);
                }
            }
            Reply::Silence => std::future::pending().await,
            Reply::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            Reply::Echo => panic!("an HTTP/2 upstream does not switch protocols"),
        }
    }
}

/// Reads an HTTP/2 body to its end.
pub async fn collect(mut body: h2::RecvStream) -> Result<(Bytes, HeaderMap), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok((bytes.into(), trailers))
}

fn response<B>(answer: &Answer, body: B) -> http::Response<B> {
    let mut response = http::Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
    response.headers_mut().clone_from(&answer.headers);
    response
}
