//! One attempt at a request: when what happened, and how it failed.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::time::Instant;

use crate::{
    proto::core::RoutingPriority,
    stream_info::{ConnectionInfo, UpstreamConnectionInfo},
    upstream::Origin,
};

/// An attempt that brought no response headers.
#[derive(Debug)]
pub struct UpstreamFailure {
    /// What went wrong.
    pub kind: FailureKind,
    /// The host cannot have begun to process the request, which is whole again where it was given: any method may be sent
    /// once more. Else nothing of use is left of it.
    pub unprocessed: bool,
    /// The reason in words, for logs and `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub cause: String,
}

/// What went wrong with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection to the host could be made.
    Connect,
    /// The address that connections are to come from cannot be had.
    Bind,
    /// No connection to the host was made in time (`connect_timeout`).
    ConnectTimeout,
    /// The host was reached, but TLS was not agreed on.
    Tls,
    /// The host reset the stream.
    Reset(h2::Reason),
    /// The connection closed before the response.
    Disconnect,
    /// The host refused the stream unprocessed (`REFUSED_STREAM`).
    RefusedStream,
    /// The host had begun to shut the connection down, and left this stream unprocessed.
    GoAway,
    /// Too many requests wait for a connection.
    Overflow,
    /// The host broke the protocol.
    Protocol,
    /// The request's own body broke off: the client is gone.
    RequestBody,
}

/// One attempt at a request: on whose account, and when what happened. It can be read while the attempt goes on; a moment is `None`
/// when it never came to that.
#[derive(Debug, Default, Clone)]
pub struct UpstreamAttempt {
    /// Which circuit breakers count it.
    pub priority: RoutingPriority,
    /// Where the request comes from.
    pub origin: Origin,
    /// The connection of the client that it is for.
    pub client: Option<Rc<ConnectionInfo>>,
    /// A new connection was begun for it; `None` when a pooled one served.
    pub connect_started: Cell<Option<Instant>>,
    /// The new connection was ready, TLS included.
    pub connected: Cell<Option<Instant>>,
    /// The connection that it was handed to.
    pub connection: RefCell<Option<Rc<UpstreamConnectionInfo>>>,
    /// When that was.
    pub first_byte_sent: Cell<Option<Instant>>,
    /// The response's headers came.
    pub headers_received: Cell<Option<Instant>>,
}
