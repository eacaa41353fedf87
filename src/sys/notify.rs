//! The other end of `sd_notify`: what a process says to whoever looks after it, with the descriptors that it wants kept.

use std::{
    fs,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use rustix::{
    cmsg_space,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred},
    process::Pid,
};
use tokio::io::{Interest, unix::AsyncFd};

/// The longest message: that of systemd.
const LONGEST: usize = 4096;

/// The most descriptors with one message, which the kernel allows.
const MAX_DESCRIPTORS: usize = 253;

/// A socket on which processes report. Its file goes with this value.
#[derive(Debug)]
pub struct NotifySocket {
    socket: AsyncFd<UnixDatagram>,
    path: PathBuf,
}

/// One report.
#[derive(Debug)]
pub struct Notification {
    /// Who reports, as the kernel says.
    pub pid: Pid,
    /// Lines of `NAME=value`.
    pub message: String,
    /// What came with it. Dropping them answers a barrier.
    pub descriptors: Vec<OwnedFd>,
}

impl NotifySocket {
    /// Binds in a directory that only this user can write to. To be called within a runtime.
    ///
    /// # Errors
    /// The directory is not writable.
    pub fn bind(directory: &Path) -> io::Result<NotifySocket> {
        let path = directory.join("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        set_socket_passcred(&socket, true)?;
        Ok(NotifySocket { socket: AsyncFd::new(socket)?, path })
    }

    /// What `NOTIFY_SOCKET` is to be for those who report.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next report.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn receive(&self) -> io::Result<Notification> {
        loop {
            if let Some(notification) = self.socket.async_io(Interest::READABLE, receive).await? {
                return Ok(notification);
            }
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // Nobody is left who could be told.
        let _ = fs::remove_file(&self.path);
    }
}

/// `None` for what does not say who sent it.
fn receive(socket: &UnixDatagram) -> io::Result<Option<Notification>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut message = vec![0; LONGEST];
    let received =
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut message)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let (mut pid, mut descriptors) = (None, Vec::new());
    for part in ancillary.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
            RecvAncillaryMessage::ScmCredentials(credentials) => pid = Some(credentials.pid),
            _ => {}
        }
    }
    message.truncate(received.bytes);
    let message = String::from_utf8_lossy(&message).into_owned();
    Ok(pid.map(|pid| Notification { pid, message, descriptors }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reports_come_with_their_sender() {
        let directory = tempfile::tempdir().unwrap();
        let socket = NotifySocket::bind(directory.path()).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1\nSTATUS=serving", socket.path()).unwrap();
        let notification = socket.receive().await.unwrap();
        assert_eq!(notification.message, "READY=1\nSTATUS=serving");
        assert_eq!(notification.pid, rustix::process::getpid());
        assert!(notification.descriptors.is_empty());
    }
}
