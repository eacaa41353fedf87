//! The bytes of two connections, carried across both ways until both directions have ended.
//!
//! What is read is written on at once, from one buffer that all connections of a worker share. Only what the other side cannot take is
//! kept, and nothing more is read until that is gone. So an idle connection holds no buffer, and a slow one at most one read.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::stats::Counter;

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Downstream,
    Upstream,
}

/// How a relay has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both directions came to their end; this peer's was the last.
    Closed(Peer),
    /// This peer's connection failed.
    Broken(Peer, io::Error),
}

/// What all connections share that carry bytes across.
pub(super) struct Shared<'a> {
    /// Where they are read to.
    pub(super) buffer: &'a RefCell<Vec<u8>>,
    /// The most that one read may take.
    pub(super) limit: usize,
    /// When bytes were last read or written.
    pub(super) last_active: &'a Cell<Instant>,
    /// Both ends have closed, and the last bytes for the host are on their way.
    pub(super) on_flush: &'a dyn Fn(),
}

/// One direction.
pub(super) struct Direction<'a> {
    from: Peer,
    held: BytesMut,
    unflushed: bool,
    ended: bool,
    closed: bool,
    paused: &'a Counter,
    resumed: &'a Counter,
}

impl<'a> Direction<'a> {
    /// The direction that begins at this peer; the counters say how often it was not read from because of the other.
    pub(super) fn new(from: Peer, paused: &'a Counter, resumed: &'a Counter) -> Direction<'a> {
        Direction { from, held: BytesMut::new(), unflushed: false, ended: false, closed: false, paused, resumed }
    }

    fn to(&self) -> Peer {
        match self.from {
            Peer::Downstream => Peer::Upstream,
            Peer::Upstream => Peer::Downstream,
        }
    }

    /// Ready when the direction has ended and the other side knows.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        shared: &Shared<'_>,
    ) -> Poll<Result<(), (Peer, io::Error)>> {
        loop {
            let peer = self.to();
            ready!(self.poll_drain(cx, to, shared)).map_err(|error| (peer, error))?;
            if self.ended {
                if !self.closed {
                    ready!(Pin::new(to).poll_shutdown(cx)).map_err(|error| (peer, error))?;
                    self.closed = true;
                }
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_copy(cx, from, to, shared))?;
        }
    }

    /// Writes what is held.
    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        shared: &Shared<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.held.is_empty() {
            let count = written(ready!(Pin::new(&mut *to).poll_write(cx, &self.held)))?;
            self.held.advance(count);
            self.unflushed = true;
            shared.last_active.set(Instant::now());
        }
        self.held = BytesMut::new();
        self.resumed.inc();
        Poll::Ready(Ok(()))
    }

    /// Reads once, and writes as much of that as goes.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        shared: &Shared<'_>,
    ) -> Poll<Result<(), (Peer, io::Error)>> {
        let mut buffer = shared.buffer.borrow_mut();
        let limit = shared.limit.min(buffer.len());
        let mut read = ReadBuf::new(&mut buffer[..limit]);
        match Pin::new(from).poll_read(cx, &mut read) {
            // TLS without its own end, which is as good as any where all is over.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Poll::Ready(outcome) => outcome.map_err(|error| (self.from, error))?,
            Poll::Pending => {
                // TLS may have taken bytes that it has not sent yet.
                if self.unflushed {
                    ready!(Pin::new(to).poll_flush(cx)).map_err(|error| (self.to(), error))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        shared.last_active.set(Instant::now());
        let mut news = read.filled();
        self.ended = news.is_empty();
        while !news.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, news) {
                Poll::Ready(outcome) => {
                    news = &news[written(outcome).map_err(|error| (self.to(), error))?..];
                    self.unflushed = true;
                }
                Poll::Pending => {
                    self.held.extend_from_slice(news);
                    self.paused.inc();
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn written(outcome: io::Result<usize>) -> io::Result<usize> {
    match outcome? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(count),
    }
}

/// Carries bytes both ways until both ends have closed, or one has failed. Dropping the future ends it at any moment.
pub(super) async fn relay(
    downstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    upstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    [up, down]: [&mut Direction<'_>; 2],
    shared: &Shared<'_>,
) -> Ended {
    let (mut last, mut flushing) = (Peer::Downstream, false);
    let both = poll_fn(|cx| {
        let was_closed = down.closed;
        let upwards = up.poll(cx, downstream, upstream, shared)?;
        let downwards = down.poll(cx, upstream, downstream, shared)?;
        if upwards.is_pending() || downwards.is_pending() {
            if up.ended && down.closed && !flushing {
                flushing = true;
                (shared.on_flush)();
            }
            return Poll::Pending;
        }
        last = if was_closed { Peer::Downstream } else { Peer::Upstream };
        Poll::Ready(Ok(()))
    });
    match both.await {
        Ok(()) => Ended::Closed(last),
        Err((peer, error)) => Ended::Broken(peer, error),
    }
}
