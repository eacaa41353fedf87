//! The hosts of a cluster: `envoy.config.endpoint.v3.ClusterLoadAssignment`, once names are resolved.

use std::{collections::HashMap, sync::Arc};

use super::{Cluster, Endpoint, Health, Host};

/// The hosts of a cluster at one time.
#[derive(Debug, Default)]
pub struct HostSet {
    hosts: Vec<Arc<Host>>,
}

impl HostSet {
    /// The hosts that `endpoints` describe. Those of `previous` whose endpoint is unchanged are kept.
    pub fn new(cluster: &Cluster, endpoints: Vec<Endpoint>, previous: &HostSet) -> Arc<HostSet> {
        let known: HashMap<_, _> = previous.hosts.iter().map(|host| (&host.endpoint.address, host)).collect();
        let hosts = endpoints
            .into_iter()
            .map(|endpoint| match known.get(&endpoint.address) {
                Some(host) if host.endpoint == endpoint => Arc::clone(host),
                _ => Arc::new(cluster.host(endpoint)),
            })
            .collect();
        Arc::new(HostSet { hosts })
    }

    /// All hosts, in the order of their source.
    #[must_use]
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// How many hosts there are of this health.
    #[must_use]
    pub fn count(&self, health: Health) -> u64 {
        self.hosts.iter().filter(|host| host.endpoint.health == health).count() as u64
    }
}
