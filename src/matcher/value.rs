//! Structured values (`envoy.type.matcher.v3.ValueMatcher`) and where they stand in dynamic metadata (`MetadataMatcher`).

use std::{collections::HashMap, ops::Range};

use super::StringMatcher;
use crate::{
    config::Field,
    proto::{self, value::Kind},
};

/// A compiled `ValueMatcher`.
#[derive(Clone, Debug)]
pub struct ValueMatcher(Test);

#[derive(Clone, Debug)]
enum Test {
    Null,
    Exactly(f64),
    Within(Range<f64>),
    Text(StringMatcher),
    Flag(bool),
    Present(bool),
    /// One element of a list.
    OneOf(Box<Test>),
    Any(Vec<Test>),
}

impl ValueMatcher {
    /// Compiles an `envoy.type.matcher.v3.ValueMatcher`.
    pub fn from_proto(proto: &proto::matcher::ValueMatcher, field: Field<'_>) -> Option<ValueMatcher> {
        Test::from_proto(proto, field).map(ValueMatcher)
    }

    /// Whether a value matches; None is one that is not there.
    #[must_use]
    pub fn matches(&self, value: Option<&proto::Value>) -> bool {
        self.0.passes(value.and_then(|value| value.kind.as_ref()))
    }
}

impl Test {
    fn from_proto(proto: &proto::matcher::ValueMatcher, field: Field<'_>) -> Option<Test> {
        use proto::matcher::{
            double_matcher, list_matcher,
            value_matcher::{MatchPattern, NullMatch},
        };

        let proto::matcher::ValueMatcher { match_pattern } = proto;
        // That there is one has been checked.
        Some(match match_pattern.as_ref()? {
            MatchPattern::NullMatch(NullMatch {}) => Test::Null,
            MatchPattern::DoubleMatch(proto::matcher::DoubleMatcher { match_pattern }) => {
                match match_pattern.as_ref()? {
                    double_matcher::MatchPattern::Range(range) => Test::Within(range.start..range.end),
                    double_matcher::MatchPattern::Exact(number) => Test::Exactly(*number),
                }
            }
            MatchPattern::StringMatch(text) => Test::Text(StringMatcher::from_proto(text, field.key("string_match"))?),
            MatchPattern::BoolMatch(flag) => Test::Flag(*flag),
            MatchPattern::PresentMatch(present) => Test::Present(*present),
            MatchPattern::ListMatch(list) => {
                let proto::matcher::ListMatcher { match_pattern } = list.as_ref();
                let Some(list_matcher::MatchPattern::OneOf(one)) = match_pattern else { return None };
                Test::OneOf(Box::new(Test::from_proto(one, field.key("list_match").key("one_of"))?))
            }
            MatchPattern::OrMatch(proto::matcher::OrMatcher { value_matchers }) => {
                let any = field.key("or_match");
                let list = any.key("value_matchers");
                let tests = value_matchers.iter().enumerate();
                Test::Any(tests.map(|(i, test)| Test::from_proto(test, list.index(i))).collect::<Option<_>>()?)
            }
        })
    }

    fn passes(&self, value: Option<&Kind>) -> bool {
        match (self, value) {
            (Test::Present(present), value) => *present && value.is_some(),
            (Test::Any(tests), value) => tests.iter().any(|test| test.passes(value)),
            (Test::Null, Some(Kind::NullValue(_))) => true,
            #[allow(clippy::float_cmp, reason = "exactly this number is asked for")]
            (Test::Exactly(number), Some(Kind::NumberValue(value))) => number == value,
            (Test::Within(range), Some(Kind::NumberValue(value))) => range.contains(value),
            (Test::Text(matcher), Some(Kind::StringValue(value))) => matcher.matches(value.as_bytes()),
            (Test::Flag(flag), Some(Kind::BoolValue(value))) => flag == value,
            (Test::OneOf(test), Some(Kind::ListValue(list))) => {
                list.values.iter().any(|value| test.passes(value.kind.as_ref()))
            }
            _ => false,
        }
    }
}

/// A compiled `MetadataMatcher`: a value below a filter's name.
#[derive(Clone, Debug)]
pub struct MetadataMatcher {
    filter: String,
    path: Vec<String>,
    value: ValueMatcher,
    invert: bool,
}

impl MetadataMatcher {
    /// Compiles an `envoy.type.matcher.v3.MetadataMatcher`.
    pub fn from_proto(proto: &proto::matcher::MetadataMatcher, field: Field<'_>) -> Option<MetadataMatcher> {
        use proto::matcher::metadata_matcher::{PathSegment, path_segment::Segment};

        let proto::matcher::MetadataMatcher { filter, path, value, invert } = proto;
        let keys = path.iter().filter_map(|PathSegment { segment }| segment.as_ref());
        Some(MetadataMatcher {
            filter: filter.clone(),
            path: keys.map(|Segment::Key(key)| key.clone()).collect(),
            value: ValueMatcher::from_proto(field.required("value", value)?, field.key("value"))?,
            invert: *invert,
        })
    }

    /// Whether metadata, by name of filter, match.
    #[must_use]
    pub fn matches(&self, metadata: &HashMap<String, proto::Struct>) -> bool {
        self.value.matches(value_at(metadata, &self.filter, &self.path)) != self.invert
    }

    /// Whether the value matches, if there is one, whatever `invert` says: as filters of access logs have it.
    #[must_use]
    pub fn passes(&self, metadata: &HashMap<String, proto::Struct>) -> Option<bool> {
        value_at(metadata, &self.filter, &self.path).map(|value| self.value.matches(Some(value)))
    }
}

/// The value of metadata below a filter's name and these keys.
pub(super) fn value_at<'m>(
    metadata: &'m HashMap<String, proto::Struct>,
    filter: &str,
    path: &[String],
) -> Option<&'m proto::Value> {
    let (last, above) = path.split_last()?;
    let mut fields = &metadata.get(filter)?.fields;
    for key in above {
        let Some(Kind::StructValue(nested)) = &fields.get(key)?.kind else { return None };
        fields = &nested.fields;
    }
    fields.get(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Report, Source, load};

    fn matcher(yaml: &str) -> MetadataMatcher {
        let report = Report::new();
        let proto = load(&Source::new("x.yaml", yaml), &report).unwrap();
        let matcher = MetadataMatcher::from_proto(&proto, Field::root(&report));
        assert!(!report.has_errors(), "{:?}", report.into_problems());
        matcher.unwrap()
    }

    fn metadata() -> HashMap<String, proto::Struct> {
        let yaml = "{a: {text: hello, number: 5, flag: true, list: [x, 7], nothing: null}}";
        let fields = load(&Source::new("x.yaml", yaml), &Report::new()).unwrap();
        [("filter".to_owned(), fields)].into()
    }

    #[test]
    fn values_are_found_and_compared() {
        for (key, value, matches) in [
            ("text", "{string_match: {prefix: he}}", true),
            ("text", "{string_match: {exact: he}}", false),
            ("text", "{double_match: {exact: 5}}", false),
            ("number", "{double_match: {exact: 5}}", true),
            ("number", "{double_match: {range: {start: 4, end: 5}}}", false),
            ("number", "{double_match: {range: {start: 5, end: 6}}}", true),
            ("flag", "{bool_match: true}", true),
            ("flag", "{bool_match: false}", false),
            ("nothing", "{null_match: {}}", true),
            ("nothing", "{present_match: true}", true),
            ("none", "{present_match: true}", false),
            ("none", "{present_match: false}", false),
            ("none", "{null_match: {}}", false),
            ("list", "{list_match: {one_of: {string_match: {exact: x}}}}", true),
            ("list", "{list_match: {one_of: {double_match: {exact: 8}}}}", false),
            ("list", "{or_match: {value_matchers: [{bool_match: true}, {present_match: true}]}}", true),
        ] {
            for (invert, expected) in [(false, matches), (true, !matches)] {
                let yaml =
                    format!("{{filter: filter, path: [{{key: a}}, {{key: {key}}}], value: {value}, invert: {invert}}}");
                assert_eq!(matcher(&yaml).matches(&metadata()), expected, "{yaml}");
            }
        }
    }
}
