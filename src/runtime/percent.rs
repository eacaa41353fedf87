//! Shares of requests (`envoy.type.v3.FractionalPercent`), fixed or as the runtime says.

use std::fmt;

use super::Runtime;
use crate::{
    config::{self, Report, Source},
    proto::{self, core::RuntimeFractionalPercent, type_v3::fractional_percent::DenominatorType, value::Kind},
};

/// So many in a hundred, in ten thousand or in a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FractionalPercent {
    numerator: u32,
    denominator: u32,
}

impl FractionalPercent {
    /// `numerator` in `denominator`.
    #[must_use]
    pub const fn new(numerator: u32, denominator: u32) -> FractionalPercent {
        FractionalPercent { numerator, denominator }
    }

    /// Converts the message.
    #[must_use]
    pub fn from_proto(proto: proto::type_v3::FractionalPercent) -> FractionalPercent {
        let proto::type_v3::FractionalPercent { numerator, denominator } = proto;
        let denominator = match DenominatorType::try_from(denominator).unwrap_or_default() {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        };
        FractionalPercent { numerator, denominator }
    }

    /// Whether a runtime value of these fields is a share, rather than several values below one key.
    pub(super) fn is_meant(fields: &proto::Struct) -> bool {
        fields.fields.is_empty() || ["numerator", "denominator"].iter().any(|key| fields.fields.contains_key(*key))
    }

    /// Reads it as it stands in a file.
    pub(super) fn from_yaml(text: &str) -> Option<FractionalPercent> {
        let report = Report::new();
        let fields: proto::Struct = config::load(&Source::new("runtime", text), &report)?;
        FractionalPercent::from_struct(&fields).filter(|_| FractionalPercent::is_meant(&fields))
    }

    pub(super) fn from_struct(fields: &proto::Struct) -> Option<FractionalPercent> {
        let numerator = match fields.fields.get("numerator").and_then(|value| value.kind.as_ref()) {
            None => 0,
            Some(Kind::NumberValue(number)) => number.to_string().parse().ok()?,
            Some(Kind::StringValue(text)) => text.parse().ok()?,
            Some(_) => return None,
        };
        let denominator = match fields.fields.get("denominator").and_then(|value| value.kind.as_ref()) {
            None => DenominatorType::Hundred,
            Some(Kind::StringValue(name)) => DenominatorType::from_str_name(name)?,
            Some(_) => return None,
        };
        let proto = proto::type_v3::FractionalPercent { numerator, denominator: denominator as i32 };
        Some(FractionalPercent::from_proto(proto))
    }

    /// Whether a request with this random number belongs to the share.
    #[must_use]
    pub fn holds(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

impl fmt::Display for FractionalPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

/// `RuntimeFractionalPercent`: a share that the runtime may change.
#[derive(Clone, Debug)]
pub struct RuntimeFraction {
    default: FractionalPercent,
    key: String,
}

impl RuntimeFraction {
    /// Converts the message.
    #[must_use]
    pub fn from_proto(proto: &RuntimeFractionalPercent) -> RuntimeFraction {
        let RuntimeFractionalPercent { default_value, runtime_key } = proto;
        RuntimeFraction {
            default: FractionalPercent::from_proto(default_value.unwrap_or_default()),
            key: runtime_key.clone(),
        }
    }

    /// The key by which the runtime changes it; empty if it cannot.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether a request with this random number belongs to the share.
    #[must_use]
    pub fn holds(&self, runtime: &Runtime, random: u64) -> bool {
        let changed = if self.key.is_empty() { None } else { runtime.get(&self.key) };
        changed.and_then(super::Value::percent).unwrap_or(self.default).holds(random)
    }
}
