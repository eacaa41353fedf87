//! `proxy_status_config`: the header `proxy-status` (RFC 9209), which tells a client by whom a request failed, and why.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::{
    config::field::Field,
    http::Response,
    proto::hcm::http_connection_manager::{ProxyStatusConfig, proxy_status_config::ProxyName},
    stream_info::{ResponseFlags, StreamInfo},
};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// A checked `ProxyStatusConfig`.
#[derive(Debug)]
pub(super) struct ProxyStatus {
    name: String,
    details: bool,
    flags: bool,
    recommends_status: bool,
}

/// A type of error (RFC 9209 section 2.3), and the status that goes with it.
type ProxyError = (&'static str, StatusCode);

const CONNECTION_LIMIT_REACHED: ProxyError = ("connection_limit_reached", StatusCode::SERVICE_UNAVAILABLE);
const CONNECTION_REFUSED: ProxyError = ("connection_refused", StatusCode::BAD_GATEWAY);
const CONNECTION_TERMINATED: ProxyError = ("connection_terminated", StatusCode::BAD_GATEWAY);
const CONNECTION_TIMEOUT: ProxyError = ("connection_timeout", StatusCode::GATEWAY_TIMEOUT);
const DESTINATION_NOT_FOUND: ProxyError = ("destination_not_found", StatusCode::INTERNAL_SERVER_ERROR);
const DESTINATION_UNAVAILABLE: ProxyError = ("destination_unavailable", StatusCode::SERVICE_UNAVAILABLE);
const HTTP_PROTOCOL_ERROR: ProxyError = ("http_protocol_error", StatusCode::BAD_GATEWAY);
const HTTP_REQUEST_ERROR: ProxyError = ("http_request_error", StatusCode::BAD_REQUEST);
const HTTP_RESPONSE_TIMEOUT: ProxyError = ("http_response_timeout", StatusCode::GATEWAY_TIMEOUT);

/// What response flags mean; the first that is set counts.
const ERRORS: &[(ResponseFlags, ProxyError)] = &[
    (ResponseFlags::FAILED_LOCAL_HEALTH_CHECK, DESTINATION_UNAVAILABLE),
    (ResponseFlags::NO_HEALTHY_UPSTREAM, DESTINATION_UNAVAILABLE),
    (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, HTTP_RESPONSE_TIMEOUT),
    (ResponseFlags::LOCAL_RESET, CONNECTION_TIMEOUT),
    (ResponseFlags::UPSTREAM_REMOTE_RESET, CONNECTION_TERMINATED),
    (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, CONNECTION_REFUSED),
    (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, CONNECTION_TERMINATED),
    (ResponseFlags::UPSTREAM_OVERFLOW, CONNECTION_LIMIT_REACHED),
    (ResponseFlags::NO_ROUTE_FOUND, DESTINATION_NOT_FOUND),
    (ResponseFlags::STREAM_IDLE_TIMEOUT, HTTP_RESPONSE_TIMEOUT),
    (ResponseFlags::INVALID_ENVOY_REQUEST_HEADERS, HTTP_REQUEST_ERROR),
    (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, HTTP_REQUEST_ERROR),
    (ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED, HTTP_RESPONSE_TIMEOUT),
    (ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED, DESTINATION_UNAVAILABLE),
    (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, HTTP_PROTOCOL_ERROR),
    (ResponseFlags::NO_CLUSTER_FOUND, DESTINATION_UNAVAILABLE),
    (ResponseFlags::OVERLOAD_MANAGER, CONNECTION_LIMIT_REACHED),
    (ResponseFlags::DURATION_TIMEOUT, CONNECTION_TIMEOUT),
];

impl ProxyStatus {
    /// Converts; the proxy is called by `server_name` unless it has a name of its own.
    pub(super) fn from_proto(
        config: Option<&ProxyStatusConfig>,
        (server_name, node): (&str, &str),
        field: Field<'_>,
    ) -> Option<ProxyStatus> {
        let ProxyStatusConfig {
            remove_details,
            remove_connection_termination_details,
            remove_response_flags,
            set_recommended_response_code,
            proxy_name,
        } = config?;
        field.ignored(
            "remove_connection_termination_details",
            remove_connection_termination_details,
            "there are no details of a connection's end",
        );
        let name = match proxy_name {
            Some(ProxyName::LiteralProxyName(name)) => name,
            Some(ProxyName::UseNodeId(true)) if !node.is_empty() => node,
            Some(ProxyName::UseNodeId(_)) | None => server_name,
        };
        Some(ProxyStatus {
            name: name.to_owned(),
            details: !remove_details,
            flags: !remove_response_flags,
            recommends_status: *set_recommended_response_code,
        })
    }

    /// Adds the header to the answer to a request that failed.
    pub(super) fn append(&self, response: &mut Response, info: &StreamInfo) {
        let error = ERRORS.iter().find(|(flag, _)| info.flags.contains(*flag));
        let Some((_, (error, status))) = error else { return };
        let mut value = format!("{}; error={error}", self.name);
        if self.details && !info.response_code_details.is_empty() {
            let flags: Vec<_> = info.flags.names().map(|(short, _)| short).collect();
            value += &format!("; details=\"{}", info.response_code_details);
            if self.flags {
                value += &format!("; {}", flags.join(","));
            }
            value.push('"');
        }
        let headers = response.headers_mut();
        if let Some(before) = headers.get(&PROXY_STATUS).and_then(|before| before.to_str().ok()) {
            value = format!("{before}, {value}");
        }
        // A name or details that no header can hold are left out.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(PROXY_STATUS, value);
        }
        if self.recommends_status {
            *response.status_mut() = *status;
        }
    }
}
