//! The cork: one write to the socket for all frames of one turn.
//!
//! The h2 crate flushes after nearly every DATA frame, which over TLS makes a record and a system call of each. So the
//! connection writes into [`CorkedIo`], whose flush does nothing, and the owner of the connection's future flushes
//! through [`Cork`] once after each poll of it. The buffer is bounded: a peer that does not read makes writes pend, and
//! exists only while bytes wait.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes wait at most for the flush at the end of the turn.
const LIMIT: usize = 16 * 1024;

/// Writes of this size gain nothing from being collected and pass through.
const LARGE: usize = LIMIT / 2;

/// The smallest buffer made; most turns write less.
const SMALLEST: usize = 1024;

/// Splits `io` into what the connection reads and writes, and what its owner flushes by.
pub fn cork<S>(io: S) -> (CorkedIo<S>, Cork<S>) {
    let shared = Rc::new(RefCell::new(Corked { io, buffer: Vec::new(), written: 0, usual: SMALLEST }));
    (CorkedIo(Rc::clone(&shared)), Cork(shared))
}

/// The owner's end of a corked stream.
#[derive(Debug)]
pub struct Cork<S>(Rc<RefCell<Corked<S>>>);

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// Sends what has been collected. To be called after every poll of the connection's future, by the same task.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(cx)
    }

    /// Runs the future of a connection to its end, with a flush after each poll.
    ///
    /// # Errors
    /// If a flush fails.
    pub async fn drive<F: Future>(&self, connection: F) -> io::Result<F::Output> {
        let mut connection = pin!(connection);
        poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            let flushed = self.poll_flush(cx);
            match (polled, flushed) {
                (Poll::Ready(output), _) => Poll::Ready(Ok(output)),
                (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                (Poll::Pending, _) => Poll::Pending,
            }
        })
        .await
    }
}

/// The connection's end of a corked stream.
#[derive(Debug)]
pub struct CorkedIo<S>(Rc<RefCell<Corked<S>>>);

impl<S: AsyncRead + Unpin> AsyncRead for CorkedIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CorkedIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut corked = self.0.borrow_mut();
        ready!(corked.poll_flush(cx))?;
        Pin::new(&mut corked.io).poll_shutdown(cx)
    }
}

#[derive(Debug)]
struct Corked<S> {
    io: S,
    buffer: Vec<u8>,
    /// How much of the buffer has been written.
    written: usize,
    /// How much the last turn wrote: the next one begins with room for as much.
    usual: usize,
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total >= LARGE || self.buffer.len() + total > LIMIT {
            ready!(self.poll_drain(cx))?;
        }
        if total >= LARGE {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(total.max(self.usual));
        }
        for slice in slices {
            self.buffer.extend_from_slice(slice);
        }
        Poll::Ready(Ok(total))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        if self.written > 0 {
            self.usual = self.written.max(SMALLEST);
            self.written = 0;
            self.buffer = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn small_writes_leave_together_at_the_end_of_the_turn() {
        let (near, mut far) = duplex(64 * 1024);
        let (mut io, cork) = cork(near);
        let mut read = [0; 16];
        cork.drive(async {
            io.write_all(b"one ").await.unwrap();
            io.flush().await.unwrap();
            assert!(poll_once(far.read(&mut read)).await.is_pending());
            io.write_all(b"two").await.unwrap();
        })
        .await
        .unwrap();
        assert_eq!(far.read(&mut read).await.unwrap(), 7);
        assert_eq!(&read[..7], b"one two");
    }

    #[tokio::test]
    async fn a_large_write_keeps_its_place() {
        let (near, mut far) = duplex(64 * 1024);
        let (mut io, _cork) = cork(near);
        io.write_all(b"head").await.unwrap();
        io.write_all(&[b'x'; LARGE]).await.unwrap();
        let mut read = vec![0; 4 + LARGE];
        far.read_exact(&mut read).await.unwrap();
        assert!(read.starts_with(b"headxx") && read.ends_with(b"xx"));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_makes_writes_pend() {
        let (near, _far) = duplex(16);
        let (mut io, cork) = cork(near);
        let mut accepted = 0;
        while poll_once(io.write_all(&[0; 1000])).await.is_ready() {
            accepted += 1000;
            assert!(accepted <= LIMIT);
        }
        assert!(cork.0.borrow().buffer.len() <= LIMIT);
    }

    async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }
}
