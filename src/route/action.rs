//! What a route does with a request: forward, redirect, or answer by itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::Request;
use http::StatusCode;

/// The `action` of a route.
#[derive(Debug)]
pub enum Action {
    /// Send the request to a cluster.
    Forward(Forward),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with a fixed status and body.
    DirectResponse(DirectResponse),
}

/// A compiled `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    /// Where to; resolve it with [`super::RouteRef::cluster`].
    pub cluster: Cluster,
    /// From the end of the request to the end of the response; 15 s unless set, None if set to 0.
    pub timeout: Option<Duration>,
    /// Overrides the connection manager's `stream_idle_timeout`; `Some(Duration::ZERO)` disables it.
    pub idle_timeout: Option<Duration>,
    /// Limits on the stream's life and what a gRPC client may ask for by `grpc-timeout`.
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// Upgrades switched on or off for this route, in order.
    pub upgrade_configs: Vec<UpgradeConfig>,
    /// The status of the answer if the cluster does not exist.
    pub cluster_not_found_status: StatusCode,
    /// What happens to the Host header.
    pub host_rewrite: Option<HostRewrite>,
    /// Whether a rewritten host is appended to `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
}

/// How the cluster of a forwarded request is found.
#[derive(Debug)]
pub enum Cluster {
    /// `cluster`
    Name(Arc<str>),
    /// `weighted_clusters`
    Weighted(Vec<(u32, Arc<str>)>),
    /// `cluster_header`
    Header(HeaderName),
    /// A cluster specifier plugin of type `portreeve.registration.v1.RegisteredRoutes`.
    Registered,
}

/// `RouteAction.MaxStreamDuration`.
#[derive(Clone, Copy, Debug)]
pub struct MaxStreamDuration {
    /// The longest life of the stream; None defers to the connection manager, zero means unlimited.
    pub max_stream_duration: Option<Duration>,
    /// If set, `grpc-timeout` limits the stream, up to this; zero takes the header's value as it is.
    pub grpc_timeout_header_max: Option<Duration>,
    /// Subtracted from the client's `grpc-timeout`.
    pub grpc_timeout_header_offset: Option<Duration>,
}

impl MaxStreamDuration {
    /// The longest life of the stream of a gRPC client that asks for `grpc_timeout`, or of another client; zero means
    /// unlimited, None defers to the connection manager.
    #[must_use]
    pub fn limit(&self, grpc_timeout: Option<Duration>) -> Option<Duration> {
        let _ = grpc_timeout;
        todo!()
    }
}

/// `RouteAction.UpgradeConfig`.
#[derive(Clone, Debug)]
pub struct UpgradeConfig {
    /// Lower case, e.g. `websocket`.
    pub upgrade_type: String,
    /// Whether the upgrade is accepted on this route.
    pub enabled: bool,
}

/// The `host_rewrite_specifier` of a route.
#[derive(Debug)]
pub enum HostRewrite {
    /// Done by `RouteRef::finalize_request`.
    Done,
    /// `auto_host_rewrite`: the chosen host's name, which only the router knows.
    Auto,
}

/// A compiled `RedirectAction`.
#[derive(Debug)]
pub struct Redirect {
    /// 301 unless set.
    pub status: StatusCode,
}

impl Redirect {
    /// The `location` header of the answer to `request`.
    pub fn location<B>(&self, request: &Request<B>) -> String {
        let _ = request;
        todo!()
    }
}

/// A compiled `DirectResponseAction`.
#[derive(Debug)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// Empty if none is configured.
    pub body: Bytes,
}
