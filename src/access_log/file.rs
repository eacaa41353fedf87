//! Where the lines of access logs go: files, standard output, standard error, and the journal.
//!
//! A worker gathers lines in its [`Buffers`] and hands full ones over; each destination has one thread that does nothing but write. What
//! waits to be written is bounded: when a disk or a pipe stalls, lines are dropped and counted, and no worker ever waits. [`Sinks`] lives
//! on the main thread: it opens destinations, reopens files for logrotate, and writes everything out at the end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::Duration;

use crate::stats::{self, Scope};

use super::journal;

/// A buffer of this size is handed over at once.
const FULL: usize = 64 * 1024;

/// What may wait for one destination, in bytes.
const MAX_PENDING: usize = 16 * 1024 * 1024;

/// How long the end of the process waits for a destination that does not take its lines.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A place for lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// A file, appended to.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The journal of systemd, by its socket: entries, not lines.
    Journal(PathBuf),
}

impl Destination {
    /// The destination that a configured path means. `/dev/stdout` is not opened but written to, because it cannot be opened when it is
    /// a socket, as under systemd.
    #[must_use]
    pub fn from_path(path: &str) -> Destination {
        match path {
            "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => Destination::Stdout,
            "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => Destination::Stderr,
            path => Destination::File(PathBuf::from(path)),
        }
    }

    fn open(&self) -> io::Result<Output> {
        Ok(match self {
            Destination::File(path) => {
                Output::File(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?)
            }
            Destination::Stdout => Output::Stdout(io::stdout()),
            Destination::Stderr => Output::Stderr(io::stderr()),
            Destination::Journal(path) => Output::Journal(UnixDatagram::unbound()?, path.clone()),
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::File(path) => path.display().fmt(f),
            Destination::Stdout => f.write_str("standard output"),
            Destination::Stderr => f.write_str("standard error"),
            Destination::Journal(path) => write!(f, "the journal at {}", path.display()),
        }
    }
}

/// What conversions do with destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Open them.
    Write,
    /// Say whether they could be opened, and leave no trace.
    Check,
}

/// All destinations of the process.
#[derive(Debug)]
pub struct Sinks {
    mode: Mode,
    stats: FileStats,
    known: RefCell<BTreeMap<Destination, Weak<Sink>>>,
}

stats::declare! {
    /// The files of access logs, under `filesystem.`
    struct FileStats {
        /// Lines that were put into a buffer.
        write_buffered: Counter,
        /// Buffers that were written.
        write_completed: Counter,
        /// Lines that were dropped because too many waited, and buffers that could not be written.
        write_failed: Counter,
        /// Buffers that were handed over before they were full.
        flushed_by_timer: Counter,
        /// Files that could not be opened again.
        reopen_failed: Counter,
        /// Bytes that wait to be written.
        write_total_buffered: Gauge,
    }
}

impl Sinks {
    /// No destination yet; statistics are made in `scope`.
    #[must_use]
    pub fn new(mode: Mode, scope: &Scope) -> Sinks {
        let stats = FileStats::new(&scope.scope("filesystem"));
        Sinks { mode, stats, known: RefCell::default() }
    }

    /// The sink of a destination: the same one for everybody who names it.
    ///
    /// # Errors
    /// The destination cannot be opened.
    pub fn open(&self, destination: &Destination) -> io::Result<Arc<Sink>> {
        let mut known = self.known.borrow_mut();
        if let Some(sink) = known.get(destination).and_then(Weak::upgrade) {
            return Ok(sink);
        }
        let (sender, messages) = mpsc::channel();
        let progress = Arc::new(Progress::default());
        match (self.mode, destination) {
            (Mode::Write, _) => {
                let writer = Writer {
                    output: destination.open()?,
                    destination: destination.clone(),
                    progress: Arc::clone(&progress),
                };
                thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&messages))?;
            }
            (Mode::Check, Destination::File(path)) => check_directory(path)?,
            (Mode::Check, Destination::Stdout | Destination::Stderr | Destination::Journal(_)) => {}
        }
        let framing = if matches!(destination, Destination::Journal(_)) { Framing::Entries } else { Framing::Lines };
        let sink = Arc::new(Sink { sender, progress, stats: self.stats.clone(), framing });
        known.insert(destination.clone(), Arc::downgrade(&sink));
        Ok(sink)
    }

    /// Opens the files again, after they were renamed. Hand over the workers' buffers first.
    pub fn reopen(&self) {
        self.send_all(|| Message::Reopen);
    }

    /// Brings the statistics up to date with what the writing threads have done; call it from the main thread only.
    pub fn publish(&self) {
        let mut pending = 0;
        self.known.borrow_mut().retain(|_, sink| {
            let Some(sink) = sink.upgrade() else { return false };
            let Progress { pending: waiting, completed, failed, reopen_failed } = &*sink.progress;
            pending += waiting.load(Relaxed);
            self.stats.write_completed.add(completed.swap(0, Relaxed));
            self.stats.write_failed.add(failed.swap(0, Relaxed));
            self.stats.reopen_failed.add(reopen_failed.swap(0, Relaxed));
            true
        });
        self.stats.write_total_buffered.set(pending as u64);
    }

    /// Waits until everything that was handed over is written, though not for ever.
    pub fn finish(&self) {
        let (done, finished) = mpsc::channel();
        self.send_all(|| Message::Finish(done.clone()));
        drop(done);
        // Ends when every writer has dropped its end.
        while finished.recv_timeout(CLOSE_LIMIT).is_ok() {}
        self.publish();
    }

    fn send_all(&self, message: impl Fn() -> Message) {
        for sink in self.known.borrow().values().filter_map(Weak::upgrade) {
            // The thread is gone only in a process that checks.
            let _ = sink.sender.send(message());
        }
    }
}

fn check_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    directory.map_or(Ok(()), |directory| directory.metadata().map(|_| ()))
}

/// One destination: the end that workers hold.
#[derive(Debug)]
pub struct Sink {
    sender: mpsc::Sender<Message>,
    progress: Arc<Progress>,
    stats: FileStats,
    framing: Framing,
}

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Lines,
    Entries,
}

impl Framing {
    fn count(self, bytes: &[u8]) -> u64 {
        let count = match self {
            Framing::Lines => memchr::memchr_iter(b'\n', bytes).count(),
            Framing::Entries => journal::entries(bytes).count(),
        };
        count as u64
    }
}

/// What a writing thread reports. It cannot count by itself: counters belong to workers.
#[derive(Debug, Default)]
struct Progress {
    pending: AtomicUsize,
    completed: AtomicU64,
    failed: AtomicU64,
    reopen_failed: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Write(Vec<u8>),
    Reopen,
    Finish(mpsc::Sender<()>),
}

impl Sink {
    fn write(&self, bytes: Vec<u8>) {
        let length = bytes.len();
        if self.progress.pending.fetch_add(length, Relaxed) + length > MAX_PENDING {
            self.progress.pending.fetch_sub(length, Relaxed);
            self.stats.write_failed.add(self.framing.count(&bytes));
        } else if self.sender.send(Message::Write(bytes)).is_err() {
            self.progress.pending.fetch_sub(length, Relaxed);
        }
    }
}

/// The thread of one destination.
struct Writer {
    output: Output,
    destination: Destination,
    progress: Arc<Progress>,
}

enum Output {
    File(File),
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    Journal(UnixDatagram, PathBuf),
}

impl Writer {
    fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut failing = false;
        while let Ok(message) = messages.recv() {
            match message {
                Message::Write(bytes) => {
                    let outcome = self.output.write(&bytes);
                    self.progress.pending.fetch_sub(bytes.len(), Relaxed);
                    let counter = if outcome.is_ok() { &self.progress.completed } else { &self.progress.failed };
                    counter.fetch_add(1, Relaxed);
                    match outcome {
                        Err(error) if !failing => {
                            tracing::warn!(destination = %self.destination, %error, "cannot write the access log");
                            failing = true;
                        }
                        Ok(()) => failing = false,
                        Err(_) => {}
                    }
                }
                Message::Reopen => match self.destination.open() {
                    Ok(output) => self.output = output,
                    Err(error) => {
                        self.progress.reopen_failed.fetch_add(1, Relaxed);
                        tracing::warn!(destination = %self.destination, %error, "cannot reopen the access log");
                    }
                },
                // Dropping the sender tells.
                Message::Finish(_done) => {}
            }
        }
    }
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::File(file) => file.write_all(bytes),
            Output::Stdout(stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            Output::Stderr(stderr) => stderr.write_all(bytes),
            // An entry that cannot be sent is lost; those behind it have their turn.
            Output::Journal(socket, path) => {
                journal::entries(bytes).map(|entry| socket.send_to(entry, &*path).map(|_| ())).fold(Ok(()), Result::and)
            }
        }
    }
}

/// The lines of one worker that are not handed over yet.
#[derive(Debug, Default)]
pub struct Buffers {
    buffers: RefCell<Vec<(Arc<Sink>, Vec<u8>)>>,
}

impl Buffers {
    /// Appends what `render` writes, for `sink`.
    pub(super) fn append(&self, sink: &Arc<Sink>, render: impl FnOnce(&mut Vec<u8>)) {
        let mut buffers = self.buffers.borrow_mut();
        let at = buffers.iter().position(|(known, _)| Arc::ptr_eq(known, sink)).unwrap_or_else(|| {
            buffers.push((Arc::clone(sink), Vec::with_capacity(FULL)));
            buffers.len() - 1
        });
        let (_, lines) = &mut buffers[at];
        render(lines);
        sink.stats.write_buffered.inc();
        if lines.len() >= FULL {
            sink.write(std::mem::replace(lines, Vec::with_capacity(FULL)));
        }
    }

    /// Hands over what there is; call it at every flush interval and at the end.
    pub fn flush(&self) {
        // A sink without lines is let go, so that nothing holds one that no configuration names any more.
        for (sink, lines) in self.buffers.borrow_mut().drain(..).filter(|(_, lines)| !lines.is_empty()) {
            sink.stats.flushed_by_timer.inc();
            sink.write(lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::stats::Registry;

    use super::*;

    fn sinks(mode: Mode) -> Sinks {
        Sinks::new(mode, &Registry::new(1).scope(""))
    }

    #[test]
    fn lines_reach_the_file_and_a_reopened_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let sinks = sinks(Mode::Write);
        let destination = Destination::from_path(path.to_str().unwrap());
        let sink = sinks.open(&destination).unwrap();
        assert!(Arc::ptr_eq(&sink, &sinks.open(&destination).unwrap()));
        let buffers = Buffers::default();
        buffers.append(&sink, |line| line.extend_from_slice(b"one\n"));
        buffers.flush();
        sinks.finish();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");

        fs::rename(&path, directory.path().join("access.log.1")).unwrap();
        sinks.reopen();
        buffers.append(&sink, |line| line.extend_from_slice(b"two\n"));
        buffers.flush();
        sinks.finish();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(sinks.stats.write_completed.value(), 2);
        assert_eq!(sinks.stats.write_buffered.value(), 2);
    }

    #[test]
    fn a_destination_that_stalls_costs_lines_and_not_time() {
        let (sender, _stalled) = mpsc::channel();
        let sinks = sinks(Mode::Check);
        let sink =
            Arc::new(Sink { sender, progress: Arc::default(), stats: sinks.stats.clone(), framing: Framing::Lines });
        let buffers = Buffers::default();
        let line = vec![b'x'; 1023];
        for _ in 0..MAX_PENDING / 1024 + 640 {
            buffers.append(&sink, |out| {
                out.extend_from_slice(&line);
                out.push(b'\n');
            });
        }
        assert!(sink.progress.pending.load(Relaxed) <= MAX_PENDING);
        assert_eq!(sinks.stats.write_failed.value(), 640);
    }

    #[test]
    fn checking_leaves_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        let open = |path: &str| sinks(Mode::Check).open(&Destination::File(directory.path().join(path)));
        assert!(open("access.log").is_ok());
        assert!(open("missing/access.log").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
