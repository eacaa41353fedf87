//! Accepting connections from a listening socket, TCP or Unix alike.

use std::io;

use tokio::net::{TcpListener, UnixListener};

use super::{Address, Io};
use crate::sys::socket::ListenSocket;

/// A listening socket in the runtime of the thread that made it.
#[derive(Debug)]
pub struct Acceptor {
    socket: Socket,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Registers a socket with this thread's runtime.
    ///
    /// # Errors
    /// If the runtime has no file descriptors left.
    pub fn new(socket: ListenSocket) -> io::Result<Acceptor> {
        let address = Address::of(&socket)?;
        let socket = match socket {
            ListenSocket::Tcp(listener) => Socket::Tcp(TcpListener::from_std(listener)?),
            ListenSocket::Unix(listener) => Socket::Unix(UnixListener::from_std(listener)?),
        };
        Ok(Acceptor { socket, address })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection. Dropping the future loses none.
    ///
    /// # Errors
    /// If the process or the system cannot have one connection more: wait a little before the next try. A connection that is
    /// gone before it could be accepted is no error.
    pub async fn accept(&self) -> io::Result<Io> {
        loop {
            let accepted = match &self.socket {
                Socket::Tcp(listener) => listener.accept().await.and_then(|(stream, peer)| {
                    // Asking for our address costs a system call, which only sockets with a wildcard address need.
                    let local = match &self.address {
                        Address::Ip(address) if !address.ip().is_unspecified() => self.address.clone(),
                        _ => stream.local_addr()?.into(),
                    };
                    Ok(Io::accepted_tcp(stream, local, peer.into()))
                }),
                Socket::Unix(listener) => listener.accept().await.and_then(|(stream, _)| Io::unix(stream)),
            };
            match accepted {
                Err(error) if is_of_one_connection(&error) => {}
                accepted => return accepted,
            }
        }
    }
}

/// Whether it is the connection that failed, and not the means to have any.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, NotConnected,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | NotConnected
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | HostUnreachable
    )
}
