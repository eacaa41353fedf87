//! Constraints on what has an order: numbers, durations, lengths.

use std::fmt;

use prost_reflect::{DynamicMessage, Value};

/// A value that rules compare and errors show.
pub(super) trait Ordered: PartialOrd + fmt::Display + Sized {
    /// The value if `value` is of this kind.
    fn read(value: &Value) -> Option<Self>;
}

/// A number of any protobuf type. Exact to 2^53, beyond which no rule goes.
#[derive(PartialEq, PartialOrd)]
pub(super) struct Number(f64);

impl Ordered for Number {
    #[expect(clippy::cast_precision_loss)]
    fn read(value: &Value) -> Option<Number> {
        Some(Number(match value {
            Value::I32(number) | Value::EnumNumber(number) => f64::from(*number),
            Value::U32(number) => f64::from(*number),
            Value::I64(number) => *number as f64,
            Value::U64(number) => *number as f64,
            Value::F32(number) => f64::from(*number),
            Value::F64(number) => *number,
            _ => return None,
        }))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Seconds and nanoseconds of the same sign.
#[derive(PartialEq, PartialOrd)]
pub(super) struct Span(i64, i32);

impl Ordered for Span {
    fn read(value: &Value) -> Option<Span> {
        let message = value.as_message()?;
        Some(Span(message.get_field_by_number(1)?.as_i64()?, message.get_field_by_number(2)?.as_i32()?))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 || self.1 < 0 { "-" } else { "" };
        let fraction = format!("{:09}", self.1.unsigned_abs());
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{}{point}{fraction}s", self.0.unsigned_abs())
    }
}

/// What `validate` calls `const`, `gt`, `gte`, `lt`, `lte`, `in` and `not_in`.
pub(super) struct Bounds<T> {
    exactly: Option<T>,
    above: Option<T>,
    at_least: Option<T>,
    below: Option<T>,
    at_most: Option<T>,
    allowed: Vec<T>,
    forbidden: Vec<T>,
}

impl<T: Ordered> Bounds<T> {
    /// The constraints of a message such as `validate.UInt32Rules`.
    pub fn of(rules: &DynamicMessage) -> Bounds<T> {
        let one =
            |name| rules.get_field_by_name(name).filter(|_| rules.has_field_by_name(name)).and_then(|v| T::read(&v));
        let several = |name| {
            let values = rules.get_field_by_name(name);
            values.and_then(|values| Some(values.as_list()?.iter().filter_map(T::read).collect())).unwrap_or_default()
        };
        Bounds {
            exactly: one("const"),
            above: one("gt"),
            at_least: one("gte"),
            below: one("lt"),
            at_most: one("lte"),
            allowed: several("in"),
            forbidden: several("not_in"),
        }
    }

    /// Why `value` does not satisfy the constraints.
    pub fn violation(&self, value: &T) -> Option<String> {
        if let Some(exactly) = self.exactly.as_ref().filter(|exactly| *exactly != value) {
            return Some(format!("must be {exactly}, is {value}"));
        }
        if !self.allowed.is_empty() && !self.allowed.contains(value) {
            return Some(format!("must be one of {}, is {value}", list(&self.allowed)));
        }
        if self.forbidden.contains(value) {
            return Some(format!("must not be {value}"));
        }
        let too_low = self.above.as_ref().is_some_and(|bound| value <= bound)
            || self.at_least.as_ref().is_some_and(|bound| value < bound);
        let too_high = self.below.as_ref().is_some_and(|bound| value >= bound)
            || self.at_most.as_ref().is_some_and(|bound| value > bound);
        (too_low || too_high).then(|| format!("must be {}, is {value}", self.range()))
    }

    /// `at least 1 and below 100`
    fn range(&self) -> String {
        let part = |word: &str, bound: &Option<T>| bound.as_ref().map(|bound| format!("{word} {bound}"));
        let low = part("above", &self.above).or_else(|| part("at least", &self.at_least));
        let high = part("below", &self.below).or_else(|| part("at most", &self.at_most));
        low.into_iter().chain(high).collect::<Vec<_>>().join(" and ")
    }
}

fn list<T: fmt::Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// What `validate` calls `len`, `min_len` and `max_len`, or `min_items` and `max_items`.
#[derive(Default)]
pub(super) struct Length {
    pub exactly: Option<u64>,
    pub at_least: Option<u64>,
    pub at_most: Option<u64>,
}

impl Length {
    /// Why `length` things of a kind, such as `characters`, are too few or too many.
    pub fn violation(&self, length: usize, of: &str) -> Option<String> {
        let length = length as u64;
        if let Some(exactly) = self.exactly.filter(|exactly| *exactly != length) {
            return Some(format!("must have {exactly} {of}, has {length}"));
        }
        if let Some(at_least) = self.at_least.filter(|at_least| length < *at_least) {
            return Some(match at_least {
                1 => "must not be empty".to_owned(),
                _ => format!("must have at least {at_least} {of}, has {length}"),
            });
        }
        let at_most = self.at_most.filter(|at_most| length > *at_most)?;
        Some(format!("must have at most {at_most} {of}, has {length}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(above: Option<f64>, at_most: Option<f64>) -> Bounds<Number> {
        let (above, at_most) = (above.map(Number), at_most.map(Number));
        Bounds {
            exactly: None,
            above,
            at_least: None,
            below: None,
            at_most,
            allowed: Vec::new(),
            forbidden: Vec::new(),
        }
    }

    #[test]
    fn ranges_are_open_or_closed() {
        let bounds = bounds(Some(0.0), Some(10.0));
        assert_eq!(bounds.violation(&Number(10.0)), None);
        assert_eq!(bounds.violation(&Number(0.0)).as_deref(), Some("must be above 0 and at most 10, is 0"));
        assert_eq!(bounds.violation(&Number(10.5)).as_deref(), Some("must be above 0 and at most 10, is 10.5"));
    }

    #[test]
    fn lists_allow_and_forbid() {
        let rules = Bounds { allowed: vec![Number(301.0), Number(302.0)], ..bounds(None, None) };
        assert_eq!(rules.violation(&Number(303.0)).as_deref(), Some("must be one of 301, 302, is 303"));
        let rules = Bounds { forbidden: vec![Number(7.0)], ..bounds(None, None) };
        assert_eq!(rules.violation(&Number(7.0)).as_deref(), Some("must not be 7"));
        assert_eq!(rules.violation(&Number(8.0)), None);
    }

    #[test]
    fn spans_are_shown_in_seconds() {
        assert_eq!(Span(0, 1_000_000).to_string(), "0.001s");
        assert_eq!(Span(-5, 0).to_string(), "-5s");
        assert!(Span(1, 0) < Span(1, 1));
    }

    #[test]
    fn lengths_are_counted() {
        let length = Length { at_least: Some(1), at_most: Some(3), exactly: None };
        assert_eq!(length.violation(0, "characters").as_deref(), Some("must not be empty"));
        assert_eq!(length.violation(4, "characters").as_deref(), Some("must have at most 3 characters, has 4"));
        assert_eq!(length.violation(2, "characters"), None);
    }
}
