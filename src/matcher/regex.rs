//! Regular expressions (`envoy.type.matcher.v3.RegexMatcher` and `RegexMatchAndSubstitute`) in linear time.
//!
//! The syntax is RE2's as far as real configurations use it; classes such as `\d` are ASCII's, as there.

use std::borrow::Cow;

use regex::bytes;

use crate::{config::Field, proto};

/// An expression that must match the whole of a value.
#[derive(Clone, Debug)]
pub struct Regex(bytes::Regex);

impl Regex {
    /// Compiles an `envoy.type.matcher.v3.RegexMatcher`.
    pub fn from_proto(proto: &proto::matcher::RegexMatcher, field: Field<'_>) -> Option<Regex> {
        Regex::compile(expression(proto, field), field)
    }

    /// Compiles an expression whose message stands at `field`.
    pub(super) fn compile(expression: &str, field: Field<'_>) -> Option<Regex> {
        // Alone first: an expression such as `a)(b` must not close the group that is put around it.
        compile(expression, field)?;
        compile(&format!(r"\A(?:{expression})\z"), field).map(Regex)
    }

    /// The expression, with what makes it match as a whole.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether `value` as a whole matches.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }
}

/// Every match of an expression, replaced.
#[derive(Clone, Debug)]
pub struct RegexRewrite {
    pattern: bytes::Regex,
    substitution: Vec<u8>,
}

impl RegexRewrite {
    /// Compiles an `envoy.type.matcher.v3.RegexMatchAndSubstitute`.
    pub fn from_proto(proto: &proto::matcher::RegexMatchAndSubstitute, field: Field<'_>) -> Option<RegexRewrite> {
        let proto::matcher::RegexMatchAndSubstitute { pattern, substitution } = proto;
        let pattern = field.required("pattern", pattern)?;
        let place = field.key("pattern");
        let pattern = compile(expression(pattern, place), place)?;
        match expand_template(substitution, pattern.captures_len() - 1) {
            Ok(substitution) => Some(RegexRewrite { pattern, substitution }),
            Err(reason) => {
                field.key("substitution").error(reason);
                None
            }
        }
    }

    /// `value` with all matches replaced.
    #[must_use]
    pub fn rewrite<'a>(&self, value: &'a str) -> Cow<'a, str> {
        match self.pattern.replace_all(value.as_bytes(), self.substitution.as_slice()) {
            Cow::Borrowed(_) => Cow::Borrowed(value),
            Cow::Owned(rewritten) => Cow::Owned(String::from_utf8_lossy(&rewritten).into_owned()),
        }
    }
}

fn expression<'a>(proto: &'a proto::matcher::RegexMatcher, field: Field<'_>) -> &'a str {
    use proto::matcher::regex_matcher::{EngineType, GoogleRe2};

    let proto::matcher::RegexMatcher { regex, engine_type } = proto;
    if let Some(EngineType::GoogleRe2(GoogleRe2 { max_program_size })) = engine_type {
        let why = "the size of a compiled expression is always limited";
        field.key("google_re2").ignored("max_program_size", max_program_size, why);
    }
    regex
}

fn compile(pattern: &str, field: Field<'_>) -> Option<bytes::Regex> {
    // Without Unicode classes first, as in RE2; a pattern that asks for some by `\p` gets them.
    let ascii = bytes::RegexBuilder::new(pattern).unicode(false).build();
    match ascii.or_else(|_| bytes::Regex::new(pattern)) {
        Ok(regex) => Some(regex),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or(&reason).trim().trim_start_matches("error: ");
            field.key("regex").error(format!("invalid regular expression: {reason}"));
            None
        }
    }
}

/// A substitution with RE2's `\1` in the form that the regex crate expands, `${1}`.
fn expand_template(substitution: &str, groups: usize) -> Result<Vec<u8>, String> {
    let mut template = String::new();
    let mut characters = substitution.chars();
    while let Some(character) = characters.next() {
        match character {
            '$' => template.push_str("$$"),
            '\\' => match characters.next() {
                Some('\\') => template.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    if digit.to_digit(10).is_some_and(|group| group as usize > groups) {
                        return Err(format!("refers to group {digit}, but the pattern has {groups}"));
                    }
                    template.extend(["${", digit.encode_utf8(&mut [0; 4]), "}"]);
                }
                _ => return Err(r"a backslash must be followed by a digit or a backslash".to_owned()),
            },
            other => template.push(other),
        }
    }
    Ok(template.into_bytes())
}

#[cfg(test)]
mod tests {
    use proto::matcher::{RegexMatchAndSubstitute, RegexMatcher};

    use super::*;
    use crate::config::Report;

    fn regex(pattern: &str) -> Result<Regex, String> {
        let report = Report::new();
        let proto = RegexMatcher { regex: pattern.to_owned(), engine_type: None };
        let compiled = Regex::from_proto(&proto, Field::root(&report));
        compiled.ok_or_else(|| report.into_problems()[0].to_string())
    }

    fn rewrite(pattern: &str, substitution: &str) -> Result<RegexRewrite, String> {
        let report = Report::new();
        let proto = RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher { regex: pattern.to_owned(), engine_type: None }),
            substitution: substitution.to_owned(),
        };
        let compiled = RegexRewrite::from_proto(&proto, Field::root(&report));
        compiled.ok_or_else(|| report.into_problems()[0].to_string())
    }

    #[test]
    fn the_whole_value_must_match() {
        for (pattern, value, matches) in [
            ("a|ab", "ab", true),
            ("a", "ab", false),
            ("/v[0-9]+/.*", "/v12/x", true),
            ("/v[0-9]+/.*", "x/v12/x", false),
            ("(?i)get", "GET", true),
            (r"\d+", "٣", false),
            (r"\pL+", "é", true),
            (".*", "a\nb", false),
            ("^a$", "a", true),
        ] {
            assert_eq!(regex(pattern).unwrap().matches(value.as_bytes()), matches, "{pattern} {value}");
        }
    }

    #[test]
    fn bad_expressions_are_refused() {
        for pattern in ["(", "a)(b", "(?=a)", r"\1"] {
            assert!(regex(pattern).unwrap_err().starts_with("regex: invalid regular expression: "), "{pattern}");
        }
    }

    #[test]
    fn rewrites_refer_to_groups() {
        for (pattern, substitution, value, expected) in [
            ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("b", r"$1\\\0", "abc", r"a$1\bc"),
            ("x", "y", "abc", "abc"),
        ] {
            assert_eq!(rewrite(pattern, substitution).unwrap().rewrite(value), expected);
        }
        assert!(matches!(rewrite("x", "y").unwrap().rewrite("abc"), Cow::Borrowed("abc")));
        assert_eq!(rewrite("(a)", r"\2").unwrap_err(), "substitution: refers to group 2, but the pattern has 1");
        assert!(rewrite("a", r"\x").is_err());
        assert!(rewrite("(", "").unwrap_err().starts_with("pattern.regex: "));
    }
}
