//! HTTP/1.1 upstream, by hyper: a connection serves one request at a time, and waits for the next one on a stack.
//!
//! Last in, first out, so that few connections stay warm and the others idle out. Only a connection that hyper calls ready
//! stands on the stack; one whose response was given up never comes back, and so closes.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::{Rc, Weak},
};

use http::{
    HeaderValue, Method, Uri, Version, header,
    uri::{Authority, Scheme},
};
use http_body::Body as _;
use hyper::client::conn::{
    TrySendError,
    http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{sync::Notify, task::spawn_local, time::Instant};

use super::{
    FailureKind, UpstreamAttempt, UpstreamFailure,
    connect::{ConnectError, ConnectionRecord, Established, Side, connect},
    places::{ConnectionPlace, Pending},
    response::{ActiveRequest, Exchange, Resets, guarded},
};
use crate::{
    http::{
        Request, Response,
        body::{Body, BodyError},
        copy_head,
        headers::X_FORWARDED_PROTO,
        to_authority_form, to_origin_form,
        upgrade::{Halves, Upgrade, is_tunnel},
    },
    net::{Alpn, with_causes},
    proto::core::RoutingPriority,
    upstream::{HostRef, ProtocolOptions, transport_socket::TransportSocketOptions},
};

/// The HTTP/1.1 connections of one host that wait for a request, the most recently used one last.
pub(super) struct Pool {
    options: Rc<TransportSocketOptions>,
    idle: RefCell<Vec<Connection>>,
    /// Connections made and being made.
    open: Cell<usize>,
    /// Told to one of those who wait for a connection.
    freed: Notify,
}

/// A connection to be used for one request at a time. Dropped, it closes once it has nothing left to do.
struct Connection {
    sender: SendRequest<Body>,
    record: Rc<ConnectionRecord>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.record.close(Side::Local);
    }
}

impl Pool {
    pub(super) fn new(options: Rc<TransportSocketOptions>) -> Rc<Pool> {
        Rc::new(Pool { options, idle: RefCell::default(), open: Cell::new(0), freed: Notify::new() })
    }

    /// Sends a request by an idle connection, or else a new one.
    pub(super) async fn send(
        self: &Rc<Pool>,
        host: &HostRef,
        request: &mut Request,
        attempt: &UpstreamAttempt,
    ) -> Result<Response, UpstreamFailure> {
        let connection = match self.take_idle() {
            Some(connection) => connection,
            // Boxed, so that the many requests that find one do not carry its state.
            None => Box::pin(self.wait(host, attempt)).await.map_err(ConnectError::into_failure)?,
        };
        let active = match ActiveRequest::begin(host, attempt, Resets::None) {
            Ok(active) => active,
            Err(overflow) => {
                self.give_back(connection);
                return Err(overflow.into_failure());
            }
        };
        prepare(request, &host.cluster().protocol);
        let spare = spare(request, &connection.record);
        let received = connection.record.received();
        connection.record.begin();
        attempt.connection.replace(Some(Rc::clone(connection.record.info())));
        attempt.first_byte_sent.set(Some(active.started()));
        let mut lease = Lease { pool: Rc::downgrade(self), connection, active };
        match lease.connection.sender.try_send_request(std::mem::take(request)).await {
            Ok(response) => {
                attempt.headers_received.set(Some(Instant::now()));
                lease.active.answered(response.status());
                Ok(response.map(|incoming| guarded(incoming.into(), lease)))
            }
            Err(error) => {
                let untouched = lease.connection.record.received() == received;
                lease.active.unanswered(false);
                let failure = failure(error, spare.filter(|_| untouched), request);
                if failure.kind == FailureKind::Protocol {
                    lease.connection.record.close(Side::Local);
                    host.cluster().stats.upstream_cx_protocol_error.inc();
                }
                Err(failure)
            }
        }
    }

    /// Sends a request for an upgrade by a connection of its own. After `101` the bodies of request and response are the two
    /// directions of that connection; any other answer is an ordinary one.
    pub(super) async fn upgrade(
        self: &Rc<Pool>,
        host: &HostRef,
        request: &mut Request,
        attempt: &UpstreamAttempt,
    ) -> Result<Response, UpstreamFailure> {
        let pending = Pending::begin(host, attempt.priority).map_err(ConnectError::into_failure)?;
        let seat = loop {
            if let Some(seat) = self.seat(host, attempt.priority) {
                break seat;
            }
            // One that waits for another kind of request makes room.
            drop(self.take_idle());
            self.freed.notified().await;
        };
        attempt.connect_started.set(Some(Instant::now()));
        host.cluster().stats.upstream_cx_http1_total.inc();
        let established = connect(host, &self.options, &[Alpn::Http11], attempt.priority).await;
        pending.end();
        drop(pending);
        let established = established.map_err(ConnectError::into_failure)?;
        let active = ActiveRequest::begin(host, attempt, Resets::None);
        let active = active.map_err(ConnectError::into_failure)?;
        attempt.connected.set(Some(Instant::now()));
        let Established { io, record, .. } = established;
        record.begin();
        let (mut sender, connection) = match builder(&record.cluster().protocol).handshake(TokioIo::new(io)).await {
            Ok(started) => started,
            Err(error) => return Err(ConnectError::new(FailureKind::Connect, &error).into_failure()),
        };
        let info = Rc::clone(record.info());
        spawn_local(async move {
            // Its end is told by the response.
            let _ = connection.with_upgrades().await;
            drop(seat);
        });

        let outgoing = std::mem::take(request.body_mut());
        let method = request.method().clone();
        Upgrade::complete_http1(request);
        prepare(request, &host.cluster().protocol);
        attempt.connection.replace(Some(info));
        attempt.first_byte_sent.set(Some(active.started()));
        let mut response = match sender.try_send_request(std::mem::take(request)).await {
            Ok(response) => response,
            Err(error) => {
                active.unanswered(false);
                let failure = failure(error, None, request);
                *request.body_mut() = outgoing;
                return Err(failure);
            }
        };
        attempt.headers_received.set(Some(Instant::now()));
        active.answered(response.status());
        let tunnel = Tunnel { active, record: Rc::clone(&record) };
        if !is_tunnel(&method, response.status()) {
            record.close(Side::Local);
            return Ok(response.map(|incoming| guarded(incoming.into(), tunnel)));
        }
        let upgraded = hyper::upgrade::on(&mut response);
        let (halves, incoming) = Halves::pending();
        spawn_local(async move {
            // Fails if the host closes at once; then the response's body ends.
            if let Ok(upgraded) = upgraded.await {
                halves.join(upgraded, outgoing).await;
                // The client's end comes first, unless the host's has been seen.
                record.close(Side::Local);
            }
        });
        Ok(response.map(|_| guarded(incoming, tunnel)))
    }

    /// Whether a connection waits here for a request.
    pub(super) fn has_idle(&self) -> bool {
        !self.idle.borrow().is_empty()
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let connection = idle.pop()?;
            if connection.sender.is_ready() || connection.record.is_new() && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
    }

    /// An idle connection as soon as there is one, or a new one if there may be one.
    async fn wait(self: &Rc<Pool>, host: &HostRef, attempt: &UpstreamAttempt) -> Result<Connection, ConnectError> {
        let pending = Pending::begin(host, attempt.priority)?;
        if !ConnectionPlace::is_free(host, attempt.priority) {
            host.cluster().stats.upstream_cx_overflow.inc();
        }
        loop {
            if let Some(seat) = self.seat(host, attempt.priority) {
                let connected = self.connect(host, attempt, seat).await;
                pending.end();
                if connected.is_err() {
                    host.cluster().stats.upstream_rq_pending_failure_eject.inc();
                }
                return connected;
            }
            self.freed.notified().await;
            if let Some(connection) = self.take_idle() {
                pending.end();
                return Ok(connection);
            }
        }
    }

    /// Room for one more connection, which the first one always has.
    fn seat(self: &Rc<Pool>, host: &HostRef, priority: RoutingPriority) -> Option<Seat> {
        let free = ConnectionPlace::is_free(host, priority);
        (free || self.open.get() == 0).then(|| Seat::take(self))
    }

    async fn connect(
        self: &Rc<Pool>,
        host: &HostRef,
        attempt: &UpstreamAttempt,
        seat: Seat,
    ) -> Result<Connection, ConnectError> {
        attempt.connect_started.set(Some(Instant::now()));
        host.cluster().stats.upstream_cx_http1_total.inc();
        let established = connect(host, &self.options, &[Alpn::Http11], attempt.priority).await?;
        attempt.connected.set(Some(Instant::now()));
        self.start(established, seat).await
    }

    /// Starts HTTP/1.1 on a new connection, which runs until it closes or has idled too long.
    async fn start(self: &Rc<Pool>, established: Established, seat: Seat) -> Result<Connection, ConnectError> {
        let Established { io, record, .. } = established;
        let handshake = builder(&record.cluster().protocol).handshake(TokioIo::new(io)).await;
        let (sender, connection) = handshake.map_err(|error| ConnectError::new(FailureKind::Connect, &error))?;
        let (pool, watched) = (Rc::downgrade(self), Rc::clone(&record));
        spawn_local(async move {
            let mut connection = pin!(connection);
            tokio::select! {
                biased;
                _ = connection.as_mut() => {
                    watched.close(Side::Remote);
                    remove(&pool, &watched);
                }
                () = watched.idled_out() => {
                    remove(&pool, &watched);
                    // It says goodbye to TLS and TCP; without its sender it ends by itself.
                    let _ = connection.await;
                }
            }
            drop(seat);
        });
        Ok(Connection { sender, record })
    }

    /// Takes in a new connection that nobody has a request for yet.
    pub(super) async fn adopt(self: &Rc<Pool>, established: Established) -> Result<(), ConnectError> {
        established.record.cluster().stats.upstream_cx_http1_total.inc();
        let connection = self.start(established, Seat::take(self)).await?;
        self.give_back(connection);
        Ok(())
    }

    fn give_back(&self, connection: Connection) {
        self.idle.borrow_mut().push(connection);
        self.freed.notify_one();
    }

    /// Puts a connection back on the stack, once it is ready for another request. It may be so later than its response
    /// ended, if the request is still being sent; or never, if it is about to close.
    fn put_back(self: &Rc<Pool>, mut connection: Connection) {
        connection.record.end();
        if connection.record.is_worn_out() {
            connection.record.cluster().stats.upstream_cx_max_requests.inc();
        } else if connection.sender.is_ready() {
            self.give_back(connection);
        } else if !connection.sender.is_closed() {
            let pool = Rc::downgrade(self);
            spawn_local(async move {
                if connection.sender.ready().await.is_ok()
                    && let Some(pool) = pool.upgrade()
                {
                    pool.give_back(connection);
                }
            });
        }
    }
}

/// A connection of a pool, from before it is made until it has ended.
struct Seat(Weak<Pool>);

impl Seat {
    fn take(pool: &Rc<Pool>) -> Seat {
        pool.open.set(pool.open.get() + 1);
        Seat(Rc::downgrade(pool))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.open.set(pool.open.get() - 1);
            pool.freed.notify_one();
        }
    }
}

/// Takes a connection that has ended off the stack.
fn remove(pool: &Weak<Pool>, record: &Rc<ConnectionRecord>) {
    if let Some(pool) = pool.upgrade() {
        pool.idle.borrow_mut().retain(|connection| !Rc::ptr_eq(&connection.record, record));
    }
}

fn builder(options: &ProtocolOptions) -> Builder {
    let mut builder = Builder::new();
    builder.title_case_headers(options.http1.proper_case);
    let header_bytes = options.max_response_headers_bytes as usize;
    builder.max_header_size(header_bytes);
    if header_bytes > 256 * 1024 {
        builder.max_buf_size(header_bytes + 8192);
    }
    // hyper's own limit is the default, and cheaper when it is not set.
    if options.max_response_headers != ProtocolOptions::default().max_response_headers {
        builder.max_headers(options.max_response_headers);
    }
    builder
}

/// Puts a request in the form of HTTP/1.1.
fn prepare(request: &mut Request, options: &ProtocolOptions) {
    if *request.method() == Method::CONNECT {
        to_authority_form(request);
    } else {
        to_origin_form(request);
        if options.http1.fully_qualified_url {
            qualify(request);
        }
    }
    *request.version_mut() = Version::HTTP_11;
    let ended = request.body().is_end_stream();
    // A server may wait for a body of any other method (RFC 9110 section 8.6).
    let bodiless =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT);
    if ended && !bodiless && !request.headers().contains_key(header::CONTENT_LENGTH) {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    // hyper would leave a body of unknown length out where it is unusual.
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && !ended
        && !request.headers().contains_key(header::CONTENT_LENGTH)
    {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Writes scheme and host into the request target, as a proxy expects them (RFC 9112 section 3.2.2); `Host` stays.
fn qualify(request: &mut Request) {
    let https = request.headers().get(X_FORWARDED_PROTO).is_some_and(|scheme| scheme == "https");
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(if https { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = request.headers().get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    // A host that no URL can have stays in its field alone.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// What to send once more if the connection, which has idled, closes without a byte in answer: then the host most likely
/// closed it before it saw the request. Only of a request that does no harm twice, and has no body.
fn spare(request: &Request, record: &ConnectionRecord) -> Option<Request> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !record.has_idled() || !safe || !request.body().is_end_stream() {
        return None;
    }
    Some(copy_head(request))
}

/// What came of a request without a response; `spare` if it may be sent once more. What can be sent again goes to `request`.
fn failure(mut error: TrySendError<Request>, spare: Option<Request>, request: &mut Request) -> UpstreamFailure {
    let unsent = error.take_message();
    let error = error.into_error();
    let kind = if error.is_parse() {
        FailureKind::Protocol
    } else if error.is_user() {
        FailureKind::RequestBody
    } else {
        FailureKind::Disconnect
    };
    let again = match kind {
        FailureKind::Disconnect => unsent.or(spare),
        _ => unsent,
    };
    let unprocessed = again.is_some();
    *request = again.unwrap_or_default();
    UpstreamFailure { kind, unprocessed, cause: with_causes(&error) }
}

/// A connection that is busy with one request.
struct Lease {
    pool: Weak<Pool>,
    connection: Connection,
    active: ActiveRequest,
}

impl Exchange for Lease {
    fn complete(self) {
        self.active.complete();
        if let Some(pool) = self.pool.upgrade() {
            pool.put_back(self.connection);
        }
    }

    fn fail(self, error: &BodyError) {
        if matches!(error, BodyError::Protocol(_)) {
            self.connection.record.cluster().stats.upstream_cx_protocol_error.inc();
        }
        self.active.fail(error);
    }

    fn passes_trailers(&self) -> bool {
        self.connection.record.cluster().protocol.http1.trailers
    }
}

/// A connection that carries an upgraded stream, or the answer that refuses one. No other request will have it.
struct Tunnel {
    active: ActiveRequest,
    record: Rc<ConnectionRecord>,
}

impl Exchange for Tunnel {
    fn complete(self) {
        self.record.close(Side::Remote);
        self.active.complete();
    }

    fn fail(self, error: &BodyError) {
        self.active.fail(error);
    }

    fn passes_trailers(&self) -> bool {
        self.record.cluster().protocol.http1.trailers
    }
}

#[cfg(test)]
mod tests;
