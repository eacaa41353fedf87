//! One `%COMMAND(argument):length%`: its syntax, and which operator it names.

use std::ops::Range;

use http::HeaderName;

use crate::stream_info::PeerCertificate;

use super::grpc_status;
use super::operator::{
    ADDRESSES, CertificateOf, Header, HostSource, METADATA, MOMENTS, Operator, PRECISIONS, PathSource, Query, SIZES,
    ServerName, Whitespace,
};
use super::plain::{ABSENT, COMMANDS, UNANSWERED};
use super::print::Printed;
use super::scope::Scope;
use super::time::{NewLine, TimeFormat, Zone};

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
    /// An argument or a length that the command does not take.
    #[error("{command} at position {position}: {reason}")]
    Argument {
        /// The command as it is written.
        command: String,
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
        let argument = parts.argument.clone().map_or("", |range| &text[at..][range]);
        let operator = match resolve(name, argument, parts.max_length.is_some()) {
            Resolved::Operator(operator) => operator,
            Resolved::Unknown => {
                return Err(FormatError::Unknown {
                    name: name.to_owned(),
                    position: at,
                    suggestion: nearest(name, known_names()),
                });
            }
            Resolved::Wrong(reason) => {
                let command = text[at..at + parts.end].to_owned();
                return Err(FormatError::Argument { command, position: at, reason });
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

/// Whether a command takes an argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Argument {
    Optional,
    Required,
}

/// Whether a command takes a length.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Allowed,
    Refused,
}

/// The commands that take an argument, and whether they take a length as well.
const WITH_ARGUMENT: &[(&str, Argument, Length)] = &[
    ("REQ", Argument::Required, Length::Allowed),
    ("REQUEST_HEADER", Argument::Required, Length::Allowed),
    ("REQ_WITHOUT_QUERY", Argument::Required, Length::Allowed),
    ("RESP", Argument::Required, Length::Allowed),
    ("RESPONSE_HEADER", Argument::Required, Length::Allowed),
    ("TRAILER", Argument::Required, Length::Allowed),
    ("RESPONSE_TRAILER", Argument::Required, Length::Allowed),
    ("QUERY_PARAM", Argument::Required, Length::Allowed),
    ("QUERY_PARAMS", Argument::Optional, Length::Allowed),
    ("PATH", Argument::Optional, Length::Allowed),
    ("ENVIRONMENT", Argument::Required, Length::Allowed),
    ("COALESCE", Argument::Required, Length::Allowed),
    ("DYNAMIC_METADATA", Argument::Required, Length::Allowed),
    ("METADATA", Argument::Required, Length::Allowed),
    ("CLUSTER_METADATA", Argument::Required, Length::Refused),
    ("UPSTREAM_METADATA", Argument::Required, Length::Refused),
    ("FILTER_STATE", Argument::Required, Length::Allowed),
    ("UPSTREAM_FILTER_STATE", Argument::Required, Length::Allowed),
    ("COMMON_DURATION", Argument::Required, Length::Refused),
    ("START_TIME", Argument::Optional, Length::Refused),
    ("START_TIME_LOCAL", Argument::Optional, Length::Refused),
    ("EMIT_TIME", Argument::Optional, Length::Refused),
    ("EMIT_TIME_LOCAL", Argument::Optional, Length::Refused),
    ("DOWNSTREAM_PEER_CERT_V_START", Argument::Optional, Length::Refused),
    ("DOWNSTREAM_PEER_CERT_V_END", Argument::Optional, Length::Refused),
    ("UPSTREAM_PEER_CERT_V_START", Argument::Optional, Length::Refused),
    ("UPSTREAM_PEER_CERT_V_END", Argument::Optional, Length::Refused),
    ("RESPONSE_CODE_DETAILS", Argument::Optional, Length::Refused),
    ("GRPC_STATUS", Argument::Optional, Length::Refused),
    ("REQUESTED_SERVER_NAME", Argument::Optional, Length::Refused),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Argument::Optional, Length::Refused),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Argument::Optional, Length::Refused),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Argument::Optional, Length::Refused),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", Argument::Optional, Length::Refused),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Argument::Optional, Length::Refused),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Argument::Optional, Length::Refused),
];

/// Commands that take no argument, and are the same for every stream or the same as another command.
const OTHERS: &[&str] = &["HOSTNAME", "STREAM_ID"];

/// Commands that are refused, because leaving them out would leave out what somebody programmed.
const REFUSED: &[&str] = &["CEL", "TYPED_CEL"];

fn known_names() -> impl Iterator<Item = &'static str> {
    let plain = COMMANDS.iter().map(|(name, _)| *name);
    let with_argument = WITH_ARGUMENT.iter().map(|(name, ..)| *name);
    let sizes = SIZES.iter().map(|(name, _)| *name);
    plain.chain(with_argument).chain(sizes).chain([OTHERS, ABSENT, UNANSWERED].into_iter().flatten().copied())
}

/// An empty argument counts as none.
fn resolve(name: &str, argument: &str, has_length: bool) -> Resolved {
    if let Some((_, wants, length)) = WITH_ARGUMENT.iter().find(|(known, ..)| *known == name) {
        return match () {
            () if *wants == Argument::Required && argument.is_empty() => {
                Resolved::Wrong("an argument is required".to_owned())
            }
            () if *length == Length::Refused && has_length => Resolved::Wrong("the command takes no length".to_owned()),
            () => with_argument(name, argument).map_or_else(Resolved::Wrong, Resolved::Operator),
        };
    }
    if REFUSED.contains(&name) {
        return Resolved::Wrong("expressions are valid in Envoy, not implemented by Portreeve yet".to_owned());
    }
    let Some(operator) = without_argument(name) else { return Resolved::Unknown };
    match (argument, has_length) {
        ("", false) => Resolved::Operator(operator),
        ("", true) => Resolved::Wrong("the command takes no length".to_owned()),
        _ => Resolved::Wrong("the command takes no argument".to_owned()),
    }
}

fn without_argument(name: &str) -> Option<Operator> {
    if let Some((_, print)) = COMMANDS.iter().find(|(known, _)| *known == name) {
        return Some(Operator::Plain(*print));
    }
    if let Some((_, size)) = SIZES.iter().find(|(known, _)| *known == name) {
        return Some(Operator::Sized(*size));
    }
    if let Some(known) = UNANSWERED.iter().find(|known| **known == name) {
        return Some(Operator::Unanswered(known));
    }
    match name {
        "HOSTNAME" => Some(Operator::Constant(rustix::system::uname().nodename().to_string_lossy().into_owned())),
        // The identity of a stream is the request's.
        "STREAM_ID" => Some(Operator::Request(Header::Named(HeaderName::from_static("x-request-id")), None)),
        name => ABSENT.contains(&name).then_some(Operator::Absent),
    }
}

fn with_argument(name: &str, argument: &str) -> Result<Operator, String> {
    if let Some((_, address)) = ADDRESSES.iter().find(|(known, _)| *known == name) {
        // What is no number of bits counts as none.
        return Ok(Operator::AddressWithoutPort(
            *address,
            argument.parse::<u64>().ok().map(|bits| u8::try_from(bits).unwrap_or(u8::MAX)),
        ));
    }
    Ok(match name {
        "REQ" | "REQUEST_HEADER" => headers(argument).map(|(main, other)| Operator::Request(main, other))?,
        "RESP" | "RESPONSE_HEADER" => headers(argument).map(|(main, other)| Operator::Response(main, other))?,
        "TRAILER" | "RESPONSE_TRAILER" => headers(argument).map(|(main, other)| Operator::Trailer(main, other))?,
        "REQ_WITHOUT_QUERY" => headers(argument).map(|(main, other)| Operator::RequestWithoutQuery(main, other))?,
        "START_TIME" => Operator::StartTime(time_format(argument, Zone::Utc)?),
        "START_TIME_LOCAL" => Operator::StartTime(time_format(argument, Zone::Local)?),
        "EMIT_TIME" => Operator::EmitTime(time_format(argument, Zone::Utc)?),
        "EMIT_TIME_LOCAL" => Operator::EmitTime(time_format(argument, Zone::Local)?),
        "DOWNSTREAM_PEER_CERT_V_START" => validity(|s| s.peer(), |peer| peer.not_before, argument)?,
        "DOWNSTREAM_PEER_CERT_V_END" => validity(|s| s.peer(), |peer| peer.not_after, argument)?,
        "UPSTREAM_PEER_CERT_V_START" => validity(|s| s.upstream_peer_certificate(), |peer| peer.not_before, argument)?,
        "UPSTREAM_PEER_CERT_V_END" => validity(|s| s.upstream_peer_certificate(), |peer| peer.not_after, argument)?,
        "RESPONSE_CODE_DETAILS" if argument == "ALLOW_WHITESPACES" => Operator::Details(Whitespace::Keep),
        "RESPONSE_CODE_DETAILS" => Operator::Details(Whitespace::Underscore),
        "GRPC_STATUS" => grpc_status::Style::parse(argument)
            .map(Operator::GrpcStatus)
            .ok_or("expected CAMEL_STRING, SNAKE_STRING or NUMBER")?,
        "PATH" => path(argument)?,
        "QUERY_PARAM" => Operator::QueryParameter(argument.to_owned()),
        "QUERY_PARAMS" if matches!(argument, "" | "ORIG" | "DECODED") => Operator::QueryParameters,
        "QUERY_PARAMS" => return Err("expected ORIG or DECODED".to_owned()),
        "COMMON_DURATION" => common_duration(argument)?,
        "ENVIRONMENT" => std::env::var(argument).map_or(Operator::Absent, Operator::Constant),
        "REQUESTED_SERVER_NAME" => server_name(argument)?,
        "COALESCE" => coalesce(argument)?,
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => filter_state(argument)?,
        "DYNAMIC_METADATA" => metadata("DYNAMIC", argument)?,
        "CLUSTER_METADATA" => metadata("CLUSTER", argument)?,
        "UPSTREAM_METADATA" => metadata("UPSTREAM_HOST", argument)?,
        "METADATA" => {
            let (of, path) = argument.split_once(':').unwrap_or((argument, ""));
            metadata(of, path)?
        }
        // No filter sets any.
        _ => Operator::Absent,
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
        // No header has no name: the alternative counts.
        "" => Header::Unknown,
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
    TimeFormat::parse(argument, zone).map_err(|error: NewLine| error.to_string())
}

fn validity(
    of: CertificateOf,
    bound: fn(&PeerCertificate) -> Option<std::time::SystemTime>,
    argument: &str,
) -> Result<Operator, String> {
    let format = if argument.is_empty() { "%Y-%m-%dT%H:%M:%S.000Z" } else { argument };
    Ok(Operator::Validity(of, bound, time_format(format, Zone::Utc)?))
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

/// `START:END:PRECISION`. A point that has no name here is one that a filter could set, and never comes.
fn common_duration(argument: &str) -> Result<Operator, String> {
    let parts: Vec<_> = argument.split(':').collect();
    let (start, end, precision) = match parts[..] {
        [start, end] => (start, end, "ms"),
        [start, end, precision] => (start, end, precision),
        _ => return Err("expected START:END:PRECISION".to_owned()),
    };
    let Some((_, precision)) = PRECISIONS.iter().find(|(known, _)| *known == precision) else {
        return Err(format!("{precision:?} is none of ms, us, ns"));
    };
    let moment = |name| MOMENTS.iter().find(|(known, _)| *known == name).map(|(_, moment)| *moment);
    Ok(match (moment(start), moment(end)) {
        (Some(start), Some(end)) => Operator::Between(start, end, *precision),
        _ => Operator::Absent,
    })
}

/// `X:Y`, both optional.
fn server_name(argument: &str) -> Result<Operator, String> {
    let (which, source) = argument.split_once(':').unwrap_or((argument, ""));
    let which = match which {
        "" | "SNI_ONLY" => ServerName::Sni,
        "SNI_FIRST" => ServerName::SniFirst,
        "HOST_FIRST" => ServerName::HostFirst,
        _ => return Err("expected SNI_ONLY, SNI_FIRST or HOST_FIRST first".to_owned()),
    };
    let source = match source {
        "" | "ORIG_OR_HOST" => HostSource::OriginalOrSent,
        "ORIG" => HostSource::Original,
        "HOST" => HostSource::Sent,
        _ => return Err("expected ORIG, HOST or ORIG_OR_HOST behind the colon".to_owned()),
    };
    Ok(Operator::ServerName(which, source))
}

/// `KEY:F:FIELD`. Nothing sets filter state, so only the spelling counts.
fn filter_state(argument: &str) -> Result<Operator, String> {
    match argument.split(':').collect::<Vec<_>>()[..] {
        [_] | [_, "PLAIN" | "TYPED"] | [_, "FIELD", _] => Ok(Operator::Absent),
        _ => Err("expected a key, and behind a colon PLAIN, TYPED or FIELD:NAME".to_owned()),
    }
}

/// Of whom, and `NAMESPACE:KEY:KEY`.
fn metadata(of: &str, path: &str) -> Result<Operator, String> {
    let path = path.split(':').map(str::to_owned).collect();
    if of == "DYNAMIC" {
        return Ok(Operator::DynamicMetadata(path));
    }
    if let Some((_, metadata)) = METADATA.iter().find(|(known, _)| *known == of) {
        return Ok(Operator::Metadata(*metadata, path));
    }
    match of {
        "ROUTE" => Ok(Operator::Unanswered("METADATA(ROUTE)")),
        "VIRTUAL_HOST" => Ok(Operator::Unanswered("METADATA(VIRTUAL_HOST)")),
        "LISTENER" => Ok(Operator::Unanswered("METADATA(LISTENER)")),
        "LISTENER_FILTER_CHAIN" => Ok(Operator::Unanswered("METADATA(LISTENER_FILTER_CHAIN)")),
        _ => Err(format!("{of:?} has no metadata")),
    }
}

/// `{"operators": ["COMMAND", {"command": "COMMAND", "param": "X", "max_length": 1}]}`
fn coalesce(argument: &str) -> Result<Operator, String> {
    let document: serde_json::Value = serde_json::from_str(argument).map_err(|error| format!("not JSON: {error}"))?;
    let entries = document["operators"].as_array().filter(|entries| !entries.is_empty());
    let entries = entries.ok_or("a list of operators is required")?;
    let command = |entry: &serde_json::Value| {
        let name = entry.as_str().or_else(|| entry["command"].as_str()).ok_or("a command is required")?;
        let max_length = entry["max_length"].as_u64().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        match resolve(name, entry["param"].as_str().unwrap_or_default(), max_length.is_some()) {
            Resolved::Operator(operator) => Ok(Command { operator, max_length }),
            Resolved::Unknown => Err(format!("unknown command {name}")),
            Resolved::Wrong(reason) => Err(format!("{name}: {reason}")),
        }
    };
    entries.iter().map(command).collect::<Result<_, _>>().map(Operator::Coalesce)
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
