//! One downstream connection: which protocol it speaks, how long it may live, how it ends.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{Codec, HttpConnectionManager, stream};
use crate::{
    drain::Watcher,
    filter::WorkerContext,
    http::{Request, Response, headers::Downstream, http1, http2},
    net::{Alpn, Io, Meter, Metered},
    route::RouteConfiguration,
    runtime::Value,
    stats::Counter,
    stream_info::{ConnectionInfo, HeaderCapture},
};

/// The runtime keys of what a client may reset: how many of its requests, and how old those are.
const PREMATURE_RESET_STREAMS: &str = "overload.premature_reset_total_stream_count";
const PREMATURE_RESET_SECONDS: &str = "overload.premature_reset_min_stream_lifetime_seconds";

/// How an HTTP/2 client with prior knowledge begins (RFC 9113 section 3.4); the method is reserved, so no HTTP/1 request does.
const HTTP2_PREFACE: &[u8] = b"PRI";

/// A connection in service; its streams share it.
pub(super) struct Connection {
    pub(super) manager: Arc<HttpConnectionManager>,
    pub(super) info: Rc<ConnectionInfo>,
    pub(super) worker: Rc<WorkerContext>,
    pub(super) routes: Rc<Arc<RouteConfiguration>>,
    /// What access logs print; `None` when there are none.
    pub(super) capture: Option<Rc<HeaderCapture>>,
    /// The connection as header rules see it.
    pub(super) downstream: Downstream,
    /// The connection is no more: what its streams still do, nobody sees.
    closed: Cell<bool>,
    /// The client has ended its direction, or the connection broke, before we closed it.
    ended_by_peer: Arc<AtomicBool>,
    /// The client is to go, because of a drain or a refusal.
    told: Cell<bool>,
    /// Looks after the frames of an HTTP/2 connection.
    watch: http2::Watch,
    /// Streams that have ended, and those of them that were reset at once.
    ended: Cell<(u64, u64)>,
    /// Ends it at once.
    aborted: Notify,
    /// Requests that have begun.
    requests: Cell<u32>,
    active_streams: Cell<u32>,
    /// Its client has hung up on a tunnel, which counts as a request in progress.
    left_active: Cell<bool>,
    last_active: Cell<Instant>,
    retired: Notify,
}

/// Why a connection is to take no more requests.
#[derive(Clone, Copy)]
enum Ending {
    Drain,
    Idle,
    MaxDuration,
}

/// Counts the bytes of a connection, and notes who ends it.
struct ConnectionMeter {
    received: Counter,
    sent: Counter,
    /// One worker writes and reads it; the atomic is for the type's sake alone.
    ended_by_peer: Arc<AtomicBool>,
}

impl Meter for ConnectionMeter {
    fn received(&self, bytes: u64) {
        self.received.add(bytes);
    }

    fn sent(&self, bytes: u64) {
        self.sent.add(bytes);
    }

    fn ended(&self) {
        self.ended_by_peer.store(true, Relaxed);
    }
}

impl Connection {
    pub(super) fn new(
        manager: Arc<HttpConnectionManager>,
        info: Rc<ConnectionInfo>,
        worker: Rc<WorkerContext>,
    ) -> Connection {
        let routes = Rc::new(Arc::clone(&manager.routes));
        let nothing_reads = manager.access_logs.is_empty() && manager.capture == HeaderCapture::default();
        let capture = (!nothing_reads).then(|| Rc::new(manager.capture.clone()));
        let downstream = Downstream::of_connection(&info, &manager.headers);
        let start = info.start;
        let watch = http2::Watch::new(manager.http2.limits, &manager.frame_stats);
        Connection {
            manager,
            info,
            worker,
            routes,
            capture,
            downstream,
            closed: Cell::new(false),
            ended_by_peer: Arc::default(),
            told: Cell::new(false),
            watch,
            ended: Cell::default(),
            aborted: Notify::new(),
            requests: Cell::new(0),
            active_streams: Cell::new(0),
            left_active: Cell::new(false),
            last_active: Cell::new(start),
            retired: Notify::new(),
        }
    }

    /// Serves the connection until it has ended.
    pub(super) async fn serve(self, mut io: Io, drain: Watcher) {
        let connection = Rc::new(self);
        let stats = &connection.manager.stats;
        stats.downstream_cx_total.inc();
        let _active = stats.downstream_cx_active.hold();
        let _tls = connection.info.tls.is_some().then(|| {
            stats.downstream_cx_ssl_total.inc();
            stats.downstream_cx_ssl_active.hold()
        });
        if let Some(codec) = connection.choose_codec(&mut io, drain.clone()).await {
            let mut deadline = drain.clone();
            tokio::select! {
                biased;
                () = connection.serve_codec(codec, io, drain.clone()) => {}
                () = deadline.deadline() => {}
                () = connection.aborted.notified() => {}
            }
        }
        connection.closed.set(true);
        stats.downstream_cx_destroy.inc();
        let (side, with_active) = if connection.ended_by_peer.load(Relaxed) {
            (&stats.downstream_cx_destroy_remote, &stats.downstream_cx_destroy_remote_active_rq)
        } else {
            (&stats.downstream_cx_destroy_local, &stats.downstream_cx_destroy_local_active_rq)
        };
        side.inc();
        if connection.active_streams.get() > 0 || connection.left_active.get() {
            stats.downstream_cx_destroy_active_rq.inc();
            with_active.inc();
        }
        stats.downstream_cx_length_ms.record_time(connection.info.start.elapsed());
    }

    /// The configured protocol, or what ALPN agreed on, or what the first bytes say; `None` when nothing came.
    async fn choose_codec(&self, io: &mut Io, drain: Watcher) -> Option<Codec> {
        let alpn = self.info.tls.as_ref().and_then(|tls| Alpn::from_wire(tls.alpn.as_deref()?));
        match (self.manager.codec, alpn) {
            (Codec::Auto, Some(Alpn::H2)) => Some(Codec::Http2),
            (Codec::Auto, Some(Alpn::Http11)) => Some(Codec::Http1),
            (Codec::Auto, None) => {
                let first = tokio::select! {
                    first = io.peek(HTTP2_PREFACE.len()) => first.inspect_err(|_| self.ended_by_peer.store(true, Relaxed)).ok()?,
                    ending = self.ending(Codec::Http1, drain) => {
                        self.count(ending);
                        return None;
                    }
                };
                Some(if first.starts_with(HTTP2_PREFACE) { Codec::Http2 } else { Codec::Http1 })
            }
            (codec, _) => Some(codec),
        }
    }

    async fn serve_codec(self: &Rc<Self>, codec: Codec, io: Io, drain: Watcher) {
        let manager = &self.manager;
        let stats = &manager.stats;
        let meter = ConnectionMeter {
            received: stats.downstream_cx_rx_bytes_total.clone(),
            sent: stats.downstream_cx_tx_bytes_total.clone(),
            ended_by_peer: Arc::clone(&self.ended_by_peer),
        };
        let io = Metered::new(io, meter);
        let graceful = async {
            let ending = self.ending(codec, drain).await;
            self.count(ending);
            self.say_goodbye(codec, ending).await;
        };
        let error = if codec == Codec::Http2 {
            stats.downstream_cx_http2_total.inc();
            let _active = stats.downstream_cx_http2_active.hold();
            let connection = Rc::clone(self);
            let service = move |request: Request| stream::serve(Rc::clone(&connection), request);
            let ended =
                http2::serve(io, (&manager.http2, manager.max_header_bytes), &self.watch, service, graceful).await;
            ended.err().filter(http2::is_protocol_error).map(|error| error.to_string())
        } else {
            stats.downstream_cx_http1_total.inc();
            let _active = stats.downstream_cx_http1_active.hold();
            let ended = http1::serve(io, &manager.http1, &Http1Service(self), graceful).await;
            ended.err().filter(|refusal| refusal.is_protocol_error()).map(|refusal| refusal.to_string())
        };
        if let Some(error) = error {
            stats.downstream_cx_protocol_error.inc();
            let (listener, remote) = (&self.info.listener, &self.info.remote);
            tracing::debug!(name: "peer_protocol_error", %listener, %remote, %error, "the client broke the protocol");
        }
    }

    /// Resolves when the connection is to take no more requests. In a hand-off that moment never comes for HTTP/1, where it would close the
    /// connection under a request on its way: the next response says that it is the last (see [`Self::is_told`]).
    async fn ending(&self, codec: Codec, mut drain: Watcher) -> Ending {
        let timeouts = &self.manager.timeouts;
        let drained = async {
            tokio::select! {
                () = drain.moment() => {}
                () = self.retired.notified() => {}
            }
            if !self.told.replace(true) {
                self.manager.stats.downstream_cx_drain_close.inc();
            }
            if codec != Codec::Http2 {
                drain.stopping().await;
            }
        };
        let idle = async {
            match timeouts.connection_idle {
                None => std::future::pending().await,
                Some(timeout) => self.idle_for(timeout).await,
            }
        };
        let life = async {
            match timeouts.connection_duration.and_then(|life| self.info.start.checked_add(life)) {
                None => std::future::pending().await,
                Some(at) => sleep_until(at).await,
            }
        };
        tokio::select! {
            biased;
            () = drained => Ending::Drain,
            () = life => Ending::MaxDuration,
            () = idle => Ending::Idle,
        }
    }

    fn count(&self, ending: Ending) {
        match ending {
            Ending::Drain => {}
            Ending::Idle => self.manager.stats.downstream_cx_idle_timeout.inc(),
            Ending::MaxDuration => self.manager.stats.downstream_cx_max_duration_reached.inc(),
        }
    }

    /// Resolves when a connection that is to end takes no more requests. HTTP/2 tells the client at once; an HTTP/1 client that has just
    /// sent a request is answered, and told with the response.
    async fn say_goodbye(&self, codec: Codec, ending: Ending) {
        let timeouts = &self.manager.timeouts;
        if codec != Codec::Http2 && !matches!(ending, Ending::Drain) {
            self.told.set(true);
            let jitter = timeouts.drain.mul_f64(timeouts.drain_jitter * self.worker.random.next_fraction());
            let safe = matches!(ending, Ending::MaxDuration) && timeouts.waits_for_last_request;
            let answered =
                async { if safe { std::future::pending().await } else { sleep(timeouts.drain + jitter).await } };
            answered.await;
        }
    }

    /// Resolves when there has been no stream for this long. The timer is not touched by requests: it looks again when it fires.
    async fn idle_for(&self, timeout: Duration) {
        loop {
            let since = if self.active_streams.get() > 0 { Instant::now() } else { self.last_active.get() };
            let Some(at) = since.checked_add(timeout) else { return std::future::pending().await };
            if at <= Instant::now() {
                return;
            }
            sleep_until(at).await;
        }
    }

    /// For so long a stream may have lived that is reset prematurely, in whole seconds.
    pub(super) fn premature_reset_seconds(&self) -> u64 {
        self.runtime_number(PREMATURE_RESET_SECONDS, 1)
    }

    fn runtime_number(&self, key: &str, default: u64) -> u64 {
        self.worker.runtime().get(key).and_then(Value::integer).unwrap_or(default)
    }

    /// Takes no more requests: what was refused here must not be tried here again.
    pub(super) fn retire(&self) {
        self.retired.notify_one();
    }

    /// Whether the client is to go: responses that begin from now on tell it so.
    pub(super) fn is_told(&self) -> bool {
        self.told.get()
    }

    /// Whether it has ended, streams in progress or not.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// A request has begun. The last one that the connection may have ends it.
    pub(super) fn begin_stream(&self) {
        self.requests.set(self.requests.get().wrapping_add(1));
        if self.requests.get() == self.manager.max_requests {
            self.manager.stats.downstream_cx_max_requests_reached.inc();
            self.told.set(true);
            self.retire();
        }
        self.active_streams.set(self.active_streams.get() + 1);
    }

    /// The client has hung up on a tunnel.
    pub(super) fn leave_active(&self) {
        self.left_active.set(true);
    }

    /// The flood of frames that ended it.
    pub(super) fn flood(&self) -> Option<http2::Flood> {
        self.watch.flood()
    }

    /// A request has ended; whether it was reset at once says `premature`. A client most of whose requests are is sent away, as soon as
    /// that will be so whatever it does until its requests are as many as runtime says.
    pub(super) fn end_stream(&self, premature: bool) {
        let (ended, resets) = self.ended.get();
        let (ended, resets) = (ended + 1, resets + u64::from(premature));
        self.ended.set((ended, resets));
        if premature {
            let limit = self.runtime_number(PREMATURE_RESET_STREAMS, 500);
            if resets * 2 >= ended.max(limit) && !self.closed.get() {
                self.manager.stats.downstream_rq_too_many_premature_resets.inc();
                self.manager.stats.downstream_cx_protocol_error.inc();
                self.closed.set(true);
                self.aborted.notify_one();
            }
        }
        self.active_streams.set(self.active_streams.get() - 1);
        self.last_active.set(Instant::now());
    }
}

/// The requests of an HTTP/1 connection.
struct Http1Service<'a>(&'a Rc<Connection>);

impl http1::Service for Http1Service<'_> {
    fn respond(&self, request: Request) -> impl Future<Output = Response> {
        stream::serve(Rc::clone(self.0), request)
    }

    fn refuse(&self, refusal: http1::Refusal) -> Response {
        stream::refuse(self.0, refusal)
    }
}
