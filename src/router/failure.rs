//! What a client, the access log and the statistics are told when no attempt brought a response.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::{
    http::local_reply::LocalReply,
    stream_info::{ResponseFlags, StreamInfo},
    upstream::{FailureKind, UpstreamFailure},
};

/// Marks the reply to a request that was not sent because of a circuit breaker.
pub(super) const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// Whether the host closed the connection, or refused the stream, just as the request was sent: nothing is wrong, and another try is
/// due without any retry policy. A host that cannot be reached is another matter.
pub(super) fn is_race(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::GoAway | FailureKind::Disconnect | FailureKind::RefusedStream)
}

/// The reply for a failed attempt, in Envoy's words. `retried`: it was not the first one by the retry policy.
pub(super) fn reply(failure: UpstreamFailure, retried: bool, info: &mut StreamInfo) -> LocalReply {
    let (flags, reason) = match failure.kind {
        FailureKind::Connect | FailureKind::Tls => {
            (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "remote connection failure")
        }
        FailureKind::Bind => (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "local connection failure"),
        FailureKind::ConnectTimeout => (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "connection timeout"),
        FailureKind::Reset(_) | FailureKind::GoAway => (ResponseFlags::UPSTREAM_REMOTE_RESET, "remote reset"),
        FailureKind::RefusedStream => (ResponseFlags::UPSTREAM_REMOTE_RESET, "remote refused stream reset"),
        FailureKind::Disconnect => (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, "connection termination"),
        FailureKind::Overflow => (ResponseFlags::UPSTREAM_OVERFLOW, "overflow"),
        FailureKind::Protocol => (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "protocol error"),
        FailureKind::RequestBody => (ResponseFlags::DOWNSTREAM_REMOTE_RESET, "local reset"),
    };
    let mut details = reason.replace(' ', "_");
    let reason = if retried {
        format!("retried and the latest reset reason: {reason}")
    } else {
        format!("reset reason: {reason}")
    };
    if matches!(failure.kind, FailureKind::Connect | FailureKind::Bind | FailureKind::Tls) && !failure.cause.is_empty()
    {
        details = format!("{details}|{}", failure.cause.replace(char::is_whitespace, "_"));
        info.upstream_transport_failure_reason = Some(failure.cause);
    }
    let details = format!("upstream_reset_before_response_started{{{details}}}");
    let mut reply = LocalReply::upstream_failure(flags, details, &reason);
    match failure.kind {
        FailureKind::Protocol => reply.status = StatusCode::BAD_GATEWAY,
        FailureKind::Overflow => {
            reply.headers.insert(OVERLOADED, HeaderValue::from_static("true"));
        }
        _ => {}
    }
    reply
}
