//! Statistics: counters, gauges and histograms under Envoy's names.
//!
//! A stat is registered once, when configuration is loaded, and used through a handle for as long as anybody holds
//! one; the same name gives the same stat. Behind a handle lies one cell per worker, on cache lines that no other
//! worker touches, so counting is one relaxed load and one relaxed store: no lock, no read-modify-write, no line that
//! travels between cores. Reading adds the cells up ([`Registry::read`]). The rule that makes this sound: a thread
//! that counts is the main thread (index 0) or has said which worker it is ([`enter_worker`]).

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

mod carry;
mod declare;
mod histogram;
mod prometheus;
mod registry;
mod response_codes;
mod tags;

pub use carry::{Counted, Tally, WAITING};
pub use declare::declare;
pub use histogram::{Distribution, Histogram, QUANTILES};
pub use prometheus::{BUCKETS, Exposition, HistogramStyle, write as write_prometheus};
pub use registry::{HistogramReading, Reading, Readings, Registry, Scope};
pub use response_codes::ResponseCodes;
pub use tags::Tagging;

use registry::Scalar;

thread_local! {
    /// The only thread-local of the crate: which cell of every stat belongs to this thread.
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Says that this thread is worker `index` (1, 2, ... up to the number the [`Registry`] was made for) from now on.
/// The main thread is 0 and need not say so. Two threads that count at the same time must not share an index.
pub fn enter_worker(index: usize) {
    WORKER.set(index);
}

fn worker() -> usize {
    WORKER.get()
}

/// How many stats share a block.
const BLOCK_SLOTS: usize = 64;

/// The cells that one worker has in one block. Aligned to two cache lines, because processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Shard([AtomicU64; BLOCK_SLOTS]);

/// One slot of a block: a cell per worker.
#[derive(Clone, Debug)]
struct Slot {
    shards: Arc<[Shard]>,
    index: usize,
}

impl Slot {
    /// The slots of a new block, all zero.
    fn block(workers: usize) -> impl DoubleEndedIterator<Item = Self> {
        let shards: Arc<[Shard]> = (0..=workers).map(|_| Shard([const { AtomicU64::new(0) }; BLOCK_SLOTS])).collect();
        (0..BLOCK_SLOTS).map(move |index| Self { shards: Arc::clone(&shards), index })
    }

    /// The cell of this thread, which nobody else writes.
    fn own(&self) -> &AtomicU64 {
        &self.shards[worker()].0[self.index]
    }

    fn cells(&self) -> impl Iterator<Item = &AtomicU64> {
        self.shards.iter().map(|shard| &shard.0[self.index])
    }
}

/// A number that only grows.
#[derive(Clone, Debug)]
pub struct Counter {
    slot: Slot,
    scalar: Arc<Scalar>,
}

impl Counter {
    fn new(scalar: Arc<Scalar>) -> Self {
        Self { slot: scalar.slot.clone(), scalar }
    }

    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `amount`.
    pub fn add(&self, amount: u64) {
        let cell = self.slot.own();
        cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// What all workers have counted since the last reset.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.scalar.counted()
    }
}

/// A number that goes up and down.
///
/// A cell holds twice its worker's share, and one more when it was ever written: Envoy tells "is 0" from "was never
/// set", and so does `usedonly`.
#[derive(Clone, Debug)]
pub struct Gauge {
    slot: Slot,
    scalar: Arc<Scalar>,
}

impl Gauge {
    fn new(scalar: Arc<Scalar>) -> Self {
        Self { slot: scalar.slot.clone(), scalar }
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// One less. It need not be the worker that said `inc`.
    pub fn dec(&self) {
        self.sub(1);
    }

    /// One more for as long as the answer lives, also when the future around it is dropped.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.inc();
        Held(self.clone())
    }

    /// `amount` more.
    pub fn add(&self, amount: u64) {
        let cell = self.slot.own();
        cell.store(cell.load(Relaxed).wrapping_add(amount << 1) | 1, Relaxed);
    }

    /// `amount` less.
    pub fn sub(&self, amount: u64) {
        let cell = self.slot.own();
        cell.store(cell.load(Relaxed).wrapping_sub(amount << 1) | 1, Relaxed);
    }

    /// Makes this thread's share `value`. For gauges that one thread alone writes, such as those of the main thread.
    pub fn set(&self, value: u64) {
        self.slot.own().store(value << 1 | 1, Relaxed);
    }

    /// The sum over all workers.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.scalar.gauged()
    }
}

/// A gauge that stays up by one while this lives. See [`Gauge::hold`].
#[derive(Debug)]
pub struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
