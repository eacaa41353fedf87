//! The new process's half: take the sockets, say when all is ready, begin when told to.

use std::{
    env,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use prost::Message;
use rustix::stdio::dup2_stdin;
use tokio::time::timeout;

use super::{HandOffError, MARK, READY_LIMIT, STEP_LIMIT, VERSION, receive};
use crate::{
    proto::handoff::{
        Bequest, Commit, Counted, Failed, Hello, PredecessorMessage, Ready, Refused, Serving, Sockets,
        SuccessorMessage, predecessor_message::Message as Theirs, successor_message::Message as Ours,
    },
    server::sockets::Inherited,
    sys::{channel::Channel, socket::ListenSocket},
};

/// The process that is taken over from.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
}

/// What it says while it drains.
#[derive(Debug)]
pub enum News {
    /// What it has counted, as an encoded `State`.
    Counted(Vec<u8>),
    /// It ends, and leaves those behind that it took over from.
    Bequest(Vec<Predecessor>),
}

impl AsFd for Predecessor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Predecessor {
    /// Greets the process that has started this one, and takes its sockets; `None` if this is an ordinary start. To be called
    /// once, within a runtime.
    ///
    /// # Errors
    /// It is gone, or speaks another language.
    pub async fn greet(inherited: &mut Inherited) -> Result<Option<Predecessor>, HandOffError> {
        if env::var_os(MARK).is_none() {
            return Ok(None);
        }
        let channel = Channel::adopt(io::stdin().as_fd().try_clone_to_owned()?)?;
        dup2_stdin(File::open("/dev/null")?).map_err(io::Error::from)?;
        Ok(Some(Predecessor::greeted(channel, inherited).await?))
    }

    pub(super) async fn greeted(channel: Channel, inherited: &mut Inherited) -> Result<Predecessor, HandOffError> {
        let predecessor = Predecessor { channel };
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let software = env!("CARGO_PKG_VERSION").to_owned();
        predecessor.say(Ours::Hello(Hello { version: VERSION, software, pid })).await?;
        let received = timeout(STEP_LIMIT, predecessor.take_sockets(inherited)).await;
        received.unwrap_or(Err(HandOffError::TooSlow(STEP_LIMIT)))?;
        Ok(predecessor)
    }

    async fn take_sockets(&self, inherited: &mut Inherited) -> Result<(), HandOffError> {
        loop {
            let (message, packet) = receive::<PredecessorMessage>(&self.channel).await?;
            let Sockets { names, more } = match message.message {
                Some(Theirs::Sockets(sockets)) => sockets,
                Some(Theirs::Refused(Refused { reason })) => return Err(HandOffError::Failed(reason)),
                _ => return Err(HandOffError::Unexpected),
            };
            for (name, descriptor) in names.into_iter().zip(packet.descriptors) {
                inherited.push(name, ListenSocket::adopt(descriptor)?)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Says that everything that can fail has succeeded, and waits for the order to begin. Answers the state to begin with.
    ///
    /// # Errors
    /// The other process is gone, or has given this one up.
    pub async fn ready(&self) -> Result<Vec<u8>, HandOffError> {
        self.say(Ours::Ready(Ready {})).await?;
        let order = timeout(READY_LIMIT, receive::<PredecessorMessage>(&self.channel)).await;
        match order.unwrap_or(Err(HandOffError::TooSlow(READY_LIMIT)))?.0.message {
            Some(Theirs::Commit(Commit { state })) => Ok(state),
            _ => Err(HandOffError::Unexpected),
        }
    }

    /// Says that connections are accepted.
    ///
    /// # Errors
    /// The other process is gone.
    pub async fn serving(&self) -> Result<(), HandOffError> {
        self.say(Ours::Serving(Serving {})).await
    }

    /// Says that this process does not take over.
    pub async fn fail(&self, reason: String) {
        // Whoever is gone needs no reason.
        let _ = self.say(Ours::Failed(Failed { reason })).await;
    }

    /// What the other process has to say after it committed; `None` when it has ended.
    pub async fn news(&self) -> Option<News> {
        loop {
            let (PredecessorMessage { message }, packet) = receive(&self.channel).await.ok()?;
            match message {
                Some(Theirs::Counted(Counted { state })) => return Some(News::Counted(state)),
                Some(Theirs::Bequest(Bequest {})) => {
                    let channels = packet.descriptors.into_iter().filter_map(|end| Channel::adopt(end).ok());
                    return Some(News::Bequest(channels.map(|channel| Predecessor { channel }).collect()));
                }
                // Something that a later version has to say.
                _ => {}
            }
        }
    }

    async fn say(&self, message: Ours) -> Result<(), HandOffError> {
        let message = SuccessorMessage { message: Some(message) };
        Ok(self.channel.send(&message.encode_to_vec(), &[]).await?)
    }
}
