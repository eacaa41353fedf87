//! Replies of our own: the table of every failure that a client can see.
//!
//! A failure on the data path is a value of this type, never an error that is thrown: status, response flag and
//! `response_code_details` are Envoy's, the bodies too, because operators search for them.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{Refused, Response, body::Body, grpc};
use crate::stream_info::{ResponseFlags, grpc_status_of_http};

/// What we answer ourselves, and why.
#[derive(Debug, Clone)]
pub struct LocalReply {
    /// Status for an HTTP client; a gRPC client is told the status that `grpc_status_of_http` gives for it.
    pub status: StatusCode,
    /// What the access log shows.
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// Text for the client.
    pub body: Bytes,
    /// Headers besides the content's.
    pub headers: HeaderMap,
    /// The status for a gRPC client, where it is not the one that `status` stands for.
    pub grpc_status: Option<u32>,
    /// Whether the downstream connection ends with this reply.
    pub close: bool,
    /// Whether the request was not processed, and may be sent again on another connection: see [`Refused`].
    pub refused: bool,
}

impl LocalReply {
    /// A reply without flags, body and headers of its own.
    pub fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> LocalReply {
        LocalReply {
            status,
            flags: ResponseFlags::NONE,
            details: details.into(),
            body: Bytes::new(),
            headers: HeaderMap::new(),
            grpc_status: None,
            close: false,
            refused: false,
        }
    }

    fn because(mut self, flags: ResponseFlags, body: impl Into<Bytes>) -> LocalReply {
        self.flags = flags;
        self.body = body.into();
        self
    }

    /// No virtual host or route matches.
    pub fn route_not_found() -> LocalReply {
        LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").because(ResponseFlags::NO_ROUTE_FOUND, "")
    }

    /// The route names a cluster that does not exist.
    pub fn cluster_not_found(status: StatusCode) -> LocalReply {
        LocalReply::new(status, "cluster_not_found").because(ResponseFlags::NO_CLUSTER_FOUND, "")
    }

    /// A route's fixed answer.
    pub fn direct_response(status: StatusCode, body: Bytes) -> LocalReply {
        LocalReply { body, ..LocalReply::new(status, "direct_response") }
    }

    /// The cluster has no host that may be used.
    pub fn no_healthy_upstream() -> LocalReply {
        LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream")
            .because(ResponseFlags::NO_HEALTHY_UPSTREAM, "no healthy upstream")
    }

    /// No attempt brought response headers. `details` is Envoy's word for the last failure, such as
    /// `upstream_reset_before_response_started{connection_failure}`; `reason` the same for people.
    pub fn upstream_failure(flags: ResponseFlags, details: String, reason: &str) -> LocalReply {
        let body = format!("upstream connect error or disconnect/reset before headers. {reason}");
        LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details).because(flags, body)
    }

    /// A timeout of the route or of the last attempt ran out before the response had begun. `status` is 504, or 204 if the client
    /// wants to be told so.
    pub fn upstream_timeout(status: StatusCode, details: &'static str) -> LocalReply {
        let body = if status == StatusCode::NO_CONTENT { "" } else { "upstream request timeout" };
        LocalReply::new(status, details).because(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, body)
    }

    /// The last attempt had lived long enough before the response had begun.
    pub fn upstream_max_duration(request_complete: bool) -> LocalReply {
        let status = if request_complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        LocalReply::new(status, "upstream_max_stream_duration_reached")
            .because(ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED, "upstream max stream duration reached")
    }

    /// `max_stream_duration` ran out before the response had begun: the host's fault once the request is complete.
    pub fn max_duration_timeout(request_complete: bool) -> LocalReply {
        let status = if request_complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        let reply =
            LocalReply::new(status, "max_duration_timeout").because(ResponseFlags::NONE, "downstream duration timeout");
        LocalReply { grpc_status: Some(grpc::DEADLINE_EXCEEDED), ..reply }
    }

    /// Nothing moved for the stream idle timeout, and the response had not begun: the host's fault once the request is complete.
    pub fn stream_idle_timeout(request_complete: bool) -> LocalReply {
        let status = if request_complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        LocalReply::new(status, "stream_idle_timeout").because(ResponseFlags::STREAM_IDLE_TIMEOUT, "stream timeout")
    }

    /// The request did not arrive within `request_timeout`.
    pub fn request_timeout() -> LocalReply {
        LocalReply::new(StatusCode::REQUEST_TIMEOUT, "request_overall_timeout")
            .because(ResponseFlags::NONE, "request timeout")
    }

    /// Neither `:authority` nor `Host`.
    pub fn missing_host() -> LocalReply {
        LocalReply { close: true, ..LocalReply::new(StatusCode::BAD_REQUEST, "missing_host_header") }
    }

    /// An authority that cannot be host and port, or more than one.
    pub fn invalid_host() -> LocalReply {
        let reply = LocalReply::new(StatusCode::BAD_REQUEST, "http.invalid_authority")
            .because(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "Bad Request");
        LocalReply { close: true, ..reply }
    }

    /// A request target without a path, such as an authority alone.
    pub fn invalid_url() -> LocalReply {
        let reply = LocalReply::new(StatusCode::BAD_REQUEST, "http1.invalid_url")
            .because(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "Bad Request");
        LocalReply { close: true, ..reply }
    }

    /// A path that does not begin with "/".
    pub fn absolute_path_rejected() -> LocalReply {
        LocalReply::new(StatusCode::NOT_FOUND, "absolute_path_rejected")
    }

    /// A path that cannot be normalized.
    pub fn path_normalization_failed() -> LocalReply {
        LocalReply::new(StatusCode::BAD_REQUEST, "path_normalization_failed")
    }

    /// A header's name has an underscore, which the listener does not accept; `codec` is "http1" or "http2".
    pub fn unexpected_underscore(codec: &str) -> LocalReply {
        let reply = LocalReply::new(StatusCode::BAD_REQUEST, format!("{codec}.unexpected_underscore"))
            .because(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "Bad Request");
        LocalReply { close: true, ..reply }
    }

    /// The request does not show the client's address, as `original_ip_detection_extensions` ask for.
    pub fn ip_detection_failed(status: StatusCode) -> LocalReply {
        LocalReply::new(status, "rejecting because detection failed")
    }

    /// The request asks for an upgrade that neither the connection manager nor the route allows.
    pub fn upgrade_failed() -> LocalReply {
        LocalReply::new(StatusCode::FORBIDDEN, "upgrade_failed")
    }

    /// Another process has taken over what the request is about: the client is to connect anew and to ask again.
    pub fn handed_over() -> LocalReply {
        let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "handed_over")
            .because(ResponseFlags::LOCAL_RESET, "another process serves this now: connect anew");
        LocalReply { close: true, refused: true, ..reply }
    }

    /// As a response to this request: for a gRPC client a trailers-only one with status 200.
    pub fn into_response(self, is_grpc: bool) -> Response {
        let mut response = Response::new(Body::empty());
        if self.refused {
            response.extensions_mut().insert(Refused);
        }
        let headers = response.headers_mut();
        *headers = self.headers;
        if is_grpc {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(
                "grpc-status",
                HeaderValue::from(self.grpc_status.unwrap_or(grpc_status_of_http(self.status.as_u16()))),
            );
            if !self.body.is_empty() {
                let message = self.body.strip_suffix(b"\n").unwrap_or(&self.body);
                headers.insert("grpc-message", grpc::message(message));
            }
            headers.remove(header::CONTENT_LENGTH);
            return response;
        }
        if self.body.is_empty() {
            headers.remove(header::CONTENT_TYPE);
        } else {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
        }
        *response.status_mut() = self.status;
        *response.body_mut() = Body::full(self.body);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_clients_get_a_trailers_only_response() {
        let response = LocalReply::no_healthy_upstream().into_response(true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
        let response = LocalReply::route_not_found().into_response(true);
        assert_eq!(response.headers()["grpc-status"], "12");
        assert!(!response.headers().contains_key("grpc-message"));
    }

    #[test]
    fn http_clients_get_status_and_text() {
        let response = LocalReply::no_healthy_upstream().into_response(false);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["content-length"], "19");
        assert_eq!(response.headers()["content-type"], "text/plain");
    }
}
