//! What a route does with a request: forward it, redirect it, or answer by itself.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};

use super::{
    Context,
    cluster_specifier::ClusterSpecifier,
    rewrite::{HostRewrite, Matched, PathRewrite},
};
use crate::{
    config::{Field, data_source},
    http::{authority, headers::X_FORWARDED_PROTO},
    proto,
};

/// The `action` of a route.
#[derive(Debug)]
pub enum Action {
    /// Send the request to a cluster.
    Forward(Box<Forward>),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with a fixed status and body.
    DirectResponse(DirectResponse),
}

impl Action {
    pub(super) fn from_proto(
        proto: &proto::route::route::Action,
        matched: Matched,
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
            Proto::NonForwardingAction(action) => {
                field.unsupported("non_forwarding_action", &Some(action));
                None
            }
        }
    }
}

/// A compiled `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    /// From the end of the request to the end of the response; 15 s unless set, None if set to 0.
    pub timeout: Option<Duration>,
    /// Overrides the connection manager's `stream_idle_timeout`; `Some(Duration::ZERO)` disables it.
    pub idle_timeout: Option<Duration>,
    /// Limits on the stream's life and what a gRPC client may ask for by `grpc-timeout`.
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// Upgrades switched on or off for this route.
    pub upgrade_configs: Vec<UpgradeConfig>,
    /// The status of the answer if the cluster does not exist.
    pub cluster_not_found_status: StatusCode,
    pub(super) cluster: ClusterSpecifier,
    pub(super) path: Option<PathRewrite>,
    pub(super) host: Option<HostRewrite>,
    pub(super) append_x_forwarded_host: bool,
}

impl Forward {
    fn from_proto(
        proto: &proto::route::RouteAction,
        matched: Matched,
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
        field.unsupported("metadata_match", metadata_match);
        field.unsupported("path_rewrite_policy", path_rewrite_policy);
        field.unsupported("path_rewrite", path_rewrite);
        field.unsupported("rate_limits", rate_limits);
        field.ignored("flush_timeout", flush_timeout, "idle_timeout also covers a client that does not read");
        field.ignored("early_data_policy", early_data_policy, "TLS early data is not accepted");
        let why = "only requests that cannot have been processed are sent again";
        field.ignored("retry_policy", retry_policy, why);
        field.ignored("retry_policy_typed_config", retry_policy_typed_config, why);
        field.ignored("hedge_policy", hedge_policy, why);
        field.ignored("request_mirror_policies", request_mirror_policies, "requests are not mirrored yet");
        field.ignored("priority", priority, "all requests have the same priority");
        field.ignored("include_vh_rate_limits", include_vh_rate_limits, "there are no rate limits");
        field.ignored("hash_policy", hash_policy, "no load balancer here uses a hash yet");
        field.ignored("cors", cors, "use the filter's own configuration");
        let why = "use max_stream_duration.grpc_timeout_header_max";
        field.ignored("max_grpc_timeout", max_grpc_timeout, why);
        field.ignored("grpc_timeout_offset", grpc_timeout_offset, why);
        let why = "redirects of upstreams are passed to the client";
        field.ignored("internal_redirect_policy", internal_redirect_policy, why);
        field.ignored("internal_redirect_action", internal_redirect_action, why);
        field.ignored("max_internal_redirects", max_internal_redirects, why);

        let timeout = field.duration("timeout", timeout).unwrap_or(DEFAULT_TIMEOUT);
        let specifier = cluster_specifier.as_ref();
        let cluster = specifier.and_then(|proto| ClusterSpecifier::from_proto(proto, context, field));
        Some(Forward {
            timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
            idle_timeout: field.duration("idle_timeout", idle_timeout),
            max_stream_duration: max_stream_duration
                .as_ref()
                .map(|limits| MaxStreamDuration::from_proto(*limits, field.key("max_stream_duration"))),
            upgrade_configs: UpgradeConfig::list_from_proto(upgrade_configs, field.key("upgrade_configs")),
            cluster_not_found_status: not_found_status(*cluster_not_found_response_code),
            path: path_rewrite_of(prefix_rewrite, regex_rewrite.as_ref(), matched, field),
            host: host_rewrite_specifier.as_ref().and_then(|proto| HostRewrite::from_proto(proto, field)),
            append_x_forwarded_host: *append_x_forwarded_host,
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

fn path_rewrite_of(
    prefix_rewrite: &str,
    regex_rewrite: Option<&proto::matcher::RegexMatchAndSubstitute>,
    matched: Matched,
    field: Field<'_>,
) -> Option<PathRewrite> {
    match (prefix_rewrite, regex_rewrite) {
        ("", None) => None,
        (prefix, None) => PathRewrite::prefix(prefix, matched, field.key("prefix_rewrite")),
        ("", Some(regex)) => PathRewrite::regex(regex, field.key("regex_rewrite")),
        _ => {
            field.key("regex_rewrite").error("cannot stand beside prefix_rewrite");
            None
        }
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
}

impl UpgradeConfig {
    fn list_from_proto(protos: &[proto::route::route_action::UpgradeConfig], field: Field<'_>) -> Vec<UpgradeConfig> {
        let mut configs: Vec<UpgradeConfig> = Vec::new();
        for (i, proto) in protos.iter().enumerate() {
            let proto::route::route_action::UpgradeConfig { upgrade_type, enabled, connect_config } = proto;
            let field = field.index(i);
            field.unsupported("connect_config", connect_config);
            let upgrade_type = upgrade_type.to_ascii_lowercase();
            if configs.iter().any(|other| other.upgrade_type == upgrade_type) {
                field.key("upgrade_type").error(format!("{upgrade_type:?} is listed twice"));
            }
            configs.push(UpgradeConfig { upgrade_type, enabled: enabled.is_none_or(|enabled| enabled.value) });
        }
        configs
    }
}

/// A compiled `RedirectAction`.
#[derive(Debug)]
pub struct Redirect {
    /// 301 unless set.
    pub status: StatusCode,
    scheme: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: RedirectPath,
    strip_query: bool,
}

#[derive(Debug)]
enum RedirectPath {
    Keep,
    Replace(String),
    Rewrite(PathRewrite),
}

impl Redirect {
    fn from_proto(proto: &proto::route::RedirectAction, matched: Matched, field: Field<'_>) -> Option<Redirect> {
        use proto::route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};

        let proto::route::RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = proto;
        let status = match RedirectResponseCode::try_from(*response_code).unwrap_or_default() {
            RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
            RedirectResponseCode::Found => StatusCode::FOUND,
            RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
            RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
            RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
        };
        let port = u16::try_from(*port_redirect);
        if port.is_err() {
            field.key("port_redirect").error("must be at most 65535");
        }
        let path = match path_rewrite_specifier {
            None => Some(RedirectPath::Keep),
            Some(PathRewriteSpecifier::PathRedirect(path)) => Some(RedirectPath::Replace(path.clone())),
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
                PathRewrite::prefix(prefix, matched, field.key("prefix_rewrite")).map(RedirectPath::Rewrite)
            }
            Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
                PathRewrite::regex(regex, field.key("regex_rewrite")).map(RedirectPath::Rewrite)
            }
            Some(PathRewriteSpecifier::PathRewrite(format)) => {
                field.unsupported("path_rewrite", format);
                None
            }
        };
        Some(Redirect {
            status,
            scheme: scheme_rewrite_specifier.as_ref().and_then(|scheme| match scheme {
                SchemeRewriteSpecifier::HttpsRedirect(https) => https.then(|| "https".to_owned()),
                SchemeRewriteSpecifier::SchemeRedirect(scheme) => Some(scheme.to_ascii_lowercase()),
            }),
            host: Some(host_redirect.clone()).filter(|host| !host.is_empty()),
            port: port.ok().filter(|port| *port != 0),
            path: path?,
            strip_query: *strip_query,
        })
    }

    /// The redirect of `require_tls`: the same URL by https.
    pub(super) fn to_https() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: Some("https".to_owned()),
            host: None,
            port: None,
            path: RedirectPath::Keep,
            strip_query: false,
        }
    }

    /// The `location` header of the answer to `request`.
    pub fn location<B>(&self, request: &Request<B>) -> String {
        let forwarded_proto = request.headers().get(X_FORWARDED_PROTO).and_then(|proto| proto.to_str().ok());
        let own_scheme = request.uri().scheme_str().or(forwarded_proto).unwrap_or("http");
        let scheme = self.scheme.as_deref().unwrap_or(own_scheme);
        let host = match &self.host {
            Some(host) => host,
            None => self.own_host(authority(request).unwrap_or_default(), scheme, forwarded_proto),
        };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = self.path(request.uri().path_and_query().map_or("/", |path| path.as_str()));
        let slash = if path.starts_with('/') { "" } else { "/" };
        [scheme, "://", host, &port, slash, &path].concat()
    }

    /// The host of the request. Its port goes if another is asked for, or if it was the default one of the scheme that changes.
    fn own_host<'a>(&self, host: &'a str, scheme: &str, forwarded_proto: Option<&str>) -> &'a str {
        let Some((name, port)) = split_port(host) else { return host };
        let default = match forwarded_proto {
            Some("https") => port == "443",
            Some("http") => port == "80",
            _ => false,
        };
        let leaves = default && Some(scheme) != forwarded_proto;
        if self.port.is_some() || leaves { name } else { host }
    }

    fn path(&self, path_and_query: &str) -> String {
        let query = path_and_query.find('?').map_or("", |at| &path_and_query[at..]);
        let mut path = match &self.path {
            // A query of its own goes before the request's, and stays.
            RedirectPath::Replace(path) if path.contains('?') => return path.clone(),
            RedirectPath::Replace(path) => [path, query].concat(),
            RedirectPath::Rewrite(rewrite) => rewrite.apply(path_and_query),
            RedirectPath::Keep => path_and_query.to_owned(),
        };
        if self.strip_query {
            path.truncate(path.find('?').unwrap_or(path.len()));
        }
        path
    }
}

/// Host and port of an authority that has a port; knows IPv6 addresses in brackets.
pub(super) fn split_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    (!host.starts_with('[') || host.ends_with(']')).then_some((host, port))
}

/// A compiled `DirectResponseAction`.
#[derive(Debug)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// Empty if none is configured.
    pub body: Bytes,
}

impl DirectResponse {
    fn from_proto(
        proto: &proto::route::DirectResponseAction,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<DirectResponse> {
        let proto::route::DirectResponseAction { status, body, body_format } = proto;
        field.ignored("body_format", body_format, "the body is sent as it is");
        let status = u16::try_from(*status).ok().and_then(|code| StatusCode::from_u16(code).ok())?;
        let body = match body {
            Some(body) => data_source::read(body, field.key("body"))?,
            None => Vec::new(),
        };
        if body.len() > context.max_direct_response_body {
            field.key("body").error(format!(
                "has {} bytes, more than max_direct_response_body_size_bytes, {}",
                body.len(),
                context.max_direct_response_body
            ));
        }
        Some(DirectResponse { status, body: body.into() })
    }
}
