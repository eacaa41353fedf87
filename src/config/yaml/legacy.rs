//! Spellings of older Envoys that files still have: what to write instead.

/// The type of an extension that is named without a `typed_config`: Envoy took the name for the type until 1.22, and every
/// fifth public file still has it so. Only extensions that do their job without settings are listed.
pub(super) fn type_of_bare_name(message: &str, name: &str) -> Option<&'static str> {
    let known: &[(&str, &str)] = match message {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter" => &[
            ("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors"),
            ("envoy.filters.http.grpc_http1_bridge", "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config"),
            ("envoy.filters.http.grpc_web", "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"),
            ("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
        ],
        "envoy.config.listener.v3.ListenerFilter" => &[
            (
                "envoy.filters.listener.http_inspector",
                "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
            ),
            ("envoy.filters.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"),
            (
                "envoy.filters.listener.proxy_protocol",
                "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            ),
            ("envoy.filters.listener.tls_inspector", "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"),
        ],
        "envoy.config.core.v3.TransportSocket" => {
            &[("envoy.transport_sockets.raw_buffer", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")]
        }
        _ => &[],
    };
    known.iter().find(|(known, _)| *known == name).map(|(_, r#type)| *r#type)
}

/// What to write instead of a field that Envoy's v2 API had and v3 has not.
pub(super) fn replacement(message: &str, key: &str) -> Option<&'static str> {
    match (message, key) {
        ("envoy.config.cluster.v3.Cluster", "hosts") => Some("load_assignment"),
        ("envoy.config.cluster.v3.Cluster" | "envoy.config.listener.v3.FilterChain", "tls_context") => {
            Some("transport_socket with a typed_config")
        }
        ("envoy.config.route.v3.RouteMatch", "regex") | ("envoy.config.route.v3.HeaderMatcher", "regex_match") => {
            Some("safe_regex")
        }
        ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "idle_timeout") => {
            Some("common_http_protocol_options.idle_timeout")
        }
        (_, "config") => Some("typed_config"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    #[test]
    fn every_type_of_a_bare_name_exists() {
        for (message, name) in [
            ("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", "envoy.filters.http.router"),
            ("envoy.config.listener.v3.ListenerFilter", "envoy.filters.listener.tls_inspector"),
            ("envoy.config.core.v3.TransportSocket", "envoy.transport_sockets.raw_buffer"),
        ] {
            assert!(proto::pool().get_message_by_name(message).is_some(), "{message}");
            let name = type_of_bare_name(message, name).expect("a known name");
            assert!(proto::pool().get_message_by_name(name).is_some(), "{name}");
        }
        assert_eq!(type_of_bare_name("envoy.config.core.v3.TransportSocket", "envoy.transport_sockets.tls"), None);
    }
}
