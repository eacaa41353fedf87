//! Which paths a route accepts (`RouteMatch.path_specifier`).

use http::Method;
use prost::Name;

use super::{rewrite::Matched, route_match::Subject};
use crate::{
    config::Field,
    matcher::{Regex, UriTemplate},
    proto::{self, route::route_match::PathSpecifier, uri_template_match::UriTemplateMatchConfig},
};

#[derive(Debug)]
pub(super) enum PathMatch {
    Prefix(Literal),
    Path(Literal),
    SeparatedPrefix(Literal),
    Regex(Regex),
    Template(UriTemplate),
    Connect,
}

/// Text that the path must start with or be.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    pub(super) text: String,
    pub(super) ignore_case: bool,
}

impl PathMatch {
    pub(super) fn from_proto(proto: &PathSpecifier, ignore_case: bool, field: Field<'_>) -> Option<PathMatch> {
        let literal = |text: &str| Literal { text: text.to_owned(), ignore_case };
        match proto {
            PathSpecifier::Prefix(prefix) => Some(PathMatch::Prefix(literal(prefix))),
            PathSpecifier::Path(path) => Some(PathMatch::Path(literal(path))),
            PathSpecifier::SafeRegex(regex) => Regex::from_proto(regex, field.key("safe_regex")).map(PathMatch::Regex),
            PathSpecifier::ConnectMatcher(proto::route::route_match::ConnectMatcher {}) => Some(PathMatch::Connect),
            PathSpecifier::PathSeparatedPrefix(prefix) => Some(PathMatch::SeparatedPrefix(literal(prefix))),
            PathSpecifier::PathMatchPolicy(policy) => {
                template(policy, field.key("path_match_policy")).map(PathMatch::Template)
            }
        }
    }

    /// Accepts every path.
    pub(super) fn any() -> PathMatch {
        PathMatch::Prefix(Literal { text: String::new(), ignore_case: false })
    }

    /// The text that every path that it accepts starts with, if there is one.
    pub(super) fn literal(&self) -> Option<&Literal> {
        match self {
            PathMatch::Prefix(literal) | PathMatch::Path(literal) | PathMatch::SeparatedPrefix(literal) => {
                Some(literal)
            }
            PathMatch::Regex(_) | PathMatch::Template(_) | PathMatch::Connect => None,
        }
    }

    /// What of the path a prefix rewrite replaces.
    pub(super) fn matched(&self) -> Matched<'_> {
        match self {
            PathMatch::Prefix(literal) | PathMatch::SeparatedPrefix(literal) => Matched::Prefix(literal.text.len()),
            PathMatch::Template(template) => Matched::Template(template),
            PathMatch::Path(_) | PathMatch::Regex(_) | PathMatch::Connect => Matched::Path,
        }
    }

    pub(super) fn matches<B>(&self, subject: &Subject<'_, B>) -> bool {
        let path = subject.path.as_bytes();
        match self {
            PathMatch::Connect => subject.request.method() == Method::CONNECT,
            // Only a CONNECT request can be without a path, and only `connect_matcher` takes it then.
            _ if path.is_empty() => false,
            PathMatch::Prefix(literal) => literal.starts(path),
            PathMatch::Path(literal) => path.len() == literal.text.len() && literal.starts(path),
            PathMatch::SeparatedPrefix(literal) => {
                literal.starts(path) && path.get(literal.text.len()).is_none_or(|next| *next == b'/')
            }
            PathMatch::Regex(regex) => regex.matches(path),
            // Also what follows a semicolon, whatever the configuration says of path parameters.
            PathMatch::Template(template) => template.matches(subject.request.uri().path().as_bytes()),
        }
    }

    /// Whether this accepts all paths that `other` accepts, as far as the configuration alone can tell.
    pub(super) fn covers(&self, other: &PathMatch) -> bool {
        match (self, other) {
            (PathMatch::Connect, PathMatch::Connect) => true,
            (PathMatch::Connect, _) | (_, PathMatch::Connect) => false,
            (PathMatch::Prefix(prefix), _) if ["", "/"].contains(&prefix.text.as_str()) => true,
            (PathMatch::Prefix(prefix), other) => other.literal().is_some_and(|text| prefix.covers_start_of(text)),
            (PathMatch::SeparatedPrefix(prefix), PathMatch::Path(text) | PathMatch::SeparatedPrefix(text)) => {
                prefix.covers_start_of(text)
                    && text.text.as_bytes().get(prefix.text.len()).is_none_or(|next| *next == b'/')
            }
            (PathMatch::SeparatedPrefix(prefix), PathMatch::Prefix(text)) => {
                prefix.covers_start_of(text) && text.text.as_bytes().get(prefix.text.len()) == Some(&b'/')
            }
            (PathMatch::Path(path), PathMatch::Path(text)) => {
                path.text.len() == text.text.len() && path.covers_start_of(text)
            }
            (PathMatch::Regex(regex), PathMatch::Path(text)) => {
                !text.ignore_case && regex.matches(text.text.as_bytes())
            }
            (PathMatch::Regex(regex), PathMatch::Regex(other)) => regex.as_str() == other.as_str(),
            (PathMatch::Template(template), PathMatch::Path(text)) => {
                !text.ignore_case && template.matches(text.text.as_bytes())
            }
            _ => false,
        }
    }
}

impl Literal {
    fn starts(&self, path: &[u8]) -> bool {
        let text = self.text.as_bytes();
        path.get(..text.len())
            .is_some_and(|start| if self.ignore_case { start.eq_ignore_ascii_case(text) } else { start == text })
    }

    /// Whether whatever starts as `other` says starts as this says, too.
    fn covers_start_of(&self, other: &Literal) -> bool {
        (self.ignore_case || !other.ignore_case) && self.starts(other.text.as_bytes())
    }
}

/// The only extension for paths that there is.
fn template(proto: &proto::core::TypedExtensionConfig, field: Field<'_>) -> Option<UriTemplate> {
    let proto::core::TypedExtensionConfig { name: _name, typed_config } = proto;
    let any = field.required("typed_config", typed_config)?;
    let field = field.key("typed_config");
    let found = any.type_url.rsplit('/').next().unwrap_or_default();
    if found != UriTemplateMatchConfig::full_name() {
        field.error(format!("{found}: only {} matches paths", UriTemplateMatchConfig::full_name()));
        return None;
    }
    let UriTemplateMatchConfig { path_template } = field.unpack(any)?;
    match UriTemplate::parse(&path_template) {
        Ok(template) => Some(template),
        Err(reason) => {
            field.key("path_template").error(reason);
            None
        }
    }
}
