//! `http_11_proxy`: a host is reached through an HTTP/1.1 proxy, which is asked for a tunnel by CONNECT.
//!
//! As in Envoy, the default proxy is asked for a tunnel only where TLS follows; else it gets what the host would get.

use std::{io, net::SocketAddr};

use prost::Message;
use tokio::io::AsyncWriteExt;

use crate::{
    config::Field,
    net::{Address, Io},
    proto::core::{self, Metadata, address, socket_address::PortSpecifier},
    upstream::Endpoint,
};

/// The metadata of a host that names the proxy.
const METADATA: &str = "envoy.http11_proxy_transport_socket.proxy_address";

/// The longest head of the proxy's answer, in bytes.
const MAX_ANSWER: usize = 2000;

/// How the proxy is found.
#[derive(Debug)]
pub(super) struct Http11Proxy {
    /// For hosts whose metadata names none.
    default: Option<Address>,
}

impl Http11Proxy {
    pub(super) fn from_proto(default_proxy_address: Option<&core::Address>, field: Field<'_>) -> Http11Proxy {
        let default = default_proxy_address.and_then(|proto| {
            let address = address_of(proto);
            if address.is_none() {
                field.key("default_proxy_address").error("must be an IP address with a port, or a Unix socket");
            }
            address
        });
        Http11Proxy { default }
    }

    /// The proxy of a host; `None`: it is reached without.
    pub(super) fn address(&self, host: &Endpoint) -> Option<Address> {
        named_by(host).or_else(|| self.default.clone())
    }

    /// What the proxy of a host is asked to connect to, if it is asked. `secured`: TLS follows.
    pub(super) fn destination(&self, host: &Endpoint, secured: bool) -> Option<String> {
        if named_by(host).is_some() {
            return Some(host.address.to_string());
        }
        self.default.as_ref().filter(|_| secured)?;
        Some(match host.hostname.as_str() {
            "" => host.address.to_string(),
            name if name.contains(':') => name.to_owned(),
            name => format!("{name}:443"),
        })
    }
}

fn named_by(host: &Endpoint) -> Option<Address> {
    let named = |metadata: &Metadata| {
        // Metadata is free: what is no address is for somebody else.
        let any = metadata.typed_filter_metadata.get(METADATA)?;
        address_of(&core::Address::decode(any.value.as_slice()).ok()?)
    };
    let of_host = host.metadata.as_ref().and_then(named);
    of_host.or_else(|| host.locality_metadata.as_ref().and_then(named))
}

/// Asks the proxy at the other end for a tunnel to `destination`. Returns how many bytes that took.
///
/// # Errors
/// The proxy refuses, or says what is no HTTP/1.1.
pub(super) async fn open_tunnel(io: &mut Io, destination: &str) -> io::Result<usize> {
    let request = format!("CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n");
    io.write_all(request.as_bytes()).await?;
    let mut seen = 0;
    loop {
        let bytes = io.peek(seen + 1).await?;
        if bytes.len() <= seen {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the proxy has closed the connection"));
        }
        seen = bytes.len();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        match end {
            Some(end) if end + 4 <= MAX_ANSWER => {
                if !is_success(&bytes[..end]) {
                    return Err(io::Error::other("the proxy opens no tunnel"));
                }
                io.skip(end + 4);
                return Ok(request.len());
            }
            None if seen < MAX_ANSWER => {}
            _ => return Err(io::Error::other("the proxy's answer is too long")),
        }
    }
}

fn is_success(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    words.next().is_some_and(|version| version.starts_with(b"HTTP/1.")) && words.next() == Some(b"200")
}

fn address_of(proto: &core::Address) -> Option<Address> {
    let socket = match proto.address.as_ref()? {
        address::Address::SocketAddress(socket) => socket,
        address::Address::Pipe(pipe) => return Some(Address::Pipe(pipe.path.clone().into())),
        address::Address::EnvoyInternalAddress(_) => return None,
    };
    let Some(PortSpecifier::PortValue(port)) = &socket.port_specifier else { return None };
    let ip = socket.address.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(*port).ok()?).into())
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::UnixStream};

    use super::*;

    async fn ask(answer: &[u8]) -> (io::Result<usize>, Io, String) {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut io = Io::unix(near).unwrap();
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let outcome = open_tunnel(&mut io, "192.0.2.1:443").await;
        let mut asked = vec![0; 256];
        let count = far.read(&mut asked).await.unwrap();
        (outcome, io, String::from_utf8_lossy(&asked[..count]).into_owned())
    }

    #[tokio::test]
    async fn what_follows_the_answer_is_the_hosts() {
        let (outcome, mut io, asked) = ask(b"HTTP/1.1 200 Connection established\r\nvia: a\r\n\r\nhello").await;
        assert_eq!(asked, "CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n");
        assert_eq!(outcome.unwrap(), asked.len());
        let mut rest = String::new();
        io.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "hello");
    }

    #[tokio::test]
    async fn anything_but_success_is_a_failure() {
        let long = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; MAX_ANSWER], b"\r\n\r\n"].concat();
        for answer in [&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", &long] {
            ask(answer).await.0.unwrap_err();
        }
    }
}
