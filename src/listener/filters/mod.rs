//! Listener filters: what looks at a connection before its filter chain is chosen.
//!
//! They run in the order of the configuration, over the first bytes of the connection, and say what they found in [`Accepted`]. The
//! TLS inspector need not be listed: it works wherever a filter chain depends on what it finds.

mod http_inspector;
mod local_ratelimit;
mod original_dst;
mod predicate;
mod proxy_protocol;
mod tls_inspector;

use std::{io, time::Duration};

use prost::Name;

use super::filter_chain_match::FilterChainMatcher;
use crate::{
    config::Field,
    filter::FactoryContext,
    net::{Address, Io},
    proto::{
        self,
        listener::{ListenerFilter as Proto, listener_filter::ConfigType},
    },
    runtime::Runtime,
    stream_info::{Fingerprints, ProxyProtocol},
};
use http_inspector::HttpInspector;
use local_ratelimit::LocalRateLimit;
use predicate::Predicate;
use proxy_protocol::ProxyProtocolFilter;
use tls_inspector::TlsInspector;

const TIMEOUT: Duration = Duration::from_secs(15);

/// The packages of Envoy's listener filters.
const PACKAGES: [&str; 2] = ["envoy.extensions.filters.listener.", "envoy.extensions.filters.udp."];

/// What a listener says about looking at connections first.
pub(super) struct Settings<'a> {
    pub(super) listener_filters: &'a [Proto],
    /// `use_proxy_proto` of the first filter chain, the old way to say that there is a PROXY header.
    pub(super) proxy_protocol_first: bool,
    /// `use_original_dst`, which implies the filter for it.
    pub(super) original_dst: bool,
    pub(super) timeout: &'a Option<proto::Duration>,
    pub(super) continue_on_timeout: bool,
}

/// The listener filters of a listener.
#[derive(Debug)]
pub(super) struct ListenerFilters {
    filters: Vec<(ListenerFilter, Option<Predicate>)>,
    /// `None`: for ever.
    pub(super) timeout: Option<Duration>,
    /// Connections whose first bytes do not come go on with what has been found; else they are closed.
    pub(super) continue_on_timeout: bool,
}

#[derive(Debug)]
enum ListenerFilter {
    TlsInspector(TlsInspector),
    HttpInspector(HttpInspector),
    ProxyProtocol(ProxyProtocolFilter),
    OriginalDst,
    LocalRateLimit(LocalRateLimit),
}

/// What is known of a connection that has been accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    /// Where the client connected to: our address, or an earlier one that a filter has found out.
    pub(super) local: Address,
    /// The client: the peer, or whom the peer speaks for.
    pub(super) remote: Address,
    /// `tls` or `raw_buffer`; empty if nobody has looked.
    pub(super) transport_protocol: &'static str,
    /// In lower case.
    pub(super) server_name: Option<Box<str>>,
    pub(super) application_protocols: Vec<Vec<u8>>,
    pub(super) fingerprints: Option<Box<Fingerprints>>,
    pub(super) proxy_protocol: Option<Box<ProxyProtocol>>,
}

impl Accepted {
    pub(super) fn new(io: &Io) -> Accepted {
        Accepted {
            local: io.local_address().clone(),
            remote: io.peer_address().clone(),
            transport_protocol: "",
            server_name: None,
            application_protocols: Vec::new(),
            fingerprints: None,
            proxy_protocol: None,
        }
    }
}

/// Why a connection is not served.
#[derive(Debug)]
pub(super) enum Rejection {
    /// The client has ended it.
    RemoteClose,
    /// It failed.
    Failed,
    /// A filter does not let it in.
    ByFilter,
}

impl From<io::Error> for Rejection {
    fn from(_: io::Error) -> Rejection {
        Rejection::Failed
    }
}

impl ListenerFilters {
    pub(super) fn from_proto(
        settings: &Settings<'_>,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
    ) -> Option<ListenerFilters> {
        let &Settings { listener_filters, proxy_protocol_first, original_dst, timeout, continue_on_timeout } = settings;
        let timeout = field.duration("listener_filters_timeout", timeout).unwrap_or(TIMEOUT);
        let list = field.key("listener_filters");
        let filters: Vec<_> = listener_filters
            .iter()
            .enumerate()
            .map(|(index, filter)| {
                let field = list.index(index);
                let Proto { name: _name, filter_disabled, config_type: _config_type } = filter;
                let disabled = filter_disabled
                    .as_ref()
                    .map(|predicate| Predicate::from_proto(predicate, field.key("filter_disabled")));
                Some((ListenerFilter::from_proto(filter, field, cx)?, disabled))
            })
            .collect();
        let mut filters: Vec<_> = filters.into_iter().collect::<Option<_>>()?;
        if proxy_protocol_first {
            let filter = ProxyProtocolFilter::from_proto(&proto::proxy_protocol::ProxyProtocol::default(), field, cx)?;
            filters.insert(0, (ListenerFilter::ProxyProtocol(filter), None));
        }
        let has_original_dst = filters.iter().any(|(filter, _)| matches!(filter, ListenerFilter::OriginalDst));
        if original_dst && !has_original_dst {
            filters.insert(0, (ListenerFilter::OriginalDst, None));
        }
        Some(ListenerFilters { filters, timeout: (!timeout.is_zero()).then_some(timeout), continue_on_timeout })
    }

    /// With a TLS inspector if the filter chains say that they depend on what it finds, as the last where none is listed.
    pub(super) fn with_tls_inspector(
        mut self,
        matcher: Option<&FilterChainMatcher>,
        cx: &FactoryContext<'_>,
    ) -> ListenerFilters {
        let lists = |kind: fn(&ListenerFilter) -> bool| self.filters.iter().any(|(filter, _)| kind(filter));
        let http = lists(|filter| matches!(filter, ListenerFilter::HttpInspector(_)));
        let needed = matcher.is_some_and(|matcher| matcher.inspects_tls || matcher.inspects_protocols && !http);
        if needed && !lists(|filter| matches!(filter, ListenerFilter::TlsInspector(_))) {
            self.filters.push((ListenerFilter::TlsInspector(TlsInspector::new(cx)), None));
        }
        self
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Looks at a connection, as long as that takes. What was found until then stays if the future is dropped.
    pub(super) async fn inspect(
        &self,
        io: &mut Io,
        accepted: &mut Accepted,
        runtime: &Runtime,
    ) -> Result<(), Rejection> {
        for (filter, disabled) in &self.filters {
            if disabled.as_ref().is_some_and(|disabled| disabled.holds(&accepted.local)) {
                continue;
            }
            match filter {
                ListenerFilter::TlsInspector(inspector) => inspector.inspect(io, accepted).await?,
                ListenerFilter::HttpInspector(inspector) => inspector.inspect(io, accepted).await?,
                ListenerFilter::ProxyProtocol(filter) => filter.read(io, accepted).await?,
                ListenerFilter::OriginalDst => original_dst::restore(io, accepted),
                ListenerFilter::LocalRateLimit(limit) => limit.admit(runtime)?,
            }
        }
        Ok(())
    }
}

impl ListenerFilter {
    fn from_proto(proto: &Proto, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<ListenerFilter> {
        // The name is free text: the type decides.
        let Proto { name, filter_disabled: _filter_disabled, config_type } = proto;
        let any = match config_type {
            Some(ConfigType::TypedConfig(any)) => any,
            Some(ConfigType::ConfigDiscovery(discovery)) => {
                field.unsupported("config_discovery", &Some(discovery));
                return None;
            }
            None => {
                field
                    .key("typed_config")
                    .error(format!("is required: the name {name:?} alone does not say what to do"));
                return None;
            }
        };
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
        let config = field.key("typed_config");
        if type_name == proto::tls_inspector::TlsInspector::full_name() {
            return TlsInspector::from_proto(&config.unpack(any)?, config, cx).map(ListenerFilter::TlsInspector);
        }
        if type_name == proto::http_inspector::HttpInspector::full_name() {
            let proto::http_inspector::HttpInspector {} = config.unpack(any)?;
            return Some(ListenerFilter::HttpInspector(HttpInspector::new(cx)));
        }
        if type_name == proto::proxy_protocol::ProxyProtocol::full_name() {
            return ProxyProtocolFilter::from_proto(&config.unpack(any)?, config, cx)
                .map(ListenerFilter::ProxyProtocol);
        }
        if type_name == proto::original_dst::OriginalDst::full_name() {
            let proto::original_dst::OriginalDst {} = config.unpack(any)?;
            return Some(ListenerFilter::OriginalDst);
        }
        if type_name == proto::listener_local_ratelimit::LocalRateLimit::full_name() {
            return LocalRateLimit::from_proto(&config.unpack(any)?, config, cx).map(ListenerFilter::LocalRateLimit);
        }
        if PACKAGES.iter().any(|package| type_name.starts_with(package)) {
            field.unsupported("typed_config", &Some(any));
        } else {
            config.error(format!("{type_name:?} is not a listener filter"));
        }
        None
    }
}
