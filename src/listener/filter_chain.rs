//! Filter chains: `envoy.config.listener.v3.FilterChain`, what is done with the connections that match.

use std::{sync::Arc, time::Duration};

use prost::Name;

use crate::{
    config::Field,
    filter::{FactoryContext, WorkerContext},
    matcher::{KeepMatching, MatchTree},
    network_filters::{self, NetworkFilters},
    proto::{
        StringValue,
        core::{TransportSocket, transport_socket::ConfigType},
        listener,
        raw_buffer::RawBuffer,
        tap_transport_socket::Tap,
        tls::DownstreamTlsContext,
        xds_core::TypedExtensionConfig,
        xds_matcher,
    },
    stats::Scope,
    tls::{DownstreamTls, Owner, Renewal},
};

use super::{
    connection_input::{ConnectionData, ConnectionInput},
    filter_chain_match::{Candidate, FilterChainMatch, FilterChainMatcher},
};

/// The package of Envoy's transport sockets.
const TRANSPORT_SOCKETS: &str = "envoy.extensions.transport_sockets.";

/// How long a handshake may take unless the chain says otherwise. Envoy waits for ever, which lets anybody hold connections open.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// The filter chains of a listener.
#[derive(Clone, Debug)]
pub struct FilterChains {
    /// In the order of the document.
    chains: Vec<FilterChain>,
    choice: Choice,
    /// For connections that match no other.
    default: Option<FilterChain>,
}

/// How the filter chain of a connection is found.
#[derive(Clone, Debug)]
enum Choice {
    /// By what each of them says (`filter_chain_match`).
    Matches(FilterChainMatcher),
    /// By a tree (`filter_chain_matcher`) that says its position; none if no chain has the name that the tree says.
    Tree(Arc<MatchTree<ConnectionInput, Option<usize>>>),
}

/// What a listener says of its filter chains.
pub(super) struct Settings<'a> {
    pub(super) chains: &'a [listener::FilterChain],
    pub(super) default: Option<&'a listener::FilterChain>,
    pub(super) matcher: Option<&'a xds_matcher::Matcher>,
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
        settings: &Settings<'_>,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
        scope: &Scope,
    ) -> Option<FilterChains> {
        let Settings { chains: protos, default, matcher } = settings;
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
        let choice = match matcher {
            Some(tree) => Choice::by_tree(tree, protos, field),
            None => Some(Choice::by_matches(&chains, list)),
        };
        let chains: Option<Vec<_>> = chains.into_iter().collect();
        let default = match default {
            Some(default) => Some(default?),
            None => None,
        };
        Some(FilterChains { chains: chains?, choice: choice?, default })
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
    pub(super) fn find(&self, connection: &Candidate<'_>, worker: &WorkerContext) -> Option<&FilterChain> {
        let position = match &self.choice {
            Choice::Matches(matcher) => matcher.find(connection),
            Choice::Tree(tree) => {
                let data = ConnectionData { candidate: connection, runtime: &worker.runtime() };
                match tree.find(&data) {
                    Some(position) => return self.chains.get((*position)?),
                    None => None,
                }
            }
        };
        match position {
            Some(position) => self.chains.get(position),
            None => self.default.as_ref(),
        }
    }

    /// How connections are told apart, where the filter chains themselves say it.
    pub(super) fn matcher(&self) -> Option<&FilterChainMatcher> {
        match &self.choice {
            Choice::Matches(matcher) => Some(matcher),
            Choice::Tree(_) => None,
        }
    }
}

impl Choice {
    /// `list` is that of the chains.
    fn by_matches(chains: &[Option<FilterChain>], list: Field<'_>) -> Choice {
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
        Choice::Matches(matcher)
    }

    /// `field` is the listener's.
    fn by_tree(proto: &xds_matcher::Matcher, chains: &[listener::FilterChain], field: Field<'_>) -> Option<Choice> {
        let list = field.key("filter_chains");
        for (position, chain) in chains.iter().enumerate() {
            let field = list.index(position);
            field.ignored("filter_chain_match", &chain.filter_chain_match, "filter_chain_matcher chooses");
            if chain.name.is_empty() {
                field.key("name").error("is required, for filter_chain_matcher chooses by it");
            } else if chains[..position].iter().any(|other| other.name == chain.name) {
                field.key("name").error(format!("another filter chain is named {:?}, too", chain.name));
            }
        }
        let mut name = |action: &TypedExtensionConfig, field: Field<'_>| {
            let TypedExtensionConfig { name: _name, typed_config } = action;
            let any = field.required("typed_config", typed_config)?;
            let field = field.key("typed_config");
            if any.type_url.rsplit('/').next() != Some(StringValue::full_name().as_str()) {
                field.error("must be a google.protobuf.StringValue, with the name of a filter chain");
                return None;
            }
            let StringValue { value } = field.unpack(any)?;
            let position = chains.iter().position(|chain| chain.name == value);
            if position.is_none() {
                field.warning(format!("no filter chain is named {value:?}: connections that come to this are closed"));
            }
            Some(position)
        };
        let tree = MatchTree::from_proto(proto, field.key("filter_chain_matcher"), KeepMatching::Allowed, &mut name)?;
        Some(Choice::Tree(Arc::new(tree)))
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
        if type_name == Tap::full_name() {
            let Tap { common_config: _common_config, transport_socket, socket_tap_config: _socket_tap_config } =
                field_of_config.unpack(any)?;
            field_of_config.warning("tap is not implemented by Portreeve yet: traffic is not tapped");
            let inner = field_of_config.required("transport_socket", &transport_socket)?;
            return Transport::from_proto(inner, field_of_config.key("transport_socket"), cx, scope);
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
