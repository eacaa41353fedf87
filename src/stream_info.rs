//! What happened to one connection and to one request: the sole input of access logs, statistics and spans.
//!
//! The data path writes facts here and reports nothing else; `conn_manager/stream.rs` reads them once, at the end.
//! Names of flags are Envoy's (`%RESPONSE_FLAGS%`, `%RESPONSE_FLAGS_LONG%`).

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, uri::PathAndQuery};
use tokio::{net::unix::UCred, time::Instant};

use crate::net::Address;
use crate::proto;

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
    /// The peer's certificates in DER form as it sent them, its own first; empty unless verified.
    pub peer_chain: Vec<Box<[u8]>>,
    /// URI subject alternative names of our certificate.
    pub local_uri_sans: Vec<String>,
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
    /// Our address on the connection upstream.
    pub upstream_local: Option<Address>,
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
            grpc_status: None,
            bytes_received: 0,
            bytes_sent: 0,
            dynamic_metadata: HashMap::new(),
            is_health_check: false,
            route_name: None,
            upstream: None,
            upstream_cluster: None,
            upstream_protocol: None,
            upstream_local: None,
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
}

impl HeaderCapture {
    /// Copies what is named from `headers`.
    pub fn take(names: &[HeaderName], headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        names.iter().filter_map(|name| headers.get(name).map(|value| (name.clone(), value.clone()))).collect()
    }

    /// Asks for what `other` asks for as well.
    pub fn merge(&mut self, other: &HeaderCapture) {
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

/// A set of Envoy's response flags.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFlags {
    bits: u32,
    /// One more than the number of each bit, six bits for each, the first set lowest: in this order Envoy prints them.
    order: u64,
}

const BITS_PER_FLAG: u32 = 6;

/// Flag, `%RESPONSE_FLAGS%`, `%RESPONSE_FLAGS_LONG%`.
const FLAGS: &[(ResponseFlags, &str, &str)] = &[
    (ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED, "URX", "UpstreamRetryLimitExceeded"),
    (ResponseFlags::UPSTREAM_OVERFLOW, "UO", "UpstreamOverflow"),
    (ResponseFlags::FAILED_LOCAL_HEALTH_CHECK, "LH", "FailedLocalHealthCheck"),
    (ResponseFlags::NO_HEALTHY_UPSTREAM, "UH", "NoHealthyUpstream"),
    (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "UT", "UpstreamRequestTimeout"),
    (ResponseFlags::LOCAL_RESET, "LR", "LocalReset"),
    (ResponseFlags::UPSTREAM_REMOTE_RESET, "UR", "UpstreamRemoteReset"),
    (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, "UF", "UpstreamConnectionFailure"),
    (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, "UC", "UpstreamConnectionTermination"),
    (ResponseFlags::NO_ROUTE_FOUND, "NR", "NoRouteFound"),
    (ResponseFlags::DELAY_INJECTED, "DI", "DelayInjected"),
    (ResponseFlags::FAULT_INJECTED, "FI", "FaultInjected"),
    (ResponseFlags::RATE_LIMITED, "RL", "RateLimited"),
    (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "DC", "DownstreamConnectionTermination"),
    (ResponseFlags::STREAM_IDLE_TIMEOUT, "SI", "StreamIdleTimeout"),
    (ResponseFlags::INVALID_ENVOY_REQUEST_HEADERS, "IH", "InvalidEnvoyRequestHeaders"),
    (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "DPE", "DownstreamProtocolError"),
    (ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED, "UMSDR", "UpstreamMaxStreamDurationReached"),
    (ResponseFlags::DURATION_TIMEOUT, "DT", "DurationTimeout"),
    (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "UPE", "UpstreamProtocolError"),
    (ResponseFlags::NO_CLUSTER_FOUND, "NC", "NoClusterFound"),
    (ResponseFlags::OVERLOAD_MANAGER, "OM", "OverloadManagerTerminated"),
    (ResponseFlags::DOWNSTREAM_REMOTE_RESET, "DR", "DownstreamRemoteReset"),
];

impl ResponseFlags {
    /// Nothing went wrong.
    pub const NONE: ResponseFlags = ResponseFlags { bits: 0, order: 0 };
    /// Local service failed its health check.
    pub const FAILED_LOCAL_HEALTH_CHECK: ResponseFlags = ResponseFlags::single(0);
    /// No host could be chosen.
    pub const NO_HEALTHY_UPSTREAM: ResponseFlags = ResponseFlags::single(1);
    /// The route's timeout ran out.
    pub const UPSTREAM_REQUEST_TIMEOUT: ResponseFlags = ResponseFlags::single(2);
    /// We reset the stream.
    pub const LOCAL_RESET: ResponseFlags = ResponseFlags::single(3);
    /// The host reset the stream.
    pub const UPSTREAM_REMOTE_RESET: ResponseFlags = ResponseFlags::single(4);
    /// No connection to the host.
    pub const UPSTREAM_CONNECTION_FAILURE: ResponseFlags = ResponseFlags::single(5);
    /// The host closed the connection.
    pub const UPSTREAM_CONNECTION_TERMINATION: ResponseFlags = ResponseFlags::single(6);
    /// A circuit breaker is open.
    pub const UPSTREAM_OVERFLOW: ResponseFlags = ResponseFlags::single(7);
    /// No route matched.
    pub const NO_ROUTE_FOUND: ResponseFlags = ResponseFlags::single(8);
    /// The client closed the connection.
    pub const DOWNSTREAM_CONNECTION_TERMINATION: ResponseFlags = ResponseFlags::single(9);
    /// Nothing moved for the stream idle timeout.
    pub const STREAM_IDLE_TIMEOUT: ResponseFlags = ResponseFlags::single(10);
    /// The client broke the protocol.
    pub const DOWNSTREAM_PROTOCOL_ERROR: ResponseFlags = ResponseFlags::single(11);
    /// The host broke the protocol.
    pub const UPSTREAM_PROTOCOL_ERROR: ResponseFlags = ResponseFlags::single(12);
    /// `max_stream_duration` ran out.
    pub const UPSTREAM_MAX_STREAM_DURATION_REACHED: ResponseFlags = ResponseFlags::single(13);
    /// The route names a cluster that does not exist.
    pub const NO_CLUSTER_FOUND: ResponseFlags = ResponseFlags::single(14);
    /// The process is overloaded.
    pub const OVERLOAD_MANAGER: ResponseFlags = ResponseFlags::single(15);
    /// The client reset the stream.
    pub const DOWNSTREAM_REMOTE_RESET: ResponseFlags = ResponseFlags::single(16);

    /// Another attempt would have been due, and there had been enough.
    pub const UPSTREAM_RETRY_LIMIT_EXCEEDED: ResponseFlags = ResponseFlags::single(17);
    /// The headers by which a request orders the router about are wrong.
    pub const INVALID_ENVOY_REQUEST_HEADERS: ResponseFlags = ResponseFlags::single(18);
    /// A connection lasted as long as it may.
    pub const DURATION_TIMEOUT: ResponseFlags = ResponseFlags::single(19);

    /// A fault filter kept the request waiting.
    pub const DELAY_INJECTED: ResponseFlags = ResponseFlags::single(20);
    /// A fault filter answered.
    pub const FAULT_INJECTED: ResponseFlags = ResponseFlags::single(21);
    /// There were too many requests.
    pub const RATE_LIMITED: ResponseFlags = ResponseFlags::single(22);

    const fn single(bit: u32) -> ResponseFlags {
        ResponseFlags { bits: 1 << bit, order: bit as u64 + 1 }
    }

    /// Adds the flags of `other`, after those that are set already.
    pub fn set(&mut self, other: ResponseFlags) {
        for bit in other.bits_in_order() {
            if self.bits & 1 << bit == 0 {
                let place = u64::from(bit + 1).checked_shl(BITS_PER_FLAG * self.bits.count_ones());
                self.order |= place.unwrap_or_default();
                self.bits |= 1 << bit;
            }
        }
    }

    fn bits_in_order(self) -> impl Iterator<Item = u32> {
        let places = (0..u64::BITS / BITS_PER_FLAG).map(move |place| self.order >> (BITS_PER_FLAG * place) & 0x3f);
        places.filter_map(|bit| u32::try_from(bit).ok()?.checked_sub(1))
    }

    /// Whether all flags of `other` are set.
    pub fn contains(self, other: ResponseFlags) -> bool {
        self.bits & other.bits == other.bits
    }

    /// Whether any flag of `other` is set.
    pub fn intersects(self, other: ResponseFlags) -> bool {
        self.bits & other.bits != 0
    }

    /// Whether none is set.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// The short and the long names of the flags set, in the order in which they were set.
    pub fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.bits_in_order().filter_map(|bit| {
            let row = FLAGS.iter().find(|(flag, ..)| flag.bits == 1 << bit);
            row.map(|(_, short, long)| (*short, *long))
        })
    }

    /// The flag with this short name, such as "UH".
    pub fn from_short_name(name: &str) -> Option<ResponseFlags> {
        FLAGS.iter().find(|(_, short, _)| *short == name).map(|(flag, ..)| *flag)
    }
}
