//! Numbers, words and strings: what Envoy's reader takes for them.
//!
//! Envoy reads YAML 1.1 (`on` is true, `0644` is octal) and hands the result to protobuf's JSON reader, which takes numbers
//! in quotes and enum values in any case. What both refuse, such as a number where a string is due, is refused here.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{EnumDescriptor, Kind};

use super::wire::{put_bytes, put_fixed32, put_fixed64, put_varint};
use crate::config::position;
use crate::config::tree::{Node, Text, Value};

/// Whether a field without a value and one with the default value are told apart, so that the latter must be written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Presence {
    Explicit,
    Implicit,
}

/// Where a value goes.
#[derive(Clone, Copy)]
pub(super) struct Slot<'k> {
    pub number: u32,
    pub kind: &'k Kind,
    pub presence: Presence,
}

/// Writes a scalar, or says why `node` is none of that kind. `text` is the document.
pub(super) fn write(slot: Slot<'_>, node: &Node<'_>, text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let Slot { number, kind, presence } = slot;
    let start = out.len();
    let is_default = match kind {
        Kind::Bool => {
            let value = boolean(&node.value)?;
            put_varint(number, value.into(), out);
            !value
        }
        Kind::String => {
            let value = string(node, text)?;
            put_bytes(number, value.as_bytes(), out);
            value.is_empty()
        }
        Kind::Bytes => {
            let value = bytes(&node.value)?;
            put_bytes(number, &value, out);
            value.is_empty()
        }
        Kind::Enum(descriptor) => {
            let value = enumeration(descriptor, &node.value)?;
            put_varint(number, signed(value), out);
            value == 0
        }
        Kind::Double => {
            let value = float(&node.value)?;
            put_fixed64(number, value.to_le_bytes(), out);
            value == 0.0
        }
        Kind::Float => {
            // As protobuf does: the nearest value that the type can hold.
            #[expect(clippy::cast_possible_truncation)]
            let value = float(&node.value)? as f32;
            put_fixed32(number, value.to_le_bytes(), out);
            value == 0.0
        }
        Kind::Message(_) => unreachable!("messages are not scalars"),
        integer => write_integer(number, integer, &node.value, out)?,
    };
    if is_default && presence == Presence::Implicit {
        out.truncate(start);
    }
    Ok(())
}

/// Whether the integer written is 0.
fn write_integer(number: u32, kind: &Kind, value: &Value<'_>, out: &mut Vec<u8>) -> Result<bool, String> {
    const INT32: &str = "an integer of 32 bits";
    const INT64: &str = "an integer of 64 bits";
    const UINT32: &str = "a positive integer of 32 bits";
    const UINT64: &str = "a positive integer of 64 bits";
    Ok(match kind {
        Kind::Uint32 | Kind::Fixed32 => {
            let value = integer::<u32>(value, UINT32)?;
            match kind {
                Kind::Fixed32 => put_fixed32(number, value.to_le_bytes(), out),
                _ => put_varint(number, value.into(), out),
            }
            value == 0
        }
        Kind::Uint64 | Kind::Fixed64 => {
            let value = integer::<u64>(value, UINT64)?;
            match kind {
                Kind::Fixed64 => put_fixed64(number, value.to_le_bytes(), out),
                _ => put_varint(number, value, out),
            }
            value == 0
        }
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            let value = integer::<i32>(value, INT32)?;
            match kind {
                Kind::Sfixed32 => put_fixed32(number, value.to_le_bytes(), out),
                Kind::Sint32 => put_varint(number, zigzag(value.into()), out),
                _ => put_varint(number, signed(value.into()), out),
            }
            value == 0
        }
        _ => {
            let value = integer::<i64>(value, INT64)?;
            match kind {
                Kind::Sfixed64 => put_fixed64(number, value.to_le_bytes(), out),
                Kind::Sint64 => put_varint(number, zigzag(value), out),
                _ => put_varint(number, signed(value), out),
            }
            value == 0
        }
    })
}

fn signed(value: i64) -> u64 {
    value.cast_unsigned()
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn boolean(value: &Value<'_>) -> Result<bool, String> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::Text(text) => match text.text.as_ref() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => word(text).ok_or_else(|| unexpected("true or false", value)),
        },
        _ => Err(unexpected("true or false", value)),
    }
}

/// The truth value of a word that YAML 1.1 takes for one and 1.2 does not.
pub(super) fn word(text: &Text<'_>) -> Option<bool> {
    let capitals = text.text.chars().filter(char::is_ascii_uppercase).count();
    let regular =
        capitals == 0 || capitals == text.text.len() || (capitals == 1 && text.text.starts_with(char::is_uppercase));
    if !text.plain || !regular {
        return None;
    }
    match text.text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "on" => Some(true),
        "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The value of plain digits with a leading zero, which YAML 1.1 takes for octal and 1.2 for a string.
pub(super) fn octal(text: &Text<'_>) -> Option<i128> {
    let digits = text.text.strip_prefix('0').filter(|digits| text.plain && !digits.is_empty())?;
    i128::from_str_radix(digits, 8).ok().filter(|_| !digits.starts_with(['+', '-']))
}

fn integer<T: TryFrom<i128>>(value: &Value<'_>, expected: &str) -> Result<T, String> {
    let integer = match value {
        Value::Integer(integer) => Some(*integer),
        Value::Float(float) => whole(*float),
        Value::Text(text) => {
            octal(text).or_else(|| text.text.parse().ok()).or_else(|| text.text.parse().ok().and_then(whole))
        }
        _ => None,
    };
    integer.and_then(|integer| T::try_from(integer).ok()).ok_or_else(|| unexpected(expected, value))
}

/// The integer that a number such as `2e2` or `1.0` is.
fn whole(float: f64) -> Option<i128> {
    // Exact below 2^53, and what lies beyond 64 bits is out of range for every field.
    #[expect(clippy::cast_possible_truncation)]
    (float.fract() == 0.0 && float.abs() < 1e19).then_some(float as i128)
}

fn float(value: &Value<'_>) -> Result<f64, String> {
    match value {
        // The nearest number is what every reader takes.
        #[expect(clippy::cast_precision_loss)]
        Value::Integer(integer) => Ok(*integer as f64),
        Value::Float(float) => Ok(*float),
        Value::Text(text) => text.text.parse().map_err(|_| unexpected("a number", value)),
        _ => Err(unexpected("a number", value)),
    }
}

fn string<'n>(node: &'n Node<'_>, text: &'n str) -> Result<&'n str, String> {
    let refused = || format!("{}: write it in quotes", unexpected("a string", &node.value));
    match &node.value {
        Value::Text(value) if word(value).is_some() => Err(format!(
            "expected a string, found {}, which YAML 1.1 takes for a boolean: write it in quotes",
            value.text
        )),
        Value::Text(value) => Ok(&value.text),
        // Envoy keeps numbers with a fraction as they are written, such as the version 1.10.
        Value::Float(float) => {
            let written = node.at.map(|at| position::plain_scalar_at(text, at)).ok_or_else(refused)?;
            (written.parse() == Ok(*float)).then_some(written).ok_or_else(refused)
        }
        Value::Integer(_) | Value::Bool(_) => Err(refused()),
        _ => Err(unexpected("a string", &node.value)),
    }
}

fn bytes(value: &Value<'_>) -> Result<Vec<u8>, String> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let Value::Text(text) = value else { return Err(unexpected("bytes as base64", value)) };
    let text = text.text.as_ref();
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|error| format!("is not base64: {error}"))
}

fn enumeration(descriptor: &EnumDescriptor, value: &Value<'_>) -> Result<i64, String> {
    let number = match value {
        Value::Integer(number) => i32::try_from(*number).ok(),
        Value::Text(text) => match descriptor.values().find(|value| value.name().eq_ignore_ascii_case(&text.text)) {
            Some(value) => Some(value.number()),
            None => text.text.parse().ok(),
        },
        _ => None,
    };
    number.map(i64::from).ok_or_else(|| {
        let names: Vec<_> = descriptor.values().map(|value| value.name().to_owned()).collect();
        unexpected(&format!("one of {}", names.join(", ")), value)
    })
}

/// `expected true or false, found "maybe"`
pub(super) fn unexpected(expected: &str, found: &Value<'_>) -> String {
    let found = match found {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => format!("the number {value}"),
        Value::Float(value) => format!("the number {value}"),
        Value::Text(text) if text.text.len() <= 60 => format!("{:?}", text.text),
        Value::Text(_) => "a string".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    };
    format!("expected {expected}, found {found}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree;

    fn read(kind: &Kind, text: &str) -> Result<Vec<u8>, String> {
        let document = format!("x: {text}\n");
        let node = tree::parse("test.yaml", &document).expect("valid YAML");
        let Value::Map(entries) = &node.value else { panic!("a mapping") };
        let mut out = Vec::new();
        write(Slot { number: 1, kind, presence: Presence::Explicit }, &entries[0].node, &document, &mut out)
            .map(|()| out)
    }

    fn varint(kind: &Kind, text: &str) -> Option<u64> {
        let written = read(kind, text).ok()?;
        prost::encoding::decode_varint(&mut &written[1..]).ok()
    }

    #[test]
    fn booleans_are_those_of_yaml_1_1() {
        for text in ["true", "True", "TRUE", "on", "Yes", "y", "\"true\""] {
            assert_eq!(varint(&Kind::Bool, text), Some(1), "{text}");
        }
        for text in ["false", "off", "NO", "n"] {
            assert_eq!(varint(&Kind::Bool, text), Some(0), "{text}");
        }
        for text in ["1", "\"on\"", "maybe", "yEs", "[]"] {
            assert!(read(&Kind::Bool, text).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_come_in_many_forms() {
        for text in ["200", "\"200\"", "200.0", "2e2", "0310", "0xC8", "\"0200\""] {
            assert_eq!(varint(&Kind::Uint32, text), Some(200), "{text}");
        }
        for text in ["-1", "4294967296", "1.5", "x", "~", "true"] {
            assert!(read(&Kind::Uint32, text).is_err(), "{text}");
        }
        assert_eq!(varint(&Kind::Int32, "-1"), Some(u64::MAX));
        assert_eq!(varint(&Kind::Sint64, "-1"), Some(1));
        assert_eq!(varint(&Kind::Uint64, "18446744073709551615"), Some(u64::MAX));
    }

    #[test]
    fn strings_keep_what_is_written() {
        let string = |text| read(&Kind::String, text).map(|bytes| String::from_utf8_lossy(&bytes[2..]).into_owned());
        assert_eq!(string("1.10"), Ok("1.10".to_owned()));
        assert_eq!(string("007"), Ok("007".to_owned()));
        assert_eq!(string("\"yes\""), Ok("yes".to_owned()));
        assert_eq!(string("123").expect_err("a number"), "expected a string, found the number 123: write it in quotes");
        assert!(string("true").is_err());
        assert!(string("yes").expect_err("a word").contains("YAML 1.1"));
        assert!(string("[a]").is_err());
    }

    #[test]
    fn floats_and_bytes_are_read() {
        assert_eq!(read(&Kind::Double, "0.5").expect("a number")[1..], 0.5_f64.to_le_bytes());
        assert_eq!(read(&Kind::Float, "\"2\"").expect("a number")[1..], 2.0_f32.to_le_bytes());
        assert_eq!(read(&Kind::Bytes, "aGk").expect("base64")[2..], *b"hi");
        assert_eq!(read(&Kind::Bytes, "-_8=").expect("base64")[2..], [0xfb, 0xff]);
        assert!(read(&Kind::Bytes, "\"!\"").is_err());
    }

    #[test]
    fn enums_are_read_in_any_case_and_by_number() {
        let name = "envoy.config.cluster.v3.Cluster.DiscoveryType";
        let kind = Kind::Enum(crate::proto::pool().get_enum_by_name(name).expect("an enum"));
        assert_eq!(varint(&kind, "strict_dns"), Some(1));
        assert_eq!(varint(&kind, "Logical_DNS"), Some(2));
        assert_eq!(varint(&kind, "3"), Some(3));
        assert_eq!(varint(&kind, "\"3\""), Some(3));
        let error = read(&kind, "strict-dns").expect_err("unknown");
        assert!(error.starts_with("expected one of STATIC, STRICT_DNS,"), "{error}");
    }

    #[test]
    fn defaults_are_written_only_where_they_differ_from_nothing() {
        let document = "x: 0";
        let node = Node { value: Value::Integer(0), at: Some(3) };
        let mut out = Vec::new();
        let slot = Slot { number: 1, kind: &Kind::Uint32, presence: Presence::Implicit };
        write(slot, &node, document, &mut out).expect("a number");
        assert!(out.is_empty());
        write(Slot { presence: Presence::Explicit, ..slot }, &node, document, &mut out).expect("a number");
        assert_eq!(out, [8, 0]);
    }
}
