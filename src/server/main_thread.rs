//! The control loop: changes, signals, the admin interface, and the end.
//!
//! It runs on the main thread beside the tasks that it serves: DNS, registrations, admin. They knock at the door; it applies what they
//! bring, several changes at once where several wait, and tells them when every worker works with it.

use std::collections::HashSet;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::admin::Process as _;
use crate::drain::{Drain, DrainMode};
use crate::net::with_causes;
use crate::proto::handoff::State;
use crate::registration::{Control, Frozen};
use crate::snapshot::{Change, Knock, Snapshot};
use crate::stats::Tally;
use crate::sys::systemd;
use crate::upstream::{Discovery, dns};

use super::control::{Answer, ControlSocket, Question};
use super::file_watch;
use super::handoff::{self, Forebears, Predecessor, Succession, Successor, TALLY_INTERVAL};
use super::process::Process;
use super::sockets::{Listening, Sockets};
use super::watchdog::start_watchdog;
use super::worker::Workers;
use super::{Options, StartError};

/// How often statistics are brought up to date, unless `stats_flush_interval` says otherwise.
const STATS_INTERVAL: Duration = Duration::from_secs(5);

/// How long clusters may take to find their hosts before the process serves without them.
const INITIAL_DNS_LIMIT: Duration = Duration::from_secs(10);

/// Over twice what time clients are asked to go where their streams have no limit.
const UNLIMITED_DRAIN: Duration = Duration::from_mins(10);

/// How long an end waits for what others are to take: lines of access logs, counts, answers.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// What the process is told, and what its tasks tell it.
#[derive(Debug)]
pub enum Event {
    /// End.
    Terminate,
    /// Have the next process take over, for SIGHUP.
    Reload,
    /// A question by the control socket.
    Asked(Question, oneshot::Sender<Answer>),
    /// The next process is ready, or there is none.
    Succession(Result<Heir, String>, Option<oneshot::Sender<Answer>>),
    /// Open log files again.
    ReopenLogs,
    /// Stop listening.
    DrainListeners,
}

/// A process that is ready to serve, and what it will hold.
#[derive(Debug)]
pub struct Heir {
    successor: Successor,
    registrations: Frozen,
}

/// Owns what the control loop needs.
pub struct MainThread {
    process: Rc<Process>,
    workers: Workers,
    knocks: mpsc::UnboundedReceiver<Knock>,
    sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
    options: Options,
    listening: Rc<Listening>,
    registrations: Option<Control>,
    /// Of the control socket.
    drain: Drain,
    admin_drain: Drain,
    /// The next process, while it starts.
    succession: Option<AbortHandle>,
    forebears: Rc<Forebears>,
}

/// Why the control loop ends.
enum End {
    /// The process was told to.
    Stop,
    /// Another one serves.
    HandedOver(Successor, Tally),
}

impl MainThread {
    /// A main thread that serves nothing yet.
    pub fn new(
        process: Rc<Process>,
        workers: Workers,
        knocks: mpsc::UnboundedReceiver<Knock>,
        (sender, events): (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
        options: Options,
    ) -> MainThread {
        MainThread {
            forebears: Forebears::new(Arc::clone(process.stats())),
            process,
            workers,
            knocks,
            sender,
            events,
            options,
            listening: Rc::default(),
            registrations: None,
            drain: Drain::new(),
            admin_drain: Drain::new(),
            succession: None,
        }
    }

    /// Listens to the process that was taken over from until that has ended.
    pub fn follow(&self, predecessor: Predecessor) {
        self.forebears.follow(predecessor);
    }

    /// Takes over what another process leaves.
    pub async fn take_over(&mut self, registrations: &Control, state: State) {
        self.process.succeed(Succession::after(&state));
        self.process.import_ticket_keys(&state.ticket_keys);
        let mut imported = pin!(registrations.import(state.registrations));
        loop {
            tokio::select! {
                () = &mut imported => break,
                Some(knock) = self.knocks.recv() => publish(&self.process, &self.workers, knock, &mut self.knocks),
            }
        }
        // Now that all counters are there.
        self.process.stats().carry(handoff::counted(state.counters));
    }

    /// Takes charge of registrations.
    pub fn hold(&mut self, registrations: Control) {
        self.registrations = Some(registrations);
    }

    /// Accepts connections, and questions by the control socket.
    ///
    /// # Errors
    /// A file that others are to read cannot be written.
    pub fn serve(&mut self, sockets: Sockets, control: Option<ControlSocket>) -> Result<(), StartError> {
        let address_path = self.options.admin_address_path.as_deref();
        let listening = sockets.serve(&self.workers, &self.process, &self.admin_drain.watch(), address_path)?;
        self.listening = Rc::new(listening);
        if let Some(control) = control {
            spawn_local(control.open(self.sender.clone(), self.drain.watch())?);
        }
        Ok(())
    }

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

    /// Has the service manager keep the sockets.
    pub fn store_sockets(&self) {
        self.listening.store();
    }

    /// Serves until told to end or until another process does, and then until the workers have ended.
    pub async fn run(mut self) {
        let watchdog = start_watchdog(&self.workers);
        spawn_local(file_watch::follow(Rc::clone(&self.process)));
        let configured = self.process.snapshot().bootstrap.stats_flush_interval;
        let mut tick = interval(configured.filter(|interval| !interval.is_zero()).unwrap_or(STATS_INTERVAL));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            tokio::select! {
                Some(knock) = self.knocks.recv() => publish(&self.process, &self.workers, knock, &mut self.knocks),
                Some(event) = self.events.recv() => {
                    if let Some(end) = self.obey(event).await {
                        break end;
                    }
                }
                _ = tick.tick() => self.process.update_stats(),
            }
        };
        // Only the main process may ping.
        let _watchdog = watchdog.filter(|_| matches!(end, End::Stop));
        self.end(end).await;
    }

    async fn obey(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Terminate => return Some(End::Stop),
            Event::ReopenLogs => {
                tracing::info!("reopening log files");
                self.workers.flush_logs().await;
                self.process.reopen();
            }
            Event::DrainListeners => {
                tracing::info!("drain_listeners: no new connections, running requests may finish");
                self.workers.drain(DrainMode::Stop, self.options.drain_time).await;
            }
            Event::Reload => self.begin_succession(None),
            Event::Asked(Question::Status, answer) => {
                // Whoever has hung up needs no answer, here and below.
                let _ = answer.send(Answer::Status(self.process.status()));
            }
            Event::Asked(Question::Reload { wait: true }, answer) => self.begin_succession(Some(answer)),
            Event::Asked(Question::Reload { wait: false }, answer) => {
                let _ = answer.send(Answer::Begun);
                self.begin_succession(None);
            }
            Event::Succession(outcome, answer) => return self.end_succession(outcome, answer).await,
        }
        None
    }

    /// Starts the next process. It is given up when whoever asked for it hangs up.
    fn begin_succession(&mut self, mut answer: Option<oneshot::Sender<Answer>>) {
        if self.succession.is_some() {
            tracing::warn!("reload: one is going on already");
            refuse(answer, "a reload is going on already".to_owned());
            return;
        }
        tracing::info!(name: "reload_begun", "reload: starting the next process");
        let (program, listening, sender) =
            (self.options.program.clone(), Rc::clone(&self.listening), self.sender.clone());
        let registrations = self.registrations.clone();
        let prepared = async move {
            let successor = handoff::start(&program, &listening).await.map_err(|error| with_causes(&error))?;
            let frozen = registrations.ok_or("nothing is served yet")?.freeze().await;
            let registrations = frozen.ok_or("registrations do not come to rest")?;
            Ok(Heir { successor, registrations })
        };
        let task = spawn_local(async move {
            let given_up = async {
                match &mut answer {
                    Some(answer) => answer.closed().await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                outcome = prepared => outcome,
                () = given_up => Err("whoever asked for it has gone".to_owned()),
            };
            // Nobody listens only when the process is at its end.
            let _ = sender.send(Event::Succession(outcome, answer));
        });
        self.succession = Some(task.abort_handle());
    }

    /// Lets the next process serve, or says why there is none.
    async fn end_succession(
        &mut self,
        outcome: Result<Heir, String>,
        answer: Option<oneshot::Sender<Answer>>,
    ) -> Option<End> {
        self.succession = None;
        let Heir { successor, registrations } = match outcome {
            Ok(heir) => heir,
            Err(reason) => {
                MainThread::keep_on(&reason, answer);
                return None;
            }
        };
        let pid = successor.pid;
        // The manager hears only the main process: this has to come before the other one may speak.
        systemd::hand_over(pid, "taking over").await;
        // Whoever has read the counters here must not find less there.
        self.admin_drain.start(DrainMode::Stop);
        let mut tally = Tally::new(self.process.stats());
        let state = self.process.state_for_successor(registrations.registrations(), tally.take());
        if let Err(error) = successor.commit(state).await {
            registrations.thaw();
            self.admin_drain = Drain::new();
            self.listening.reopen_admin(&self.process, &self.admin_drain.watch());
            MainThread::keep_on(&with_causes(&error), answer);
            return None;
        }
        registrations.hand_over();
        // Whoever connects from now on reaches the next process.
        self.workers.drain(self.drain_mode(), self.options.drain_time).await;
        tracing::info!(name: "reload_done", pid, software = successor.software, "reload: the next process serves");
        if let Some(answer) = answer {
            let _ = answer.send(Answer::Reloaded { pid });
        }
        Some(End::HandedOver(successor, tally))
    }

    /// In the first half clients are asked to go, the second is for what they have begun.
    fn drain_mode(&self) -> DrainMode {
        DrainMode::HandOff { spread: self.options.drain_time.unwrap_or(UNLIMITED_DRAIN) / 2 }
    }

    /// This process serves on, for there is no other.
    fn keep_on(reason: &str, answer: Option<oneshot::Sender<Answer>>) {
        tracing::error!(name: "reload_failed", "reload failed, this process serves on: {reason}");
        let mut lines = reason.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        // The first one may only introduce what the next one says, with file and line.
        let second = if first.ends_with(':') { lines.next() } else { None };
        systemd::ready(&["reload failed:", first, second.unwrap_or_default()].join(" "));
        refuse(answer, reason.to_owned());
    }

    /// Lets requests finish. An order to end that comes meanwhile shortens that; a second one ends at once.
    async fn end(self, end: End) {
        let MainThread {
            process,
            workers,
            mut knocks,
            mut events,
            options,
            listening,
            drain,
            admin_drain,
            succession,
            forebears,
            ..
        } = self;
        drop(listening);
        if let Some(succession) = succession {
            succession.abort();
        }
        let stop_limit = options.drain_time.map_or(options.stop_time, |limit| limit.min(options.stop_time));
        let mut stopping = matches!(end, End::Stop);
        let mut telling = match end {
            End::Stop => None,
            End::HandedOver(successor, tally) => Some((successor, tally)),
        };
        process.drain();
        drain.start(DrainMode::Stop);
        admin_drain.start(DrainMode::Stop);
        if stopping {
            systemd::stopping("draining");
            workers.drain(DrainMode::Stop, Some(stop_limit)).await;
        }
        let limit = if stopping { Some(stop_limit) } else { options.drain_time };
        let limit_s = limit.map(|limit| limit.as_secs());
        tracing::info!(name: "draining", limit_s, "draining: no new connections, running requests may finish");
        let mut tell = interval(TALLY_INTERVAL);
        let ended = workers.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => break,
                Some(knock) = knocks.recv() => publish(&process, &workers, knock, &mut knocks),
                _ = tell.tick() => tell_counted(telling.as_mut()).await,
                Some(event) = events.recv() => match event {
                    Event::Terminate if stopping => {
                        tracing::warn!("told to end again: running requests are cut");
                        // Lines that do not come in time are lost.
                        let _ = timeout(FLUSH_LIMIT, workers.flush_logs()).await;
                        break;
                    }
                    Event::Terminate => {
                        tracing::info!(limit_s = stop_limit.as_secs(), "told to end: the drain is shortened");
                        stopping = true;
                        workers.drain(DrainMode::Stop, Some(stop_limit)).await;
                    }
                    Event::ReopenLogs => process.reopen(),
                    Event::Asked(_, answer) | Event::Succession(_, Some(answer)) => {
                        refuse(Some(answer), "the process is draining".to_owned());
                    }
                    Event::Reload | Event::DrainListeners | Event::Succession(_, None) => {}
                },
            }
        }
        tell_counted(telling.as_mut()).await;
        if let Some((successor, _)) = &telling {
            // A successor that has ended follows nobody.
            let _ = timeout(FLUSH_LIMIT, successor.bequeath(&forebears.leave())).await;
        }
        process.finish_logs();
        // Answers by the control socket and the admin interface that are still on their way.
        drop(events);
        let answered = async { tokio::join!(drain.finished(), admin_drain.finished()) };
        let _ = timeout(FLUSH_LIMIT, answered).await;
        tracing::info!(name: "ended", "ended");
    }
}

/// What is counted here counts there.
async fn tell_counted(telling: Option<&mut (Successor, Tally)>) {
    let Some((successor, tally)) = telling else { return };
    let counted = tally.take();
    if !counted.is_empty() {
        // A successor that has ended counts nothing, and one that hangs must not hold this process up.
        let _ = timeout(FLUSH_LIMIT, successor.tell_counted(handoff::tally(counted))).await;
    }
}

/// Whoever has hung up needs no answer.
fn refuse(answer: Option<oneshot::Sender<Answer>>, reason: String) {
    if let Some(answer) = answer {
        let _ = answer.send(Answer::Failed { reason });
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
