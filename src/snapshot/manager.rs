//! The manager of the one door: applies changes to the snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::access_log::{Mode, Sinks};
use crate::config::Field;
use crate::filter::{FactoryContext, Services};
use crate::listener::Listener;
use crate::proto;
use crate::proto::bootstrap::bootstrap::StaticResources;
use crate::route::RegisteredRoutes;
use crate::stats::Registry;
use crate::tls::Secrets;
use crate::upstream::ClusterEntry;
use crate::{http_filters, network_filters};

use super::{Bootstrap, Change, Rejected, Snapshot};

/// Owns what is configured. One for each process, on the main thread.
#[derive(Debug)]
pub struct ConfigManager {
    stats: Arc<Registry>,
    access_logs: Sinks,
    services: Services,
    /// What came from the document, without registrations.
    configured: HashMap<Arc<str>, ClusterEntry>,
    current: Arc<Snapshot>,
}

impl ConfigManager {
    /// Nothing is configured yet.
    #[must_use]
    pub fn new(stats: Arc<Registry>, access_logs: Mode, services: Services) -> ConfigManager {
        let access_logs = Sinks::new(access_logs, &stats.scope(""));
        let current = Snapshot {
            version: 0,
            bootstrap: Arc::default(),
            listeners: BTreeMap::new(),
            clusters: Arc::default(),
            registered: Arc::default(),
            proto: Arc::default(),
            loaded: SystemTime::now(),
        };
        ConfigManager { stats, access_logs, services, configured: HashMap::new(), current: Arc::new(current) }
    }

    /// The destinations of access logs.
    #[must_use]
    pub fn access_logs(&self) -> &Sinks {
        &self.access_logs
    }

    /// What is configured now.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// Goes one step on, or stays where it is.
    ///
    /// # Errors
    /// A document with errors, which stand in the report that came with it.
    pub fn apply(&mut self, change: Change<'_>) -> Result<Arc<Snapshot>, Rejected> {
        let mut next = Snapshot { version: self.current.version + 1, ..(*self.current).clone() };
        match change {
            Change::Bootstrap(proto, report) => self.load(*proto, Field::root(report), &mut next)?,
            Change::Hosts { cluster, hosts } => {
                // A cluster that has gone meanwhile needs no hosts.
                if let Some(entry) = self.configured.get_mut(&cluster) {
                    *entry = entry.with_hosts(hosts);
                    Arc::make_mut(&mut next.clusters).insert(cluster, entry.clone());
                }
            }
            Change::Registrations { clusters, routes } => {
                // A configured cluster keeps its name.
                let mut all = clusters;
                all.extend(self.configured.iter().map(|(name, entry)| (Arc::clone(name), entry.clone())));
                next.clusters = Arc::new(all);
                next.registered = routes;
            }
        }
        self.current = Arc::new(next);
        Ok(Arc::clone(&self.current))
    }

    fn load(
        &mut self,
        proto: proto::bootstrap::Bootstrap,
        field: Field<'_>,
        next: &mut Snapshot,
    ) -> Result<(), Rejected> {
        let bootstrap = Bootstrap::from_proto(&proto, field);
        let _ = (bootstrap, next, StaticResources::default());
        todo!()
    }
}
