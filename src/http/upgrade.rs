//! Upgraded streams (RFC 9110 section 7.8, RFC 8441): the two directions of a WebSocket are the bodies of its request and response.
//!
//! So a route, a filter, the access log and the timeouts see an upgraded stream as any other; only the codecs at both ends know
//! that an HTTP/1.1 connection turns into bytes after `101`, and an HTTP/2 one does not.

use std::{
    hash::{BuildHasher, RandomState},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use http_body::{Body as _, Frame};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf},
    sync::oneshot,
};

use super::{Request, Response, body::Body, body::BodyError};

/// Marks a request that asks for an upgrade, with the protocol asked for, such as "websocket"; stands in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade(pub HeaderValue);

/// Stands in the extensions of a CONNECT request that ends here: its bytes go to the host as they are (`connect_config`).
#[derive(Debug, Clone, Copy)]
pub struct TcpTunnel;

/// Whether this is the answer that turns a request for an upgrade, or a CONNECT, into a tunnel.
pub fn is_tunnel(method: &Method, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || *method == Method::CONNECT && status.is_success()
}

impl Upgrade {
    /// What the headers of an HTTP/1.1 request ask for. "h2c" is obsolete (RFC 9113 section 3.1) and asks for nothing.
    pub fn of_http1(headers: &HeaderMap) -> Option<Upgrade> {
        let protocol =
            headers.get(header::UPGRADE).filter(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"))?;
        let asked = headers.get_all(header::CONNECTION).iter().any(|value| {
            value.as_bytes().split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        });
        asked.then(|| Upgrade(protocol.clone()))
    }

    /// Whether it asks for a WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.0.as_bytes().eq_ignore_ascii_case(b"websocket")
    }

    /// Writes an extended CONNECT (RFC 8441) as the HTTP/1.1 request that means the same.
    pub fn normalize_connect(request: &mut Request, protocol: &str) {
        let Ok(protocol) = HeaderValue::from_str(protocol) else { return };
        *request.method_mut() = Method::GET;
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(header::UPGRADE, protocol.clone());
        request.extensions_mut().insert(Upgrade(protocol));
    }

    /// Adds the key that an HTTP/1.1 server insists on, where a client of HTTP/2 had no use for one.
    pub fn complete_http1(request: &mut Request) {
        let upgrade = request.extensions().get::<Upgrade>();
        if request.version() == Version::HTTP_2 && upgrade.is_some_and(Upgrade::is_websocket) {
            request.headers_mut().entry(header::SEC_WEBSOCKET_KEY).or_insert_with(websocket_key);
        }
    }

    /// Writes a request for an upgrade as the extended CONNECT that means the same, and returns the protocol that it asks for. A
    /// CONNECT asks for none.
    pub fn take_extended_connect(request: &mut Request) -> Option<Upgrade> {
        let upgrade = request.extensions().get::<Upgrade>().filter(|_| *request.method() != Method::CONNECT)?.clone();
        *request.method_mut() = Method::CONNECT;
        request.headers_mut().remove(header::CONNECTION);
        request.headers_mut().remove(header::UPGRADE);
        Some(upgrade)
    }

    /// The opposite of [`Self::normalize_switching`], for a host's answer.
    pub fn denormalize_switching<B>(&self, response: &mut http::Response<B>) {
        if response.status() == StatusCode::OK {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(header::UPGRADE, self.0.clone());
        }
    }

    /// Writes `101 Switching Protocols` as the HTTP/2 answer that means the same.
    pub fn normalize_switching(response: &mut Response) {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            *response.status_mut() = StatusCode::OK;
            for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
                response.headers_mut().remove(name);
            }
        }
    }
}

/// A key for a WebSocket handshake (RFC 6455 section 4.1). It only has to differ from handshake to handshake, against caches.
fn websocket_key() -> HeaderValue {
    let mut nonce = [0; 16];
    for half in nonce.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().hash_one(0).to_ne_bytes());
    }
    HeaderValue::from_str(&BASE64_STANDARD.encode(nonce)).expect("invariant: base64 is visible ASCII")
}

/// Bytes per read of an upgraded connection.
const CHUNK: usize = 16 * 1024;

/// The bytes that come in over an HTTP/1.1 connection after its upgrade.
pub struct UpgradedBody(State);

enum State {
    Waiting(oneshot::Receiver<ReadHalf<TokioIo<Upgraded>>>),
    Reading(ReadHalf<TokioIo<Upgraded>>),
    Done,
}

impl http_body::Body for UpgradedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match &mut self.0 {
                State::Waiting(half) => {
                    self.0 = match ready!(Pin::new(half).poll(cx)) {
                        Ok(half) => State::Reading(half),
                        // The upgrade was refused: there are no bytes.
                        Err(_) => State::Done,
                    };
                }
                State::Reading(half) => {
                    // Made for each read, so that a quiet connection holds no buffer.
                    let mut buffer = BytesMut::with_capacity(CHUNK);
                    let end = match ready!(pin!(half.read_buf(&mut buffer)).poll(cx)) {
                        Ok(0) => None,
                        Ok(_) => return Poll::Ready(Some(Ok(Frame::data(buffer.freeze())))),
                        Err(_) => Some(Err(BodyError::Disconnect)),
                    };
                    self.0 = State::Done;
                    return Poll::Ready(end);
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

/// The two directions of a connection that has been upgraded: bytes that come in, and where a body's bytes go out.
pub struct Halves {
    reader: oneshot::Sender<ReadHalf<TokioIo<Upgraded>>>,
}

impl Halves {
    /// A body that waits for the upgrade, and what `join` later starts it with.
    pub fn pending() -> (Halves, Body) {
        let (reader, waiting) = oneshot::channel();
        (Halves { reader }, Body::boxed(UpgradedBody(State::Waiting(waiting))))
    }

    /// Runs until both directions have ended: what comes in feeds the pending body, what `outgoing` yields is written.
    ///
    /// The directions close independently: the end of `outgoing` shuts down our sending side only.
    pub async fn join(self, upgraded: Upgraded, outgoing: Body) {
        let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
        // Refused only when nobody reads any more.
        let _ = self.reader.send(reader);
        write_all(outgoing, writer).await;
    }
}

/// Writes what a body yields, then shuts the writer down.
pub async fn write_all<W: AsyncWrite + Unpin>(mut body: Body, mut writer: W) {
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else { break };
        let Ok(data) = frame.into_data() else { continue };
        if writer.write_all(&data).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    // The peer may have closed already; there is nobody to tell.
    let _ = writer.shutdown().await;
}
