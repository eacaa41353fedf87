//! One runtime value, read as whatever it may be: a text, a number, a share.

use std::collections::BTreeMap;

use super::FractionalPercent;
use crate::{
    config::Field,
    proto::{self, value::Kind},
};

/// A value of the runtime. Numbers may stand in quotes.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    text: String,
    number: Option<f64>,
    boolean: Option<bool>,
    percent: Option<FractionalPercent>,
}

impl Value {
    /// Reads a text, as it stands in files and in requests to the admin interface.
    #[must_use]
    pub fn from_text(text: &str) -> Value {
        let stated = text.trim();
        let boolean = match stated.parse::<u64>() {
            Ok(number) => Some(number != 0),
            Err(_) if stated.eq_ignore_ascii_case("true") => Some(true),
            Err(_) => stated.eq_ignore_ascii_case("false").then_some(false),
        };
        let percent = if stated.contains("numerator") || stated.contains("denominator") {
            FractionalPercent::from_yaml(stated)
        } else {
            None
        };
        Value { text: text.to_owned(), number: stated.parse().ok(), boolean, percent }
    }

    fn from_proto(proto: &proto::Value) -> Value {
        let proto::Value { kind } = proto;
        match kind {
            Some(Kind::NumberValue(number)) => Value::from_text(&number.to_string()),
            Some(Kind::StringValue(text)) => Value::from_text(text),
            Some(Kind::BoolValue(flag)) => Value::from_text(&flag.to_string()),
            Some(Kind::StructValue(fields)) => {
                let percent = FractionalPercent::from_struct(fields);
                let text = percent.map(|percent| percent.to_string()).unwrap_or_default();
                Value { text, number: None, boolean: None, percent }
            }
            Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => Value::from_text(""),
        }
    }

    /// As the admin interface shows it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value as a whole number, if it is one.
    #[must_use]
    pub fn integer(&self) -> Option<u64> {
        self.number?.to_string().parse().ok()
    }

    /// The value as a switch, if it is one: a whole number other than zero is on.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        self.boolean
    }

    /// The value as a share of all requests; a whole number is so many in a hundred.
    #[must_use]
    pub fn percent(&self) -> Option<FractionalPercent> {
        let of_hundred = || {
            let numerator = self.integer()?;
            Some(FractionalPercent::new(u32::try_from(numerator).unwrap_or(u32::MAX), 100))
        };
        self.percent.or_else(of_hundred)
    }
}

/// Adds the values of a layer: a nested one stands under the keys above it, joined by dots.
pub(super) fn read_struct(proto: &proto::Struct, prefix: &str, field: Field<'_>, values: &mut BTreeMap<String, Value>) {
    for (key, value) in &proto.fields {
        let field = field.entry(key);
        let key = format!("{prefix}{key}");
        match &value.kind {
            Some(Kind::StructValue(fields)) if !FractionalPercent::is_meant(fields) => {
                read_struct(fields, &format!("{key}."), field, values);
            }
            Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => field.error("is no value of the runtime"),
            _ => _ = values.insert(key, Value::from_proto(value)),
        }
    }
}
