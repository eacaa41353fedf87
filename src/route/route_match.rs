//! Which requests a route accepts (`RouteMatch`).

use std::ops::Deref;

use http::Request;

use super::{Lookup, match_input::RequestData, path_match::PathMatch};
use crate::{
    config::Field,
    http::{cookies, grpc, query},
    matcher::{CidrRange, HeaderMatcher, MetadataMatcher, StringMatcher},
    proto,
    runtime::RuntimeFraction,
    stream_info::TlsInfo,
};

/// A compiled `RouteMatch`: everything it names must be so.
#[derive(Debug)]
pub(super) struct RouteMatch {
    path: PathMatch,
    headers: Vec<HeaderMatcher>,
    query_parameters: Vec<QueryParameterMatcher>,
    cookies: Vec<CookieMatcher>,
    grpc: bool,
    fraction: Option<RuntimeFraction>,
    tls: Option<TlsMatch>,
    metadata: Vec<MetadataMatcher>,
    /// State that filters keep, and none here does.
    asks_for_state: bool,
}

/// A request as matchers see it.
pub(super) struct Subject<'a, B> {
    lookup: &'a Lookup<'a, B>,
    /// The path without query; empty for a CONNECT request that has none.
    pub(super) path: &'a str,
}

impl<'a, B> Subject<'a, B> {
    pub(super) fn new(lookup: &'a Lookup<'a, B>, path: &'a str) -> Subject<'a, B> {
        Subject { lookup, path }
    }
}

impl<B> Subject<'_, B> {
    /// What matcher trees look at.
    pub(super) fn data(&self) -> RequestData<'_> {
        RequestData { head: self.request.into(), runtime: self.runtime }
    }
}

impl<'a, B> Deref for Subject<'a, B> {
    type Target = Lookup<'a, B>;

    fn deref(&self) -> &Lookup<'a, B> {
        self.lookup
    }
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
        let state_list = field.key("filter_state");
        for (i, matcher) in filter_state.iter().enumerate() {
            check_filter_state(matcher, state_list.index(i));
        }
        let ignore_case = case_sensitive.as_ref().is_some_and(|sensitive| !sensitive.value);
        let path = path_specifier.as_ref().and_then(|path| PathMatch::from_proto(path, ignore_case, field));
        let (header_list, query_list) = (field.key("headers"), field.key("query_parameters"));
        let (cookie_list, metadata_list) = (field.key("cookies"), field.key("dynamic_metadata"));
        Some(RouteMatch {
            headers: each(headers, header_list, HeaderMatcher::from_proto),
            query_parameters: each(query_parameters, query_list, QueryParameterMatcher::from_proto),
            cookies: each(cookies, cookie_list, CookieMatcher::from_proto),
            grpc: grpc.is_some(),
            fraction: runtime_fraction.as_ref().map(RuntimeFraction::from_proto),
            tls: tls_context.map(TlsMatch::from_proto),
            metadata: each(dynamic_metadata, metadata_list, MetadataMatcher::from_proto),
            asks_for_state: !filter_state.is_empty(),
            path: path?,
        })
    }

    /// Accepts everything.
    pub(super) fn any() -> RouteMatch {
        RouteMatch {
            path: PathMatch::any(),
            headers: Vec::new(),
            query_parameters: Vec::new(),
            cookies: Vec::new(),
            grpc: false,
            fraction: None,
            tls: None,
            metadata: Vec::new(),
            asks_for_state: false,
        }
    }

    pub(super) fn matches<B>(&self, subject: &Subject<'_, B>) -> bool {
        let request = subject.request;
        !self.asks_for_state
            && self.path.matches(subject)
            && self.fraction.as_ref().is_none_or(|fraction| fraction.holds(subject.runtime, subject.random))
            && self.headers.iter().all(|header| header.matches(request))
            && self.query_parameters.iter().all(|parameter| parameter.matches(request.uri().query()))
            && self.cookies.iter().all(|cookie| cookie.matches(request))
            && (!self.grpc || grpc::is_grpc(request.headers()))
            && self.tls.as_ref().is_none_or(|tls| tls.matches(subject.info.connection.tls.as_ref()))
            && self.metadata.iter().all(|metadata| metadata.matches(&subject.info.dynamic_metadata))
    }

    pub(super) fn path(&self) -> &PathMatch {
        &self.path
    }

    /// Whether it asks for nothing but the path.
    pub(super) fn is_path_only(&self) -> bool {
        let lists = self.headers.len() + self.query_parameters.len() + self.cookies.len() + self.metadata.len();
        lists == 0 && !self.asks_for_state && !self.grpc && self.fraction.is_none() && self.tls.is_none()
    }
}

/// Reports what is wrong with a matcher of the state that filters keep.
fn check_filter_state(proto: &proto::matcher::FilterStateMatcher, field: Field<'_>) {
    use proto::matcher::filter_state_matcher::Matcher;

    let proto::matcher::FilterStateMatcher { key, matcher } = proto;
    field.warning(format!("no filter here keeps state as {key:?}: the route never matches"));
    match matcher {
        Some(Matcher::StringMatch(text)) => _ = StringMatcher::from_proto(text, field.key("string_match")),
        Some(Matcher::AddressMatch(proto::matcher::AddressMatcher { ranges, invert_match: _invert_match })) => {
            let list = field.key("address_match");
            let list = list.key("ranges");
            for (i, range) in ranges.iter().enumerate() {
                CidrRange::from_xds(range, list.index(i));
            }
        }
        None => {}
    }
}

/// Converts the messages of a list, each at its place.
fn each<P, T>(protos: &[P], field: Field<'_>, convert: impl Fn(&P, Field<'_>) -> Option<T>) -> Vec<T> {
    protos.iter().enumerate().filter_map(|(i, proto)| convert(proto, field.index(i))).collect()
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
        let value = query::value(query, &self.name);
        match &self.test {
            QueryParameterTest::Present(present) => value.is_some() == *present,
            QueryParameterTest::Text(matcher) => value.is_some_and(|value| matcher.matches(value.as_bytes())),
        }
    }
}

/// `CookieMatcher`: looks at the first cookie of its name, without the quotes that a value may have.
#[derive(Debug)]
struct CookieMatcher {
    name: String,
    value: StringMatcher,
    invert: bool,
}

impl CookieMatcher {
    fn from_proto(proto: &proto::route::CookieMatcher, field: Field<'_>) -> Option<CookieMatcher> {
        let proto::route::CookieMatcher { name, string_match, invert_match } = proto;
        let value = StringMatcher::from_proto(field.required("string_match", string_match)?, field.key("string_match"));
        Some(CookieMatcher { name: name.clone(), value: value?, invert: *invert_match })
    }

    fn matches<B>(&self, request: &Request<B>) -> bool {
        let value = cookies::value(request.headers(), &self.name);
        self.invert != value.is_some_and(|value| self.value.matches(value))
    }
}

/// `TlsContextMatchOptions`: what the client's side of the TLS handshake was.
#[derive(Clone, Copy, Debug)]
struct TlsMatch {
    presented: Option<bool>,
    validated: Option<bool>,
}

impl TlsMatch {
    fn from_proto(proto: proto::route::route_match::TlsContextMatchOptions) -> TlsMatch {
        let proto::route::route_match::TlsContextMatchOptions { presented, validated } = proto;
        TlsMatch {
            presented: presented.map(|presented| presented.value),
            validated: validated.map(|validated| validated.value),
        }
    }

    fn matches(self, tls: Option<&TlsInfo>) -> bool {
        let presented = tls.is_some_and(|tls| tls.peer_presented);
        let validated = tls.is_some_and(|tls| tls.peer.is_some());
        self.presented.is_none_or(|wanted| wanted == presented)
            && self.validated.is_none_or(|wanted| wanted == validated)
    }
}
