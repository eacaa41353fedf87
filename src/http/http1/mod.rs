//! HTTP/1.1 downstream: one connection from its first byte to its last.
//!
//! `head.rs` reads what a request is, `decoder.rs` its body, `encoder.rs` writes the response; `connection.rs` is what the task of the
//! connection and the body of its request share. Requests that wait for their turn (pipelining) wait in the socket.

mod connection;
mod decoder;
mod encoder;
mod head;
mod options;
mod refusal;

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use http::{Method, StatusCode, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{Request, Response, body::Body, quiet::Quiet};
use connection::{Broken, Held, NextHead, RequestBody, Socket, Wire};
use encoder::{Asked, Encoder};
use head::{Head, Length};

pub use encoder::is_bodiless;
pub use options::{HeaderCase, Options};
pub use refusal::Refusal;

/// What the connections of a listener ask about their requests.
pub trait Service {
    /// Answers a request.
    fn respond(&self, request: Request) -> impl Future<Output = Response>;
    /// The answer to what is no request.
    fn refuse(&self, refusal: Refusal) -> Response {
        refusal.into_reply().into_response(false)
    }
}

impl<F: Fn(Request) -> R, R: Future<Output = Response>> Service for F {
    fn respond(&self, request: Request) -> impl Future<Output = Response> {
        self(request)
    }
}

/// Serves a connection until it ends. When `graceful` resolves, the request in progress is the last one.
///
/// # Errors
/// How the client broke the protocol.
pub async fn serve<S, V>(
    io: S,
    options: &Options,
    service: &V,
    graceful: impl Future<Output = ()>,
) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    V: Service,
{
    let wire = Rc::new(RefCell::new(Wire::new(io)));
    let _held = Held(Rc::clone(&wire));
    let mut connection = Connection { wire, encoder: Encoder::new(options), options, ending: false };
    let mut graceful = pin!(Quiet::new(graceful));
    loop {
        let head = match connection.next_head(graceful.as_mut()).await {
            NextHead::Head(head) => head,
            NextHead::End => {
                connection.shut_down().await;
                return Ok(());
            }
            NextHead::Refused(refusal) => {
                let response = service.refuse(refusal);
                // The client may have gone already.
                let _ = connection.answer(response, Asked::nothing(), true).await;
                connection.shut_down().await;
                connection.linger().await;
                return Err(refusal);
            }
        };
        match connection.exchange(*head, service, graceful.as_mut()).await {
            Ok(Next::Request) => {}
            Ok(Next::Close) => {
                connection.close().await;
                return connection.broken_protocol();
            }
            Err(Broken::Disconnect | Broken::Aborted) => return connection.broken_protocol(),
        }
    }
}

/// What follows upon an exchange.
enum Next {
    Request,
    Close,
}

/// The task of a connection.
struct Connection<'a, S> {
    wire: Rc<RefCell<Wire<S>>>,
    encoder: Encoder,
    options: &'a Options,
    /// The client is to go.
    ending: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Connection<'_, S> {
    /// Waits for a request. A connection that is to end does so instead, unless a request has begun.
    async fn next_head(&mut self, mut graceful: Pin<&mut Quiet<impl Future<Output = ()>>>) -> NextHead {
        let idle = poll_fn(|cx| {
            let mut wire = self.wire.borrow_mut();
            let head = wire.poll_head(self.options, cx);
            if head.is_pending() && !wire.has_begun() && (self.ending || graceful.as_mut().poll(cx).is_ready()) {
                self.ending = true;
                return Poll::Ready(Some(NextHead::End));
            }
            match head {
                Poll::Pending if wire.has_begun() => Poll::Ready(None),
                head => head.map(Some),
            }
        });
        if let Some(next) = idle.await {
            return next;
        }
        let rest = poll_fn(|cx| self.wire.borrow_mut().poll_head(self.options, cx));
        match self.options.header_timeout {
            None => rest.await,
            Some(limit) => timeout(limit, rest).await.unwrap_or(NextHead::Refused(Refusal::HeaderTimeout)),
        }
    }

    /// Answers one request.
    async fn exchange(
        &mut self,
        head: Head,
        service: &impl Service,
        mut graceful: Pin<&mut Quiet<impl Future<Output = ()>>>,
    ) -> Result<Next, Broken> {
        let mut asked = Asked { version: head.version, method: head.method.clone(), tunnel: false };
        let (last, upgrade) = (head.last, head.upgrade.is_some());
        if head.expects_continue {
            self.encoder.send_continue();
        }
        let request = self.begin(head);
        let response = {
            let mut response = pin!(service.respond(request));
            poll_fn(|cx| {
                self.ending |= !self.ending && graceful.as_mut().poll(cx).is_ready();
                // Whatever comes of a request that broke off, there is nobody to tell.
                if self.wire.borrow().is_disconnected() {
                    return Poll::Ready(Err(Broken::Disconnect));
                }
                if let Poll::Ready(response) = response.as_mut().poll(cx) {
                    return Poll::Ready(Ok(response));
                }
                self.poll_waiting(cx).map(Err)
            })
            .await?
        };
        let status = response.status();
        asked.tunnel = upgrade && status == StatusCode::SWITCHING_PROTOCOLS
            || asked.method == Method::CONNECT && status.is_success();
        self.wire.borrow_mut().decide(asked.tunnel);
        let unread = !asked.tunnel && !self.wire.borrow().is_request_complete();
        if asked.tunnel {
            self.answer(response, asked, false).await?;
            self.end_tunnel().await;
            return Ok(Next::Close);
        }
        // What is left of a request that is answered already is not worth reading.
        let last = self.answer(response, asked, last || unread || self.ending).await?;
        Ok(if last { Next::Close } else { Next::Request })
    }

    /// The request as the rest of the proxy sees it.
    fn begin(&mut self, head: Head) -> Request {
        self.wire.borrow_mut().begin_body(head.length, self.options);
        let body = match head.length {
            Length::Known(0) => Body::empty(),
            _ => Body::boxed(RequestBody::new(&self.wire)),
        };
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.version_mut() = head.version;
        *request.headers_mut() = head.headers;
        if let Some(upgrade) = head.upgrade {
            request.extensions_mut().insert(upgrade);
        }
        request
    }

    /// While there is no response: an interim one goes out, and the client may go.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if let Poll::Ready(Err(error)) = self.encoder.poll_flush(&mut Socket(&self.wire), cx) {
            return Poll::Ready(error.into());
        }
        self.wire.borrow_mut().poll_gone(cx).map(|()| Broken::Disconnect)
    }

    /// Sends a response; tells whether it is the last one.
    async fn answer(&mut self, response: Response, asked: Asked, last: bool) -> Result<bool, Broken> {
        let last = self.encoder.begin(&response, &asked, last);
        let mut body = response.into_body();
        poll_fn(|cx| match self.encoder.poll_send(&mut Socket(&self.wire), &mut body, cx) {
            Poll::Pending if asked.tunnel => Poll::Pending,
            Poll::Pending => self.wire.borrow_mut().poll_gone(cx).map(|()| Err(Broken::Disconnect)),
            sent @ Poll::Ready(_) => sent,
        })
        .await?;
        Ok(last)
    }

    /// Our direction of a tunnel has ended; the other one may last.
    async fn end_tunnel(&mut self) {
        self.shut_down().await;
        poll_fn(|cx| self.wire.borrow_mut().poll_request_end(cx)).await;
    }

    async fn shut_down(&mut self) {
        // The client may have closed already.
        let _ = Socket(&self.wire).shutdown().await;
    }

    /// Ends the connection so that the client gets what was sent: a socket that is closed with bytes unread resets the connection.
    async fn close(&mut self) {
        self.shut_down().await;
        if self.wire.borrow().is_request_complete() && !self.wire.borrow().has_begun() {
            return;
        }
        self.linger().await;
    }

    async fn linger(&mut self) {
        let discarding = poll_fn(|cx| self.wire.borrow_mut().poll_discard(cx));
        if let Some(limit) = self.options.delayed_close {
            // Whoever goes on sending has had time enough to read.
            let _ = timeout(limit, discarding).await;
        }
    }

    fn broken_protocol(&self) -> Result<(), Refusal> {
        self.wire.borrow().refusal().map_or(Ok(()), Err)
    }
}

impl Asked {
    /// What a refusal answers.
    fn nothing() -> Asked {
        Asked { version: Version::HTTP_11, method: Method::GET, tunnel: false }
    }
}

#[cfg(test)]
mod tests;
