//! The process as a whole: what the control loop and the admin interface both know of it. Lives on the main thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::admin::{self, LogLevel, Logger, UnknownLogger};
use crate::net::Address;
use crate::proto::admin::CommandLineOptions;
use crate::proto::admin::server_info::State;
use crate::proto::handoff::{Registration, TicketKey};
use crate::snapshot::{Change, ConfigManager, Door, Snapshot};
use crate::stats::{Counted, Registry};
use crate::tls::WatchedFiles;

use super::control::Status;
use super::handoff::Succession;
use super::logging::Log;
use super::main_thread::Event;
use super::stats::ProcessStats;

/// What is known of the process.
#[derive(Debug)]
pub struct Process {
    stats: Arc<Registry>,
    gauges: ProcessStats,
    manager: RefCell<ConfigManager>,
    door: Door,
    log: Log,
    command_line: CommandLineOptions,
    events: mpsc::UnboundedSender<Event>,
    started: Instant,
    listening: OnceCell<Vec<(String, Address)>>,
    state: Cell<State>,
    /// Workers read it, too.
    fails_health_checks: Arc<AtomicBool>,
    succession: RefCell<Succession>,
}

impl Process {
    /// A process that is being started.
    pub fn new(
        manager: ConfigManager,
        door: Door,
        log: Log,
        command_line: CommandLineOptions,
        events: mpsc::UnboundedSender<Event>,
    ) -> Process {
        let stats = Arc::clone(manager.stats());
        Process {
            gauges: ProcessStats::new(&stats),
            stats,
            manager: RefCell::new(manager),
            door,
            log,
            command_line,
            events,
            started: Instant::now(),
            listening: OnceCell::new(),
            state: Cell::new(State::Initializing),
            fails_health_checks: Arc::default(),
            succession: RefCell::default(),
        }
    }

    /// By this flag, health checks are told to fail.
    #[must_use]
    pub fn with_health(self, fails_health_checks: Arc<AtomicBool>) -> Process {
        Process { fails_health_checks, ..self }
    }

    /// This process takes over from others.
    pub fn succeed(&self, succession: Succession) {
        self.succession.replace(succession);
    }

    /// Clients that have a session with a process before go on with it.
    pub fn import_ticket_keys(&self, keys: &[TicketKey]) {
        self.manager.borrow().ticket_keys().import(keys);
    }

    /// The state that the next process begins with.
    pub fn state_for_successor(&self, registrations: &[Registration], counted: Vec<Counted>) -> Vec<u8> {
        let ticket_keys = self.manager.borrow().ticket_keys().export();
        self.succession.borrow().state(registrations, counted, ticket_keys)
    }

    /// The way to the configuration for the tasks of the main thread.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Takes a change in.
    pub fn apply(&self, change: Change<'_>) {
        // Only documents can be refused, and the only one comes before there is a process.
        if let Err(error) = self.manager.borrow_mut().apply(change) {
            tracing::error!(%error, "a change is not applied");
        }
    }

    /// The files of certificates and the like.
    pub fn files(&self) -> WatchedFiles {
        self.manager.borrow().files().clone()
    }

    /// Requests are served now, on these addresses.
    pub fn live(&self, listening: Vec<(String, Address)>) {
        self.listening.get_or_init(|| listening);
        self.state.set(State::Live);
        self.gauges.live(admin::Process::snapshot(self).listeners.len(), self);
    }

    /// How things stand, for the control socket.
    pub fn status(&self) -> Status {
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: self.succession.borrow().generation,
            uptime_s: self.started.elapsed().as_secs(),
            state: self.state.get().as_str_name().to_lowercase(),
            draining: self.succession.borrow().draining(),
        }
    }

    /// No more requests are wanted.
    pub fn drain(&self) {
        self.state.set(State::Draining);
    }

    /// Opens all log files again.
    pub fn reopen(&self) {
        self.log.reopen();
        self.manager.borrow().access_logs().reopen();
    }

    /// Waits for the access logs to be written.
    pub fn finish_logs(&self) {
        self.manager.borrow().access_logs().finish();
    }

    /// Brings the statistics up to date that are not counted where they arise.
    pub fn update_stats(&self) {
        self.stats.flush();
        self.gauges.update(self);
        self.manager.borrow().access_logs().publish();
        self.log.report_floods();
    }

    fn tell(&self, event: Event) {
        // Nobody listens only when the process is at its end.
        let _ = self.events.send(event);
    }
}

impl admin::Process for Process {
    fn stats(&self) -> &Arc<Registry> {
        &self.stats
    }

    fn state(&self) -> State {
        match self.state.get() {
            State::Live if self.fails_health_checks.load(Relaxed) => State::Draining,
            state => state,
        }
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn command_line(&self) -> CommandLineOptions {
        let restart_epoch = self.succession.borrow().generation;
        CommandLineOptions { restart_epoch, ..self.command_line.clone() }
    }

    fn succession(&self) -> String {
        let succession = self.succession.borrow();
        let earlier: Vec<String> = succession
            .draining()
            .iter()
            .map(|earlier| format!("process {} (generation {})", earlier.pid, earlier.generation))
            .collect();
        let draining = if earlier.is_empty() { "none".to_owned() } else { earlier.join(", ") };
        format!("generation {}, draining: {draining}", succession.generation)
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.manager.borrow().snapshot())
    }

    fn listening(&self) -> Vec<(String, Address)> {
        self.listening.get().cloned().unwrap_or_default()
    }

    fn loggers(&self) -> Vec<Logger> {
        self.log.loggers()
    }

    fn set_log_level(&self, logger: Option<&str>, level: LogLevel) -> Result<(), UnknownLogger> {
        self.log.set_level(logger, level)
    }

    fn modify_runtime(&self, values: Vec<(String, String)>) {
        self.door.post(Change::Runtime(values));
    }

    fn reopen_logs(&self) {
        self.tell(Event::ReopenLogs);
    }

    fn fail_health_checks(&self, fail: bool) {
        self.fails_health_checks.store(fail, Relaxed);
    }

    fn drain_listeners(&self) {
        self.tell(Event::DrainListeners);
    }

    fn quit(&self) {
        self.tell(Event::Terminate);
    }
}
