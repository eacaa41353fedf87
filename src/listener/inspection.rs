//! Listener filters: what looks at a connection before its filter chain is chosen.
//!
//! There is one so far, the TLS inspector, and it need not be listed: it works wherever a filter chain depends on what it finds.

use std::time::Duration;

use prost::Name;

use crate::{
    config::Field,
    filter::FactoryContext,
    proto::{
        self,
        listener::{ListenerFilter, listener_filter::ConfigType},
        tls_inspector::TlsInspector,
    },
    stats,
    tls::{ClientHello, Inspected},
};

/// What a listener says about looking ahead.
pub(super) struct Settings<'a> {
    pub(super) listener_filters: &'a [ListenerFilter],
    pub(super) timeout: &'a Option<proto::Duration>,
    pub(super) continue_on_timeout: bool,
}

/// How the first bytes of connections are awaited.
#[derive(Debug)]
pub(super) struct Inspection {
    /// A filter says so, or the filter chains need it.
    pub(super) enabled: bool,
    /// `None`: for ever.
    pub(super) timeout: Option<Duration>,
    /// Connections whose first bytes do not come are served as if they were not TLS; else they are closed.
    pub(super) continue_on_timeout: bool,
    /// The longest `ClientHello`.
    pub(super) limit: usize,
    stats: TlsInspectorStats,
}

stats::declare! {
    /// Of the TLS inspectors of all listeners, under `tls_inspector.`
    pub(super) struct TlsInspectorStats {
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

const TIMEOUT: Duration = Duration::from_secs(15);

/// Envoy's limit.
const CLIENT_HELLO_LIMIT: u32 = 16 * 1024;

/// The packages of Envoy's listener filters.
const PACKAGES: [&str; 2] = ["envoy.extensions.filters.listener.", "envoy.extensions.filters.udp."];

impl Inspection {
    /// Enabled if a filter says so.
    pub(super) fn from_proto(settings: &Settings<'_>, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<Inspection> {
        let &Settings { listener_filters, timeout, continue_on_timeout } = settings;
        let timeout = field.duration("listener_filters_timeout", timeout).unwrap_or(TIMEOUT);
        let list = field.key("listener_filters");
        let limits: Vec<_> =
            listener_filters.iter().enumerate().map(|(index, filter)| limit(filter, list.index(index))).collect();
        let limits: Option<Vec<usize>> = limits.into_iter().collect();
        let limits = limits?;
        Some(Inspection {
            enabled: !limits.is_empty(),
            limit: limits.last().copied().unwrap_or(CLIENT_HELLO_LIMIT as usize),
            timeout: (!timeout.is_zero()).then_some(timeout),
            continue_on_timeout,
            stats: TlsInspectorStats::new(&cx.stats.scope("tls_inspector")),
        })
    }

    /// Enabled also if the filter chains depend on what is found.
    pub(super) fn needed(self, needed: bool) -> Inspection {
        Inspection { enabled: self.enabled || needed, ..self }
    }

    /// Counts what was found.
    pub(super) fn count(&self, inspected: &Inspected) {
        match inspected {
            Inspected::Tls(ClientHello { server_name, application_protocols }) => {
                self.stats.tls_found.inc();
                let sni = if server_name.is_some() { &self.stats.sni_found } else { &self.stats.sni_not_found };
                sni.inc();
                let offered = !application_protocols.is_empty();
                let alpn = if offered { &self.stats.alpn_found } else { &self.stats.alpn_not_found };
                alpn.inc();
            }
            Inspected::NotTls => self.stats.tls_not_found.inc(),
            Inspected::TooLarge => self.stats.client_hello_too_large.inc(),
            Inspected::Closed => {}
        }
    }
}

/// The longest `ClientHello` that a TLS inspector admits; every other listener filter is an error.
fn limit(proto: &ListenerFilter, field: Field<'_>) -> Option<usize> {
    // The name is free text: the type decides.
    let ListenerFilter { name, filter_disabled, config_type } = proto;
    field.unsupported("filter_disabled", filter_disabled);
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(discovery)) => {
            field.unsupported("config_discovery", &Some(discovery));
            return None;
        }
        None => {
            field.key("typed_config").error(format!("is required: the name {name:?} alone does not say what to do"));
            return None;
        }
    };
    let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
    if type_name != TlsInspector::full_name() {
        if PACKAGES.iter().any(|package| type_name.starts_with(package)) {
            field.unsupported("typed_config", &Some(any));
        } else {
            field.key("typed_config").error(format!("{type_name:?} is not a listener filter"));
        }
        return None;
    }
    let field = field.key("typed_config");
    let TlsInspector {
        enable_ja3_fingerprinting,
        enable_ja4_fingerprinting,
        initial_read_buffer_size,
        close_connection_on_client_hello_parsing_errors,
        max_client_hello_size,
    } = field.unpack::<TlsInspector>(any)?;
    let is_true = |value: Option<proto::BoolValue>| value.is_some_and(|value| value.value);
    field.ignored("enable_ja3_fingerprinting", &is_true(enable_ja3_fingerprinting), "no fingerprints are taken");
    field.ignored("enable_ja4_fingerprinting", &is_true(enable_ja4_fingerprinting), "no fingerprints are taken");
    field.ignored("initial_read_buffer_size", &initial_read_buffer_size, "buffers grow as needed");
    field.unsupported(
        "close_connection_on_client_hello_parsing_errors",
        &close_connection_on_client_hello_parsing_errors,
    );
    let limit = max_client_hello_size.map_or(CLIENT_HELLO_LIMIT, |size| size.value);
    if limit == 0 || limit > CLIENT_HELLO_LIMIT {
        field.key("max_client_hello_size").error(format!("must be 1 to {CLIENT_HELLO_LIMIT}"));
        return None;
    }
    usize::try_from(limit).ok()
}
