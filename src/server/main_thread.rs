//! The control loop: changes, signals, the admin interface, and the end.
//!
//! It runs on the main thread beside the tasks that it serves: DNS, registrations, admin. They knock at the door; it applies what they
//! bring, several changes at once where several wait, and tells them when every worker works with it.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::admin::Process as _;
use crate::drain::DrainMode;
use crate::snapshot::{Change, Knock, Snapshot};
use crate::sys::systemd;
use crate::upstream::{Discovery, dns};

use super::Options;
use super::document::Document;
use super::process::Process;
use super::worker::Workers;

/// How often statistics of the process are brought up to date.
const STATS_INTERVAL: Duration = Duration::from_secs(5);

/// How long clusters may take to find their hosts before the process serves without them.
const INITIAL_DNS_LIMIT: Duration = Duration::from_secs(10);

/// How long an end at once waits for the lines of access logs.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// What the process is told by signals and through the admin interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// End.
    Terminate,
    /// Take over a changed configuration file.
    Reload,
    /// Open log files again.
    ReopenLogs,
    /// Stop listening.
    DrainListeners,
}

/// Owns what the control loop needs.
pub struct MainThread {
    pub(super) process: Rc<Process>,
    pub(super) workers: Workers,
    pub(super) knocks: mpsc::UnboundedReceiver<Knock>,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) options: Options,
}

impl MainThread {
    /// Finds the hosts of clusters that are known by name, and gives the first snapshot to the workers. From then on DNS is followed.
    pub async fn initialize_clusters(&mut self) -> Arc<Snapshot> {
        let snapshot = self.process.snapshot();
        let mut awaited = HashSet::new();
        for (name, entry) in snapshot.clusters.iter().filter(|(_, entry)| entry.cluster.discovery != Discovery::Static)
        {
            awaited.insert(Arc::clone(name));
            let (name, door) = (Arc::clone(name), self.process.door().clone());
            spawn_local(dns::follow(Arc::clone(&entry.cluster), Arc::clone(&entry.hosts), move |hosts| {
                door.post(Change::Hosts { cluster: Arc::clone(&name), hosts });
            }));
        }
        let limit = Instant::now() + INITIAL_DNS_LIMIT;
        while !awaited.is_empty() {
            tokio::select! {
                Some(Knock { change, .. }) = self.knocks.recv() => {
                    if let Change::Hosts { cluster, .. } = &change {
                        awaited.remove(cluster);
                    }
                    self.process.apply(change);
                }
                Some(Event::Terminate) = self.events.recv() => {
                    // The control loop will see to it.
                    self.process.quit();
                    break;
                }
                () = sleep_until(limit) => break,
            }
        }
        for cluster in awaited {
            tracing::warn!(%cluster, "the names of the cluster's hosts are not resolved yet");
        }
        let snapshot = self.process.snapshot();
        self.workers.update(&snapshot).await;
        snapshot
    }

    /// Serves until told to end, and until the workers have ended.
    pub async fn run(mut self) {
        let mut tick = interval(STATS_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(knock) = self.knocks.recv() => publish(&self.process, &self.workers, knock, &mut self.knocks),
                Some(event) = self.events.recv() => match event {
                    Event::Terminate => break,
                    event => self.obey(event).await,
                },
                _ = tick.tick() => self.process.update_stats(),
            }
        }
        self.end().await;
    }

    async fn obey(&mut self, event: Event) {
        match event {
            Event::ReopenLogs => {
                tracing::info!("reopening log files");
                self.workers.flush_logs().await;
                self.process.reopen();
            }
            Event::Reload => self.check_reload(),
            Event::DrainListeners => {
                tracing::info!("drain_listeners: no new connections, running requests may finish");
                self.workers.drain(DrainMode::Stop, Some(self.options.drain_time)).await;
            }
            Event::Terminate => {}
        }
    }

    /// The file is read and converted as at the start, and nothing is changed.
    fn check_reload(&self) {
        match Document::load(&self.options).and_then(Document::validate) {
            Ok(()) => tracing::warn!("SIGHUP: the configuration is valid; it takes effect with a restart"),
            Err(error) => tracing::error!("SIGHUP: the configuration would be refused at a restart: {error}"),
        }
    }

    /// Lets requests finish. A second order to end ends at once.
    async fn end(self) {
        let MainThread { process, workers, mut knocks, mut events, options } = self;
        let limit = options.drain_time;
        systemd::stopping("draining");
        process.drain();
        workers.drain(DrainMode::Stop, Some(limit)).await;
        tracing::info!(limit_s = limit.as_secs(), "draining: no new connections, running requests may finish");
        let ended = workers.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => break,
                Some(knock) = knocks.recv() => publish(&process, &workers, knock, &mut knocks),
                Some(event) = events.recv() => match event {
                    Event::Terminate => {
                        tracing::warn!("told to end again: running requests are cut");
                        // Lines that do not come in time are lost.
                        let _ = timeout(FLUSH_LIMIT, workers.flush_logs()).await;
                        break;
                    }
                    Event::ReopenLogs => process.reopen(),
                    Event::Reload | Event::DrainListeners => {}
                },
            }
        }
        process.finish_logs();
        tracing::info!("ended");
    }
}

/// Applies the change and all that wait behind it, and publishes once.
fn publish(process: &Process, workers: &Workers, first: Knock, knocks: &mut mpsc::UnboundedReceiver<Knock>) {
    let mut waiting = Vec::new();
    let mut next = Some(first);
    while let Some(Knock { change, published }) = next {
        process.apply(change);
        waiting.push(published);
        next = knocks.try_recv().ok();
    }
    let snapshot = process.snapshot();
    let updated = workers.update(&snapshot);
    spawn_local(async move {
        updated.await;
        for published in waiting {
            // Not everybody who knocks waits.
            let _ = published.send(Arc::clone(&snapshot));
        }
    });
}
