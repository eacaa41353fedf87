//! Making a connection to a host, and what is counted of it.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, timeout},
};

use super::{FailureKind, UpstreamFailure, places::ConnectionPlace};
use crate::{
    net::{Address, Alpn, Io, Meter, Metered, system_words},
    proto::core::RoutingPriority,
    stats::Gauge,
    stream_info::{TlsInfo, UpstreamConnectionInfo},
    upstream::{Cluster, Host, HostRef, transport_socket::TransportSocketOptions},
};

/// A byte stream to a host.
pub(super) type MeteredIo = Metered<TrafficMeter>;

/// A connection that is ready for requests.
pub(super) struct Established {
    pub io: MeteredIo,
    /// What the peers agreed on; `None` without TLS, or if the host does not know ALPN.
    pub alpn: Option<Alpn>,
    pub record: Rc<ConnectionRecord>,
}

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectError {
    kind: FailureKind,
    cause: String,
}

impl ConnectError {
    pub(super) fn new(kind: FailureKind, cause: &impl ToString) -> ConnectError {
        ConnectError { kind, cause: cause.to_string() }
    }

    /// The failure of a request that waited for the connection, and was never sent.
    pub(super) fn into_failure(self) -> UpstreamFailure {
        UpstreamFailure { kind: self.kind, unprocessed: true, cause: self.cause }
    }
}

/// Connects to a host within `connect_timeout`, TLS included. `alpn` is what the caller speaks, best first; a caller that speaks no HTTP names none. `priority` says whose circuit breakers count
/// the connection.
pub(super) async fn connect(
    host: &HostRef,
    options: &TransportSocketOptions,
    alpn: &[Alpn],
    priority: RoutingPriority,
) -> Result<Established, ConnectError> {
    let place = ConnectionPlace::take(host, priority);
    let cluster = host.cluster();
    let stats = &cluster.stats;
    stats.upstream_cx_total.inc();
    host.stats.cx_total.inc();
    let started = Instant::now();
    match timeout(cluster.connect_timeout, connect_unbounded(host, options, alpn)).await {
        Ok(Ok((io, tls))) => {
            let alpn = tls.as_ref().and_then(TlsInfo::protocol);
            stats.upstream_cx_connect_ms.record_time(started.elapsed());
            let record = Rc::new(ConnectionRecord::new(cluster, host, place, connection_info(&io, tls)));
            let meter = TrafficMeter { traffic: Arc::clone(&record.traffic), cluster: Arc::clone(cluster) };
            let io = Metered::new(io, meter);
            Ok(Established { io, alpn, record })
        }
        Ok(Err(error)) => {
            stats.upstream_cx_connect_fail.inc();
            stats.upstream_cx_destroy.inc();
            if error.kind == FailureKind::Bind {
                stats.upstream_cx_destroy_local.inc();
            } else {
                stats.upstream_cx_destroy_remote.inc();
            }
            host.stats.cx_connect_fail.inc();
            Err(error)
        }
        Err(_) => {
            stats.upstream_cx_connect_fail.inc();
            stats.upstream_cx_connect_timeout.inc();
            stats.upstream_cx_destroy.inc();
            stats.upstream_cx_destroy_local.inc();
            host.stats.cx_connect_fail.inc();
            Err(ConnectError::new(FailureKind::ConnectTimeout, &"connection timeout"))
        }
    }
}

async fn connect_unbounded(
    host: &HostRef,
    options: &TransportSocketOptions,
    alpn: &[Alpn],
) -> Result<(Io, Option<TlsInfo>), ConnectError> {
    let (cluster, endpoint, socket) = (host.cluster(), &host.endpoint, host.transport_socket());
    let mut io = open_socket(&socket.address(endpoint), host).await?;
    let sent = socket.begin(&mut io, endpoint, options).await.map_err(|error| failed(&error))?;
    cluster.stats.upstream_cx_tx_bytes_total.add(sent as u64);
    let Some(tls) = socket.tls() else { return Ok((io, None)) };
    let name = options.server_name.as_deref().unwrap_or(&endpoint.hostname);
    let connected = tls.connect(io, name, alpn).await;
    connected.map(|(io, tls)| (io, Some(tls))).map_err(|error| ConnectError::new(FailureKind::Tls, &error))
}

fn connection_info(io: &Io, tls: Option<TlsInfo>) -> UpstreamConnectionInfo {
    // As likely unique as need be, and no worker need know of another's.
    let id = RandomState::new().hash_one(io.local_address().port());
    UpstreamConnectionInfo { id, local: io.local_address().clone(), tls }
}

fn failed(error: &io::Error) -> ConnectError {
    ConnectError::new(FailureKind::Connect, &system_error(error))
}

/// The system's words for an error, as Envoy says them of a connection.
fn system_error(error: &io::Error) -> String {
    format!("delayed connect error: {}", system_words(error))
}

async fn open_socket(address: &Address, host: &HostRef) -> Result<Io, ConnectError> {
    let cluster = host.cluster();
    match address {
        Address::Internal { .. } => host.switchboard().connect(address).map_err(|error| failed(&error)),
        Address::Ip(address) => {
            let bound = cluster.bind_config.as_ref().map(|bind_config| bind_config.socket_for(*address)).transpose();
            let bound = bound.map_err(|error| {
                cluster.stats.bind_errors.inc();
                ConnectError::new(FailureKind::Bind, &system_words(&error))
            })?;
            let stream = match bound {
                Some(socket) => socket.connect(*address).await,
                None => TcpStream::connect(address).await,
            };
            stream.and_then(|stream| open_tcp(stream, cluster)).map_err(|error| failed(&error))
        }
        Address::Pipe(path) => {
            let path = match path.to_str().and_then(|path| path.strip_prefix('@')) {
                Some(name) => format!("\0{name}").into(),
                None => path.clone(),
            };
            UnixStream::connect(path).await.and_then(Io::unix).map_err(|error| failed(&error))
        }
    }
}

fn open_tcp(stream: TcpStream, cluster: &Cluster) -> io::Result<Io> {
    if let Some(keepalive) = &cluster.tcp_keepalive {
        keepalive.set(&stream)?;
    }
    Io::tcp(stream)
}

/// No server closes a connection for idleness sooner than this after its last request.
const IDLED: Duration = Duration::from_millis(100);

/// What one worker knows of one connection; its end counts the connection's end.
#[derive(Debug)]
pub(super) struct ConnectionRecord {
    cluster: Arc<Cluster>,
    host_active: Gauge,
    traffic: Arc<Traffic>,
    /// What logs tell of it.
    info: Rc<UpstreamConnectionInfo>,
    started: Instant,
    /// Requests running now.
    active: Cell<u32>,
    /// Requests ever begun.
    served: Cell<u32>,
    /// Since when no request has been running.
    idle_since: Cell<Instant>,
    /// Who closed it, once that is decided.
    closed_by: Cell<Option<Side>>,
    _place: ConnectionPlace,
}

/// Who closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// We did.
    Local,
    /// The host did.
    Remote,
}

#[derive(Debug, Default)]
struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl ConnectionRecord {
    fn new(
        cluster: &Arc<Cluster>,
        host: &Host,
        place: ConnectionPlace,
        info: UpstreamConnectionInfo,
    ) -> ConnectionRecord {
        cluster.stats.upstream_cx_active.inc();
        host.stats.cx_active.inc();
        let now = Instant::now();
        ConnectionRecord {
            cluster: Arc::clone(cluster),
            host_active: host.stats.cx_active.clone(),
            traffic: Arc::default(),
            info: Rc::new(info),
            started: now,
            active: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(now),
            closed_by: Cell::new(None),
            _place: place,
        }
    }

    /// The cluster it belongs to.
    pub(super) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// What logs tell of it.
    pub(super) fn info(&self) -> &Rc<UpstreamConnectionInfo> {
        &self.info
    }

    /// When it was made.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.traffic.received.load(Relaxed)
    }

    /// Bytes handed to the socket so far.
    pub(super) fn sent(&self) -> u64 {
        self.traffic.sent.load(Relaxed)
    }

    /// Requests running now.
    pub(super) fn active(&self) -> u32 {
        self.active.get()
    }

    /// Whether no request was begun on it yet.
    pub(super) fn is_new(&self) -> bool {
        self.served.get() == 0
    }

    /// Whether it may take one more request under `max_requests_per_connection`.
    pub(super) fn is_worn_out(&self) -> bool {
        self.cluster.protocol.max_requests_per_connection.is_some_and(|max| self.served.get() >= max.get())
    }

    /// Whether it has been without requests for long enough that its host may be about to close it.
    pub(super) fn has_idled(&self) -> bool {
        self.idle_since.get().elapsed() >= IDLED
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.active.set(self.active.get() + 1);
        self.served.set(self.served.get().saturating_add(1));
    }

    /// A request has ended.
    pub(super) fn end(&self) {
        self.active.set(self.active.get() - 1);
        if self.active.get() == 0 {
            self.idle_since.set(Instant::now());
        }
    }

    /// Notes who closes it. The first call counts.
    pub(super) fn close(&self, side: Side) {
        self.closed_by.set(self.closed_by.get().or(Some(side)));
    }

    /// Resolves when the connection has been idle for `idle_timeout`.
    pub(super) async fn idled_out(&self) {
        let Some(idle_timeout) = self.cluster.protocol.idle_timeout else { return std::future::pending().await };
        loop {
            let since = if self.active() > 0 { Instant::now() } else { self.idle_since.get() };
            // Beyond what the clock can say means never.
            let Some(due) = since.checked_add(idle_timeout) else { return std::future::pending().await };
            if self.active() == 0 && due <= Instant::now() {
                self.cluster.stats.upstream_cx_idle_timeout.inc();
                self.close(Side::Local);
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        stats.upstream_cx_active.dec();
        self.host_active.dec();
        stats.upstream_cx_length_ms.record_time(self.started.elapsed());
        stats.upstream_rq_per_cx.record(self.served.get().into());
        stats.upstream_cx_destroy.inc();
        let (side, with_active) = if self.closed_by.get() == Some(Side::Local) {
            (&stats.upstream_cx_destroy_local, &stats.upstream_cx_destroy_local_with_active_rq)
        } else {
            (&stats.upstream_cx_destroy_remote, &stats.upstream_cx_destroy_remote_with_active_rq)
        };
        side.inc();
        if self.active() > 0 {
            stats.upstream_cx_destroy_with_active_rq.inc();
            with_active.inc();
        }
    }
}

/// A connection's bytes count for it and for its cluster.
#[derive(Debug)]
pub(super) struct TrafficMeter {
    traffic: Arc<Traffic>,
    cluster: Arc<Cluster>,
}

impl Meter for TrafficMeter {
    fn received(&self, bytes: u64) {
        // One worker writes, here and below; the atomic is for the type's sake alone.
        self.traffic.received.store(self.traffic.received.load(Relaxed) + bytes, Relaxed);
        self.cluster.stats.upstream_cx_rx_bytes_total.add(bytes);
    }

    fn sent(&self, bytes: u64) {
        self.traffic.sent.store(self.traffic.sent.load(Relaxed) + bytes, Relaxed);
        self.cluster.stats.upstream_cx_tx_bytes_total.add(bytes);
    }
}
