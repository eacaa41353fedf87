//! The daemon's own log: where it goes, in which form, and how much of it.
//!
//! Under systemd it goes to the journal with all its fields, elsewhere to standard error or a file. Levels can be changed while the process
//! runs, for everything or for one logger; a logger is a part of the process and has a name of Envoy's where Envoy has such a part.
//!
//! Events with a name of their own are listed in docs/logs-catalog.md: those of the process's life (`journal.rs`), and those that peers can
//! cause (`flood.rs`).

mod flood;
mod journal;

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::fstat;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Registry, fmt, reload};

use crate::access_log::Destination;
use crate::admin::{LogLevel, Logger, UnknownLogger};

use flood::Dam;
use journal::Journal;

/// The loggers, and the modules that each of them stands for.
const LOGGERS: &[(&str, &[&str])] = &[
    ("admin", &["admin"]),
    ("config", &["config", "snapshot"]),
    ("conn_handler", &["listener", "drain"]),
    ("connection", &["net", "tls"]),
    ("dns", &["upstream::dns"]),
    ("file", &["access_log"]),
    ("filter", &["filter", "http_filters", "network_filters"]),
    ("http", &["conn_manager", "http"]),
    ("main", &["server", "cli", "sys"]),
    ("pool", &["upstream::conn_pool"]),
    ("registration", &["registration"]),
    ("router", &["router", "route"]),
    ("upstream", &["upstream"]),
];

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The journal's under systemd, else text.
    Automatic,
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// What is set up at the start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The level of all loggers.
    pub level: LogLevel,
    /// Levels of single loggers, by name.
    pub loggers: Vec<(String, LogLevel)>,
    /// How lines look.
    pub form: Form,
    /// A file in place of standard error, or `/dev/stdout`.
    pub path: Option<PathBuf>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be written.
    #[error("cannot write the log file {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name that is none of the loggers'.
    #[error("unknown logger {name:?}; there are {}", logger_names())]
    UnknownLogger {
        /// The name.
        name: String,
    },
    /// The process has a log already.
    #[error(transparent)]
    Twice(#[from] TryInitError),
}

fn logger_names() -> String {
    LOGGERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The log of the process, as it can be changed while it runs. Lives on the main thread.
#[derive(Debug)]
pub struct Log {
    levels: RefCell<Vec<LogLevel>>,
    filter: reload::Handle<Targets, Registry>,
    dam: Dam,
    place: Place,
}

impl Log {
    /// Sets up the log of the process.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn init(options: Options) -> Result<Log, LogError> {
        let Options { level, loggers, form, path } = options;
        let mut levels = vec![level; LOGGERS.len()];
        for (name, level) in loggers {
            let at = position(&name).ok_or(LogError::UnknownLogger { name })?;
            levels[at] = level;
        }
        let place = Place::open(path.as_deref())?;
        let (filter, handle) = reload::Layer::new(targets(&levels));
        let dam = Dam::new();
        tracing_subscriber::registry().with(filter).with(dam.clone()).with(layer(form, place.clone())).try_init()?;
        Ok(Log { levels: RefCell::new(levels), filter: handle, dam, place })
    }

    /// The loggers and their levels, by name.
    #[must_use]
    pub fn loggers(&self) -> Vec<Logger> {
        let levels = self.levels.borrow();
        LOGGERS
            .iter()
            .zip(&*levels)
            .map(|((name, _), level)| Logger { name: (*name).to_owned(), level: *level })
            .collect()
    }

    /// Changes the level of one logger, or of all.
    ///
    /// # Errors
    /// There is no logger of that name.
    pub fn set_level(&self, logger: Option<&str>, level: LogLevel) -> Result<(), UnknownLogger> {
        let mut levels = self.levels.borrow_mut();
        match logger {
            Some(name) => levels[position(name).ok_or(UnknownLogger)?] = level,
            None => levels.fill(level),
        }
        if let Err(error) = self.filter.modify(|filter| *filter = targets(&levels)) {
            tracing::warn!(%error, "cannot change what is logged");
        }
        Ok(())
    }

    /// Says how many events that peers caused were left out. Call it now and then.
    pub fn report_floods(&self) {
        self.dam.report();
    }

    /// Opens the log file again, after it was renamed.
    pub fn reopen(&self) {
        if let Place::File(file) = &self.place
            && let Err(error) = file.reopen()
        {
            tracing::warn!(%error, "cannot reopen the log file");
        }
    }
}

fn position(name: &str) -> Option<usize> {
    LOGGERS.iter().position(|(known, _)| *known == name)
}

/// What these levels let through. Libraries are quieter than we are: they speak for developers.
fn targets(levels: &[LogLevel]) -> Targets {
    let mut targets = Targets::new().with_default(LevelFilter::WARN);
    for ((_, modules), level) in LOGGERS.iter().zip(levels) {
        targets = targets.with_targets(
            modules.iter().map(|module| (format!("{}::{module}", env!("CARGO_PKG_NAME")), filter(*level))),
        );
    }
    targets
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
        LogLevel::Off => LevelFilter::OFF,
    }
}

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

fn layer<S>(form: Form, place: Place) -> BoxedLayer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a> + Send + Sync,
{
    if form == Form::Automatic
        && matches!(place, Place::Stderr)
        && is_journal(io::stderr())
        && let Ok(journal) = Journal::open()
    {
        return journal.boxed();
    }
    match form {
        Form::Json => fmt::layer().json().flatten_event(true).with_writer(place).boxed(),
        Form::Automatic | Form::Text => fmt::layer().with_ansi(place.is_terminal()).with_writer(place).boxed(),
    }
}

/// Whether a stream ends in the journal: systemd names the device and the inode of its socket in the environment.
fn is_journal(stream: impl std::os::fd::AsFd) -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(stream).is_ok_and(|stat| journal == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The log file; clones share it.
#[derive(Debug, Clone)]
struct LogFile {
    path: PathBuf,
    // Only the operator's log takes this lock, never a request.
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<LogFile, LogError> {
        let file = append(path).map_err(|source| LogError::File { path: path.to_owned(), source })?;
        Ok(LogFile { path: path.to_owned(), file: Arc::new(Mutex::new(file)) })
    }

    fn reopen(&self) -> io::Result<()> {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = append(&self.path)?;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Where lines go.
#[derive(Debug, Clone)]
enum Place {
    Stderr,
    Stdout,
    File(LogFile),
}

impl Place {
    fn open(path: Option<&Path>) -> Result<Place, LogError> {
        let Some(path) = path else { return Ok(Place::Stderr) };
        Ok(match Destination::from_path(&path.to_string_lossy()) {
            Destination::Stderr => Place::Stderr,
            Destination::Stdout => Place::Stdout,
            // The log of the program goes to the journal by another option.
            Destination::File(_) | Destination::Journal(_) => Place::File(LogFile::open(path)?),
        })
    }

    fn is_terminal(&self) -> bool {
        match self {
            Place::Stderr => io::stderr().is_terminal(),
            Place::Stdout => io::stdout().is_terminal(),
            Place::File(_) => false,
        }
    }
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Place::File(log) => log.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes),
            Place::Stdout => io::stdout().write(bytes),
            Place::Stderr => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Place {
    type Writer = Place;

    fn make_writer(&self) -> Place {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_most_particular_logger_decides() {
        let mut levels = vec![LogLevel::Info; LOGGERS.len()];
        levels[position("upstream").unwrap()] = LogLevel::Error;
        levels[position("dns").unwrap()] = LogLevel::Trace;
        let targets = targets(&levels);
        assert!(targets.would_enable("portreeve::upstream::dns", &Level::TRACE));
        assert!(!targets.would_enable("portreeve::upstream::cluster", &Level::INFO));
        assert!(targets.would_enable("portreeve::server", &Level::INFO));
        assert!(!targets.would_enable("h2::codec", &Level::INFO));
    }

    #[test]
    fn standard_streams_are_written_to_and_not_opened() {
        let open = |path| Place::open(Some(Path::new(path)));
        assert!(matches!(open("/dev/stdout"), Ok(Place::Stdout)));
        assert!(matches!(open("/proc/self/fd/2"), Ok(Place::Stderr)));
    }

    #[test]
    fn the_file_can_be_renamed_under_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = LogFile::open(&path).unwrap();
        Place::File(log.clone()).write_all(b"one\n").unwrap();
        std::fs::rename(&path, directory.path().join("log.1")).unwrap();
        log.reopen().unwrap();
        Place::File(log).write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }
}
