//! What registrations mean for the data path: clusters and routes in the model types that YAML produces too.
//!
//! A service `query` with the workers `a` and `b` yields the cluster `query` over both and the clusters `query/a` and `query/b`
//! for their own routes; a route that both hold yields `query+/the/route`. Only what was touched is made anew, and a cluster
//! whose settings are the same keeps its model, its hosts, and so its connections and counters. Workers that drain or have
//! expired keep their hosts, which then take no new requests, until they are forgotten.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    lease::{Registration, State, Store, Touched},
    refusal::Refusal,
    transport,
    worker::Worker,
};
use crate::{
    config::{Field, Report},
    route::{RegisteredRoute, RegisteredRoutes, RouteKey},
    snapshot::{Change, Snapshot},
    stats,
    tls::Secrets,
    upstream::{ClusterEntry, Endpoint, Health, HostSet, TransportSockets},
};

/// What was published last, and how to come to the next.
#[derive(Debug)]
pub struct Publisher {
    stats: Arc<stats::Registry>,
    services: HashMap<Arc<str>, BTreeMap<Arc<str>, Published>>,
    routes: Arc<RegisteredRoutes>,
}

/// A cluster, and the worker after whose transport it was made.
#[derive(Clone, Debug)]
struct Published {
    entry: ClusterEntry,
    like: Arc<Worker>,
}

impl Publisher {
    /// Nothing published yet. Statistics of clusters are made in `stats`.
    pub fn new(stats: Arc<stats::Registry>) -> Publisher {
        Publisher { stats, services: HashMap::new(), routes: Arc::default() }
    }

    /// Tries the worker's transport, so that what is wrong with it is told to the worker.
    pub fn check(&self, worker: &Worker, snapshot: &Snapshot) -> Result<(), Refusal> {
        let report = Report::new();
        if let Some(name) = transport::borrowed_cluster(worker)
            && self.borrow(name, snapshot).is_none()
        {
            let reason = format!("{name:?} is not a cluster of the configuration with TLS");
            Field::root(&report).key("tls").key("as_cluster").error(reason);
        }
        let cluster = transport::cluster("check", worker);
        let of_cluster = Report::new();
        let _ = ClusterEntry::from_proto(
            &cluster,
            Field::root(&of_cluster),
            &Secrets::default(),
            &stats::Registry::new(0),
            None,
        );
        transport::tell_as_of_request(of_cluster, Field::root(&report));
        Refusal::invalid(report)
    }

    /// Whether registrations have brought this cluster.
    pub fn publishes(&self, name: &str) -> bool {
        let service = name.split(['/', '+']).next();
        service.and_then(|service| self.services.get(service)).is_some_and(|clusters| clusters.contains_key(name))
    }

    /// The transport sockets of a cluster of the configuration.
    fn borrow(&self, name: &str, snapshot: &Snapshot) -> Option<Arc<TransportSockets>> {
        let sockets = &snapshot.clusters.get(name).filter(|_| !self.publishes(name))?.transport_sockets;
        sockets.default_socket().tls().map(|_| Arc::clone(sockets))
    }

    /// Clusters and routes as they are in `store` now.
    pub fn update(&mut self, store: &Store, touched: &Touched, snapshot: &Snapshot) -> Change<'static> {
        for service in &touched.services {
            let before = self.services.remove(service).unwrap_or_default();
            let clusters = self.clusters_of(store, service, &before, snapshot);
            if !clusters.is_empty() {
                self.services.insert(Arc::clone(service), clusters);
            }
        }
        let routes = touched.routes.iter().map(|key| (key.clone(), route(store, key)));
        self.routes = Arc::new(self.routes.with(routes));
        let clusters = self.services.values().flatten();
        Change::Registrations {
            clusters: clusters.map(|(name, published)| (Arc::clone(name), published.entry.clone())).collect(),
            routes: Arc::clone(&self.routes),
        }
    }

    /// Requests that a worker is serving, over all clusters that it is in.
    pub fn requests_active(&self, registration: &Registration) -> u64 {
        let clusters = self.services.get(&registration.worker.service).into_iter().flatten();
        let hosts = clusters.flat_map(|(_, published)| published.entry.hosts.hosts());
        let own =
            hosts.filter(|host| registration.targets.iter().any(|target| target.address == host.endpoint.address));
        own.map(|host| host.stats.rq_active.value()).sum()
    }

    fn clusters_of(
        &self,
        store: &Store,
        service: &str,
        before: &BTreeMap<Arc<str>, Published>,
        snapshot: &Snapshot,
    ) -> BTreeMap<Arc<str>, Published> {
        let mut members: BTreeMap<Arc<str>, Vec<&Registration>> = BTreeMap::new();
        for registration in store.members(service) {
            members.entry(service.into()).or_default().push(registration);
            members.entry(own_cluster(&registration.worker)).or_default().push(registration);
            for key in registration.worker.route_keys().filter(|key| store.holders(key).nth(1).is_some()) {
                if store.holders(key).any(|holder| holder.worker.id == registration.worker.id) {
                    members.entry(shared_cluster(service, key)).or_default().push(registration);
                }
            }
        }
        members
            .into_iter()
            .filter_map(|(name, members)| {
                let published = self.cluster(&name, &members, before.get(&name), snapshot)?;
                Some((name, published))
            })
            .collect()
    }

    /// One cluster of these workers; None if none can be made, as when the cluster whose TLS they borrow has gone.
    fn cluster(
        &self,
        name: &str,
        members: &[&Registration],
        before: Option<&Published>,
        snapshot: &Snapshot,
    ) -> Option<Published> {
        let active = members.iter().find(|member| member.state == State::Active);
        let like = &active.or(members.first())?.worker;
        let entry = if let Some(before) = before.filter(|before| before.like.same_transport(like)) {
            before.entry.clone()
        } else {
            let proto = transport::cluster(name, like);
            let report = Report::new();
            let mut entry =
                ClusterEntry::from_proto(&proto, Field::root(&report), &Secrets::default(), &self.stats, None)?;
            if let Some(borrowed) = transport::borrowed_cluster(like) {
                entry.transport_sockets = self.borrow(borrowed, snapshot)?;
                entry.sockets_of = Some(borrowed.into());
            }
            entry
        };
        let members = members.iter().filter(|member| member.worker.same_transport(like));
        let hosts = HostSet::new(&entry.cluster, endpoints(members.copied()), &entry.hosts);
        Some(Published { entry: entry.with_hosts(hosts), like: Arc::clone(like) })
    }
}

/// The hosts of these workers. An address that two have is one host, and takes requests if one of them does.
fn endpoints<'a>(members: impl Iterator<Item = &'a Registration>) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut known = HashMap::new();
    for registration in members {
        let health = if registration.state == State::Active { Health::Healthy } else { Health::Draining };
        for target in &registration.targets {
            let endpoint = Endpoint {
                hostname: target.hostname.clone(),
                weight: registration.worker.weight,
                health,
                ..Endpoint::new(target.address.clone())
            };
            match known.entry(&target.address) {
                Entry::Vacant(vacant) => {
                    vacant.insert(endpoints.len());
                    endpoints.push(endpoint);
                }
                Entry::Occupied(at) if health == Health::Healthy => endpoints[*at.get()] = endpoint,
                Entry::Occupied(_) => {}
            }
        }
    }
    endpoints
}

/// Where requests of this route go; None if nobody holds it any more.
fn route(store: &Store, key: &RouteKey) -> Option<RegisteredRoute> {
    let mut holders = store.holders(key);
    let first = holders.next()?;
    let shared = holders.next().is_some();
    Some(RegisteredRoute {
        cluster: if shared { shared_cluster(&first.worker.service, key) } else { own_cluster(&first.worker) },
        prefix_rewrite: first.worker.prefix_rewrite(key).cloned(),
        available: store.holders(key).any(|holder| holder.state == State::Active),
    })
}

/// The names of all clusters that registering `worker` may make, with the field of the request to which each is due.
pub fn cluster_names(worker: &Worker) -> impl Iterator<Item = Arc<str>> {
    let shared = worker.route_keys().map(|key| shared_cluster(&worker.service, key));
    [Arc::clone(&worker.service), own_cluster(worker)].into_iter().chain(shared)
}

fn own_cluster(worker: &Worker) -> Arc<str> {
    format!("{}/{}", worker.service, worker.id).into()
}

fn shared_cluster(service: &str, key: &RouteKey) -> Arc<str> {
    match key {
        RouteKey::Prefix(prefix) => format!("{service}+{prefix}").into(),
        RouteKey::Header(name, value) => format!("{service}+{name}={value}").into(),
    }
}
