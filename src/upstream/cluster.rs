//! A cluster: `envoy.config.cluster.v3.Cluster`.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    BindConfig, CircuitBreakers, ClusterStats, Endpoint, Host, HostSet, HostStats, ResponseStats,
    dns::{DnsFields, DnsOptions},
    load_assignment::{self, NamedEndpoint},
    load_balancer::SubsetConfig,
    protocol_options::{DeprecatedOptions, ProtocolOptions},
    transport_socket::{self, TransportSocketMatcher, TransportSockets},
};
use crate::{
    config::Field,
    http::http2,
    net::socket_settings,
    proto::{
        cluster::{
            self, LoadBalancingPolicy, UpstreamConnectionOptions,
            cluster::{
                ClusterDiscoveryType, ClusterProtocolSelection, CommonLbConfig, DiscoveryType, LbConfig, LbPolicy,
                RoundRobinLbConfig, common_lb_config::LocalityConfigSpecifier,
            },
            load_balancing_policy::Policy,
        },
        core::Metadata,
        endpoint,
    },
    stats::{Registry, Scope},
    sys::socket::Keepalive,
    tls::{Renewal, Secrets},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PANIC_THRESHOLD: f64 = 50.0;

/// A cluster and its hosts, as the snapshot holds them. DNS and registrations change the hosts alone, files of
/// certificates the transport sockets.
#[derive(Debug, Clone)]
pub struct ClusterEntry {
    /// What does not change without a new configuration.
    pub cluster: Arc<Cluster>,
    /// Its hosts now.
    pub hosts: Arc<HostSet>,
    /// How they are connected to now.
    pub transport_sockets: Arc<TransportSockets>,
    /// The configured cluster whose transport sockets these are, where they are not its own.
    pub sockets_of: Option<Arc<str>>,
}

impl ClusterEntry {
    /// A cluster with the hosts that its configuration names. A DNS cluster has none before its names are resolved.
    /// `bind_config` is that of clusters that have none.
    pub fn from_proto(
        proto: &cluster::Cluster,
        field: Field<'_>,
        secrets: &Secrets,
        registry: &Arc<Registry>,
        bind_config: Option<&Arc<BindConfig>>,
    ) -> Option<ClusterEntry> {
        let (mut cluster, transport_sockets) = Cluster::from_proto(proto, field, secrets, registry)?;
        cluster.bind_config = cluster.bind_config.or_else(|| bind_config.cloned());
        let known = cluster.endpoints.iter().filter(|named| named.name.is_none());
        let hosts = HostSet::new(&cluster, known.map(|named| named.endpoint.clone()).collect(), &HostSet::default());
        if !hosts.hosts().is_empty() {
            cluster.stats.membership_change.inc();
        }
        cluster.stats.record_membership(&hosts);
        Some(ClusterEntry {
            cluster: Arc::new(cluster),
            hosts,
            transport_sockets: Arc::new(transport_sockets),
            sockets_of: None,
        })
    }

    /// The same cluster with other hosts. Called on the main thread, which counts the membership.
    #[must_use]
    pub fn with_hosts(&self, hosts: Arc<HostSet>) -> ClusterEntry {
        self.cluster.stats.membership_change.inc();
        self.cluster.stats.record_membership(&hosts);
        ClusterEntry { hosts, ..self.clone() }
    }

    /// Goes over to the transport sockets that the cluster has now whose they are.
    pub fn borrow_sockets(&mut self, configured: &HashMap<Arc<str>, ClusterEntry>) {
        if let Some(lender) = self.sockets_of.as_ref().and_then(|name| configured.get(name)) {
            self.transport_sockets = Arc::clone(&lender.transport_sockets);
        }
    }

    /// The same cluster with what changed files hold now; `None` if nothing changes.
    #[must_use]
    pub fn renewed(&self, renewal: &Renewal<'_>) -> Option<ClusterEntry> {
        let transport_sockets = Arc::new(self.transport_sockets.renewed(renewal, &self.cluster.name)?);
        Some(ClusterEntry { transport_sockets, ..self.clone() })
    }
}

/// A cluster without its hosts.
#[derive(Debug)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// What its stats are named by: `alt_stat_name`, or its name.
    pub observability_name: Arc<str>,
    /// What `%CLUSTER_METADATA%` prints from.
    pub metadata: Option<Arc<Metadata>>,
    /// How its hosts are found.
    pub discovery: Discovery,
    /// Time for a connection, TLS included.
    pub connect_timeout: Duration,
    /// How its hosts are spoken to.
    pub protocol: ProtocolOptions,
    /// Probes on quiet connections.
    pub tcp_keepalive: Option<Keepalive>,
    /// Where its connections come from.
    pub bind_config: Option<Arc<BindConfig>>,
    /// The percentage of healthy hosts below which health is no criterion any more.
    pub healthy_panic_threshold: f64,
    /// How much of it may be in use at once.
    pub circuit_breakers: CircuitBreakers,
    /// What is counted under `cluster.<name>.`
    pub stats: ClusterStats,
    /// Responses by status: `upstream_rq_<code>` and `upstream_rq_<class>`.
    pub responses: ResponseStats,
    http2_stats: OnceLock<http2::Stats>,
    http2_scope: Scope,
    /// How its hosts are chosen among by their labels.
    pub(super) subsets: Option<SubsetConfig>,
    pub(super) dns: DnsOptions,
    pub(super) endpoints: Vec<NamedEndpoint>,
    host_stats: Scope,
    transport_socket_matcher: TransportSocketMatcher,
}

/// How the hosts of a cluster are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// Addresses in the configuration, or registered.
    Static,
    /// Every address that the names resolve to is a host.
    StrictDns,
    /// One host, whose address follows its name.
    LogicalDns,
}

impl Cluster {
    /// What is counted of its HTTP/2 connections; registered with the first one.
    pub fn http2_stats(&self) -> &http2::Stats {
        self.http2_stats.get_or_init(|| http2::Stats::new(&self.http2_scope))
    }

    /// Reports all that is wrong, each at its place; `None` if no cluster can be made of the rest.
    fn from_proto(
        proto: &cluster::Cluster,
        field: Field<'_>,
        secrets: &Secrets,
        registry: &Arc<Registry>,
    ) -> Option<(Cluster, TransportSockets)> {
        #[rustfmt::skip]
        let cluster::Cluster {
            name, alt_stat_name, cluster_discovery_type, eds_cluster_config, load_assignment, connect_timeout,
            lb_policy, lb_config, lb_subset_config, load_balancing_policy, common_lb_config,
            typed_extension_protocol_options, common_http_protocol_options, upstream_http_protocol_options,
            http_protocol_options, http2_protocol_options, max_requests_per_connection, protocol_selection,
            dns_refresh_rate, dns_jitter, dns_failure_refresh_rate, respect_dns_ttl, dns_lookup_family, dns_resolvers,
            use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config,
            transport_socket, transport_socket_matches, transport_socket_matcher,
            upstream_bind_config, upstream_connection_options, upstream_config, filters, queuing_policies,
            health_checks, outlier_detection, circuit_breakers, preconnect_policy, per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout, connection_pool_per_downstream_connection,
            close_connections_on_host_health_failure, ignore_health_on_host_removal, wait_for_warm_on_init,
            cleanup_interval, metadata, stats_matcher, lrs_server, lrs_report_endpoint_metrics, track_timeout_budgets,
            track_cluster_stats,
        } = proto;
        field.unsupported("eds_cluster_config", eds_cluster_config);
        field.unsupported("transport_socket_matcher", transport_socket_matcher);
        field.unsupported("upstream_config", upstream_config);
        field.unsupported("filters", filters);
        field.unsupported("connection_pool_per_downstream_connection", connection_pool_per_downstream_connection);
        field.ignored("outlier_detection", outlier_detection, "hosts are not ejected for their errors yet");
        field.ignored("preconnect_policy", preconnect_policy, "connections are made when they are needed");
        field.ignored("queuing_policies", queuing_policies, "requests wait in the order in which they came");
        let why = "what waits is bounded by the windows of HTTP/2 and by the sockets";
        field.ignored("per_connection_buffer_limit_bytes", per_connection_buffer_limit_bytes, why);
        let timeout = per_connection_buffer_high_watermark_timeout;
        field.ignored("per_connection_buffer_high_watermark_timeout", timeout, why);
        let why = "hosts are not health-checked yet";
        field.ignored("health_checks", health_checks, why);
        field.ignored("close_connections_on_host_health_failure", close_connections_on_host_health_failure, why);
        field.ignored("ignore_health_on_host_removal", ignore_health_on_host_removal, why);
        field.ignored("wait_for_warm_on_init", wait_for_warm_on_init, "start-up waits for the first resolution");
        field.ignored("cleanup_interval", cleanup_interval, "it is for clusters of type ORIGINAL_DST");
        let why = "the statistics of a cluster are always on, and read by scraping them";
        field.ignored("stats_matcher", stats_matcher, why);
        field.ignored("track_timeout_budgets", track_timeout_budgets, why);
        field.ignored("track_cluster_stats", track_cluster_stats, why);
        field.ignored("lrs_server", lrs_server, why);
        field.ignored("lrs_report_endpoint_metrics", lrs_report_endpoint_metrics, why);
        let discovery = discovery(cluster_discovery_type.as_ref(), field);
        if discovery.is_some() && load_balancing_policy.is_none() {
            check_balancing(*lb_policy, lb_config.as_ref(), field);
        }
        #[rustfmt::skip]
        let deprecated = DeprecatedOptions {
            common: common_http_protocol_options, upstream: upstream_http_protocol_options,
            http1: http_protocol_options, http2: http2_protocol_options, max_requests_per_connection,
            use_downstream_protocol: *protocol_selection == ClusterProtocolSelection::UseDownstreamProtocol as i32,
        };
        let protocol = ProtocolOptions::from_proto(typed_extension_protocol_options, &deprecated, field);
        #[rustfmt::skip]
        let dns = DnsFields {
            refresh_rate: dns_refresh_rate, jitter: dns_jitter, failure_refresh_rate: dns_failure_refresh_rate,
            respect_ttl: *respect_dns_ttl, lookup_family: *dns_lookup_family, resolvers: dns_resolvers,
            use_tcp: *use_tcp_for_dns_lookups, resolution_config: dns_resolution_config,
            resolver_config: typed_dns_resolver_config,
        };
        let stat_name = if alt_stat_name.is_empty() { name } else { alt_stat_name };
        let scope = registry.scope(&format!("cluster.{stat_name}"));
        let subsets = match (load_balancing_policy, lb_subset_config) {
            (Some(policy), _) => balancing_policy(policy, field.key("load_balancing_policy"), &scope),
            (None, Some(config)) => SubsetConfig::from_proto(config, field.key("lb_subset_config"), &scope),
            (None, None) => None,
        };
        let settings = transport_socket::Settings {
            socket: transport_socket,
            matches: transport_socket_matches,
            protocol: &protocol,
        };
        let transport_sockets = TransportSockets::from_proto(&settings, field, secrets, &scope);
        let endpoints = named_endpoints(load_assignment.as_ref(), discovery?, field);
        let (transport_socket_matcher, transport_sockets) = transport_sockets?;
        let cluster = Cluster {
            name: name.as_str().into(),
            metadata: metadata.clone().map(Arc::new),
            discovery: discovery?,
            connect_timeout: field.duration("connect_timeout", connect_timeout).unwrap_or(CONNECT_TIMEOUT),
            protocol,
            tcp_keepalive: connection_options(upstream_connection_options.as_ref(), field),
            bind_config: upstream_bind_config
                .as_ref()
                .and_then(|proto| BindConfig::from_proto(proto, field.key("upstream_bind_config")).map(Arc::new)),
            healthy_panic_threshold: panic_threshold(common_lb_config.as_ref(), field.key("common_lb_config")),
            circuit_breakers: CircuitBreakers::from_proto(
                circuit_breakers.as_ref(),
                field.key("circuit_breakers"),
                &scope,
            ),
            stats: ClusterStats::new(&scope),
            responses: ResponseStats::new(&scope),
            http2_stats: OnceLock::new(),
            http2_scope: scope.scope("http2"),
            subsets,
            dns: DnsOptions::from_proto(&dns, field)?,
            endpoints: endpoints?,
            host_stats: registry.unlisted().scope(&format!("cluster.{name}")),
            observability_name: stat_name.as_str().into(),
            transport_socket_matcher,
        };
        Some((cluster, transport_sockets))
    }

    /// A host of this cluster. Hosts of the same address, or of the same logical name, share their counters.
    pub(super) fn host(&self, endpoint: Endpoint) -> Host {
        let scope = if endpoint.logical {
            self.host_stats.scope(&endpoint.hostname)
        } else {
            self.host_stats.scope(&endpoint.address.to_string())
        };
        let transport_socket = self.transport_socket_matcher.choose(endpoint.metadata.as_ref());
        Host { stats: HostStats::new(&scope), endpoint, transport_socket }
    }
}

fn discovery(proto: Option<&ClusterDiscoveryType>, field: Field<'_>) -> Option<Discovery> {
    let named = match proto {
        None => return Some(Discovery::Static),
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            field.unsupported("cluster_type", &true);
            return None;
        }
        Some(ClusterDiscoveryType::Type(named)) => *named,
    };
    match DiscoveryType::try_from(named) {
        Ok(DiscoveryType::Static) => Some(Discovery::Static),
        Ok(DiscoveryType::StrictDns) => Some(Discovery::StrictDns),
        Ok(DiscoveryType::LogicalDns) => Some(Discovery::LogicalDns),
        Ok(DiscoveryType::Eds | DiscoveryType::OriginalDst) => {
            field.unsupported("type", &true);
            None
        }
        Err(_) => {
            field.key("type").error("unknown value");
            None
        }
    }
}

fn named_endpoints(
    proto: Option<&endpoint::ClusterLoadAssignment>,
    discovery: Discovery,
    field: Field<'_>,
) -> Option<Vec<NamedEndpoint>> {
    let field = field.key("load_assignment");
    let Some(proto) = proto else {
        if discovery == Discovery::LogicalDns {
            field.error("is required by clusters of type LOGICAL_DNS");
            return None;
        }
        field.warning("is missing: the cluster has no hosts");
        return Some(Vec::new());
    };
    let endpoints = load_assignment::endpoints(proto, discovery, field);
    let single = matches!(proto.endpoints.as_slice(), [locality] if locality.lb_endpoints.len() == 1);
    if discovery == Discovery::LogicalDns && !single {
        field.key("endpoints").error("a cluster of type LOGICAL_DNS has exactly one locality with one endpoint");
    }
    Some(endpoints)
}

/// Says which policies are not as asked for; all balance by weighted round robin.
fn check_balancing(lb_policy: i32, lb_config: Option<&LbConfig>, field: Field<'_>) {
    const INSTEAD: &str = "requests are balanced by weighted round robin";
    match LbPolicy::try_from(lb_policy) {
        Ok(LbPolicy::RoundRobin) => {}
        Ok(LbPolicy::LeastRequest | LbPolicy::Random) => field.ignored("lb_policy", &true, INSTEAD),
        Ok(LbPolicy::LoadBalancingPolicyConfig) => field.key("load_balancing_policy").error("is required"),
        Ok(LbPolicy::ClusterProvided) => {
            field.key("lb_policy").error("CLUSTER_PROVIDED is for clusters of type ORIGINAL_DST and for custom types");
        }
        Ok(LbPolicy::RingHash | LbPolicy::Maglev) => field.unsupported("lb_policy", &true),
        Err(_) => field.key("lb_policy").error("unknown value"),
    }
    match lb_config {
        Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })) => {
            field.key("round_robin_lb_config").ignored(
                "slow_start_config",
                slow_start_config,
                "there is no slow start",
            );
        }
        Some(LbConfig::LeastRequestLbConfig(_)) => field.ignored("least_request_lb_config", &true, INSTEAD),
        // These matter with their policies only.
        Some(LbConfig::RingHashLbConfig(_) | LbConfig::MaglevLbConfig(_) | LbConfig::OriginalDstLbConfig(_)) | None => {
        }
    }
}

/// The subsets of the first policy that is known, which is the one that counts, as in Envoy.
fn balancing_policy(proto: &LoadBalancingPolicy, field: Field<'_>, scope: &Scope) -> Option<SubsetConfig> {
    let LoadBalancingPolicy { policies } = proto;
    let list = field.key("policies");
    for (index, Policy { typed_extension_config }) in policies.iter().enumerate() {
        let field = list.index(index);
        let Some(extension) = typed_extension_config else { continue };
        let type_url = extension.typed_config.as_ref().map_or("", |config| config.type_url.as_str());
        if SubsetConfig::is_policy(type_url) {
            let extension_field = field.key("typed_extension_config");
            let field = extension_field.key("typed_config");
            let (subsets, policy) = SubsetConfig::of_policy(extension.typed_config.as_ref()?, field, scope)?;
            let within = field.required("subset_lb_policy", &policy.subset_lb_policy)?;
            balancing_policy(within, field.key("subset_lb_policy"), scope);
            return subsets;
        }
        match type_url.rsplit('.').next().unwrap_or_default() {
            "RoundRobin" => return None,
            "LeastRequest" | "Random" => {
                let why = "requests are balanced by weighted round robin";
                field.ignored("typed_extension_config", typed_extension_config, why);
                return None;
            }
            _ => {}
        }
    }
    list.error("none of these policies is implemented by Portreeve yet");
    None
}

fn panic_threshold(proto: Option<&CommonLbConfig>, field: Field<'_>) -> f64 {
    let Some(proto) = proto else { return PANIC_THRESHOLD };
    let CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = proto;
    field.ignored("update_merge_window", update_merge_window, "updates take effect at once");
    let why = "hosts are not health-checked yet";
    field.ignored("ignore_new_hosts_until_first_hc", ignore_new_hosts_until_first_hc, why);
    let why = "connections to hosts that remain stay";
    field.ignored("close_connections_on_host_set_change", close_connections_on_host_set_change, why);
    field.ignored("consistent_hashing_lb_config", consistent_hashing_lb_config, "it is for RING_HASH and MAGLEV");
    field.ignored("override_host_status", override_host_status, "sessions are not bound to hosts");
    let why = "hosts are balanced by their own weights";
    match locality_config_specifier {
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => field.ignored("zone_aware_lb_config", &true, why),
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            field.ignored("locality_weighted_lb_config", &true, why);
        }
        None => {}
    }
    healthy_panic_threshold.as_ref().map_or(PANIC_THRESHOLD, |percent| percent.value)
}

fn connection_options(proto: Option<&UpstreamConnectionOptions>, field: Field<'_>) -> Option<Keepalive> {
    let field = field.key("upstream_connection_options");
    let UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = proto?;
    let interface_name = set_local_interface_name_on_upstream_connections;
    field.ignored("set_local_interface_name_on_upstream_connections", interface_name, "nothing reads the name");
    field.ignored("happy_eyeballs_config", happy_eyeballs_config, "a host is reached at its first address only");
    tcp_keepalive.as_ref().map(socket_settings::keepalive)
}
