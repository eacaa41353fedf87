//! What a route does with a request: forward it, redirect it, or answer by itself.

use std::time::Duration;

use http::StatusCode;

use super::{
    Context, DirectResponse, InternalRedirectPolicy, MirrorPolicy, Redirect, RetryPolicy,
    cluster_specifier::ClusterSpecifier,
    retry_policy::hedge_on_per_try_timeout,
    rewrite::{HostRewrite, Matched, PathRewrite},
};
use crate::{
    config::Field,
    matcher::MetadataMatch,
    proto::{self, core::RoutingPriority, route::route_action::InternalRedirectAction},
};

/// The `action` of a route.
#[derive(Debug)]
pub enum Action {
    /// Send the request to a cluster.
    Forward(Box<Forward>),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with a status and a body of the route's own.
    DirectResponse(DirectResponse),
    /// Leave the answer to a filter.
    NonForwarding,
}

impl Action {
    pub(super) fn from_proto(
        proto: &proto::route::route::Action,
        matched: Matched<'_>,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<Action> {
        use proto::route::route::Action as Proto;

        match proto {
            Proto::Route(forward) => {
                Forward::from_proto(forward, matched, context, field.key("route")).map(Box::new).map(Action::Forward)
            }
            Proto::Redirect(redirect) => {
                Redirect::from_proto(redirect, matched, field.key("redirect")).map(Action::Redirect)
            }
            Proto::DirectResponse(response) => {
                DirectResponse::from_proto(response, context, field.key("direct_response")).map(Action::DirectResponse)
            }
            Proto::FilterAction(action) => {
                field.unsupported("filter_action", &Some(action));
                None
            }
            Proto::NonForwardingAction(proto::route::NonForwardingAction {}) => Some(Action::NonForwarding),
        }
    }
}

/// A compiled `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    /// From the end of the request to the end of the response; 15 s unless set, None if set to 0.
    pub timeout: Option<Duration>,
    /// What a gRPC client's `grpc-timeout` does to the timeout (`max_grpc_timeout`, which is older than `max_stream_duration`).
    pub grpc_timeout: Option<GrpcTimeout>,
    /// Overrides the connection manager's `stream_idle_timeout`; `Some(Duration::ZERO)` disables it.
    pub idle_timeout: Option<Duration>,
    /// Limits on the stream's life and what a gRPC client may ask for by `grpc-timeout`.
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// Which of a cluster's circuit breakers count its requests.
    pub priority: RoutingPriority,
    /// Upgrades switched on or off for this route.
    pub upgrade_configs: Vec<UpgradeConfig>,
    /// The status of the answer if the cluster does not exist.
    pub cluster_not_found_status: StatusCode,
    /// Redirects of the upstream that are followed.
    pub internal_redirect: Option<InternalRedirectPolicy>,
    pub(super) retry_policy: Option<RetryPolicy>,
    pub(super) mirror_policies: Vec<MirrorPolicy>,
    pub(super) cluster: ClusterSpecifier,
    pub(super) metadata_match: Option<MetadataMatch>,
    pub(super) hedge_on_per_try_timeout: Option<bool>,
    pub(super) path: Option<PathRewrite>,
    pub(super) host: Option<HostRewrite>,
    pub(super) append_x_forwarded_host: bool,
}

impl Forward {
    fn from_proto(
        proto: &proto::route::RouteAction,
        matched: Matched<'_>,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<Forward> {
        let proto::route::RouteAction {
            cluster_specifier,
            cluster_not_found_response_code,
            metadata_match,
            prefix_rewrite,
            regex_rewrite,
            path_rewrite_policy,
            path_rewrite,
            host_rewrite_specifier,
            append_x_forwarded_host,
            timeout,
            idle_timeout,
            flush_timeout,
            early_data_policy,
            retry_policy,
            retry_policy_typed_config,
            request_mirror_policies,
            priority,
            rate_limits,
            include_vh_rate_limits,
            hash_policy,
            cors,
            max_grpc_timeout,
            grpc_timeout_offset,
            upgrade_configs,
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects,
            hedge_policy,
            max_stream_duration,
        } = proto;
        field.ignored("rate_limits", rate_limits, "there is no filter that limits rates");
        field.ignored("flush_timeout", flush_timeout, "idle_timeout also covers a client that does not read");
        field.ignored("early_data_policy", early_data_policy, "TLS early data is not accepted");
        field.unsupported("retry_policy_typed_config", retry_policy_typed_config);
        field.ignored("include_vh_rate_limits", include_vh_rate_limits, "there are no rate limits");
        if !cluster_specifier.as_ref().is_some_and(ClusterSpecifier::is_drawn_by_hash) {
            field.ignored("hash_policy", hash_policy, "no load balancer here uses a hash yet");
        }
        field.ignored("cors", cors, "use the filter's own configuration");

        // The newer setting stands in place of the timeout, also of its default.
        let default = if max_stream_duration.is_some() { Duration::ZERO } else { DEFAULT_TIMEOUT };
        let timeout = field.duration("timeout", timeout).filter(|_| max_stream_duration.is_none()).unwrap_or(default);
        let offset = field.duration("grpc_timeout_offset", grpc_timeout_offset);
        let rewrites = PathRewrites { prefix_rewrite, regex_rewrite, path_rewrite_policy, path_rewrite };
        let deprecated = (*internal_redirect_action, max_internal_redirects);
        let specifier = cluster_specifier.as_ref();
        let metadata_match = MetadataMatch::from_proto(metadata_match.as_ref());
        let cluster = specifier.and_then(|proto| ClusterSpecifier::from_proto(proto, hash_policy, context, field));
        let cluster = cluster.map(|cluster| cluster.inheriting(metadata_match.as_ref()));
        Some(Forward {
            timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
            grpc_timeout: field
                .duration("max_grpc_timeout", max_grpc_timeout)
                .filter(|_| max_stream_duration.is_none())
                .map(|max| GrpcTimeout { max, offset: offset.unwrap_or_default() }),
            idle_timeout: field.duration("idle_timeout", idle_timeout),
            max_stream_duration: max_stream_duration
                .as_ref()
                .map(|limits| MaxStreamDuration::from_proto(*limits, field.key("max_stream_duration"))),
            priority: RoutingPriority::try_from(*priority).unwrap_or_default(),
            upgrade_configs: UpgradeConfig::list_from_proto(upgrade_configs, field.key("upgrade_configs")),
            cluster_not_found_status: not_found_status(*cluster_not_found_response_code),
            path: path_rewrite_of(&rewrites, matched, field),
            host: host_rewrite_specifier.as_ref().and_then(|proto| HostRewrite::from_proto(proto, field)),
            append_x_forwarded_host: *append_x_forwarded_host,
            retry_policy: retry_policy
                .as_ref()
                .map(|policy| RetryPolicy::from_proto(policy, field.key("retry_policy"))),
            mirror_policies: MirrorPolicy::list_from_proto(
                request_mirror_policies,
                context,
                field.key("request_mirror_policies"),
            ),
            internal_redirect: internal_redirect_of(internal_redirect_policy, deprecated, field),
            metadata_match,
            hedge_on_per_try_timeout: hedge_on_per_try_timeout(hedge_policy, field.key("hedge_policy")),
            cluster: cluster?,
        })
    }
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

fn not_found_status(code: i32) -> StatusCode {
    use proto::route::route_action::ClusterNotFoundResponseCode as Code;

    match Code::try_from(code).unwrap_or_default() {
        Code::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The policy, or what `internal_redirect_action` and `max_internal_redirects` say, which came before it.
fn internal_redirect_of(
    policy: &Option<proto::route::InternalRedirectPolicy>,
    (action, max): (i32, &Option<proto::UInt32Value>),
    field: Field<'_>,
) -> Option<InternalRedirectPolicy> {
    let handled = action == InternalRedirectAction::HandleInternalRedirect as i32;
    match policy {
        Some(policy) => Some(InternalRedirectPolicy::from_proto(policy, field.key("internal_redirect_policy"))),
        None => handled.then(|| InternalRedirectPolicy::from_deprecated(max.as_ref().map(|max| max.value))),
    }
}

/// The fields of which one at most rewrites the path.
struct PathRewrites<'a> {
    prefix_rewrite: &'a str,
    regex_rewrite: &'a Option<proto::matcher::RegexMatchAndSubstitute>,
    path_rewrite_policy: &'a Option<proto::core::TypedExtensionConfig>,
    path_rewrite: &'a str,
}

fn path_rewrite_of(rewrites: &PathRewrites<'_>, matched: Matched<'_>, field: Field<'_>) -> Option<PathRewrite> {
    let PathRewrites { prefix_rewrite, regex_rewrite, path_rewrite_policy, path_rewrite } = rewrites;
    let set = [
        ("prefix_rewrite", !prefix_rewrite.is_empty()),
        ("regex_rewrite", regex_rewrite.is_some()),
        ("path_rewrite_policy", path_rewrite_policy.is_some()),
        ("path_rewrite", !path_rewrite.is_empty()),
    ];
    let mut set = set.into_iter().filter_map(|(name, is_set)| is_set.then_some(name));
    if let (Some(first), Some(second)) = (set.next(), set.next()) {
        field.key(second).error(format!("cannot stand beside {first}"));
        return None;
    }
    if let Some(regex) = regex_rewrite {
        return PathRewrite::regex(regex, field.key("regex_rewrite"));
    }
    if let Some(policy) = path_rewrite_policy {
        return PathRewrite::policy(policy, matched, field.key("path_rewrite_policy"));
    }
    if !path_rewrite.is_empty() {
        return PathRewrite::format(path_rewrite, field.key("path_rewrite"));
    }
    if prefix_rewrite.is_empty() {
        return None;
    }
    PathRewrite::prefix(prefix_rewrite, matched, field.key("prefix_rewrite"))
}

/// `max_grpc_timeout` and `grpc_timeout_offset`
#[derive(Clone, Copy, Debug)]
pub struct GrpcTimeout {
    max: Duration,
    offset: Duration,
}

impl GrpcTimeout {
    /// The timeout of a gRPC client that asks for `asked`; None if it has none.
    #[must_use]
    pub fn limit(&self, asked: Option<Duration>) -> Option<Duration> {
        let asked = asked.unwrap_or_default();
        let granted = if self.offset < asked { asked.saturating_sub(self.offset) } else { asked };
        [granted, self.max].into_iter().filter(|limit| !limit.is_zero()).min()
    }
}

/// `RouteAction.MaxStreamDuration`
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
        let (Some(asked), Some(max)) = (grpc_timeout, self.grpc_timeout_header_max) else {
            return self.max_stream_duration;
        };
        let granted = [asked, max].into_iter().filter(|limit| !limit.is_zero()).min().unwrap_or_default();
        // The offset makes the limit shorter, never none.
        let offset = self.grpc_timeout_header_offset.unwrap_or_default();
        Some(granted.checked_sub(offset).filter(|left| !left.is_zero()).unwrap_or(granted))
    }

    fn from_proto(proto: proto::route::route_action::MaxStreamDuration, field: Field<'_>) -> MaxStreamDuration {
        let proto::route::route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            grpc_timeout_header_offset,
        } = proto;
        MaxStreamDuration {
            max_stream_duration: field.duration("max_stream_duration", &max_stream_duration),
            grpc_timeout_header_max: field.duration("grpc_timeout_header_max", &grpc_timeout_header_max),
            grpc_timeout_header_offset: field.duration("grpc_timeout_header_offset", &grpc_timeout_header_offset),
        }
    }
}

/// `RouteAction.UpgradeConfig`
#[derive(Clone, Debug, PartialEq)]
pub struct UpgradeConfig {
    /// Lower case, e.g. `websocket`.
    pub upgrade_type: String,
    /// Whether the upgrade is accepted on this route, whatever the connection manager says.
    pub enabled: bool,
    /// A CONNECT ends here, and its bytes go to a host (`connect_config`).
    pub ends_here: bool,
}

impl UpgradeConfig {
    fn list_from_proto(protos: &[proto::route::route_action::UpgradeConfig], field: Field<'_>) -> Vec<UpgradeConfig> {
        use proto::route::route_action::upgrade_config::ConnectConfig;

        let mut configs: Vec<UpgradeConfig> = Vec::new();
        for (i, proto) in protos.iter().enumerate() {
            let proto::route::route_action::UpgradeConfig { upgrade_type, enabled, connect_config } = proto;
            let field = field.index(i);
            let upgrade_type = upgrade_type.to_ascii_lowercase();
            if let Some(config) = connect_config {
                let field = field.key("connect_config");
                let ConnectConfig { proxy_protocol_config, allow_post } = config;
                field.unsupported("proxy_protocol_config", proxy_protocol_config);
                field.unsupported("allow_post", allow_post);
                if upgrade_type != "connect" {
                    field.error(format!("Non-CONNECT upgrade type {upgrade_type} has ConnectConfig"));
                }
            }
            if configs.iter().any(|other| other.upgrade_type == upgrade_type) {
                field.key("upgrade_type").error(format!("{upgrade_type:?} is listed twice"));
            }
            let enabled = enabled.is_none_or(|enabled| enabled.value);
            configs.push(UpgradeConfig { upgrade_type, enabled, ends_here: connect_config.is_some() });
        }
        configs
    }
}
