//! The command operators of a format, such as `%RESPONSE_CODE%`: what each of them prints.
//!
//! An operator without an argument is one row of [`COMMANDS`]; one with an argument is a variant of [`Operator`]. All are resolved when
//! the configuration is loaded and print into a caller's buffer without allocation.

use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, Version};

use crate::net::Address;
use crate::stream_info::{HeaderCapture, PeerCertificate, StreamInfo};

use super::grpc_status;
use super::scope::{ORIGINAL_PATH, Scope};
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
}

type Print = fn(&Scope<'_>, &mut Vec<u8>) -> Printed;

/// One operator, resolved.
#[derive(Debug, Clone)]
pub enum Operator {
    /// A row of [`COMMANDS`].
    Plain(Print),
    /// The same for every stream.
    Constant(String),
    /// One of [`UNANSWERED`]: always absent.
    Unanswered(&'static str),
    /// `%REQ(X?Y)%`
    Request(Header, Option<Header>),
    /// `%RESP(X?Y)%`
    Response(Header, Option<Header>),
    /// `%TRAILER(X?Y)%`
    Trailer(Header, Option<Header>),
    /// `%START_TIME(X)%`
    StartTime(TimeFormat),
    /// `%EMIT_TIME(X)%`
    EmitTime(TimeFormat),
    /// `%DOWNSTREAM_PEER_CERT_V_START(X)%` and `_V_END`
    PeerValidity(fn(&PeerCertificate) -> Option<SystemTime>, TimeFormat),
    /// `%RESPONSE_CODE_DETAILS(X)%`
    Details(Whitespace),
    /// `%GRPC_STATUS(X)%`
    GrpcStatus(grpc_status::Style),
    /// `%PATH(X:Y)%`
    Path(Query, PathSource),
    /// `%QUERY_PARAM(X)%`
    QueryParameter(String),
    /// `%COMMON_DURATION(START:END:PRECISION)%`
    Between(Moment, Moment, Precision),
}

/// A header or pseudo header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:authority`
    Authority,
    /// `:scheme`
    Scheme,
    /// `:status`
    Status,
    /// A pseudo header that there is not: always absent.
    Unknown,
    /// Any other.
    Named(HeaderName),
}

/// What becomes of white space in `%RESPONSE_CODE_DETAILS%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whitespace {
    /// Printed as it is.
    Keep,
    /// Printed as `_`.
    Underscore,
}

/// Whether `%PATH%` shows the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// `WQ`
    With,
    /// `NQ`
    Without,
}

/// Which path `%PATH%` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathSource {
    /// `ORIG`: as the client sent it, if it was rewritten.
    Original,
    /// `PATH`: as it went upstream.
    Sent,
    /// `ORIG_OR_PATH`: as the client sent it.
    OriginalOrSent,
}

/// A point in the life of a stream.
pub type Moment = fn(&StreamInfo) -> Option<Duration>;

/// The unit of `%COMMON_DURATION%`.
pub type Precision = fn(Duration) -> u128;

/// The time points of `%COMMON_DURATION%` that are kept.
pub const MOMENTS: &[(&str, Moment)] = &[
    ("DS_RX_BEG", |_| Some(Duration::ZERO)),
    ("DS_RX_END", |info| info.timing.last_downstream_rx),
    ("US_TX_BEG", |info| info.timing.first_upstream_tx),
    ("US_TX_END", |info| info.timing.last_upstream_tx),
    ("US_RX_BEG", |info| info.timing.first_upstream_rx),
    ("US_RX_END", |info| info.timing.last_upstream_rx),
    ("DS_TX_BEG", |info| info.timing.first_downstream_tx),
    ("DS_TX_END", |info| info.timing.end),
];

/// The units of `%COMMON_DURATION%`.
pub const PRECISIONS: &[(&str, Precision)] =
    &[("ms", |span| span.as_millis()), ("us", |span| span.as_micros()), ("ns", |span| span.as_nanos())];

/// Operators that take no argument, by name.
pub const COMMANDS: &[(&str, Print)] = &[
    ("PROTOCOL", |s, out| text(out, s.info.protocol.map(version))),
    ("UPSTREAM_PROTOCOL", |s, out| text(out, s.info.upstream_protocol.map(version))),
    ("RESPONSE_CODE", |s, out| number(out, Some(s.info.response_code.unwrap_or(0)))),
    ("RESPONSE_FLAGS", |s, out| list(out, "-", s.info.flags.names().map(|(short, _)| short))),
    ("RESPONSE_FLAGS_LONG", |s, out| list(out, "-", s.info.flags.names().map(|(_, long)| long))),
    ("BYTES_RECEIVED", |s, out| number(out, Some(s.info.bytes_received))),
    ("BYTES_SENT", |s, out| number(out, Some(s.info.bytes_sent))),
    // These two exist for HTTP/3 alone; elsewhere Envoy prints 0.
    ("BYTES_RETRANSMITTED", |_, out| number(out, Some(0))),
    ("PACKETS_RETRANSMITTED", |_, out| number(out, Some(0))),
    ("ROUNDTRIP_DURATION", |_, _| Printed::Absent),
    ("DURATION", |s, out| milliseconds(out, s.info.timing.end)),
    ("REQUEST_DURATION", |s, out| milliseconds(out, s.info.timing.last_downstream_rx)),
    ("REQUEST_TX_DURATION", |s, out| milliseconds(out, s.info.timing.last_upstream_tx)),
    ("RESPONSE_DURATION", |s, out| milliseconds(out, s.info.timing.first_upstream_rx)),
    ("RESPONSE_TX_DURATION", |s, out| milliseconds(out, between(s.info.timing.first_upstream_rx, s.info.timing.end))),
    ("ROUTE_NAME", |s, out| text(out, s.info.route_name.as_deref())),
    ("UPSTREAM_HOST", |s, out| display(out, s.info.upstream.as_ref().map(|upstream| &upstream.address))),
    ("UPSTREAM_HOST_NAME", |s, out| text(out, s.info.upstream.as_ref().map(|upstream| &upstream.host_name))),
    ("UPSTREAM_HOST_NAME_WITHOUT_PORT", |s, out| {
        text(out, s.info.upstream.as_ref().map(|upstream| without_port(&upstream.host_name)))
    }),
    ("UPSTREAM_CLUSTER", |s, out| text(out, s.info.cluster_name())),
    ("UPSTREAM_CLUSTER_RAW", |s, out| text(out, s.info.cluster_name())),
    ("UPSTREAM_REMOTE_ADDRESS", |s, out| display(out, s.upstream_peer())),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |s, out| host(out, s.upstream_peer())),
    ("UPSTREAM_REMOTE_PORT", |s, out| number(out, s.upstream_peer().and_then(port))),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", |s, out| number(out, Some(s.info.attempt_count))),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", |s, out| {
        let reason = s.info.upstream_transport_failure_reason.as_deref();
        underscored(out, reason.filter(|reason| !reason.is_empty()))
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS", |s, out| match s.info.trusted_client {
        Some(client) => display(out, Some(client)),
        None => display(out, Some(&s.info.connection.remote)),
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |s, out| match s.info.trusted_client {
        Some(client) => display(out, Some(client.ip())),
        None => host(out, Some(&s.info.connection.remote)),
    }),
    ("DOWNSTREAM_REMOTE_PORT", |s, out| {
        let trusted = s.info.trusted_client.map(|client| client.port());
        number(out, trusted.or_else(|| port(&s.info.connection.remote)))
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", |s, out| display(out, Some(&s.info.connection.direct_remote))),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", |s, out| host(out, Some(&s.info.connection.direct_remote))),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", |s, out| number(out, port(&s.info.connection.direct_remote))),
    ("DOWNSTREAM_LOCAL_ADDRESS", |s, out| display(out, Some(&s.info.connection.local))),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |s, out| host(out, Some(&s.info.connection.local))),
    ("DOWNSTREAM_LOCAL_PORT", |s, out| number(out, port(&s.info.connection.local))),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", |s, out| display(out, Some(&s.info.connection.local))),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", |s, out| host(out, Some(&s.info.connection.local))),
    ("DOWNSTREAM_DIRECT_LOCAL_PORT", |s, out| number(out, port(&s.info.connection.local))),
    ("REQUESTED_SERVER_NAME", |s, out| text(out, s.tls().and_then(|tls| tls.sni.as_deref()))),
    ("DOWNSTREAM_TLS_VERSION", |s, out| text(out, s.tls().map(|tls| tls.version))),
    ("DOWNSTREAM_TLS_CIPHER", |s, out| text(out, s.tls().map(|tls| tls.cipher))),
    ("DOWNSTREAM_PEER_SUBJECT", |s, out| text(out, s.peer().map(|peer| &peer.subject))),
    ("DOWNSTREAM_PEER_ISSUER", |s, out| text(out, s.peer().map(|peer| &peer.issuer))),
    ("DOWNSTREAM_PEER_SERIAL", |s, out| text(out, s.peer().map(|peer| &peer.serial))),
    ("DOWNSTREAM_PEER_FINGERPRINT_256", |s, out| text(out, s.peer().map(|peer| &peer.fingerprint_256))),
    ("DOWNSTREAM_PEER_DNS_SAN", |s, out| names(out, s.peer().map(|peer| &peer.dns_sans))),
    ("DOWNSTREAM_PEER_URI_SAN", |s, out| names(out, s.peer().map(|peer| &peer.uri_sans))),
    ("DOWNSTREAM_PEER_IP_SAN", |s, out| names(out, s.peer().map(|peer| &peer.ip_sans))),
    ("DOWNSTREAM_PEER_EMAIL_SAN", |s, out| names(out, s.peer().map(|peer| &peer.email_sans))),
    ("CONNECTION_ID", |s, out| number(out, Some(s.info.connection.id))),
    ("FILTER_CHAIN_NAME", |s, out| {
        let name = &*s.info.connection.filter_chain;
        text(out, Some(name).filter(|name| !name.is_empty()))
    }),
    ("ACCESS_LOG_TYPE", |s, out| display(out, Some(format_args!("{:?}", s.info.log_type)))),
    // Nothing sets custom flags: empty, but not absent.
    ("CUSTOM_FLAGS", |_, out| text(out, Some(""))),
    ("LOCAL_REPLY_BODY", |s, out| text(out, Some(s.local_reply_body))),
    ("UNIQUE_ID", |_, out| unique_id(out)),
    ("GRPC_STATUS_NUMBER", |s, out| number(out, s.info.grpc_status)),
];

/// Operators of Envoy for which nothing is recorded here yet.
pub const UNANSWERED: &[&str] = &[
    "CEL",
    "CLUSTER_METADATA",
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DYNAMIC_METADATA",
    "FILTER_STATE",
    "METADATA",
    "REQUEST_HEADERS_BYTES",
    "REQ_WITHOUT_QUERY",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "SPAN_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_METADATA",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_CLUSTER_NAME",
];

impl Operator {
    /// Appends what the operator stands for to `out`.
    pub fn print(&self, scope: &Scope<'_>, out: &mut Vec<u8>) -> Printed {
        let info = scope.info;
        match self {
            Operator::Plain(print) => print(scope, out),
            Operator::Constant(value) => text(out, Some(value)),
            Operator::Unanswered(_) => Printed::Absent,
            Operator::Request(main, alternative) => {
                first_present(main, alternative.as_ref(), |header| text(out, request_header(header, scope)))
            }
            Operator::Response(main, alternative) => {
                first_present(main, alternative.as_ref(), |header| print_response(header, scope, out))
            }
            Operator::Trailer(main, alternative) => first_present(main, alternative.as_ref(), |header| match header {
                Header::Named(name) => text(out, scope.response_trailer(name).map(HeaderValue::as_bytes)),
                _ => Printed::Absent,
            }),
            Operator::StartTime(format) => time(out, format, Some(info.start_time)),
            Operator::EmitTime(format) => time(out, format, Some(SystemTime::now())),
            Operator::PeerValidity(bound, format) => time(out, format, scope.peer().and_then(bound)),
            Operator::Details(whitespace) => {
                let details = Some(&*info.response_code_details).filter(|details| !details.is_empty());
                match whitespace {
                    Whitespace::Keep => text(out, details),
                    Whitespace::Underscore => underscored(out, details),
                }
            }
            Operator::GrpcStatus(style) => style.print(info.grpc_status, out),
            Operator::Path(query, source) => {
                let path = match source {
                    PathSource::Original => scope.original_path(),
                    PathSource::Sent => scope.path(),
                    PathSource::OriginalOrSent => scope.original_path().or_else(|| scope.path()),
                };
                text(out, path.map(|path| if *query == Query::With { path } else { without_query(path) }))
            }
            Operator::QueryParameter(name) => query_parameter(out, scope, name),
            Operator::Between(start, end, precision) => number(out, between(start(info), end(info)).map(precision)),
        }
    }

    /// Adds the headers that the operator needs at the end of a stream.
    pub fn capture(&self, capture: &mut HeaderCapture) {
        let (names, main, alternative) = match self {
            Operator::Request(main, alternative) => (&mut capture.request, main, alternative),
            Operator::Response(main, alternative) => (&mut capture.response, main, alternative),
            Operator::Trailer(main, alternative) => (&mut capture.trailers, main, alternative),
            Operator::Path(..) | Operator::QueryParameter(..) => return add(&mut capture.request, &ORIGINAL_PATH),
            _ => return,
        };
        for header in [Some(main), alternative.as_ref()].into_iter().flatten() {
            if let Header::Named(name) = header {
                add(names, name);
            }
        }
    }
}

/// Adds a name once.
pub fn add(names: &mut Vec<HeaderName>, name: &HeaderName) {
    if !names.contains(name) {
        names.push(name.clone());
    }
}

fn first_present(main: &Header, alternative: Option<&Header>, mut print: impl FnMut(&Header) -> Printed) -> Printed {
    match (print(main), alternative) {
        (Printed::Absent, Some(alternative)) => print(alternative),
        (printed, _) => printed,
    }
}

/// A request header or pseudo header.
pub fn request_header<'a>(header: &Header, scope: &Scope<'a>) -> Option<&'a [u8]> {
    let info = scope.info;
    match header {
        Header::Method => info.method.as_ref().map(|method| method.as_str().as_bytes()),
        Header::Path => scope.path().map(str::as_bytes),
        Header::Authority => info.authority.as_ref().map(HeaderValue::as_bytes),
        Header::Scheme => Some(info.scheme.as_bytes()).filter(|scheme| !scheme.is_empty()),
        Header::Status | Header::Unknown => None,
        Header::Named(name) => scope.request_header(name).map(HeaderValue::as_bytes),
    }
}

fn print_response(header: &Header, scope: &Scope<'_>, out: &mut Vec<u8>) -> Printed {
    match header {
        // Envoy prints this one as text.
        Header::Status => match number(out, scope.info.response_code) {
            Printed::Number => Printed::Text,
            printed => printed,
        },
        Header::Named(name) => text(out, scope.response_header(name).map(HeaderValue::as_bytes)),
        _ => Printed::Absent,
    }
}

fn text(out: &mut Vec<u8>, value: Option<impl AsRef<[u8]>>) -> Printed {
    let Some(value) = value else { return Printed::Absent };
    out.extend_from_slice(value.as_ref());
    Printed::Text
}

fn underscored(out: &mut Vec<u8>, value: Option<&str>) -> Printed {
    let Some(value) = value else { return Printed::Absent };
    out.extend(value.bytes().map(|byte| if byte.is_ascii_whitespace() { b'_' } else { byte }));
    Printed::Text
}

fn display(out: &mut Vec<u8>, value: Option<impl Display>) -> Printed {
    let Some(value) = value else { return Printed::Absent };
    // Writing into a `Vec` cannot fail.
    let _ = write!(out, "{value}");
    Printed::Text
}

fn number(out: &mut Vec<u8>, value: Option<impl Display>) -> Printed {
    match display(out, value) {
        Printed::Text => Printed::Number,
        printed => printed,
    }
}

fn milliseconds(out: &mut Vec<u8>, span: Option<Duration>) -> Printed {
    number(out, span.map(|span| span.as_millis()))
}

fn time(out: &mut Vec<u8>, format: &TimeFormat, time: Option<SystemTime>) -> Printed {
    let Some(time) = time else { return Printed::Absent };
    format.render(time, out);
    Printed::Text
}

/// The items with commas between them, or `none`.
fn list(out: &mut Vec<u8>, none: &str, items: impl Iterator<Item = impl Display>) -> Printed {
    let start = out.len();
    for item in items {
        let separator = if out.len() == start { "" } else { "," };
        // Writing into a `Vec` cannot fail.
        let _ = write!(out, "{separator}{item}");
    }
    if out.len() == start { text(out, Some(none)) } else { Printed::Text }
}

fn names(out: &mut Vec<u8>, names: Option<&Vec<impl Display>>) -> Printed {
    match names {
        Some(names) if !names.is_empty() => list(out, "", names.iter()),
        _ => Printed::Absent,
    }
}

fn host(out: &mut Vec<u8>, address: Option<&Address>) -> Printed {
    match address {
        Some(Address::Ip(ip)) => display(out, Some(ip.ip())),
        other => display(out, other),
    }
}

fn port(address: &Address) -> Option<u16> {
    match address {
        Address::Ip(ip) => Some(ip.port()),
        Address::Pipe(_) => None,
    }
}

fn between(start: Option<Duration>, end: Option<Duration>) -> Option<Duration> {
    end?.checked_sub(start?)
}

fn without_port(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => name,
    }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// A random UUID (RFC 9562, version 4).
fn unique_id(out: &mut Vec<u8>) -> Printed {
    let random = || RandomState::new().hash_one(out.len());
    let (high, low) = (random() & !0xf000 | 0x4000, random() & !(0b11 << 62) | 0b10 << 62);
    let text = format_args!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    );
    display(out, Some(text))
}

/// The first value of a query parameter, percent-decoded.
fn query_parameter(out: &mut Vec<u8>, scope: &Scope<'_>, name: &str) -> Printed {
    let path = scope.original_path().or_else(|| scope.path());
    let query = path.and_then(|path| path.split_once('?')).map(|(_, query)| query);
    let value = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    });
    let Some(value) = value else { return Printed::Absent };
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'%', &[high, low, ref tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex_digit(high) << 4 | hex_digit(low));
                rest = tail;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    Printed::Text
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
