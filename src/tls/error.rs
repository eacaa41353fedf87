//! Why a TLS handshake failed.

use std::io;

use thiserror::Error;

/// Why a TLS handshake failed.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The transport failed, or the peer closed it before the handshake was done.
    #[error("connection closed during the TLS handshake: {0}")]
    Transport(io::Error),
    /// The peers could not agree, or the peer does not speak TLS.
    #[error("TLS handshake failed: {0}")]
    Protocol(rustls::Error),
    /// The peer's certificate is not acceptable.
    #[error("certificate verify failed: {0}")]
    Verify(rustls::Error),
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> TlsError {
        match error.downcast::<rustls::Error>() {
            Ok(error @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) => {
                TlsError::Verify(error)
            }
            Ok(error) => TlsError::Protocol(error),
            Err(error) => TlsError::Transport(error),
        }
    }
}
