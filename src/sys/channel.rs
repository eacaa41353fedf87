//! Messages between two processes, with file descriptors: a `SOCK_SEQPACKET` pair, one end of which a child inherits.
//!
//! A message of any size is one packet: what is too large for the socket's buffer travels as a file in memory.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Seek, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    fs::{MemfdFlags, memfd_create},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use tokio::io::unix::AsyncFd;

/// The most descriptors that one message carries. The kernel takes 253; one is for the message itself.
pub const MAX_DESCRIPTORS: usize = 200;

/// The largest packet.
const PACKET: usize = 64 * 1024;

/// The first byte of a packet: the message follows, or comes as the last descriptor.
const INLINE: u8 = 0;
const IN_FILE: u8 = 1;

/// One end of the conversation.
#[derive(Debug)]
pub struct Channel(AsyncFd<OwnedFd>);

/// What was received.
#[derive(Debug)]
pub struct Packet {
    /// The message.
    pub message: Vec<u8>,
    /// The descriptors that came with it, closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Our end, and the one for a child. To be called within a runtime.
    ///
    /// # Errors
    /// The system gives no more descriptors.
    pub fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Channel::adopt(ours)?, theirs))
    }

    /// The end that a process has inherited. To be called within a runtime.
    ///
    /// # Errors
    /// It is no socket.
    pub fn adopt(end: OwnedFd) -> io::Result<Channel> {
        rustix::io::ioctl_fionbio(&end, true)?;
        Ok(Channel(AsyncFd::new(end)?))
    }

    /// Sends a message with at most [`MAX_DESCRIPTORS`] descriptors.
    ///
    /// # Errors
    /// The other end is gone.
    pub async fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let file = if message.len() < PACKET { None } else { Some(in_memory(message)?) };
        let (kind, inline) = if file.is_some() { (IN_FILE, &[][..]) } else { (INLINE, message) };
        let mut descriptors = descriptors.to_vec();
        descriptors.extend(file.as_ref().map(AsFd::as_fd));
        self.0
            .async_io(tokio::io::Interest::WRITABLE, |socket| {
                let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS + 1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                    return Err(io::Error::other("too many descriptors for one message"));
                }
                let parts = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(inline)];
                sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
                Ok(())
            })
            .await
    }

    /// The next message; `None` when the other end is gone.
    ///
    /// # Errors
    /// The message is none of ours.
    pub async fn receive(&self) -> io::Result<Option<Packet>> {
        let received = self.0.async_io(tokio::io::Interest::READABLE, receive).await?;
        let Some((kind, mut packet)) = received else { return Ok(None) };
        match kind {
            INLINE => {}
            IN_FILE => {
                let file = packet.descriptors.pop().ok_or_else(|| io::Error::other("a message without its file"))?;
                let mut file = File::from(file);
                file.rewind()?;
                file.read_to_end(&mut packet.message)?;
            }
            _ => return Err(io::Error::other("a message of an unknown kind")),
        }
        Ok(Some(packet))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Option<(u8, Packet)>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS + 1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut kind = [0];
    let mut message = vec![0; PACKET];
    let mut parts = [IoSliceMut::new(&mut kind), IoSliceMut::new(&mut message)];
    let received = match recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
        Ok(received) => received.bytes,
        // The other end was closed with messages of ours unread.
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(error) => return Err(error.into()),
    };
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    let [kind] = kind;
    let Some(length) = received.checked_sub(1) else { return Ok(None) };
    message.truncate(length);
    Ok(Some((kind, Packet { message, descriptors })))
}

fn in_memory(message: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("portreeve-message", MemfdFlags::CLOEXEC)?);
    file.write_all(message)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn messages_of_any_size_come_with_their_descriptors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::adopt(theirs).unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        for message in [b"small".to_vec(), Vec::new(), vec![7; 3 * PACKET]] {
            ours.send(&message, &[far.as_fd(), far.as_fd()]).await.unwrap();
            let packet = theirs.receive().await.unwrap().unwrap();
            assert_eq!(packet.message, message);
            assert_eq!(packet.descriptors.len(), 2);
            let mut received = UnixStream::from(packet.descriptors.into_iter().next().unwrap());
            received.write_all(b"x").unwrap();
            near.read_exact(&mut [0]).unwrap();
        }
    }

    #[tokio::test]
    async fn the_end_of_the_other_end_is_seen() {
        let (ours, theirs) = Channel::pair().unwrap();
        ours.send(b"unread", &[]).await.unwrap();
        drop(theirs);
        assert!(ours.receive().await.unwrap().is_none());
        assert!(ours.send(b"late", &[]).await.is_err());
    }
}
