//! How a route changes the path and the host of the requests that it forwards or redirects.

use http::{HeaderName, HeaderValue, Request, uri::PathAndQuery};

use crate::{
    access_log::{Format, Scope, Style},
    config::Field,
    http::authority,
    matcher::{RegexRewrite, UriTemplate},
    proto,
    stream_info::StreamInfo,
};

/// What of a path a route has matched, and a rewrite therefore replaces.
#[derive(Clone, Copy, Debug)]
pub(super) enum Matched<'a> {
    /// So many bytes.
    Prefix(usize),
    /// All but the query.
    Path,
    /// The same, by a template whose variables a rewrite can use.
    Template(&'a UriTemplate),
}

/// One of the rewrites of paths that routes and redirects have.
#[derive(Debug)]
pub(super) enum PathRewrite {
    /// `prefix_rewrite`: so many bytes, or all but the query, give way.
    Prefix(Option<usize>, String),
    /// `regex_rewrite`
    Regex(RegexRewrite),
    /// `path_rewrite_policy`: the variables of the route's template, arranged anew.
    Template(UriTemplate, Vec<TemplatePiece>),
    /// `path_rewrite`
    Format(Format),
}

/// A part of a path that a template makes.
#[derive(Debug)]
pub(super) enum TemplatePiece {
    Literal(String),
    Variable(String),
}

impl PathRewrite {
    pub(super) fn prefix(replacement: &str, matched: Matched<'_>, field: Field<'_>) -> Option<PathRewrite> {
        if PathAndQuery::try_from(format!("/{replacement}")).is_err() {
            field.error("holds what a path cannot hold");
            return None;
        }
        let length = match matched {
            Matched::Prefix(length) => Some(length),
            Matched::Path | Matched::Template(_) => None,
        };
        Some(PathRewrite::Prefix(length, replacement.to_owned()))
    }

    pub(super) fn regex(proto: &proto::matcher::RegexMatchAndSubstitute, field: Field<'_>) -> Option<PathRewrite> {
        RegexRewrite::from_proto(proto, field).map(PathRewrite::Regex)
    }

    pub(super) fn format(text: &str, field: Field<'_>) -> Option<PathRewrite> {
        format(text, field).map(PathRewrite::Format)
    }

    /// `path_rewrite_policy`
    pub(super) fn policy(
        proto: &proto::core::TypedExtensionConfig,
        matched: Matched<'_>,
        field: Field<'_>,
    ) -> Option<PathRewrite> {
        let proto::core::TypedExtensionConfig { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let config = field.key("typed_config");
        let proto::uri_template_rewrite::UriTemplateRewriteConfig { path_template_rewrite } = config.unpack(any)?;
        let Matched::Template(template) = matched else {
            config.error("needs a match by path_match_policy with a URI template");
            return None;
        };
        match template_pieces(&path_template_rewrite, template) {
            Ok(pieces) => Some(PathRewrite::Template(template.clone(), pieces)),
            Err(reason) => {
                config.key("path_template_rewrite").error(reason);
                None
            }
        }
    }

    /// Whether it reads facts of the stream.
    pub(super) fn is_format(&self) -> bool {
        matches!(self, PathRewrite::Format(_))
    }

    /// The rewritten path, with the query that it had; `None` if a format made nothing of it.
    pub(super) fn apply(&self, path_and_query: &str, scope: &Scope<'_>) -> Option<String> {
        let end = path_and_query.find('?').unwrap_or(path_and_query.len());
        let (path, query) = path_and_query.split_at(end);
        let mut rewritten = match self {
            PathRewrite::Prefix(Some(length), replacement) => {
                [replacement, path.get(*length..).unwrap_or_default()].concat()
            }
            PathRewrite::Prefix(None, replacement) => replacement.clone(),
            PathRewrite::Regex(regex) => regex.rewrite(path).into_owned(),
            PathRewrite::Template(template, pieces) => arrange(template, pieces, path),
            PathRewrite::Format(format) => render(format, scope, Style::HeaderValue)?,
        };
        if !rewritten.starts_with('/') {
            rewritten.insert(0, '/');
        }
        Some(rewritten + query)
    }
}

/// The text and the variables of a `path_template_rewrite`, such as `/{b}/of/{a}`.
fn template_pieces(rewrite: &str, template: &UriTemplate) -> Result<Vec<TemplatePiece>, String> {
    if !rewrite.starts_with('/') {
        return Err("must start with a slash".to_owned());
    }
    let mut pieces = Vec::new();
    let mut rest = rewrite;
    while let Some((literal, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            return Err("has a brace that is not closed".to_owned());
        };
        if !template.variables().any(|known| known == name) {
            return Err(format!("there is no variable {name:?} in the template of the match"));
        }
        pieces.push(TemplatePiece::Literal(literal.to_owned()));
        pieces.push(TemplatePiece::Variable(name.to_owned()));
        rest = after;
    }
    if rest.contains('}') || rest.contains('*') {
        return Err("may hold text and variables only".to_owned());
    }
    pieces.push(TemplatePiece::Literal(rest.to_owned()));
    Ok(pieces)
}

fn arrange(template: &UriTemplate, pieces: &[TemplatePiece], path: &str) -> String {
    let Some(captures) = template.captures(path.as_bytes()) else { return path.to_owned() };
    let text = |piece: &TemplatePiece| match piece {
        TemplatePiece::Literal(text) => text.clone(),
        TemplatePiece::Variable(name) => {
            captures.name(name).map_or(String::new(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        }
    };
    pieces.iter().map(text).collect()
}

fn format(text: &str, field: Field<'_>) -> Option<Format> {
    match Format::parse(text) {
        Ok(format) => Some(format),
        Err(error) => {
            field.error(error.to_string());
            None
        }
    }
}

/// What a format makes; `None` if that is nothing, and so no rewrite.
fn render(format: &Format, scope: &Scope<'_>, style: Style) -> Option<String> {
    let mut bytes = Vec::new();
    format.render(scope, style, &mut bytes);
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
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
    /// `host_rewrite`
    Format(Format),
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
            HostRewriteSpecifier::HostRewrite(text) => format(text, field.key("host_rewrite")).map(HostRewrite::Format),
        }
    }

    /// The host for a request; None if it keeps its own, or if only the router can tell.
    pub(super) fn host<B>(&self, request: &Request<B>, info: &StreamInfo) -> Option<HeaderValue> {
        match self {
            HostRewrite::Format(format) => {
                let host = render(format, &Scope::of_request(info, request.headers()), Style::Body)?;
                HeaderValue::from_str(&host).ok()
            }
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
