//! The connection manager's rules for headers: what is removed at each hop, whom `x-forwarded-for` may speak for, which
//! `x-envoy-*` headers a client may send, and the request's identity.
//!
//! Pure functions over a header map; the settings are in [`HeaderRules`], the connection's facts in [`Downstream`]. A
//! request passes [`remove_hop_by_hop`], then [`admit_request`]; its response passes the former and [`finish_response`].

mod client_cert;
mod origin;

use std::net::IpAddr;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, HOST, REFERER, SERVER, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA},
};

pub use client_cert::{CertDetails, CertFormat, ClientCertRules, Forwarding};
pub use origin::{Downstream, ForwardProto, InternalAddresses, IpDetection, Origin, OriginRejected};

/// Identifies a request across all hops.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The addresses that a request came through.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The hosts that a request was meant for before each rewrite.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The port that the client connected to.
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// The scheme that the client used.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Marks requests from inside.
pub const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
/// The path before a rewrite.
pub const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// The host before a rewrite.
pub const X_ENVOY_ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

/// Facts of the certificates of clients.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const DOWNSTREAM_SERVICE_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
const DOWNSTREAM_SERVICE_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

/// What a request may ask of the router of one hop, if its sender is internal.
static ORDERS: [HeaderName; 11] = [
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-stream-duration-ms"),
];

/// What else only internal senders may say.
static INTERNAL_ONLY: [HeaderName; 4] = [
    FORCE_TRACE,
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
];

/// What other proxies may send, but no external client.
static NOT_FROM_CLIENTS: [HeaderName; 5] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    DOWNSTREAM_SERVICE_CLUSTER,
    DOWNSTREAM_SERVICE_NODE,
    X_ENVOY_ORIGINAL_HOST,
    X_ENVOY_ORIGINAL_PATH,
];

/// As many headers may `Connection` nominate.
const MAX_NOMINATED: usize = 10;

/// The settings of an HTTP connection manager that decide about headers. Names are those of the configuration.
#[allow(clippy::struct_excessive_bools, reason = "one for each setting of Envoy's that is one")]
#[derive(Clone, Debug)]
pub struct HeaderRules {
    /// The peer is the client: append it to `x-forwarded-for` and distrust what the request says about itself.
    pub use_remote_address: bool,
    /// How many addresses at the right end of `x-forwarded-for` were appended by trusted proxies.
    pub xff_num_trusted_hops: usize,
    /// Leave `x-forwarded-for` as it came.
    pub skip_xff_append: bool,
    /// Set `x-forwarded-port` to the port that the client connected to.
    pub append_x_forwarded_port: bool,
    /// `original_ip_detection_extensions`; empty: by `x-forwarded-for`, with `xff_num_trusted_hops`.
    pub ip_detection: Vec<IpDetection>,
    /// Who counts as internal (`internal_address_config`); nobody by default.
    pub internal_addresses: InternalAddresses,
    /// Write IPv4 addresses as IPv6 ones (`represent_ipv4_remote_address_as_ipv4_mapped_ipv6`).
    pub ipv4_as_ipv6: bool,
    /// `scheme_to_overwrite`, "http" or "https".
    pub scheme: Option<HeaderValue>,
    /// `forward_proto_config`
    pub forward_proto: ForwardProto,
    /// What becomes of `x-forwarded-client-cert`.
    pub client_cert: ClientCertRules,
    /// `add_user_agent`: who we are.
    pub user_agent: Option<UserAgent>,
    /// Appended to `via` in both directions.
    pub via: Option<HeaderValue>,
    /// Give requests without `x-request-id` one.
    pub generate_request_id: bool,
    /// Keep the `x-request-id` of an external request.
    pub preserve_external_request_id: bool,
    /// Copy the request's `x-request-id` to the response.
    pub always_set_request_id_in_response: bool,
    /// `server_header_transformation`
    pub server_header: ServerHeader,
    /// `server_name`
    pub server_name: HeaderValue,
}

impl Default for HeaderRules {
    fn default() -> HeaderRules {
        HeaderRules {
            use_remote_address: false,
            xff_num_trusted_hops: 0,
            skip_xff_append: false,
            append_x_forwarded_port: false,
            ip_detection: Vec::new(),
            internal_addresses: InternalAddresses::default(),
            ipv4_as_ipv6: false,
            scheme: None,
            forward_proto: ForwardProto::default(),
            client_cert: ClientCertRules::default(),
            user_agent: None,
            via: None,
            generate_request_id: true,
            preserve_external_request_id: false,
            always_set_request_id_in_response: false,
            server_header: ServerHeader::Overwrite,
            server_name: HeaderValue::from_static("envoy"),
        }
    }
}

/// What `add_user_agent` tells upstreams of us.
#[derive(Clone, Debug)]
pub struct UserAgent {
    /// The service cluster: `x-envoy-downstream-service-cluster`, and `user-agent` where there is none.
    pub cluster: HeaderValue,
    /// The service node: `x-envoy-downstream-service-node`; `None` if it has no name.
    pub node: Option<HeaderValue>,
}

/// `server_header_transformation`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ServerHeader {
    /// The response bears our name.
    #[default]
    Overwrite,
    /// The response bears our name unless the upstream gave its own.
    AppendIfAbsent,
    /// The response has the upstream's name or none.
    PassThrough,
}

/// `Connection` nominates a header that a client must not make us drop, or too many headers: the request is answered with
/// status 400, details `http1.connection_header_rejected`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the connection header nominates headers that must not be removed")]
pub struct ConnectionHeaderRejected;

/// Removes what concerns only this hop: headers nominated by `Connection`, `keep-alive`, `proxy-connection`,
/// `transfer-encoding`, `te` but for `trailers`, and, unless the message is an `upgrade`, `connection` and `upgrade`.
///
/// # Errors
/// If `Connection` nominates headers that must not be dropped.
pub fn remove_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) -> Result<(), ConnectionHeaderRejected> {
    if is_hop_by_hop_free(headers) {
        return Ok(());
    }
    if headers.contains_key(CONNECTION) {
        remove_nominated(headers)?;
        if upgrade {
            if !headers[CONNECTION].as_bytes().eq_ignore_ascii_case(b"upgrade") {
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            }
        } else {
            headers.remove(CONNECTION);
        }
    }
    if !upgrade && headers.remove(UPGRADE).is_some() {
        headers.remove(HTTP2_SETTINGS);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    if headers.contains_key(TE) {
        let trailers = tokens(headers, &TE).any(|token| token == b"trailers");
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
    Ok(())
}

/// Whether no header concerns only this hop. Nearly no message has one, and one pass costs less than a search for each.
pub(super) fn is_hop_by_hop_free(headers: &HeaderMap) -> bool {
    let usual = |name: &HeaderName| {
        matches!(
            name.as_str(),
            "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
        )
    };
    // What gRPC clients send is to stay.
    !headers.iter().any(|(name, value)| usual(name) && !(*name == TE && value == "trailers"))
}

fn remove_nominated(headers: &mut HeaderMap) -> Result<(), ConnectionHeaderRejected> {
    let mut nominated = Vec::new();
    for (count, token) in tokens(headers, &CONNECTION).enumerate() {
        if count == MAX_NOMINATED {
            return Err(ConnectionHeaderRejected);
        }
        // The usual ones name no header, or one that has a rule of its own.
        if token.is_empty()
            || [&b"close"[..], b"keep-alive", b"te", b"upgrade"].iter().any(|usual| token.eq_ignore_ascii_case(usual))
        {
            continue;
        }
        let name = HeaderName::from_bytes(token).map_err(|_| ConnectionHeaderRejected)?;
        if [HOST, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO].contains(&name) {
            return Err(ConnectionHeaderRejected);
        }
        nominated.push(name);
    }
    for name in nominated {
        headers.remove(name);
    }
    Ok(())
}

/// Applies the rules to a request that has passed [`remove_hop_by_hop`], and tells who sent it. `random` becomes the
/// `x-request-id` where one is due.
///
/// # Errors
/// If the request must show a client's address, and does not.
pub fn admit_request(
    headers: &mut HeaderMap,
    rules: &HeaderRules,
    downstream: &Downstream,
    random: u128,
) -> Result<Origin, OriginRejected> {
    remove_bad_referer(headers);
    join_lines(headers, X_FORWARDED_FOR);
    let (client, may_be_internal) = origin::detect(headers, rules, downstream)?;
    set_forwarded(headers, rules, downstream);
    let internal = may_be_internal && rules.internal_addresses.contains(client);
    let edge = rules.use_remote_address && !internal;
    remove_privileged(headers, internal, edge);
    if internal {
        headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    }
    if let Some(UserAgent { cluster, node }) = &rules.user_agent {
        headers.insert(DOWNSTREAM_SERVICE_CLUSTER, cluster.clone());
        if headers.get(USER_AGENT).is_none_or(HeaderValue::is_empty) {
            headers.insert(USER_AGENT, cluster.clone());
        }
        if let Some(node) = node {
            headers.insert(DOWNSTREAM_SERVICE_NODE, node.clone());
        }
    }
    if let Some(via) = &rules.via {
        append(headers, VIA, via, ", ");
    }
    if let Some(address) = client.filter(|_| edge) {
        headers.insert(EXTERNAL_ADDRESS, downstream.address_value(address, rules));
    }
    let replace = edge && !rules.preserve_external_request_id;
    if rules.generate_request_id && (replace || !headers.contains_key(X_REQUEST_ID)) {
        headers.insert(X_REQUEST_ID, request_id(random));
    }
    client_cert::forward(headers, rules.client_cert, downstream);
    Ok(Origin { client, internal })
}

/// Sets scheme and port that the client used. Without a trusted proxy before us, what the request says of them is hearsay.
fn set_forwarded(headers: &mut HeaderMap, rules: &HeaderRules, downstream: &Downstream) {
    let hearsay = rules.use_remote_address && rules.xff_num_trusted_hops == 0;
    if let Some(scheme) = &rules.scheme {
        headers.insert(X_FORWARDED_PROTO, scheme.clone());
    } else if hearsay || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, downstream.scheme(&rules.forward_proto));
    }
    if let Some(port) = downstream.local_port().filter(|_| rules.append_x_forwarded_port)
        && (hearsay || !headers.contains_key(X_FORWARDED_PORT))
    {
        headers.insert(X_FORWARDED_PORT, port.into());
    }
}

/// Removes what the sender has no right to say.
fn remove_privileged(headers: &mut HeaderMap, internal: bool, edge: bool) {
    remove_envoy(headers, |name| {
        *name == X_ENVOY_INTERNAL
            || !internal && (ORDERS.contains(name) || INTERNAL_ONLY.contains(name))
            || edge && NOT_FROM_CLIENTS.contains(name)
    });
}

/// Removes what a request has asked of the router: it is not for the next hop.
pub fn remove_orders(headers: &mut HeaderMap) {
    remove_envoy(headers, |name| ORDERS.contains(name));
}

/// Removes those of the `x-envoy-*` headers. A request has few of them: each is looked up in the lists, not each list in the request.
fn remove_envoy(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let find = |headers: &HeaderMap| {
        headers.keys().find(|name| name.as_str().starts_with("x-envoy-") && unwanted(name)).cloned()
    };
    while let Some(name) = find(headers) {
        headers.remove(name);
    }
}

/// The `x-request-id` that the response is to carry as well; `request` are the headers of the request as admitted.
#[must_use]
pub fn response_request_id(request: &HeaderMap, rules: &HeaderRules) -> Option<HeaderValue> {
    let wanted = rules.always_set_request_id_in_response || request.contains_key(FORCE_TRACE);
    if wanted { request.get(X_REQUEST_ID).cloned() } else { None }
}

/// Applies the rules to a response on its way to the client; `request_id` is what [`response_request_id`] kept.
pub fn finish_response(headers: &mut HeaderMap, rules: &HeaderRules, request_id: Option<HeaderValue>) {
    if let Some(id) = request_id {
        headers.insert(X_REQUEST_ID, id);
    }
    if let Some(via) = &rules.via {
        append(headers, VIA, via, ", ");
    }
    let ours = match rules.server_header {
        ServerHeader::Overwrite => true,
        ServerHeader::AppendIfAbsent => !headers.contains_key(SERVER),
        ServerHeader::PassThrough => false,
    };
    if ours {
        headers.insert(SERVER, rules.server_name.clone());
    }
}

/// Appends to a list in a header unless it ends so already.
pub(crate) fn append_new(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    if tokens(headers, &name).last() != Some(value.as_bytes()) {
        append(headers, name, value, ",");
    }
}

/// Makes one line of a list that came in several.
fn join_lines(headers: &mut HeaderMap, name: HeaderName) {
    if headers.get_all(&name).iter().nth(1).is_some() {
        let lines: Vec<_> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        let joined = Bytes::from(lines.join(&b","[..]));
        headers.insert(name, HeaderValue::from_maybe_shared(joined).expect("invariant: made of header values"));
    }
}

/// Appends to a list in a header, joining what came in several lines.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue, separator: &str) {
    let mut joined = Vec::new();
    for present in headers.get_all(&name).iter().filter(|present| !present.is_empty()) {
        joined.extend_from_slice(present.as_bytes());
        joined.extend_from_slice(separator.as_bytes());
    }
    if joined.is_empty() {
        headers.insert(name, value.clone());
        return;
    }
    joined.extend_from_slice(value.as_bytes());
    headers
        .insert(name, HeaderValue::from_maybe_shared(Bytes::from(joined)).expect("invariant: made of header values"));
}

/// The members of a header that is a comma-separated list.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn address_value(address: IpAddr) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(address.to_string())).expect("invariant: addresses are visible ASCII")
}

/// Removes a `referer` that is no URL or relative reference, one with a fragment or userinfo, and several.
fn remove_bad_referer(headers: &mut HeaderMap) {
    let Some(referer) = headers.get(REFERER) else { return };
    if headers.get_all(REFERER).iter().nth(1).is_some() || !is_referer(referer.as_bytes()) {
        headers.remove(REFERER);
    }
}

/// Whether every byte may be in a URL (RFC 3986), and none ends its path and query or begins with userinfo.
fn is_referer(value: &[u8]) -> bool {
    let in_url = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(byte);
    let first_segment = value.split(|byte| *byte == b'/').next().unwrap_or_default();
    let plain = !first_segment.contains(&b':');
    let absolute = || {
        let uri = http::Uri::try_from(value).ok()?;
        let (_, authority) = (uri.scheme()?, uri.authority()?);
        let port = authority.as_str().strip_prefix(authority.host())?.strip_prefix(':').unwrap_or_default();
        Some(!authority.host().is_empty() && (port.is_empty() || port.parse::<u16>().is_ok()))
    };
    plain && value.iter().all(in_url)
        || value.iter().all(|byte| in_url(byte) || b"[]".contains(byte)) && absolute().unwrap_or(false)
}

/// A version 4 UUID (RFC 9562).
fn request_id(random: u128) -> HeaderValue {
    let random = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut text = [b'-'; 36];
    let places = (0..36).filter(|place| ![8, 13, 18, 23].contains(place));
    for (digit, place) in places.enumerate() {
        text[place] = b"0123456789abcdef"[(random >> (124 - 4 * digit) & 0xf) as usize];
    }
    let mut id = HeaderValue::from_bytes(&text).expect("invariant: digits and dashes");
    // HPACK is not to keep what never comes again (RFC 7541 section 6.2.3).
    id.set_sensitive(true);
    id
}

#[cfg(test)]
mod tests;
