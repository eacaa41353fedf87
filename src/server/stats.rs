//! Statistics of the process as a whole, under Envoy's names.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    admin::{self, Process},
    proto::admin::server_info::State,
    snapshot::Snapshot,
    stats::{self, Registry},
    sys::memory::Memory,
};

stats::declare! {
    /// Of the process, under `server.`
    pub struct ServerStats {
        /// Worker threads.
        concurrency: Gauge,
        /// 1 while health checks may succeed.
        live: Gauge,
        /// 0 live, 1 draining, 2 before initialization, 3 initializing.
        state: Gauge,
        /// Seconds since the start.
        uptime: Gauge,
        /// How many processes this one has taken over from, one after the other.
        hot_restart_epoch: Gauge,
        /// The same.
        hot_restart_generation: Gauge,
        /// From the start to when the process serves, in milliseconds.
        initialization_time_ms: Histogram,
        /// Bytes of heap and stacks.
        memory_allocated: Gauge,
        /// Bytes of heap and stacks.
        memory_heap_size: Gauge,
        /// Bytes in physical memory.
        memory_physical_size: Gauge,
        /// Days until the first certificate in use ends; 4294967295 if there is none.
        days_until_first_cert_expiring: Gauge,
    }
}

stats::declare! {
    /// Of the listeners as a whole, under `listener_manager.`
    pub struct ListenerManagerStats {
        /// Listeners of the configuration.
        listener_added: Counter,
        /// Listeners that workers have begun to serve, each worker for itself.
        listener_create_success: Counter,
        /// Listeners that accept connections.
        total_listeners_active: Gauge,
        /// Listeners whose connections are told to end.
        total_listeners_draining: Gauge,
        /// 1 once the workers run.
        workers_started: Gauge,
    }
}

stats::declare! {
    /// Of the clusters as a whole, under `cluster_manager.`
    pub struct ClusterManagerStats {
        /// Clusters, the registered ones included.
        active_clusters: Gauge,
        /// Clusters that came, at the start or by registration.
        cluster_added: Counter,
        /// Clusters that went.
        cluster_removed: Counter,
    }
}

/// All of them.
#[derive(Debug)]
pub struct ProcessStats {
    server: ServerStats,
    listeners: ListenerManagerStats,
    clusters: ClusterManagerStats,
    /// The snapshot that was told of last.
    told: RefCell<Option<Arc<Snapshot>>>,
}

impl ProcessStats {
    /// Registers them.
    pub fn new(registry: &Arc<Registry>) -> ProcessStats {
        ProcessStats {
            server: ServerStats::new(&registry.scope("server")),
            listeners: ListenerManagerStats::new(&registry.scope("listener_manager")),
            clusters: ClusterManagerStats::new(&registry.scope("cluster_manager")),
            told: RefCell::default(),
        }
    }

    /// The process has begun to serve.
    pub fn live(&self, listeners: usize, process: &dyn Process) {
        self.server.initialization_time_ms.record_time(process.uptime());
        self.listeners.listener_added.add(listeners as u64);
        self.listeners.listener_create_success.add(listeners as u64 * u64::from(process.command_line().concurrency));
        self.update(process);
    }

    /// Brings them up to date with `process`.
    pub fn update(&self, process: &dyn Process) {
        let (snapshot, state) = (process.snapshot(), process.state());
        self.server.update(process, &snapshot, state);
        let started = matches!(state, State::Live | State::Draining);
        self.listeners.workers_started.set(u64::from(started));
        let listeners = snapshot.listeners.len() as u64;
        self.listeners.total_listeners_active.set(if started { listeners } else { 0 });
        self.listeners.total_listeners_draining.set(if state == State::Draining { listeners } else { 0 });
        self.update_snapshot(snapshot);
    }

    /// What only another snapshot changes.
    fn update_snapshot(&self, snapshot: Arc<Snapshot>) {
        let mut told = self.told.borrow_mut();
        if told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &snapshot)) {
            return;
        }
        let new = |name: &&Arc<str>| told.as_ref().is_none_or(|told| !told.clusters.contains_key(*name));
        let added = snapshot.clusters.keys().filter(new).count();
        let gone = |name: &&Arc<str>| !snapshot.clusters.contains_key(*name);
        let removed = told.as_ref().map_or(0, |told| told.clusters.keys().filter(gone).count());
        self.clusters.active_clusters.set(snapshot.clusters.len() as u64);
        self.clusters.cluster_added.add(added as u64);
        self.clusters.cluster_removed.add(removed as u64);
        *told = Some(snapshot);
    }
}

impl ServerStats {
    fn update(&self, process: &dyn Process, snapshot: &Snapshot, state: State) {
        self.concurrency.set(process.command_line().concurrency.into());
        self.live.set(u64::from(state == State::Live));
        self.state.set(u64::try_from(i32::from(state)).unwrap_or_default());
        self.uptime.set(process.uptime().as_secs());
        self.hot_restart_epoch.set(process.command_line().restart_epoch.into());
        self.hot_restart_generation.set(process.command_line().restart_epoch.into());
        let memory = Memory::now();
        self.memory_allocated.set(memory.anonymous);
        self.memory_heap_size.set(memory.anonymous);
        self.memory_physical_size.set(memory.resident);
        let first = admin::first_certificate_end(snapshot);
        let left = first.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        self.days_until_first_cert_expiring.set(left.map_or(u32::MAX.into(), |left| left.as_secs() / DAY.as_secs()));
    }
}

const DAY: Duration = Duration::from_hours(24);
