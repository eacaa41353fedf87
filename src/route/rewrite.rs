//! How a route changes the path and the host of the requests that it forwards or redirects.

use http::{HeaderName, HeaderValue, Request, Uri, uri::PathAndQuery};

use crate::{config::Field, http::authority, matcher::RegexRewrite, proto};

/// What of a path a route has matched, and a prefix rewrite therefore replaces.
#[derive(Clone, Copy, Debug)]
pub(super) enum Matched {
    /// So many bytes.
    Prefix(usize),
    /// All but the query.
    Path,
}

/// `prefix_rewrite` or `regex_rewrite`.
#[derive(Debug)]
pub(super) enum PathRewrite {
    Prefix(Matched, String),
    Regex(RegexRewrite),
}

impl PathRewrite {
    pub(super) fn prefix(replacement: &str, matched: Matched, field: Field<'_>) -> Option<PathRewrite> {
        if PathAndQuery::try_from(format!("/{replacement}")).is_err() {
            field.error("holds what a path cannot hold");
            return None;
        }
        Some(PathRewrite::Prefix(matched, replacement.to_owned()))
    }

    pub(super) fn regex(proto: &proto::matcher::RegexMatchAndSubstitute, field: Field<'_>) -> Option<PathRewrite> {
        RegexRewrite::from_proto(proto, field).map(PathRewrite::Regex)
    }

    /// The rewritten path, with the query that it had.
    pub(super) fn apply(&self, path_and_query: &str) -> String {
        let end = path_and_query.find('?').unwrap_or(path_and_query.len());
        let (path, query) = path_and_query.split_at(end);
        let mut rewritten = match self {
            PathRewrite::Prefix(Matched::Prefix(length), replacement) => {
                [replacement, path.get(*length..).unwrap_or_default()].concat()
            }
            PathRewrite::Prefix(Matched::Path, replacement) => replacement.clone(),
            PathRewrite::Regex(regex) => regex.rewrite(path).into_owned(),
        };
        if !rewritten.starts_with('/') {
            rewritten.insert(0, '/');
        }
        rewritten + query
    }
}

/// `path_and_query` with the first `length` bytes, which end at a segment's end, replaced: never with two slashes where the
/// parts meet, and never with none.
pub(super) fn replace_segments(path_and_query: &str, length: usize, replacement: &str) -> String {
    let rest = path_and_query.get(length..).unwrap_or_default();
    match replacement.strip_suffix('/') {
        Some(stem) if rest.starts_with('/') => [stem, rest].concat(),
        _ => [replacement, rest].concat(),
    }
}

/// Puts another path and query in place of the request's; leaves it alone if the new one is no path.
pub(super) fn set_path<B>(request: &mut Request<B>, path_and_query: String) {
    let Ok(path_and_query) = PathAndQuery::from_maybe_shared(bytes::Bytes::from(path_and_query)) else { return };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(path_and_query);
    *request.uri_mut() = Uri::from_parts(parts).expect("invariant: it had a path before");
}

/// `host_rewrite_specifier`
#[derive(Debug)]
pub(super) enum HostRewrite {
    Literal(HeaderValue),
    /// The value of this request header, if it has one.
    Header(HeaderName),
    /// Made of the path.
    PathRegex(RegexRewrite),
    /// The name of the host that is chosen.
    Upstream,
}

impl HostRewrite {
    pub(super) fn from_proto(
        proto: &proto::route::route_action::HostRewriteSpecifier,
        field: Field<'_>,
    ) -> Option<HostRewrite> {
        use proto::route::route_action::HostRewriteSpecifier;

        match proto {
            HostRewriteSpecifier::HostRewriteLiteral(host) => {
                literal_host(host, field.key("host_rewrite_literal")).map(HostRewrite::Literal)
            }
            HostRewriteSpecifier::AutoHostRewrite(auto) => auto.value.then_some(HostRewrite::Upstream),
            HostRewriteSpecifier::HostRewriteHeader(name) => {
                let name = HeaderName::from_bytes(name.as_bytes()).ok();
                if name.is_none() {
                    field.key("host_rewrite_header").error("not a valid header name");
                }
                name.map(HostRewrite::Header)
            }
            HostRewriteSpecifier::HostRewritePathRegex(regex) => {
                RegexRewrite::from_proto(regex, field.key("host_rewrite_path_regex")).map(HostRewrite::PathRegex)
            }
            HostRewriteSpecifier::HostRewrite(format) => {
                field.unsupported("host_rewrite", format);
                None
            }
        }
    }

    /// The host for a request; None if it keeps its own, or if only the router can tell.
    pub(super) fn host<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        match self {
            HostRewrite::Literal(host) => Some(host.clone()),
            HostRewrite::Header(name) => request.headers().get(name).filter(|host| !host.is_empty()).cloned(),
            HostRewrite::PathRegex(regex) => HeaderValue::from_str(&regex.rewrite(request.uri().path())).ok(),
            HostRewrite::Upstream => None,
        }
    }
}

/// The value of a `host_rewrite_literal`.
pub(super) fn literal_host(host: &str, field: Field<'_>) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(host).ok();
    if value.is_none() {
        field.error("not a valid host");
    }
    value
}

/// The host before a rewrite, as a header value.
pub(super) fn current_host<B>(request: &Request<B>) -> Option<HeaderValue> {
    authority(request).and_then(|host| HeaderValue::from_str(host).ok())
}

/// Host and port of an authority that has a port; knows IPv6 addresses in brackets.
pub(super) fn split_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    (!host.starts_with('[') || host.ends_with(']')).then_some((host, port))
}
