//! The client side of TLS: `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.

use crate::{
    config::field::Field,
    net::{Alpn, Io},
    proto,
    stats::Scope,
};

use super::{Secrets, TlsError};

/// How a cluster's connections are secured.
#[derive(Debug)]
pub struct UpstreamTls {}

impl UpstreamTls {
    /// Loads certificates and compiles verification; `scope` is the cluster's.
    pub fn from_proto(
        proto: &proto::tls::UpstreamTlsContext,
        field: Field<'_>,
        secrets: &Secrets,
        scope: &Scope,
    ) -> Option<UpstreamTls> {
        let _ = (proto, field.path(), secrets, scope);
        todo!()
    }

    /// Secures a connection to a host. `host_name` is asked for where `auto_host_sni` says so. `alpn` is what the pool that
    /// connects can speak, best first: offered unless the context lists protocols itself.
    ///
    /// # Errors
    /// If the peers cannot agree, the server's certificate is not acceptable, or the connection fails.
    pub async fn connect(&self, io: Io, host_name: &str, alpn: &[Alpn]) -> Result<(Io, Option<Alpn>), TlsError> {
        let _ = (io, host_name, alpn);
        todo!()
    }
}
