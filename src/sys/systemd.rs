//! The service manager: what it is told (ready, how it goes, which process is the main one), and the listening sockets that it
//! keeps for us. A no-op where no service manager listens.

use std::{
    env, io,
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};

use super::socket::ListenSocket;

/// How long the manager may take to take note of a new main process.
const BARRIER_LIMIT: Duration = Duration::from_secs(5);

/// Says that start-up is complete.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)], &[]);
}

/// Changes the line that `systemctl status` shows.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)], &[]);
}

/// Says that an orderly end has begun.
pub fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)], &[]);
}

/// Names another process as the main one, and waits until the manager has taken note. Only the main process is heard, so that
/// it has to say this itself, and says nothing afterwards.
pub async fn hand_over(pid: u32, status: &str) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    notify(&[NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status(status)], &[]);
    if let Err(error) = barrier().await {
        tracing::warn!(%error, "the service manager does not confirm the new main process");
    }
}

/// Resolves when the manager has processed everything that was sent before: it then closes the descriptor.
async fn barrier() -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    notify(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()]);
    drop(writer);
    timeout(BARRIER_LIMIT, reader.read(&mut [0])).await??;
    Ok(())
}

/// The way to say that the process is not hung. Its socket is kept, because no other can be had when descriptors have run out.
#[derive(Debug)]
pub struct Heartbeat {
    /// How long the manager waits for a beat until it takes the process for hung.
    pub limit: Duration,
    socket: UnixDatagram,
    manager: SocketAddr,
}

impl Heartbeat {
    /// `None` if the manager does not watch this process.
    pub fn new() -> Option<Heartbeat> {
        let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())?;
        let manager = env::var_os("NOTIFY_SOCKET")?;
        let address = match manager.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&manager),
        };
        let made = address.and_then(|manager| Ok(Heartbeat { limit, socket: UnixDatagram::unbound()?, manager }));
        made.inspect_err(|error| tracing::warn!(%error, "cannot notify the service manager")).ok()
    }

    /// Says that all is well.
    pub fn beat(&self) {
        if let Err(error) = self.socket.send_to_addr(b"WATCHDOG=1\n", &self.manager) {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

/// Has the manager keep sockets under a name, so that connections wait for the next process if this one crashes.
pub fn store(name: &str, sockets: &[BorrowedFd<'_>]) {
    // As many descriptors as one datagram carries.
    for sockets in sockets.chunks(200) {
        notify(&[NotifyState::FdStore, NotifyState::FdName(name)], sockets);
    }
}

/// Has the manager give up what it keeps under a name.
pub fn forget(name: &str) {
    notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)], &[]);
}

/// The sockets that the manager gives us, with the names by which it knows them: those it kept, and those that it made
/// (`portreeve.socket`). To be called once.
///
/// # Errors
/// The environment contradicts itself.
pub fn inherited() -> io::Result<Vec<(String, ListenSocket)>> {
    let mut sockets = Vec::new();
    for (descriptor, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: the manager has opened it for this process, and nobody else has it: this is called once.
        #[allow(unsafe_code, reason = "a number becomes a descriptor")]
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        match ListenSocket::adopt(descriptor) {
            Ok(socket) => sockets.push((name, socket)),
            Err(error) => tracing::warn!(%error, "the service manager passes something else than a listening socket"),
        }
    }
    Ok(sockets)
}

/// `sd_notify` does nothing without `NOTIFY_SOCKET`; a manager that cannot be reached must not end the service.
fn notify(state: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) {
    let sent =
        if descriptors.is_empty() { sd_notify::notify(state) } else { sd_notify::notify_with_fds(state, descriptors) };
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
