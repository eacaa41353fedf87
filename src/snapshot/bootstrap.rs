//! The parts of `envoy.config.bootstrap.v3.Bootstrap` that concern the process as a whole. Listeners, clusters and secrets are converted in
//! `manager.rs`.

use std::sync::Arc;
use std::time::Duration;

use prost::Name;

use crate::config::Field;
use crate::listener::ListenAddress;
use crate::matcher::StringMatcher;
use crate::net::{ConnectionLimit, ConnectionLimits};
use crate::proto;
use crate::proto::core::TypedExtensionConfig;
use crate::proto::downstream_connections::DownstreamConnectionsConfig;
use crate::proto::internal_listener::InternalListener;
use crate::proto::overload::{OverloadManager, ResourceMonitor, resource_monitor};
use crate::upstream::BindConfig;

use super::{StatsConfig, runtime};

/// What the bootstrap says of the process.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// How stats are shown.
    pub stats: StatsConfig,
    /// How long the interval of a histogram is; `None`: five seconds.
    pub stats_flush_interval: Option<Duration>,
    /// What the process calls itself.
    pub node: proto::core::Node,
    /// Where the admin interface listens; `None`: there is none.
    pub admin: Option<ListenAddress>,
    /// The paths that the admin interface has, with their query strings (`admin.allow_paths`); empty: all.
    pub admin_paths: Vec<StringMatcher>,
    /// How many connections there may be.
    pub connection_limits: ConnectionLimits,
    /// Where connections to hosts come from, of clusters that do not say.
    pub upstream_bind_config: Option<Arc<BindConfig>>,
}

/// What the warning says where the setting touches nothing but reports about the process.
const NOT_YET: &str = "not implemented by Portreeve yet";

impl Bootstrap {
    /// Converts everything but `static_resources`, and reports what is wrong with it.
    #[must_use]
    pub fn from_proto(bootstrap: &proto::bootstrap::Bootstrap, field: Field<'_>) -> Bootstrap {
        let proto::bootstrap::Bootstrap {
            node,
            node_context_params,
            static_resources: _static_resources,
            dynamic_resources,
            cluster_manager,
            hds_config,
            flags_path,
            stats_sinks,
            deferred_stat_options,
            stats_config,
            stats_flush_interval,
            watchdog,
            watchdogs,
            tracing,
            layered_runtime,
            admin,
            overload_manager,
            enable_dispatcher_stats,
            header_prefix,
            stats_server_version_override,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            bootstrap_extensions,
            fatal_actions,
            config_sources,
            default_config_source,
            default_socket_interface,
            certificate_provider_instances,
            inline_headers,
            perf_tracing_file_path,
            default_regex_engine,
            xds_delegate_extension,
            xds_config_tracker_extension,
            listener_manager,
            application_log_config,
            grpc_async_client_manager_config,
            memory_allocator_manager,
            enable_worker_cpu_affinity,
            // Stats are up to date at any moment: flushing when the admin interface is asked changes nothing.
            stats_flush: _stats_flush,
            stats_eviction,
        } = bootstrap;

        field.unsupported("dynamic_resources", dynamic_resources);
        field.unsupported("header_prefix", header_prefix);
        field.unsupported("dns_resolution_config", dns_resolution_config);
        field.unsupported("config_sources", config_sources);
        field.unsupported("default_config_source", default_config_source);
        field.unsupported("certificate_provider_instances", certificate_provider_instances);
        field.unsupported("xds_delegate_extension", xds_delegate_extension);
        field.unsupported("default_socket_interface", default_socket_interface);

        field.ignored("node_context_params", node_context_params, NOT_YET);
        field.ignored("hds_config", hds_config, NOT_YET);
        field.ignored("flags_path", flags_path, "flags are not read from files");
        field.ignored("stats_sinks", stats_sinks, "statistics are not sent anywhere yet; scrape /stats/prometheus");
        field.ignored("deferred_stat_options", deferred_stat_options, "stats are cheap to create");
        field.ignored("stats_eviction", stats_eviction, "stats that nothing uses any more go by themselves");
        field.ignored("watchdog", watchdog, NOT_YET);
        field.ignored("watchdogs", watchdogs, NOT_YET);
        field.ignored("tracing", tracing, NOT_YET);
        field.ignored("enable_dispatcher_stats", enable_dispatcher_stats, NOT_YET);
        field.ignored("stats_server_version_override", stats_server_version_override, NOT_YET);
        field.ignored("use_tcp_for_dns_lookups", use_tcp_for_dns_lookups, "the system's resolver decides");
        field.ignored("fatal_actions", fatal_actions, NOT_YET);
        field.ignored("inline_headers", inline_headers, "all headers are found equally fast");
        field.ignored("perf_tracing_file_path", perf_tracing_file_path, NOT_YET);
        field.ignored("xds_config_tracker_extension", xds_config_tracker_extension, NOT_YET);
        field.ignored("application_log_config", application_log_config, "use --log-format");
        field.ignored("grpc_async_client_manager_config", grpc_async_client_manager_config, NOT_YET);
        field.ignored("memory_allocator_manager", memory_allocator_manager, "memory is managed otherwise");
        field.ignored("enable_worker_cpu_affinity", enable_worker_cpu_affinity, NOT_YET);

        let extensions = field.key("bootstrap_extensions");
        for (index, extension) in bootstrap_extensions.iter().enumerate() {
            bootstrap_extension(extension, extensions.index(index));
        }
        accept_only(typed_dns_resolver_config.as_ref(), DNS_RESOLVERS, field.key("typed_dns_resolver_config"));
        accept_only(default_regex_engine.as_ref(), REGEX_ENGINES, field.key("default_regex_engine"));
        accept_only(listener_manager.as_ref(), LISTENER_MANAGERS, field.key("listener_manager"));
        let cluster_manager = cluster_manager.as_ref();
        let connection_limits =
            layered_runtime.as_ref().map(|layers| runtime::connection_limits(layers, field.key("layered_runtime")));
        let mut connection_limits = connection_limits.unwrap_or_default();
        if let Some(manager) = overload_manager {
            convert_overload_manager(manager, field.key("overload_manager"), &mut connection_limits);
        }
        let stats_field = field.key("stats_config");
        Bootstrap {
            stats: stats_config.as_ref().map(|proto| StatsConfig::from_proto(proto, stats_field)).unwrap_or_default(),
            stats_flush_interval: field.duration("stats_flush_interval", stats_flush_interval),
            node: node.clone().unwrap_or_default(),
            admin: admin.as_ref().and_then(|admin| admin_address(admin, field.key("admin"))),
            admin_paths: admin.as_ref().map(|admin| admin_paths(admin, field.key("admin"))).unwrap_or_default(),
            connection_limits,
            upstream_bind_config: cluster_manager
                .and_then(|manager| convert_cluster_manager(manager, field.key("cluster_manager"))),
        }
    }
}

/// Resolvers that ask whom the system's configuration names, as we do.
const DNS_RESOLVERS: &[&str] = &[
    "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
    "envoy.extensions.network.dns_resolver.apple.v3.AppleDnsResolverConfig",
];

const REGEX_ENGINES: &[&str] = &["envoy.extensions.regex_engines.v3.GoogleRE2"];

const LISTENER_MANAGERS: &[&str] = &["envoy.config.bootstrap.v3.ListenerManager"];

/// An extension of another type than these is an error.
fn accept_only(extension: Option<&TypedExtensionConfig>, types: &[&str], field: Field<'_>) {
    let Some(TypedExtensionConfig { name: _name, typed_config }) = extension else { return };
    let found = typed_config.as_ref().and_then(|config| config.type_url.rsplit('/').next()).unwrap_or_default();
    if !types.contains(&found) {
        field.error(format!("{found} is valid in Envoy, not implemented by Portreeve yet"));
    }
}

/// Internal listeners are there without an extension.
fn bootstrap_extension(extension: &TypedExtensionConfig, field: Field<'_>) {
    accept_only(Some(extension), &[InternalListener::full_name().as_str()], field);
    let Some(any) =
        extension.typed_config.as_ref().filter(|any| any.type_url.ends_with(&InternalListener::full_name()))
    else {
        return;
    };
    let field = field.key("typed_config");
    let Some(InternalListener { buffer_size_kb }) = field.unpack(any) else { return };
    field.ignored("buffer_size_kb", &buffer_size_kb, "64 KiB may wait on each side");
}

/// Only where connections come from matters.
fn convert_cluster_manager(manager: &proto::bootstrap::ClusterManager, field: Field<'_>) -> Option<Arc<BindConfig>> {
    let proto::bootstrap::ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation,
    } = manager;
    field.ignored("local_cluster_name", local_cluster_name, "hosts are not chosen by zone yet");
    field.ignored("outlier_detection", outlier_detection, NOT_YET);
    field.ignored("load_stats_config", load_stats_config, NOT_YET);
    field.ignored("enable_deferred_cluster_creation", enable_deferred_cluster_creation, "clusters are cheap to create");
    let bind_config = upstream_bind_config.as_ref();
    bind_config.and_then(|proto| BindConfig::from_proto(proto, field.key("upstream_bind_config"))).map(Arc::new)
}

/// The bound on connections is kept. What sheds load when a resource runs short is not there yet, which is a warning: it lets in no more
/// than Envoy lets in while there is enough.
fn convert_overload_manager(manager: &OverloadManager, field: Field<'_>, limits: &mut ConnectionLimits) {
    let OverloadManager { refresh_interval, resource_monitors, actions, loadshed_points, buffer_factory_config } =
        manager;
    field.ignored("refresh_interval", refresh_interval, "connections are counted all the time");
    field.ignored("actions", actions, NOT_YET);
    field.ignored("loadshed_points", loadshed_points, NOT_YET);
    field.ignored("buffer_factory_config", buffer_factory_config, NOT_YET);
    for (i, ResourceMonitor { name, config_type }) in resource_monitors.iter().enumerate() {
        let list = field.key("resource_monitors");
        let field = list.index(i);
        let Some(resource_monitor::ConfigType::TypedConfig(config)) = config_type else {
            field.key("typed_config").error("is required");
            continue;
        };
        if config.type_url.rsplit('/').next() != Some(DownstreamConnectionsConfig::full_name().as_str()) {
            field.warning(format!("{name} has no effect: {NOT_YET}"));
            continue;
        }
        let field = field.key("typed_config");
        let config = field.unpack(config);
        if let Some(DownstreamConnectionsConfig { max_active_downstream_connections }) = config {
            match u64::try_from(max_active_downstream_connections) {
                Ok(max) if max > 0 => limits.global = Some(ConnectionLimit::new(max)),
                _ => field.key("max_active_downstream_connections").error("must be above 0"),
            }
        }
    }
}

/// `None` if no address is configured, which means that there is no admin interface.
fn admin_address(admin: &proto::bootstrap::Admin, field: Field<'_>) -> Option<ListenAddress> {
    let proto::bootstrap::Admin {
        access_log,
        access_log_path,
        profile_path,
        address,
        socket_options,
        ignore_global_conn_limit,
        allow_paths: _allow_paths,
    } = admin;
    field.ignored("access_log", access_log, "requests to the admin interface are not logged yet");
    field.ignored("access_log_path", access_log_path, "requests to the admin interface are not logged yet");
    field.ignored("profile_path", profile_path, NOT_YET);
    field.ignored("socket_options", socket_options, NOT_YET);
    field.ignored("ignore_global_conn_limit", ignore_global_conn_limit, "the admin interface counts for no limit");
    ListenAddress::from_proto(address.as_ref()?, field.key("address"))
}

fn admin_paths(admin: &proto::bootstrap::Admin, field: Field<'_>) -> Vec<StringMatcher> {
    let list = field.key("allow_paths");
    let paths = admin.allow_paths.iter().enumerate();
    paths.filter_map(|(i, path)| StringMatcher::from_proto(path, list.index(i))).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::{self, Report, Source};

    use super::*;

    fn convert(yaml: &str) -> (Bootstrap, Vec<String>, bool) {
        let report = Report::new();
        let proto: proto::bootstrap::Bootstrap = config::load(&Source::new("test", yaml), &report).unwrap();
        let bootstrap = Bootstrap::from_proto(&proto, Field::root(&report));
        let refused = report.has_errors();
        (bootstrap, report.into_problems().iter().map(ToString::to_string).collect(), refused)
    }

    #[test]
    fn node_and_admin_are_kept() {
        let (bootstrap, problems, _) = convert(
            "node: { id: one, cluster: c }\n\
             admin: { address: { socket_address: { address: 127.0.0.1, port_value: 8001 } } }\n",
        );
        assert_eq!(bootstrap.node.id, "one");
        assert_eq!(bootstrap.admin.unwrap().address.to_string(), "127.0.0.1:8001");
        assert!(problems.is_empty(), "{problems:?}");
        assert!(convert("admin: {}\n").0.admin.is_none(), "no address, no admin interface");
    }

    #[test]
    fn what_only_reports_is_a_warning_and_what_steers_traffic_an_error() {
        let (_, problems, refused) = convert("flags_path: x\n");
        assert_eq!(problems, ["flags_path: has no effect: flags are not read from files"]);
        assert!(!refused);
        let (_, problems, refused) = convert("dynamic_resources: {}\nheader_prefix: x-mine\n");
        assert_eq!(
            problems,
            [
                "dynamic_resources: valid in Envoy, not implemented by Portreeve yet",
                "header_prefix: valid in Envoy, not implemented by Portreeve yet",
            ]
        );
        assert!(refused);
    }

    #[test]
    fn the_overload_manager_bounds_connections() {
        let monitor = |max: i64| {
            format!(
                "overload_manager: {{ resource_monitors: [ {{ name: any, typed_config: {{
                   \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig,
                   max_active_downstream_connections: {max} }} }} ] }}\n"
            )
        };
        let (bootstrap, problems, _) = convert(&monitor(2));
        let limit = bootstrap.connection_limits.global.unwrap();
        let permits: Vec<_> = (0..3).map(|_| limit.acquire()).collect();
        assert_eq!(permits.iter().flatten().count(), 2);
        assert!(problems.is_empty(), "{problems:?}");
        assert!(convert(&monitor(-1)).2);
        let heap = "overload_manager: { resource_monitors: [ { name: heap, typed_config: {
            \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig,
            max_heap_size_bytes: 1000 } } ] }\n";
        let (_, problems, refused) = convert(heap);
        assert_eq!((problems.len(), refused), (1, false), "{problems:?}");
    }
}
