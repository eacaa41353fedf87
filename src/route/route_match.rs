//! Which requests a route accepts (`RouteMatch`).

use http::{Method, Request};

use super::rewrite::Matched;
use crate::{
    config::Field,
    http::grpc,
    matcher::{HeaderMatcher, Regex, StringMatcher},
    proto,
};

/// A compiled `RouteMatch`: everything it names must be so.
#[derive(Debug)]
pub(super) struct RouteMatch {
    path: PathMatch,
    headers: Vec<HeaderMatcher>,
    query_parameters: Vec<QueryParameterMatcher>,
    grpc: bool,
    fraction: Option<Fraction>,
}

/// A request as matchers see it.
pub(super) struct Subject<'a, B> {
    pub(super) request: &'a Request<B>,
    /// The path without query; empty for a CONNECT request that has none.
    pub(super) path: &'a str,
    /// Decides fractions.
    pub(super) random: u64,
}

#[derive(Debug)]
enum PathMatch {
    Prefix(Literal),
    Path(Literal),
    SeparatedPrefix(Literal),
    Regex(Regex),
    Connect,
}

/// Text that the path must start with or be.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    pub(super) text: String,
    pub(super) ignore_case: bool,
}

impl RouteMatch {
    pub(super) fn from_proto(proto: &proto::route::RouteMatch, field: Field<'_>) -> Option<RouteMatch> {
        let proto::route::RouteMatch {
            path_specifier,
            case_sensitive,
            runtime_fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
        } = proto;
        field.unsupported("cookies", cookies);
        field.unsupported("tls_context", tls_context);
        field.unsupported("dynamic_metadata", dynamic_metadata);
        field.unsupported("filter_state", filter_state);
        let ignore_case = case_sensitive.as_ref().is_some_and(|sensitive| !sensitive.value);
        let path = path_specifier.as_ref().and_then(|path| PathMatch::from_proto(path, ignore_case, field));
        let header_list = field.key("headers");
        let query_list = field.key("query_parameters");
        Some(RouteMatch {
            headers: headers
                .iter()
                .enumerate()
                .filter_map(|(i, header)| HeaderMatcher::from_proto(header, header_list.index(i)))
                .collect(),
            query_parameters: query_parameters
                .iter()
                .enumerate()
                .filter_map(|(i, parameter)| QueryParameterMatcher::from_proto(parameter, query_list.index(i)))
                .collect(),
            grpc: grpc.is_some(),
            fraction: runtime_fraction
                .as_ref()
                .map(|fraction| Fraction::from_proto(fraction, field.key("runtime_fraction"))),
            path: path?,
        })
    }

    /// Accepts everything.
    pub(super) fn any() -> RouteMatch {
        RouteMatch {
            path: PathMatch::Prefix(Literal { text: String::new(), ignore_case: false }),
            headers: Vec::new(),
            query_parameters: Vec::new(),
            grpc: false,
            fraction: None,
        }
    }

    pub(super) fn matches<B>(&self, subject: &Subject<'_, B>) -> bool {
        self.path.matches(subject)
            && self.fraction.as_ref().is_none_or(|fraction| fraction.holds(subject.random))
            && self.headers.iter().all(|header| header.matches(subject.request))
            && self.query_parameters.iter().all(|parameter| parameter.matches(subject.request.uri().query()))
            && (!self.grpc || grpc::is_grpc(subject.request.headers()))
    }

    /// The text that every path that it accepts starts with, if there is one.
    pub(super) fn literal(&self) -> Option<&Literal> {
        match &self.path {
            PathMatch::Prefix(literal) | PathMatch::Path(literal) | PathMatch::SeparatedPrefix(literal) => {
                Some(literal)
            }
            PathMatch::Regex(_) | PathMatch::Connect => None,
        }
    }

    /// What of the path a prefix rewrite replaces.
    pub(super) fn matched(&self) -> Matched {
        match &self.path {
            PathMatch::Prefix(literal) | PathMatch::SeparatedPrefix(literal) => Matched::Prefix(literal.text.len()),
            PathMatch::Path(_) | PathMatch::Regex(_) | PathMatch::Connect => Matched::Path,
        }
    }
}

impl PathMatch {
    fn from_proto(
        proto: &proto::route::route_match::PathSpecifier,
        ignore_case: bool,
        field: Field<'_>,
    ) -> Option<PathMatch> {
        use proto::route::route_match::PathSpecifier;

        let literal = |text: &str| Literal { text: text.to_owned(), ignore_case };
        match proto {
            PathSpecifier::Prefix(prefix) => Some(PathMatch::Prefix(literal(prefix))),
            PathSpecifier::Path(path) => Some(PathMatch::Path(literal(path))),
            PathSpecifier::SafeRegex(regex) => Regex::from_proto(regex, field.key("safe_regex")).map(PathMatch::Regex),
            PathSpecifier::ConnectMatcher(proto::route::route_match::ConnectMatcher {}) => Some(PathMatch::Connect),
            PathSpecifier::PathSeparatedPrefix(prefix) => Some(PathMatch::SeparatedPrefix(literal(prefix))),
            PathSpecifier::PathMatchPolicy(policy) => {
                field.unsupported("path_match_policy", &Some(policy));
                None
            }
        }
    }

    fn matches<B>(&self, subject: &Subject<'_, B>) -> bool {
        let path = subject.path.as_bytes();
        let is_connect = subject.request.method() == Method::CONNECT;
        match self {
            PathMatch::Connect => is_connect,
            // Only a CONNECT request can be without a path, and only `connect_matcher` takes it then.
            _ if path.is_empty() => false,
            PathMatch::Prefix(literal) => literal.starts(path),
            PathMatch::Path(literal) => path.len() == literal.text.len() && literal.starts(path),
            PathMatch::SeparatedPrefix(literal) => {
                literal.starts(path) && path.get(literal.text.len()).is_none_or(|next| *next == b'/')
            }
            PathMatch::Regex(regex) => regex.matches(path),
        }
    }
}

impl Literal {
    fn starts(&self, path: &[u8]) -> bool {
        let text = self.text.as_bytes();
        path.get(..text.len())
            .is_some_and(|start| if self.ignore_case { start.eq_ignore_ascii_case(text) } else { start == text })
    }
}

/// `QueryParameterMatcher`: looks at the first parameter of its name, undecoded.
#[derive(Debug)]
struct QueryParameterMatcher {
    name: String,
    test: QueryParameterTest,
}

#[derive(Debug)]
enum QueryParameterTest {
    Present(bool),
    Text(StringMatcher),
}

impl QueryParameterMatcher {
    fn from_proto(proto: &proto::route::QueryParameterMatcher, field: Field<'_>) -> Option<QueryParameterMatcher> {
        use proto::route::query_parameter_matcher::QueryParameterMatchSpecifier;

        let proto::route::QueryParameterMatcher { name, query_parameter_match_specifier } = proto;
        let test = match query_parameter_match_specifier {
            None => QueryParameterTest::Present(true),
            Some(QueryParameterMatchSpecifier::PresentMatch(present)) => QueryParameterTest::Present(*present),
            Some(QueryParameterMatchSpecifier::StringMatch(text)) => {
                QueryParameterTest::Text(StringMatcher::from_proto(text, field.key("string_match"))?)
            }
        };
        Some(QueryParameterMatcher { name: name.clone(), test })
    }

    fn matches(&self, query: Option<&str>) -> bool {
        let parameters = query.unwrap_or_default().split('&');
        let value = parameters
            .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
            .find_map(|(name, value)| (name == self.name).then_some(value));
        match &self.test {
            QueryParameterTest::Present(present) => value.is_some() == *present,
            QueryParameterTest::Text(matcher) => value.is_some_and(|value| matcher.matches(value.as_bytes())),
        }
    }
}

/// `RuntimeFractionalPercent`: some of the requests.
#[derive(Debug)]
struct Fraction {
    numerator: u64,
    denominator: u64,
}

impl Fraction {
    fn from_proto(proto: &proto::core::RuntimeFractionalPercent, field: Field<'_>) -> Fraction {
        use proto::type_v3::fractional_percent::DenominatorType;

        let proto::core::RuntimeFractionalPercent { default_value, runtime_key } = proto;
        field.ignored("runtime_key", runtime_key, "there is no runtime configuration; default_value holds");
        let proto::type_v3::FractionalPercent { numerator, denominator } = default_value.unwrap_or_default();
        let denominator = match DenominatorType::try_from(denominator).unwrap_or_default() {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        };
        Fraction { numerator: numerator.into(), denominator }
    }

    fn holds(&self, random: u64) -> bool {
        random % self.denominator < self.numerator
    }
}
