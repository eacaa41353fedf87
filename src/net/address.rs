//! Addresses of listeners, hosts and peers, in the notation that Envoy prints.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::sys::socket::ListenSocket;

/// An address to listen on, to connect to, or of a peer: `envoy.config.core.v3.Address` without names to resolve.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a TCP port.
    Ip(SocketAddr),
    /// A Unix socket; a leading `@` stands for Linux' abstract namespace. The path of a client is mostly empty.
    Pipe(PathBuf),
    /// A listener of this process (`envoy_internal_address`).
    Internal {
        /// Its name.
        listener: Arc<str>,
        /// What tells endpoints at the same listener apart; may be empty.
        endpoint_id: Arc<str>,
    },
}

impl Address {
    /// The IP address, if it has one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|address| address.ip())
    }

    /// The TCP port, if it has one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.socket_addr().map(|address| address.port())
    }

    /// IP address and port, if it has them.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Pipe(_) | Address::Internal { .. } => None,
        }
    }

    /// The address that a socket listens on; says which port the kernel chose for port 0.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn of(socket: &ListenSocket) -> io::Result<Address> {
        match socket {
            ListenSocket::Tcp(listener) => Ok(listener.local_addr()?.into()),
            ListenSocket::Unix(listener) => Ok(tokio::net::unix::SocketAddr::from(listener.local_addr()?).into()),
        }
    }
}

/// `127.0.0.1:80`, `[::1]:80`, the path of a Unix socket, or `envoy://listener/endpoint`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Pipe(path) => path.display().fmt(f),
            Address::Internal { listener, endpoint_id } => write!(f, "envoy://{listener}/{endpoint_id}"),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        // A dual-stack socket reports IPv4 peers as ::ffff:a.b.c.d; everybody else calls them a.b.c.d.
        Address::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl From<tokio::net::unix::SocketAddr> for Address {
    fn from(address: tokio::net::unix::SocketAddr) -> Address {
        let path = match (address.as_pathname(), address.as_abstract_name()) {
            (Some(path), _) => path.to_owned(),
            (None, Some(name)) => format!("@{}", String::from_utf8_lossy(name)).into(),
            (None, None) => PathBuf::new(),
        };
        Address::Pipe(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_displayed_as_envoy_does() {
        let display = |text: &str| Address::from(text.parse::<SocketAddr>().unwrap()).to_string();
        assert_eq!(display("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(display("[::1]:80"), "[::1]:80");
        assert_eq!(display("[::ffff:10.0.0.1]:80"), "10.0.0.1:80");
        assert_eq!(Address::Pipe("/run/x.sock".into()).to_string(), "/run/x.sock");
    }

    #[test]
    fn abstract_names_start_with_an_at_sign() {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name("x").unwrap();
        assert_eq!(Address::from(tokio::net::unix::SocketAddr::from(address)), Address::Pipe("@x".into()));
    }
}
