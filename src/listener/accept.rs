//! A listener at work on one worker: accept, look ahead, choose a filter chain, secure, hand over.

use std::{any::Any, io, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, error::Elapsed, sleep, sleep_until, timeout},
};

use super::{
    Listener,
    filter_chain::FilterChain,
    filter_chain_match::Candidate,
    filters::{Accepted, Rejection},
};
use crate::{
    drain::{Drain, Watcher},
    filter::{
        WorkerContext,
        network::{Admission, NetworkFilter},
    },
    net::{Acceptor, ConnectionLimit, Io, connection_limit::Permit, switchboard::HandedOver},
    stats,
    stream_info::{ConnectionInfo, LogType, ResponseFlags, StreamInfo, TlsInfo},
    sys::socket::ListenSocket,
};

/// How long to wait when no connection can be accepted, for example for want of file descriptors, unless one ends before.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the first bytes of a client are awaited that is refused anyway.
const REFUSAL: Duration = Duration::from_secs(1);

stats::declare! {
    /// Of a listener on one worker, under `listener.<address>.worker_<number>.`
    struct WorkerStats {
        /// Connections given to a filter chain.
        downstream_cx_total: Counter,
        /// Of these, those that are open.
        downstream_cx_active: Gauge,
    }
}

/// Accepts and serves connections, each as the listener is when it comes, until the drain is over and none is left, or the
/// drain's deadline. `accepting` is held for as long as connections are accepted.
///
/// # Errors
/// If the socket cannot be used in this runtime.
pub async fn run(
    mut listener: watch::Receiver<Arc<Listener>>,
    socket: ListenSocket,
    worker: Rc<WorkerContext>,
    mut drain: Watcher,
    accepting: mpsc::Sender<()>,
) -> io::Result<()> {
    let acceptor = Acceptor::new(socket)?;
    let mut active = ActiveListener::new(&mut listener, &worker);
    let mut connections = JoinSet::new();
    let mut resume: Option<Instant> = None;
    loop {
        let accept = async {
            if let Some(at) = resume {
                sleep_until(at).await;
            }
            acceptor.accept().await
        };
        tokio::select! {
            biased;
            () = drain.draining() => break,
            Ok(()) = listener.changed() => active = ActiveListener::new(&mut listener, &worker),
            Some(_) = connections.join_next() => resume = resume.and(Some(Instant::now())),
            accepted = accept => match accepted {
                Ok(io) => {
                    resume = None;
                    active.begin(HandedOver { io, addresses: None }, &drain, &mut connections);
                }
                Err(error) => {
                    let first = resume.replace(Instant::now() + ACCEPT_PAUSE).is_none();
                    active.cannot_accept(&error, first);
                }
            },
        }
    }
    // Whoever the kernel had let in already is served like the others.
    while let Some(Ok(io)) = now_or_never(acceptor.accept()).await {
        active.begin(HandedOver { io, addresses: None }, &drain, &mut connections);
    }
    drop((acceptor, accepting));
    tokio::select! {
        () = drain.deadline() => connections.shutdown().await,
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
    Ok(())
}

/// Serves the connections that other listeners and clusters of this worker hand over to a listener, as long as the worker runs: also in a
/// drain, for the connections that are left may need it.
pub async fn run_handed_over(
    mut listener: watch::Receiver<Arc<Listener>>,
    mut handed_over: mpsc::UnboundedReceiver<HandedOver>,
    worker: Rc<WorkerContext>,
    drain: Rc<Drain>,
) {
    let mut active = ActiveListener::new(&mut listener, &worker);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Ok(()) = listener.changed() => active = ActiveListener::new(&mut listener, &worker),
            Some(_) = connections.join_next() => {}
            connection = handed_over.recv() => match connection {
                Some(connection) => active.begin(connection, &drain.watch(), &mut connections),
                None => return,
            },
        }
    }
}

async fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

/// What the connections of one listener on one worker share.
struct ActiveListener {
    listener: Arc<Listener>,
    worker: Rc<WorkerContext>,
    stats: WorkerStats,
}

impl ActiveListener {
    fn new(listener: &mut watch::Receiver<Arc<Listener>>, worker: &Rc<WorkerContext>) -> Rc<ActiveListener> {
        let listener = Arc::clone(&listener.borrow_and_update());
        let scope = listener.scope.scope(&format!("worker_{}", worker.index.saturating_sub(1)));
        Rc::new(ActiveListener { listener, worker: Rc::clone(worker), stats: WorkerStats::new(&scope) })
    }

    /// What waits is in the kernel's queue, and lost only if that is full.
    fn cannot_accept(&self, error: &io::Error, first: bool) {
        self.listener.stats.downstream_cx_accept_failed.inc();
        if first {
            let listener = &self.listener.name;
            tracing::warn!(name: "accept_failed", %listener, %error, "connections wait: none can be accepted");
        }
    }

    fn begin(self: &Rc<Self>, connection: HandedOver, drain: &Watcher, connections: &mut JoinSet<()>) {
        let Ok(global) = permit(self.listener.global_connection_limit.as_ref()) else {
            self.listener.stats.downstream_global_cx_overflow.inc();
            let (listener, peer) = (&self.listener.name, connection.io.peer_address());
            tracing::warn!(name: "peer_overflow", %listener, %peer, "refused: the process has as many connections as it may have");
            return;
        };
        let Ok(own) = permit(self.listener.connection_limit.as_ref()) else {
            self.listener.stats.downstream_cx_overflow.inc();
            return;
        };
        let (active, drain) = (Rc::clone(self), drain.of_connection());
        connections.spawn_local(async move {
            active.serve(connection, drain).await;
            drop((global, own));
        });
    }

    async fn serve(&self, connection: HandedOver, drain: Watcher) {
        // Boxed, so that the connection does not carry to its end what it took to open it.
        let Some(Opened { io, connection, filter, _counted, _held }) = Box::pin(self.open(connection)).await else {
            return;
        };
        let _logged = (!self.listener.access_logs.is_empty()).then(|| Logged {
            active: self,
            connection: Rc::clone(&connection),
            flags: ResponseFlags::NONE,
        });
        filter.serve(io, connection, Rc::clone(&self.worker), drain).await;
    }

    /// Logs a connection that no filter serves.
    fn log_unserved(&self, connection: ConnectionInfo, flags: ResponseFlags) {
        if !self.listener.access_logs.is_empty() {
            drop(Logged { active: self, connection: Rc::new(connection), flags });
        }
    }

    /// Everything before the terminal filter: listener filters, the filter chain, the filters that admit, the handshake. `None` if
    /// the connection does not get that far.
    async fn open(&self, HandedOver { mut io, addresses }: HandedOver) -> Option<Opened<'_>> {
        let start = Instant::now();
        let mut accepted = Accepted::new(&io);
        let handed_over = addresses.is_some();
        if let Some((local, remote)) = addresses {
            (accepted.local, accepted.remote) = (local, remote);
        }
        if !self.look_ahead(&mut io, &mut accepted).await {
            io.reset_if_unread();
            self.log_unserved(self.describe(start, &io, accepted), ResponseFlags::NONE);
            return None;
        }
        if self.listener.hands_over && !handed_over && accepted.local != *io.local_address() {
            let (local, remote) = (accepted.local.clone(), accepted.remote.clone());
            io = self.worker.clusters.switchboard().hand_over(io, local, remote).err()?;
        }
        let candidate = Candidate {
            local: &accepted.local,
            remote: &accepted.remote,
            direct_remote: io.peer_address(),
            server_name: accepted.server_name.as_deref(),
            transport_protocol: accepted.transport_protocol,
            application_protocols: &accepted.application_protocols,
        };
        let Some(chain) = self.listener.filter_chains.find(&candidate, &self.worker) else {
            self.listener.stats.no_filter_chain_match.inc();
            tracing::debug!(name: "peer_unmatched", listener = %self.listener.name, ?candidate, "no filter chain is for this connection");
            io.reset_if_unread();
            self.log_unserved(self.describe(start, &io, accepted), ResponseFlags::NO_ROUTE_FOUND);
            return None;
        };
        let counted = Counted::begin(self, start);
        let mut connection = self.describe(start, &io, accepted);
        connection.filter_chain = Arc::clone(&chain.name);
        let mut held = Vec::new();
        for filter in &chain.filters.read {
            let admission = filter.admit(&mut connection, &self.worker.runtime());
            if let Err(flags) = settle(admission, &mut held).await {
                self.refuse(chain, connection, flags);
                return None;
            }
        }
        let Some((mut io, tls)) = self.secure(chain, io).await else {
            self.log_unserved(connection, ResponseFlags::NONE);
            return None;
        };
        connection.tls = tls;
        for filter in &chain.filters.read {
            let admission = filter.admit_secured(&connection);
            if let Err(flags) = settle(admission, &mut held).await {
                // What the client sends at once is read, so that it sees an orderly end.
                let _ = timeout(REFUSAL, io.peek(1)).await;
                self.refuse(chain, connection, flags);
                return None;
            }
        }
        let Some(filter) = chain.filters.terminal.clone() else {
            self.log_unserved(connection, ResponseFlags::NONE);
            return None;
        };
        Some(Opened { io, connection: Rc::new(connection), filter, _counted: counted, _held: held })
    }

    /// What is known of a connection before its filter chain is.
    fn describe(&self, start: Instant, io: &Io, accepted: Accepted) -> ConnectionInfo {
        let Accepted { local, remote, server_name, fingerprints, proxy_protocol, .. } = accepted;
        ConnectionInfo {
            id: self.worker.next_connection_id(),
            start,
            remote,
            direct_remote: io.peer_address().clone(),
            local,
            direct_local: io.local_address().clone(),
            server_name,
            upstream_cluster: None,
            fingerprints,
            proxy_protocol,
            listener: Arc::clone(&self.listener.name),
            filter_chain: Arc::default(),
            tls: None,
            peer_credentials: io.peer_credentials(),
        }
    }

    /// Tells the filter that would have served a connection that another one does not let it in.
    fn refuse(&self, chain: &FilterChain, connection: ConnectionInfo, flags: ResponseFlags) {
        let logged = Logged { active: self, connection: Rc::new(connection), flags };
        if let Some(filter) = &chain.filters.terminal {
            filter.refused(Rc::clone(&logged.connection), flags, &self.worker);
        }
    }

    /// Runs the listener filters; false if the connection is not to be served.
    async fn look_ahead(&self, io: &mut Io, accepted: &mut Accepted) -> bool {
        let filters = &self.listener.listener_filters;
        if filters.is_empty() {
            return true;
        }
        let stats = &self.listener.stats;
        let _held = stats.downstream_pre_cx_active.hold();
        let inspected = within(filters.timeout, filters.inspect(io, accepted, &self.worker.runtime())).await;
        match inspected {
            Ok(Ok(())) => {}
            Ok(Err(Rejection::RemoteClose)) => stats.downstream_listener_filter_remote_close.inc(),
            Ok(Err(Rejection::Failed)) => stats.downstream_listener_filter_error.inc(),
            Ok(Err(Rejection::ByFilter)) => {}
            Err(_) => stats.downstream_pre_cx_timeout.inc(),
        }
        if accepted.transport_protocol.is_empty() {
            accepted.transport_protocol = "raw_buffer";
        }
        match inspected {
            Ok(outcome) => outcome.is_ok(),
            Err(_) => filters.continue_on_timeout,
        }
    }

    /// Does the handshake of the chain, if it has one; `None` if it fails.
    async fn secure(&self, chain: &FilterChain, io: Io) -> Option<(Io, Option<TlsInfo>)> {
        let Some(tls) = chain.tls() else { return Some((io, None)) };
        let peer = io.peer_address().clone();
        match within(chain.handshake_timeout, tls.accept(io)).await {
            Ok(Ok((io, info))) => return Some((io, Some(info))),
            Ok(Err(error)) => {
                tracing::debug!(name: "peer_tls_failed", listener = %self.listener.name, %peer, %error, "no TLS connection");
            }
            Err(_) => {
                self.listener.stats.downstream_cx_transport_socket_connect_timeout.inc();
                tracing::debug!(name: "peer_tls_failed", listener = %self.listener.name, %peer, "the TLS handshake took too long");
            }
        }
        if let Some(filter) = &chain.filters.terminal {
            filter.handshake_failed();
        }
        None
    }
}

/// Does what a filter has decided. What it holds is to be kept until the connection has ended. An error says why it refuses.
async fn settle(admission: Admission, held: &mut Vec<Box<dyn Any>>) -> Result<(), ResponseFlags> {
    match admission {
        Admission::Continue => Ok(()),
        Admission::ContinueHolding(value) => {
            held.push(value);
            Ok(())
        }
        Admission::Close { delay, flags } => {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            Err(flags)
        }
    }
}

async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    match limit {
        Some(limit) => timeout(limit, future).await,
        None => Ok(future.await),
    }
}

/// A connection that its terminal filter takes over, and what is to be kept until it ends.
struct Opened<'a> {
    io: Io,
    connection: Rc<ConnectionInfo>,
    filter: Arc<dyn NetworkFilter>,
    _counted: Counted<'a>,
    _held: Vec<Box<dyn Any>>,
}

/// Writes the listener's access logs when a connection has ended, however that comes.
struct Logged<'a> {
    active: &'a ActiveListener,
    connection: Rc<ConnectionInfo>,
    flags: ResponseFlags,
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        let mut info = StreamInfo::of_connection(Rc::clone(&self.connection));
        info.log_type = LogType::NotSet;
        info.flags = self.flags;
        if self.flags.contains(ResponseFlags::NO_ROUTE_FOUND) {
            info.response_code_details = "filter_chain_not_found".into();
        }
        info.timing.end = Some(info.start.elapsed());
        for log in &*self.active.listener.access_logs {
            log.log(&info, &self.active.worker.runtime(), &self.active.worker.access_logs);
        }
    }
}

/// There are as many connections as there may be.
struct TooMany;

fn permit(limit: Option<&Arc<ConnectionLimit>>) -> Result<Option<Permit>, TooMany> {
    limit.map(|limit| limit.acquire().ok_or(TooMany)).transpose()
}

/// Counts a connection that has a filter chain, from then to its end however it comes.
struct Counted<'a> {
    active: &'a ActiveListener,
    start: Instant,
}

impl Counted<'_> {
    fn begin(active: &ActiveListener, start: Instant) -> Counted<'_> {
        active.listener.stats.downstream_cx_total.inc();
        active.listener.stats.downstream_cx_active.inc();
        active.stats.downstream_cx_total.inc();
        active.stats.downstream_cx_active.inc();
        Counted { active, start }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.active.listener.stats.downstream_cx_length_ms.record_time(self.start.elapsed());
        self.active.listener.stats.downstream_cx_destroy.inc();
        self.active.listener.stats.downstream_cx_active.dec();
        self.active.stats.downstream_cx_active.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_connection_does_not_carry_the_memory_of_its_handshake() {
        fn size<F: Future>(_: impl FnOnce(&'static ActiveListener, HandedOver, Watcher) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(ActiveListener::serve);
        assert!(size <= 1024, "{size}");
    }
}
