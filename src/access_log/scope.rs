//! What a format can read while it is filled in.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::net::Address;
use crate::stream_info::{PeerCertificate, StreamInfo, TlsInfo, UpstreamInfo};

/// Holds the path as the client sent it, where a route has rewritten it.
pub const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// Holds the host as the client sent it, where a route has rewritten it.
pub const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

/// The facts of a stream, and the headers where the caller still has them. Without them, the headers that the stream kept for its
/// logs are used. Start with [`Scope::of_request`], [`Scope::of_response`] or [`Scope::finished`] and add what is known beyond that.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The stream.
    pub info: &'a StreamInfo,
    request_headers: Option<&'a HeaderMap>,
    response_headers: Option<&'a HeaderMap>,
    response_trailers: Option<&'a HeaderMap>,
    /// `%LOCAL_REPLY_BODY%`
    pub(super) local_reply_body: &'a [u8],
}

impl<'a> Scope<'a> {
    /// The stream when only what it kept is left, as for a log entry.
    #[must_use]
    pub fn finished(info: &'a StreamInfo) -> Self {
        Self { info, request_headers: None, response_headers: None, response_trailers: None, local_reply_body: b"" }
    }

    /// A stream whose request is at hand.
    #[must_use]
    pub fn of_request(info: &'a StreamInfo, headers: &'a HeaderMap) -> Self {
        Self { request_headers: Some(headers), ..Self::finished(info) }
    }

    /// A stream whose response is at hand; of the request's headers, those that were kept.
    #[must_use]
    pub fn of_response(info: &'a StreamInfo, headers: &'a HeaderMap) -> Self {
        Self { response_headers: Some(headers), ..Self::finished(info) }
    }

    /// With the request's headers as well.
    #[must_use]
    pub fn with_request_headers(self, headers: &'a HeaderMap) -> Self {
        Self { request_headers: Some(headers), ..self }
    }

    /// With the response's trailers as well.
    #[must_use]
    pub fn with_response_trailers(self, trailers: &'a HeaderMap) -> Self {
        Self { response_trailers: Some(trailers), ..self }
    }

    /// While a local reply is made: what it would say by itself.
    #[must_use]
    pub fn with_local_reply_body(self, body: &'a [u8]) -> Self {
        Self { local_reply_body: body, ..self }
    }

    pub(super) fn tls(&self) -> Option<&'a TlsInfo> {
        self.info.connection.tls.as_ref()
    }

    pub(super) fn peer(&self) -> Option<&'a PeerCertificate> {
        self.tls()?.peer.as_deref()
    }

    /// The address of the host, once there was a connection to it.
    pub(super) fn upstream_peer(&self) -> Option<&'a Address> {
        let connected = self.info.upstream_protocol.is_some() || self.info.upstream_connection.is_some();
        self.info.upstream.as_ref().filter(|_| connected).map(|upstream| &upstream.address)
    }

    /// Our address on the connection to it.
    pub(super) fn upstream_local(&self) -> Option<&'a Address> {
        self.info.upstream_connection.as_deref().map(|connection| &connection.local)
    }

    pub(super) fn upstream_tls(&self) -> Option<&'a TlsInfo> {
        self.info.upstream_connection.as_deref()?.tls.as_ref()
    }

    /// The certificate of the host.
    pub(super) fn upstream_peer_certificate(&self) -> Option<&'a PeerCertificate> {
        self.upstream_tls()?.peer.as_deref()
    }

    /// The host that the last attempt reached: all that Envoy tells of attempts.
    pub(super) fn host_reached(&self) -> Option<&'a UpstreamInfo> {
        self.info.upstream.as_deref().filter(|_| self.info.upstream_connection.is_some())
    }

    /// What the response says to gRPC; `None` of what was no gRPC request.
    pub(super) fn grpc_status(&self) -> Option<u32> {
        if self.info.is_grpc { self.info.grpc_status_or_mapped() } else { None }
    }

    /// The client: the trusted one of `x-forwarded-for`, else the connection's peer.
    pub(super) fn client(&self) -> Option<Cow<'a, Address>> {
        Some(match self.info.trusted_client {
            Some(client) => Cow::Owned(Address::Ip(client)),
            None => Cow::Borrowed(&self.info.connection.remote),
        })
    }

    pub(super) fn request_header(&self, name: &HeaderName) -> Option<&'a HeaderValue> {
        match self.request_headers {
            Some(headers) => headers.get(name),
            None => self.info.request_header(name),
        }
    }

    pub(super) fn response_header(&self, name: &HeaderName) -> Option<&'a HeaderValue> {
        match self.response_headers {
            Some(headers) => headers.get(name),
            None => self.info.response_header(name),
        }
    }

    pub(super) fn response_trailer(&self, name: &HeaderName) -> Option<&'a HeaderValue> {
        match self.response_trailers {
            Some(trailers) => trailers.get(name),
            None => self.info.response_trailer(name),
        }
    }

    pub(super) fn path(&self) -> Option<&'a str> {
        self.info.path.as_ref().map(PathAndQuery::as_str)
    }

    /// The path as the client sent it, where a route has rewritten it.
    pub(super) fn original_path(&self) -> Option<&'a str> {
        self.request_header(&ORIGINAL_PATH)?.to_str().ok()
    }
}
