//! Strings (`envoy.type.matcher.v3.StringMatcher`, `RegexMatcher`).

use regex::Regex;

/// A compiled `StringMatcher`.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    pattern: Pattern,
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
}

impl StringMatcher {
    /// Whether `value` matches.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        let _ = (value, &self.pattern, self.ignore_case);
        todo!()
    }
}
