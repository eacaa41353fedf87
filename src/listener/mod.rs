//! Listeners: where connections come in, and which filter chain serves them.
//!
//! [`Listener`] is the model of `envoy.config.listener.v3.Listener`. [`run`] is its life on one worker: accept, look at the
//! first bytes where that decides, choose a [`FilterChain`], do the TLS handshake, hand over to the chain's network filter.

mod accept;
mod connection_input;
mod filter_chain;
mod filter_chain_match;
mod filters;
mod listen_address;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use accept::{run, run_handed_over};
pub use filter_chain::{FilterChain, FilterChains};
use filters::ListenerFilters;
pub use listen_address::{BindError, ListenAddress};

use crate::{
    access_log::AccessLog,
    config::Field,
    filter::FactoryContext,
    net::{Address, ConnectionLimit, socket_settings},
    proto::{
        self, BoolValue, UInt32Value, core,
        listener::{
            self,
            listener::{InternalListenerConfig, ListenerSpecifier},
        },
    },
    stats::{self, Scope},
    sys::socket_option::SocketOption,
    tls::Renewal,
};

stats::declare! {
    /// Of a listener, under `listener.<address>.`
    pub struct ListenerStats {
        /// Connections given to a filter chain.
        downstream_cx_total: Counter,
        /// Of these, those that are open.
        downstream_cx_active: Gauge,
        /// Of these, those that have ended.
        downstream_cx_destroy: Counter,
        /// How long they lasted, in milliseconds.
        downstream_cx_length_ms: Histogram,
        /// Connections refused because the listener has as many as it may have.
        downstream_cx_overflow: Counter,
        /// Connections refused because the process has as many as it may have.
        downstream_global_cx_overflow: Counter,
        /// Times that a connection had to wait because none could be accepted, for example for want of file descriptors.
        downstream_cx_accept_failed: Counter,
        /// Connections whose TLS handshake took too long.
        downstream_cx_transport_socket_connect_timeout: Counter,
        /// Connections whose first bytes are awaited.
        downstream_pre_cx_active: Gauge,
        /// Connections whose first bytes did not come in time.
        downstream_pre_cx_timeout: Counter,
        /// Connections that failed before their first bytes had come.
        downstream_listener_filter_error: Counter,
        /// Connections that ended before their first bytes had come.
        downstream_listener_filter_remote_close: Counter,
        /// Connections that no filter chain is for.
        no_filter_chain_match: Counter,
    }
}

/// A checked `envoy.config.listener.v3.Listener`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The configured name, or the address if there is none.
    pub name: Arc<str>,
    /// The address, and the additional ones.
    pub addresses: Vec<ListenAddress>,
    /// Whether there are sockets on its addresses; else connections come from other listeners or from clusters only.
    pub is_bound: bool,
    /// What connections may get.
    pub filter_chains: FilterChains,
    /// Connections whose destination is that of another listener are that listener's.
    hands_over: bool,
    listener_filters: Arc<ListenerFilters>,
    /// Of connections, whatever serves them.
    access_logs: Arc<[AccessLog]>,
    connection_limit: Option<Arc<ConnectionLimit>>,
    global_connection_limit: Option<Arc<ConnectionLimit>>,
    stats: ListenerStats,
    scope: Scope,
}

impl Listener {
    /// Converts a listener; its certificates are read, its sockets are not made.
    #[must_use]
    pub fn from_proto(proto: &listener::Listener, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<Listener> {
        #[rustfmt::skip] // a line for each of them would hide what is done with them
        let listener::Listener {
            name, address, additional_addresses, stat_prefix, stats_matcher, filter_chains, fcds_config,
            filter_chain_matcher, use_original_dst, default_filter_chain, per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout, metadata, deprecated_v1, drain_type, listener_filters,
            listener_filters_timeout, continue_on_listener_filters_timeout, transparent, freebind, socket_options,
            tcp_fast_open_queue_length, traffic_direction, udp_listener_config, api_listener,
            connection_balance_config, reuse_port, enable_reuse_port, access_log, tcp_backlog_size,
            // Each is begun by itself, so that no number of them holds up the others.
            max_connections_to_accept_per_socket_event: _accepted_at_once, bind_to_port, enable_mptcp, ignore_global_conn_limit,
            bypass_overload_manager, tcp_keepalive, listener_specifier,
        } = proto;
        let is_true = |value: &Option<BoolValue>| value.is_some_and(|value| value.value);
        field.unsupported("fcds_config", fcds_config);
        field.unsupported("udp_listener_config", udp_listener_config);
        field.unsupported("api_listener", api_listener);
        field.unsupported("deprecated_v1", deprecated_v1);
        let why = "buffers have a fixed size, and those of HTTP/2 that of its windows";
        let watermark_timeout = per_connection_buffer_high_watermark_timeout;
        field.ignored("per_connection_buffer_high_watermark_timeout", watermark_timeout, why);
        field.ignored("stats_matcher", stats_matcher, "all statistics are kept");
        field.ignored("metadata", metadata, "nothing looks at the metadata of a listener");
        field.ignored("drain_type", drain_type, "a listener drains when it is changed or removed, or the process ends");
        field.ignored("traffic_direction", traffic_direction, "it labels traces only");
        field.ignored("connection_balance_config", connection_balance_config, "the kernel spreads connections");
        field.ignored("reuse_port", reuse_port, "enable_reuse_port took its place, and is on");
        field.ignored("enable_mptcp", enable_mptcp, "plain TCP is used");
        field.ignored("bypass_overload_manager", bypass_overload_manager, "there is no overload manager");

        if udp_listener_config.is_some() || api_listener.is_some() {
            return None; // another kind of listener, to which the rules below do not apply
        }
        let addresses = match listener_specifier {
            Some(ListenerSpecifier::InternalListener(InternalListenerConfig {})) => internal_address(proto, field),
            None => addresses(address.as_ref(), additional_addresses, field),
        };
        let address = addresses.as_ref().map(|addresses| addresses[0].to_string()).unwrap_or_default();
        let scope = cx.stats.scope("listener").scope(if stat_prefix.is_empty() { &address } else { stat_prefix });
        let buffer_limit = per_connection_buffer_limit_bytes.filter(|limit| limit.value > 0);
        let buffer_limit = buffer_limit.and_then(|limit| usize::try_from(limit.value).ok()).unwrap_or(cx.buffer_limit);
        let cx = &FactoryContext { buffer_limit, ..*cx };
        let first_chain = filter_chains.first().and_then(|chain| chain.use_proxy_proto);
        let settings = filter_chain::Settings {
            chains: filter_chains,
            default: default_filter_chain.as_ref(),
            matcher: filter_chain_matcher.as_ref(),
        };
        let filter_chains = FilterChains::from_proto(&settings, field, cx, &scope);
        let settings = filters::Settings {
            listener_filters,
            proxy_protocol_first: first_chain.is_some_and(|used| used.value),
            original_dst: is_true(use_original_dst),
            timeout: listener_filters_timeout,
            continue_on_timeout: *continue_on_listener_filters_timeout,
        };
        let listener_filters = ListenerFilters::from_proto(&settings, field, cx);
        let access_logs = access_logs(access_log, field.key("access_log"), cx);
        let (mut addresses, filter_chains) = (addresses?, filter_chains?);
        #[rustfmt::skip]
        let settings = SocketSettings {
            socket_options, transparent: is_true(transparent), freebind: is_true(freebind), tcp_fast_open_queue_length,
            reuse_port: enable_reuse_port.is_none_or(|enabled| enabled.value), backlog: tcp_backlog_size,
        };
        settings.apply(&mut addresses, field);
        addresses[0].tcp.keepalive = tcp_keepalive.as_ref().map(socket_settings::keepalive);
        Some(Listener {
            name: if name.is_empty() { address.into() } else { name.as_str().into() },
            addresses,
            is_bound: listener_specifier.is_none() && bind_to_port.is_none_or(|bind| bind.value),
            hands_over: is_true(use_original_dst),
            listener_filters: Arc::new(listener_filters?.with_tls_inspector(filter_chains.matcher(), cx)),
            filter_chains,
            access_logs: access_logs?.into(),
            connection_limit: cx.connection_limits.of_listener.get(name).copied().map(ConnectionLimit::new),
            global_connection_limit: cx.connection_limits.global.clone().filter(|_| !ignore_global_conn_limit),
            stats: ListenerStats::new(&scope),
            scope,
        })
    }

    /// The same listener with what changed files of certificates hold now; `None` if nothing changes.
    #[must_use]
    pub fn renewed(&self, renewal: &Renewal<'_>) -> Option<Listener> {
        let filter_chains = self.filter_chains.renewed(renewal, &self.name)?;
        Some(Listener { filter_chains, ..self.clone() })
    }
}

fn access_logs(
    protos: &[proto::accesslog::AccessLog],
    list: Field<'_>,
    cx: &FactoryContext<'_>,
) -> Option<Vec<AccessLog>> {
    let logs = protos.iter().enumerate();
    let logs: Vec<_> = logs.map(|(index, log)| AccessLog::from_proto(log, list.index(index), cx.access_logs)).collect();
    logs.into_iter().collect()
}

/// A listener within the process has a name and no sockets, and so nothing that is said of sockets.
fn internal_address(proto: &listener::Listener, field: Field<'_>) -> Option<Vec<ListenAddress>> {
    if proto.name.is_empty() {
        field.key("name").error("is required: clusters find an internal listener by its name");
    }
    if proto.address.is_some() {
        field.key("address").error("an internal listener has no address but its name");
    }
    let settings = [
        ("additional_addresses", !proto.additional_addresses.is_empty()),
        ("socket_options", !proto.socket_options.is_empty()),
        ("transparent", proto.transparent.is_some()),
        ("freebind", proto.freebind.is_some()),
        ("tcp_fast_open_queue_length", proto.tcp_fast_open_queue_length.is_some()),
        ("tcp_backlog_size", proto.tcp_backlog_size.is_some()),
        ("enable_reuse_port", proto.enable_reuse_port.is_some()),
        ("enable_mptcp", proto.enable_mptcp),
    ];
    for (name, _) in settings.iter().filter(|(_, set)| *set) {
        field.key(name).error("is for listeners with sockets");
    }
    Some(vec![ListenAddress::internal(&proto.name)])
}

/// What a listener says of all its sockets.
struct SocketSettings<'a> {
    socket_options: &'a [core::SocketOption],
    transparent: bool,
    freebind: bool,
    tcp_fast_open_queue_length: &'a Option<UInt32Value>,
    reuse_port: bool,
    backlog: &'a Option<UInt32Value>,
}

impl SocketSettings<'_> {
    fn apply(&self, addresses: &mut [ListenAddress], field: Field<'_>) {
        for ListenAddress { address, tcp, .. } in addresses {
            self.add(address, &mut tcp.options, field);
            tcp.reuse_port = self.reuse_port;
            tcp.freebind = self.freebind;
            tcp.backlog = self.backlog.map_or(tcp.backlog, |size| size.value);
        }
    }

    /// Unless an additional address has options of its own.
    fn add(&self, address: &Address, options: &mut Vec<SocketOption>, field: Field<'_>) {
        let Some(ip) = address.ip() else { return };
        if options.is_empty() {
            *options = socket_settings::socket_options(self.socket_options, ip, field.key("socket_options"));
        }
        if self.transparent {
            options.push(SocketOption::transparent(ip.is_ipv6()));
        }
        if let Some(queue) = self.tcp_fast_open_queue_length {
            options.push(SocketOption::fast_open(i32::try_from(queue.value).unwrap_or(i32::MAX)));
        }
    }
}

/// The address, then the additional ones with what each sets for itself.
fn addresses(
    address: Option<&core::Address>,
    additional: &[listener::AdditionalAddress],
    field: Field<'_>,
) -> Option<Vec<ListenAddress>> {
    let address = address.map(|address| ListenAddress::from_proto(address, field.key("address")));
    let mut addresses = vec![field.required("address", &address)?.clone()];
    for (index, proto) in additional.iter().enumerate() {
        let listener::AdditionalAddress { address, socket_options, tcp_keepalive } = proto;
        let list = field.key("additional_addresses");
        let field = list.index(index);
        let address = field.required("address", address);
        let mut address = address.and_then(|address| ListenAddress::from_proto(address, field.key("address")));
        if let Some(ListenAddress { tcp, .. }) = &mut address {
            tcp.keepalive = tcp_keepalive.as_ref().map(socket_settings::keepalive);
        }
        if let (Some(ListenAddress { address, tcp, .. }), Some(options)) = (&mut address, socket_options)
            && let Some(ip) = address.ip()
        {
            let listed = field.key("socket_options");
            tcp.options = socket_settings::socket_options(&options.socket_options, ip, listed.key("socket_options"));
        }
        addresses.push(address);
    }
    addresses.into_iter().collect()
}
