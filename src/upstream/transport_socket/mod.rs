//! How connections to hosts begin and are secured: a cluster's `transport_socket`, and its `transport_socket_matches` for hosts of certain
//! metadata.
//!
//! Transport sockets are wrapped in each other. What that comes to is a row of [`Preamble`]s, the outermost first, and then TLS or not.
//!
//! Which of them a host has is decided once, when the host is made ([`TransportSocketMatcher`]). The sockets themselves
//! ([`TransportSockets`]) are a part of the cluster's entry, because they change with the files of their certificates while the cluster
//! stays what it is.

mod http_11_proxy;
mod proxy_protocol;

use std::{collections::BTreeMap, io, sync::Arc};

use prost::Name;
use tokio::io::AsyncWriteExt;

use super::{Endpoint, protocol_options::ProtocolOptions};
use crate::{
    config::Field,
    net::{Address, Io},
    proto::{
        Any, Value,
        cluster::cluster::TransportSocketMatch,
        core::{self, transport_socket::ConfigType},
        http_11_proxy::Http11ProxyUpstreamTransport,
        internal_upstream::InternalUpstreamTransport,
        raw_buffer::RawBuffer,
        tap_transport_socket::Tap,
        tls::UpstreamTlsContext,
        upstream_proxy_protocol::ProxyProtocolUpstreamTransport,
    },
    stats::{Counter, Scope},
    stream_info::ConnectionInfo,
    tls::{Owner, Renewal, Secrets, UpstreamTls},
};
use http_11_proxy::Http11Proxy;
use proxy_protocol::ProxyProtocolHeader;

/// The metadata of hosts that the matches look at.
const METADATA: &str = "envoy.transport_socket_match";

/// The traffic flows as the socket inside has it.
const TAP_LEFT_OUT: &str = "tap is not implemented by Portreeve yet: traffic is not tapped";

/// How the bytes of a connection get to a host.
#[derive(Debug, Clone)]
pub struct TransportSocket {
    preambles: Vec<Arc<Preamble>>,
    tls: Option<Arc<UpstreamTls>>,
}

/// What is said before everything else, TLS included.
#[derive(Debug)]
enum Preamble {
    /// `upstream_proxy_protocol`.
    ProxyProtocol(ProxyProtocolHeader),
    /// `http_11_proxy`.
    Http11Proxy(Http11Proxy),
}

/// What sets some connections to a host apart from its others.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct TransportSocketOptions {
    /// TLS asks for it in place of the host's own name.
    pub(super) server_name: Option<Box<str>>,
    /// For whom a PROXY header speaks.
    pub(super) client: Option<ProxiedClient>,
}

/// A connection downstream, as a PROXY header tells of it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ProxiedClient {
    source: Address,
    destination: Address,
    tlvs: Vec<(u8, Vec<u8>)>,
}

impl ProxiedClient {
    pub(super) fn of(connection: &ConnectionInfo) -> ProxiedClient {
        ProxiedClient {
            source: connection.remote.clone(),
            destination: connection.local.clone(),
            tlvs: connection.proxy_protocol.as_ref().map(|said| said.tlvs.clone()).unwrap_or_default(),
        }
    }
}

/// The transport sockets of a cluster: that of hosts that nothing else is said of, then those of the matches.
#[derive(Debug)]
pub struct TransportSockets(Vec<TransportSocket>);

/// Which of its cluster's sockets a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketIndex(usize);

/// Chooses the transport socket of a host.
#[derive(Debug)]
pub(super) struct TransportSocketMatcher {
    criteria: Vec<Criteria>,
    /// Hosts that match nothing.
    default_count: Counter,
}

#[derive(Debug)]
struct Criteria {
    values: BTreeMap<String, Value>,
    /// Hosts that match.
    count: Counter,
}

/// What a cluster says of its sockets.
pub(super) struct Settings<'a> {
    pub(super) socket: &'a Option<core::TransportSocket>,
    pub(super) matches: &'a [TransportSocketMatch],
    pub(super) protocol: &'a ProtocolOptions,
}

impl TransportSockets {
    /// The matcher and the sockets; `field` is the cluster's, and so is `scope`.
    pub(super) fn from_proto(
        settings: &Settings<'_>,
        field: Field<'_>,
        secrets: &Secrets,
        scope: &Scope,
    ) -> Option<(TransportSocketMatcher, TransportSockets)> {
        let Settings { socket, matches, protocol } = settings;
        let count = |name: &str| scope.scope(name).counter("total_match_count");
        let cx = Surroundings { protocol, secrets, scope };
        let convert = |proto: &Option<core::TransportSocket>, field: Field<'_>| {
            TransportSocket::from_proto(proto.as_ref(), field.key("transport_socket"), cx)
        };
        let mut sockets = vec![convert(socket, field)];
        let mut criteria = Vec::with_capacity(matches.len());
        let list = field.key("transport_socket_matches");
        for (index, proto) in matches.iter().enumerate() {
            let TransportSocketMatch { name, r#match, transport_socket } = proto;
            let field = list.index(index);
            sockets.push(convert(transport_socket, field));
            let values = r#match.iter().flat_map(|wanted| &wanted.fields);
            let values = values.map(|(key, value)| (key.clone(), value.clone())).collect();
            criteria.push(Criteria { values, count: count(name) });
        }
        let sockets: Option<Vec<_>> = sockets.into_iter().collect();
        Some((TransportSocketMatcher { criteria, default_count: count("default") }, TransportSockets(sockets?)))
    }

    /// That of hosts of which nothing else is said.
    pub fn default_socket(&self) -> &TransportSocket {
        &self.0[0]
    }

    /// That of a host.
    pub(super) fn get(&self, SocketIndex(index): SocketIndex) -> &TransportSocket {
        // A registered cluster may borrow the sockets of another, but never has hosts with metadata.
        self.0.get(index).unwrap_or(self.default_socket())
    }

    /// The TLS contexts among them.
    pub fn tls(&self) -> impl Iterator<Item = &Arc<UpstreamTls>> {
        self.0.iter().filter_map(TransportSocket::tls)
    }

    /// The same with what changed files hold now; `None` if nothing changes.
    #[must_use]
    pub fn renewed(&self, renewal: &Renewal<'_>, cluster: &str) -> Option<TransportSockets> {
        let renew = |socket: &TransportSocket| {
            let tls = Some(renewal.upstream(socket.tls()?, Owner::Cluster(cluster))?);
            Some(TransportSocket { tls, ..socket.clone() })
        };
        let renewed: Vec<_> = self.0.iter().map(renew).collect();
        if renewed.iter().all(Option::is_none) {
            return None;
        }
        let sockets = renewed.into_iter().zip(&self.0).map(|(renewed, old)| renewed.unwrap_or_else(|| old.clone()));
        Some(TransportSockets(sockets.collect()))
    }
}

impl TransportSocketMatcher {
    /// The first whose values the metadata has, all of them.
    pub(super) fn choose(&self, metadata: Option<&core::Metadata>) -> SocketIndex {
        let found = metadata.and_then(|metadata| metadata.filter_metadata.get(METADATA));
        let matches = |criteria: &Criteria| {
            criteria.values.iter().all(|(key, value)| found.and_then(|found| found.fields.get(key)) == Some(value))
        };
        let position = self.criteria.iter().position(matches);
        match position {
            Some(position) => self.criteria[position].count.inc(),
            None => self.default_count.inc(),
        }
        SocketIndex(position.map_or(0, |position| position + 1))
    }
}

/// What transport sockets are made with.
#[derive(Clone, Copy)]
struct Surroundings<'a> {
    protocol: &'a ProtocolOptions,
    secrets: &'a Secrets,
    /// The cluster's.
    scope: &'a Scope,
}

impl TransportSocket {
    fn from_proto(
        proto: Option<&core::TransportSocket>,
        field: Field<'_>,
        cx: Surroundings<'_>,
    ) -> Option<TransportSocket> {
        let Some(socket) = proto.filter(|socket| !is_plaintext(socket)) else {
            if cx.protocol.needs_alpn() {
                field.error("auto_config chooses the protocol by ALPN, which needs TLS");
            }
            return Some(TransportSocket { preambles: Vec::new(), tls: None });
        };
        let field = field.key("typed_config");
        let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
            field.error("is required");
            return None;
        };
        if is_type::<ProxyProtocolUpstreamTransport>(any) {
            let proto = field.unpack::<ProxyProtocolUpstreamTransport>(any)?;
            return TransportSocket::with_proxy_protocol(&proto, field, cx);
        }
        if is_type::<Tap>(any) {
            let Tap { common_config: _common_config, transport_socket, socket_tap_config: _socket_tap_config } =
                field.unpack(any)?;
            field.warning(TAP_LEFT_OUT);
            return TransportSocket::from_proto(transport_socket.as_ref(), field.key("transport_socket"), cx);
        }
        if is_type::<Http11ProxyUpstreamTransport>(any) {
            let proto = field.unpack::<Http11ProxyUpstreamTransport>(any)?;
            let Http11ProxyUpstreamTransport { transport_socket, default_proxy_address } = proto;
            let proxy = Http11Proxy::from_proto(default_proxy_address.as_ref(), field);
            let inner = TransportSocket::from_proto(transport_socket.as_ref(), field.key("transport_socket"), cx)?;
            return Some(inner.within(Preamble::Http11Proxy(proxy)));
        }
        if is_type::<InternalUpstreamTransport>(any) {
            let InternalUpstreamTransport { passthrough_metadata, transport_socket } = field.unpack(any)?;
            field.unsupported("passthrough_metadata", &passthrough_metadata);
            let inner = field.required("transport_socket", &transport_socket)?;
            return TransportSocket::from_proto(Some(inner), field.key("transport_socket"), cx);
        }
        if !is_type::<UpstreamTlsContext>(any) {
            field.error("valid in Envoy, not implemented by Portreeve yet");
            return None;
        }
        let mut context = field.unpack::<UpstreamTlsContext>(any)?;
        // The cluster's protocol options can ask for the same.
        context.auto_host_sni |= cx.protocol.auto_sni;
        context.auto_sni_san_validation |= cx.protocol.auto_san_validation;
        let tls = UpstreamTls::from_proto(&context, field, cx.secrets, cx.scope)?;
        Some(TransportSocket { preambles: Vec::new(), tls: Some(Arc::new(tls)) })
    }

    fn with_proxy_protocol(
        proto: &ProxyProtocolUpstreamTransport,
        field: Field<'_>,
        cx: Surroundings<'_>,
    ) -> Option<TransportSocket> {
        let ProxyProtocolUpstreamTransport { config, transport_socket, allow_unspecified_address, tlv_as_pool_key } =
            proto;
        field.unsupported("allow_unspecified_address", allow_unspecified_address);
        field.ignored("tlv_as_pool_key", tlv_as_pool_key, "connections with different values are kept apart anyway");
        let header = ProxyProtocolHeader::from_proto(config.as_ref(), field.key("config"), cx.scope);
        let inner = field.required("transport_socket", transport_socket);
        let inner = TransportSocket::from_proto(Some(inner?), field.key("transport_socket"), cx)?;
        Some(inner.within(Preamble::ProxyProtocol(header)))
    }

    fn within(mut self, preamble: Preamble) -> TransportSocket {
        self.preambles.insert(0, Arc::new(preamble));
        self
    }

    /// The TLS context, if there is one.
    pub fn tls(&self) -> Option<&Arc<UpstreamTls>> {
        self.tls.as_ref()
    }

    /// Whether it tells hosts of the client that a connection is for, so that no other client can have it.
    pub(super) fn names_clients(&self) -> bool {
        self.preambles.iter().any(|preamble| matches!(**preamble, Preamble::ProxyProtocol(_)))
    }

    /// Where to connect to reach a host.
    pub(super) fn address(&self, host: &Endpoint) -> Address {
        let proxy = self.preambles.iter().find_map(|preamble| match &**preamble {
            Preamble::Http11Proxy(proxy) => proxy.address(host),
            Preamble::ProxyProtocol(_) => None,
        });
        proxy.unwrap_or_else(|| host.address.clone())
    }

    /// Says what comes first on a connection to [`Self::address`]. Returns how many bytes that were.
    ///
    /// # Errors
    /// If the connection fails, or a proxy on the way refuses.
    pub(super) async fn begin(
        &self,
        io: &mut Io,
        host: &Endpoint,
        options: &TransportSocketOptions,
    ) -> io::Result<usize> {
        let mut sent = 0;
        for preamble in &self.preambles {
            match &**preamble {
                Preamble::ProxyProtocol(header) => {
                    let bytes = header.bytes(options, host.metadata.as_ref());
                    io.write_all(&bytes).await?;
                    sent += bytes.len();
                }
                Preamble::Http11Proxy(proxy) => {
                    if let Some(destination) = proxy.destination(host, self.tls.is_some()) {
                        sent += http_11_proxy::open_tunnel(io, &destination).await?;
                    }
                }
            }
        }
        Ok(sent)
    }
}

/// Whether it is as good as no transport socket.
fn is_plaintext(proto: &core::TransportSocket) -> bool {
    match &proto.config_type {
        Some(ConfigType::TypedConfig(any)) => is_type::<RawBuffer>(any),
        None => proto.name == "envoy.transport_sockets.raw_buffer",
    }
}

fn is_type<M: Name>(any: &Any) -> bool {
    any.type_url.rsplit('/').next() == Some(M::full_name().as_str())
}
