//! Who sent a request: the client's address by the connection, by `x-forwarded-for` or by another header, and whether it is internal.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{HeaderRules, X_FORWARDED_FOR, address_value, append, client_cert::ClientCert, tokens};
use crate::{matcher::CidrRange, stream_info::ConnectionInfo};

/// `internal_address_config`
#[derive(Clone, Debug, Default)]
pub struct InternalAddresses {
    /// Peers in these ranges are internal.
    pub cidr_ranges: Vec<CidrRange>,
    /// Peers on Unix sockets are.
    pub unix_sockets: bool,
}

impl InternalAddresses {
    pub(super) fn contains(&self, client: Option<IpAddr>) -> bool {
        match client {
            Some(address) => self.cidr_ranges.iter().any(|range| range.contains(address)),
            None => self.unix_sockets,
        }
    }
}

/// One of `original_ip_detection_extensions`: a way to find the client's address.
#[derive(Clone, Debug)]
pub enum IpDetection {
    /// `XffConfig` with `xff_num_trusted_hops`: the address in `x-forwarded-for` before so many last ones.
    TrustedHops {
        /// How many addresses at the right end are passed over.
        hops: usize,
        /// Add our peer to `x-forwarded-for`.
        append: bool,
    },
    /// `XffConfig` with `xff_trusted_cidrs`: the last address in `x-forwarded-for` that is none of these, if our peer is one.
    TrustedRanges {
        /// Where proxies are.
        ranges: Vec<CidrRange>,
        /// Add our peer to `x-forwarded-for`.
        append: bool,
    },
    /// `CustomHeaderConfig`
    Header {
        /// The header that holds the address.
        name: HeaderName,
        /// The address may count as internal.
        trusted: bool,
        /// The answer to requests without an address there; `None` lets them pass.
        reject: Option<StatusCode>,
    },
}

/// A request without the address that it must show: the answer has this status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OriginRejected(pub StatusCode);

/// `forward_proto_config`: schemes by the port that a proxy before us was connected to.
#[derive(Clone, Debug, Default)]
pub struct ForwardProto {
    /// `https_destination_ports`
    pub https_ports: Vec<u32>,
    /// `http_destination_ports`
    pub http_ports: Vec<u32>,
}

/// The facts of a downstream connection that the rules need, in the form in which they go into headers.
#[derive(Clone, Debug)]
pub struct Downstream {
    peer: Option<IpAddr>,
    peer_value: HeaderValue,
    local_port: Option<u16>,
    /// The port that the client connected to by the word of a proxy, which may have spoken TLS with it.
    proxied_port: Option<u16>,
    scheme: HeaderValue,
    /// What `x-forwarded-client-cert` says of the client; `None` without a certificate that was verified.
    pub(super) client_cert: Option<ClientCert>,
}

impl Downstream {
    /// `peer` and `local_port` are None on a Unix socket.
    #[must_use]
    pub fn new(peer: Option<IpAddr>, local_port: Option<u16>, tls: bool) -> Downstream {
        Downstream {
            peer,
            peer_value: peer.map_or(HeaderValue::from_static(""), address_value),
            local_port,
            proxied_port: None,
            scheme: HeaderValue::from_static(if tls { "https" } else { "http" }),
            client_cert: None,
        }
    }

    /// The facts of a connection, as far as `rules` ask for them.
    #[must_use]
    pub fn of_connection(info: &ConnectionInfo, rules: &HeaderRules) -> Downstream {
        let (peer, local_port) = (info.remote.ip(), info.local.port());
        let proxied = info.remote != info.direct_remote;
        Downstream {
            peer_value: peer.map_or(HeaderValue::from_static(""), |peer| rules.address_value(peer)),
            proxied_port: local_port.filter(|_| proxied),
            client_cert: info.tls.as_ref().and_then(|tls| rules.client_cert.describe(tls)),
            ..Downstream::new(peer, local_port, info.tls.is_some())
        }
    }

    /// The port that the client connected to.
    pub(super) fn local_port(&self) -> Option<u16> {
        self.local_port
    }

    /// The scheme that the client used.
    pub(super) fn scheme(&self, ports: &ForwardProto) -> HeaderValue {
        let port = self.proxied_port.map(u32::from);
        if port.is_some_and(|port| ports.https_ports.contains(&port)) {
            HeaderValue::from_static("https")
        } else if port.is_some_and(|port| ports.http_ports.contains(&port)) {
            HeaderValue::from_static("http")
        } else {
            self.scheme.clone()
        }
    }

    /// An address as it goes into headers.
    pub(super) fn address_value(&self, address: IpAddr, rules: &HeaderRules) -> HeaderValue {
        if self.peer == Some(address) { self.peer_value.clone() } else { rules.address_value(address) }
    }
}

impl HeaderRules {
    fn address_value(&self, address: IpAddr) -> HeaderValue {
        address_value(match address {
            IpAddr::V4(v4) if self.ipv4_as_ipv6 => v4.to_ipv6_mapped().into(),
            other => other,
        })
    }
}

/// Who sent a request, as far as it can be trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin {
    /// The client's address by `x-forwarded-for` or by the connection; None on a Unix socket.
    pub client: Option<IpAddr>,
    /// The request came from an internal address and was marked `x-envoy-internal`.
    pub internal: bool,
}

/// The client's address, and whether it can be an internal one. Also adds our peer to `x-forwarded-for` where that is due.
pub(super) fn detect(
    headers: &mut HeaderMap,
    rules: &HeaderRules,
    downstream: &Downstream,
) -> Result<(Option<IpAddr>, bool), OriginRejected> {
    if rules.use_remote_address {
        let alone = !headers.contains_key(X_FORWARDED_FOR);
        let hops = rules.xff_num_trusted_hops;
        let forwarded = hops.checked_sub(1).and_then(|skip| forwarded_address(headers, skip));
        if !rules.skip_xff_append {
            append_peer(headers, rules, downstream);
        }
        return Ok((forwarded.or(downstream.peer), alone));
    }
    if rules.ip_detection.is_empty() {
        let forwarded = forwarded_address(headers, rules.xff_num_trusted_hops);
        return Ok(match forwarded {
            Some(address) => (Some(address), is_single(headers)),
            None => (downstream.peer, false),
        });
    }
    for detection in &rules.ip_detection {
        let (found, append) = match detection {
            IpDetection::TrustedHops { hops, append } => {
                (forwarded_address(headers, *hops).map(|address| (address, is_single(headers))), *append)
            }
            IpDetection::TrustedRanges { ranges, append } => {
                let trusted = downstream.peer.is_some_and(|peer| is_in(ranges, peer));
                let found = if trusted { last_outside(headers, ranges) } else { None };
                (found.map(|address| (address, is_single(headers))), *append)
            }
            IpDetection::Header { name, trusted, reject } => {
                let address = headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok());
                if let (None, Some(status)) = (address, reject) {
                    return Err(OriginRejected(*status));
                }
                (address.map(|address| (address, *trusted)), false)
            }
        };
        if append {
            append_peer(headers, rules, downstream);
        }
        if let Some((address, may_be_internal)) = found {
            return Ok((Some(address), may_be_internal));
        }
    }
    Ok((downstream.peer, false))
}

fn append_peer(headers: &mut HeaderMap, rules: &HeaderRules, downstream: &Downstream) {
    if let Some(peer) = downstream.peer {
        append(headers, X_FORWARDED_FOR, &downstream.address_value(peer, rules), ",");
    }
}

fn is_in(ranges: &[CidrRange], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}

/// Only a request that passed no other proxy can come from inside.
fn is_single(headers: &HeaderMap) -> bool {
    tokens(headers, &X_FORWARDED_FOR).nth(1).is_none()
}

/// The address in `x-forwarded-for` before the last `skip` ones.
fn forwarded_address(headers: &HeaderMap, skip: usize) -> Option<IpAddr> {
    last_first(headers).nth(skip)?
}

/// The last address in `x-forwarded-for` outside of `ranges`, else the first one; `None` if what is looked at is no address.
fn last_outside(headers: &HeaderMap, ranges: &[CidrRange]) -> Option<IpAddr> {
    let mut first = None;
    for address in last_first(headers) {
        first = Some(address?);
        if !is_in(ranges, address?) {
            break;
        }
    }
    first
}

fn last_first(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let values = headers.get_all(X_FORWARDED_FOR).into_iter().rev();
    let texts = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    texts.map(|text| str::from_utf8(text.trim_ascii()).ok()?.parse().ok())
}
