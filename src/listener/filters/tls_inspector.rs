//! The filter `envoy.filters.listener.tls_inspector`: the server name and the protocols of a `ClientHello`, and whether there is one.

use super::{Accepted, Rejection};
use crate::{
    config::Field,
    filter::FactoryContext,
    net::Io,
    proto, stats,
    stream_info::Fingerprints,
    tls::{ClientHello, Inspected, Offer},
};

/// Envoy's limit.
const CLIENT_HELLO_LIMIT: u32 = 16 * 1024;

/// A checked `TlsInspector`.
#[derive(Debug)]
pub(super) struct TlsInspector {
    /// The longest `ClientHello`.
    limit: usize,
    /// What does not begin with a `ClientHello` is closed.
    tls_only: bool,
    /// Which fingerprints are taken.
    ja3: bool,
    ja4: bool,
    stats: TlsInspectorStats,
}

stats::declare! {
    /// Of the TLS inspectors of all listeners, under `tls_inspector.`
    struct TlsInspectorStats {
        /// Connections that began with TLS.
        tls_found: Counter,
        /// Connections that began with anything else.
        tls_not_found: Counter,
        /// Connections that began with TLS and named a server.
        sni_found: Counter,
        /// Connections that began with TLS and named no server.
        sni_not_found: Counter,
        /// Connections that began with TLS and offered protocols.
        alpn_found: Counter,
        /// Connections that began with TLS and offered no protocols.
        alpn_not_found: Counter,
        /// Connections refused because of the size of their `ClientHello`.
        client_hello_too_large: Counter,
    }
}

impl TlsInspector {
    /// The inspector that works where none is configured.
    pub(super) fn new(cx: &FactoryContext<'_>) -> TlsInspector {
        TlsInspector {
            limit: CLIENT_HELLO_LIMIT as usize,
            tls_only: false,
            ja3: false,
            ja4: false,
            stats: TlsInspectorStats::new(&cx.stats.scope("tls_inspector")),
        }
    }

    pub(super) fn from_proto(
        proto: &proto::tls_inspector::TlsInspector,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
    ) -> Option<TlsInspector> {
        let proto::tls_inspector::TlsInspector {
            enable_ja3_fingerprinting,
            enable_ja4_fingerprinting,
            initial_read_buffer_size,
            close_connection_on_client_hello_parsing_errors,
            max_client_hello_size,
        } = proto;
        let is_true = |value: &Option<proto::BoolValue>| value.is_some_and(|value| value.value);
        field.ignored("initial_read_buffer_size", initial_read_buffer_size, "buffers grow as needed");
        let limit = max_client_hello_size.map_or(CLIENT_HELLO_LIMIT, |size| size.value);
        if limit == 0 || limit > CLIENT_HELLO_LIMIT {
            field.key("max_client_hello_size").error(format!("must be 1 to {CLIENT_HELLO_LIMIT}"));
            return None;
        }
        Some(TlsInspector {
            limit: usize::try_from(limit).ok()?,
            tls_only: *close_connection_on_client_hello_parsing_errors,
            ja3: is_true(enable_ja3_fingerprinting),
            ja4: is_true(enable_ja4_fingerprinting),
            ..TlsInspector::new(cx)
        })
    }

    pub(super) async fn inspect(&self, io: &mut Io, accepted: &mut Accepted) -> Result<(), Rejection> {
        match Box::pin(ClientHello::inspect(io, self.limit)).await? {
            Inspected::Tls(ClientHello { server_name, application_protocols }) => {
                self.stats.tls_found.inc();
                let sni = if server_name.is_some() { &self.stats.sni_found } else { &self.stats.sni_not_found };
                sni.inc();
                let offered = !application_protocols.is_empty();
                let alpn = if offered { &self.stats.alpn_found } else { &self.stats.alpn_not_found };
                alpn.inc();
                accepted.transport_protocol = "tls";
                accepted.server_name = server_name.map(String::into_boxed_str);
                accepted.application_protocols = application_protocols;
                if self.ja3 || self.ja4 {
                    let offer = Offer::parse(io.peek(1).await?);
                    let offer = offer.as_ref();
                    accepted.fingerprints = Some(Box::new(Fingerprints {
                        ja3: offer.filter(|_| self.ja3).map(Offer::ja3),
                        ja4: offer.filter(|_| self.ja4).map(Offer::ja4),
                    }));
                }
                Ok(())
            }
            Inspected::NotTls => {
                self.stats.tls_not_found.inc();
                if self.tls_only { Err(Rejection::ByFilter) } else { Ok(()) }
            }
            Inspected::TooLarge => {
                self.stats.client_hello_too_large.inc();
                Err(Rejection::ByFilter)
            }
            Inspected::Closed => Err(Rejection::RemoteClose),
        }
    }
}
