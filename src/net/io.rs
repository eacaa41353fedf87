//! `Io`: one connection's bytes, whatever carries them. TCP and Unix sockets, the inside of this process, and TLS of either role over any
//! of them.
//!
//! An enum and not a trait object, so that a read costs a branch and not an allocation or an indirect call. Bytes that were read
//! to find out what a connection speaks are kept and replayed to the next reader.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustix::net::sockopt;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

use super::Address;

/// A connected byte stream with both its addresses.
#[derive(Debug)]
pub struct Io {
    stream: Stream,
    /// Bytes read already, which the next read returns first.
    prefix: BytesMut,
    local: Address,
    peer: Address,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    TlsServer(Box<server::TlsStream<Io>>),
    TlsClient(Box<client::TlsStream<Io>>),
    Internal(Internal),
}

/// One end of a connection within this process.
#[derive(Debug)]
struct Internal {
    stream: DuplexStream,
    /// Whether this end, or the other one, is ended by a reset.
    reset: Arc<AtomicBool>,
    reset_by_peer: Arc<AtomicBool>,
}

impl Internal {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let ended = buf.filled().len() == before && buf.remaining() > 0;
        if ended && self.reset_by_peer.load(Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl Io {
    /// A TCP connection whose addresses are known, as they are after `accept`. `TCP_NODELAY` is inherited from the listening socket.
    #[must_use]
    pub fn accepted_tcp(stream: TcpStream, local: Address, peer: Address) -> Io {
        Io { stream: Stream::Tcp(stream), prefix: BytesMut::new(), local, peer }
    }

    /// A TCP connection; sets `TCP_NODELAY`, for a proxy decides itself when to write.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub fn tcp(stream: TcpStream) -> io::Result<Io> {
        stream.set_nodelay(true)?;
        let (local, peer) = (stream.local_addr()?.into(), stream.peer_addr()?.into());
        Ok(Io::accepted_tcp(stream, local, peer))
    }

    /// A connection over a Unix socket.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub fn unix(stream: UnixStream) -> io::Result<Io> {
        let (local, peer) = (stream.local_addr()?.into(), stream.peer_addr()?.into());
        Ok(Io { stream: Stream::Unix(stream), prefix: BytesMut::new(), local, peer })
    }

    /// Both ends of a connection within this process, ours first: it goes to `destination`.
    #[must_use]
    pub fn internal(destination: Address) -> (Io, Io) {
        let (near, far) = tokio::io::duplex(INTERNAL_BUFFER);
        let client = Address::Internal { listener: "internal_client_address".into(), endpoint_id: "".into() };
        let resets = [Arc::<AtomicBool>::default(), Arc::default()];
        let end = |stream, [reset, reset_by_peer]: [&Arc<AtomicBool>; 2], local, peer| {
            let (reset, reset_by_peer) = (Arc::clone(reset), Arc::clone(reset_by_peer));
            let stream = Stream::Internal(Internal { stream, reset, reset_by_peer });
            Io { stream, prefix: BytesMut::new(), local, peer }
        };
        let near = end(near, [&resets[0], &resets[1]], client.clone(), destination.clone());
        (near, end(far, [&resets[1], &resets[0]], destination, client))
    }

    /// The plaintext side of a TLS connection that we accepted.
    pub(crate) fn tls_server(stream: server::TlsStream<Io>) -> Io {
        let (local, peer) = stream.get_ref().0.addresses();
        Io { stream: Stream::TlsServer(Box::new(stream)), prefix: BytesMut::new(), local, peer }
    }

    /// The plaintext side of a TLS connection that we made.
    pub(crate) fn tls_client(stream: client::TlsStream<Io>) -> Io {
        let (local, peer) = stream.get_ref().0.addresses();
        Io { stream: Stream::TlsClient(Box::new(stream)), prefix: BytesMut::new(), local, peer }
    }

    /// Our end's address.
    #[must_use]
    pub fn local_address(&self) -> &Address {
        &self.local
    }

    /// The other end's address.
    #[must_use]
    pub fn peer_address(&self) -> &Address {
        &self.peer
    }

    fn addresses(&self) -> (Address, Address) {
        (self.local.clone(), self.peer.clone())
    }

    /// User id, group id and process id of the peer of a Unix socket, as the kernel attests them; `None` for TCP.
    #[must_use]
    pub fn peer_credentials(&self) -> Option<tokio::net::unix::UCred> {
        match &self.stream {
            Stream::Tcp(_) | Stream::Internal(_) => None,
            Stream::Unix(stream) => stream.peer_cred().ok(),
            Stream::TlsServer(stream) => stream.get_ref().0.peer_credentials(),
            Stream::TlsClient(stream) => stream.get_ref().0.peer_credentials(),
        }
    }

    /// Makes the end of this connection a reset: what is on its way is dropped, and the peer learns that something went wrong.
    pub fn reset_on_close(&self) {
        let set = match &self.stream {
            Stream::Tcp(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
            Stream::Unix(_) => Ok(()),
            Stream::Internal(internal) => return internal.reset.store(true, Relaxed),
            Stream::TlsServer(stream) => return stream.get_ref().0.reset_on_close(),
            Stream::TlsClient(stream) => return stream.get_ref().0.reset_on_close(),
        };
        // A socket that does not know the option is closed like any other.
        drop(set);
    }

    /// Where a redirected TCP connection was going before the kernel redirected it; `None` if it was not.
    #[must_use]
    pub fn original_destination(&self) -> Option<Address> {
        let Stream::Tcp(stream) = &self.stream else { return None };
        let original = match self.local.ip()? {
            IpAddr::V4(_) => sockopt::ip_original_dst(stream).map(SocketAddr::V4),
            IpAddr::V6(_) => sockopt::ipv6_original_dst(stream).map(SocketAddr::V6),
        };
        original.ok().map(Address::from)
    }

    /// Makes the end of this connection a reset if there are bytes that nobody has read but to look at them. It is what the kernel does
    /// with bytes that have not been read at all.
    pub fn reset_if_unread(&self) {
        if !self.prefix.is_empty() {
            self.reset_on_close();
        }
    }

    /// Consumes bytes that have been peeked at: never more than these.
    pub fn skip(&mut self, count: usize) {
        self.prefix.advance(count.min(self.prefix.len()));
    }

    /// Waits for the first `count` bytes without consuming them: to see what the peer speaks. Fewer bytes are returned only
    /// if it closes its side before. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If reading fails.
    pub async fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        let mut prefix = std::mem::take(&mut self.prefix);
        prefix.reserve(count.saturating_sub(prefix.len()).max(PEEK_BYTES));
        let mut guard = Peek { io: self, prefix };
        while guard.prefix.len() < count && guard.io.read_buf(&mut guard.prefix).await? > 0 {}
        drop(guard);
        Ok(&self.prefix)
    }
}

/// How much may be on its way in each direction of a connection within the process.
const INTERNAL_BUFFER: usize = 64 * 1024;

/// Room for what arrives with the bytes waited for: the first flight of most clients.
const PEEK_BYTES: usize = 2048;

/// Gives the bytes read so far back to their connection, also if the peeking future is dropped.
struct Peek<'a> {
    io: &'a mut Io,
    prefix: BytesMut,
}

impl Drop for Peek<'_> {
    fn drop(&mut self) {
        self.io.prefix = std::mem::take(&mut self.prefix);
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.prefix.is_empty() {
            let count = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..count]);
            this.prefix.advance(count);
            if this.prefix.is_empty() {
                this.prefix = BytesMut::new(); // an idle connection should not keep the buffer
            }
            return Poll::Ready(Ok(()));
        }
        match &mut this.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::TlsServer(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::TlsClient(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Internal(internal) => internal.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::TlsServer(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::TlsClient(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Internal(Internal { stream, .. }) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One buffer by send(2) costs the kernel less than by writev(2).
        if let [buf] = bufs {
            return self.poll_write(cx, buf);
        }
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::TlsServer(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::TlsClient(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Internal(Internal { stream, .. }) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::TlsServer(stream) => Pin::new(stream).poll_flush(cx),
            Stream::TlsClient(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Internal(Internal { stream, .. }) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::TlsServer(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::TlsClient(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Internal(Internal { stream, .. }) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn pair() -> (Io, UnixStream) {
        let (left, right) = UnixStream::pair().unwrap();
        (Io::unix(left).unwrap(), right)
    }

    #[tokio::test]
    async fn peeked_bytes_are_read_again() {
        let (mut io, mut peer) = pair();
        peer.write_all(b"PRI * HTTP/2.0").await.unwrap();
        assert!(io.peek(4).await.unwrap().starts_with(b"PRI "));
        assert!(io.peek(1).await.unwrap().starts_with(b"PRI "), "peeking again returns the same bytes");
        peer.write_all(b" and on").await.unwrap();
        drop(peer);
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "PRI * HTTP/2.0 and on");
    }

    #[tokio::test]
    async fn peeking_ends_with_the_stream() {
        let (mut io, mut peer) = pair();
        peer.write_all(b"PR").await.unwrap();
        drop(peer);
        assert_eq!(io.peek(4).await.unwrap(), b"PR");
    }

    #[tokio::test]
    async fn a_dropped_peek_loses_nothing() {
        let (mut io, mut peer) = pair();
        peer.write_all(b"PR").await.unwrap();
        tokio::select! {
            biased;
            _ = io.peek(4) => panic!("only two bytes were sent"),
            () = tokio::task::yield_now() => {}
        }
        drop(peer);
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "PR");
    }

    #[test]
    fn is_send_and_small() {
        fn assert_send<T: Send + Unpin>() {}
        assert_send::<Io>();
        assert!(size_of::<Io>() <= 160, "{}", size_of::<Io>());
    }
}
