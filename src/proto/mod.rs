//! The wire types: Envoy's v3 messages, xDS and our own, by short names.
//!
//! `proto::listener::Listener` is `envoy.config.listener.v3.Listener`: the last telling part of the package, version
//! dropped. [`pool`] describes all of them at run time, which is what reads YAML and writes `/config_dump`.

use std::sync::LazyLock;
use std::time::{Duration as StdDuration, SystemTime};

pub use envoy_types::pb::google::protobuf::{
    Any, BoolValue, BytesValue, DoubleValue, Duration, Empty, FloatValue, Int32Value, Int64Value, ListValue,
    StringValue, Struct, Timestamp, UInt32Value, UInt64Value, Value, value,
};
pub use envoy_types::pb::google::rpc;

pub use envoy_types::pb::envoy::admin::v3 as admin;
pub use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
pub use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
pub use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub use envoy_types::pb::envoy::config::common::mutation_rules::v3 as common_mutation_rules;
pub use envoy_types::pb::envoy::config::common::mutation_rules::v3 as mutation_rules;
pub use envoy_types::pb::envoy::config::core::v3 as core;
pub use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub use envoy_types::pb::envoy::config::listener::v3 as listener;
pub use envoy_types::pb::envoy::config::metrics::v3 as metrics;
pub use envoy_types::pb::envoy::config::overload::v3 as overload;
pub use envoy_types::pb::envoy::config::rbac::v3 as rbac;
pub use envoy_types::pb::envoy::config::route::v3 as route;
pub use envoy_types::pb::envoy::config::trace::v3 as trace;
pub use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as file_access_log;
pub use envoy_types::pb::envoy::extensions::access_loggers::stream::v3 as stream_access_log;
pub use envoy_types::pb::envoy::extensions::bootstrap::internal_listener::v3 as internal_listener;
pub use envoy_types::pb::envoy::extensions::common::matching::v3 as matching;
pub use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as common_fault;
pub use envoy_types::pb::envoy::extensions::filters::common::matcher::action::v3 as match_action;
pub use envoy_types::pb::envoy::extensions::filters::http::api_key_auth::v3 as api_key_auth;
pub use envoy_types::pb::envoy::extensions::filters::http::basic_auth::v3 as basic_auth;
pub use envoy_types::pb::envoy::extensions::filters::http::composite::v3 as composite;
pub use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors_filter;
pub use envoy_types::pb::envoy::extensions::filters::http::csrf::v3 as csrf;
pub use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
pub use envoy_types::pb::envoy::extensions::filters::http::grpc_http1_bridge::v3 as grpc_http1_bridge;
pub use envoy_types::pb::envoy::extensions::filters::http::grpc_http1_reverse_bridge::v3 as grpc_http1_reverse_bridge;
pub use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3 as grpc_web_filter;
pub use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3 as header_to_metadata;
pub use envoy_types::pb::envoy::extensions::filters::http::health_check::v3 as health_check_filter;
pub use envoy_types::pb::envoy::extensions::filters::http::json_to_metadata::v3 as json_to_metadata;
pub use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3 as http_local_ratelimit;
pub use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
pub use envoy_types::pb::envoy::extensions::filters::http::router::v3 as router_filter;
pub use envoy_types::pb::envoy::extensions::filters::http::set_metadata::v3 as set_metadata;
pub use envoy_types::pb::envoy::extensions::filters::http::upstream_codec::v3 as upstream_codec_filter;
pub use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3 as http_inspector;
pub use envoy_types::pb::envoy::extensions::filters::listener::local_ratelimit::v3 as listener_local_ratelimit;
pub use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3 as original_dst;
pub use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3 as proxy_protocol;
pub use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3 as tls_inspector;
pub use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3 as connection_limit;
pub use envoy_types::pb::envoy::extensions::filters::network::direct_response::v3 as direct_response;
pub use envoy_types::pb::envoy::extensions::filters::network::echo::v3 as echo;
pub use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub use envoy_types::pb::envoy::extensions::filters::network::local_ratelimit::v3 as network_local_ratelimit;
pub use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
pub use envoy_types::pb::envoy::extensions::filters::network::sni_cluster::v3 as sni_cluster;
pub use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3 as early_header_mutation;
pub use envoy_types::pb::envoy::extensions::http::original_ip_detection::custom_header::v3 as ip_by_header;
pub use envoy_types::pb::envoy::extensions::http::original_ip_detection::xff::v3 as ip_by_xff;
pub use envoy_types::pb::envoy::extensions::internal_redirect::allow_listed_routes::v3 as redirect_allow_listed_routes;
pub use envoy_types::pb::envoy::extensions::internal_redirect::previous_routes::v3 as redirect_previous_routes;
pub use envoy_types::pb::envoy::extensions::internal_redirect::safe_cross_scheme::v3 as redirect_safe_cross_scheme;
pub use envoy_types::pb::envoy::extensions::load_balancing_policies::subset::v3 as subset_policy;
pub use envoy_types::pb::envoy::extensions::matching::common_inputs::environment_variable::v3 as environment_variable;
pub use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3 as network_inputs;
pub use envoy_types::pb::envoy::extensions::matching::input_matchers::consistent_hashing::v3 as consistent_hashing;
pub use envoy_types::pb::envoy::extensions::matching::input_matchers::ip::v3 as ip_matcher;
pub use envoy_types::pb::envoy::extensions::matching::input_matchers::runtime_fraction::v3 as runtime_fraction;
pub use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3 as cares_dns_resolver;
pub use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3 as uri_template_match;
pub use envoy_types::pb::envoy::extensions::path::rewrite::uri_template::v3 as uri_template_rewrite;
pub use envoy_types::pb::envoy::extensions::resource_monitors::downstream_connections::v3 as downstream_connections;
pub use envoy_types::pb::envoy::extensions::retry::host::omit_canary_hosts::v3 as retry_omit_canary_hosts;
pub use envoy_types::pb::envoy::extensions::retry::host::omit_host_metadata::v3 as retry_omit_host_metadata;
pub use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3 as retry_previous_hosts;
pub use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3 as retry_previous_priorities;
pub use envoy_types::pb::envoy::extensions::router::cluster_specifiers::matcher::v3 as matcher_cluster_specifier;
pub use envoy_types::pb::envoy::extensions::transport_sockets::http_11_proxy::v3 as http_11_proxy;
pub use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3 as internal_upstream;
pub use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3 as upstream_proxy_protocol;
pub use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3 as raw_buffer;
pub use envoy_types::pb::envoy::extensions::transport_sockets::tap::v3 as tap_transport_socket;
pub use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http_protocol_options;
pub use envoy_types::pb::envoy::service::discovery::v3 as discovery;
pub use envoy_types::pb::envoy::r#type::http::v3 as type_http;
pub use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub use envoy_types::pb::envoy::r#type::metadata::v3 as metadata;
pub use envoy_types::pb::envoy::r#type::tracing::v3 as tracing;
pub use envoy_types::pb::envoy::r#type::v3 as type_v3;
pub use envoy_types::pb::xds::core::v3 as xds_core;
pub use envoy_types::pb::xds::r#type::matcher::v3 as xds_matcher;

pub use generated::portreeve::access_log::v1 as access_log_journal;
pub use generated::portreeve::demo::v1 as demo;
pub use generated::portreeve::handoff::v1 as handoff;
pub use generated::portreeve::registration::v1 as registration;
pub use generated::portreeve::route_check::v1 as route_check;
pub use generated::xds::r#type::matcher::v3 as xds_custom_matchers;

use prost_reflect::DescriptorPool;

#[allow(missing_docs, clippy::pedantic, unused_qualifications)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/portreeve.rs"));
}

/// Our own packages that others are to know, and what they import, as an encoded `FileDescriptorSet`: what gRPC reflection serves.
pub const SERVICE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/services.bin"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice();
    DescriptorPool::decode(descriptors).expect("invariant: build.rs wrote these descriptors")
});

/// The descriptors of every message that a configuration can hold: Envoy's, xDS's and ours.
#[must_use]
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The wire form of a duration. Seconds beyond what the wire can say become the longest it can.
#[must_use]
pub fn duration(duration: StdDuration) -> Duration {
    Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

/// The wire form of a time; what lies before 1970 becomes its begin.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    let Duration { seconds, nanos } = duration(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    Timestamp { seconds, nanos }
}

/// `None` if the duration is negative or out of protobuf's range.
#[must_use]
pub fn std_duration(duration: &Duration) -> Option<StdDuration> {
    const LONGEST_SECONDS: u64 = 315_576_000_000;
    let seconds = u64::try_from(duration.seconds).ok().filter(|seconds| *seconds <= LONGEST_SECONDS)?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(StdDuration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_knows_envoys_messages_and_rules() {
        assert!(pool().get_message_by_name("envoy.config.bootstrap.v3.Bootstrap").is_some());
        assert!(pool().get_message_by_name("portreeve.registration.v1.RegistrationFilter").is_some());
        assert!(pool().get_extension_by_name("validate.rules").is_some());
    }

    #[test]
    fn reflection_keeps_what_is_internal_to_itself() {
        let services = DescriptorPool::decode(SERVICE_DESCRIPTORS).unwrap();
        assert!(services.get_message_by_name("portreeve.registration.v1.RegisterRequest").is_some());
        assert!(services.get_message_by_name("portreeve.handoff.v1.State").is_none());
    }

    #[test]
    fn relative_type_names_are_bound_as_protoc_binds_them() {
        let cluster = pool().get_message_by_name("envoy.config.cluster.v3.Cluster").expect("in the pool");
        let field = cluster.get_field_by_name("transport_socket").expect("a field");
        let prost_reflect::Kind::Message(message) = field.kind() else { panic!("a message") };
        assert_eq!(message.full_name(), "envoy.config.core.v3.TransportSocket");
    }

    #[test]
    fn durations_out_of_range_are_none() {
        assert_eq!(std_duration(&Duration { seconds: 1, nanos: 500_000_000 }), Some(StdDuration::from_millis(1500)));
        assert_eq!(std_duration(&Duration { seconds: -1, nanos: 0 }), None);
        assert_eq!(std_duration(&Duration { seconds: 0, nanos: -1 }), None);
        assert_eq!(std_duration(&Duration { seconds: 0, nanos: 1_000_000_000 }), None);
        assert_eq!(std_duration(&Duration { seconds: 315_576_000_001, nanos: 0 }), None);
        assert_eq!(duration(StdDuration::from_millis(1500)), Duration { seconds: 1, nanos: 500_000_000 });
    }
}
