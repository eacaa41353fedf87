//! What happened to one connection and to one request: the sole input of access logs, statistics and spans.
//!
//! The data path writes facts here and reports nothing else; `conn_manager/stream.rs` reads them once, at the end.
//! Names of flags are Envoy's (`%RESPONSE_FLAGS%`, `%RESPONSE_FLAGS_LONG%`).

mod response_flags;

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::Write,
    iter,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, uri::PathAndQuery};
use tokio::{net::unix::UCred, time::Instant};

use crate::net::{Address, Alpn};
use crate::proto;

pub use response_flags::ResponseFlags;

/// One accepted downstream connection; shared by its requests.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Unique within the process.
    pub id: u64,
    /// When it was accepted.
    pub start: Instant,
    /// The peer: physical, or what a PROXY header said.
    pub remote: Address,
    /// The physical peer.
    pub direct_remote: Address,
    /// Where the client connected to: our side, or what a PROXY header or the kernel says.
    pub local: Address,
    /// Our side.
    pub direct_local: Address,
    /// The server name that the client asked for, in lower case, where somebody looked.
    pub server_name: Option<Box<str>>,
    /// The cluster that a network filter has chosen for it.
    pub upstream_cluster: Option<Box<str>>,
    /// What tells the client's TLS library apart, where somebody looked.
    pub fingerprints: Option<Box<Fingerprints>>,
    /// What else a PROXY header said.
    pub proxy_protocol: Option<Box<ProxyProtocol>>,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Name of the filter chain; empty when it has none.
    pub filter_chain: Arc<str>,
    /// Facts of the TLS handshake; `None` on a plain connection.
    pub tls: Option<TlsInfo>,
    /// The process at the other end of a Unix socket, as the kernel tells it.
    pub peer_credentials: Option<UCred>,
}

/// Fingerprints of a `ClientHello`.
#[derive(Debug, Default)]
pub struct Fingerprints {
    /// MD5 of JA3, hexadecimal.
    pub ja3: Option<String>,
    /// JA4.
    pub ja4: Option<String>,
}

/// What a header of the PROXY protocol said besides addresses.
#[derive(Debug, Default)]
pub struct ProxyProtocol {
    /// The values that rules made metadata of.
    pub metadata: Option<proto::core::Metadata>,
    /// Types and values that a header upstream may repeat.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

/// What a TLS handshake agreed on.
#[derive(Debug, Default, Clone)]
pub struct TlsInfo {
    /// "TLSv1.2" or "TLSv1.3".
    pub version: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: &'static str,
    /// The server name that the client asked for.
    pub sni: Option<Box<str>>,
    /// The agreed application protocol.
    pub alpn: Option<Box<[u8]>>,
    /// Whether the peer presented a certificate, verified or not.
    pub peer_presented: bool,
    /// The verified peer certificate.
    pub peer: Option<Box<PeerCertificate>>,
    /// The peer's certificates as it sent them, its own first; empty unless verified.
    pub peer_chain: Vec<ChainCertificate>,
    /// Our certificate, where it is known which one that was.
    pub local: Option<Arc<PeerCertificate>>,
}

impl TlsInfo {
    /// The agreed application protocol, if it is one that we speak.
    #[must_use]
    pub fn protocol(&self) -> Option<Alpn> {
        self.alpn.as_deref().and_then(Alpn::from_wire)
    }
}

/// One of the certificates that a peer sent.
#[derive(Debug, Default, Clone)]
pub struct ChainCertificate {
    /// In DER form.
    pub der: Box<[u8]>,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// SHA-256 of the DER form, lower-case hexadecimal.
    pub fingerprint_256: String,
    /// SHA-1 of the DER form, lower-case hexadecimal.
    pub fingerprint_1: String,
}

impl ChainCertificate {
    /// The certificate in PEM form.
    #[must_use]
    pub fn pem(&self) -> String {
        const LINE: usize = 64;
        let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in BASE64_STANDARD.encode(&self.der).as_bytes().chunks(LINE) {
            text.extend(line.iter().map(|byte| char::from(*byte)));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
        text
    }
}

/// Everything but what a URI may hold as it is, percent-encoded.
#[must_use]
pub fn url_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}"); // writing to a String cannot fail
        }
        encoded
    })
}

/// The facts of a peer's certificate that logs, headers and authorization use.
#[derive(Debug, Default, Clone)]
pub struct PeerCertificate {
    /// Subject, RFC 2253.
    pub subject: String,
    /// Issuer, RFC 2253.
    pub issuer: String,
    /// DNS subject alternative names.
    pub dns_sans: Vec<String>,
    /// URI subject alternative names.
    pub uri_sans: Vec<String>,
    /// IP address subject alternative names.
    pub ip_sans: Vec<IpAddr>,
    /// E-mail subject alternative names.
    pub email_sans: Vec<String>,
    /// SHA-256 of the DER form, lower-case hexadecimal.
    pub fingerprint_256: String,
    /// SHA-1 of the DER form, lower-case hexadecimal.
    pub fingerprint_1: String,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// Start of validity.
    pub not_before: Option<SystemTime>,
    /// End of validity.
    pub not_after: Option<SystemTime>,
}

/// The host and cluster that a request was sent to; built once for a host of a worker.
#[derive(Debug)]
pub struct UpstreamInfo {
    /// Name of the cluster.
    pub cluster: Arc<str>,
    /// Address of the host.
    pub address: Address,
    /// Name of the host, or its address where it has none.
    pub host_name: String,
    /// What statistics call the cluster (`alt_stat_name`); as a rule its name.
    pub cluster_stat_name: Arc<str>,
    /// The cluster's metadata.
    pub cluster_metadata: Option<Arc<proto::core::Metadata>>,
    /// The host's metadata.
    pub host_metadata: Option<proto::core::Metadata>,
}

/// One connection to a host; shared by its requests.
#[derive(Debug)]
pub struct UpstreamConnectionInfo {
    /// Unique in all likelihood.
    pub id: u64,
    /// Our address on it.
    pub local: Address,
    /// Facts of the TLS handshake; `None` on a plain connection.
    pub tls: Option<TlsInfo>,
}

/// One request and its response.
#[derive(Debug)]
pub struct StreamInfo {
    /// The connection that it came in on.
    pub connection: Rc<ConnectionInfo>,
    /// When its headers had been read.
    pub start: Instant,
    /// The same moment for people.
    pub start_time: SystemTime,
    /// What its log entry tells of.
    pub log_type: LogType,
    /// Downstream protocol; `None` for a connection without requests.
    pub protocol: Option<Version>,
    /// The client's address as far as trusted (`x-forwarded-for`); `None`: the connection's.
    pub trusted_client: Option<SocketAddr>,
    /// Request method; `None` for a connection without requests.
    pub method: Option<Method>,
    /// `:authority` or `Host` as sent upstream.
    pub authority: Option<HeaderValue>,
    /// `:path` as sent upstream.
    pub path: Option<PathAndQuery>,
    /// `:scheme`: "http" or "https"; empty for a connection without requests.
    pub scheme: &'static str,
    /// Request headers that a log asked for.
    pub request_headers: Vec<(HeaderName, HeaderValue)>,
    /// Response headers that a log asked for.
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    /// Response trailers that a log asked for.
    pub response_trailers: Vec<(HeaderName, HeaderValue)>,
    /// Status that went out; `None` when none did.
    pub response_code: Option<u16>,
    /// Who set the status, and why (`%RESPONSE_CODE_DETAILS%`).
    pub response_code_details: Cow<'static, str>,
    /// What went wrong.
    pub flags: ResponseFlags,
    /// Whether the request is one of gRPC.
    pub is_grpc: bool,
    /// `grpc-status` of the response, from its trailers or headers.
    pub grpc_status: Option<u32>,
    /// Request body bytes read.
    pub bytes_received: u64,
    /// Response body bytes written.
    pub bytes_sent: u64,
    /// What filters have found out, by the name of the filter.
    pub dynamic_metadata: HashMap<String, proto::Struct>,
    /// Whether it asks for the health of this process, or of what is behind it.
    pub is_health_check: bool,
    /// Name of the chosen route.
    pub route_name: Option<Rc<str>>,
    /// Where the request went.
    pub upstream: Option<Rc<UpstreamInfo>>,
    /// Name of the chosen cluster where no host was found in it.
    pub upstream_cluster: Option<Arc<str>>,
    /// Protocol spoken upstream.
    pub upstream_protocol: Option<Version>,
    /// The connection that the last attempt was sent on.
    pub upstream_connection: Option<Rc<UpstreamConnectionInfo>>,
    /// The virtual cluster that counts the request.
    pub virtual_cluster: Option<Arc<str>>,
    /// Bytes of names and values of the request's headers, where a log asked for them.
    pub request_headers_bytes: u64,
    /// The same of the response's headers.
    pub response_headers_bytes: u64,
    /// The same of the response's trailers.
    pub response_trailers_bytes: u64,
    /// Why a connection upstream failed.
    pub upstream_transport_failure_reason: Option<String>,
    /// How many times a host was tried.
    pub attempt_count: u32,
    /// Durations since `start`.
    pub timing: Timing,
}

/// What an entry of an access log tells of (`envoy.data.accesslog.v3.AccessLogType`): the names are those of `%ACCESS_LOG_TYPE%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogType {
    /// The log of a listener: a connection has ended.
    NotSet = 0,
    /// A TCP proxy has its connection upstream.
    TcpUpstreamConnected = 1,
    /// A connection of a TCP proxy goes on.
    TcpPeriodic = 2,
    /// A connection of a TCP proxy has ended; also one that no filter served.
    TcpConnectionEnd = 3,
    /// A request has begun.
    DownstreamStart = 4,
    /// A request has ended.
    DownstreamEnd = 6,
    /// A request has become a tunnel.
    DownstreamTunnelSuccessfullyEstablished = 10,
    /// A connection of a TCP proxy has begun.
    TcpConnectionStart = 14,
}

/// Durations since the start of the request; `None` when it never came to that.
#[derive(Debug, Default, Clone, Copy)]
pub struct Timing {
    /// The last byte of the request was read.
    pub last_downstream_rx: Option<Duration>,
    /// A new connection upstream was begun; none for a request that found one.
    pub connect_begin: Option<Duration>,
    /// The new connection was ready, TLS included.
    pub connect_end: Option<Duration>,
    /// How long it took until there was a connection for the last attempt: no moment, but a span.
    pub pool_ready: Option<Duration>,
    /// The first byte was sent upstream.
    pub first_upstream_tx: Option<Duration>,
    /// The last byte was sent upstream.
    pub last_upstream_tx: Option<Duration>,
    /// Response headers came.
    pub first_upstream_rx: Option<Duration>,
    /// The last byte of the response came.
    pub last_upstream_rx: Option<Duration>,
    /// The first byte was sent downstream.
    pub first_downstream_tx: Option<Duration>,
    /// The last byte was sent downstream, or the stream ended otherwise.
    pub end: Option<Duration>,
}

impl StreamInfo {
    /// The facts that are known when the headers of a request have been read.
    pub fn begin(connection: Rc<ConnectionInfo>, protocol: Version, method: Method) -> StreamInfo {
        StreamInfo {
            start: Instant::now(),
            log_type: LogType::DownstreamEnd,
            protocol: Some(protocol),
            method: Some(method),
            scheme: "http",
            ..StreamInfo::of_connection(connection)
        }
    }

    /// The facts of a connection that is served as a stream of bytes.
    pub fn of_connection(connection: Rc<ConnectionInfo>) -> StreamInfo {
        let start = connection.start;
        StreamInfo {
            connection,
            start,
            start_time: SystemTime::now(),
            log_type: LogType::TcpConnectionEnd,
            protocol: None,
            trusted_client: None,
            method: None,
            authority: None,
            path: None,
            scheme: "",
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            response_trailers: Vec::new(),
            response_code: None,
            response_code_details: Cow::Borrowed(""),
            flags: ResponseFlags::NONE,
            is_grpc: false,
            grpc_status: None,
            bytes_received: 0,
            bytes_sent: 0,
            dynamic_metadata: HashMap::new(),
            is_health_check: false,
            route_name: None,
            upstream: None,
            upstream_cluster: None,
            upstream_protocol: None,
            upstream_connection: None,
            virtual_cluster: None,
            request_headers_bytes: 0,
            response_headers_bytes: 0,
            response_trailers_bytes: 0,
            upstream_transport_failure_reason: None,
            attempt_count: 0,
            timing: Timing::default(),
        }
    }

    /// A GET over plain HTTP/1.1 from 127.0.0.1, for requests that nobody sent.
    pub fn sample() -> StreamInfo {
        let connection = ConnectionInfo {
            id: 1,
            start: Instant::now(),
            remote: Address::Ip(SocketAddr::from(([127, 0, 0, 1], 50_000))),
            direct_remote: Address::Ip(SocketAddr::from(([127, 0, 0, 1], 50_000))),
            local: Address::Ip(SocketAddr::from(([127, 0, 0, 1], 8_000))),
            direct_local: Address::Ip(SocketAddr::from(([127, 0, 0, 1], 8_000))),
            server_name: None,
            upstream_cluster: None,
            fingerprints: None,
            proxy_protocol: None,
            listener: "listener".into(),
            filter_chain: "".into(),
            tls: None,
            peer_credentials: None,
        };
        StreamInfo::begin(Rc::new(connection), Version::HTTP_11, Method::GET)
    }

    /// The client: the trusted one of `x-forwarded-for`, else the connection's peer.
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.trusted_client.map(|client| client.ip()).or_else(|| self.connection.remote.ip())
    }

    /// Name of the chosen cluster.
    pub fn cluster_name(&self) -> Option<&str> {
        self.upstream.as_ref().map(|upstream| &*upstream.cluster).or(self.upstream_cluster.as_deref())
    }

    /// The `grpc-status` of the response, else what its HTTP status means to gRPC; `None` without a response.
    pub fn grpc_status_or_mapped(&self) -> Option<u32> {
        self.grpc_status.or_else(|| self.response_code.map(grpc_status_of_http))
    }

    /// What filters of requests and those of the connection have found out, by the name of the filter.
    pub fn all_dynamic_metadata(&self) -> impl Iterator<Item = &HashMap<String, proto::Struct>> {
        let of_connection = self.connection.proxy_protocol.as_ref().and_then(|header| header.metadata.as_ref());
        iter::once(&self.dynamic_metadata).chain(of_connection.map(|metadata| &metadata.filter_metadata))
    }

    /// A captured request header.
    pub fn request_header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        find(&self.request_headers, name)
    }

    /// A captured response header.
    pub fn response_header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        find(&self.response_headers, name)
    }

    /// A captured response trailer.
    pub fn response_trailer(&self, name: &HeaderName) -> Option<&HeaderValue> {
        find(&self.response_trailers, name)
    }
}

/// The gRPC status that stands for an HTTP status of a proxy.
pub fn grpc_status_of_http(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

fn find<'a>(headers: &'a [(HeaderName, HeaderValue)], name: &HeaderName) -> Option<&'a HeaderValue> {
    headers.iter().find(|(n, _)| n == name).map(|(_, value)| value)
}

/// The headers that the access logs of a connection manager print, and which must therefore be kept.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct HeaderCapture {
    /// Of the request.
    pub request: Vec<HeaderName>,
    /// Of the response.
    pub response: Vec<HeaderName>,
    /// Of the response's trailers.
    pub trailers: Vec<HeaderName>,
    /// How many bytes all of them have.
    pub sizes: bool,
}

impl HeaderCapture {
    /// Copies what is named from `headers`.
    pub fn take(names: &[HeaderName], headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        names.iter().filter_map(|name| headers.get(name).map(|value| (name.clone(), value.clone()))).collect()
    }

    /// Bytes of names and values, and of the pseudo headers that belong to them.
    pub fn size(headers: &HeaderMap, pseudo: &[(&str, &str)]) -> u64 {
        let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        let pseudo = pseudo.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        (fields + pseudo) as u64
    }

    /// Asks for what `other` asks for as well.
    pub fn merge(&mut self, other: &HeaderCapture) {
        self.sizes |= other.sizes;
        for (mine, theirs) in [
            (&mut self.request, &other.request),
            (&mut self.response, &other.response),
            (&mut self.trailers, &other.trailers),
        ] {
            for name in theirs {
                if !mine.contains(name) {
                    mine.push(name.clone());
                }
            }
        }
    }
}
