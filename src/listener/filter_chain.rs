//! Filter chains: `envoy.config.listener.v3.FilterChain`, what is done with the connections that match.

use std::{sync::Arc, time::Duration};

use prost::Name;

use crate::{
    config::Field,
    filter::FactoryContext,
    network_filters::{self, NetworkFilters},
    proto::{
        core::{TransportSocket, transport_socket::ConfigType},
        listener,
        raw_buffer::RawBuffer,
        tls::DownstreamTlsContext,
    },
    stats::Scope,
    tls::{DownstreamTls, Owner, Renewal},
};

use super::filter_chain_match::{Candidate, FilterChainMatch, FilterChainMatcher};

/// The package of Envoy's transport sockets.
const TRANSPORT_SOCKETS: &str = "envoy.extensions.transport_sockets.";

/// How long a handshake may take unless the chain says otherwise. Envoy waits for ever, which lets anybody hold connections open.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// The filter chains of a listener.
#[derive(Clone, Debug)]
pub struct FilterChains {
    /// In the order of the document.
    chains: Vec<FilterChain>,
    matcher: FilterChainMatcher,
    /// For connections that match no other.
    default: Option<FilterChain>,
}

/// Which connections match, and how they are secured and served.
#[derive(Clone, Debug)]
pub struct FilterChain {
    matches: FilterChainMatch,
    /// May be empty.
    pub name: Arc<str>,
    /// How they are secured.
    pub(super) transport: Transport,
    pub(super) handshake_timeout: Option<Duration>,
    pub(super) filters: NetworkFilters,
}

/// The transport socket of a filter chain.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    /// `raw_buffer`: bytes as they are.
    Raw,
    /// `tls`.
    Tls(Arc<DownstreamTls>),
}

impl FilterChains {
    /// At least one is needed, and no two may be for the same connections.
    pub(super) fn from_proto(
        protos: &[listener::FilterChain],
        default: Option<&listener::FilterChain>,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
        scope: &Scope,
    ) -> Option<FilterChains> {
        let list = field.key("filter_chains");
        let chains = protos
            .iter()
            .enumerate()
            .map(|(index, proto)| FilterChain::from_proto(proto, list.index(index), cx, scope));
        let chains: Vec<_> = chains.collect();
        let default = default.map(|proto| {
            let field = field.key("default_filter_chain");
            field.ignored("filter_chain_match", &proto.filter_chain_match, "it takes what matches no other");
            FilterChain::from_proto(proto, field, cx, scope)
        });
        if chains.is_empty() && default.is_none() {
            list.error("a listener needs a filter chain");
        }
        let mut matcher = FilterChainMatcher::default();
        for (position, chain) in chains.iter().enumerate() {
            let Some(chain) = chain else { continue };
            if let Err(other) = matcher.insert(&chain.matches, position) {
                let same = chains[other].as_ref().is_some_and(|other| other.matches == chain.matches);
                let how = if same { "are the same as" } else { "overlap with" };
                let message = format!("the connections of this filter chain {how} those of filter_chains[{other}]");
                list.index(position).key("filter_chain_match").error(message);
            }
        }
        let chains: Option<Vec<_>> = chains.into_iter().collect();
        let default = match default {
            Some(default) => Some(default?),
            None => None,
        };
        Some(FilterChains { chains: chains?, matcher, default })
    }

    /// The same with what changed files of certificates hold now; `None` if nothing changes.
    pub(super) fn renewed(&self, renewal: &Renewal<'_>, listener: &str) -> Option<FilterChains> {
        let mut next = self.clone();
        let mut changed = false;
        for chain in next.chains.iter_mut().chain(&mut next.default) {
            let Transport::Tls(tls) = &mut chain.transport else { continue };
            if let Some(renewed) = renewal.downstream(tls, Owner::Listener(listener)) {
                *tls = renewed;
                changed = true;
            }
        }
        changed.then_some(next)
    }

    /// All of them, the default last.
    pub fn all(&self) -> impl Iterator<Item = &FilterChain> {
        self.chains.iter().chain(&self.default)
    }

    /// The one for a connection.
    pub(super) fn find(&self, connection: &Candidate<'_>) -> Option<&FilterChain> {
        match self.matcher.find(connection) {
            Some(position) => self.chains.get(position),
            None => self.default.as_ref(),
        }
    }

    /// How connections are told apart.
    pub(super) fn matcher(&self) -> &FilterChainMatcher {
        &self.matcher
    }
}

impl FilterChain {
    /// `scope` is the listener's.
    pub(super) fn from_proto(
        proto: &listener::FilterChain,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
        scope: &Scope,
    ) -> Option<FilterChain> {
        let listener::FilterChain {
            filter_chain_match,
            filters,
            // The listener looks at that of its first chain.
            use_proxy_proto: _use_proxy_proto,
            metadata,
            transport_socket,
            transport_socket_connect_timeout,
            name,
        } = proto;
        field.ignored("metadata", metadata, "nothing looks at the metadata of a filter chain");
        let handshake_timeout = field
            .duration("transport_socket_connect_timeout", transport_socket_connect_timeout)
            .unwrap_or(HANDSHAKE_TIMEOUT);
        let transport = match transport_socket {
            Some(socket) => Transport::from_proto(socket, field.key("transport_socket"), cx, scope),
            None => Some(Transport::Raw),
        };
        let cx = FactoryContext { listener_stats: Some(scope), ..*cx };
        let filters = network_filters::from_proto(filters, field.key("filters"), &cx);
        let any = listener::FilterChainMatch::default();
        let matches = filter_chain_match.as_ref().unwrap_or(&any);
        let matches = FilterChainMatch::from_proto(matches, field.key("filter_chain_match"));
        Some(FilterChain {
            matches: matches?,
            name: name.as_str().into(),
            transport: transport?,
            handshake_timeout: (!handshake_timeout.is_zero()).then_some(handshake_timeout),
            filters: filters?,
        })
    }
}

impl FilterChain {
    /// How connections are secured; `None` if they are not.
    #[must_use]
    pub fn tls(&self) -> Option<&DownstreamTls> {
        match &self.transport {
            Transport::Raw => None,
            Transport::Tls(tls) => Some(tls),
        }
    }
}

impl Transport {
    fn from_proto(
        proto: &TransportSocket,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
        scope: &Scope,
    ) -> Option<Transport> {
        let TransportSocket { name, config_type } = proto;
        let field_of_config = field.key("typed_config");
        let Some(ConfigType::TypedConfig(any)) = config_type else {
            if name == "envoy.transport_sockets.raw_buffer" {
                return Some(Transport::Raw);
            }
            field_of_config.error("is required");
            return None;
        };
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
        if type_name == DownstreamTlsContext::full_name() {
            let context = field_of_config.unpack::<DownstreamTlsContext>(any)?;
            return DownstreamTls::from_proto(&context, field_of_config, cx.secrets, scope)
                .map(Arc::new)
                .map(Transport::Tls);
        }
        if type_name == RawBuffer::full_name() {
            return Some(Transport::Raw);
        }
        if type_name.ends_with(".UpstreamTlsContext") {
            field_of_config.error("an UpstreamTlsContext is for clusters: a listener has a DownstreamTlsContext");
        } else if type_name.starts_with(TRANSPORT_SOCKETS) {
            field.unsupported("typed_config", &Some(any));
        } else {
            field_of_config.error(format!("{type_name:?} is not a transport socket"));
        }
        None
    }
}
