//! The process above: what systemd does for the service, where there is no systemd, as in a container.
//!
//! It stays while processes hand over to one another, passes signals on, reaps, keeps the listening sockets, and when the
//! serving process crashes, starts another one on them: connections wait meanwhile. To the serving process it speaks systemd's
//! protocol (`NOTIFY_SOCKET`), and a restart is a hand-off without a predecessor's connections: neither needs code of its own
//! there.

use std::{
    collections::VecDeque, env, fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::PathBuf, process::ExitCode,
    time::Duration,
};

use rustix::{
    fs::fstat,
    process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait},
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_tokio::Signals;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;

use super::{
    handoff::{self, HandOffError, Program},
    sockets::Listening,
    worker,
};
use crate::net::with_causes;
use crate::sys::{
    notify::{Notification, NotifySocket},
    socket::ListenSocket,
};

/// Tells a process that it is looked after.
const MARK: &str = "PORTREEVE_SUPERVISED";

/// How long after a crash the next process is started.
const PAUSE: Duration = Duration::from_millis(200);

/// More crashes than this within [`CRASH_WINDOW`] are no accident.
const MAX_CRASHES: usize = 10;
const CRASH_WINDOW: Duration = Duration::from_mins(1);

/// Whether this process needs one above it: it is the first of its PID namespace, whose end would end all others.
pub fn is_needed() -> bool {
    getpid() == Pid::INIT && !is_there()
}

/// Whether there is one above it already.
pub fn is_there() -> bool {
    env::var_os(MARK).is_some()
}

/// Starts the program that is to serve, and looks after it until the end; answers its exit status.
///
/// # Errors
/// The system gives no processes, signals or descriptors.
pub fn run() -> io::Result<ExitCode> {
    worker::runtime()?.block_on(async {
        set_child_subreaper(Some(getpid()))?;
        let directory = RuntimeDirectory::new()?;
        let notify = NotifySocket::bind(&directory.0)?;
        let program = Program::current()?.with_environment("NOTIFY_SOCKET", notify.path()).with_environment(MARK, "1");
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD])?;
        let main = program.spawn()?;
        let supervisor = Supervisor {
            program,
            notify,
            main,
            started: false,
            ending: None,
            stored: Vec::new(),
            crashes: VecDeque::new(),
        };
        supervisor.run(signals).await
    })
}

/// A directory for the socket, removed at the end.
struct RuntimeDirectory(PathBuf);

impl RuntimeDirectory {
    fn new() -> io::Result<RuntimeDirectory> {
        let base = env::var_os("RUNTIME_DIRECTORY").map_or_else(env::temp_dir, PathBuf::from);
        let path = base.join(format!("portreeve-{}", getpid().as_raw_nonzero()));
        // What one of the same number left that was killed, as the first process of a container that is started again. Somebody
        // else's stays, and is refused below.
        let _ = std::fs::remove_dir_all(&path);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(RuntimeDirectory(path))
    }
}

impl Drop for RuntimeDirectory {
    fn drop(&mut self) {
        // What is left behind does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Supervisor {
    program: Program,
    notify: NotifySocket,
    /// The process that serves.
    main: Pid,
    /// It has served.
    started: bool,
    /// The status to end with, once no process is left.
    ending: Option<ExitCode>,
    /// Sockets that are kept, by the name and the inode by which they are known.
    stored: Vec<(String, u64, ListenSocket)>,
    crashes: VecDeque<Instant>,
}

impl Supervisor {
    async fn run(mut self, mut signals: Signals) -> io::Result<ExitCode> {
        loop {
            tokio::select! {
                notification = self.notify.receive() => self.hear(notification?),
                Some(signal) = signals.next() => match signal {
                    SIGCHLD => {
                        if let Some(status) = self.reap().await? {
                            return Ok(status);
                        }
                    }
                    SIGHUP => self.pass_on(Signal::HUP),
                    SIGUSR1 => self.pass_on(Signal::USR1),
                    _ => {
                        self.ending.get_or_insert(ExitCode::SUCCESS);
                        self.pass_on(Signal::TERM);
                    }
                },
            }
        }
    }

    /// Takes note of what the serving process reports; nobody else is heard.
    fn hear(&mut self, notification: Notification) {
        let Notification { pid, message, descriptors } = notification;
        if pid != self.main {
            return;
        }
        let value = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        self.started |= value("READY").is_some();
        if let Some(main) = value("MAINPID").and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw) {
            self.main = main;
        }
        let name = value("FDNAME").unwrap_or_default();
        if value("FDSTOREREMOVE").is_some() {
            self.stored.retain(|(stored, ..)| stored != name);
        } else if value("FDSTORE").is_some() {
            for descriptor in descriptors {
                let Ok(inode) = fstat(&descriptor).map(|stat| stat.st_ino) else { continue };
                if self.stored.iter().all(|(_, stored, _)| *stored != inode)
                    && let Ok(socket) = ListenSocket::adopt(descriptor)
                {
                    self.stored.push((name.to_owned(), inode, socket));
                }
            }
        }
    }

    /// Takes the ended processes in. Answers the status to end with, if this is the end.
    async fn reap(&mut self) -> io::Result<Option<ExitCode>> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.main => {
                    if let Some(code) = self.judge(status) {
                        self.ending = Some(code);
                    } else {
                        tracing::error!(%pid, ?status, "the serving process has crashed: starting another on its sockets");
                        sleep(PAUSE).await;
                        self.restart().await;
                    }
                }
                Ok(Some((pid, status))) => tracing::debug!(%pid, ?status, "a process has ended"),
                Ok(None) => return Ok(None),
                // No process is left.
                Err(rustix::io::Errno::CHILD) => return Ok(Some(self.ending.unwrap_or(ExitCode::FAILURE))),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The status to end with now that the serving process has ended; `None` if another one is to be started.
    fn judge(&mut self, status: WaitStatus) -> Option<ExitCode> {
        let code = status.exit_status().map(|code| ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)));
        if self.ending.is_some() || !self.started || status.exit_status() == Some(0) {
            return Some(code.unwrap_or(ExitCode::FAILURE));
        }
        let now = Instant::now();
        self.crashes.retain(|crash| now.duration_since(*crash) < CRASH_WINDOW);
        self.crashes.push_back(now);
        if self.crashes.len() > MAX_CRASHES {
            tracing::error!("it has crashed too often: giving up");
            return Some(ExitCode::FAILURE);
        }
        None
    }

    async fn restart(&mut self) {
        match self.start_on_sockets().await {
            Ok(main) => self.main = main,
            Err(error) => {
                tracing::error!("no process can be started: {}", with_causes(&error));
                self.ending = Some(ExitCode::FAILURE);
            }
        }
    }

    async fn start_on_sockets(&self) -> Result<Pid, HandOffError> {
        if self.stored.is_empty() {
            return Ok(self.program.spawn()?);
        }
        let listening = Listening::of(self.stored.iter().map(|(name, _, socket)| (name.as_str(), socket)))?;
        let successor = handoff::start(&self.program, &listening).await?;
        successor.commit(Vec::new()).await?;
        i32::try_from(successor.pid).ok().and_then(Pid::from_raw).ok_or(HandOffError::Unexpected)
    }

    fn pass_on(&self, signal: Signal) {
        if let Err(error) = kill_process(self.main, signal) {
            tracing::warn!(%error, ?signal, "the serving process cannot be told");
        }
    }
}
