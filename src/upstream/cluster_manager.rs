//! One worker's view of the clusters: name to balancer and connections.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    ops::Deref,
    rc::Rc,
    sync::Arc,
};

use super::{
    Cluster, ClusterEntry, Host, HostSet, TcpConnection, UpstreamAttempt, UpstreamFailure,
    conn_pool::Pools,
    load_balancer::{LoadBalancer, LoadBalancerContext},
    transport_socket::{TransportSocket, TransportSockets},
};
use crate::{
    http::{Request, Response},
    net::Switchboard,
    proto::core::RoutingPriority,
    stream_info::{ConnectionInfo, UpstreamInfo},
};

/// All clusters, as one worker sees them.
#[derive(Debug)]
pub struct ClusterManager {
    clusters: RefCell<HashMap<Arc<str>, Rc<ClusterState>>>,
    /// The worker's own listeners, which may be hosts.
    switchboard: Rc<Switchboard>,
    seed: Cell<u64>,
}

impl ClusterManager {
    /// No clusters yet. `seed` should differ between workers, so that they do not all begin at the same host.
    #[must_use]
    pub fn new(seed: u64) -> ClusterManager {
        ClusterManager { clusters: RefCell::default(), switchboard: Rc::default(), seed: Cell::new(seed) }
    }

    /// Takes over the clusters of a snapshot. One that is the same `Arc` as before keeps its connections, and its hosts'
    /// turn unless they changed. Requests that run on what is gone finish.
    pub fn update(&self, clusters: &HashMap<Arc<str>, ClusterEntry>) {
        let mut known = self.clusters.borrow_mut();
        let mut next = HashMap::with_capacity(clusters.len());
        for (name, entry) in clusters {
            let state = match known.remove(name) {
                Some(state) if Arc::ptr_eq(&state.cluster, &entry.cluster) => state,
                _ => Rc::new(ClusterState::new(entry, &self.switchboard)),
            };
            *state.transport_sockets.borrow_mut() = Arc::clone(&entry.transport_sockets);
            state.update(&entry.hosts, self.next_seed());
            next.insert(Arc::clone(name), state);
        }
        *known = next;
    }

    /// The cluster of this name.
    pub fn get(&self, name: &str) -> Option<Rc<ClusterState>> {
        self.clusters.borrow().get(name).cloned()
    }

    /// The listeners of the worker that can be connected to without a socket.
    pub fn switchboard(&self) -> &Switchboard {
        &self.switchboard
    }

    fn next_seed(&self) -> u64 {
        let next = self.seed.get().wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.seed.set(next);
        next >> 16
    }
}

/// One cluster, as one worker sees it.
#[derive(Debug)]
pub struct ClusterState {
    cluster: Arc<Cluster>,
    /// Those of new connections.
    transport_sockets: Rc<RefCell<Arc<TransportSockets>>>,
    switchboard: Rc<Switchboard>,
    members: RefCell<Members>,
}

#[derive(Debug)]
struct Members {
    set: Arc<HostSet>,
    hosts: Vec<HostRef>,
    balancer: LoadBalancer,
}

impl ClusterState {
    fn new(entry: &ClusterEntry, switchboard: &Rc<Switchboard>) -> ClusterState {
        let members = Members { set: Arc::default(), hosts: Vec::new(), balancer: LoadBalancer::default() };
        ClusterState {
            cluster: Arc::clone(&entry.cluster),
            transport_sockets: Rc::new(RefCell::new(Arc::clone(&entry.transport_sockets))),
            switchboard: Rc::clone(switchboard),
            members: RefCell::new(members),
        }
    }

    fn update(&self, set: &Arc<HostSet>, seed: u64) {
        let mut members = self.members.borrow_mut();
        if Arc::ptr_eq(&members.set, set) {
            return;
        }
        let known: HashMap<_, _> = members.hosts.iter().map(|host| (host.endpoint.target(), host)).collect();
        let hosts: Vec<HostRef> = set
            .hosts()
            .iter()
            .map(|host| match known.get(&host.endpoint.target()) {
                Some(same) if Arc::ptr_eq(&same.0.host, host) => HostRef::clone(same),
                Some(former) => HostRef::new(self, host, &former.0.pools),
                None => HostRef::new(self, host, &Rc::default()),
            })
            .collect();
        members.balancer.update(&self.cluster, &hosts, seed);
        members.hosts = hosts;
        members.set = Arc::clone(set);
    }

    /// The model.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The host whose turn it is among those that suit the request; `None` when no host may take it.
    pub fn choose_host(&self, context: &LoadBalancerContext<'_>) -> Option<HostRef> {
        let host = self.members.borrow_mut().balancer.choose(&self.cluster, context);
        if host.is_none() {
            self.cluster.stats.upstream_cx_none_healthy.inc();
        }
        host
    }

    /// Sends one attempt by a pooled or new connection of this worker, and resolves when the response's headers come.
    ///
    /// Dropping the future, or the response's body before its end, cancels the request. A request that stands for an
    /// upgrade ([`Upgrade`](crate::http::upgrade::Upgrade) in its extensions) has a connection of its own.
    ///
    /// # Errors
    /// Why there is no response, and whether `request` is whole again because the host cannot have begun to process it.
    pub async fn send(
        &self,
        host: &HostRef,
        request: &mut Request,
        attempt: &UpstreamAttempt,
    ) -> Result<Response, UpstreamFailure> {
        host.0.pools.send(host, request, attempt).await
    }

    /// Whether it has as many connections as there may be, on all workers.
    pub fn is_full(&self) -> bool {
        !self.cluster.circuit_breakers.of(RoutingPriority::Default).connections.has_room()
    }

    /// Makes a connection for a client's stream of bytes. Dropping the future gives it up.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self, host: &HostRef, client: &ConnectionInfo) -> Result<TcpConnection, UpstreamFailure> {
        TcpConnection::connect(host, Some(client)).await
    }
}

/// A host with this worker's connections to it. Cloning it touches no memory that other threads write.
#[derive(Clone)]
pub struct HostRef(Rc<HostState>);

struct HostState {
    host: Arc<Host>,
    cluster: Arc<Cluster>,
    transport_sockets: Rc<RefCell<Arc<TransportSockets>>>,
    switchboard: Rc<Switchboard>,
    info: Rc<UpstreamInfo>,
    /// Shared by the successive hosts of one target.
    pools: Rc<Pools>,
}

impl HostRef {
    fn new(
        ClusterState { cluster, transport_sockets, switchboard, .. }: &ClusterState,
        host: &Arc<Host>,
        pools: &Rc<Pools>,
    ) -> HostRef {
        let endpoint = &host.endpoint;
        let host_name =
            if endpoint.hostname.is_empty() { endpoint.address.to_string() } else { endpoint.hostname.clone() };
        let info = UpstreamInfo {
            cluster: Arc::clone(&cluster.name),
            address: endpoint.address.clone(),
            host_name,
            cluster_stat_name: Arc::clone(&cluster.observability_name),
            cluster_metadata: cluster.metadata.clone(),
            host_metadata: endpoint.metadata.clone(),
        };
        HostRef(Rc::new(HostState {
            host: Arc::clone(host),
            cluster: Arc::clone(cluster),
            transport_sockets: Rc::clone(transport_sockets),
            switchboard: Rc::clone(switchboard),
            info: Rc::new(info),
            pools: Rc::clone(pools),
        }))
    }

    /// The cluster it is of.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.0.cluster
    }

    /// How new connections to it are secured.
    #[must_use]
    pub fn transport_socket(&self) -> TransportSocket {
        self.0.transport_sockets.borrow().get(self.transport_socket).clone()
    }

    /// The worker's own listeners, of which it may be one.
    pub(super) fn switchboard(&self) -> &Switchboard {
        &self.0.switchboard
    }

    /// Whether connections to it are secured by TLS.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.0.transport_sockets.borrow().get(self.transport_socket).tls().is_some()
    }

    /// Whether connections to it tell of the client that they are for.
    pub(super) fn learns_clients(&self) -> bool {
        self.0.transport_sockets.borrow().get(self.transport_socket).names_clients()
    }

    /// What access logs say of it.
    #[must_use]
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
