//! How connections to hosts are secured: a cluster's `transport_socket`, and its `transport_socket_matches` for hosts of certain metadata.
//!
//! Which of them a host has is decided once, when the host is made ([`TransportSocketMatcher`]). The sockets themselves
//! ([`TransportSockets`]) are a part of the cluster's entry, because they change with the files of their certificates while the cluster
//! stays what it is.

use std::{collections::BTreeMap, sync::Arc};

use prost::Name;

use super::protocol_options::ProtocolOptions;
use crate::{
    config::Field,
    proto::{
        Any, Value,
        cluster::cluster::TransportSocketMatch,
        core::{self, transport_socket::ConfigType},
        raw_buffer::RawBuffer,
        tls::UpstreamTlsContext,
    },
    stats::{Counter, Scope},
    tls::{Owner, Renewal, Secrets, UpstreamTls},
};

/// The metadata of hosts that the matches look at.
const METADATA: &str = "envoy.transport_socket_match";

/// How the bytes of a connection get to a host.
#[derive(Debug, Clone)]
pub enum TransportSocket {
    /// `raw_buffer`: as they are.
    Raw,
    /// `tls`.
    Tls(Arc<UpstreamTls>),
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
        let counts = scope.scope("transport_socket_match");
        let count = |name: &str| counts.scope(name).counter("total_match_count");
        let convert = |proto: &Option<core::TransportSocket>, field: Field<'_>| {
            TransportSocket::from_proto(proto.as_ref(), protocol, field.key("transport_socket"), secrets, scope)
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
            let renewed = renewal.upstream(socket.tls()?, Owner::Cluster(cluster))?;
            Some(TransportSocket::Tls(renewed))
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

impl TransportSocket {
    fn from_proto(
        proto: Option<&core::TransportSocket>,
        protocol: &ProtocolOptions,
        field: Field<'_>,
        secrets: &Secrets,
        scope: &Scope,
    ) -> Option<TransportSocket> {
        let Some(socket) = proto.filter(|socket| !is_plaintext(socket)) else {
            if protocol.needs_alpn() {
                field.error("auto_config chooses the protocol by ALPN, which needs TLS");
            }
            return Some(TransportSocket::Raw);
        };
        let field = field.key("typed_config");
        let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
            field.error("is required");
            return None;
        };
        if !is_type::<UpstreamTlsContext>(any) {
            field.error("valid in Envoy, not implemented by Portreeve yet");
            return None;
        }
        let mut context = field.unpack::<UpstreamTlsContext>(any)?;
        // The cluster's protocol options can ask for the same.
        context.auto_host_sni |= protocol.auto_sni;
        context.auto_sni_san_validation |= protocol.auto_san_validation;
        UpstreamTls::from_proto(&context, field, secrets, scope).map(Arc::new).map(TransportSocket::Tls)
    }

    /// The TLS context, if there is one.
    pub fn tls(&self) -> Option<&Arc<UpstreamTls>> {
        match self {
            TransportSocket::Raw => None,
            TransportSocket::Tls(tls) => Some(tls),
        }
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
