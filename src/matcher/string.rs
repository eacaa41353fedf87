//! Strings (`envoy.type.matcher.v3.StringMatcher`).

use memchr::memmem::Finder;

use super::Regex;
use crate::{config::Field, proto};

/// A compiled `StringMatcher`.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    pattern: Pattern,
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Contains(Box<Finder<'static>>),
    Regex(Regex),
}

impl StringMatcher {
    /// Compiles an `envoy.type.matcher.v3.StringMatcher`.
    pub fn from_proto(proto: &proto::matcher::StringMatcher, field: Field<'_>) -> Option<StringMatcher> {
        use proto::matcher::string_matcher::MatchPattern;

        let proto::matcher::StringMatcher { ignore_case, match_pattern } = proto;
        let ignore_case = *ignore_case;
        let text = |text: &str| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() }.into_bytes();
        let Some(match_pattern) = match_pattern else {
            field.error("must say what to match: exact, prefix, suffix, contains or safe_regex");
            return None;
        };
        let pattern = match match_pattern {
            MatchPattern::Exact(exact) => Pattern::Exact(text(exact)),
            MatchPattern::Prefix(prefix) => Pattern::Prefix(text(prefix)),
            MatchPattern::Suffix(suffix) => Pattern::Suffix(text(suffix)),
            MatchPattern::Contains(part) => Pattern::Contains(Box::new(Finder::new(&text(part)).into_owned())),
            MatchPattern::SafeRegex(regex) => Pattern::Regex(Regex::from_proto(regex, field.key("safe_regex"))?),
            MatchPattern::Custom(custom) => {
                field.unsupported("custom", &Some(custom));
                return None;
            }
        };
        Some(StringMatcher { pattern, ignore_case })
    }

    /// A matcher for exactly this value.
    pub(super) fn exact(value: &str) -> StringMatcher {
        StringMatcher { pattern: Pattern::Exact(value.into()), ignore_case: false }
    }

    /// A matcher for values that start so.
    pub(super) fn prefix(value: &str) -> StringMatcher {
        StringMatcher { pattern: Pattern::Prefix(value.into()), ignore_case: false }
    }

    /// A matcher for values that end so.
    pub(super) fn suffix(value: &str) -> StringMatcher {
        StringMatcher { pattern: Pattern::Suffix(value.into()), ignore_case: false }
    }

    /// A matcher for values that hold this.
    pub(super) fn contains(value: &str) -> StringMatcher {
        StringMatcher { pattern: Pattern::Contains(Box::new(Finder::new(value).into_owned())), ignore_case: false }
    }

    /// A matcher for values that match an expression as a whole.
    pub(super) fn regex(regex: Regex) -> StringMatcher {
        StringMatcher { pattern: Pattern::Regex(regex), ignore_case: false }
    }

    /// The same without regard to case; what an expression does stays with itself.
    pub(super) fn ignoring_case(mut self) -> StringMatcher {
        if let Pattern::Contains(part) = &self.pattern {
            self.pattern = Pattern::Contains(Box::new(Finder::new(&part.needle().to_ascii_lowercase()).into_owned()));
        }
        StringMatcher { ignore_case: true, ..self }
    }

    /// Whether `value` matches.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        if !self.ignore_case {
            return match &self.pattern {
                Pattern::Exact(exact) => value == exact,
                Pattern::Prefix(prefix) => value.starts_with(prefix),
                Pattern::Suffix(suffix) => value.ends_with(suffix),
                Pattern::Contains(part) => part.find(value).is_some(),
                Pattern::Regex(regex) => regex.matches(value),
            };
        }
        match &self.pattern {
            Pattern::Exact(exact) => value.eq_ignore_ascii_case(exact),
            Pattern::Prefix(prefix) => {
                value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
            }
            Pattern::Suffix(suffix) => {
                let start = value.len().checked_sub(suffix.len());
                start.is_some_and(|start| value[start..].eq_ignore_ascii_case(suffix))
            }
            Pattern::Contains(part) => part.find(&value.to_ascii_lowercase()).is_some(),
            // Says `(?i)` itself if it means it.
            Pattern::Regex(regex) => regex.matches(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::matcher::{RegexMatcher, StringMatcher as Proto, string_matcher::MatchPattern};

    use super::*;
    use crate::config::Report;

    #[test]
    fn patterns() {
        let text = str::to_owned;
        for (pattern, value, matches, ignoring_case) in [
            (MatchPattern::Exact(text("Ab")), "Ab", true, true),
            (MatchPattern::Exact(text("Ab")), "aB", false, true),
            (MatchPattern::Exact(text("Ab")), "Abc", false, false),
            (MatchPattern::Exact(text("")), "", true, true),
            (MatchPattern::Prefix(text("Ab")), "Abc", true, true),
            (MatchPattern::Prefix(text("Ab")), "aBc", false, true),
            (MatchPattern::Prefix(text("Ab")), "A", false, false),
            (MatchPattern::Suffix(text("Bc")), "aBc", true, true),
            (MatchPattern::Suffix(text("Bc")), "abC", false, true),
            (MatchPattern::Suffix(text("Bc")), "c", false, false),
            (MatchPattern::Contains(text("B")), "aBc", true, true),
            (MatchPattern::Contains(text("B")), "abc", false, true),
            (MatchPattern::Contains(text("B")), "ac", false, false),
            (MatchPattern::SafeRegex(RegexMatcher { regex: text("A.c"), engine_type: None }), "Abc", true, true),
            (MatchPattern::SafeRegex(RegexMatcher { regex: text("A.c"), engine_type: None }), "abc", false, false),
        ] {
            for (ignore_case, expected) in [(false, matches), (true, ignoring_case)] {
                let report = Report::new();
                let proto = Proto { ignore_case, match_pattern: Some(pattern.clone()) };
                let matcher = StringMatcher::from_proto(&proto, Field::root(&report)).unwrap();
                assert_eq!(matcher.matches(value.as_bytes()), expected, "{proto:?} {value}");
            }
        }
    }

    #[test]
    fn what_cannot_be_matched_is_refused() {
        let report = Report::new();
        assert!(StringMatcher::from_proto(&Proto::default(), Field::root(&report)).is_none());
        let custom = Some(MatchPattern::Custom(proto::xds_core::TypedExtensionConfig::default()));
        let custom = Proto { ignore_case: false, match_pattern: custom };
        assert!(StringMatcher::from_proto(&custom, Field::root(&report)).is_none());
        assert_eq!(report.into_problems().len(), 2);
    }
}
