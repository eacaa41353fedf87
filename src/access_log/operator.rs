//! The command operators of a format, such as `%REQ(X)%`: what each of them prints.
//!
//! An operator without an argument is one row in `plain.rs`; one with an argument is a variant of [`Operator`]. All are resolved when
//! the configuration is loaded and print into a caller's buffer without allocation.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};

use crate::matcher::CidrRange;
use crate::net::Address;
use crate::proto::core::Metadata;
use crate::proto::value::Kind;
use crate::proto::{Struct, Value};
use crate::stream_info::{HeaderCapture, PeerCertificate, StreamInfo};

use super::command::Command;
use super::grpc_status;
use super::plain::{Print, between};
use super::print::{Printed, display, host, number, text, time, underscored, value};
use super::scope::{ORIGINAL_HOST, ORIGINAL_PATH, Scope};
use super::time::TimeFormat;

/// One operator, resolved.
#[derive(Debug, Clone)]
pub enum Operator {
    /// A row of `plain.rs`.
    Plain(Print),
    /// `%REQUEST_HEADERS_BYTES%` and the like.
    Sized(fn(&StreamInfo) -> u64),
    /// The same for every stream.
    Constant(String),
    /// Absent, because Portreeve has nothing of the kind.
    Absent,
    /// Absent, although Envoy would have an answer.
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
    /// `%DOWNSTREAM_PEER_CERT_V_START(X)%` and the like: of which certificate, and which end.
    Validity(CertificateOf, fn(&PeerCertificate) -> Option<SystemTime>, TimeFormat),
    /// `%RESPONSE_CODE_DETAILS(X)%`
    Details(Whitespace),
    /// `%GRPC_STATUS(X)%`
    GrpcStatus(grpc_status::Style),
    /// `%PATH(X:Y)%`
    Path(Query, PathSource),
    /// `%QUERY_PARAM(X)%`
    QueryParameter(String),
    /// `%QUERY_PARAMS%`
    QueryParameters,
    /// `%REQ_WITHOUT_QUERY(X?Y)%`
    RequestWithoutQuery(Header, Option<Header>),
    /// `%REQUESTED_SERVER_NAME(X:Y)%`
    ServerName(ServerName, HostSource),
    /// `%..._ADDRESS_WITHOUT_PORT(X)%`: of which address, and how many bits of it as a range.
    AddressWithoutPort(AddressOf, Option<u8>),
    /// `%CLUSTER_METADATA(X:Y)%` and the like: of whom, and the path in it.
    Metadata(MetadataOf, Vec<String>),
    /// `%DYNAMIC_METADATA(X:Y)%`: the path in it.
    DynamicMetadata(Vec<String>),
    /// `%COALESCE({...})%`: the first one that is there.
    Coalesce(Vec<Command>),
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

/// Which name `%REQUESTED_SERVER_NAME%` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerName {
    /// `SNI_ONLY`: the one asked for by TLS.
    Sni,
    /// `SNI_FIRST`: else the host of the request.
    SniFirst,
    /// `HOST_FIRST`: the host of the request, else the one asked for by TLS.
    HostFirst,
}

/// Which host of the request that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSource {
    /// `ORIG`: as the client sent it, if it was rewritten.
    Original,
    /// `HOST`: as it went upstream.
    Sent,
    /// `ORIG_OR_HOST`: as the client sent it.
    OriginalOrSent,
}

/// One of the addresses of a stream.
pub type AddressOf = for<'a> fn(&Scope<'a>) -> Option<Cow<'a, Address>>;

/// The addresses that are shown without their ports.
pub const ADDRESSES: &[(&str, AddressOf)] = &[
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |s| s.client()),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", |s| Some(Cow::Borrowed(&s.info.connection.direct_remote))),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |s| Some(Cow::Borrowed(&s.info.connection.local))),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", |s| Some(Cow::Borrowed(&s.info.connection.direct_local))),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |s| s.upstream_peer().map(Cow::Borrowed)),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |s| s.upstream_local().map(Cow::Borrowed)),
];

/// The sizes of headers, by name.
pub const SIZES: &[(&str, fn(&StreamInfo) -> u64)] = &[
    ("REQUEST_HEADERS_BYTES", |info| info.request_headers_bytes),
    ("RESPONSE_HEADERS_BYTES", |info| info.response_headers_bytes),
    ("RESPONSE_TRAILERS_BYTES", |info| info.response_trailers_bytes),
];

/// The certificate of one of the peers.
pub type CertificateOf = for<'a> fn(&Scope<'a>) -> Option<&'a PeerCertificate>;

/// The metadata of one of the things that a stream has to do with.
pub type MetadataOf = for<'a> fn(&Scope<'a>) -> Option<&'a Metadata>;

/// What `%METADATA%` can be asked for, and knows.
pub const METADATA: &[(&str, MetadataOf)] = &[
    ("CLUSTER", |s| s.info.upstream.as_ref()?.cluster_metadata.as_deref()),
    ("UPSTREAM_HOST", |s| s.info.upstream.as_ref()?.host_metadata.as_ref()),
];

/// A point in the life of a stream.
pub type Moment = fn(&StreamInfo) -> Option<Duration>;

/// The unit of `%COMMON_DURATION%`.
pub type Precision = fn(Duration) -> u128;

/// The time points of `%COMMON_DURATION%` that are kept.
pub const MOMENTS: &[(&str, Moment)] = &[
    ("DS_RX_BEG", |_| Some(Duration::ZERO)),
    ("DS_RX_END", |info| info.timing.last_downstream_rx),
    ("US_CX_BEG", |info| info.timing.connect_begin),
    ("US_CX_END", |info| info.timing.connect_end.filter(|_| !is_encrypted(info))),
    ("US_HS_END", |info| info.timing.connect_end.filter(|_| is_encrypted(info))),
    ("US_TX_BEG", |info| info.timing.first_upstream_tx),
    ("US_TX_END", |info| info.timing.last_upstream_tx),
    ("US_RX_BEG", |info| info.timing.first_upstream_rx),
    ("US_RX_END", |info| info.timing.last_upstream_rx),
    ("DS_TX_BEG", |info| info.timing.first_downstream_tx),
    ("DS_TX_END", |info| info.timing.end),
];

fn is_encrypted(info: &StreamInfo) -> bool {
    info.upstream_connection.as_ref().is_some_and(|connection| connection.tls.is_some())
}

/// The units of `%COMMON_DURATION%`.
pub const PRECISIONS: &[(&str, Precision)] =
    &[("ms", |span| span.as_millis()), ("us", |span| span.as_micros()), ("ns", |span| span.as_nanos())];

impl Operator {
    /// Appends what the operator stands for to `out`.
    pub fn print(&self, scope: &Scope<'_>, out: &mut Vec<u8>) -> Printed {
        let info = scope.info;
        match self {
            Operator::Plain(print) => print(scope, out),
            Operator::Sized(size) => number(out, Some(size(info))),
            Operator::Constant(value) => text(out, Some(value)),
            Operator::Absent | Operator::Unanswered(_) => Printed::Absent,
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
            Operator::Validity(of, bound, format) => time(out, format, of(scope).and_then(bound)),
            Operator::Details(whitespace) => {
                let details = Some(&*info.response_code_details).filter(|details| !details.is_empty());
                match whitespace {
                    Whitespace::Keep => text(out, details),
                    Whitespace::Underscore => underscored(out, details),
                }
            }
            Operator::GrpcStatus(style) => style.print(scope.grpc_status(), out),
            Operator::Path(query, source) => {
                let path = match source {
                    PathSource::Original => scope.original_path(),
                    PathSource::Sent => scope.path(),
                    PathSource::OriginalOrSent => scope.original_path().or_else(|| scope.path()),
                };
                text(out, path.map(|path| if *query == Query::With { path } else { without_query(path) }))
            }
            Operator::QueryParameter(name) => query_parameter(out, scope, name),
            Operator::QueryParameters => text(out, query(scope)),
            Operator::RequestWithoutQuery(main, alternative) => first_present(main, alternative.as_ref(), |header| {
                text(
                    out,
                    request_header(header, scope)
                        .map(|path| memchr::memchr(b'?', path).map_or(path, |end| &path[..end])),
                )
            }),
            Operator::ServerName(which, source) => text(out, server_name(scope, *which, *source)),
            Operator::AddressWithoutPort(of, bits) => without_port(out, of(scope).as_deref(), *bits),
            Operator::Metadata(of, path) => {
                value(out, of(scope).and_then(|metadata| find(&metadata.filter_metadata, path)).as_deref())
            }
            Operator::DynamicMetadata(path) => {
                value(out, info.all_dynamic_metadata().find_map(|metadata| find(metadata, path)).as_deref())
            }
            Operator::Coalesce(commands) => commands
                .iter()
                .map(|command| command.print(scope, out))
                .find(|printed| *printed != Printed::Absent)
                .unwrap_or(Printed::Absent),
            Operator::Between(start, end, precision) => number(out, between(start(info), end(info)).map(precision)),
        }
    }

    /// Adds the headers that the operator needs at the end of a stream.
    pub fn capture(&self, capture: &mut HeaderCapture) {
        let (names, main, alternative) = match self {
            Operator::Sized(_) => {
                capture.sizes = true;
                return;
            }
            Operator::Coalesce(commands) => {
                return commands.iter().for_each(|command| command.operator.capture(capture));
            }
            Operator::Request(main, alternative) | Operator::RequestWithoutQuery(main, alternative) => {
                (&mut capture.request, main, alternative)
            }
            Operator::Response(main, alternative) => (&mut capture.response, main, alternative),
            Operator::Trailer(main, alternative) => (&mut capture.trailers, main, alternative),
            Operator::Path(..) | Operator::QueryParameter(..) => return add(&mut capture.request, &ORIGINAL_PATH),
            Operator::ServerName(..) => return add(&mut capture.request, &ORIGINAL_HOST),
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

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn query<'a>(scope: &Scope<'a>) -> Option<&'a str> {
    let path = scope.original_path().or_else(|| scope.path());
    path.and_then(|path| path.split_once('?')).map(|(_, query)| query)
}

fn server_name<'a>(scope: &Scope<'a>, which: ServerName, source: HostSource) -> Option<&'a [u8]> {
    let sni = scope.tls().and_then(|tls| tls.sni.as_deref()).or(scope.info.connection.server_name.as_deref());
    let sni = sni.map(str::as_bytes);
    let original = || scope.request_header(&ORIGINAL_HOST).map(HeaderValue::as_bytes);
    let sent = || scope.info.authority.as_ref().map(HeaderValue::as_bytes);
    let host = || match source {
        HostSource::Original => original(),
        HostSource::Sent => sent(),
        HostSource::OriginalOrSent => original().or_else(sent),
    };
    match which {
        ServerName::Sni => sni,
        ServerName::SniFirst => sni.or_else(host),
        ServerName::HostFirst => host().or(sni),
    }
}

/// The address, or the range of so many bits that it lies in.
fn without_port(out: &mut Vec<u8>, address: Option<&Address>, bits: Option<u8>) -> Printed {
    match (address.and_then(Address::ip), bits) {
        (Some(ip), Some(bits)) => {
            let length = bits.min(if ip.is_ipv4() { 32 } else { 128 });
            match CidrRange::new(ip, length) {
                Some(range) => display(out, Some(format_args!("{}/{length}", range.prefix()))),
                None => Printed::Absent,
            }
        }
        _ => host(out, address),
    }
}

/// The value at `path`, which begins with the namespace; only a namespace without more is copied.
fn find<'a>(metadata: &'a HashMap<String, Struct>, path: &[String]) -> Option<Cow<'a, Value>> {
    let (namespace, keys) = path.split_first()?;
    let namespace = metadata.get(namespace)?;
    let Some((first, keys)) = keys.split_first() else {
        return Some(Cow::Owned(Value { kind: Some(Kind::StructValue(namespace.clone())) }));
    };
    let found = keys.iter().try_fold(namespace.fields.get(first)?, |value, key| match value.kind.as_ref()? {
        Kind::StructValue(inner) => inner.fields.get(key),
        _ => None,
    });
    found.map(Cow::Borrowed)
}

/// The first value of a query parameter, percent-decoded.
fn query_parameter(out: &mut Vec<u8>, scope: &Scope<'_>, name: &str) -> Printed {
    let value = query(scope).into_iter().flat_map(|query| query.split('&')).find_map(|pair| {
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
