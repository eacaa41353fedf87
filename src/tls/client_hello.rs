//! What a client asks for before anything is answered: read from its first bytes, which stay where they are.

use std::io;

use rustls::server::Acceptor;

use super::fingerprint::Offer;
use crate::net::Io;

/// What a `ClientHello` says that may decide who serves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, in lower case.
    pub server_name: Option<String>,
    /// The protocols offered, best first.
    pub application_protocols: Vec<Vec<u8>>,
}

/// What a connection turned out to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// A complete `ClientHello`.
    Tls(ClientHello),
    /// Something else.
    NotTls,
    /// A `ClientHello` that has not ended within the limit.
    TooLarge,
    /// Nothing, or half a `ClientHello`, and then the end.
    Closed,
}

/// The extension by which clients ask for OCSP responses (RFC 6066 section 8).
const STATUS_REQUEST: u16 = 5;

/// The longest `ClientHello` that is read.
const LARGEST: usize = 16 * 1024;

/// First byte of a TLS record that holds a handshake.
const HANDSHAKE: u8 = 22;

impl ClientHello {
    /// Reads ahead until the `ClientHello` is complete or is seen not to be one.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn inspect(io: &mut Io, limit: usize) -> io::Result<Inspected> {
        let mut acceptor = Acceptor::default();
        let mut seen = 0;
        loop {
            let bytes = io.peek(seen + 1).await?;
            match bytes.first() {
                Some(&HANDSHAKE) => {}
                Some(_) => return Ok(Inspected::NotTls),
                None => return Ok(Inspected::Closed),
            }
            if bytes.len() == seen {
                return Ok(Inspected::Closed);
            }
            let mut news = &bytes[seen..];
            while !news.is_empty() {
                if acceptor.read_tls(&mut news).is_err() {
                    return Ok(Inspected::NotTls);
                }
                match acceptor.accept() {
                    Ok(Some(accepted)) => return Ok(Inspected::Tls(ClientHello::of(&accepted.client_hello()))),
                    Ok(None) => {}
                    Err(_) => return Ok(Inspected::NotTls),
                }
            }
            seen = bytes.len();
            if seen >= limit {
                return Ok(Inspected::TooLarge);
            }
        }
    }

    /// Whether the client would take an OCSP response (`status_request`). Waits for the whole `ClientHello`.
    pub(super) async fn asks_for_ocsp(io: &mut Io) -> io::Result<bool> {
        match ClientHello::inspect(io, LARGEST).await? {
            Inspected::Tls(_) => {
                Ok(Offer::parse(io.peek(1).await?).is_some_and(|offer| offer.has_extension(STATUS_REQUEST)))
            }
            Inspected::NotTls | Inspected::TooLarge | Inspected::Closed => Ok(false),
        }
    }

    fn of(hello: &rustls::server::ClientHello<'_>) -> ClientHello {
        ClientHello {
            server_name: hello.server_name().map(str::to_ascii_lowercase),
            application_protocols: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;

    fn hello(server_name: &'static str, alpn: &[&[u8]]) -> Vec<u8> {
        let mut config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(server_name).unwrap();
        let mut bytes = Vec::new();
        ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    async fn inspect(pieces: &[&[u8]]) -> (Inspected, Vec<u8>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut io = Io::unix(ours).unwrap();
        let send = async move {
            for piece in pieces {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (inspected, ()) = tokio::join!(async { ClientHello::inspect(&mut io, 16 * 1024).await.unwrap() }, send);
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        (inspected, rest)
    }

    #[tokio::test]
    async fn names_and_protocols_are_seen_and_nothing_is_consumed() {
        let bytes = hello("Example.COM", &[b"h2", b"http/1.1"]);
        let expected = ClientHello {
            server_name: Some("example.com".into()),
            application_protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        assert_eq!(inspect(&[&bytes]).await, (Inspected::Tls(expected.clone()), bytes.clone()));
        let pieces: Vec<&[u8]> = bytes.chunks(100).collect();
        assert_eq!(inspect(&pieces).await, (Inspected::Tls(expected), bytes));
    }

    #[tokio::test]
    async fn other_beginnings_are_told_apart() {
        assert_eq!(inspect(&[b"GET / HTTP/1.1\r\n"]).await.0, Inspected::NotTls);
        assert_eq!(inspect(&[]).await.0, Inspected::Closed);
        let bytes = hello("example.com", &[]);
        assert_eq!(inspect(&[&bytes[..50]]).await.0, Inspected::Closed);
        assert_eq!(inspect(&[b"\x16garbage, not a handshake"]).await.0, Inspected::NotTls);
    }
}
