//! A byte stream whose bytes are counted, both ways.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;
use crate::stats::Counter;

/// What keeps count.
pub trait Meter: Unpin {
    /// So many bytes more have been received.
    fn received(&self, bytes: u64);
    /// So many bytes more have been handed to the socket.
    fn sent(&self, bytes: u64);
    /// The peer has ended its direction, or the connection broke.
    fn ended(&self) {}
}

/// Two counters: of bytes received, and of bytes sent.
impl Meter for (Counter, Counter) {
    fn received(&self, bytes: u64) {
        self.0.add(bytes);
    }

    fn sent(&self, bytes: u64) {
        self.1.add(bytes);
    }
}

/// An [`Io`] that is counted.
#[derive(Debug)]
pub struct Metered<M> {
    io: Io,
    meter: M,
    /// We have ended our direction: that the peer ends its own then is no news.
    shut_down: bool,
}

impl<M: Meter> Metered<M> {
    /// Counts from now on; what was peeked at counts when it is read.
    #[must_use]
    pub fn new(io: Io, meter: M) -> Metered<M> {
        Metered { io, meter, shut_down: false }
    }

    /// What is counted.
    pub fn get_ref(&self) -> &Io {
        &self.io
    }
}

impl<M: Meter> AsyncRead for Metered<M> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        match buf.filled().len() - before {
            0 if self.shut_down => {}
            0 if outcome.is_err() || buf.remaining() > 0 => self.meter.ended(),
            count => self.meter.received(count as u64),
        }
        Poll::Ready(outcome)
    }
}

impl<M: Meter> AsyncWrite for Metered<M> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.meter.sent(count as u64);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.meter.sent(count as u64);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut_down = true;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::stats::Registry;

    #[tokio::test]
    async fn bytes_are_counted_in_both_directions() {
        let scope = Registry::new(0).scope("");
        let (received, sent) = (scope.counter("received"), scope.counter("sent"));
        let (left, mut right) = UnixStream::pair().unwrap();
        let mut io = Io::unix(left).unwrap();
        right.write_all(b"hello").await.unwrap();
        io.peek(1).await.unwrap();
        let mut metered = Metered::new(io, (received.clone(), sent.clone()));
        metered.read_exact(&mut [0; 5]).await.unwrap();
        metered.write_all(b"hi").await.unwrap();
        assert_eq!((received.value(), sent.value()), (5, 2));
    }
}
