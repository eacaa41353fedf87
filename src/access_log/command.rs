//! One `%COMMAND(argument):length%`: its syntax, and which operator it names.

use std::ops::Range;

use http::HeaderName;

use crate::stream_info::PeerCertificate;

use super::grpc_status;
use super::operator::{
    COMMANDS, Header, MOMENTS, Operator, PRECISIONS, PathSource, Printed, Query, UNANSWERED, Whitespace,
};
use super::scope::Scope;
use super::time::{TimeFormat, UnknownSpecifier, Zone};

/// A resolved command with its length limit.
#[derive(Debug, Clone)]
pub struct Command {
    /// What it prints.
    pub operator: Operator,
    max_length: Option<usize>,
}

/// Why a format is refused.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A `%` that starts nothing.
    #[error("the '%' at position {position} starts no command; a percent sign is written '%%'")]
    Syntax {
        /// Where it stands, in bytes from 0.
        position: usize,
    },
    /// A command that Envoy does not have either.
    #[error("unknown command %{name}% at position {position}{}", suggestion.map(|s| format!("; did you mean %{s}%?")).unwrap_or_default())]
    Unknown {
        /// Its name.
        name: String,
        /// Where it stands, in bytes from 0.
        position: usize,
        /// The name that was probably meant.
        suggestion: Option<&'static str>,
    },
    /// A command that is valid in Envoy.
    #[error("%{name}% is valid in Envoy, not implemented by Portreeve yet")]
    Unanswered {
        /// Its name.
        name: &'static str,
    },
    /// An argument that the command does not take.
    #[error("%{name}({argument})% at position {position}: {reason}")]
    Argument {
        /// Name of the command.
        name: String,
        /// Its argument.
        argument: String,
        /// Where it stands, in bytes from 0.
        position: usize,
        /// What is expected.
        reason: String,
    },
}

impl Command {
    /// Reads the command that `text[at..]` starts with; answers it and where it ends.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, at: usize) -> Result<(Command, usize), FormatError> {
        let parts = Parts::scan(&text[at..]).ok_or(FormatError::Syntax { position: at })?;
        let name = &text[at..][parts.name.clone()];
        let argument = parts.argument.clone().map(|range| &text[at..][range]);
        let operator = match resolve(name, argument) {
            Resolved::Operator(operator) => operator,
            Resolved::Unknown => {
                return Err(FormatError::Unknown {
                    name: name.to_owned(),
                    position: at,
                    suggestion: nearest(name, known_names()),
                });
            }
            Resolved::Wrong(reason) => {
                let argument = argument.unwrap_or_default().to_owned();
                return Err(FormatError::Argument { name: name.to_owned(), argument, position: at, reason });
            }
        };
        Ok((Command { operator, max_length: parts.max_length }, at + parts.end))
    }

    /// Appends what the command stands for to `out`.
    pub fn print(&self, scope: &Scope<'_>, out: &mut Vec<u8>) -> Printed {
        let start = out.len();
        let printed = self.operator.print(scope, out);
        if let Some(max_length) = self.max_length {
            out.truncate(start.saturating_add(max_length).min(out.len()));
        }
        printed
    }
}

/// Where the parts of a command stand in its text.
struct Parts {
    name: Range<usize>,
    argument: Option<Range<usize>>,
    max_length: Option<usize>,
    end: usize,
}

impl Parts {
    /// `text` starts with a percent sign.
    fn scan(text: &str) -> Option<Parts> {
        let length =
            |from: usize, wanted: fn(&u8) -> bool| text.as_bytes()[from..].iter().take_while(|b| wanted(b)).count();
        let name = 1..1 + length(1, |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
        let mut end = name.end;
        let mut argument = None;
        if text[end..].starts_with('(') {
            let range = end + 1..end + text[end..].find(')')?;
            end = range.end + 1;
            argument = Some(range);
        }
        let mut max_length = None;
        if text[end..].starts_with(':') {
            let digits = end + 1..end + 1 + length(end + 1, u8::is_ascii_digit);
            end = digits.end;
            max_length = Some(text[digits].parse().ok()?);
        }
        (!name.is_empty() && text[end..].starts_with('%')).then_some(Parts { name, argument, max_length, end: end + 1 })
    }
}

enum Resolved {
    Operator(Operator),
    Unknown,
    /// What the argument should be.
    Wrong(String),
}

/// Commands that take an argument.
const WITH_ARGUMENT: &[&str] = &[
    "REQ",
    "REQUEST_HEADER",
    "RESP",
    "RESPONSE_HEADER",
    "TRAILER",
    "RESPONSE_TRAILER",
    "STREAM_ID",
    "START_TIME",
    "START_TIME_LOCAL",
    "EMIT_TIME",
    "EMIT_TIME_LOCAL",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CERT_V_END",
    "RESPONSE_CODE_DETAILS",
    "GRPC_STATUS",
    "PATH",
    "QUERY_PARAM",
    "COMMON_DURATION",
    "ENVIRONMENT",
    "HOSTNAME",
];

fn known_names() -> impl Iterator<Item = &'static str> {
    let plain = COMMANDS.iter().map(|(name, _)| *name);
    plain.chain(WITH_ARGUMENT.iter().copied()).chain(UNANSWERED.iter().copied())
}

fn resolve(name: &str, argument: Option<&str>) -> Resolved {
    if let Some((_, print)) = COMMANDS.iter().find(|(known, _)| *known == name) {
        return match argument {
            None => Resolved::Operator(Operator::Plain(*print)),
            Some(_) => Resolved::Wrong("the command takes no argument".to_owned()),
        };
    }
    if let Some(known) = UNANSWERED.iter().find(|known| **known == name) {
        return Resolved::Operator(Operator::Unanswered(known));
    }
    if !WITH_ARGUMENT.contains(&name) {
        return Resolved::Unknown;
    }
    match with_argument(name, argument.unwrap_or_default()) {
        Ok(operator) => Resolved::Operator(operator),
        Err(reason) => Resolved::Wrong(reason),
    }
}

fn with_argument(name: &str, argument: &str) -> Result<Operator, String> {
    Ok(match name {
        "REQ" | "REQUEST_HEADER" => headers(argument).map(|(main, other)| Operator::Request(main, other))?,
        "RESP" | "RESPONSE_HEADER" => headers(argument).map(|(main, other)| Operator::Response(main, other))?,
        "TRAILER" | "RESPONSE_TRAILER" => headers(argument).map(|(main, other)| Operator::Trailer(main, other))?,
        // The identity of a stream is the request's.
        "STREAM_ID" => Operator::Request(Header::Named(HeaderName::from_static("x-request-id")), None),
        "START_TIME" => Operator::StartTime(time_format(argument, Zone::Utc)?),
        "START_TIME_LOCAL" => Operator::StartTime(time_format(argument, Zone::Local)?),
        "EMIT_TIME" => Operator::EmitTime(time_format(argument, Zone::Utc)?),
        "EMIT_TIME_LOCAL" => Operator::EmitTime(time_format(argument, Zone::Local)?),
        "DOWNSTREAM_PEER_CERT_V_START" => peer_validity(|peer| peer.not_before, argument)?,
        "DOWNSTREAM_PEER_CERT_V_END" => peer_validity(|peer| peer.not_after, argument)?,
        "RESPONSE_CODE_DETAILS" => match argument {
            "" => Operator::Details(Whitespace::Underscore),
            "ALLOW_WHITESPACES" => Operator::Details(Whitespace::Keep),
            _ => return Err("expected ALLOW_WHITESPACES or nothing".to_owned()),
        },
        "GRPC_STATUS" => grpc_status::Style::parse(argument)
            .map(Operator::GrpcStatus)
            .ok_or("expected CAMEL_STRING, SNAKE_STRING or NUMBER")?,
        "PATH" => path(argument)?,
        "COMMON_DURATION" => common_duration(argument)?,
        _ if name != "HOSTNAME" && argument.is_empty() => return Err("a name is required".to_owned()),
        "QUERY_PARAM" => Operator::QueryParameter(argument.to_owned()),
        "ENVIRONMENT" => Operator::Constant(std::env::var(argument).unwrap_or_else(|_| "-".to_owned())),
        _ => Operator::Constant(rustix::system::uname().nodename().to_string_lossy().into_owned()),
    })
}

/// `X` or `X?Y`.
fn headers(argument: &str) -> Result<(Header, Option<Header>), String> {
    let (main, alternative) = match argument.split_once('?') {
        Some((main, alternative)) => (main, Some(alternative)),
        None => (argument, None),
    };
    Ok((header(main)?, alternative.map(header).transpose()?))
}

/// The header that a configuration calls `name`.
pub fn header(name: &str) -> Result<Header, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => Header::Method,
        ":path" => Header::Path,
        ":authority" | "host" => Header::Authority,
        ":scheme" => Header::Scheme,
        ":status" => Header::Status,
        name if name.starts_with(':') => Header::Unknown,
        name => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Header::Named(name),
            Err(_) if name.contains('?') => return Err("no more than one alternative is possible".to_owned()),
            Err(_) => return Err(format!("{name:?} is not a header name")),
        },
    })
}

fn time_format(argument: &str, zone: Zone) -> Result<TimeFormat, String> {
    if argument.is_empty() {
        return Ok(TimeFormat::iso(zone));
    }
    TimeFormat::parse(argument, zone).map_err(|error: UnknownSpecifier| error.to_string())
}

fn peer_validity(
    bound: fn(&PeerCertificate) -> Option<std::time::SystemTime>,
    argument: &str,
) -> Result<Operator, String> {
    let format = if argument.is_empty() { "%Y-%m-%dT%H:%M:%S.000Z" } else { argument };
    Ok(Operator::PeerValidity(bound, time_format(format, Zone::Utc)?))
}

/// `X:Y`, both optional.
fn path(argument: &str) -> Result<Operator, String> {
    let (query, source) = argument.split_once(':').unwrap_or((argument, ""));
    let query = match query {
        "" | "WQ" => Query::With,
        "NQ" => Query::Without,
        _ => return Err("expected WQ (with query) or NQ (without) first".to_owned()),
    };
    let source = match source {
        "" | "ORIG_OR_PATH" => PathSource::OriginalOrSent,
        "ORIG" => PathSource::Original,
        "PATH" => PathSource::Sent,
        _ => return Err("expected ORIG, PATH or ORIG_OR_PATH behind the colon".to_owned()),
    };
    Ok(Operator::Path(query, source))
}

/// `START:END:PRECISION`.
fn common_duration(argument: &str) -> Result<Operator, String> {
    let mut parts = argument.split(':');
    let mut next = || parts.next().unwrap_or_default();
    let (start, end, precision) = (next(), next(), next());
    if parts.next().is_some() {
        return Err("expected START:END:PRECISION".to_owned());
    }
    Ok(Operator::Between(row(MOMENTS, start)?, row(MOMENTS, end)?, row(PRECISIONS, precision)?))
}

fn row<T: Copy>(table: &[(&str, T)], name: &str) -> Result<T, String> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = table.iter().map(|(name, _)| *name).collect();
        format!("{name:?} is none of {}", names.join(", "))
    })
}

/// The known name with the fewest edits to `name`, if it is close.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let limit = name.len() / 3 + 1;
    known.map(|known| (distance(name, known), known)).filter(|(edits, _)| *edits <= limit).min().map(|(_, known)| known)
}

/// Levenshtein's distance, by bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
