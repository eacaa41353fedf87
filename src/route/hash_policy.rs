//! What of a request keeps it with what earlier requests were given (`RouteAction.hash_policy`): a number made of headers, cookies,
//! the client's address or query parameters, the same in every proxy.

use std::fmt::Write;

use http::{HeaderName, Request};

use crate::{
    config::Field,
    http::{cookies, query},
    matcher::{RegexRewrite, xxh64},
    proto::{self, route::route_action::hash_policy::PolicySpecifier},
    stream_info::StreamInfo,
};

const NO_STATE: &str = "no filter here keeps state, so this finds nothing";

/// A compiled list of `HashPolicy`.
#[derive(Debug, Default)]
pub(super) struct HashPolicies(Vec<HashPolicy>);

#[derive(Debug)]
struct HashPolicy {
    source: Source,
    /// Whether the rest of the list counts only where this finds nothing.
    terminal: bool,
}

#[derive(Debug)]
enum Source {
    Header(HeaderName, Option<RegexRewrite>),
    Cookie(String),
    ClientAddress,
    QueryParameter(String),
}

impl HashPolicies {
    pub(super) fn from_proto(protos: &[proto::route::route_action::HashPolicy], field: Field<'_>) -> HashPolicies {
        let policies = protos.iter().enumerate();
        HashPolicies(policies.filter_map(|(i, proto)| HashPolicy::from_proto(proto, field.index(i))).collect())
    }

    /// The hash of a request; None if it has nothing of what is asked for.
    pub(super) fn hash<B>(&self, request: &Request<B>, info: &StreamInfo) -> Option<u64> {
        let mut hash = None;
        for policy in &self.0 {
            if let Some(found) = policy.source.hash(request, info) {
                // Two policies that find the same must not cancel each other out.
                hash = Some(hash.map_or(0, |earlier: u64| earlier.rotate_left(1)) ^ found);
            }
            if policy.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }
}

impl HashPolicy {
    fn from_proto(proto: &proto::route::route_action::HashPolicy, field: Field<'_>) -> Option<HashPolicy> {
        use proto::route::route_action::hash_policy;

        let proto::route::route_action::HashPolicy { terminal, policy_specifier } = proto;
        let source = match policy_specifier.as_ref()? {
            PolicySpecifier::Header(hash_policy::Header { header_name, regex_rewrite }) => {
                let field = field.key("header");
                let rewrite = match regex_rewrite {
                    Some(rewrite) => Some(RegexRewrite::from_proto(rewrite, field.key("regex_rewrite"))?),
                    None => None,
                };
                let name = HeaderName::from_bytes(header_name.as_bytes()).ok();
                if name.is_none() {
                    field.key("header_name").error("not a valid header name");
                }
                Source::Header(name?, rewrite)
            }
            PolicySpecifier::Cookie(hash_policy::Cookie { name, ttl, path, attributes }) => {
                let field = field.key("cookie");
                let why = "cookies are made for load balancers that use the hash, of which there is none yet";
                field.ignored("ttl", ttl, why);
                field.ignored("path", path, why);
                field.ignored("attributes", attributes, why);
                Source::Cookie(name.clone())
            }
            PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip }) => {
                source_ip.then_some(Source::ClientAddress)?
            }
            PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name }) => {
                Source::QueryParameter(name.clone())
            }
            PolicySpecifier::FilterState(state) => {
                field.ignored("filter_state", &Some(state), NO_STATE);
                return None;
            }
        };
        Some(HashPolicy { source, terminal: *terminal })
    }
}

impl Source {
    fn hash<B>(&self, request: &Request<B>, info: &StreamInfo) -> Option<u64> {
        match self {
            Source::Header(name, rewrite) => header_hash(request, name, rewrite.as_ref()),
            Source::Cookie(name) => {
                cookies::value(request.headers(), name).filter(|value| !value.is_empty()).map(|value| xxh64(value, 0))
            }
            Source::ClientAddress => {
                let mut text = String::new();
                // Writing to a string cannot fail.
                let _ = write!(text, "{}", info.client_ip()?);
                Some(xxh64(text.as_bytes(), 0))
            }
            Source::QueryParameter(name) => {
                query::value(request.uri().query(), name).map(|value| xxh64(value.as_bytes(), 0))
            }
        }
    }
}

/// Several lines are one value, whatever their order: the hash of each is the seed of the next.
fn header_hash<B>(request: &Request<B>, name: &HeaderName, rewrite: Option<&RegexRewrite>) -> Option<u64> {
    let mut lines = request.headers().get_all(name).iter().peekable();
    let first = lines.next()?;
    if lines.peek().is_none() && rewrite.is_none() {
        return Some(xxh64(first.as_bytes(), 0));
    }
    let rewritten = |line: &http::HeaderValue| match (rewrite, line.to_str()) {
        (Some(rewrite), Ok(text)) => rewrite.rewrite(text).into_owned().into_bytes(),
        _ => line.as_bytes().to_vec(),
    };
    let mut values: Vec<_> = [first].into_iter().chain(lines).map(rewritten).collect();
    values.sort_unstable();
    Some(values.iter().fold(0, |seed, value| xxh64(value, seed)))
}
