//! The control socket: how `portreeve reload` and `portreeve status` reach the process.
//!
//! A Unix socket for root and the process's own user. One connection is one question: a line of JSON there, a line of JSON back.

use std::{
    fs, io,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream as Client},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::main_thread::Event;
use crate::drain::Watcher;

/// The longest question.
const QUESTION: u64 = 4096;

/// How long somebody who connects may take to ask.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Where the socket is when the service manager gives the process a directory for such things.
pub const FILE: &str = "control.sock";

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// Have the next process take over. `wait`: answer when it serves, or does not.
    Reload {
        /// Whether to wait for the outcome.
        wait: bool,
    },
    /// Which processes there are.
    Status,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The reload has begun.
    Begun,
    /// This process serves now.
    Reloaded {
        /// Its process id.
        pid: u32,
    },
    /// It was not done, and the process that was asked serves on.
    Failed {
        /// Why; may have several lines.
        reason: String,
    },
    /// How things stand.
    Status(Status),
}

/// The running processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The process that serves new connections.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// How many processes it has taken over from, one after the other.
    pub generation: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// `live`, or why not.
    pub state: String,
    /// Earlier processes whose connections have not ended.
    pub draining: Vec<Draining>,
}

/// An earlier process that finishes what it has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Its process id.
    pub pid: u32,
    /// Its generation.
    pub generation: u32,
}

/// Asks the process at the other end of the control socket.
///
/// # Errors
/// Nobody is there, or whoever is there does not answer.
pub fn ask(path: &Path, question: Question) -> io::Result<Answer> {
    let mut client = Client::connect(path)?;
    let mut line = serde_json::to_vec(&question)?;
    line.push(b'\n');
    client.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the process has ended without an answer"));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// The socket, bound under a name of its own: it takes the place of an earlier process's when it is [opened](Self::open).
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    bound: PathBuf,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds beside `path`.
    ///
    /// # Errors
    /// The directory is not writable.
    pub fn bind(path: &Path) -> io::Result<ControlSocket> {
        let bound = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&bound);
        let listener = UnixListener::bind(&bound)?;
        fs::set_permissions(&bound, fs::Permissions::from_mode(0o600))?;
        Ok(ControlSocket { listener, bound, path: path.to_owned() })
    }

    /// From now on whoever connects reaches this process. Questions become events until the drain begins; those that wait then
    /// are answered.
    ///
    /// # Errors
    /// The socket cannot take its place.
    pub fn open(
        self,
        events: mpsc::UnboundedSender<Event>,
        mut drain: Watcher,
    ) -> io::Result<impl Future<Output = ()>> {
        fs::rename(&self.bound, &self.path)?;
        Ok(async move {
            let mut clients = JoinSet::new();
            loop {
                tokio::select! {
                    () = drain.draining() => break,
                    Some(_) = clients.join_next() => {}
                    accepted = self.listener.accept() => match accepted {
                        Ok((client, _)) => _ = clients.spawn_local(serve(client, events.clone())),
                        Err(error) => {
                            tracing::warn!(%error, "the control socket accepts nobody");
                            tokio::time::sleep(ASK_LIMIT).await;
                        }
                    },
                }
            }
            drop(self);
            clients.join_all().await;
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Gone where it was opened.
        let _ = fs::remove_file(&self.bound);
    }
}

async fn serve(mut client: UnixStream, events: mpsc::UnboundedSender<Event>) {
    let answer = match question(&mut client).await {
        Ok(question) => {
            let (sender, answer) = oneshot::channel();
            // Nobody listens only when the process is at its end.
            let _ = events.send(Event::Asked(question, sender));
            // Whoever hangs up does not want it any more: dropping the receiver says so.
            tokio::select! {
                answer = answer => answer.unwrap_or(Answer::Failed { reason: "the process ends".to_owned() }),
                _ = hung_up(&mut client) => return,
            }
        }
        Err(error) => Answer::Failed { reason: error.to_string() },
    };
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    // Whoever has gone needs no answer.
    let _ = client.write_all(&line).await;
}

async fn hung_up(client: &mut UnixStream) -> io::Result<usize> {
    client.read(&mut [0]).await
}

async fn question(client: &mut UnixStream) -> io::Result<Question> {
    let peer = client.peer_cred()?.uid();
    if peer != 0 && peer != geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "only root and the process's own user may ask"));
    }
    let mut line = String::new();
    let mut reader = AsyncBufReader::new(client.take(QUESTION));
    timeout(ASK_LIMIT, reader.read_line(&mut line)).await??;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;

    #[tokio::test]
    async fn the_later_socket_takes_the_place_of_the_earlier() {
        let (directory, drain) = (tempfile::tempdir().unwrap(), Drain::new());
        let path = directory.path().join(FILE);
        tokio::task::LocalSet::new()
            .run_until(async {
                for pid in [1, 2] {
                    let (sender, mut events) = mpsc::unbounded_channel();
                    tokio::task::spawn_local(ControlSocket::bind(&path).unwrap().open(sender, drain.watch()).unwrap());
                    let asked = path.clone();
                    let asking = tokio::task::spawn_blocking(move || ask(&asked, Question::Reload { wait: true }));
                    let Some(Event::Asked(question, answer)) = events.recv().await else { panic!("no question") };
                    assert_eq!(question, Question::Reload { wait: true });
                    answer.send(Answer::Reloaded { pid }).unwrap();
                    assert_eq!(asking.await.unwrap().unwrap(), Answer::Reloaded { pid });
                }
            })
            .await;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn nonsense_is_answered() {
        let (directory, drain) = (tempfile::tempdir().unwrap(), Drain::new());
        let path = directory.path().join(FILE);
        tokio::task::LocalSet::new()
            .run_until(async {
                let (sender, _events) = mpsc::unbounded_channel();
                tokio::task::spawn_local(ControlSocket::bind(&path).unwrap().open(sender, drain.watch()).unwrap());
                let mut client = UnixStream::connect(&path).await.unwrap();
                client.write_all(b"{}\n").await.unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                assert!(answer.contains("failed"), "{answer}");
            })
            .await;
    }
}
