//! The HTTP connection manager, `envoy.filters.network.http_connection_manager`.
//!
//! `connection.rs` serves one connection, `stream.rs` one request (start reading there), `response.rs` sees the response out.
//! [`HttpConnectionManager`] is what a configuration says, converted and checked once.

mod admission;
mod config;
mod connection;
mod filter_chain;
mod local_replies;
mod proxy_status;
mod response;
mod stats;
mod stream;
#[cfg(test)]
mod tests;

use std::{rc::Rc, sync::Arc, time::Duration};

use crate::{
    access_log::AccessLog,
    drain::Watcher,
    filter::{
        LocalFuture, WorkerContext,
        http::HttpFilterConfig,
        network::{NetworkFilter, NetworkFilterFactory},
    },
    http::{
        Request, header_mutations::OrderedMutations, headers::HeaderRules, http1, http2, path::PathRules,
        upgrade::Upgrade,
    },
    net::Io,
    route::{RouteConfiguration, RouteRef, Switch},
    router::Router,
    stream_info::{ConnectionInfo, HeaderCapture},
};
use connection::Connection;
use local_replies::LocalReplies;
use proxy_status::ProxyStatus;
use stats::{CodecStats, ConnectionManagerStats, ResponseClasses};

/// The row of this filter.
pub const FACTORY: NetworkFilterFactory = NetworkFilterFactory {
    name: "envoy.filters.network.http_connection_manager",
    type_name: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    from_proto: config::network_filter,
};

/// A checked `HttpConnectionManager`.
#[derive(Debug)]
pub struct HttpConnectionManager {
    codec: Codec,
    http1: http1::Options,
    http2: http2::Options,
    stats: ConnectionManagerStats,
    /// Of the connection manager, and of its listener.
    responses: Vec<ResponseClasses>,
    http1_stats: CodecStats,
    http2_stats: CodecStats,
    frame_stats: http2::Stats,
    routes: Arc<RouteConfiguration>,
    chain: ConfiguredChain,
    access_logs: Vec<AccessLog>,
    capture: HeaderCapture,
    headers: HeaderRules,
    path: PathRules,
    /// `max_request_headers_kb`, in bytes.
    max_header_bytes: u32,
    strip_port: StripPort,
    strip_trailing_host_dot: bool,
    upgrades: Vec<UpgradeConfig>,
    /// Connections upstream that begin with a PROXY header tell of the client: `add_proxy_protocol_connection_state`.
    tells_client: bool,
    /// Requests are logged when they begin, too: `flush_access_log_on_new_request`.
    logs_start: bool,
    /// Tunnels are logged when they begin, too: `flush_log_on_tunnel_successfully_established`.
    logs_tunnels: bool,
    timeouts: Timeouts,
    local_replies: LocalReplies,
    proxy_status: Option<ProxyStatus>,
    /// `early_header_mutation_extensions`: changes to requests before a route is looked for.
    early_mutations: Vec<OrderedMutations>,
    /// `scheme_header_transformation.match_upstream`
    matches_upstream_scheme: bool,
    underscores: Underscores,
    /// An invalid message ends its stream, not its connection: `stream_error_on_invalid_http_message`.
    keeps_after_error: bool,
    /// After so many requests a connection ends: `max_requests_per_connection`; 0 for no end.
    max_requests: u32,
}

/// `codec_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    /// By ALPN, else by the first bytes.
    Auto,
    Http1,
    Http2,
}

/// Which ports are removed from the authority before routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StripPort {
    No,
    /// The listener's own.
    Matching,
    Any,
}

/// `headers_with_underscores_action`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Underscores {
    Allow,
    /// The request is refused.
    Reject,
    /// The header is removed.
    Drop,
}

/// Limits on time; `None` where there is none.
#[derive(Debug, Clone)]
struct Timeouts {
    /// A connection without requests: `common_http_protocol_options.idle_timeout`.
    connection_idle: Option<Duration>,
    /// The life of a connection: `common_http_protocol_options.max_connection_duration`.
    connection_duration: Option<Duration>,
    /// From when a client is told to go to when it must have gone: `drain_timeout`.
    drain: Duration,
    /// Up to so much is added to `drain`, in parts of it: `drain_timeout_jitter`.
    drain_jitter: f64,
    /// At its age an HTTP/1 connection still waits for a request, to answer it as the last:
    /// `http1_safe_max_connection_duration`.
    waits_for_last_request: bool,
    /// A stream on which nothing moves: `stream_idle_timeout`.
    stream_idle: Option<Duration>,
    /// The life of a stream: `common_http_protocol_options.max_stream_duration`.
    stream_duration: Option<Duration>,
    /// From the first header to the end of the request: `request_timeout`.
    request: Option<Duration>,
}

impl NetworkFilter for HttpConnectionManager {
    fn serve(
        self: Arc<Self>,
        io: Io,
        connection: Rc<ConnectionInfo>,
        worker: Rc<WorkerContext>,
        drain: Watcher,
    ) -> LocalFuture<'static, ()> {
        Box::pin(Connection::new(self, connection, worker).serve(io, drain))
    }

    fn handshake_failed(&self) {
        self.stats.downstream_cx_total.inc();
        self.stats.downstream_cx_ssl_total.inc();
        self.stats.downstream_cx_destroy.inc();
        self.stats.downstream_cx_destroy_remote.inc();
    }
}

/// The filters before the router, and the router, which comes last.
#[derive(Debug)]
struct ConfiguredChain {
    filters: Vec<ConfiguredFilter>,
    router: Router,
}

/// A protocol that requests may upgrade to, or that only routes may allow.
#[derive(Debug)]
struct UpgradeConfig {
    protocol: String,
    enabled: bool,
    /// In place of the connection manager's own.
    chain: Option<ConfiguredChain>,
}

impl UpgradeConfig {
    fn is_for(&self, protocol: &[u8]) -> bool {
        self.protocol.as_bytes().eq_ignore_ascii_case(protocol)
    }
}

impl HttpConnectionManager {
    /// The filters of a request: an upgrade may have some of its own.
    fn chain_of(&self, request: &Request) -> &ConfiguredChain {
        let own = request.extensions().get::<Upgrade>().and_then(|Upgrade(protocol)| {
            self.upgrades.iter().find(|config| config.is_for(protocol.as_bytes()))?.chain.as_ref()
        });
        own.unwrap_or(&self.chain)
    }
}

/// A filter of the chain, by the name that routes call it by.
#[derive(Debug)]
struct ConfiguredFilter {
    name: Box<str>,
    /// Runs only where a route switches it on.
    disabled: bool,
    config: Arc<dyn HttpFilterConfig>,
}

impl ConfiguredFilter {
    /// Whether the filter runs for a request with this route.
    fn is_enabled(&self, route: Option<&RouteRef>) -> bool {
        let switch = route.and_then(|route| route.filter_switch(&self.name));
        switch.map_or(!self.disabled, |switch| switch == Switch::On)
    }
}
