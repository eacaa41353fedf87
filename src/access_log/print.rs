//! How facts get into a buffer: each function appends one and says what that was.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, SystemTime};

use crate::net::Address;
use crate::proto::Value;
use crate::proto::value::Kind;

use super::json;
use super::time::TimeFormat;

/// What an operator has printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Printed {
    /// Nothing: the fact does not exist.
    Absent,
    /// Text, perhaps empty.
    Text,
    /// A number, which JSON shows without quotes.
    Number,
    /// Finished JSON: a truth value, a list or an object.
    Json,
}

/// Text as it is.
pub fn text(out: &mut Vec<u8>, value: Option<impl AsRef<[u8]>>) -> Printed {
    let Some(value) = value else { return Printed::Absent };
    out.extend_from_slice(value.as_ref());
    Printed::Text
}

/// Text with underscores for white space.
pub fn underscored(out: &mut Vec<u8>, value: Option<&str>) -> Printed {
    let Some(value) = value else { return Printed::Absent };
    out.extend(value.bytes().map(|byte| if byte.is_ascii_whitespace() { b'_' } else { byte }));
    Printed::Text
}

/// Whatever prints itself.
pub fn display(out: &mut Vec<u8>, value: Option<impl Display>) -> Printed {
    let Some(value) = value else { return Printed::Absent };
    // Writing into a `Vec` cannot fail.
    let _ = write!(out, "{value}");
    Printed::Text
}

/// A number.
pub fn number(out: &mut Vec<u8>, value: Option<impl Display>) -> Printed {
    match display(out, value) {
        Printed::Text => Printed::Number,
        printed => printed,
    }
}

/// Whole milliseconds.
pub fn milliseconds(out: &mut Vec<u8>, span: Option<Duration>) -> Printed {
    number(out, span.map(|span| span.as_millis()))
}

/// A moment.
pub fn time(out: &mut Vec<u8>, format: &TimeFormat, time: Option<SystemTime>) -> Printed {
    let Some(time) = time else { return Printed::Absent };
    format.render(time, out);
    Printed::Text
}

/// The items with commas between them, or `none`.
pub fn list(out: &mut Vec<u8>, none: &str, items: impl Iterator<Item = impl Display>) -> Printed {
    let start = out.len();
    for item in items {
        let separator = if out.len() == start { "" } else { "," };
        // Writing into a `Vec` cannot fail.
        let _ = write!(out, "{separator}{item}");
    }
    if out.len() == start { text(out, Some(none)) } else { Printed::Text }
}

/// The items with commas between them; absent if there are none.
pub fn names(out: &mut Vec<u8>, names: Option<&Vec<impl Display>>) -> Printed {
    match names {
        Some(names) if !names.is_empty() => list(out, "", names.iter()),
        _ => Printed::Absent,
    }
}

/// An address without its port; a Unix socket's path.
pub fn host(out: &mut Vec<u8>, address: Option<&Address>) -> Printed {
    match address {
        Some(Address::Ip(ip)) => display(out, Some(ip.ip())),
        other => display(out, other),
    }
}

/// A value of metadata: text by itself, anything else as JSON.
pub fn value(out: &mut Vec<u8>, value: Option<&Value>) -> Printed {
    match value.and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => Printed::Absent,
        Some(Kind::StringValue(value)) => text(out, Some(value)),
        Some(Kind::NumberValue(value)) => number(out, Some(value)),
        Some(other) => {
            json::append(other, out);
            Printed::Json
        }
    }
}
