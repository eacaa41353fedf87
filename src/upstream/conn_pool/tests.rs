//! What the tests of the pools share: clusters from YAML, peers on a port of their own, HTTP/2 frames by hand.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    task::{LocalSet, spawn_local},
    time::{Instant, timeout},
};

use crate::{
    config::{self, Field, Report, Source},
    http::{Request, Response, body::Body},
    proto,
    stats::Registry,
    tls::Secrets,
    upstream::{
        ClusterEntry, ClusterManager, ClusterState, FailureKind, HostRef, LoadBalancerContext, UpstreamAttempt,
        UpstreamFailure,
    },
};

/// Runs a test as a worker would, with a limit on time.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(20), test).await.expect("the test ends in time");
    });
}

/// The same with a clock that jumps to the next timer whenever there is nothing to do.
pub(super) fn run_paused(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// A cluster of one host with these settings.
pub(super) fn cluster(address: SocketAddr, settings: &str) -> Rc<ClusterState> {
    let yaml = format!(
        "name: test\nload_assignment:\n  cluster_name: test\n  endpoints:\n  - lb_endpoints:\n    - endpoint:\n        \
         address: {{socket_address: {{address: {}, port_value: {}}}}}\n{settings}",
        address.ip(),
        address.port()
    );
    let report = Report::new();
    let proto: proto::cluster::Cluster = config::load(&Source::new("test.yaml", yaml), &report).unwrap();
    let entry = ClusterEntry::from_proto(&proto, Field::root(&report), &Secrets::default(), &Registry::new(0), None);
    let has_errors = report.has_errors();
    assert!(!has_errors, "{:?}", report.into_problems());
    let manager = ClusterManager::new(0);
    manager.update(&[(Arc::from("test"), entry.unwrap())].into());
    manager.get("test").unwrap()
}

pub(super) const HTTP2: &str = "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
";

pub(super) async fn send(cluster: &ClusterState, mut request: Request) -> Result<Response, UpstreamFailure> {
    try_send(cluster, &mut request).await
}

/// Leaves the request where it was if the host has not processed it.
pub(super) async fn try_send(cluster: &ClusterState, request: &mut Request) -> Result<Response, UpstreamFailure> {
    let host = cluster.choose_host(&LoadBalancerContext::default()).unwrap();
    cluster.send(&host, request, &UpstreamAttempt::default()).await
}

pub(super) async fn send_to(
    cluster: &ClusterState,
    host: &HostRef,
    mut request: Request,
) -> Result<Response, UpstreamFailure> {
    cluster.send(host, &mut request, &UpstreamAttempt::default()).await
}

pub(super) fn get(path: &str) -> Request {
    http::Request::get(path).header("host", "test").body(Body::empty()).unwrap()
}

pub(super) fn post(body: Body) -> Request {
    http::Request::post("/").header("host", "test").body(body).unwrap()
}

pub(super) async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A body that is fed by a channel.
pub(super) fn channel() -> (tokio::sync::mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = Channel(receiver);
    (sender, Body::boxed(frames))
}

struct Channel(tokio::sync::mpsc::Receiver<Bytes>);

impl http_body::Body for Channel {
    type Data = Bytes;
    type Error = crate::http::body::BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(http_body::Frame::data(data))))
    }
}

/// Waits until something that other tasks bring about is so.
pub(super) async fn eventually(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A server that hands each connection, with its number, to `serve`.
pub(super) struct Peer {
    pub address: SocketAddr,
    connections: Rc<Cell<usize>>,
}

impl Peer {
    pub(super) async fn new<F, R>(serve: F) -> Peer
    where
        F: Fn(usize, TcpStream) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Rc::new(Cell::new(0));
        let count = Rc::clone(&connections);
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.set(count.get() + 1);
                spawn_local(serve(count.get(), stream));
            }
        });
        Peer { address, connections }
    }

    /// A server of HTTP/1.1 that answers each request it reads with what `answer` says; `None` closes the connection.
    pub(super) async fn http1(answer: impl Fn(usize, &str) -> Option<String> + 'static) -> Peer {
        let answer = Rc::new(answer);
        Peer::new(move |number, mut stream| {
            let answer = Rc::clone(&answer);
            async move {
                while let Some(request) = read_head(&mut stream).await {
                    let Some(answer) = answer(number, &request) else { return };
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await
    }

    /// A server of HTTP/2 that allows `streams` at once and hands each request to `serve`.
    pub(super) async fn http2<F, R>(streams: u32, serve: F) -> Peer
    where
        F: Fn(http::Request<RecvStream>, SendResponse<Bytes>) -> R + 'static,
        R: Future<Output = ()> + 'static,
    {
        let serve = Rc::new(serve);
        Peer::new(move |_, stream| {
            let serve = Rc::clone(&serve);
            async move {
                let mut builder = h2::server::Builder::new();
                let mut connection = builder.max_concurrent_streams(streams).handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    spawn_local(serve(request, respond));
                }
            }
        })
        .await
    }

    /// How many connections there have been.
    pub(super) fn connections(&self) -> usize {
        self.connections.get()
    }
}

/// Reads an HTTP/1.1 head; `None` at the end.
pub(super) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A connection of a server that speaks HTTP/2 frame by frame.
pub(super) struct Frames(pub TcpStream);

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const SETTINGS: u8 = 4;
pub(super) const GOAWAY: u8 = 7;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

impl Frames {
    /// Reads the client's preface and sends SETTINGS.
    pub(super) async fn begin(mut stream: TcpStream) -> Frames {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        let mut frames = Frames(stream);
        frames.write(SETTINGS, 0, 0, &[]).await;
        frames
    }

    pub(super) async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// Reads up to the next frame of this kind; its flags and stream.
    pub(super) async fn read(&mut self, wanted: u8) -> Option<(u8, u32)> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            self.0.read_exact(&mut vec![0; length]).await.ok()?;
            if head[3] == wanted {
                return Some((head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]])));
            }
        }
    }

    /// Answers a request with status 200.
    pub(super) async fn answer(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]).await;
    }
}

#[test]
fn a_host_that_does_not_answer_the_handshake_is_given_up_in_time() {
    run_paused(async {
        let peer = Peer::new(|_, stream| async move {
            let _open = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let tls = "connect_timeout: 2s\ntransport_socket:\n  name: tls\n  typed_config:\n    \
                   \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n";
        let cluster = cluster(peer.address, tls);
        let started = Instant::now();
        let failure = send(&cluster, get("/")).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::ConnectTimeout);
        assert!(failure.unprocessed);
        assert_eq!(started.elapsed().as_secs(), 2);
        assert_eq!(cluster.cluster().stats.upstream_cx_connect_timeout.value(), 1);
    });
}

#[test]
fn a_host_that_refuses_connections_hands_the_request_back() {
    run(async {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for settings in ["", HTTP2] {
            let cluster = cluster(address, settings);
            let mut request = post(Body::full("whole"));
            let failure = try_send(&cluster, &mut request).await.unwrap_err();
            assert_eq!((failure.kind, failure.unprocessed), (FailureKind::Connect, true));
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/"));
            assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "whole");
            assert!(failure.cause.contains("refused"), "{}", failure.cause);
            assert_eq!(cluster.cluster().stats.upstream_cx_connect_fail.value(), 1);
        }
    });
}

#[test]
fn the_protocol_of_the_downstream_request_is_spoken_where_asked_for() {
    run(async {
        let settings = "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    use_downstream_protocol_config: {}
";
        let peer = Peer::new(|_, stream| async move {
            let mut first = [0; 3];
            stream.peek(&mut first).await.unwrap();
            if &first == b"PRI" {
                let mut frames = Frames::begin(stream).await;
                let (_, id) = frames.read(HEADERS).await.unwrap();
                frames.answer(id).await;
                frames.read(GOAWAY).await;
            } else {
                let mut stream = stream;
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        })
        .await;
        let cluster = cluster(peer.address, settings);
        for (version, status) in [(http::Version::HTTP_2, 200), (http::Version::HTTP_11, 201)] {
            let mut request = get("/");
            *request.version_mut() = version;
            assert_eq!(send(&cluster, request).await.unwrap().status(), status);
        }
    });
}
