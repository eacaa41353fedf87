//! Listening sockets: all are bound before anything is served, so that a start either succeeds or leaves nothing behind.
//!
//! A socket may come from outside: from the process that is taken over from, or from the service manager. It is gone on with
//! where the configuration names its address, with all connections in its queue.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustix::system::uname;
use tokio::task::spawn_local;

use crate::admin::Admin;
use crate::drain::Watcher;
use crate::listener::{BindError, ListenAddress, Listener};
use crate::net::Address;
use crate::snapshot::Snapshot;
use crate::sys::socket::ListenSocket;
use crate::sys::systemd;

use super::StartError;
use super::process::Process;
use super::worker::Workers;

/// What a socket is called between processes, and by the service manager: who listens on it and where, by the configuration.
/// systemd takes no colons.
fn name(listener: Option<&Listener>, address: &ListenAddress) -> String {
    let listener = listener.map_or("", |listener| &*listener.name);
    let mut name = format!("{listener}/{}", address.address);
    name = name.replace(|letter: char| !letter.is_ascii_graphic() || letter == ':', "_");
    name.truncate(255);
    name
}

/// Sockets from outside for which there has been no use yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, Address, ListenSocket)>);

impl Inherited {
    /// Takes in one more socket. The name helps where the configured port is 0.
    ///
    /// # Errors
    /// The kernel does not say its address.
    pub fn push(&mut self, name: String, socket: ListenSocket) -> io::Result<()> {
        self.0.push((name, Address::of(&socket)?, socket));
        Ok(())
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The sockets on the configured address; with port 0, those of the same name.
    fn take(&mut self, name: &str, wanted: &ListenAddress) -> Vec<ListenSocket> {
        let found = self.0.extract_if(.., |(named, address, _)| match wanted.address.port() {
            Some(0) => named == name,
            _ => serves(address, &wanted.address),
        });
        found.map(|(_, _, socket)| socket).collect()
    }

    /// Closes the sockets that nobody wanted, and has the service manager forget them.
    pub fn discard(self) {
        for (name, address, _) in self.0 {
            tracing::info!(name, %address, "a socket from outside is not used: no listener is configured there");
            systemd::forget(&name);
        }
    }
}

/// Whether a socket on `bound` is one on `wanted`. What systemd binds by port alone takes IPv4, too.
fn serves(bound: &Address, wanted: &Address) -> bool {
    let any = |address: &SocketAddr| address.ip().is_unspecified();
    match (bound, wanted) {
        (Address::Ip(bound), Address::Ip(wanted)) if any(bound) && any(wanted) => {
            bound.port() == wanted.port() && (bound.is_ipv6() || wanted.is_ipv4())
        }
        _ => bound == wanted,
    }
}

/// A socket and what it is called.
type NamedSocket = (String, ListenSocket);

/// The sockets of a configuration, bound but not served.
#[derive(Debug)]
pub struct Sockets {
    listeners: Vec<(Arc<Listener>, Vec<NamedSocket>)>,
    admin: Option<NamedSocket>,
}

impl Sockets {
    /// Binds all addresses, but for those that came from outside.
    ///
    /// # Errors
    /// One of them cannot be had; the others are given back.
    pub fn bind(snapshot: &Snapshot, workers: NonZeroUsize, inherited: &mut Inherited) -> Result<Sockets, StartError> {
        let mut listeners = Vec::with_capacity(snapshot.listeners.len());
        for listener in snapshot.listeners.values() {
            let mut sockets = Vec::new();
            for address in listener.addresses.iter().filter(|_| listener.is_bound) {
                let name = name(Some(listener), address);
                let bound = address.bind(inherited.take(&name, address), workers);
                let bound = bound.map_err(|source| StartError::Listener { name: listener.name.to_string(), source })?;
                sockets.extend(bound.into_iter().map(|socket| (name.clone(), socket)));
            }
            listeners.push((Arc::clone(listener), sockets));
        }
        let admin = snapshot.bootstrap.admin.as_ref().map(|address| bind_admin(address, inherited)).transpose();
        Ok(Sockets { listeners, admin: admin.map_err(StartError::Admin)?.flatten() })
    }

    /// Lets workers and admin interface accept, says where, and keeps a handle of each socket for the next process.
    ///
    /// # Errors
    /// The address of the admin interface cannot be written to the file that was asked for.
    pub fn serve(
        self,
        workers: &Workers,
        process: &Rc<Process>,
        drain: &Watcher,
        admin_address_path: Option<&Path>,
    ) -> Result<Listening, StartError> {
        let mut kept = Vec::new();
        let mut listening: Vec<(String, Address)> = Vec::new();
        for (listener, sockets) in self.listeners {
            if !listener.is_bound {
                let addresses = listener.addresses.iter().map(|listen| listen.address.clone());
                listening.extend(addresses.map(|address| (listener.name.to_string(), address)));
            }
            let mut rows: Vec<Vec<ListenSocket>> = (0..workers.count()).map(|_| Vec::new()).collect();
            for (index, (name, socket)) in sockets.into_iter().enumerate() {
                let address = Address::of(&socket)?;
                let entry = (listener.name.to_string(), address.clone());
                if !listening.contains(&entry) {
                    tracing::info!(name: "listener_started", listener = %listener.name, %address, "listener started");
                    listening.push(entry);
                }
                kept.push((name, socket.try_clone()?));
                rows[index % workers.count()].push(socket);
            }
            workers.listen(&listener, rows);
        }
        process.live(listening);
        let Some((name, socket)) = self.admin else { return Ok(Listening(kept)) };
        let address = Address::of(&socket)?;
        kept.push((name, socket.try_clone()?));
        if let Some(path) = admin_address_path {
            std::fs::write(path, address.to_string())
                .map_err(|source| StartError::AdminAddressPath { path: path.to_owned(), source })?;
        }
        spawn_local(serve_admin(Rc::clone(process), socket, drain.clone()));
        tracing::info!(%address, "admin interface available");
        Ok(Listening(kept))
    }
}

fn bind_admin(address: &ListenAddress, inherited: &mut Inherited) -> Result<Option<NamedSocket>, BindError> {
    let name = name(None, address);
    let bound = address.bind(inherited.take(&name, address), NonZeroUsize::MIN)?;
    Ok(bound.into_iter().next().map(|socket| (name, socket)))
}

async fn serve_admin(process: Rc<Process>, socket: ListenSocket, drain: Watcher) {
    let machine = uname().nodename().to_string_lossy().into_owned();
    let admin = Rc::new(Admin::new(process, machine));
    let outcome: io::Result<()> = admin.serve(socket, drain).await;
    if let Err(error) = outcome {
        tracing::error!(%error, "the admin interface has failed");
    }
}

/// A handle of every socket that is listened on, with its name.
#[derive(Debug, Default)]
pub struct Listening(Vec<NamedSocket>);

impl Listening {
    /// These sockets.
    ///
    /// # Errors
    /// The system gives no more descriptors.
    pub fn of<'a>(sockets: impl Iterator<Item = (&'a str, &'a ListenSocket)>) -> io::Result<Listening> {
        let handles = sockets.map(|(name, socket)| Ok((name.to_owned(), socket.try_clone()?)));
        Ok(Listening(handles.collect::<io::Result<_>>()?))
    }

    /// All sockets, those of one name in the order of the workers.
    pub fn sockets(&self) -> &[NamedSocket] {
        &self.0
    }

    /// Lets the admin interface accept once more.
    pub fn reopen_admin(&self, process: &Rc<Process>, drain: &Watcher) {
        // Its name is that of no listener.
        let Some((_, socket)) = self.0.iter().find(|(name, _)| name.starts_with('/')) else { return };
        match socket.try_clone() {
            Ok(socket) => _ = spawn_local(serve_admin(Rc::clone(process), socket, drain.clone())),
            Err(error) => tracing::error!(%error, "the admin interface is not available any more"),
        }
    }

    /// Has the service manager keep them all, so that connections wait for the next process if this one crashes.
    pub fn store(&self) {
        for sockets in self.0.chunk_by(|one, other| one.0 == other.0) {
            let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
            systemd::store(&sockets[0].0, &descriptors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    #[test]
    fn a_socket_for_both_protocols_serves_either() {
        assert!(serves(&address("127.0.0.1:80"), &address("127.0.0.1:80")));
        assert!(serves(&address("[::]:80"), &address("0.0.0.0:80")));
        assert!(!serves(&address("0.0.0.0:80"), &address("[::]:80")));
        assert!(!serves(&address("127.0.0.1:80"), &address("0.0.0.0:80")));
        assert!(!serves(&address("127.0.0.1:80"), &address("127.0.0.1:81")));
        assert!(serves(&Address::Pipe("/run/a".into()), &Address::Pipe("/run/a".into())));
    }
}
