//! The process: everything with a lifetime.
//!
//! `start.rs` is the order in which it starts, to be read from top to bottom. After that there are the main thread (`main_thread.rs`) and the
//! workers (`worker.rs`).

pub mod control;
mod document;
mod file_watch;
mod handoff;
pub mod logging;
mod main_thread;
mod process;
mod signals;
mod sockets;
mod start;
mod stats;
pub mod supervisor;
mod watchdog;
mod worker;

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::listener::BindError;
use crate::proto::admin::CommandLineOptions;

pub use document::{ConfigSource, DocumentError, NodeOverrides};
pub use handoff::{HandOffError, Program};

use document::Document;
use logging::Log;

/// How the process is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the configuration stands.
    pub config: ConfigSource,
    /// What replaces the configuration's `node`.
    pub node: NodeOverrides,
    /// Threads that serve connections.
    pub concurrency: NonZeroUsize,
    /// How long connections may go on when another process has taken over; `None`: until the last one ends.
    pub drain_time: Option<Duration>,
    /// How long requests may take to finish when the process is told to end.
    pub stop_time: Duration,
    /// Where `portreeve reload` and `portreeve status` reach the process; `None`: nowhere.
    pub control_path: Option<PathBuf>,
    /// How often access logs are written out.
    pub flush_interval: Duration,
    /// A file that the address of the admin interface is written to.
    pub admin_address_path: Option<PathBuf>,
    /// What a hand-off starts.
    pub program: Program,
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
    /// The process that was to be taken over from is gone, or has given this one up.
    #[error("nothing is taken over")]
    HandOff(#[from] HandOffError),
    /// The process that was to be taken over from has been told, and says why.
    #[error("nothing is taken over: the serving process says why")]
    Told,
    /// The control socket cannot be made.
    #[error("control socket {path:?}")]
    Control {
        /// Where.
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

/// Runs the process until it is told to end, or until another has taken over from it and its connections have ended. Nothing
/// is served before everything that can fail has succeeded.
///
/// # Errors
/// The process cannot start.
pub fn run(options: Options, log: Log) -> Result<(), StartError> {
    let runtime = worker::runtime()?;
    let outcome = runtime.block_on(start::start(options, log));
    // Names that are still being resolved must not hold up the end.
    runtime.shutdown_background();
    outcome
}
