//! Request headers (`envoy.config.route.v3.HeaderMatcher`).

use std::{borrow::Cow, ops::Range};

use http::{
    HeaderMap, HeaderName, Method, Request, Uri,
    header::{HOST, InvalidHeaderName},
};

use super::{Regex, StringMatcher};
use crate::{config::Field, proto};

/// A compiled `HeaderMatcher`.
///
/// If a header has several lines, it matches if one of them does; inverted, if none does. A missing header matches nothing,
/// inverted or not, unless it is its presence that is asked for, or it is to be treated as empty.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    name: Name,
    test: Test,
    invert: bool,
    missing_is_empty: bool,
}

/// The head of a request, whatever its body.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'r> {
    method: &'r Method,
    uri: &'r Uri,
    headers: &'r HeaderMap,
}

impl<'r> RequestHead<'r> {
    /// The same with other header fields, such as those of the response.
    #[must_use]
    pub fn with_headers(self, headers: &'r HeaderMap) -> RequestHead<'r> {
        RequestHead { headers, ..self }
    }
}

impl<'r, B> From<&'r Request<B>> for RequestHead<'r> {
    fn from(request: &'r Request<B>) -> RequestHead<'r> {
        RequestHead { method: request.method(), uri: request.uri(), headers: request.headers() }
    }
}

/// A header to be read, as matcher trees name it: several lines are one value.
#[derive(Clone, Debug)]
pub struct RequestHeader(Name);

impl RequestHeader {
    /// The header of this name; None if it is none.
    #[must_use]
    pub fn new(name: &str) -> Option<RequestHeader> {
        Name::new(name).ok().map(RequestHeader)
    }

    /// The header that an input's `header_name` names; reported if it is none.
    pub fn of_input(header_name: &str, field: Field<'_>) -> Option<RequestHeader> {
        let header = RequestHeader::new(header_name);
        if header.is_none() {
            field.key("header_name").error("not a valid header name");
        }
        header
    }

    /// Its first value; None if the request does not have it.
    #[must_use]
    pub fn first<'r>(&self, request: RequestHead<'r>) -> Option<&'r [u8]> {
        let mut first = None;
        self.0.values(request, &mut |value| first = first.or(Some(value)));
        first
    }

    /// Its value; None if the request does not have it.
    #[must_use]
    pub fn read<'r>(&self, request: RequestHead<'r>) -> Option<Cow<'r, [u8]>> {
        let mut joined: Option<Cow<'r, [u8]>> = None;
        self.0.values(request, &mut |value| match &mut joined {
            None => joined = Some(Cow::Borrowed(value)),
            Some(values) => {
                let values = values.to_mut();
                values.push(b',');
                values.extend_from_slice(value);
            }
        });
        joined
    }
}

/// Which header: a field of the message, or one of the pseudo-headers by which Envoy's configurations name the others.
#[derive(Clone, Debug, PartialEq)]
enum Name {
    Field(HeaderName),
    Authority,
    Method,
    Path,
    Scheme,
    /// A pseudo-header that no request has.
    Unknown,
}

#[derive(Clone, Debug)]
enum Test {
    Present(bool),
    Text(StringMatcher),
    Number(Range<i64>),
}

impl HeaderMatcher {
    /// Compiles an `envoy.config.route.v3.HeaderMatcher`.
    pub fn from_proto(proto: &proto::route::HeaderMatcher, field: Field<'_>) -> Option<HeaderMatcher> {
        let proto::route::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } =
            proto;
        let name = Name::new(name).ok();
        if name.is_none() {
            field.key("name").error("not a valid header name");
        }
        let test =
            header_match_specifier.as_ref().map_or(Some(Test::Present(true)), |test| Test::from_proto(test, field));
        Some(HeaderMatcher {
            name: name?,
            test: test?,
            invert: *invert_match,
            missing_is_empty: *treat_missing_header_as_empty,
        })
    }

    /// Whether the request has what this matcher asks for.
    #[must_use]
    pub fn matches<'r>(&self, request: impl Into<RequestHead<'r>>) -> bool {
        let mut found = Found::default();
        self.name.values(request.into(), &mut |value| found.see(self, value));
        found.answer(self)
    }

    /// Whether a response has what this matcher asks for, among its fields: it has no pseudo-headers of a request.
    #[must_use]
    pub fn matches_headers(&self, headers: &HeaderMap) -> bool {
        match &self.name {
            Name::Field(name) => self.matches_values(headers.get_all(name).iter().map(http::HeaderValue::as_bytes)),
            _ => self.matches_values(std::iter::empty()),
        }
    }

    /// Whether the values of the header have what this matcher asks for. For a header that is kept without its request.
    #[must_use]
    pub fn matches_values<'a>(&self, values: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut found = Found::default();
        values.for_each(|value| found.see(self, value));
        found.answer(self)
    }
}

/// What has been seen of a header's values.
#[derive(Default)]
struct Found {
    any: bool,
    passed: bool,
}

impl Found {
    fn see(&mut self, matcher: &HeaderMatcher, value: &[u8]) {
        self.any = true;
        self.passed |= matcher.test.passes(value);
    }

    fn answer(mut self, matcher: &HeaderMatcher) -> bool {
        if !self.any && matcher.missing_is_empty {
            self.see(matcher, b"");
        }
        if !self.any {
            return matches!(matcher.test, Test::Present(present) if present == matcher.invert);
        }
        matcher.invert != self.passed
    }
}

impl Name {
    fn new(name: &str) -> Result<Name, InvalidHeaderName> {
        Ok(match name {
            ":authority" => Name::Authority,
            ":method" => Name::Method,
            ":path" => Name::Path,
            ":scheme" => Name::Scheme,
            _ if name.eq_ignore_ascii_case("host") => Name::Authority,
            _ if name.starts_with(':') => HeaderName::from_bytes(&name.as_bytes()[1..]).map(|_| Name::Unknown)?,
            _ => Name::Field(HeaderName::from_bytes(name.as_bytes())?),
        })
    }

    /// Shows the values that a request has.
    fn values<'r>(&self, request: RequestHead<'r>, see: &mut dyn FnMut(&'r [u8])) {
        let RequestHead { method, uri, headers } = request;
        match self {
            Name::Field(name) => headers.get_all(name).iter().for_each(|value| see(value.as_bytes())),
            Name::Authority => {
                let host = || headers.get(HOST).map(http::HeaderValue::as_bytes);
                uri.authority().map(|authority| authority.as_str().as_bytes()).or_else(host).into_iter().for_each(see);
            }
            Name::Unknown => {}
            Name::Method => see(method.as_str().as_bytes()),
            Name::Path => uri.path_and_query().map(|path| path.as_str().as_bytes()).into_iter().for_each(see),
            Name::Scheme => {
                let forwarded = || headers.get("x-forwarded-proto").map(http::HeaderValue::as_bytes);
                uri.scheme_str().map(str::as_bytes).or_else(forwarded).into_iter().for_each(see);
            }
        }
    }
}

impl Test {
    fn from_proto(proto: &proto::route::header_matcher::HeaderMatchSpecifier, field: Field<'_>) -> Option<Test> {
        use proto::route::header_matcher::HeaderMatchSpecifier;

        Some(match proto {
            HeaderMatchSpecifier::StringMatch(text) => {
                Test::Text(StringMatcher::from_proto(text, field.key("string_match"))?)
            }
            HeaderMatchSpecifier::RangeMatch(range) => Test::Number(range.start..range.end),
            HeaderMatchSpecifier::PresentMatch(present) => Test::Present(*present),
            // The older spellings of string_match.
            HeaderMatchSpecifier::ExactMatch(text) => Test::Text(StringMatcher::exact(text)),
            HeaderMatchSpecifier::PrefixMatch(text) => Test::Text(StringMatcher::prefix(text)),
            HeaderMatchSpecifier::SuffixMatch(text) => Test::Text(StringMatcher::suffix(text)),
            HeaderMatchSpecifier::ContainsMatch(text) => Test::Text(StringMatcher::contains(text)),
            HeaderMatchSpecifier::SafeRegexMatch(regex) => {
                Test::Text(StringMatcher::regex(Regex::from_proto(regex, field.key("safe_regex_match"))?))
            }
        })
    }

    /// Whether a value that is there passes.
    fn passes(&self, value: &[u8]) -> bool {
        match self {
            Test::Present(present) => *present,
            Test::Text(matcher) => matcher.matches(value),
            Test::Number(range) => str::from_utf8(value)
                .is_ok_and(|text| text.trim_ascii().parse().is_ok_and(|number| range.contains(&number))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::matcher::{RegexMatcher, StringMatcher as StringProto, string_matcher::MatchPattern};
    use proto::route::{HeaderMatcher as Proto, header_matcher::HeaderMatchSpecifier as Specifier};

    use super::*;
    use crate::config::Report;

    fn matcher(name: &str, specifier: Option<Specifier>, invert: bool, missing_is_empty: bool) -> HeaderMatcher {
        let report = Report::new();
        let proto = Proto {
            name: name.to_owned(),
            invert_match: invert,
            treat_missing_header_as_empty: missing_is_empty,
            header_match_specifier: specifier,
        };
        HeaderMatcher::from_proto(&proto, Field::root(&report)).unwrap()
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().method("POST").uri("/a?b");
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    fn exact(text: &str) -> Option<Specifier> {
        let match_pattern = Some(MatchPattern::Exact(text.to_owned()));
        Some(Specifier::StringMatch(StringProto { ignore_case: false, match_pattern }))
    }

    /// The answers were taken from Envoy 1.40.
    #[test]
    fn every_test_with_and_without_inversion() {
        let requests: [&[(&str, &str)]; 6] =
            [&[], &[("x", "")], &[("x", "a")], &[("x", "ab")], &[("x", "5")], &[("x", "c"), ("x", "a")]];
        let regex = Some(Specifier::SafeRegexMatch(RegexMatcher { regex: "a.*".to_owned(), engine_type: None }));
        let range = Some(Specifier::RangeMatch(proto::type_v3::Int64Range { start: 1, end: 10 }));
        for (specifier, invert, missing_is_empty, expected) in [
            (exact("a"), false, false, "nnYnnY"),
            (exact("a"), false, true, "nnYnnY"),
            (exact("a"), true, false, "nYnYYn"),
            (exact("a"), true, true, "YYnYYn"),
            (exact(""), false, false, "nYnnnn"),
            (exact(""), false, true, "YYnnnn"),
            (exact(""), true, false, "nnYYYY"),
            (Some(Specifier::ExactMatch("a".to_owned())), false, false, "nnYnnY"),
            (Some(Specifier::PrefixMatch("a".to_owned())), false, false, "nnYYnY"),
            (Some(Specifier::SuffixMatch("b".to_owned())), false, false, "nnnYnn"),
            (Some(Specifier::ContainsMatch("b".to_owned())), true, false, "nYYnYY"),
            (regex, false, false, "nnYYnY"),
            (range.clone(), false, false, "nnnnYn"),
            (range.clone(), true, false, "nYYYnY"),
            (range, true, true, "YYYYnY"),
            (None, false, false, "nYYYYY"),
            (Some(Specifier::PresentMatch(true)), false, false, "nYYYYY"),
            (Some(Specifier::PresentMatch(true)), false, true, "YYYYYY"),
            (Some(Specifier::PresentMatch(true)), true, false, "Ynnnnn"),
            (Some(Specifier::PresentMatch(true)), true, true, "nnnnnn"),
            (Some(Specifier::PresentMatch(false)), false, false, "Ynnnnn"),
            (Some(Specifier::PresentMatch(false)), false, true, "nnnnnn"),
            (Some(Specifier::PresentMatch(false)), true, false, "nYYYYY"),
            (Some(Specifier::PresentMatch(false)), true, true, "YYYYYY"),
        ] {
            let matcher = matcher("X", specifier, invert, missing_is_empty);
            let answers: String =
                requests.iter().map(|lines| if matcher.matches(&request(lines)) { 'Y' } else { 'n' }).collect();
            assert_eq!(answers, expected, "{matcher:?}");
        }
    }

    #[test]
    fn numbers() {
        let range = Some(Specifier::RangeMatch(proto::type_v3::Int64Range { start: -5, end: 10 }));
        let matcher = matcher("x", range, false, false);
        for (value, expected) in
            [("-5", true), ("-6", false), ("10", false), ("+3", true), (" 3 ", true), ("3a", false)]
        {
            assert_eq!(matcher.matches(&request(&[("x", value)])), expected, "{value}");
        }
    }

    #[test]
    fn pseudo_headers() {
        let http1 = request(&[("host", "example.com"), ("x-forwarded-proto", "https")]);
        let http2 = Request::builder().method("POST").uri("https://example.com/a?b").body(()).unwrap();
        for (name, value) in [
            (":method", "POST"),
            (":path", "/a?b"),
            (":authority", "example.com"),
            ("Host", "example.com"),
            (":scheme", "https"),
        ] {
            for request in [&http1, &http2] {
                assert!(matcher(name, exact(value), false, false).matches(request), "{name}");
                assert!(!matcher(name, exact("other"), false, false).matches(request), "{name}");
            }
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for name in [":", ":a b", "a b", ""] {
            let report = Report::new();
            let proto = Proto { name: name.to_owned(), ..Proto::default() };
            assert!(HeaderMatcher::from_proto(&proto, Field::root(&report)).is_none());
            assert_eq!(report.into_problems()[0].to_string(), "name: not a valid header name");
        }
    }
}
