//! The start: the order in which a process comes to serve, alone or by taking over from another.

use std::{rc::Rc, sync::Arc};

use prost::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{sync::mpsc, task::spawn_local};

use super::{
    Options, StartError,
    control::ControlSocket,
    document::Document,
    handoff::{HandOffError, Predecessor},
    logging::Log,
    main_thread::{Event, MainThread},
    process::Process,
    signals,
    sockets::{Inherited, Sockets},
    worker::Workers,
};
use crate::{
    access_log::Mode,
    filter::{
        Services,
        service::{InternalRequest, InternalService},
    },
    net::with_causes,
    proto::handoff::State,
    registration,
    snapshot::{ConfigManager, Door, Snapshot},
    stats::Registry,
    sys::systemd,
};

/// Calls of the registration API that may wait for the main thread.
const REGISTRATION_BACKLOG: usize = 1024;

/// Runs the process. Nothing is served before everything that can fail has succeeded; a process that is taken over from serves
/// until then.
pub async fn start(options: Options, log: Log) -> Result<(), StartError> {
    // First of all: a signal that nobody handles would end the process.
    let (sender, events) = mpsc::unbounded_channel();
    spawn_local(signals::forward(sender.clone())?);
    let mut inherited = Inherited::default();
    let predecessor = Predecessor::greet(&mut inherited).await?;
    if predecessor.is_none() {
        for (name, socket) in systemd::inherited()? {
            inherited.push(name, socket)?;
        }
    }
    let prepared = Prepared::new(options, log, inherited, (sender, events)).await;
    match (prepared, predecessor) {
        (Ok(prepared), predecessor) => prepared.serve(predecessor).await,
        (Err(error), None) => Err(error),
        (Err(error), Some(predecessor)) => {
            predecessor.fail(with_causes(&error)).await;
            Err(StartError::Told)
        }
    }
}

/// A process that can serve at once.
struct Prepared {
    main: MainThread,
    sockets: Sockets,
    inherited: Inherited,
    control: Option<ControlSocket>,
    registration_calls: mpsc::Receiver<InternalRequest>,
    snapshot: Arc<Snapshot>,
    door: Door,
    stats: Arc<Registry>,
}

impl Prepared {
    /// Does everything that can fail.
    async fn new(
        options: Options,
        log: Log,
        mut inherited: Inherited,
        (sender, events): (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    ) -> Result<Prepared, StartError> {
        let document = Document::load(&options)?;
        let file = document.name().to_owned();
        let (registration, registration_calls) = InternalService::new(REGISTRATION_BACKLOG);
        let stats = Registry::new(options.concurrency.get());
        let services = Services { registration: Some(registration), ..Services::default() };
        let fails_health_checks = Arc::clone(&services.fails_health_checks);
        let mut manager = ConfigManager::new(Arc::clone(&stats), Mode::Write, services);
        if let Some(warnings) = document.apply(&mut manager)? {
            for warning in warnings.iter() {
                tracing::warn!("{warning}");
            }
        }
        tracing::info!(name: "started", file, "configuration loaded");

        raise_file_limit();
        let sockets = Sockets::bind(manager.snapshot(), options.concurrency, &mut inherited)?;
        let control = options.control_path.as_deref().map(|path| {
            ControlSocket::bind(path).map_err(|source| StartError::Control { path: path.to_owned(), source })
        });
        let control = control.transpose()?;
        let workers = Workers::start(options.concurrency, options.flush_interval)?;
        let (door, knocks) = Door::new();
        let process = Process::new(manager, door.clone(), log, options.command_line.clone(), sender.clone());
        let process = Rc::new(process.with_health(fails_health_checks));
        let mut main = MainThread::new(process, workers, knocks, (sender, events), options);
        let snapshot = main.initialize_clusters().await;
        tracing::info!(count = snapshot.clusters.len(), "clusters initialized");
        Ok(Prepared { main, sockets, inherited, control, registration_calls, snapshot, door, stats })
    }

    /// Serves, if need be in the place of another process, to the end.
    async fn serve(self, predecessor: Option<Predecessor>) -> Result<(), StartError> {
        let Prepared { mut main, sockets, inherited, control, registration_calls, snapshot, door, stats } = self;
        let mut state = None;
        if let Some(predecessor) = &predecessor {
            tracing::info!("ready to take over");
            state = Some(State::decode(predecessor.ready().await?.as_slice()).map_err(HandOffError::from)?);
        }
        let (registrations, served) = registration::serve(registration_calls, door, snapshot, &stats);
        spawn_local(served);
        if let Some(state) = state {
            main.take_over(&registrations, state).await;
        }
        main.hold(registrations);
        main.serve(sockets, control)?;
        inherited.discard();
        match predecessor {
            None => systemd::ready("serving"),
            Some(predecessor) => {
                predecessor.serving().await?;
                systemd::status("serving");
                main.follow(predecessor);
            }
        }
        main.store_sockets();
        tracing::info!(name: "ready", "ready");
        main.run().await;
        Ok(())
    }
}

/// Lets the process have as many connections as the system allows.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(from = current, to = maximum, "file descriptor limit raised"),
        Err(error) => tracing::warn!(%error, limit = current, "the file descriptor limit cannot be raised"),
    }
}
