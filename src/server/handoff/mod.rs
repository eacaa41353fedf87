//! The hand-off: the next process takes over from this one, with its listening sockets, and nobody outside notices.
//!
//! `successor.rs` is the old process's half, `predecessor.rs` the new one's; they talk over a socket pair in the messages of
//! `handoff.proto`. Until the old process commits, it serves on whatever happens to the new one; from then on the new one
//! does. docs/life-of-a-handoff.md walks through it.

mod forebears;
mod predecessor;
mod state;
mod successor;

use std::{io, time::Duration};

use prost::Message;

use crate::sys::channel::{Channel, Packet};

pub use forebears::Forebears;
pub use predecessor::Predecessor;
pub use state::{Succession, TALLY_INTERVAL, counted, tally};
pub use successor::{Program, Successor, start};

/// The version of the conversation. It rises only when adding fields is not enough.
const VERSION: u32 = 1;

/// How long a new process may take from its start to being ready. Shorter than systemd's limit for a reload, `TimeoutStartSec`.
pub const READY_LIMIT: Duration = Duration::from_mins(1);

/// How long each step after that may take, in which neither side has much to do.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// Tells the new process that its standard input is the conversation.
const MARK: &str = "PORTREEVE_HANDOFF";

/// Why a process was not taken over from.
#[derive(Debug, thiserror::Error)]
pub enum HandOffError {
    /// The program cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// Its path.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The new process said why it does not take over, for example for an error in its configuration.
    #[error("{0}")]
    Failed(String),
    /// The new process ended without a word.
    #[error("the new process ended before it was ready")]
    Ended,
    /// The new process was too slow.
    #[error("the new process was not ready within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// Old and new do not understand each other.
    #[error("the new process ({software}) speaks version {version} of the hand-off, this one version {VERSION}")]
    Version {
        /// The new process's version of the conversation.
        version: u32,
        /// Its software.
        software: String,
    },
    /// A message that makes no sense.
    #[error("the other process sends a message that is not due")]
    Unexpected,
    /// The conversation is broken.
    #[error("the conversation with the other process is broken")]
    Channel(#[from] io::Error),
    /// A message that cannot be decoded.
    #[error("the other process sends what is no message")]
    Decode(#[from] prost::DecodeError),
}

/// The next message and the descriptors that come with it.
///
/// # Errors
/// [`HandOffError::Ended`] if the other process is gone.
async fn receive<M: Message + Default>(channel: &Channel) -> Result<(M, Packet), HandOffError> {
    let mut packet = channel.receive().await?.ok_or(HandOffError::Ended)?;
    let message = M::decode(std::mem::take(&mut packet.message).as_slice())?;
    Ok((message, packet))
}

#[cfg(test)]
mod tests;
