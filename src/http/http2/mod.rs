//! HTTP/2 by the h2 crate: the downstream connection, and the pump that both directions share.
//!
//! Not by hyper, because a proxy needs what hyper hides: GOAWAY and reset codes, streams refused before they were processed, one
//! flush for many frames (`cork.rs`).

mod frames;
mod options;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, SendStream, ext::Protocol, server::SendResponse};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    Refused, Request, Response,
    body::{Body, BodyError, TimedBody},
    cork,
    headers::is_hop_by_hop_free,
    upgrade::Upgrade,
};

pub use frames::{Flood, Limits, Stats, Watch, Watched};
pub use options::{Keepalive, Options};

/// Bytes that may wait unsent in a stream before the body behind it is not polled any more.
pub const SEND_BUFFER: usize = 256 * 1024;

/// Requests that are reset before they have been looked at; with more at a time the connection ends.
const PENDING_RESETS: usize = 1024;

/// Serves a connection until it ends; `max_header_bytes` bounds the headers of a request. Which upgrades are accepted by extended
/// CONNECT (RFC 8441), where that is offered, is the service's decision. When `graceful` resolves, the client is told by GOAWAY, and its streams run to their end.
///
/// # Errors
/// What ended the connection early; the client has been told by GOAWAY.
pub async fn serve<F, R>(
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
    (options, max_header_bytes): (&Options, u32),
    watch: &Watch,
    service: F,
    graceful: impl Future<Output = ()>,
) -> Result<(), h2::Error>
where
    F: Fn(Request) -> R + 'static,
    R: Future<Output = Response> + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_header_list_size(max_header_bytes)
        .max_send_buffer_size(SEND_BUFFER)
        // Requests that are reset at once are counted by who serves them.
        .max_pending_accept_reset_streams(PENDING_RESETS);
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    if let Some(size) = options.header_table_size {
        builder.header_table_size(size);
    }
    let (io, cork) = cork::cork(watch.server(io));
    // A flush that fails says that the client has gone, which is no error here.
    let Ok(handshake) = cork.drive(builder.handshake::<_, Bytes>(io)).await else { return Ok(()) };
    let mut connection = handshake?;
    let pings = options.keepalive.and_then(|keepalive| Some((connection.ping_pong()?, keepalive)));
    let mut graceful = pin!(graceful);
    let mut told = false;
    let streams = async {
        poll_fn(|cx| {
            if !told && graceful.as_mut().poll(cx).is_ready() {
                told = true;
                connection.graceful_shutdown();
            }
            while let Poll::Ready(next) = connection.poll_accept(cx) {
                match next {
                    Some(Ok((request, mut respond))) => {
                        continue_if_expected(&request, &mut respond);
                        let step = Step::Serving { response: service(admit(request)) };
                        spawn_local(Exchange { respond, step });
                    }
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => return Poll::Ready(Ok(())),
                }
            }
            Poll::Pending
        })
        .await
    };
    tokio::select! {
        biased;
        ended = cork.drive(streams) => ended.unwrap_or(Ok(())),
        () = unanswered(pings) => {
            watch.count_unanswered();
            Ok(())
        }
    }
}

/// Asks the peer now and then whether it lives; resolves when it does not answer.
pub async fn unanswered(pings: Option<(PingPong, Keepalive)>) {
    let Some((mut pings, keepalive)) = pings else { return std::future::pending().await };
    loop {
        sleep(keepalive.interval).await;
        match timeout(keepalive.timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Answers `Expect: 100-continue` (RFC 9110 section 10.1.1): the body is welcome, whatever the final answer.
fn continue_if_expected(request: &http::Request<h2::RecvStream>, respond: &mut SendResponse<Bytes>) {
    let expect = request.headers().get(http::header::EXPECT);
    if expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        let mut interim = http::Response::new(());
        *interim.status_mut() = http::StatusCode::CONTINUE;
        // Refused only when the client has gone.
        let _ = respond.send_informational(interim);
    }
}

/// The request as the rest of the proxy sees it.
fn admit(request: http::Request<h2::RecvStream>) -> Request {
    let mut request = request.map(Body::from);
    if let Some(protocol) = request.extensions_mut().remove::<Protocol>() {
        Upgrade::normalize_connect(&mut request, protocol.as_str());
    }
    request
}

pin_project! {
    /// One stream: the answer, then its body. A reset by the client drops the service's future, and so cancels all behind it.
    /// By hand, because each stream is a task, and the state of an async function would hold the service's future twice.
    struct Exchange<R> {
        respond: SendResponse<Bytes>,
        #[pin]
        step: Step<R>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<R> {
        Serving { #[pin] response: R },
        Sending { pump: Pump<Body> },
    }
}

impl<R: Future<Output = Response>> Future for Exchange<R> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            match this.step.as_mut().project() {
                StepProjection::Serving { response } => {
                    let Poll::Ready(response) = response.poll(cx) else {
                        return this.respond.poll_reset(cx).map(|_| ());
                    };
                    match begin_response(response, this.respond) {
                        Some(pump) => this.step.set(Step::Sending { pump }),
                        None => return Poll::Ready(()),
                    }
                }
                // Whoever owns the body has been told of its end.
                StepProjection::Sending { pump } => return pump.poll(cx).map(|_| ()),
            }
        }
    }
}

/// Sends the headers; what remains is the body, if there is one.
fn begin_response(mut response: Response, respond: &mut SendResponse<Bytes>) -> Option<Pump<Body>> {
    if Refused::is_in(&response) {
        respond.send_reset(Reason::REFUSED_STREAM);
        return None;
    }
    Upgrade::normalize_switching(&mut response);
    remove_connection_headers(response.headers_mut());
    let (parts, body) = response.into_parts();
    let ended = body.is_end_stream();
    // Refused only when the client has gone: dropping the body ends the stream behind it.
    let stream = respond.send_response(http::Response::from_parts(parts, ()), ended).ok()?;
    (!ended).then(|| Pump::new(body, stream))
}

/// HTTP/2 has no connection headers (RFC 9113 section 8.2.2).
fn remove_connection_headers(headers: &mut http::HeaderMap) {
    if !is_hop_by_hop_free(headers) {
        for name in [http::header::CONNECTION, http::header::TRANSFER_ENCODING, http::header::UPGRADE] {
            headers.remove(name);
        }
    }
}

/// A body on its way into a stream, trailers and end of stream included, no faster than the peer's window opens.
pub struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
}

impl<B: TimedBody + Unpin> Pump<B> {
    /// Nothing is sent before the first poll.
    pub fn new(body: B, stream: SendStream<Bytes>) -> Pump<B> {
        Pump { body, stream }
    }

    /// The body, as far as it has not been sent.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Stops sending, and gives the stream up unless all has been sent.
    pub fn into_body(self) -> B {
        self.body
    }

    /// Sends what can be sent now; ready when all has been.
    ///
    /// # Errors
    /// The peer reset the stream, or the body broke off (then we have reset the stream by the reason that tells why).
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            if let Err(error) = ready!(self.poll_writable(cx)) {
                self.stream.send_reset(error.reset_reason());
                return Poll::Ready(Err(error));
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return self.stream.poll_reset(cx).map(|reset| Err(reset_error(reset))),
                Poll::Ready(frame) => frame,
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let end = self.body.is_end_stream();
                        self.stream.send_data(data, end)?;
                        if end {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.stream.send_trailers(trailers)?;
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
                Some(Err(error)) => {
                    self.stream.send_reset(error.reset_reason());
                    return Poll::Ready(Err(error));
                }
                None => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Ready when the peer's window has room for one byte or more: the body is polled only then, so that what waits here is
    /// bounded. Its deadlines count meanwhile.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let stream = &mut self.stream;
        stream.reserve_capacity(1);
        if stream.capacity() > 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(0))) => {}
                Poll::Ready(Some(Ok(_))) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(None) => return Poll::Ready(Err(BodyError::Disconnect)),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(error) = Pin::new(&mut self.body).poll_expired(cx) {
            return Poll::Ready(Err(error));
        }
        self.stream.poll_reset(cx).map(|reset| Err(reset_error(reset)))
    }
}

fn reset_error(reset: Result<Reason, h2::Error>) -> BodyError {
    match reset {
        Ok(reason) => BodyError::Reset(reason),
        Err(error) => error.into(),
    }
}

/// Whether the client broke the protocol, and did not merely go away.
pub fn is_protocol_error(error: &h2::Error) -> bool {
    error.is_library() && !error.is_io()
}

#[cfg(test)]
mod tests;
