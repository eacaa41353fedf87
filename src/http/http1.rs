//! HTTP/1.1 downstream, by hyper: one connection from its first byte to its last.

use std::{cell::RefCell, convert::Infallible, pin::pin, rc::Rc, time::Duration};

use http::StatusCode;
use hyper::{body::Incoming, server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

use super::{
    Request, Response,
    body::Body,
    upgrade::{Halves, Upgrade},
};

/// Limits of one HTTP/1.1 connection.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most headers in a request (`max_headers_count`).
    pub max_headers: usize,
    /// Most bytes of request line and headers (`max_request_headers_kb`); at least 8192.
    pub max_header_bytes: usize,
    /// Time for the headers once their first byte is there (`request_headers_timeout`).
    pub header_timeout: Option<Duration>,
}

/// Serves a connection until it ends. When `graceful` resolves, the request in progress is the last one.
///
/// # Errors
/// The text of what ended the connection early; the client has been told where HTTP/1.1 has a way to.
pub async fn serve<F, R>(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    options: &Options,
    service: F,
    graceful: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    F: Fn(Request) -> R + 'static,
    R: Future<Output = Response> + 'static,
{
    let mut builder = Builder::new();
    builder.max_headers(options.max_headers).max_buf_size(options.max_header_bytes.max(8192));
    if let Some(timeout) = options.header_timeout {
        builder.timer(TokioTimer::new()).header_read_timeout(timeout);
    }
    let upgrades = Upgrades::default();
    let service = Rc::new(service);
    let started = Rc::clone(&upgrades);
    let service = service_fn(move |request| exchange(Rc::clone(&service), request, Rc::clone(&started)));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = graceful => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }?;
    // An upgraded connection lives on until both directions have ended. No request can follow: nothing is spawned meanwhile.
    upgrades.take().join_all().await;
    Ok(())
}

/// What runs on after an upgrade; dropped, and so cut, with the connection.
type Upgrades = Rc<RefCell<JoinSet<()>>>;

async fn exchange<F, R>(
    service: Rc<F>,
    request: http::Request<Incoming>,
    upgrades: Upgrades,
) -> Result<Response, Infallible>
where
    F: Fn(Request) -> R,
    R: Future<Output = Response>,
{
    match Upgrade::of_http1(request.headers()) {
        None => Ok(service(request.map(Body::from)).await),
        // Boxed, so that the many requests without an upgrade do not carry its state.
        Some(upgrade) => Ok(Box::pin(exchange_upgrade(service, request, upgrade, upgrades)).await),
    }
}

/// Joins the connection with the bodies of request and response once the answer is `101`.
async fn exchange_upgrade<F, R>(
    service: Rc<F>,
    mut request: http::Request<Incoming>,
    upgrade: Upgrade,
    upgrades: Upgrades,
) -> Response
where
    F: Fn(Request) -> R,
    R: Future<Output = Response>,
{
    let on_upgrade = hyper::upgrade::on(&mut request);
    let (halves, incoming) = Halves::pending();
    let mut request = request.map(|_| incoming);
    request.extensions_mut().insert(upgrade);
    let mut response = service(request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let outgoing = std::mem::take(response.body_mut());
        upgrades.borrow_mut().spawn_local(async move {
            // The client may have gone before the answer was out; then dropping the bodies ends the stream.
            if let Ok(upgraded) = on_upgrade.await {
                halves.join(upgraded, outgoing).await;
            }
        });
    }
    response
}

/// Whether the client broke the protocol, and did not merely go away.
pub fn is_protocol_error(error: &hyper::Error) -> bool {
    error.is_parse()
}
