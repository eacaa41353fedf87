//! The server side of TLS: `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`.

use crate::{config::field::Field, net::Io, proto, stats::Scope};

use super::{Secrets, TlsError};

/// How a filter chain accepts TLS connections.
#[derive(Debug)]
pub struct DownstreamTls {}

impl DownstreamTls {
    /// Loads certificates and keys, and compiles verification; `scope` is the listener's.
    pub fn from_proto(
        proto: &proto::tls::DownstreamTlsContext,
        field: Field<'_>,
        secrets: &Secrets,
        scope: &Scope,
    ) -> Option<DownstreamTls> {
        let _ = (proto, field.path(), secrets, scope);
        todo!()
    }
}

/// A connection whose ClientHello has been read, and nothing been answered yet.
pub struct ClientHello {}

impl ClientHello {
    /// Reads the ClientHello.
    ///
    /// # Errors
    /// If the peer does not speak TLS, or the connection fails.
    pub async fn read(io: Io) -> Result<ClientHello, TlsError> {
        let _ = io;
        todo!()
    }
}
