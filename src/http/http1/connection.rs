//! What the task of a connection and the body of its request share: the socket, and where in the request it is.
//!
//! The body reads for itself, whoever polls it: so a request is read only as fast as it is sent on. While no body is being read, the
//! task of the connection watches for the client's going away.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{
    Options, Refusal,
    decoder::{Decoded, Decoder},
    head::{Head, HeadScanner, Length},
};
use crate::http::body::BodyError;

/// Room for a head of usual size.
const HEAD_ROOM: usize = 4 * 1024;

/// Less room than this is not worth a read.
const LEAST_ROOM: usize = 1024;

/// Room for a read of a body, at first and at most: it grows as reads fill it.
const BODY_ROOM: (usize, usize) = (8 * 1024, 64 * 1024);

/// How much of the requests that follow is read while one is being answered.
const READ_AHEAD: usize = 16 * 1024;

/// Why a connection ends at once.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client has gone.
    Disconnect,
    /// The response broke off.
    Aborted,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Broken {
        Broken::Disconnect
    }
}

/// A request in its turn.
pub(super) enum NextHead {
    Head(Box<Head>),
    Refused(Refusal),
    /// The client has gone, or has nothing more to say.
    End,
}

pub(super) struct Wire<S> {
    /// `None` once the connection has ended.
    io: Option<S>,
    /// Received, and not looked at yet.
    input: BytesMut,
    scanner: HeadScanner,
    request: RequestState,
    room: usize,
    /// The task of the connection, where it waits for the body's end.
    server: Option<Waker>,
    /// Who waits for the body.
    reader: Option<Waker>,
}

/// Where the current request is.
struct RequestState {
    /// Tells the body of this request from that of an earlier one, which somebody may still hold.
    serial: u64,
    decoder: Decoder,
    /// What comes in belongs to the body only if the answer agrees to it.
    undecided: bool,
    failed: Option<BodyError>,
    /// Nobody reads the body any more.
    given_up: bool,
}

impl<S: AsyncRead + Unpin> Wire<S> {
    pub(super) fn new(io: S) -> Wire<S> {
        let request =
            RequestState { serial: 0, decoder: Decoder::ended(), undecided: false, failed: None, given_up: false };
        Wire {
            io: Some(io),
            input: BytesMut::new(),
            scanner: HeadScanner::default(),
            request,
            room: BODY_ROOM.0,
            server: None,
            reader: None,
        }
    }

    /// The next request's head.
    pub(super) fn poll_head(&mut self, options: &Options, cx: &mut Context<'_>) -> Poll<NextHead> {
        loop {
            if !self.input.is_empty() {
                match self.scanner.take_head(&mut self.input, options) {
                    Ok(Some(head)) => return Poll::Ready(NextHead::Head(Box::new(head))),
                    Ok(None) => {}
                    Err(refusal) => return Poll::Ready(NextHead::Refused(refusal)),
                }
            }
            if !matches!(ready!(self.poll_read(HEAD_ROOM, cx)), Ok(1..)) {
                return Poll::Ready(NextHead::End);
            }
        }
    }

    /// Whether a part of the next head is here.
    pub(super) fn has_begun(&self) -> bool {
        !self.input.is_empty()
    }

    /// Begins to read the body of a request.
    pub(super) fn begin_body(&mut self, length: Length, options: &Options) {
        self.request = RequestState {
            serial: self.request.serial + 1,
            decoder: Decoder::new(length, options),
            undecided: length == Length::Tunnel,
            failed: None,
            given_up: false,
        };
    }

    /// The answer decides whether the connection becomes a tunnel.
    pub(super) fn decide(&mut self, tunnel: bool) {
        if self.request.undecided {
            self.request.undecided = false;
            if !tunnel {
                self.request.decoder = Decoder::ended();
            }
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    /// Whether the request has been read to its end.
    pub(super) fn is_request_complete(&self) -> bool {
        self.request.decoder.is_ended() && self.request.failed.is_none()
    }

    /// Ready when the request has been read to its end, or will not be.
    pub(super) fn poll_request_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let request = &self.request;
        if request.decoder.is_ended() || request.failed.is_some() || request.given_up {
            return Poll::Ready(());
        }
        self.wait_as_server(cx);
        Poll::Pending
    }

    /// Ready when the client has gone. Looks for it where nobody else reads.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_disconnected() {
            return Poll::Ready(());
        }
        let nobody_reads = self.request.decoder.is_ended() || self.request.undecided;
        if !nobody_reads {
            self.wait_as_server(cx);
            return Poll::Pending;
        }
        while self.input.len() < READ_AHEAD {
            if !matches!(ready!(self.poll_read(HEAD_ROOM, cx)), Ok(1..)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Reads and forgets, until the client has closed its side.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.input.clear();
            if !matches!(ready!(self.poll_read(BODY_ROOM.0, cx)), Ok(1..)) {
                return Poll::Ready(());
            }
        }
    }

    /// Whether the client went away in the middle of its request.
    pub(super) fn is_disconnected(&self) -> bool {
        matches!(self.request.failed, Some(BodyError::Disconnect))
    }

    /// How the request broke the protocol.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self.request.failed {
            Some(BodyError::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    fn wait_as_server(&mut self, cx: &mut Context<'_>) {
        if !self.server.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.server = Some(cx.waker().clone());
        }
    }

    fn poll_read(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(0)) };
        if self.input.capacity() - self.input.len() < LEAST_ROOM.min(room) {
            self.input.reserve(room);
        }
        pin!(io.read_buf(&mut self.input)).poll(cx)
    }

    /// The next frame of the body.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(error) = &self.request.failed {
                return Poll::Ready(Some(Err(error.clone())));
            }
            if self.request.undecided {
                self.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            match self.request.decoder.decode(&mut self.input) {
                Ok(Decoded::Data(data)) => {
                    self.request.decoder.take_end(&mut self.input);
                    if self.request.decoder.is_ended() {
                        self.wake_server();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    self.wake_server();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.wake_server();
                    return Poll::Ready(None);
                }
                Ok(Decoded::Incomplete) => {}
                Err(refusal) => return Poll::Ready(self.fail(BodyError::Refused(refusal))),
            }
            let room = self.room;
            let read = match self.poll_read(room, cx) {
                Poll::Ready(read) => read,
                Poll::Pending => {
                    self.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            };
            match read {
                Ok(count @ 1..) => {
                    self.room = if count >= room { (2 * room).min(BODY_ROOM.1) } else { room };
                }
                Ok(0) if self.request.decoder.is_tunnel() => {
                    self.request.decoder = Decoder::ended();
                }
                Ok(0) | Err(_) => return Poll::Ready(self.fail(BodyError::Disconnect)),
            }
        }
    }

    fn fail(&mut self, error: BodyError) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.request.failed = Some(error.clone());
        self.wake_server();
        Some(Err(error))
    }

    fn wake_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.wake();
        }
    }
}

/// The body of a request. It reads from the connection, as long as that exists.
pub(super) struct RequestBody<S: AsyncRead + Unpin> {
    wire: Rc<RefCell<Wire<S>>>,
    serial: u64,
}

impl<S: AsyncRead + Unpin> RequestBody<S> {
    /// The body that the connection has just begun.
    pub(super) fn new(wire: &Rc<RefCell<Wire<S>>>) -> RequestBody<S> {
        RequestBody { wire: Rc::clone(wire), serial: wire.borrow().request.serial }
    }
}

impl<S: AsyncRead + Unpin> http_body::Body for RequestBody<S> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut wire = self.wire.borrow_mut();
        if wire.request.serial != self.serial {
            return Poll::Ready(None);
        }
        wire.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        let wire = self.wire.borrow();
        wire.request.serial != self.serial || wire.is_request_complete()
    }

    fn size_hint(&self) -> SizeHint {
        let wire = self.wire.borrow();
        if wire.request.serial != self.serial {
            return SizeHint::with_exact(0);
        }
        wire.request.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl<S: AsyncRead + Unpin> Drop for RequestBody<S> {
    fn drop(&mut self) {
        let mut wire = self.wire.borrow_mut();
        if wire.request.serial == self.serial {
            wire.request.given_up = true;
            wire.wake_server();
        }
    }
}

/// The socket as the encoder sees it. It is borrowed for the moment of a write only: whoever is polled in between may read from it.
pub(super) struct Socket<'a, S>(pub(super) &'a RefCell<Wire<S>>);

impl<S: AsyncWrite + Unpin> Socket<'_, S> {
    fn with<T>(&self, act: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut self.0.borrow_mut().io {
            Some(io) => act(Pin::new(io)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<'_, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write_vectored(cx, slices))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(cx))
    }
}

/// The connection's own hold on its wire: dropped, the socket closes, whoever still holds the body.
pub(super) struct Held<S: AsyncRead + Unpin>(pub(super) Rc<RefCell<Wire<S>>>);

impl<S: AsyncRead + Unpin> Drop for Held<S> {
    fn drop(&mut self) {
        let mut wire = self.0.borrow_mut();
        wire.io = None;
        if !wire.request.decoder.is_ended() {
            wire.request.failed = Some(BodyError::Disconnect);
        }
        if let Some(reader) = wire.reader.take() {
            reader.wake();
        }
    }
}
