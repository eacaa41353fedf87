//! The TCP proxy, `envoy.filters.network.tcp_proxy`: a connection upstream for each connection, and their bytes across.
//!
//! [`TcpProxy`] is what a configuration says; `session.rs` serves one connection, `relay.rs` carries its bytes.

mod relay;
mod session;
mod tunnel;

use std::{rc::Rc, sync::Arc, time::Duration};

use crate::{
    access_log::AccessLog,
    config::Field,
    drain::Watcher,
    filter::{
        FactoryContext, LocalFuture, Random, WorkerContext,
        network::{NetworkFilter, NetworkFilterFactory},
    },
    matcher::MetadataMatch,
    net::Io,
    proto::{
        self, core,
        tcp_proxy::{
            UpstreamConnectMode,
            tcp_proxy::{ClusterSpecifier, TcpAccessLogOptions, WeightedCluster, weighted_cluster::ClusterWeight},
        },
    },
    stats,
    stream_info::{ConnectionInfo, ResponseFlags},
};
use session::Session;
use tunnel::Tunnel;

/// The row of this filter.
pub const FACTORY: NetworkFilterFactory = NetworkFilterFactory {
    name: "envoy.filters.network.tcp_proxy",
    type_name: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    from_proto: |any, field, cx| {
        let proxy = TcpProxy::from_proto(&field.unpack(any)?, field, cx)?;
        Some(Arc::new(proxy))
    },
};

const IDLE_TIMEOUT: Duration = Duration::from_hours(1);

/// Envoy's pause before a further attempt where `backoff_options` sets no `max_interval`, as a multiple of its `base_interval`.
const MAX_BACKOFF_FACTOR: u32 = 10;

stats::declare! {
    /// Of the TCP proxies with this prefix, under `tcp.<stat_prefix>.`
    struct TcpProxyStats {
        /// Connections.
        downstream_cx_total: Counter,
        /// Connections for whose cluster there is no name, or no cluster of that name.
        downstream_cx_no_route: Counter,
        /// Bytes received from clients.
        downstream_cx_rx_bytes_total: Counter,
        /// Bytes sent to clients.
        downstream_cx_tx_bytes_total: Counter,
        /// Connections closed early because the process drains (`check_drain_close`).
        downstream_cx_drain_close: Counter,
        /// Times that a client was not read from because its host could not take more.
        downstream_flow_control_paused_reading_total: Counter,
        /// Times that a client was read from again after that.
        downstream_flow_control_resumed_reading_total: Counter,
        /// Connections with bytes that came before there was a connection upstream, where these are waited for.
        early_data_received_count_total: Counter,
        /// Connections closed because nothing moved on them for too long.
        idle_timeout: Counter,
        /// Connections closed because they had lasted as long as they may.
        max_downstream_connection_duration: Counter,
        /// Connections that had ended downstream while bytes were still on their way upstream.
        upstream_flush_total: Counter,
        /// Of these, those whose bytes are on their way now.
        upstream_flush_active: Gauge,
    }
}

/// A checked `TcpProxy`.
#[derive(Debug)]
pub struct TcpProxy {
    clusters: Clusters,
    connect: Connect,
    idle_timeout: Option<Duration>,
    max_duration: Option<MaxDuration>,
    check_drain_close: bool,
    buffer_limit: usize,
    access_logs: Vec<AccessLog>,
    log_also: LogAlso,
    stats: TcpProxyStats,
}

/// Where connections go.
#[derive(Debug)]
enum Clusters {
    One(Destination),
    /// Each with the sum of the weights up to it.
    Weighted(Vec<(u64, Destination)>),
}

/// A cluster, and what is asked of its hosts.
#[derive(Debug)]
struct Destination {
    cluster: Arc<str>,
    metadata_match: Option<MetadataMatch>,
}

/// How connections upstream are made.
#[derive(Debug)]
struct Connect {
    /// Only when the client has sent something.
    awaits_data: bool,
    tunnel: Option<Tunnel>,
    max_attempts: u32,
    backoff: Option<Backoff>,
}

/// The pause between attempts: drawn from a range that doubles with each.
#[derive(Debug)]
struct Backoff {
    base: Duration,
    max: Duration,
}

/// How long a connection may last.
#[derive(Debug)]
struct MaxDuration {
    at_least: Duration,
    /// The most that is added by chance, as a share.
    jitter: f64,
}

/// The entries of the access logs besides the one at the end.
#[derive(Debug)]
struct LogAlso {
    on_start: bool,
    on_connected: bool,
    every: Option<Duration>,
}

impl TcpProxy {
    fn from_proto(proto: &proto::tcp_proxy::TcpProxy, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<TcpProxy> {
        #[allow(deprecated)]
        let proto::tcp_proxy::TcpProxy {
            stat_prefix,
            on_demand,
            metadata_match,
            idle_timeout,
            downstream_idle_timeout,
            upstream_idle_timeout,
            access_log,
            max_connect_attempts,
            backoff_options,
            hash_policy,
            tunneling_config,
            max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy,
            upstream_connect_mode,
            max_early_data_bytes,
            check_drain_close,
            cluster_specifier,
        } = proto;
        field.unsupported("on_demand", on_demand);
        field.unsupported("proxy_protocol_tlvs", proxy_protocol_tlvs);
        field.unsupported("proxy_protocol_tlv_merge_policy", proxy_protocol_tlv_merge_policy);
        field.ignored("hash_policy", hash_policy, "no balancer chooses by a hash");
        // Envoy has these two and does nothing with them.
        field.ignored("downstream_idle_timeout", downstream_idle_timeout, "idle_timeout is for both sides");
        field.ignored("upstream_idle_timeout", upstream_idle_timeout, "idle_timeout is for both sides");
        let logs = field.key("access_log");
        let access_logs = access_log.iter().enumerate();
        let access_logs: Vec<_> =
            access_logs.map(|(index, log)| AccessLog::from_proto(log, logs.index(index), cx.access_logs)).collect();
        let jitter = max_downstream_connection_duration_jitter_percentage.as_ref().map_or(0.0, |jitter| jitter.value);
        let max_duration = field.duration("max_downstream_connection_duration", max_downstream_connection_duration);
        let idle_timeout = field.duration("idle_timeout", idle_timeout).unwrap_or(IDLE_TIMEOUT);
        let deprecated = LogAlso {
            on_start: false,
            on_connected: *flush_access_log_on_connected,
            every: field.duration("access_log_flush_interval", access_log_flush_interval),
        };
        let connect = Connect {
            awaits_data: awaits_data(*upstream_connect_mode, max_early_data_bytes.is_some(), field),
            tunnel: match tunneling_config {
                Some(tunnel) => Some(Tunnel::from_proto(tunnel, field.key("tunneling_config"))?),
                None => None,
            },
            max_attempts: max_connect_attempts.map_or(1, |attempts| attempts.value),
            backoff: backoff_options
                .as_ref()
                .and_then(|options| Backoff::from_proto(options, field.key("backoff_options"))),
        };
        let metadata_match = MetadataMatch::from_proto(metadata_match.as_ref());
        let clusters = Clusters::from_proto(cluster_specifier.as_ref(), metadata_match, field, cx);
        Some(TcpProxy {
            clusters: clusters?,
            connect,
            idle_timeout: (!idle_timeout.is_zero()).then_some(idle_timeout),
            max_duration: max_duration.map(|at_least| MaxDuration { at_least, jitter: jitter / 100.0 }),
            check_drain_close: check_drain_close.is_some_and(|check| check.value),
            buffer_limit: cx.buffer_limit,
            access_logs: access_logs.into_iter().collect::<Option<_>>()?,
            log_also: match access_log_options {
                Some(options) => LogAlso::from_proto(options, field.key("access_log_options")),
                None => deprecated,
            },
            stats: TcpProxyStats::new(&cx.stats.scope(&format!("tcp.{stat_prefix}"))),
        })
    }
}

impl NetworkFilter for TcpProxy {
    fn serve(
        self: Arc<Self>,
        io: Io,
        connection: Rc<ConnectionInfo>,
        worker: Rc<WorkerContext>,
        drain: Watcher,
    ) -> LocalFuture<'static, ()> {
        Box::pin(async move { Session::begin(&self, connection, &worker).serve(io, drain).await })
    }

    fn refused(&self, connection: Rc<ConnectionInfo>, flags: ResponseFlags, worker: &WorkerContext) {
        Session::begin(self, connection, worker).refuse(flags);
    }
}

/// Whether the connection upstream is made only when the client has sent something. What comes before waits in the socket, however much
/// `max_early_data_bytes` admits.
fn awaits_data(mode: i32, has_limit: bool, field: Field<'_>) -> bool {
    let mode = UpstreamConnectMode::try_from(mode).unwrap_or(UpstreamConnectMode::Immediate);
    if mode != UpstreamConnectMode::Immediate && !has_limit {
        field.key("max_early_data_bytes").error(format!("is required by upstream_connect_mode {}", mode.as_str_name()));
    }
    // A connection is served only after its handshake, whatever the mode.
    mode == UpstreamConnectMode::OnDownstreamData
}

impl Clusters {
    /// What a weighted cluster asks of its hosts itself goes before `metadata_match`.
    fn from_proto(
        proto: Option<&ClusterSpecifier>,
        metadata_match: Option<MetadataMatch>,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
    ) -> Option<Clusters> {
        match proto {
            Some(ClusterSpecifier::Cluster(name)) => {
                let cluster = named(name, field.key("cluster"), cx);
                Some(Clusters::One(Destination { cluster, metadata_match }))
            }
            Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })) => {
                let field = field.key("weighted_clusters");
                let list = field.key("clusters");
                let mut total = 0;
                let mut weighted = Vec::with_capacity(clusters.len());
                for (index, ClusterWeight { name, weight, metadata_match: own }) in clusters.iter().enumerate() {
                    let cluster = named(name, list.index(index).key("name"), cx);
                    let own = MetadataMatch::from_proto(own.as_ref());
                    let metadata_match = MetadataMatch::layered(metadata_match.as_ref(), own);
                    total += u64::from(*weight);
                    weighted.push((total, Destination { cluster, metadata_match }));
                }
                Some(Clusters::Weighted(weighted))
            }
            None => {
                field.key("cluster").error("is required, or weighted_clusters");
                None
            }
        }
    }

    /// `preferred` is what another filter has chosen.
    fn choose<'a>(&'a self, preferred: Option<&'a str>, random: &Random) -> (&'a str, Option<&'a MetadataMatch>) {
        match self {
            Clusters::One(destination) => {
                (preferred.unwrap_or(&destination.cluster), destination.metadata_match.as_ref())
            }
            Clusters::Weighted(clusters) => {
                let total = clusters.last().map_or(1, |(sum, _)| *sum);
                let place = random.next_u64() % total;
                let at = clusters.partition_point(|(sum, _)| *sum <= place);
                let (_, destination) = &clusters[at];
                (&*destination.cluster, destination.metadata_match.as_ref())
            }
        }
    }
}

/// A cluster that there is not is no error in Envoy either: connections to it are closed.
fn named(name: &str, field: Field<'_>, cx: &FactoryContext<'_>) -> Arc<str> {
    if !cx.cluster_names.contains(name) {
        field.warning(format!("there is no cluster {name:?}: connections to it are closed"));
    }
    name.into()
}

impl Backoff {
    fn from_proto(proto: &core::BackoffStrategy, field: Field<'_>) -> Option<Backoff> {
        let core::BackoffStrategy { base_interval, max_interval } = proto;
        let base = field.duration("base_interval", base_interval)?;
        let max = field.duration("max_interval", max_interval).unwrap_or(base * MAX_BACKOFF_FACTOR);
        if max < base {
            field.key("max_interval").error("must be at least base_interval");
        }
        Some(Backoff { base, max })
    }

    /// The pause after so many attempts.
    fn pause(&self, attempts: u32, random: &Random) -> Duration {
        let doubled = self.base.saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX));
        let range = doubled.min(self.max);
        range.mul_f64(share(random))
    }
}

impl MaxDuration {
    fn draw(&self, random: &Random) -> Duration {
        if self.jitter == 0.0 { self.at_least } else { self.at_least.mul_f64(1.0 + self.jitter * share(random)) }
    }
}

/// A number from 0 to 1.
fn share(random: &Random) -> f64 {
    f64::from(u32::try_from(random.next_u64() >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

impl LogAlso {
    fn from_proto(proto: &TcpAccessLogOptions, field: Field<'_>) -> LogAlso {
        let TcpAccessLogOptions { access_log_flush_interval, flush_access_log_on_connected, flush_access_log_on_start } =
            proto;
        LogAlso {
            on_start: *flush_access_log_on_start,
            on_connected: *flush_access_log_on_connected,
            every: field.duration("access_log_flush_interval", access_log_flush_interval),
        }
    }
}
