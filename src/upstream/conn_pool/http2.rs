//! HTTP/2 upstream, by the h2 crate: several connections, each with many requests at once.
//!
//! A connection takes as many streams as its peer and the configuration allow; when all are full, requests wait in a row
//! and further connections are made. A new connection takes one stream before its peer's SETTINGS have come: the h2 crate
//! would queue the others behind that peer's limit, where no other connection could serve them.
//!
//! A connection that goes away (GOAWAY, an error, idleness, enough requests) takes no new streams; those it has finish,
//! for each holds the connection. What the peer says it has not processed is handed back, body and all.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
    ext::Protocol,
};
use http::{HeaderValue, Method, Version, uri::Scheme};
use http_body::Body as _;
use tokio::{
    sync::oneshot,
    task::{AbortHandle, spawn_local},
    time::Instant,
};

use super::{
    FailureKind, UpstreamAttempt, UpstreamFailure,
    connect::{ConnectError, ConnectionRecord, Established, MeteredIo, Side, connect},
    places::{ConnectionPlace, Pending},
    replay::Recorder,
    response::{ActiveRequest, Exchange, Resets, guarded},
};
use crate::{
    http::{
        Request, Response, SchemeOfUpstream,
        body::BodyError,
        cork::{Cork, CorkedIo, cork},
        headers::X_FORWARDED_PROTO,
        http2::{Pump, SEND_BUFFER, Watch, Watched, unanswered},
        to_absolute_form,
        upgrade::Upgrade,
    },
    net::Alpn,
    proto::core::RoutingPriority,
    upstream::{HostRef, ProtocolOptions, transport_socket::TransportSocketOptions},
};

/// How many streams a host is assumed to allow before it has said so; what HTTP/2 recommends as the least.
const ASSUMED_STREAMS: u32 = 100;

/// The HTTP/2 connections of one worker to one host.
pub(super) struct Pool {
    options: Rc<TransportSocketOptions>,
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Connections being made.
    connecting: Cell<usize>,
    /// What the next connection's peer will allow, by what the last one's did.
    assumed: Cell<u32>,
    waiting: RefCell<VecDeque<Waiter>>,
}

/// A request without a stream.
struct Waiter {
    host: HostRef,
    priority: RoutingPriority,
    slot: oneshot::Sender<Result<Slot, ConnectError>>,
}

impl Pool {
    pub(super) fn new(options: Rc<TransportSocketOptions>) -> Rc<Pool> {
        Rc::new(Pool {
            options,
            connections: RefCell::default(),
            connecting: Cell::new(0),
            assumed: Cell::new(ASSUMED_STREAMS),
            waiting: RefCell::default(),
        })
    }

    /// Sends a request by a connection that has room, or waits for one.
    pub(super) async fn send(
        self: &Rc<Pool>,
        host: &HostRef,
        request: &mut Request,
        attempt: &UpstreamAttempt,
    ) -> Result<Response, UpstreamFailure> {
        let slot = match self.take_slot() {
            Some(slot) => slot,
            // Boxed, so that the many requests that need not wait do not carry its state.
            None => Box::pin(self.wait(host, attempt)).await.map_err(ConnectError::into_failure)?,
        };
        exchange(slot, host, request, attempt).await
    }

    fn take_slot(&self) -> Option<Slot> {
        let connections = self.connections.borrow();
        connections.iter().find(|connection| connection.has_room()).map(Slot::new)
    }

    async fn wait(self: &Rc<Pool>, host: &HostRef, attempt: &UpstreamAttempt) -> Result<Slot, ConnectError> {
        self.waiting.borrow_mut().retain(|waiter| !waiter.slot.is_closed());
        let pending = Pending::begin(host, attempt.priority)?;
        let started = Instant::now();
        let (slot, given) = oneshot::channel();
        self.waiting.borrow_mut().push_back(Waiter { host: host.clone(), priority: attempt.priority, slot });
        self.grow();
        let given = given.await;
        pending.end();
        let slot = given.unwrap_or_else(|_| Err(ConnectError::new(FailureKind::Connect, &"the pool was closed")))?;
        let connected = slot.0.record.started();
        if connected > started {
            attempt.connect_started.set(Some(started));
            attempt.connected.set(Some(connected));
        }
        Ok(slot)
    }

    /// Gives free streams to those who wait, and makes a connection if that is not enough.
    fn serve(self: &Rc<Pool>) {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            while waiting.front().is_some_and(|waiter| waiter.slot.is_closed()) {
                waiting.pop_front();
            }
            if waiting.is_empty() {
                return;
            }
            let Some(slot) = self.take_slot() else { break };
            let Some(waiter) = waiting.pop_front() else { return };
            drop(waiting);
            // It has not given up, as was just seen.
            let _ = waiter.slot.send(Ok(slot));
        }
        self.grow();
    }

    /// Makes one more connection if those who wait are more than the connections to come will have room for.
    fn grow(self: &Rc<Pool>) {
        let waiting = self.waiting.borrow();
        let Some(first) = waiting.front() else { return };
        let open = self.connections.borrow().len();
        let coming = self.connecting.get() + self.connections.borrow().iter().filter(|c| !c.is_settled()).count();
        // A host that allows no streams will not do so on another connection either.
        let hopeless = self.assumed.get() == 0 && open + self.connecting.get() > 0;
        if waiting.len() <= coming * self.assumed.get() as usize || hopeless {
            return;
        }
        if open + self.connecting.get() > 0 && !ConnectionPlace::is_free(&first.host, first.priority) {
            first.host.cluster().stats.upstream_cx_overflow.inc();
            return;
        }
        self.connecting.set(self.connecting.get() + 1);
        spawn_local(Rc::clone(self).connect(first.host.clone(), first.priority));
    }

    /// Runs apart from the request that caused it, which may be served by another connection, or given up.
    async fn connect(self: Rc<Pool>, host: HostRef, priority: RoutingPriority) {
        let connected = match connect(&host, &self.options, &[Alpn::H2], priority).await {
            Ok(established) => self.adopt(established).await,
            Err(error) => Err(error),
        };
        self.connecting.set(self.connecting.get() - 1);
        match connected {
            Ok(()) => self.serve(),
            Err(error) => self.fail_waiting(&error),
        }
    }

    /// Starts HTTP/2 on a new connection, which runs until it closes.
    pub(super) async fn adopt(self: &Rc<Pool>, established: Established) -> Result<(), ConnectError> {
        let Established { io, record, .. } = established;
        let watch = Watch::new(record.cluster().protocol.http2.limits, record.cluster().http2_stats());
        let (io, cork) = cork(watch.client(io));
        let options = &record.cluster().protocol;
        let handshake = cork.drive(builder(options).handshake::<_, Bytes>(io)).await;
        let handshake = handshake.map_err(|error| ConnectError::new(FailureKind::Connect, &error))?;
        let (sender, connection) = handshake.map_err(|error| ConnectError::new(FailureKind::Connect, &error))?;
        record.cluster().stats.upstream_cx_http2_total.inc();
        self.connections.borrow_mut().push(Rc::new(Connection {
            sender: RefCell::new(sender),
            record: Rc::clone(&record),
            pool: Rc::downgrade(self),
            settled: Cell::new(false),
        }));
        spawn_local(run(connection, (cork, watch), record, Rc::downgrade(self)));
        Ok(())
    }

    /// Whether there is, or will be, a connection.
    pub(super) fn is_in_use(&self) -> bool {
        self.connecting.get() > 0 || !self.connections.borrow().is_empty()
    }

    fn fail_waiting(&self, error: &ConnectError) {
        for waiter in self.waiting.take() {
            waiter.host.cluster().stats.upstream_rq_pending_failure_eject.inc();
            // Those who gave up need no answer.
            let _ = waiter.slot.send(Err(error.clone()));
        }
    }

    /// Gives a connection no more streams. It closes when those it has are done.
    fn retire(&self, record: &Rc<ConnectionRecord>) {
        self.connections.borrow_mut().retain(|connection| !Rc::ptr_eq(&connection.record, record));
    }
}

struct Connection {
    sender: RefCell<SendRequest<Bytes>>,
    record: Rc<ConnectionRecord>,
    pool: Weak<Pool>,
    /// How many streams the peer allows is known.
    settled: Cell<bool>,
}

impl Connection {
    fn has_room(&self) -> bool {
        // Fails once the peer has sent GOAWAY or the connection is broken.
        let ready = self.sender.borrow_mut().poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(()))) && self.record.active() < self.limit() && !self.record.is_worn_out()
    }

    fn open(&self, head: http::Request<()>, ended: bool) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // A sender holds on to the stream that fills the connection, which would then not be cancelled when it is dropped:
        // so each stream is opened by a sender that goes at once.
        let mut sender = self.sender.borrow().clone();
        sender.send_request(head, ended)
    }

    fn limit(&self) -> u32 {
        let allowed = self.sender.borrow().current_max_send_streams();
        u32::try_from(allowed).unwrap_or(u32::MAX).min(self.record.cluster().protocol.http2.max_concurrent_streams)
    }

    /// Whether the peer's limit is known: it has been raised from the one we begin with, or a response has come, before
    /// which the peer must have said it.
    fn is_settled(&self) -> bool {
        if !self.settled.get() && self.limit() != 1 {
            self.settle();
        }
        self.settled.get()
    }

    fn settle(&self) {
        if !self.settled.replace(true)
            && let Some(pool) = self.pool.upgrade()
        {
            pool.assumed.set(self.limit());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.record.close(Side::Local);
    }
}

/// One stream's place on a connection, from before it is opened until both directions have ended.
struct Slot(Rc<Connection>);

impl Slot {
    fn new(connection: &Rc<Connection>) -> Slot {
        connection.record.begin();
        Slot(Rc::clone(connection))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Connection { record, pool, .. } = &*self.0;
        record.end();
        let Some(pool) = pool.upgrade() else { return };
        if record.is_worn_out() {
            record.cluster().stats.upstream_cx_max_requests.inc();
            pool.retire(record);
        }
        pool.serve();
    }
}

fn builder(options: &ProtocolOptions) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(1)
        .initial_window_size(options.http2.stream_window)
        .initial_connection_window_size(options.http2.connection_window)
        .max_header_list_size(options.max_response_headers_bytes)
        .max_send_buffer_size(SEND_BUFFER)
        // Streams that clients cancel are nothing to hold against the host.
        .max_concurrent_reset_streams(256)
        .max_local_error_reset_streams(None);
    if let Some(size) = options.http2.header_table_size {
        builder.header_table_size(size);
    }
    builder
}

/// Runs a connection to its end.
async fn run(
    mut connection: h2::client::Connection<CorkedIo<Watched<MeteredIo>>, Bytes>,
    (cork, watch): (Cork<Watched<MeteredIo>>, Watch),
    record: Rc<ConnectionRecord>,
    pool: Weak<Pool>,
) {
    let options = record.cluster().protocol.http2;
    let pings = options.keepalive.and_then(|keepalive| Some((connection.ping_pong()?, keepalive)));
    let mut ended = pin!(cork.drive(poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        // The peer's SETTINGS may have made room.
        if let Some(pool) = pool.upgrade()
            && !pool.waiting.borrow().is_empty()
        {
            pool.serve();
        }
        ended
    })));
    tokio::select! {
        biased;
        _ = &mut ended => record.close(Side::Remote),
        () = record.idled_out() => {
            if let Some(pool) = pool.upgrade() {
                pool.retire(&record);
            }
            // It says GOAWAY; without its sender it ends by itself.
            let _ = ended.await;
        }
        () = unanswered(pings) => {
            watch.count_unanswered();
            record.close(Side::Local);
        }
    }
    if let Some(pool) = pool.upgrade() {
        pool.retire(&record);
        pool.serve();
    }
}

/// Sends a request on its stream, and resolves when the response's headers come. What is then left of the request's body
/// goes on beside the response: neither direction ends the other.
async fn exchange(
    slot: Slot,
    host: &HostRef,
    request: &mut Request,
    attempt: &UpstreamAttempt,
) -> Result<Response, UpstreamFailure> {
    let active = ActiveRequest::begin(host, attempt, Resets::Counted).map_err(ConnectError::into_failure)?;
    prepare(request, host);
    let upgrade = Upgrade::take_extended_connect(request);
    let mut sent = http::Request::new(());
    sent.method_mut().clone_from(request.method());
    sent.uri_mut().clone_from(request.uri());
    sent.headers_mut().clone_from(request.headers());
    *sent.version_mut() = Version::HTTP_2;
    if let Some(protocol) = upgrade.as_ref().and_then(|Upgrade(protocol)| protocol.to_str().ok()) {
        sent.extensions_mut().insert(Protocol::from(protocol));
    }

    let body = std::mem::take(request.body_mut());
    let ended = body.is_end_stream();
    let safe = ended && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let recorder = Recorder::new(body);
    let before = Traffic::of(&slot.0.record);
    attempt.connection.replace(Some(Rc::clone(slot.0.record.info())));
    attempt.first_byte_sent.set(Some(active.started()));
    let mut running = match slot.0.open(sent, ended) {
        Ok((response, stream)) => Attempt { response, pump: Pump::new(recorder, stream), uploaded: ended },
        Err(error) => {
            active.unanswered(false);
            return Err(failure(&error, true, recorder, request));
        }
    };
    match poll_fn(|cx| running.poll(cx)).await {
        Ok(mut response) => {
            attempt.headers_received.set(Some(Instant::now()));
            if let Some(upgrade) = upgrade {
                upgrade.denormalize_switching(&mut response);
            }
            slot.0.settle();
            active.answered(response.status());
            let slot = Rc::new(slot);
            let upload = running.go_on(&slot);
            Ok(response.map(|stream| guarded(stream.into(), Running { active, upload, _slot: slot })))
        }
        Err(error) => {
            active.unanswered(error.is_reset() && error.is_remote());
            let recorder = running.pump.into_body();
            if recorder.is_broken() {
                let cause = "the request's body broke off".to_owned();
                return Err(UpstreamFailure { kind: FailureKind::RequestBody, unprocessed: false, cause });
            }
            let unprocessed = before.is_unsent(&slot.0.record) || safe && before.is_unanswered(&slot.0.record);
            Err(failure(&error, unprocessed, recorder, request))
        }
    }
}

/// Puts a request in the form of HTTP/2, with the client's scheme.
fn prepare(request: &mut Request, host: &HostRef) {
    let by_transport = if host.is_secured() { Scheme::HTTPS } else { Scheme::HTTP };
    let scheme = match request.uri().scheme() {
        _ if request.extensions().get::<SchemeOfUpstream>().is_some() => by_transport,
        Some(scheme) => scheme.clone(),
        None => match request.headers().get(&X_FORWARDED_PROTO).map(HeaderValue::as_bytes) {
            Some(b"https") => Scheme::HTTPS,
            Some(b"http") => Scheme::HTTP,
            _ => by_transport,
        },
    };
    to_absolute_form(request, scheme);
}

/// A request whose response has not begun.
struct Attempt {
    response: ResponseFuture,
    pump: Pump<Recorder>,
    /// Nothing is left to be pumped.
    uploaded: bool,
}

impl Attempt {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<RecvStream>, h2::Error>> {
        if !self.uploaded {
            // Whatever ends the upload early ends the response too, or else the host wants no more of it.
            self.uploaded = self.pump.poll(cx).is_ready();
        }
        Pin::new(&mut self.response).poll(cx)
    }

    /// Now that the response has begun, what is left of the upload goes on by itself.
    fn go_on(mut self, slot: &Rc<Slot>) -> Upload {
        if self.uploaded {
            return Upload(None);
        }
        let slot = Rc::clone(slot);
        self.pump.body_mut().forget();
        let task = spawn_local(async move {
            // The client learns of a failure by the response, the host by the stream.
            let _ = poll_fn(|cx| self.pump.poll(cx)).await;
            drop(slot);
        });
        Upload(Some(task.abort_handle()))
    }
}

/// The rest of an upload. Dropped, it stops.
struct Upload(Option<AbortHandle>);

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// A request whose response is being read.
struct Running {
    active: ActiveRequest,
    upload: Upload,
    _slot: Rc<Slot>,
}

impl Exchange for Running {
    /// The upload goes on until the request ends or the host resets the stream.
    fn complete(mut self) {
        self.upload.0 = None;
        self.active.complete();
    }

    fn fail(self, error: &BodyError) {
        self.active.fail(error);
    }
}

/// The bytes of a connection at some moment.
#[derive(Clone, Copy)]
struct Traffic {
    sent: u64,
    received: u64,
}

impl Traffic {
    fn of(record: &ConnectionRecord) -> Traffic {
        Traffic { sent: record.sent(), received: record.received() }
    }

    /// Nothing has been sent since.
    fn is_unsent(self, record: &ConnectionRecord) -> bool {
        record.sent() == self.sent
    }

    /// Nothing has been received since.
    fn is_unanswered(self, record: &ConnectionRecord) -> bool {
        record.received() == self.received
    }
}

/// What came of a request without a response. `unprocessed`: it may be sent again if the connection broke; then `request` gets
/// its body back.
fn failure(error: &h2::Error, unprocessed: bool, recorder: Recorder, request: &mut Request) -> UpstreamFailure {
    let (kind, unprocessed) = match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => (FailureKind::RefusedStream, true),
        Some(reason) if error.is_reset() && error.is_remote() => (FailureKind::Reset(reason), false),
        // Only the streams that the host will not look at end by its GOAWAY.
        _ if error.is_go_away() && error.is_remote() => (FailureKind::GoAway, true),
        _ if error.is_io() => (FailureKind::Disconnect, unprocessed),
        _ => (FailureKind::Protocol, false),
    };
    let body = if unprocessed { recorder.replay() } else { None };
    let unprocessed = body.is_some();
    *request.body_mut() = body.unwrap_or_default();
    UpstreamFailure { kind, unprocessed, cause: error.to_string() }
}

#[cfg(test)]
mod tests;
