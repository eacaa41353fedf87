//! The connection manager's rules for headers: what is removed at each hop, whom `x-forwarded-for` may speak for, which
//! `x-envoy-*` headers a client may send, and the request's identity.
//!
//! Pure functions over a header map; the settings are in [`HeaderRules`], the connection's facts in [`Downstream`].

use std::net::IpAddr;

use http::HeaderMap;
use http::HeaderValue;

/// The settings of an HTTP connection manager that decide about headers. Names are those of the configuration.
#[derive(Clone, Debug, Default)]
pub struct HeaderRules {
    /// The peer is the client: append it to `x-forwarded-for` and distrust what the request says about itself.
    pub use_remote_address: bool,
    /// How many addresses at the right end of `x-forwarded-for` were appended by trusted proxies.
    pub xff_num_trusted_hops: usize,
    /// Leave `x-forwarded-for` as it came.
    pub skip_xff_append: bool,
    /// Set `x-forwarded-port` to the port that the client connected to.
    pub append_x_forwarded_port: bool,
    /// Appended to `via` in both directions.
    pub via: Option<HeaderValue>,
    /// Give requests without `x-request-id` one.
    pub generate_request_id: bool,
    /// Keep the `x-request-id` of an external request.
    pub preserve_external_request_id: bool,
    /// Copy the request's `x-request-id` to the response.
    pub always_set_request_id_in_response: bool,
}

/// The facts of the downstream connection that the rules need.
#[derive(Clone, Copy, Debug)]
pub struct Downstream {
    /// The peer's address; None on a Unix socket.
    pub peer: Option<IpAddr>,
    /// The port that the client connected to; None on a Unix socket.
    pub local_port: Option<u16>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Who sent a request, as far as it can be trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin {
    /// `%DOWNSTREAM_REMOTE_ADDRESS%` without port: the client's address by `x-forwarded-for` or by the connection.
    /// None on a Unix socket without a trusted `x-forwarded-for`.
    pub client: Option<IpAddr>,
    /// The request came from an internal address and was marked `x-envoy-internal`.
    pub internal: bool,
}

/// Why a request's headers are refused with status 400.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// `Connection` nominates a header that a client must not make us drop, or too many.
    #[error("http1.connection_header_rejected")]
    ConnectionHeaderRejected,
}

/// Removes what concerns only this hop: headers nominated by `Connection`, `keep-alive`, `proxy-connection`,
/// `transfer-encoding`, `te` but for `trailers`, and, unless the message asks for an `upgrade`, `connection` and `upgrade`.
///
/// # Errors
/// If `Connection` nominates headers that must not be dropped.
pub fn remove_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) -> Result<(), HeaderError> {
    let _ = (headers, upgrade);
    todo!()
}

/// Applies the rules to a request that has passed [`remove_hop_by_hop`], and tells who sent it. `random` becomes the
/// `x-request-id` where one is due.
pub fn admit_request(headers: &mut HeaderMap, rules: &HeaderRules, downstream: Downstream, random: u128) -> Origin {
    let _ = (headers, rules, downstream, random);
    todo!()
}

/// Applies the rules to a response on its way to the client; `request_id` is that of its request.
pub fn finish_response(headers: &mut HeaderMap, rules: &HeaderRules, request_id: Option<&HeaderValue>) {
    let _ = (headers, rules, request_id);
    todo!()
}
