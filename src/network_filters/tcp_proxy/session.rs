//! One connection of a TCP proxy: its connection upstream, how long both may last, and what is written down of them.

use std::{cell::Cell, future::pending, io, pin::pin, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Method};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    TcpProxy, TcpProxyStats,
    relay::{Direction, Ended, Peer, Shared, relay},
    tunnel::{self, Tunnel, Upload},
};
use crate::{
    drain::Watcher,
    filter::WorkerContext,
    http::{Response, upgrade::Upgrade},
    net::{Io, Meter, Metered},
    stats::Counter,
    stream_info::{ConnectionInfo, LogType, ResponseFlags, StreamInfo},
    upstream::{
        ClusterState, FailureKind, HostRef, LoadBalancerContext, Protocol, TcpConnection, UpstreamAttempt,
        UpstreamFailure,
    },
};

/// A connection in service. Its end, however it comes, is logged.
pub(super) struct Session<'a> {
    proxy: &'a TcpProxy,
    worker: &'a WorkerContext,
    info: StreamInfo,
    traffic: Rc<Traffic>,
}

/// A way to a host.
enum Connected {
    Tcp(TcpConnection),
    Tunnel(Response, Upload<Metered<TrafficMeter>>),
}

/// Bytes of the connection downstream.
#[derive(Default)]
struct Traffic {
    received: Cell<u64>,
    sent: Cell<u64>,
}

/// Counts them for the proxy, too.
struct TrafficMeter {
    received: Counter,
    sent: Counter,
    traffic: Rc<Traffic>,
}

impl Meter for TrafficMeter {
    fn received(&self, bytes: u64) {
        self.received.add(bytes);
        self.traffic.received.set(self.traffic.received.get() + bytes);
    }

    fn sent(&self, bytes: u64) {
        self.sent.add(bytes);
        self.traffic.sent.set(self.traffic.sent.get() + bytes);
    }
}

impl<'a> Session<'a> {
    pub(super) fn begin(proxy: &'a TcpProxy, connection: Rc<ConnectionInfo>, worker: &'a WorkerContext) -> Session<'a> {
        proxy.stats.downstream_cx_total.inc();
        let info = StreamInfo::of_connection(connection);
        let mut session = Session { proxy, worker, info, traffic: Rc::default() };
        if proxy.log_also.on_start {
            session.log(LogType::TcpConnectionStart);
        }
        session
    }

    /// Ends before it has begun.
    pub(super) fn refuse(mut self, flags: ResponseFlags) {
        self.info.flags.set(flags);
    }

    /// Serves the connection until both its sides have ended, or it has lasted as long as it may, or the drain is over.
    pub(super) async fn serve(mut self, io: Io, mut drain: Watcher) {
        let start = self.info.connection.start;
        let proxy = self.proxy;
        let life = proxy.max_duration.as_ref().map(|max| max.draw(&self.worker.random));
        let outlived = async {
            match life.and_then(|life| start.checked_add(life)) {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let over = tokio::select! {
            biased;
            () = self.proxy_bytes(io, drain.clone()) => false,
            () = outlived => true,
            () = drain.deadline() => false,
        };
        if over {
            proxy.stats.max_downstream_connection_duration.inc();
            self.info.flags.set(ResponseFlags::DURATION_TIMEOUT);
        }
    }

    async fn proxy_bytes(&mut self, mut io: Io, drain: Watcher) {
        if self.proxy.connect.awaits_data {
            match io.peek(1).await {
                Ok(first) if !first.is_empty() => self.proxy.stats.early_data_received_count_total.inc(),
                _ => return,
            }
        }
        // Boxed, so that the connection does not carry to its end what it took to connect.
        match Box::pin(self.connect()).await {
            Some((cluster, Connected::Tcp(upstream))) => {
                self.info.upstream_connection = Some(Rc::clone(upstream.info()));
                self.connected();
                self.relay(io, &cluster, upstream, drain).await;
            }
            Some((_, Connected::Tunnel(response, upload))) => {
                self.info.upstream_protocol = Some(response.version());
                self.connected();
                Box::pin(self.carry(io, response, upload, drain)).await;
            }
            None => io.reset_if_unread(),
        }
    }

    fn connected(&mut self) {
        if self.proxy.log_also.on_connected {
            self.log(LogType::TcpUpstreamConnected);
        }
    }

    fn metered(&self, io: Io) -> Metered<TrafficMeter> {
        let stats = &self.proxy.stats;
        let (received, sent) = (stats.downstream_cx_rx_bytes_total.clone(), stats.downstream_cx_tx_bytes_total.clone());
        Metered::new(io, TrafficMeter { received, sent, traffic: Rc::clone(&self.traffic) })
    }

    /// A connection to a host of the cluster, after as many attempts as there may be.
    async fn connect(&mut self) -> Option<(Rc<ClusterState>, Connected)> {
        let connection = Rc::clone(&self.info.connection);
        let (name, metadata_match) =
            self.proxy.clusters.choose(connection.upstream_cluster.as_deref(), &self.worker.random);
        let Some(cluster) = self.worker.clusters.get(name) else {
            self.proxy.stats.downstream_cx_no_route.inc();
            self.info.flags.set(ResponseFlags::NO_CLUSTER_FOUND);
            return None;
        };
        self.info.upstream_cluster = Some(Arc::clone(&cluster.cluster().name));
        let connect = &self.proxy.connect;
        let context = LoadBalancerContext { metadata_match, ..LoadBalancerContext::default() };
        loop {
            if connect.tunnel.is_none() && cluster.is_full() {
                cluster.cluster().stats.upstream_cx_overflow.inc();
                self.info.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
                return None;
            }
            if self.info.attempt_count >= connect.max_attempts {
                cluster.cluster().stats.upstream_cx_connect_attempts_exceeded.inc();
                self.info.flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                return None;
            }
            if self.info.attempt_count > 0
                && let Some(backoff) = &connect.backoff
            {
                sleep(backoff.pause(self.info.attempt_count, &self.worker.random)).await;
            }
            let Some(host) = cluster.choose_host(&context) else {
                self.info.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
                return None;
            };
            self.info.attempt_count += 1;
            self.info.upstream = Some(Rc::clone(host.info()));
            let connected = match &connect.tunnel {
                None => cluster.connect(&host, &connection).await.map(Connected::Tcp),
                Some(tunnel) => self.open(tunnel, &cluster, &host).await,
            };
            match connected {
                Ok(connected) => return Some((cluster, connected)),
                Err(failure) => {
                    self.info.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                    if failure.kind != FailureKind::ConnectTimeout {
                        self.info.upstream_transport_failure_reason = Some(failure.cause);
                    }
                }
            }
        }
    }

    /// Asks a host for a tunnel.
    async fn open(
        &self,
        tunnel: &Tunnel,
        cluster: &ClusterState,
        host: &HostRef,
    ) -> Result<Connected, UpstreamFailure> {
        let refused = |cause: String| UpstreamFailure { kind: FailureKind::Connect, unprocessed: true, cause };
        let (mut request, upload) =
            tunnel.request(&self.info).ok_or_else(|| refused("the tunnel's hostname is no authority".to_owned()))?;
        if *request.method() == Method::CONNECT
            && matches!(cluster.cluster().protocol.protocol, Protocol::Http1 | Protocol::Downstream)
        {
            // Over HTTP/1.1 a tunnel takes a whole connection.
            request.extensions_mut().insert(Upgrade(HeaderValue::from_static("connect")));
        }
        let response = cluster.send(host, &mut request, &UpstreamAttempt::default()).await?;
        if !tunnel.is_open(&response) {
            return Err(refused(format!("the host answers {}", response.status().as_u16())));
        }
        Ok(Connected::Tunnel(response, upload))
    }

    /// Carries bytes through a tunnel.
    async fn carry(&mut self, io: Io, response: Response, upload: Upload<Metered<TrafficMeter>>, mut drain: Watcher) {
        let proxy = self.proxy;
        let last_active = Rc::new(Cell::new(Instant::now()));
        let mut carried = pin!(tunnel::carry(self.metered(io), upload, response, &last_active));
        loop {
            tokio::select! {
                biased;
                () = &mut carried => return,
                () = idle(proxy.idle_timeout, &last_active) => {
                    proxy.stats.idle_timeout.inc();
                    return;
                }
                () = drain.moment(), if proxy.check_drain_close => {
                    proxy.stats.downstream_cx_drain_close.inc();
                    return;
                }
                () = interval(proxy.log_also.every) => self.log(LogType::TcpPeriodic),
            }
        }
    }

    async fn relay(&mut self, io: Io, cluster: &ClusterState, mut upstream: TcpConnection, mut drain: Watcher) {
        let (proxy, worker) = (self.proxy, self.worker);
        let stats = &proxy.stats;
        let cluster = &cluster.cluster().stats;
        let mut downstream = self.metered(io);
        let mut up = Direction::new(
            Peer::Downstream,
            &stats.downstream_flow_control_paused_reading_total,
            &stats.downstream_flow_control_resumed_reading_total,
        );
        let mut down = Direction::new(
            Peer::Upstream,
            &cluster.upstream_flow_control_paused_reading_total,
            &cluster.upstream_flow_control_resumed_reading_total,
        );
        let last_active = Cell::new(Instant::now());
        let flushing = Flushing { stats, begun: Cell::new(false) };
        let shared = Shared {
            buffer: &worker.relay_buffer,
            limit: proxy.buffer_limit,
            last_active: &last_active,
            on_flush: &|| flushing.begin(),
        };
        let ended = {
            let mut relayed = pin!(relay(&mut downstream, &mut upstream, [&mut up, &mut down], &shared));
            loop {
                tokio::select! {
                    biased;
                    ended = &mut relayed => break Some(ended),
                    () = idle(proxy.idle_timeout, &last_active) => {
                        stats.idle_timeout.inc();
                        break None;
                    }
                    () = drain.moment(), if proxy.check_drain_close => {
                        stats.downstream_cx_drain_close.inc();
                        break None;
                    }
                    () = interval(proxy.log_also.every) => self.log(LogType::TcpPeriodic),
                }
            }
        };
        let (downstream, upstream_io) = (downstream.get_ref(), upstream.io());
        match ended {
            Some(Ended::Closed(Peer::Upstream)) => upstream.closed_by_host(),
            Some(Ended::Broken(Peer::Upstream, error)) => {
                upstream.closed_by_host();
                if is_reset(&error) {
                    self.info.flags.set(ResponseFlags::UPSTREAM_REMOTE_RESET);
                    downstream.reset_on_close();
                }
            }
            Some(Ended::Broken(Peer::Downstream, error)) if is_reset(&error) => upstream_io.reset_on_close(),
            _ => {}
        }
    }

    fn log(&mut self, log_type: LogType) {
        let info = &mut self.info;
        info.log_type = log_type;
        info.timing.end = Some(info.start.elapsed());
        info.bytes_received = self.traffic.received.get();
        info.bytes_sent = self.traffic.sent.get();
        for log in &self.proxy.access_logs {
            log.log(info, &self.worker.runtime(), &self.worker.access_logs);
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.log(LogType::TcpConnectionEnd);
    }
}

/// The last bytes upstream of a connection that has ended, counted.
struct Flushing<'a> {
    stats: &'a TcpProxyStats,
    begun: Cell<bool>,
}

impl Flushing<'_> {
    fn begin(&self) {
        self.begun.set(true);
        self.stats.upstream_flush_total.inc();
        self.stats.upstream_flush_active.inc();
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        if self.begun.get() {
            self.stats.upstream_flush_active.dec();
        }
    }
}

/// Resolves when nothing has moved for this long.
async fn idle(timeout: Option<Duration>, last_active: &Cell<Instant>) {
    loop {
        let Some(at) = timeout.and_then(|timeout| last_active.get().checked_add(timeout)) else {
            return pending().await;
        };
        if at <= Instant::now() {
            return;
        }
        sleep_until(at).await;
    }
}

async fn interval(every: Option<Duration>) {
    match every {
        Some(every) => sleep(every).await,
        None => pending().await,
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
