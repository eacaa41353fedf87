//! The predicates of matcher trees: what one input is, and how such statements are joined.

use std::net::IpAddr;

use prost::Name;

use super::{CidrRange, Regex, StringMatcher, tree::Input, xxh64};
use crate::{
    config::Field,
    proto::{
        consistent_hashing::ConsistentHashing,
        ip_matcher::Ip,
        runtime_fraction::RuntimeFraction as RuntimeFractionProto,
        xds_core::TypedExtensionConfig,
        xds_matcher::{
            self,
            matcher::matcher_list::{
                self, Predicate as Proto,
                predicate::{MatchType, PredicateList, SinglePredicate, single_predicate::Matcher},
            },
        },
    },
    runtime::RuntimeFraction,
};

/// A compiled predicate.
#[derive(Debug)]
pub(super) enum Predicate<I> {
    Is(I, ValueTest),
    Any(Vec<Predicate<I>>),
    All(Vec<Predicate<I>>),
    Not(Box<Predicate<I>>),
}

/// What is asked of a value. One that is not there passes nothing.
#[derive(Debug)]
pub(super) enum ValueTest {
    Text(StringMatcher),
    Address(Vec<CidrRange>),
    /// At least the threshold, after hashing with the seed, in the modulo.
    Hash {
        threshold: u64,
        modulo: u64,
        seed: u64,
    },
    Share {
        fraction: RuntimeFraction,
        seed: u64,
    },
}

impl<I: Input> Predicate<I> {
    pub(super) fn from_proto(proto: &Proto, field: Field<'_>) -> Option<Predicate<I>> {
        let matcher_list::Predicate { match_type } = proto;
        match match_type.as_ref()? {
            MatchType::SinglePredicate(single) => {
                let SinglePredicate { input, matcher } = single;
                let field = field.key("single_predicate");
                let input = field.required("input", input).and_then(|input| I::from_proto(input, field.key("input")));
                let test = match matcher.as_ref()? {
                    Matcher::ValueMatch(text) => ValueTest::of_text(text, field.key("value_match")),
                    Matcher::CustomMatch(custom) => ValueTest::of_custom(custom, field.key("custom_match")),
                };
                Some(Predicate::Is(input?, test?))
            }
            MatchType::OrMatcher(any) => Predicate::list(any, field.key("or_matcher")).map(Predicate::Any),
            MatchType::AndMatcher(all) => Predicate::list(all, field.key("and_matcher")).map(Predicate::All),
            MatchType::NotMatcher(not) => {
                Predicate::from_proto(not, field.key("not_matcher")).map(Box::new).map(Predicate::Not)
            }
        }
    }

    fn list(proto: &PredicateList, field: Field<'_>) -> Option<Vec<Predicate<I>>> {
        let PredicateList { predicate } = proto;
        let list = field.key("predicate");
        let converted: Vec<_> =
            predicate.iter().enumerate().map(|(i, proto)| Predicate::from_proto(proto, list.index(i))).collect();
        converted.into_iter().collect()
    }

    pub(super) fn holds(&self, data: &I::Data<'_>) -> bool {
        match self {
            Predicate::Is(input, test) => input.read(data).is_some_and(|value| test.passes::<I>(&value, data)),
            Predicate::Any(predicates) => predicates.iter().any(|predicate| predicate.holds(data)),
            Predicate::All(predicates) => predicates.iter().all(|predicate| predicate.holds(data)),
            Predicate::Not(predicate) => !predicate.holds(data),
        }
    }
}

impl ValueTest {
    fn of_text(proto: &xds_matcher::StringMatcher, field: Field<'_>) -> Option<ValueTest> {
        use xds_matcher::string_matcher::MatchPattern;

        let xds_matcher::StringMatcher { ignore_case, match_pattern } = proto;
        let Some(pattern) = match_pattern else {
            field.error("must say what to match: exact, prefix, suffix, contains or safe_regex");
            return None;
        };
        let matcher = match pattern {
            MatchPattern::Exact(text) => StringMatcher::exact(text),
            MatchPattern::Prefix(text) => StringMatcher::prefix(text),
            MatchPattern::Suffix(text) => StringMatcher::suffix(text),
            MatchPattern::Contains(text) => StringMatcher::contains(text),
            MatchPattern::SafeRegex(regex) => {
                let xds_matcher::RegexMatcher { regex, engine_type: _engine_type } = regex;
                StringMatcher::regex(Regex::compile(regex, field.key("safe_regex"))?)
            }
            MatchPattern::Custom(custom) => {
                field.unsupported("custom", &Some(custom));
                return None;
            }
        };
        Some(ValueTest::Text(if *ignore_case { matcher.ignoring_case() } else { matcher }))
    }

    fn of_custom(proto: &TypedExtensionConfig, field: Field<'_>) -> Option<ValueTest> {
        let TypedExtensionConfig { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let found = any.type_url.rsplit('/').next().unwrap_or_default();
        if found == Ip::full_name() {
            // The statistics that the prefix would name are not kept.
            let Ip { cidr_ranges, stat_prefix: _stat_prefix } = field.unpack(any)?;
            let list = field.key("cidr_ranges");
            let ranges = cidr_ranges.iter().enumerate();
            return ranges
                .map(|(i, range)| CidrRange::from_proto(range, list.index(i)))
                .collect::<Option<_>>()
                .map(ValueTest::Address);
        }
        if found == ConsistentHashing::full_name() {
            let ConsistentHashing { threshold, modulo, seed } = field.unpack(any)?;
            if threshold > modulo {
                field.key("threshold").error("threshold cannot be greater than modulo");
            }
            return (modulo > 0).then_some(ValueTest::Hash {
                threshold: threshold.into(),
                modulo: modulo.into(),
                seed,
            });
        }
        if found == RuntimeFractionProto::full_name() {
            let RuntimeFractionProto { runtime_fraction, seed } = field.unpack(any)?;
            let fraction = RuntimeFraction::from_proto(field.required("runtime_fraction", &runtime_fraction)?);
            return Some(ValueTest::Share { fraction, seed });
        }
        field.error(format!("{found}: valid in Envoy, not implemented by Portreeve yet"));
        None
    }

    fn passes<I: Input>(&self, value: &[u8], data: &I::Data<'_>) -> bool {
        match self {
            ValueTest::Text(matcher) => matcher.matches(value),
            ValueTest::Address(ranges) => {
                let address = str::from_utf8(value).ok().and_then(|text| text.parse::<IpAddr>().ok());
                address.is_some_and(|address| ranges.iter().any(|range| range.contains(address)))
            }
            ValueTest::Hash { threshold, modulo, seed } => xxh64(value, *seed) % modulo >= *threshold,
            ValueTest::Share { fraction, seed } => fraction.holds(I::runtime(data), xxh64(value, *seed)),
        }
    }
}
