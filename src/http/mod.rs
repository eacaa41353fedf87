//! HTTP vocabulary: messages, bodies, codecs, replies of our own. No policy.
//!
//! Inside the proxy a message is `http::Request<Body>` or `http::Response<Body>`, whatever protocol it came in or goes out by.
//! The authority of a request stands where its client put it: in the URI (HTTP/2, absolute form) or in `Host`; [`authority`] and
//! [`set_authority`] know both, and the upstream codecs write it as their protocol demands.
//!
//! HTTP/1 downstream is our own (`http1/`), hyper speaks it upstream; the h2 crate speaks HTTP/2 on both sides (`http2/`).

pub mod body;
pub mod cookies;
pub mod cork;
pub mod date;
pub mod grpc;
pub mod header_mutations;
pub mod headers;
pub mod http1;
pub mod http2;
pub mod local_reply;
pub mod path;
pub mod query;
mod quiet;
pub mod upgrade;

use http::{
    HeaderValue, Uri,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};

use body::Body;

/// A request on its way from the downstream codec to an upstream one.
pub type Request = http::Request<Body>;
/// A response on its way back.
pub type Response = http::Response<Body>;

/// Stands in the extensions of a response that says "not processed, ask again elsewhere": clients may then send any request
/// again, whatever it does. An HTTP/2 stream is reset by `REFUSED_STREAM` (RFC 9113 section 8.7) instead of answered, and gRPC
/// clients go on without a word; an HTTP/1 client gets the response, which is a 503.
#[derive(Clone, Copy, Debug)]
pub struct Refused;

impl Refused {
    /// Whether this response says so.
    pub fn is_in<B>(response: &http::Response<B>) -> bool {
        response.extensions().get::<Refused>().is_some()
    }
}

/// The same request without its body.
pub fn copy_head(request: &Request) -> Request {
    let mut copy = Request::new(Body::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    *copy.version_mut() = request.version();
    copy
}

/// Stands in the extensions of a request whose scheme is to be that of the connection it goes by (`match_upstream`).
#[derive(Clone, Copy, Debug)]
pub struct SchemeOfUpstream;

/// Host and port that the request is for, from its URI or else from `Host`; `None` when it has neither, or no text.
pub fn authority<B>(request: &http::Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(HOST)?.to_str().ok(),
    }
}

/// Whether it can be host and port (RFC 3986 section 3.2): what can end or split one is refused, userinfo too.
pub fn is_authority(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\' | b'"' | b'<' | b'>'))
}

/// Puts another authority in place of the request's.
pub fn set_authority<B>(request: &mut http::Request<B>, authority: HeaderValue) {
    if request.uri().authority().is_some() {
        *request.uri_mut() = path_only(request.uri());
    }
    request.headers_mut().insert(HOST, authority);
}

/// The request in the form that HTTP/1.1 sends to an origin server (RFC 9112 section 3.2.1): path in the URI, authority in `Host`.
pub fn to_origin_form<B>(request: &mut http::Request<B>) {
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        set_authority(request, host);
    }
}

/// A CONNECT request in the form of HTTP/1.1 (RFC 9112 section 3.2.3): the authority is the target, and stands in `Host` as well.
pub fn to_authority_form<B>(request: &mut http::Request<B>) {
    let Some(authority) = authority(request).map(str::to_owned) else { return };
    if let Ok(host) = HeaderValue::from_str(&authority) {
        request.headers_mut().insert(HOST, host);
    }
    let mut parts = http::uri::Parts::default();
    parts.authority = Authority::try_from(authority).ok();
    if parts.authority.is_some()
        && let Ok(uri) = Uri::from_parts(parts)
    {
        *request.uri_mut() = uri;
    }
}

/// The request in the form that HTTP/2 needs (RFC 9113 section 8.3.1): scheme and authority in the URI, no `Host`.
///
/// A `Host` that is no authority stays, and the request goes without one.
pub fn to_absolute_form<B>(request: &mut http::Request<B>, scheme: Scheme) {
    let mut parts = request.uri().clone().into_parts();
    if parts.authority.is_none() {
        let host = request.headers().get(HOST);
        parts.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    }
    if parts.authority.is_some() {
        request.headers_mut().remove(HOST);
    }
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    parts.scheme = parts.authority.is_some().then_some(scheme);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Puts another path and query in place of the request's; leaves it alone if the new one is no path.
#[allow(clippy::missing_panics_doc, reason = "a target that had a path keeps one")]
pub fn set_path<B>(request: &mut http::Request<B>, path_and_query: String) {
    let Ok(path_and_query) = PathAndQuery::from_maybe_shared(bytes::Bytes::from(path_and_query)) else { return };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(path_and_query);
    *request.uri_mut() = Uri::from_parts(parts).expect("invariant: it had a path before");
}

fn path_only(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from)
}
