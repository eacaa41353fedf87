//! One data-plane thread: a runtime of its own, sockets of its own, connections of its own.
//!
//! Workers share nothing but the snapshot. What the main thread wants of one arrives as a [`WorkerCommand`]; a worker whose connections have
//! ended after a drain ends, too.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::LocalRuntime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::drain::{Drain, DrainMode};
use crate::filter::{Random, WorkerContext};
use crate::listener::{self, Listener};
use crate::snapshot::Snapshot;
use crate::stats;
use crate::sys::socket::ListenSocket;
use crate::upstream::ClusterManager;

/// How long connections may take to notice that their time is up.
const GRACE: Duration = Duration::from_secs(1);

/// Told when a command has been carried out.
type Done = oneshot::Sender<()>;

/// What the main thread wants of a worker.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Work with this snapshot from now on.
    Update(Arc<Snapshot>, Done),
    /// Accept connections from these sockets.
    Listen(Arc<Listener>, Vec<ListenSocket>),
    /// Hand over the lines of access logs.
    FlushLogs(Done),
    /// Give a sign of life.
    Ping(Done),
    /// Accept no more connections; end when those that there are have ended, at the latest after this time, if there is one. May be said
    /// again.
    Drain(DrainMode, Option<Duration>, Done),
}

/// The worker threads.
#[derive(Debug)]
pub struct Workers {
    commands: Vec<mpsc::UnboundedSender<WorkerCommand>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads. They accept nothing before they are told to listen.
    ///
    /// # Errors
    /// The system gives no more threads or file descriptors.
    pub fn start(count: NonZeroUsize, flush_interval: Duration) -> io::Result<Workers> {
        let mut workers = Workers { commands: Vec::new(), threads: Vec::new() };
        let seed = Random::new(entropy());
        for index in 1..=count.get() {
            let (sender, receiver) = mpsc::unbounded_channel();
            let (started, outcome) = std::sync::mpsc::sync_channel(1);
            let seed = seed.next_u64();
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let runtime = runtime();
                // The receiver is gone only if the main thread is.
                let _ = started.send(
                    runtime.as_ref().map(|_| ()).map_err(|error| io::Error::new(error.kind(), error.to_string())),
                );
                if let Ok(runtime) = runtime {
                    stats::enter_worker(index);
                    runtime.block_on(Worker::new(index, seed).run(receiver, flush_interval));
                }
            })?;
            outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))?;
            workers.commands.push(sender);
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.commands.len()
    }

    /// Gives every worker its row of the sockets of a listener.
    pub fn listen(&self, listener: &Arc<Listener>, rows: Vec<Vec<ListenSocket>>) {
        for (worker, sockets) in self.commands.iter().zip(rows) {
            send(worker, WorkerCommand::Listen(Arc::clone(listener), sockets));
        }
    }

    /// Gives every worker a snapshot; resolves when all work with it.
    pub fn update(&self, snapshot: &Arc<Snapshot>) -> impl Future<Output = ()> + use<> {
        all_done(self.send_all(|done| WorkerCommand::Update(Arc::clone(snapshot), done)))
    }

    /// Lets every worker hand over its lines of access logs; resolves when all have.
    pub fn flush_logs(&self) -> impl Future<Output = ()> + use<> {
        all_done(self.send_all(WorkerCommand::FlushLogs))
    }

    /// For each worker, a way to ask it for a sign of life.
    pub fn pings(&self) -> impl Iterator<Item = impl Fn() -> oneshot::Receiver<()> + use<>> {
        self.commands.iter().cloned().map(|worker| {
            move || {
                let (done, answer) = oneshot::channel();
                send(&worker, WorkerCommand::Ping(done));
                answer
            }
        })
    }

    /// Lets every worker drain; resolves when none accepts connections any more. Without a limit, all requests run to their end; connections without
    /// requests are closed once the time of a hand-off, twice its spread, is over. The last call sets the limit.
    pub fn drain(&self, mode: DrainMode, limit: Option<Duration>) -> impl Future<Output = ()> + use<> {
        all_done(self.send_all(|done| WorkerCommand::Drain(mode, limit, done)))
    }

    /// Resolves when every worker has ended after a drain.
    pub async fn ended(&self) {
        for worker in &self.commands {
            worker.closed().await;
        }
    }

    fn send_all(&self, command: impl Fn(Done) -> WorkerCommand) -> Vec<oneshot::Receiver<()>> {
        let send = |worker| {
            let (done, answer) = oneshot::channel();
            send(worker, command(done));
            answer
        };
        self.commands.iter().map(send).collect()
    }
}

async fn all_done(answers: Vec<oneshot::Receiver<()>>) {
    for answer in answers {
        // A worker that has ended has nothing to do any more.
        let _ = answer.await;
    }
}

/// A worker that has ended needs no commands.
fn send(worker: &mpsc::UnboundedSender<WorkerCommand>, command: WorkerCommand) {
    let _ = worker.send(command);
}

/// The runtime of one thread, on which tasks never move.
///
/// # Errors
/// The system gives no more file descriptors.
pub fn runtime() -> io::Result<LocalRuntime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default())
}

/// Something that differs from start to start.
fn entropy() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// The inside of a worker thread.
struct Worker {
    context: Rc<WorkerContext>,
    drain: Rc<Drain>,
    /// Those that accept connections, one for each socket.
    listeners: JoinSet<()>,
    /// What they are told of the next snapshot.
    current: HashMap<Arc<str>, watch::Sender<Arc<Listener>>>,
    /// Every listener that accepts connections holds one, until it does not any more.
    accepting: Option<mpsc::Sender<()>>,
    /// Ends when none is held any more.
    accepted: Option<mpsc::Receiver<()>>,
    /// Sees the drain to its end.
    draining: JoinSet<()>,
}

impl Worker {
    fn new(index: usize, seed: u64) -> Worker {
        let context = WorkerContext::new(index, ClusterManager::new(seed), Random::new(seed));
        let (listeners, draining) = (JoinSet::new(), JoinSet::new());
        let (accepting, accepted) = mpsc::channel(1);
        Worker {
            context: Rc::new(context),
            drain: Rc::default(),
            listeners,
            current: HashMap::new(),
            accepting: Some(accepting),
            accepted: Some(accepted),
            draining,
        }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<WorkerCommand>, flush_interval: Duration) {
        let mut flush = interval(flush_interval);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(WorkerCommand::Update(snapshot, done)) => {
                        self.context.clusters.update(&snapshot.clusters);
                        self.context.set_registered_routes(&snapshot.registered);
                        self.context.set_runtime(&snapshot.runtime);
                        for listener in snapshot.listeners.values() {
                            self.go_on_as(listener);
                        }
                        let _ = done.send(());
                    }
                    Some(WorkerCommand::Listen(listener, sockets)) => {
                        self.connect(&listener);
                        for socket in sockets {
                            self.accept(Arc::clone(&listener), socket);
                        }
                    }
                    Some(WorkerCommand::Ping(done)) => _ = done.send(()),
                    Some(WorkerCommand::FlushLogs(done)) => {
                        self.context.access_logs.flush();
                        let _ = done.send(());
                    }
                    Some(WorkerCommand::Drain(mode, limit, done)) => {
                        self.drain.start(mode);
                        self.draining.abort_all();
                        self.draining.spawn_local(finish(Rc::clone(&self.drain), mode, limit));
                        self.accepting = None;
                        tokio::task::spawn_local(when_closed(self.accepted.take(), done));
                    }
                    // The main thread is gone.
                    None => break,
                },
                _ = flush.tick() => self.context.access_logs.flush(),
                // One that was cut short is followed by another.
                Some(ended) = self.draining.join_next() => if ended.is_ok() { break },
            }
        }
        self.context.access_logs.flush();
    }

    /// New connections find this listener, if it is not the one that they found before.
    fn go_on_as(&self, listener: &Arc<Listener>) {
        let Some(current) = self.current.get(&listener.name) else { return };
        current.send_if_modified(|current| {
            let changed = !Arc::ptr_eq(current, listener);
            if changed {
                *current = Arc::clone(listener);
            }
            changed
        });
    }

    /// Lets a listener have the connections that this worker makes itself.
    fn connect(&mut self, listener: &Arc<Listener>) {
        let addresses = listener.addresses.iter().map(|listen| listen.address.clone()).collect();
        let handed_over = self.context.clusters.switchboard().register(addresses);
        let current = self.current_of(listener);
        let (context, drain) = (Rc::clone(&self.context), Rc::clone(&self.drain));
        self.listeners.spawn_local(listener::run_handed_over(current, handed_over, context, drain));
    }

    fn current_of(&mut self, listener: &Arc<Listener>) -> watch::Receiver<Arc<Listener>> {
        let name = Arc::clone(&listener.name);
        self.current.entry(name).or_insert_with(|| watch::Sender::new(Arc::clone(listener))).subscribe()
    }

    fn accept(&mut self, listener: Arc<Listener>, socket: ListenSocket) {
        // What begins to listen in a drain has nothing to accept.
        let Some(accepting) = self.accepting.clone() else { return };
        let (context, drain) = (Rc::clone(&self.context), self.drain.watch());
        let name = Arc::clone(&listener.name);
        let listener = self.current_of(&listener);
        self.listeners.spawn_local(async move {
            if let Err(error) = listener::run(listener, socket, context, drain, accepting).await {
                tracing::error!(listener = %name, %error, "the listener has failed");
            }
        });
    }
}

/// Says so when no listener accepts connections any more.
async fn when_closed(accepted: Option<mpsc::Receiver<()>>, done: Done) {
    if let Some(mut accepted) = accepted {
        accepted.recv().await;
    }
    let _ = done.send(());
}

/// Sees a drain to its end, which is that of the last connection.
async fn finish(drain: Rc<Drain>, mode: DrainMode, limit: Option<Duration>) {
    match (mode, limit) {
        (_, Some(limit)) => {
            if timeout(limit, drain.finished()).await.is_err() {
                drain.deadline();
                if timeout(GRACE, drain.finished()).await.is_err() {
                    tracing::warn!("connections are cut although they did not end");
                }
            }
        }
        (DrainMode::HandOff { spread }, None) => {
            if timeout(spread * 2, drain.finished()).await.is_err() {
                drain.start(DrainMode::Stop);
                drain.finished().await;
            }
        }
        (DrainMode::Stop, None) => drain.finished().await,
    }
}

#[cfg(test)]
mod tests {
    use crate::drain::Phase;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_a_hand_off_ends_with_the_last_request() {
        const MINUTE: Duration = Duration::from_mins(1);
        let drain = Rc::new(Drain::new());
        let mut connection = drain.watch();
        let mode = DrainMode::HandOff { spread: MINUTE };
        drain.start(mode);
        let start = tokio::time::Instant::now();
        let request = async {
            connection.stopping().await;
            assert_eq!(start.elapsed(), 2 * MINUTE, "then connections without requests are closed");
            tokio::time::sleep(60 * MINUTE).await;
            assert_eq!(connection.phase(), Phase::Stopping);
            drop(connection);
        };
        tokio::join!(finish(Rc::clone(&drain), mode, None), request);
        assert_eq!(start.elapsed(), 62 * MINUTE);
    }
}
