//! The process: everything with a lifetime.
//!
//! [`run`] is the order in which it starts, to be read from top to bottom. After that there are the main thread (`main_thread.rs`) and the
//! workers (`worker.rs`).

mod document;
pub mod logging;
mod main_thread;
mod process;
mod signals;
mod sockets;
mod stats;
mod worker;

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::access_log::Mode;
use crate::filter::Services;
use crate::filter::service::InternalService;
use crate::listener::BindError;
use crate::proto::admin::CommandLineOptions;
use crate::registration;
use crate::snapshot::{ConfigManager, Door};
use crate::stats::Registry;
use crate::sys::systemd;

pub use document::{ConfigSource, DocumentError, NodeOverrides};

use document::Document;
use logging::Log;
use main_thread::MainThread;
use process::Process;
use sockets::Sockets;
use worker::Workers;

/// Calls of the registration API that may wait for the main thread.
const REGISTRATION_BACKLOG: usize = 1024;

/// How the process is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the configuration stands.
    pub config: ConfigSource,
    /// What replaces the configuration's `node`.
    pub node: NodeOverrides,
    /// Threads that serve connections.
    pub concurrency: NonZeroUsize,
    /// How long requests may take to finish at the end.
    pub drain_time: Duration,
    /// How often access logs are written out.
    pub flush_interval: Duration,
    /// A file that the address of the admin interface is written to.
    pub admin_address_path: Option<PathBuf>,
    /// The command line, as `/server_info` shows it.
    pub command_line: CommandLineOptions,
}

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no valid configuration.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A listener's address cannot be had.
    #[error("listener {name:?}")]
    Listener {
        /// Its name.
        name: String,
        /// Which address, and why.
        source: BindError,
    },
    /// The admin interface's address cannot be had.
    #[error("admin interface")]
    Admin(#[source] BindError),
    /// The file for the admin interface's address cannot be written.
    #[error("cannot write {path:?}")]
    AdminAddressPath {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The system gives no threads, file descriptors or signals.
    #[error("cannot start")]
    System(#[from] io::Error),
}

/// Reads and converts the configuration, and starts nothing.
///
/// # Errors
/// There is no valid configuration.
pub fn validate(options: &Options) -> Result<(), StartError> {
    Ok(Document::load(options)?.validate()?)
}

/// Runs the process until it is told to end. Nothing is served before everything that can fail has succeeded.
///
/// # Errors
/// The process cannot start.
pub fn run(options: Options, log: Log) -> Result<(), StartError> {
    let document = Document::load(&options)?;
    let file = document.name().to_owned();
    let (registration, registration_calls) = InternalService::new(REGISTRATION_BACKLOG);
    let stats = Registry::new(options.concurrency.get());
    let services = Services { registration: Some(registration) };
    let mut manager = ConfigManager::new(Arc::clone(&stats), Mode::Write, services);
    if let Some(warnings) = document.apply(&mut manager)? {
        tracing::warn!("the configuration has settings without effect:\n{warnings}");
    }
    tracing::info!(file, "configuration loaded");

    raise_file_limit();
    let sockets = Sockets::bind(manager.snapshot(), options.concurrency)?;
    let workers = Workers::start(options.concurrency, options.flush_interval)?;
    let runtime = worker::runtime()?;
    let outcome = runtime.block_on(async move {
        let (door, knocks) = Door::new();
        let (sender, events) = mpsc::unbounded_channel();
        spawn_local(signals::forward(sender.clone())?);
        let process = Rc::new(Process::new(manager, door.clone(), log, options.command_line.clone(), sender));
        let mut main = MainThread { process: Rc::clone(&process), workers, knocks, events, options };

        let snapshot = main.initialize_clusters().await;
        tracing::info!(count = snapshot.clusters.len(), "clusters initialized");
        spawn_local(registration::serve(registration_calls, door, snapshot, stats));
        sockets.serve(&main.workers, &process, main.options.admin_address_path.as_deref())?;
        tracing::info!("ready");
        systemd::ready("serving");
        main.run().await;
        Ok(())
    });
    // Names that are still being resolved must not hold up the end.
    runtime.shutdown_background();
    outcome
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
