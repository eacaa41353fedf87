//! JSON formats: a tree of literals and commands, one object to a line.
//!
//! A string that is one command keeps the command's type: numbers have no quotes, an absent fact is `null`. Any other string is text.
//! Keys come out sorted. With `omit_empty_values`, absent facts vanish with their keys, and so do objects that become empty.

use std::io::Write;

use crate::config::Field;
use crate::proto;
use crate::proto::value::Kind;
use crate::stream_info::HeaderCapture;

use super::format::{Format, Piece};
use super::print::Printed;
use super::scope::Scope;

/// A compiled JSON format.
#[derive(Debug)]
pub struct JsonFormat {
    root: Node,
    omit_empty: bool,
}

#[derive(Debug)]
enum Node {
    /// Finished JSON.
    Literal(String),
    Text(Format),
    List(Vec<Node>),
    /// Keys are finished JSON strings.
    Object(Vec<(String, Node)>),
}

impl JsonFormat {
    /// Compiles `format` and reports what is wrong with it.
    pub fn from_proto(format: &proto::Struct, omit_empty: bool, field: Field<'_>) -> Option<JsonFormat> {
        Some(JsonFormat { root: object(format, field)?, omit_empty })
    }

    /// Appends one line.
    pub fn render(&self, scope: &Scope<'_>, out: &mut Vec<u8>) {
        if !self.root.render(scope, self.omit_empty, out) {
            out.extend_from_slice(b"{}");
        }
        out.push(b'\n');
    }

    /// Whether it holds a command that only `formatters` can add.
    pub(super) fn needs_formatter(&self) -> bool {
        self.root.needs_formatter()
    }

    /// Adds the headers that the format needs at the end of a stream.
    pub fn capture(&self, capture: &mut HeaderCapture) {
        self.root.capture(capture);
    }
}

fn object(format: &proto::Struct, field: Field<'_>) -> Option<Node> {
    let proto::Struct { fields } = format;
    let mut entries: Vec<_> = fields.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    // Every entry is converted before any failure counts, so that all errors are reported.
    let members: Vec<_> =
        entries.into_iter().map(|(key, value)| Some((quoted(key), node(value, field.entry(key))?))).collect();
    members.into_iter().collect::<Option<_>>().map(Node::Object)
}

fn node(value: &proto::Value, field: Field<'_>) -> Option<Node> {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Some(Node::Literal("null".to_owned())),
        Some(Kind::BoolValue(value)) => Some(Node::Literal(value.to_string())),
        // As Envoy has it: only whole numbers stay numbers.
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 => Some(Node::Literal(value.to_string())),
        Some(Kind::NumberValue(value)) => Some(Node::Literal(quoted(&value.to_string()))),
        Some(Kind::StringValue(text)) => {
            let format = Format::parse_for_log(text, field)?;
            Some(match format.as_literal() {
                Some(text) => Node::Literal(quoted(text)),
                None => Node::Text(format),
            })
        }
        Some(Kind::StructValue(value)) => object(value, field),
        Some(Kind::ListValue(list)) => {
            let items: Vec<_> = list.values.iter().enumerate().map(|(i, value)| node(value, field.index(i))).collect();
            items.into_iter().collect::<Option<_>>().map(Node::List)
        }
    }
}

impl Node {
    /// Appends the node; answers whether there was anything to append.
    fn render(&self, scope: &Scope<'_>, omit_empty: bool, out: &mut Vec<u8>) -> bool {
        match self {
            Node::Literal(json) if json == "null" && omit_empty => return false,
            Node::Literal(json) => out.extend_from_slice(json.as_bytes()),
            Node::Text(format) => return render_text(format, scope, omit_empty, out),
            Node::List(items) => {
                out.push(b'[');
                for item in items {
                    if item.render(scope, omit_empty, out) {
                        out.push(b',');
                    }
                }
                close(b']', out);
            }
            Node::Object(members) => {
                let start = out.len();
                out.push(b'{');
                for (key, value) in members {
                    let before = out.len();
                    out.extend_from_slice(key.as_bytes());
                    out.push(b':');
                    if value.render(scope, omit_empty, out) {
                        out.push(b',');
                    } else {
                        out.truncate(before);
                    }
                }
                if omit_empty && out.len() == start + 1 {
                    out.truncate(start);
                    return false;
                }
                close(b'}', out);
            }
        }
        true
    }

    fn needs_formatter(&self) -> bool {
        match self {
            Node::Literal(_) => false,
            Node::Text(format) => format.needs_formatter(),
            Node::List(items) => items.iter().any(Node::needs_formatter),
            Node::Object(members) => members.iter().any(|(_, value)| value.needs_formatter()),
        }
    }

    fn capture(&self, capture: &mut HeaderCapture) {
        match self {
            Node::Literal(_) => {}
            Node::Text(format) => format.capture(capture),
            Node::List(items) => items.iter().for_each(|item| item.capture(capture)),
            Node::Object(members) => members.iter().for_each(|(_, value)| value.capture(capture)),
        }
    }
}

/// Ends a list or an object, whose items each left a comma behind.
fn close(bracket: u8, out: &mut Vec<u8>) {
    match out.last_mut() {
        Some(last @ b',') => *last = bracket,
        _ => out.push(bracket),
    }
}

fn render_text(format: &Format, scope: &Scope<'_>, omit_empty: bool, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    if let [Piece::Command(command)] = format.pieces() {
        out.push(b'"');
        match command.print(scope, out) {
            Printed::Text => {
                escape(out, start + 1);
                out.push(b'"');
            }
            Printed::Number | Printed::Json => {
                out.remove(start);
            }
            Printed::Absent => {
                out.truncate(start);
                if omit_empty {
                    return false;
                }
                out.extend_from_slice(b"null");
            }
        }
        return true;
    }
    out.push(b'"');
    for piece in format.pieces() {
        let start = out.len();
        match piece {
            Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Command(command) => {
                if command.print(scope, out) == Printed::Absent && !omit_empty {
                    out.push(b'-');
                }
            }
        }
        escape(out, start);
    }
    out.push(b'"');
    true
}

/// Appends a value as JSON, with sorted keys.
pub fn append(value: &Kind, out: &mut Vec<u8>) {
    let each = |value: &proto::Value, out: &mut Vec<u8>| match &value.kind {
        Some(kind) => append(kind, out),
        None => out.extend_from_slice(b"null"),
    };
    match value {
        Kind::NullValue(_) => out.extend_from_slice(b"null"),
        Kind::BoolValue(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Kind::NumberValue(value) => {
            // Writing into a `Vec` cannot fail.
            let _ = write!(out, "{value}");
        }
        Kind::StringValue(text) => {
            out.push(b'"');
            let start = out.len();
            out.extend_from_slice(text.as_bytes());
            escape(out, start);
            out.push(b'"');
        }
        Kind::ListValue(list) => {
            out.push(b'[');
            for value in &list.values {
                each(value, out);
                out.push(b',');
            }
            close(b']', out);
        }
        Kind::StructValue(object) => {
            let mut members: Vec<_> = object.fields.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            out.push(b'{');
            for (key, value) in members {
                append(&Kind::StringValue(key.clone()), out);
                out.push(b':');
                each(value, out);
                out.push(b',');
            }
            close(b'}', out);
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Makes what stands behind `start` the inside of a JSON string. Most text needs nothing, so only the rest is copied.
fn escape(out: &mut Vec<u8>, start: usize) {
    let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    if out[start..].iter().all(is_plain) {
        return;
    }
    let raw = out.split_off(start);
    // Writing into a `Vec` cannot fail.
    for chunk in raw.utf8_chunks() {
        for char in chunk.valid().chars() {
            let _ = match char {
                '"' => out.write_all(br#"\""#),
                '\\' => out.write_all(br"\\"),
                '\n' => out.write_all(br"\n"),
                '\r' => out.write_all(br"\r"),
                '\t' => out.write_all(br"\t"),
                char if char.is_ascii_control() => write!(out, "\\u{:04x}", u32::from(char)),
                char => write!(out, "{char}"),
            };
        }
        // A byte that is no UTF-8 is taken for ISO 8859-1, as Envoy takes it.
        for byte in chunk.invalid() {
            let _ = write!(out, "\\u{byte:04x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_made_valid() {
        for raw in [&b"plain"[..], b"a\"b\\c\n\x01\x7f", "\u{e9}\u{1f600}".as_bytes()] {
            let mut out = b"x".to_vec();
            escape(&mut out, 1);
            out.extend_from_slice(raw);
            escape(&mut out, 1);
            let json = format!("\"{}\"", std::str::from_utf8(&out).unwrap());
            let text: String = serde_json::from_str(&json).unwrap();
            assert_eq!(text.as_bytes()[1..], *raw);
        }
        let mut out = b"a\xffb".to_vec();
        escape(&mut out, 0);
        assert_eq!(out, br"a\u00ffb");
    }
}
