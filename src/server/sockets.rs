//! Listening sockets: all are bound before anything is served, so that a start either succeeds or leaves nothing behind.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustix::system::uname;
use tokio::task::spawn_local;

use crate::admin::Admin;
use crate::listener::Listener;
use crate::net::Address;
use crate::snapshot::Snapshot;
use crate::sys::socket::ListenSocket;

use super::StartError;
use super::process::Process;
use super::worker::Workers;

/// The sockets of a configuration, bound but not served.
#[derive(Debug)]
pub struct Sockets {
    /// For every listener a row of sockets for each worker.
    listeners: Vec<(Arc<Listener>, Vec<Vec<ListenSocket>>)>,
    admin: Option<ListenSocket>,
}

impl Sockets {
    /// Binds all addresses.
    ///
    /// # Errors
    /// One of them cannot be had; the others are given back.
    pub fn bind(snapshot: &Snapshot, workers: NonZeroUsize) -> Result<Sockets, StartError> {
        let mut listeners = Vec::with_capacity(snapshot.listeners.len());
        for listener in snapshot.listeners.values() {
            let rows = listener
                .bind(workers)
                .map_err(|source| StartError::Listener { name: listener.name.to_string(), source })?;
            listeners.push((Arc::clone(listener), rows));
        }
        let admin = snapshot.bootstrap.admin.as_ref().map(|address| address.bind(NonZeroUsize::MIN)).transpose();
        let admin = admin.map_err(StartError::Admin)?.and_then(|mut sockets| sockets.pop());
        Ok(Sockets { listeners, admin })
    }

    /// Lets workers and admin interface accept, and says where.
    ///
    /// # Errors
    /// The address of the admin interface cannot be written to the file that was asked for.
    pub fn serve(
        self,
        workers: &Workers,
        process: &Rc<Process>,
        admin_address_path: Option<&Path>,
    ) -> Result<(), StartError> {
        let mut listening = Vec::new();
        for (listener, rows) in self.listeners {
            for socket in rows.first().into_iter().flatten() {
                let address = Address::of(socket)?;
                tracing::info!(name = %listener.name, %address, "listener started");
                listening.push((listener.name.to_string(), address));
            }
            workers.listen(&listener, rows);
        }
        process.live(listening);
        let Some(socket) = self.admin else { return Ok(()) };
        let address = Address::of(&socket)?;
        if let Some(path) = admin_address_path {
            std::fs::write(path, address.to_string())
                .map_err(|source| StartError::AdminAddressPath { path: path.to_owned(), source })?;
        }
        let machine = uname().nodename().to_string_lossy().into_owned();
        let process: Rc<Process> = Rc::clone(process);
        let admin = Rc::new(Admin::new(process, machine));
        spawn_local(serve_admin(admin, socket));
        tracing::info!(%address, "admin interface available");
        Ok(())
    }
}

async fn serve_admin(admin: Rc<Admin>, socket: ListenSocket) {
    let outcome: io::Result<()> = admin.serve(socket).await;
    if let Err(error) = outcome {
        tracing::error!(%error, "the admin interface has failed");
    }
}
