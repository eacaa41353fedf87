//! The extension contract: all that the author of a filter must read.
//!
//! A factory makes a filter's configuration when a document is loaded, with a [`FactoryContext`]; the configuration makes one
//! filter for each connection or stream, on a worker, with that worker's [`WorkerContext`]. Nothing here is shared between
//! workers but configurations, which are immutable.

pub mod http;
pub mod network;
pub mod rbac;
pub mod service;
pub mod timer;
pub mod token_bucket;

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    access_log,
    http::date::DateCache,
    net::ConnectionLimits,
    route::{FilterSettingsFactory, RegisteredRoutes, Surroundings},
    runtime::Runtime,
    stats,
    tls::Secrets,
    upstream::ClusterManager,
};
use service::InternalService;

/// A future that never leaves its worker.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What code may ask for while a document becomes configuration.
#[derive(Clone, Copy)]
pub struct FactoryContext<'a> {
    /// Where statistics are made.
    pub stats: &'a Arc<stats::Registry>,
    /// Of the listener that is converted, `listener.<address>.`; `None` outside of listeners.
    pub listener_stats: Option<&'a stats::Scope>,
    /// The network filters there are.
    pub network_filters: &'a [network::NetworkFilterFactory],
    /// The HTTP filters there are.
    pub http_filters: &'a [http::HttpFilterFactory],
    /// The settings that routes can have of them.
    pub filter_settings: &'a [FilterSettingsFactory],
    /// Of the connection manager that is converted, `http.<stat_prefix>.`; `None` outside of connection managers.
    pub http_stats: Option<&'a stats::Scope>,
    /// The services that run on the main thread.
    pub services: &'a Services,
    /// `static_resources.secrets`.
    pub secrets: &'a Secrets,
    /// The names of the configured clusters: a static route to any other is a mistake.
    pub cluster_names: &'a HashSet<Arc<str>>,
    /// How many connections there may be, where the bootstrap says.
    pub connection_limits: &'a ConnectionLimits,
    /// Where access logs go.
    pub access_logs: &'a access_log::Sinks,
    /// `node.cluster`, or `--service-cluster`.
    pub service_cluster: &'a str,
    /// `node.id`, or `--service-node`.
    pub service_node: &'a str,
    /// How much of a connection's bytes may wait here for the other side: the listener's `per_connection_buffer_limit_bytes`.
    pub buffer_limit: usize,
}

/// Envoy's `per_connection_buffer_limit_bytes` where a listener sets none.
pub const DEFAULT_BUFFER_LIMIT: usize = 1 << 20;

impl FactoryContext<'_> {
    /// The statistics of an HTTP filter: those of its connection manager, with this name added.
    #[must_use]
    pub fn filter_stats(&self, name: &str) -> stats::Scope {
        self.http_stats.map_or_else(|| self.stats.scope(name), |scope| scope.scope(name))
    }

    /// What route configurations are made with.
    #[must_use]
    pub fn route_surroundings(&self) -> Surroundings<'_> {
        Surroundings { cluster_names: self.cluster_names, stats: self.stats, filter_settings: self.filter_settings }
    }
}

/// What runs on the main thread and is reached through filters.
#[derive(Clone, Debug, Default)]
pub struct Services {
    /// The registration API.
    pub registration: Option<InternalService>,
    /// Whether health checks are to fail, as `/healthcheck/fail` demands.
    pub fails_health_checks: Arc<AtomicBool>,
}

/// What running code may ask for: one for each worker.
pub struct WorkerContext {
    /// 1 for the first worker; the main thread is 0.
    pub index: usize,
    /// The only way to an upstream.
    pub clusters: ClusterManager,
    /// Randomness for balancing, sampling and identifiers; not for secrets.
    pub random: Random,
    /// The clock of `date` headers.
    pub date: DateCache,
    /// Lines of access logs on their way.
    pub access_logs: access_log::Buffers,
    /// Where bytes are read to that are written on at once; borrowed for no longer than that.
    pub relay_buffer: RefCell<Vec<u8>>,
    registered: RefCell<Rc<Arc<RegisteredRoutes>>>,
    runtime: RefCell<Rc<Arc<Runtime>>>,
    connections: Cell<u64>,
}

/// What one read may take of a connection whose bytes are only passed on.
const RELAY_BUFFER: usize = 64 * 1024;

impl WorkerContext {
    /// The context of worker `index`, which knows no registered routes yet.
    pub fn new(index: usize, clusters: ClusterManager, random: Random) -> WorkerContext {
        let registered = RefCell::new(Rc::new(Arc::new(RegisteredRoutes::default())));
        WorkerContext {
            index,
            clusters,
            random,
            date: DateCache::new(),
            access_logs: access_log::Buffers::default(),
            relay_buffer: RefCell::new(vec![0; RELAY_BUFFER]),
            registered,
            runtime: RefCell::default(),
            connections: Cell::new(0),
        }
    }

    /// A number for a connection of this worker that no other connection of the process has.
    pub fn next_connection_id(&self) -> u64 {
        const WORKER_SHIFT: u32 = 48;
        let count = self.connections.get() + 1;
        self.connections.set(count);
        (self.index as u64) << WORKER_SHIFT | count
    }

    /// The routes that registrations hold now.
    pub fn registered_routes(&self) -> Rc<Arc<RegisteredRoutes>> {
        Rc::clone(&self.registered.borrow())
    }

    /// The runtime values now.
    pub fn runtime(&self) -> Rc<Arc<Runtime>> {
        Rc::clone(&self.runtime.borrow())
    }

    /// Puts other runtime values in place.
    pub fn set_runtime(&self, runtime: &Arc<Runtime>) {
        if !Arc::ptr_eq(&self.runtime.borrow(), runtime) {
            *self.runtime.borrow_mut() = Rc::new(Arc::clone(runtime));
        }
    }

    /// Puts other registered routes in place; requests that have found their route keep it.
    pub fn set_registered_routes(&self, routes: &Arc<RegisteredRoutes>) {
        if !Arc::ptr_eq(&self.registered.borrow(), routes) {
            *self.registered.borrow_mut() = Rc::new(Arc::clone(routes));
        }
    }
}

/// A worker's pseudo-random numbers (wyrand): fast, good enough to spread load, not secret.
#[derive(Debug)]
pub struct Random(Cell<u64>);

impl Random {
    /// Starts at `seed`; workers must not share one.
    pub fn new(seed: u64) -> Random {
        Random(Cell::new(seed))
    }

    /// The next 64 bits.
    pub fn next_u64(&self) -> u64 {
        let state = self.0.get().wrapping_add(0xa076_1d64_78bd_642f);
        self.0.set(state);
        let (low, high) = state.carrying_mul(state ^ 0xe703_7ed1_a0b4_28db, 0);
        low ^ high
    }

    /// A number from 0 to below 1.
    pub fn next_fraction(&self) -> f64 {
        const MANTISSA_BITS: u32 = 53;
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
        let fraction = (self.next_u64() >> (u64::BITS - MANTISSA_BITS)) as f64 / (1_u64 << MANTISSA_BITS) as f64;
        fraction
    }

    /// The next 128 bits.
    pub fn next_u128(&self) -> u128 {
        u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())
    }
}
