//! Why a message of HTTP/1 is refused: status and details are Envoy's, whose users search for them.

use http::StatusCode;

use crate::{http::local_reply::LocalReply, stream_info::ResponseFlags};

/// What is wrong with a request, or with the rest of one. Its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no HTTP/1.1.
    #[error("malformed message")]
    Malformed,
    /// Control characters where none may be.
    #[error("control characters in the head")]
    InvalidCharacters,
    /// The request line and the headers, or the trailers, exceed `max_request_headers_kb`.
    #[error("the headers are too large")]
    HeadersTooLarge,
    /// More fields than `max_headers_count`.
    #[error("there are too many headers")]
    TooManyHeaders,
    /// A version that the listener does not accept.
    #[error("the version is not accepted")]
    LowVersion,
    /// A `transfer-encoding` other than `chunked`: where the body ends is not known.
    #[error("the transfer coding is not known")]
    InvalidTransferEncoding,
    /// Both framings at once, of which two servers could take different ones.
    #[error("content-length and transfer-encoding in one message")]
    TwoLengths,
    /// A body where none may be.
    #[error("a body where none is allowed")]
    BodyDisallowed,
    /// The request target is none.
    #[error("the request target is invalid")]
    InvalidUrl,
    /// The request target is an absolute URL that is not HTTP's.
    #[error("the scheme of the request target is not HTTP's")]
    InvalidScheme,
    /// The request target is an absolute URL, which the listener does not accept.
    #[error("the request target is not a path")]
    AbsoluteUrl,
    /// The request target has a fragment.
    #[error("the request target has a fragment")]
    Fragment,
    /// A `Host` that cannot be host and port, or two of them.
    #[error("the host is invalid")]
    InvalidAuthority,
    /// The head did not arrive within `request_headers_timeout`.
    #[error("the headers did not arrive in time")]
    HeaderTimeout,
}

impl Refusal {
    /// What the client is told, and the access log.
    pub fn into_reply(self) -> LocalReply {
        let (status, details) = match self {
            Refusal::Malformed => (StatusCode::BAD_REQUEST, "http1.codec_error"),
            Refusal::InvalidCharacters => (StatusCode::BAD_REQUEST, "http1.invalid_characters"),
            Refusal::HeadersTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.headers_too_large"),
            Refusal::TooManyHeaders => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.too_many_headers"),
            Refusal::LowVersion => (StatusCode::UPGRADE_REQUIRED, "low_version"),
            Refusal::InvalidTransferEncoding => (StatusCode::NOT_IMPLEMENTED, "http1.invalid_transfer_encoding"),
            Refusal::TwoLengths => (StatusCode::BAD_REQUEST, "http1.content_length_and_chunked_not_allowed"),
            Refusal::BodyDisallowed => (StatusCode::BAD_REQUEST, "http1.body_disallowed"),
            Refusal::InvalidUrl => (StatusCode::BAD_REQUEST, "http1.invalid_url"),
            Refusal::InvalidScheme => (StatusCode::BAD_REQUEST, "http1.invalid_scheme"),
            Refusal::AbsoluteUrl => (StatusCode::NOT_FOUND, "absolute_path_rejected"),
            Refusal::Fragment => (StatusCode::BAD_REQUEST, "path_normalization_failed"),
            Refusal::InvalidAuthority => (StatusCode::BAD_REQUEST, "http.invalid_authority"),
            Refusal::HeaderTimeout => (StatusCode::REQUEST_TIMEOUT, "request_header_timeout"),
        };
        let mut reply = LocalReply::new(status, details);
        reply.close = true;
        match self {
            Refusal::AbsoluteUrl | Refusal::Fragment => {}
            Refusal::HeaderTimeout => reply.body = "request header timeout".into(),
            _ => {
                reply.flags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
                reply.body = status.canonical_reason().unwrap_or_default().into();
            }
        }
        reply
    }

    /// Whether the client broke the protocol, and was not merely slow.
    pub fn is_protocol_error(self) -> bool {
        !matches!(self, Refusal::HeaderTimeout | Refusal::AbsoluteUrl | Refusal::Fragment)
    }
}
