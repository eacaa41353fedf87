//! From `envoy.extensions.filters.network.http_connection_manager.v3` to [`HttpConnectionManager`].

mod headers;

use std::{sync::Arc, time::Duration};

use super::{
    Codec, ConfiguredChain, ConfiguredFilter, HttpConnectionManager, StripPort, Timeouts, Underscores, UpgradeConfig,
    local_replies::LocalReplies,
    proxy_status::ProxyStatus,
    stats::{CodecStats, ConnectionManagerStats, ResponseClasses},
};
use crate::{
    access_log::AccessLog,
    config::field::Field,
    filter::{FactoryContext, network::NetworkFilter},
    http::{
        http1, http2,
        path::{EscapedSlashes, PathRules},
    },
    proto::{self, core, hcm},
    route::RouteConfiguration,
    router::Router,
    stats::Scope,
    stream_info::HeaderCapture,
};
use core::http_protocol_options::HeadersWithUnderscoresAction;
use hcm::http_connection_manager::{self as proto_manager, RouteSpecifier, StripPortMode};

/// Envoy's default for `max_request_headers_kb`.
const MAX_REQUEST_HEADERS_KB: u32 = 60;
/// Envoy's default for `common_http_protocol_options.max_headers_count`.
const MAX_HEADERS: u32 = 100;
/// Envoy's default for `drain_timeout`.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's default for `stream_idle_timeout`.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_mins(5);
/// Envoy's default for `delayed_close_timeout`.
const DELAYED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Envoy's default for `common_http_protocol_options.idle_timeout`.
const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_hours(1);

/// The conversion that the factory names.
pub(super) fn network_filter(
    any: &proto::Any,
    field: Field<'_>,
    cx: &FactoryContext<'_>,
) -> Option<Arc<dyn NetworkFilter>> {
    let manager = HttpConnectionManager::from_proto(&field.unpack(any)?, field, cx)?;
    Some(Arc::new(manager))
}

impl HttpConnectionManager {
    /// Converts and checks.
    pub(super) fn from_proto(
        manager: &hcm::HttpConnectionManager,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
    ) -> Option<HttpConnectionManager> {
        let hcm::HttpConnectionManager {
            codec_type,
            stat_prefix,
            http_filters,
            add_user_agent,
            tracing,
            common_http_protocol_options,
            http1_safe_max_connection_duration,
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
            server_name,
            server_header_transformation,
            scheme_header_transformation,
            max_request_headers_kb,
            stream_idle_timeout,
            stream_flush_timeout,
            request_timeout,
            request_headers_timeout,
            drain_timeout,
            drain_timeout_jitter,
            delayed_close_timeout,
            access_log,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            access_log_options,
            use_remote_address,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            internal_address_config,
            skip_xff_append,
            via,
            generate_request_id,
            preserve_external_request_id,
            always_set_request_id_in_response,
            forward_client_cert_details,
            set_current_client_cert_details,
            forward_client_cert_matcher,
            proxy_100_continue,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            upgrade_configs,
            normalize_path,
            merge_slashes,
            path_with_escaped_slashes_action,
            request_id_extension,
            local_reply_config,
            strip_matching_host_port,
            stream_error_on_invalid_http_message,
            path_normalization_options,
            strip_trailing_host_dot,
            proxy_status_config,
            typed_header_validation_config,
            append_x_forwarded_port,
            append_local_overload,
            add_proxy_protocol_connection_state,
            forward_proto_config,
            route_specifier,
            strip_port_mode,
        } = manager;

        field.ignored("tracing", tracing, "tracing is not implemented yet");
        field.unsupported("http3_protocol_options", http3_protocol_options);
        field.ignored("stream_flush_timeout", stream_flush_timeout, "the stream idle timeout counts");
        field.ignored("access_log_flush_interval", access_log_flush_interval, NOT_PERIODIC);
        let moments = access_log_moments(*flush_access_log_on_new_request, access_log_options.as_ref(), field);
        field.unsupported("forward_client_cert_matcher", forward_client_cert_matcher);
        field.ignored("proxy_100_continue", proxy_100_continue, "100 Continue is answered here");
        field.unsupported("path_normalization_options", path_normalization_options);
        field.ignored("typed_header_validation_config", typed_header_validation_config, "headers are always validated");
        field.ignored("append_local_overload", append_local_overload, "there is no overload manager yet");

        let prefix = format!("http.{stat_prefix}");
        let scope = cx.stats.scope(&prefix);
        let listener_scope = cx.listener_stats.map(|listener| listener.scope(&prefix));
        let scopes = [&scope].into_iter().chain(&listener_scope);
        let common =
            CommonOptions::from_proto(common_http_protocol_options.as_ref(), field.key("common_http_protocol_options"));
        let http1 = http1::Options::from_proto(http_protocol_options.as_ref(), field.key("http_protocol_options"));
        let routes = route_configuration(route_specifier.as_ref(), field, cx);
        let chain = http_filters_from_proto(http_filters, field.key("http_filters"), cx, &scope);
        let access_logs = access_logs(access_log, field.key("access_log"), cx);
        let upgrades = upgrades(upgrade_configs, field.key("upgrade_configs"), cx, &scope);
        let timeout = |name, value, default| timeout(field, name, value).unwrap_or(default);
        let timeouts = Timeouts {
            connection_idle: common.idle_timeout,
            connection_duration: common.max_connection_duration,
            stream_idle: timeout("stream_idle_timeout", stream_idle_timeout, Some(STREAM_IDLE_TIMEOUT)),
            stream_duration: common.max_stream_duration,
            request: timeout("request_timeout", request_timeout, None),
            drain: field.duration("drain_timeout", drain_timeout).unwrap_or(DRAIN_TIMEOUT),
            drain_jitter: drain_timeout_jitter.as_ref().map_or(0.0, |percent| percent.value / 100.0),
            waits_for_last_request: *http1_safe_max_connection_duration,
        };
        let max_header_bytes = max_request_headers_kb.as_ref().map_or(MAX_REQUEST_HEADERS_KB, |kb| kb.value) * 1024;
        let http2 = http2::Options::from_proto(http2_protocol_options.as_ref(), field.key("http2_protocol_options"));
        let fields = headers::Fields {
            add_user_agent,
            server_name,
            server_header_transformation,
            scheme_header_transformation,
            use_remote_address,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            internal_address_config,
            skip_xff_append,
            via,
            generate_request_id,
            preserve_external_request_id,
            always_set_request_id_in_response,
            forward_client_cert_details,
            set_current_client_cert_details,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            append_x_forwarded_port,
            forward_proto_config,
        };
        let headers = headers::rules(&fields, field, cx);
        let path = PathRules {
            normalize_path: normalize_path.as_ref().is_some_and(|value| value.value),
            merge_slashes: *merge_slashes,
            escaped_slashes: escaped_slashes(*path_with_escaped_slashes_action),
        };
        let local_replies = LocalReplies::from_proto(local_reply_config.as_ref(), field.key("local_reply_config"));
        headers::check_request_ids(request_id_extension.as_ref(), field.key("request_id_extension"));
        let (chain, routes, local_replies) = (chain?, routes?, local_replies?);
        Some(HttpConnectionManager {
            codec: codec(*codec_type, field)?,
            http1: http1::Options {
                max_headers: common.max_headers as usize,
                max_header_bytes: max_header_bytes as usize,
                header_timeout: timeout("request_headers_timeout", request_headers_timeout, None),
                delayed_close: timeout("delayed_close_timeout", delayed_close_timeout, Some(DELAYED_CLOSE_TIMEOUT)),
                ..http1
            },
            http2,
            stats: ConnectionManagerStats::new(&scope),
            responses: scopes.map(ResponseClasses::new).collect(),
            http1_stats: CodecStats::new(&cx.stats.scope("http1")),
            http2_stats: CodecStats::new(&cx.stats.scope("http2")),
            frame_stats: http2::Stats::new(&cx.stats.scope("http2")),
            capture: capture(&routes, &access_logs, &local_replies),
            routes,
            chain,
            access_logs,
            headers: headers?,
            path,
            max_header_bytes,
            strip_port: strip_port(*strip_matching_host_port, strip_port_mode.as_ref(), field),
            strip_trailing_host_dot: *strip_trailing_host_dot,
            upgrades,
            tells_client: add_proxy_protocol_connection_state.as_ref().is_none_or(|tells| tells.value),
            logs_start: moments.0,
            logs_tunnels: moments.1,
            proxy_status: proxy_status(proxy_status_config.as_ref(), server_name, field, cx),
            timeouts,
            local_replies,
            early_mutations: headers::early_mutations(early_header_mutation_extensions, field),
            matches_upstream_scheme: headers::matches_upstream_scheme(scheme_header_transformation.as_ref()),
            underscores: common.underscores,
            keeps_after_error: stream_error_on_invalid_http_message.as_ref().is_some_and(|keep| keep.value),
            max_requests: common.max_requests,
        })
    }
}

/// A duration of which zero means none; `None` where nothing is set.
fn timeout(field: Field<'_>, name: &'static str, value: &Option<proto::Duration>) -> Option<Option<Duration>> {
    field.duration(name, value).map(|duration| (!duration.is_zero()).then_some(duration))
}

fn strip_port(matching: bool, mode: Option<&StripPortMode>, field: Field<'_>) -> StripPort {
    let any = matches!(mode, Some(StripPortMode::StripAnyHostPort(true)));
    if matching && any {
        let reason = "only one of strip_matching_host_port and strip_any_host_port may be set";
        field.key("strip_matching_host_port").error(reason);
    }
    match (matching, any) {
        (true, _) => StripPort::Matching,
        (false, true) => StripPort::Any,
        (false, false) => StripPort::No,
    }
}

/// All that routes and access logs will want to know of a request's headers.
fn capture(routes: &RouteConfiguration, access_logs: &[AccessLog], replies: &LocalReplies) -> HeaderCapture {
    let mut capture = routes.capture().clone();
    for log in access_logs {
        capture.merge(log.capture());
    }
    replies.capture(&mut capture);
    capture
}

fn codec(codec_type: i32, field: Field<'_>) -> Option<Codec> {
    match proto_manager::CodecType::try_from(codec_type) {
        Ok(proto_manager::CodecType::Auto) => Some(Codec::Auto),
        Ok(proto_manager::CodecType::Http1) => Some(Codec::Http1),
        Ok(proto_manager::CodecType::Http2) => Some(Codec::Http2),
        Ok(proto_manager::CodecType::Http3) | Err(_) => {
            field.key("codec_type").error("HTTP3 is valid in Envoy, not implemented by Portreeve yet");
            None
        }
    }
}

/// The part of `HttpProtocolOptions` that counts downstream.
struct CommonOptions {
    idle_timeout: Option<Duration>,
    max_connection_duration: Option<Duration>,
    max_stream_duration: Option<Duration>,
    max_headers: u32,
    max_requests: u32,
    underscores: Underscores,
}

impl CommonOptions {
    fn from_proto(options: Option<&core::HttpProtocolOptions>, field: Field<'_>) -> CommonOptions {
        let default = core::HttpProtocolOptions::default();
        let core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = options.unwrap_or(&default);
        field.ignored("max_connection_duration_jitter", max_connection_duration_jitter, "there is no jitter");
        field.ignored("max_response_headers_kb", max_response_headers_kb, "it is a setting of clusters");
        let set = |name, value| field.duration(name, value).filter(|duration| !duration.is_zero());
        CommonOptions {
            idle_timeout: match idle_timeout {
                None => Some(CONNECTION_IDLE_TIMEOUT),
                Some(_) => set("idle_timeout", idle_timeout),
            },
            max_connection_duration: set("max_connection_duration", max_connection_duration),
            max_stream_duration: set("max_stream_duration", max_stream_duration),
            max_headers: max_headers_count.as_ref().map_or(MAX_HEADERS, |count| count.value),
            max_requests: max_requests_per_connection.as_ref().map_or(0, |count| count.value),
            underscores: match HeadersWithUnderscoresAction::try_from(*headers_with_underscores_action) {
                Ok(HeadersWithUnderscoresAction::RejectRequest) => Underscores::Reject,
                Ok(HeadersWithUnderscoresAction::DropHeader) => Underscores::Drop,
                Ok(HeadersWithUnderscoresAction::Allow) | Err(_) => Underscores::Allow,
            },
        }
    }
}

fn route_configuration(
    specifier: Option<&RouteSpecifier>,
    field: Field<'_>,
    cx: &FactoryContext<'_>,
) -> Option<Arc<RouteConfiguration>> {
    match specifier {
        Some(RouteSpecifier::RouteConfig(routes)) => {
            let field = field.key("route_config");
            Some(Arc::new(RouteConfiguration::from_proto(routes, field, cx.route_surroundings())))
        }
        Some(RouteSpecifier::Rds(rds)) => {
            field.unsupported("rds", &Some(rds));
            None
        }
        Some(RouteSpecifier::ScopedRoutes(scoped)) => {
            field.unsupported("scoped_routes", &Some(scoped));
            None
        }
        None => {
            field.error("one of route_config, rds, scoped_routes is required");
            None
        }
    }
}

fn proxy_status(
    config: Option<&proto_manager::ProxyStatusConfig>,
    server_name: &str,
    field: Field<'_>,
    cx: &FactoryContext<'_>,
) -> Option<ProxyStatus> {
    let names = (headers::name_of_server(server_name), cx.service_node);
    ProxyStatus::from_proto(config, names, field.key("proxy_status_config"))
}

/// What is said of entries at intervals.
const NOT_PERIODIC: &str = "a request is logged when it begins and when it ends, not meanwhile";

/// Which requests are logged before they end: all when they begin, tunnels when they stand.
fn access_log_moments(
    at_start: bool,
    options: Option<&proto_manager::HcmAccessLogOptions>,
    field: Field<'_>,
) -> (bool, bool) {
    let field = field.key("access_log_options");
    let Some(options) = options else { return (at_start, false) };
    let proto_manager::HcmAccessLogOptions {
        access_log_flush_interval,
        flush_access_log_on_new_request,
        flush_log_on_tunnel_successfully_established,
    } = options;
    field.ignored("access_log_flush_interval", access_log_flush_interval, NOT_PERIODIC);
    (*flush_access_log_on_new_request, *flush_log_on_tunnel_successfully_established)
}

/// The filters before the router, and the router, which must come last.
fn http_filters_from_proto(
    filters: &[hcm::HttpFilter],
    field: Field<'_>,
    cx: &FactoryContext<'_>,
    scope: &Scope,
) -> Option<ConfiguredChain> {
    let Some((last, before)) = filters.split_last() else {
        field.error("is required: the last filter must be envoy.filters.http.router");
        return None;
    };
    let cx = &FactoryContext { http_stats: Some(scope), ..*cx };
    let mut configs = Vec::new();
    let mut failed = false;
    for (index, filter) in before.iter().enumerate() {
        match http_filter(filter, field.index(index), cx) {
            Some(Some(config)) => configs.push(config),
            Some(None) => {}
            None => failed = true,
        }
    }
    let field = field.index(before.len());
    let hcm::HttpFilter { name: _name, is_optional: _is_optional, disabled, config_type } = last;
    let router = match config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) if any.type_url.ends_with(ROUTER) => {
            let field = field.key("typed_config");
            field.unpack(any).map(|router| Router::from_proto(&router, field, scope))
        }
        _ => {
            field.error("the last filter must be a terminal one: envoy.filters.http.router");
            None
        }
    };
    field.unsupported("disabled", disabled);
    (!failed).then_some(ConfiguredChain { filters: configs, router: router? })
}

/// Filters that are left out with a warning, and what is missed by it. Only such are here whose absence changes neither who gets in
/// nor where a request goes; any other filter that is not implemented is an error.
const LEFT_OUT: &[(&str, &str)] = &[
    ("envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency", "concurrency is not limited"),
    ("envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit", "bandwidth is not limited"),
    ("envoy.extensions.filters.http.buffer.v3.Buffer", "requests are streamed, not buffered"),
    ("envoy.extensions.filters.http.cache.v3.CacheConfig", "nothing is cached"),
    ("envoy.extensions.filters.http.compressor.v3.Compressor", "responses are not compressed"),
    ("envoy.extensions.filters.http.cors.v3.Cors", "CORS is left to the upstreams"),
    ("envoy.extensions.filters.http.decompressor.v3.Decompressor", "messages are not decompressed"),
    ("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", "gRPC messages are not counted"),
    ("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb", "gRPC-Web is passed through untranslated"),
    ("envoy.extensions.filters.http.tap.v3.Tap", "traffic is not tapped"),
];

/// The message type of the router's `typed_config`.
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// `Some(None)` where a filter is to be left out.
fn http_filter(
    filter: &hcm::HttpFilter,
    field: Field<'_>,
    cx: &FactoryContext<'_>,
) -> Option<Option<ConfiguredFilter>> {
    let hcm::HttpFilter { name, is_optional, disabled, config_type } = filter;
    let any = match config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => any,
        Some(hcm::http_filter::ConfigType::ConfigDiscovery(discovery)) => {
            field.unsupported("config_discovery", &Some(discovery));
            return None;
        }
        None => {
            field.key("typed_config").error("is required");
            return None;
        }
    };
    let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
    let field = field.key("typed_config");
    if type_name == ROUTER {
        field.error("the router must be the last filter");
        return None;
    }
    if let Some((_, missed)) = LEFT_OUT.iter().find(|(left_out, _)| *left_out == type_name) {
        field.warning(format!("{type_name} is not implemented by Portreeve yet: {missed}"));
        return Some(None);
    }
    match cx.http_filters.iter().find(|factory| factory.type_name == type_name) {
        Some(factory) => {
            let config = (factory.from_proto)(any, field, cx)?;
            Some(Some(ConfiguredFilter { name: name.as_str().into(), disabled: *disabled, config }))
        }
        None if *is_optional => {
            field.warning(format!("{type_name} is not known here and is_optional: it is left out"));
            Some(None)
        }
        None => {
            field.error(format!("{type_name}: valid in Envoy, not implemented by Portreeve yet"));
            None
        }
    }
}

fn access_logs(logs: &[proto::accesslog::AccessLog], field: Field<'_>, cx: &FactoryContext<'_>) -> Vec<AccessLog> {
    logs.iter()
        .enumerate()
        .filter_map(|(index, log)| AccessLog::from_proto(log, field.index(index), cx.access_logs))
        .collect()
}

fn upgrades(
    configs: &[proto_manager::UpgradeConfig],
    field: Field<'_>,
    cx: &FactoryContext<'_>,
    scope: &Scope,
) -> Vec<UpgradeConfig> {
    let mut upgrades = Vec::new();
    for (index, config) in configs.iter().enumerate() {
        let proto_manager::UpgradeConfig { upgrade_type, filters, enabled } = config;
        let field = field.index(index);
        // Of filters that cannot be made it is reported what is wrong.
        let own = || http_filters_from_proto(filters, field.key("filters"), cx, scope);
        if upgrade_type.eq_ignore_ascii_case("connect-udp") {
            field.key("upgrade_type").error("CONNECT-UDP: valid in Envoy, not implemented by Portreeve yet");
        }
        let same = |other: &proto_manager::UpgradeConfig| other.upgrade_type.eq_ignore_ascii_case(upgrade_type);
        if configs[..index].iter().any(same) {
            field
                .key("upgrade_type")
                .error(format!("Error: multiple upgrade configs with the same name: '{upgrade_type}'"));
        }
        upgrades.push(UpgradeConfig {
            protocol: upgrade_type.to_ascii_lowercase(),
            enabled: enabled.as_ref().is_none_or(|enabled| enabled.value),
            chain: if filters.is_empty() { None } else { own() },
        });
    }
    upgrades
}

fn escaped_slashes(action: i32) -> EscapedSlashes {
    match proto_manager::PathWithEscapedSlashesAction::try_from(action) {
        Ok(proto_manager::PathWithEscapedSlashesAction::RejectRequest) => EscapedSlashes::Reject,
        Ok(proto_manager::PathWithEscapedSlashesAction::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(proto_manager::PathWithEscapedSlashesAction::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
        _ => EscapedSlashes::Keep,
    }
}
