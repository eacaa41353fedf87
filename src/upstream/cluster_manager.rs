//! One worker's view of the clusters: name to balancer and connections.

use std::{collections::HashMap, fmt, ops::Deref, rc::Rc, sync::Arc};

use super::{Cluster, ClusterEntry, Host, UpstreamFailure, UpstreamTiming};
use crate::{
    http::{Request, Response},
    stream_info::UpstreamInfo,
};

/// All clusters, as one worker sees them.
#[derive(Debug, Default)]
pub struct ClusterManager {}

impl ClusterManager {
    /// No clusters yet. `seed` makes the balancers of workers start at different hosts.
    pub fn new(seed: u64) -> ClusterManager {
        let _ = seed;
        todo!()
    }

    /// Takes over the clusters of a new snapshot. What is the same `Arc` as before keeps its connections and position.
    pub fn update(&self, clusters: &HashMap<Arc<str>, ClusterEntry>) {
        let _ = clusters;
        todo!()
    }

    /// The cluster of this name.
    pub fn get(&self, name: &str) -> Option<Rc<ClusterState>> {
        let _ = name;
        todo!()
    }
}

/// One cluster, as one worker sees it.
#[derive(Debug)]
pub struct ClusterState {
    cluster: Arc<Cluster>,
}

impl ClusterState {
    /// The model.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The next host in turn; `None` when no host may take requests.
    pub fn choose_host(&self) -> Option<HostRef> {
        todo!()
    }

    /// Sends one attempt by a pooled or new connection of this worker, and resolves when response headers come.
    ///
    /// Dropping the future, or the response's body before its end, cancels the request.
    pub async fn send(
        &self,
        host: &HostRef,
        request: Request,
        timing: &mut UpstreamTiming,
    ) -> Result<Response, UpstreamFailure> {
        let _ = (host, request, timing);
        todo!()
    }
}

/// A host with this worker's connections to it. Cloning it touches no memory that other threads write.
#[derive(Clone)]
pub struct HostRef(Rc<HostState>);

struct HostState {
    host: Arc<Host>,
    info: Rc<UpstreamInfo>,
}

impl HostRef {
    /// What access logs say of it.
    pub fn info(&self) -> &Rc<UpstreamInfo> {
        &self.0.info
    }
}

impl Deref for HostRef {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.0.host
    }
}

/// The same host of the same worker.
impl PartialEq for HostRef {
    fn eq(&self, other: &HostRef) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for HostRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.host.fmt(f)
    }
}
