//! Text formats: `%COMMAND(argument):length%` between literal text, as in access logs and in header values.
//!
//! A format is parsed and resolved when the configuration is loaded. Rendering walks a list and appends to the caller's buffer.

use crate::config::Field;
use crate::stream_info::HeaderCapture;

use super::command::{Command, FormatError};
use super::operator::Operator;
use super::print::Printed;
use super::scope::Scope;

/// A compiled text format.
///
/// For the value of a header: [`Format::parse`] when the configuration is loaded, [`Format::capture`] to have the headers kept that it
/// reads of the request when it is filled in for a response, and for each message [`Format::render`] with [`Style::HeaderValue`] and
/// [`Scope::of_request`] or [`Scope::of_response`]. Rendering appends to the caller's buffer and allocates nothing else.
#[derive(Debug, Clone)]
pub struct Format {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
pub(super) enum Piece {
    Literal(String),
    Command(Command),
}

/// What a format is rendered into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A header value: absent facts print nothing, bytes stay as they are.
    HeaderValue,
    /// A body: absent facts print `-`, bytes stay as they are.
    Body,
    /// A line of a log: absent facts print `-`. Control bytes are escaped, so that nobody forges a line.
    Line,
    /// The same where the configuration says `omit_empty_values`: absent facts print nothing.
    LineOmittingEmpty,
}

impl Format {
    /// Compiles a format whose text matters, such as the value of a header.
    ///
    /// # Errors
    /// The first command that is wrong, not known or not implemented.
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        let format = Format::compile(text)?;
        if format.needs_formatter() {
            return Err(FormatError::Unanswered { name: "REQ_WITHOUT_QUERY" });
        }
        let unanswered = format.unanswered().next();
        unanswered.map_or(Ok(format), |name| Err(FormatError::Unanswered { name }))
    }

    /// Compiles the format of a log and reports what is wrong with it. A command for which nothing is recorded here yet is a warning and
    /// prints as absent: the log loses a fact, and nothing else changes.
    #[must_use]
    pub fn parse_for_log(text: &str, field: Field<'_>) -> Option<Format> {
        match Format::compile(text) {
            Ok(format) => {
                for name in format.unanswered() {
                    field.warning(format!("%{name}% is not implemented by Portreeve yet and is logged as absent"));
                }
                Some(format)
            }
            Err(error) => {
                field.error(error.to_string());
                None
            }
        }
    }

    fn compile(text: &str) -> Result<Format, FormatError> {
        let mut pieces = Vec::new();
        let mut position = 0;
        while let Some(at) = text[position..].find('%').map(|offset| position + offset) {
            push_literal(&mut pieces, &text[position..at]);
            if text[at..].starts_with("%%") {
                push_literal(&mut pieces, "%");
                position = at + 2;
            } else {
                let (command, end) = Command::parse(text, at)?;
                pieces.push(Piece::Command(command));
                position = end;
            }
        }
        push_literal(&mut pieces, &text[position..]);
        Ok(Format { pieces })
    }

    fn commands(&self) -> impl Iterator<Item = &Command> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Command(command) => Some(command),
        })
    }

    /// Whether it holds a command that only `formatters` can add.
    pub(super) fn needs_formatter(&self) -> bool {
        self.commands().any(|command| matches!(command.operator, Operator::RequestWithoutQuery(..)))
    }

    fn unanswered(&self) -> impl Iterator<Item = &'static str> {
        self.commands().filter_map(|command| match command.operator {
            Operator::Unanswered(name) => Some(name),
            _ => None,
        })
    }

    /// The text, if the format holds no command.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The parts in their order.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Appends the format, filled in, to `out`.
    pub fn render(&self, scope: &Scope<'_>, style: Style, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Command(command) => {
                    let start = out.len();
                    match (command.print(scope, out), style) {
                        (Printed::Absent, Style::Line | Style::Body) => out.push(b'-'),
                        (Printed::Text | Printed::Json, Style::Line | Style::LineOmittingEmpty) => {
                            escape_controls(out, start);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// Adds the headers that the format needs at the end of a stream.
    pub fn capture(&self, capture: &mut HeaderCapture) {
        for command in self.commands() {
            command.operator.capture(capture);
        }
    }
}

fn push_literal(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Literal(last)) => last.push_str(text),
        _ if text.is_empty() => {}
        _ => pieces.push(Piece::Literal(text.to_owned())),
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Rewrites control bytes behind `start` as `\x0a`. They are rare, so only then is anything copied.
fn escape_controls(out: &mut Vec<u8>, start: usize) {
    if !out[start..].iter().any(u8::is_ascii_control) {
        return;
    }
    for byte in out.split_off(start) {
        if byte.is_ascii_control() {
            out.extend_from_slice(&[b'\\', b'x', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        } else {
            out.push(byte);
        }
    }
}
