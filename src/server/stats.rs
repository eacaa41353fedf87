//! Statistics of the process as a whole, under Envoy's names.

use std::time::{Duration, SystemTime};

use crate::{
    admin::{self, Process},
    proto::admin::server_info::State,
    stats,
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

impl ServerStats {
    /// Brings the stats up to date with `process`.
    pub fn update(&self, process: &dyn Process) {
        let state = process.state();
        self.concurrency.set(process.command_line().concurrency.into());
        self.live.set(u64::from(state == State::Live));
        self.state.set(u64::try_from(i32::from(state)).unwrap_or_default());
        self.uptime.set(process.uptime().as_secs());
        let memory = Memory::now();
        self.memory_allocated.set(memory.anonymous);
        self.memory_heap_size.set(memory.anonymous);
        self.memory_physical_size.set(memory.resident);
        let first = admin::first_certificate_end(&process.snapshot());
        let left = first.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        self.days_until_first_cert_expiring.set(left.map_or(u32::MAX.into(), |left| left.as_secs() / DAY.as_secs()));
    }
}

const DAY: Duration = Duration::from_hours(24);
