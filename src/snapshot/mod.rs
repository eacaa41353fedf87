//! The one door: what is configured now, and the only way to change it.
//!
//! Every source of configuration (a file, DNS, registrations, files of certificates) makes a [`Change`]; [`ConfigManager::apply`] turns it into the next
//! [`Snapshot`] or refuses it with every reason, and changes nothing then. What did not change keeps its `Arc` from one snapshot to the
//! next, so a worker sees what did by comparing pointers. Sources on the main thread reach the manager through a [`Door`].

mod bootstrap;
mod door;
mod manager;
mod runtime;
mod stats_config;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::Report;
use crate::listener::Listener;
use crate::proto;
use crate::route::RegisteredRoutes;
use crate::runtime::Runtime;
use crate::tls::{DownstreamTls, WatchedFiles};
use crate::upstream::{ClusterEntry, HostSet};

pub use bootstrap::Bootstrap;
pub use door::{Door, Knock};
pub use manager::ConfigManager;
pub use stats_config::StatsConfig;

/// Everything configured, by name: immutable, shared by all threads.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts the changes.
    pub version: u64,
    /// What concerns the process as a whole.
    pub bootstrap: Arc<Bootstrap>,
    /// Where connections come in.
    pub listeners: BTreeMap<String, Arc<Listener>>,
    /// Where requests go: the configured clusters and the registered ones.
    pub clusters: Arc<HashMap<Arc<str>, ClusterEntry>>,
    /// The routes of registered workers.
    pub registered: Arc<RegisteredRoutes>,
    /// The runtime values.
    pub runtime: Arc<Runtime>,
    /// The document, as `/config_dump` shows it.
    pub proto: Arc<proto::bootstrap::Bootstrap>,
    /// When the document was loaded.
    pub loaded: SystemTime,
}

impl Snapshot {
    /// What its TLS contexts and its runtime were made of.
    #[must_use]
    pub fn files(&self) -> WatchedFiles {
        let chains = self.listeners.values().flat_map(|listener| listener.filter_chains.all());
        let downstream = chains.filter_map(|chain| chain.tls()).map(DownstreamTls::files);
        let upstream = self.clusters.values().flat_map(|entry| entry.transport_sockets.tls()).map(|tls| tls.files());
        let mut all = WatchedFiles::default();
        downstream.chain(upstream).for_each(|files| all.extend(files));
        self.runtime.roots().for_each(|root| all.watch(root));
        all
    }
}

/// One step from a snapshot to the next.
#[derive(Debug)]
pub enum Change<'a> {
    /// A whole document, which replaces the one before. Its problems are added to the report.
    Bootstrap(Box<proto::bootstrap::Bootstrap>, &'a Report),
    /// The hosts of a cluster, as DNS tells them.
    Hosts {
        /// Name of the cluster.
        cluster: Arc<str>,
        /// Its hosts from now on.
        hosts: Arc<HostSet>,
    },
    /// Files that TLS or the runtime is made of may hold something else now.
    Files,
    /// All clusters and routes of registered workers.
    Registrations {
        /// The clusters that they form, by name.
        clusters: HashMap<Arc<str>, ClusterEntry>,
        /// The routes that they hold.
        routes: Arc<RegisteredRoutes>,
    },
    /// Values for the runtime's admin layer; an empty text takes a key back.
    Runtime(Vec<(String, String)>),
}

/// A document was refused; the report that came with it says why. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is refused")]
pub struct Rejected;
