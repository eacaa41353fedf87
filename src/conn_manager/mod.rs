//! The HTTP connection manager, `envoy.filters.network.http_connection_manager`.
