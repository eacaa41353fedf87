//! The old process's half: start the next one, give it the sockets, and let it begin.

use std::{
    env,
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    process::{Command, Stdio},
    rc::Rc,
};

use prost::Message;
use rustix::process::Pid;
use tokio::time::timeout;

use super::{HandOffError, MARK, Predecessor, READY_LIMIT, STEP_LIMIT, VERSION, receive};
use crate::{
    proto::handoff::{
        Bequest, Commit, Counted, Failed, Hello, PredecessorMessage, Refused, Sockets, SuccessorMessage,
        predecessor_message::Message as Ours, successor_message::Message as Theirs,
    },
    server::sockets::Listening,
    sys::{
        channel::{Channel, MAX_DESCRIPTORS},
        spawn::spawn_detached,
    },
};

/// The program to start: where this one was found at its start, which after an upgrade is the new one, and its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
}

impl Program {
    /// The program of this process. To be called at its start, before the file is replaced.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn current() -> io::Result<Program> {
        let (path, arguments) = (env::current_exe()?, env::args_os().skip(1).collect());
        Ok(Program { path, arguments, environment: Vec::new() })
    }

    #[cfg(test)]
    pub(super) fn of(path: &str) -> Program {
        Program { path: path.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// The same with one more environment variable.
    #[must_use]
    pub fn with_environment(mut self, name: &'static str, value: impl Into<OsString>) -> Program {
        self.environment.push((name, value.into()));
        self
    }

    /// Starts it as a child of this process.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self) -> io::Result<Pid> {
        Ok(Pid::from_child(&self.command().spawn()?))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        // These were for this process.
        for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command
    }
}

/// The process that is to take over.
#[derive(Debug)]
pub struct Successor {
    channel: Channel,
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub software: String,
}

/// Starts the next process and waits until it is ready to serve. Dropping the future gives it up: it ends by itself.
///
/// # Errors
/// There will be no successor, and why.
pub async fn start(program: &Program, listening: &Listening) -> Result<Successor, HandOffError> {
    let starting = async {
        let successor = Successor::greeted(launch(program)?).await?;
        successor.give(listening).await?;
        match receive(&successor.channel).await?.0 {
            SuccessorMessage { message: Some(Theirs::Ready(_)) } => Ok(successor),
            SuccessorMessage { message: Some(Theirs::Failed(Failed { reason })) } => Err(HandOffError::Failed(reason)),
            SuccessorMessage { .. } => Err(HandOffError::Unexpected),
        }
    };
    timeout(READY_LIMIT, starting).await.unwrap_or(Err(HandOffError::TooSlow(READY_LIMIT)))
}

fn launch(program: &Program) -> Result<Channel, HandOffError> {
    let (channel, theirs) = Channel::pair()?;
    let mut command = program.command();
    command.env(MARK, "1").stdin(Stdio::from(theirs));
    spawn_detached(&mut command)
        .map_err(|source| HandOffError::Start { program: program.path.display().to_string(), source })?;
    // The command keeps the other end open here until it is dropped.
    Ok(channel)
}

impl Successor {
    /// The process at the other end, once it has said who it is and we understand each other.
    pub(super) async fn greeted(channel: Channel) -> Result<Successor, HandOffError> {
        let (message, _) = receive::<SuccessorMessage>(&channel).await?;
        let Some(Theirs::Hello(Hello { version, software, pid })) = message.message else {
            return Err(HandOffError::Unexpected);
        };
        let successor = Successor { channel, pid: pid.unsigned_abs(), software };
        if version != VERSION {
            let error = HandOffError::Version { version, software: successor.software.clone() };
            successor.say(Ours::Refused(Refused { reason: error.to_string() }), &[]).await?;
            return Err(error);
        }
        Ok(successor)
    }

    /// Gives it a handle of every socket.
    pub(super) async fn give(&self, listening: &Listening) -> Result<(), HandOffError> {
        let mut rest = listening.sockets();
        loop {
            let (now, later) = rest.split_at(rest.len().min(MAX_DESCRIPTORS));
            let names = now.iter().map(|(name, _)| name.clone()).collect();
            let descriptors: Vec<BorrowedFd<'_>> = now.iter().map(|(_, socket)| socket.as_fd()).collect();
            let message = Sockets { names, more: !later.is_empty() };
            self.say(Ours::Sockets(message), &descriptors).await?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }

    /// From now on it serves: there is no way back. Resolves when it accepts connections.
    ///
    /// # Errors
    /// It has ended meanwhile.
    pub async fn commit(&self, state: Vec<u8>) -> Result<(), HandOffError> {
        self.say(Ours::Commit(Commit { state }), &[]).await?;
        match timeout(STEP_LIMIT, receive::<SuccessorMessage>(&self.channel)).await {
            Ok(Ok((SuccessorMessage { message: Some(Theirs::Serving(_)) }, _))) => Ok(()),
            Ok(Ok(_)) => Err(HandOffError::Unexpected),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(HandOffError::TooSlow(STEP_LIMIT)),
        }
    }

    /// Tells what has been counted here since.
    ///
    /// # Errors
    /// It is gone.
    pub async fn tell_counted(&self, state: Vec<u8>) -> Result<(), HandOffError> {
        self.say(Ours::Counted(Counted { state }), &[]).await
    }

    /// Leaves the conversations with earlier processes to it.
    ///
    /// # Errors
    /// It is gone.
    pub async fn bequeath(&self, earlier: &[Rc<Predecessor>]) -> Result<(), HandOffError> {
        for earlier in earlier.chunks(MAX_DESCRIPTORS) {
            let descriptors: Vec<BorrowedFd<'_>> = earlier.iter().map(|earlier| earlier.as_fd()).collect();
            self.say(Ours::Bequest(Bequest {}), &descriptors).await?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    async fn say(&self, message: Ours, descriptors: &[BorrowedFd<'_>]) -> Result<(), HandOffError> {
        let message = PredecessorMessage { message: Some(message) };
        Ok(self.channel.send(&message.encode_to_vec(), descriptors).await?)
    }
}
