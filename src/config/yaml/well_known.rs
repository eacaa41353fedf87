//! Google's own messages, which have a form of their own in JSON: `Any`, durations, structs, wrappers.

use prost_reflect::MessageDescriptor;

use super::scalar::{self, Presence, Slot, unexpected};
use super::wire::{put_bytes, put_fixed64, put_varint};
use super::{Content, Walker, refuse, suggest};
use crate::config::field::Field;
use crate::config::tree::{Entry, Node, Value};
use crate::proto;

impl Walker<'_> {
    /// Writes a message of google.protobuf; `false` if it is written like any other.
    pub(super) fn well_known(
        &self,
        descriptor: &MessageDescriptor,
        node: &Node<'_>,
        field: Field<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        match descriptor.name() {
            "Any" => self.any(node, field, out),
            "Duration" => self.duration(descriptor, node, field, out),
            "Struct" => self.structure(node, field, out),
            "Value" => self.value(node, field, out),
            "ListValue" => self.list(node, field, out),
            "Timestamp" | "FieldMask" => field.error(format!("{} cannot be configured", descriptor.full_name())),
            "BoolValue" | "StringValue" | "BytesValue" | "Int32Value" | "UInt32Value" | "Int64Value"
            | "UInt64Value" | "FloatValue" | "DoubleValue" => self.wrapper(descriptor, node, field, out),
            _ => return false,
        }
        true
    }

    /// A scalar that can be absent: written as what it wraps.
    fn wrapper(&self, descriptor: &MessageDescriptor, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        if let Value::Map(entries) = &node.value {
            return self.fields(descriptor, Content { entries, typed: false }, field, out);
        }
        let value = descriptor.get_field(1).expect("invariant: a wrapper's value is field 1");
        let slot = Slot { number: 1, kind: &value.kind(), presence: Presence::Implicit };
        self.scalar(slot, node, field, out);
    }

    fn any(&self, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        let Value::Map(entries) = &node.value else {
            return refuse(field, &unexpected("a mapping with \"@type\"", &node.value));
        };
        if entries.is_empty() {
            return;
        }
        let Some(entry) = entries.iter().find(|entry| entry.key == "@type") else {
            return field.error(
                "\"@type\" is missing: it names the message, \
                 as in \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            );
        };
        let place = field.key("@type");
        let Some((url, name)) = type_url(entry, place) else { return };
        if matches!(name, "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct") {
            return self.typed_struct(entries, field, out);
        }
        let Some(descriptor) = message_type(name, place) else { return };
        let mut bytes = Vec::new();
        if !name.starts_with("google.protobuf.") || name == "google.protobuf.Empty" {
            self.fields(&descriptor, Content { entries, typed: true }, field, &mut bytes);
        } else if let Some(content) = entries.iter().find(|entry| entry.key == "value") {
            self.message(&descriptor, &content.node, field.key("value"), &mut bytes);
        }
        put_any(url, &bytes, out);
    }

    /// A message of a type that the author's tools did not know: written out as that type, as if they had.
    fn typed_struct(&self, entries: &[Entry<'_>], field: Field<'_>, out: &mut Vec<u8>) {
        let child = |name: &str| entries.iter().find(|entry| entry.key == name);
        let Some(entry) = child("type_url").or_else(|| child("typeUrl")) else {
            return field.key("type_url").error("is required");
        };
        let place = field.key("type_url");
        let Some((url, name)) = type_url(entry, place) else { return };
        let Some(descriptor) = message_type(name, place) else { return };
        let mut bytes = Vec::new();
        if let Some(content) = child("value") {
            self.message(&descriptor, &content.node, field.key("value"), &mut bytes);
        }
        put_any(url, &bytes, out);
    }

    fn duration(&self, descriptor: &MessageDescriptor, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        const EXPECTED: &str = "a duration such as 5s or 0.25s";
        match &node.value {
            Value::Map(entries) => self.fields(descriptor, Content { entries, typed: false }, field, out),
            Value::Text(text) => match parse_duration(&text.text) {
                Some((seconds, nanos)) => {
                    put_varint(1, seconds.cast_unsigned(), out);
                    put_varint(2, i64::from(nanos).cast_unsigned(), out);
                }
                None => refuse(field, &unexpected(EXPECTED, &node.value)),
            },
            value => refuse(field, &unexpected(EXPECTED, value)),
        }
    }

    fn structure(&self, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        let Value::Map(entries) = &node.value else {
            return refuse(field, &unexpected("a mapping", &node.value));
        };
        for entry in entries {
            let (mut pair, mut value) = (Vec::new(), Vec::new());
            self.value(&entry.node, field.entry(&entry.key), &mut value);
            put_bytes(1, entry.key.as_bytes(), &mut pair);
            put_bytes(2, &value, &mut pair);
            put_bytes(1, &pair, out);
        }
    }

    fn list(&self, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        let Value::List(items) = &node.value else {
            return refuse(field, &unexpected("a list", &node.value));
        };
        for (position, item) in items.iter().enumerate() {
            let mut value = Vec::new();
            self.value(item, field.index(position), &mut value);
            put_bytes(1, &value, out);
        }
    }

    fn value(&self, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        match &node.value {
            Value::Null => put_varint(1, 0, out),
            Value::Bool(value) => put_varint(4, (*value).into(), out),
            Value::Text(text) => match (scalar::word(text), scalar::octal(text)) {
                (Some(word), _) => put_varint(4, word.into(), out),
                (None, Some(octal)) => put_number(&Value::Integer(octal), out),
                (None, None) => put_bytes(3, text.text.as_bytes(), out),
            },
            number @ (Value::Integer(_) | Value::Float(_)) => put_number(number, out),
            Value::Map(_) => {
                let mut bytes = Vec::new();
                self.structure(node, field, &mut bytes);
                put_bytes(5, &bytes, out);
            }
            Value::List(_) => {
                let mut bytes = Vec::new();
                self.list(node, field, &mut bytes);
                put_bytes(6, &bytes, out);
            }
        }
    }
}

/// The number of a google.protobuf.Value.
fn put_number(value: &Value<'_>, out: &mut Vec<u8>) {
    let number = match value {
        // The nearest number is what every reader takes.
        #[expect(clippy::cast_precision_loss)]
        Value::Integer(integer) => *integer as f64,
        Value::Float(float) => *float,
        _ => return,
    };
    put_fixed64(2, number.to_le_bytes(), out);
}

/// Writes the fields of an `Any`.
pub(super) fn put_any(url: &str, value: &[u8], out: &mut Vec<u8>) {
    put_bytes(1, url.as_bytes(), out);
    if !value.is_empty() {
        put_bytes(2, value, out);
    }
}

/// The type URL that an entry holds, and the name of the message in it.
fn type_url<'n>(entry: &'n Entry<'_>, field: Field<'_>) -> Option<(&'n str, &'n str)> {
    let Value::Text(url) = &entry.node.value else {
        field.error(unexpected("the name of a type", &entry.node.value));
        return None;
    };
    let Some((_, name)) = url.text.rsplit_once('/') else {
        field.error(format!("expected type.googleapis.com/{}", url.text));
        return None;
    };
    Some((&url.text, name))
}

fn message_type(name: &str, field: Field<'_>) -> Option<MessageDescriptor> {
    let descriptor = proto::pool().get_message_by_name(name);
    if descriptor.is_none() {
        let hint = suggest::message(proto::pool(), name).map(|near| format!(" (did you mean {near:?}?)"));
        field.error(format!("unknown type {name:?}{}", hint.unwrap_or_default()));
    }
    descriptor
}

/// Seconds and nanoseconds, of one sign, of `5s`, `0.25s` or `-1s`.
fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let text = text.strip_suffix('s')?;
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |text| (-1, text));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds: i64 = seconds.parse().ok().filter(|seconds| *seconds <= 315_576_000_000)?;
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Some((sign * seconds, i32::try_from(sign).ok()? * nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds() {
        assert_eq!(parse_duration("5s"), Some((5, 0)));
        assert_eq!(parse_duration("0.25s"), Some((0, 250_000_000)));
        assert_eq!(parse_duration("-1.000000001s"), Some((-1, -1)));
        for text in ["5", "5ms", ".5s", "5.s", "s", "", "1.0000000001s", "315576000001s", "5 s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
