//! The operators that take no argument, such as `%RESPONSE_CODE%`: one row each.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use http::Version;

use crate::net::Address;
use crate::stream_info::{ChainCertificate, PeerCertificate, TlsInfo, url_encoded};

use super::print::{Printed, display, host, list, milliseconds, names, number, text, underscored};
use super::scope::Scope;

/// Appends what an operator stands for.
pub type Print = fn(&Scope<'_>, &mut Vec<u8>) -> Printed;

/// Operators that take no argument, by name.
pub const COMMANDS: &[(&str, Print)] = &[
    ("PROTOCOL", |s, out| text(out, s.info.protocol.map(version))),
    ("UPSTREAM_PROTOCOL", |s, out| text(out, s.info.upstream_protocol.map(version))),
    ("RESPONSE_CODE", |s, out| number(out, Some(s.info.response_code.unwrap_or(0)))),
    ("RESPONSE_FLAGS", |s, out| list(out, "-", s.info.flags.names().map(|(short, _)| short))),
    ("RESPONSE_FLAGS_LONG", |s, out| list(out, "-", s.info.flags.names().map(|(_, long)| long))),
    ("BYTES_RECEIVED", |s, out| number(out, Some(s.info.bytes_received))),
    ("BYTES_SENT", |s, out| number(out, Some(s.info.bytes_sent))),
    // These two exist for HTTP/3 alone; elsewhere they are 0.
    ("BYTES_RETRANSMITTED", |_, out| number(out, Some(0))),
    ("PACKETS_RETRANSMITTED", |_, out| number(out, Some(0))),
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
    ("UPSTREAM_CLUSTER", |s, out| {
        let observed = s.info.upstream.as_ref().map(|upstream| &*upstream.cluster_stat_name);
        text(out, observed.or(s.info.cluster_name()))
    }),
    ("UPSTREAM_CLUSTER_RAW", |s, out| text(out, s.info.cluster_name())),
    ("UPSTREAM_REMOTE_ADDRESS", |s, out| display(out, s.upstream_peer())),
    ("UPSTREAM_REMOTE_PORT", |s, out| number(out, s.upstream_peer().and_then(Address::port))),
    ("UPSTREAM_LOCAL_ADDRESS", |s, out| display(out, s.upstream_local())),
    ("UPSTREAM_LOCAL_PORT", |s, out| number(out, s.upstream_local().and_then(Address::port))),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", |s, out| number(out, Some(s.info.attempt_count))),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", |s, out| {
        let reason = s.info.upstream_transport_failure_reason.as_deref();
        underscored(out, reason.filter(|reason| !reason.is_empty()))
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS", |s, out| display(out, s.client())),
    ("DOWNSTREAM_REMOTE_PORT", |s, out| number(out, s.client().and_then(|client| client.port()))),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", |s, out| display(out, Some(&s.info.connection.direct_remote))),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", |s, out| number(out, s.info.connection.direct_remote.port())),
    ("DOWNSTREAM_LOCAL_ADDRESS", |s, out| display(out, Some(&s.info.connection.local))),
    ("DOWNSTREAM_LOCAL_PORT", |s, out| number(out, s.info.connection.local.port())),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", |s, out| display(out, Some(&s.info.connection.direct_local))),
    ("DOWNSTREAM_DIRECT_LOCAL_PORT", |s, out| number(out, s.info.connection.direct_local.port())),
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
    ("TLS_JA3_FINGERPRINT", |s, out| {
        text(out, s.info.connection.fingerprints.as_ref().and_then(|fingerprints| fingerprints.ja3.as_ref()))
    }),
    ("TLS_JA4_FINGERPRINT", |s, out| {
        text(out, s.info.connection.fingerprints.as_ref().and_then(|fingerprints| fingerprints.ja4.as_ref()))
    }),
    ("DOWNSTREAM_PEER_FINGERPRINT_1", |s, out| text(out, s.peer().map(|peer| &peer.fingerprint_1))),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256", |s, out| chain(out, s.tls(), |link| &link.fingerprint_256)),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1", |s, out| chain(out, s.tls(), |link| &link.fingerprint_1)),
    ("DOWNSTREAM_PEER_CHAIN_SERIALS", |s, out| chain(out, s.tls(), |link| &link.serial)),
    ("DOWNSTREAM_PEER_CERT", |s, out| pem(out, s.tls())),
    ("DOWNSTREAM_LOCAL_SUBJECT", |s, out| text(out, own(s.tls()).map(|own| &own.subject))),
    ("DOWNSTREAM_LOCAL_DNS_SAN", |s, out| names(out, own(s.tls()).map(|own| &own.dns_sans))),
    ("DOWNSTREAM_LOCAL_URI_SAN", |s, out| names(out, own(s.tls()).map(|own| &own.uri_sans))),
    ("DOWNSTREAM_LOCAL_IP_SAN", |s, out| names(out, own(s.tls()).map(|own| &own.ip_sans))),
    ("DOWNSTREAM_LOCAL_EMAIL_SAN", |s, out| names(out, own(s.tls()).map(|own| &own.email_sans))),
    ("UPSTREAM_TLS_VERSION", |s, out| text(out, s.upstream_tls().map(|tls| tls.version))),
    ("UPSTREAM_TLS_CIPHER", |s, out| text(out, s.upstream_tls().map(|tls| tls.cipher))),
    ("UPSTREAM_PEER_SUBJECT", |s, out| text(out, s.upstream_peer_certificate().map(|peer| &peer.subject))),
    ("UPSTREAM_PEER_ISSUER", |s, out| text(out, s.upstream_peer_certificate().map(|peer| &peer.issuer))),
    ("UPSTREAM_PEER_DNS_SAN", |s, out| names(out, s.upstream_peer_certificate().map(|peer| &peer.dns_sans))),
    ("UPSTREAM_PEER_URI_SAN", |s, out| names(out, s.upstream_peer_certificate().map(|peer| &peer.uri_sans))),
    ("UPSTREAM_PEER_IP_SAN", |s, out| names(out, s.upstream_peer_certificate().map(|peer| &peer.ip_sans))),
    ("UPSTREAM_PEER_CERT", |s, out| pem(out, s.upstream_tls())),
    ("UPSTREAM_LOCAL_DNS_SAN", |s, out| names(out, own(s.upstream_tls()).map(|own| &own.dns_sans))),
    ("UPSTREAM_LOCAL_URI_SAN", |s, out| names(out, own(s.upstream_tls()).map(|own| &own.uri_sans))),
    ("UPSTREAM_LOCAL_IP_SAN", |s, out| names(out, own(s.upstream_tls()).map(|own| &own.ip_sans))),
    ("UPSTREAM_CONNECTION_ID", |s, out| {
        number(out, Some(s.info.upstream_connection.as_ref().map_or(0, |connection| connection.id)))
    }),
    ("UPSTREAM_CONNECTION_IDS_ATTEMPTED", |s, out| {
        display(out, s.info.upstream_connection.as_ref().map(|connection| connection.id))
    }),
    ("UPSTREAM_CONNECTION_POOL_READY_DURATION", |s, out| milliseconds(out, s.info.timing.pool_ready)),
    ("UPSTREAM_HOSTS_ATTEMPTED", |s, out| display(out, s.host_reached().map(|host| &host.address))),
    ("UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT", |s, out| host(out, s.host_reached().map(|host| &host.address))),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED", |s, out| text(out, s.host_reached().map(|host| &host.host_name))),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT", |s, out| {
        text(out, s.host_reached().map(|host| without_port(&host.host_name)))
    }),
    ("VIRTUAL_CLUSTER_NAME", |s, out| text(out, s.info.virtual_cluster.as_deref())),
    ("LISTENER_NAME", |s, out| text(out, Some(&*s.info.connection.listener).filter(|name| !name.is_empty()))),
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
    ("GRPC_STATUS_NUMBER", |s, out| number(out, s.grpc_status())),
];

/// Operators of Envoy that tell of what Portreeve does not have, such as spans and HTTP/3: absent, as in an Envoy without them.
pub const ABSENT: &[&str] = &[
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
    "ROUNDTRIP_DURATION",
    "SPAN_ID",
    "TRACE_ID",
    "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID",
];

/// Operators of Envoy that tell of what nothing is recorded of here yet.
pub const UNANSWERED: &[&str] = &[
    "DOWNSTREAM_CX_RTT",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER_SERIAL",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_TLS_GROUP",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_SERVER_NAME",
    "UPSTREAM_TLS_GROUP",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
];

/// Our own certificate.
fn own(tls: Option<&TlsInfo>) -> Option<&PeerCertificate> {
    tls?.local.as_deref()
}

/// One fact of each certificate that the peer sent.
fn chain(out: &mut Vec<u8>, tls: Option<&TlsInfo>, fact: fn(&ChainCertificate) -> &String) -> Printed {
    let certificates = tls.map_or(&[][..], |tls| &tls.peer_chain);
    names(out, Some(&certificates.iter().map(fact).collect::<Vec<_>>()))
}

/// The peer's certificate, for a URL.
fn pem(out: &mut Vec<u8>, tls: Option<&TlsInfo>) -> Printed {
    let certificate = tls.and_then(|tls| tls.peer_chain.first());
    text(out, certificate.map(|certificate| url_encoded(&certificate.pem())))
}

/// What lies between two moments, if both have come, in this order.
pub fn between(start: Option<Duration>, end: Option<Duration>) -> Option<Duration> {
    end?.checked_sub(start?)
}

/// A host name without its port.
pub fn without_port(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => name,
    }
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
