//! The registry: which stats exist, by name, and where their cells lie.
//!
//! It is asked when configuration is loaded and when somebody reads the stats, never on a request's path. It holds
//! stats weakly: a stat whose last handle is gone is forgotten, and its slot serves the next one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    Counter, Gauge, Histogram, Slot,
    carry::{Company, Waiting},
    histogram::{Distribution, Recorder},
};

/// All stats of the process.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    tables: Mutex<Tables>,
    unlisted: OnceLock<Arc<Self>>,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    free: Vec<Slot>,
    counters: Table<Scalar>,
    /// Of counters that another process had.
    carried: Waiting,
    gauges: Table<Scalar>,
    histograms: Table<Recorder>,
}

impl Tables {
    fn take_slot(&mut self, workers: usize) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            self.free.extend(Slot::block(workers).rev());
            self.free.pop().expect("invariant: a block has slots")
        })
    }

    /// The counter `name`; if there is none, `value` waits for it.
    pub(super) fn find_counter_or_wait(&mut self, name: &Arc<str>, value: u64) -> Option<Counter> {
        let found = self.counters.find(name);
        if found.is_none() {
            self.carried.add(name, value);
        }
        found.map(Counter::new)
    }
}

/// The stats of one kind, in the order of their names.
#[derive(Debug)]
struct Table<T>(BTreeMap<Arc<str>, Weak<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Table<T> {
    fn find(&self, name: &str) -> Option<Arc<T>> {
        self.0.get(name).and_then(Weak::upgrade)
    }

    fn insert(&mut self, name: Arc<str>, stat: T) -> Arc<T> {
        let stat = Arc::new(stat);
        self.0.insert(name, Arc::downgrade(&stat));
        stat
    }

    /// Forgets a stat that nobody holds; one that took its name meanwhile stays.
    fn forget(&mut self, name: &str) {
        if self.0.get(name).is_some_and(|stat| stat.strong_count() == 0) {
            self.0.remove(name);
        }
    }

    fn all(&self) -> Vec<Arc<T>> {
        self.0.values().filter_map(Weak::upgrade).collect()
    }
}

impl Registry {
    /// A registry for the main thread and `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers, tables: Mutex::default(), unlisted: OnceLock::new() })
    }

    /// The registry of what [`read`](Self::read) does not list, such as the stats of single hosts.
    #[must_use]
    pub fn unlisted(&self) -> &Arc<Self> {
        self.unlisted.get_or_init(|| Self::new(self.workers))
    }

    /// The stats whose names begin with `prefix` and a dot; with the empty prefix, all of them.
    #[must_use]
    pub fn scope(self: &Arc<Self>, prefix: &str) -> Scope {
        Scope { registry: Arc::clone(self), prefix: "".into() }.scope(prefix)
    }

    /// All stats as they are now.
    #[must_use]
    pub fn read(&self) -> Readings {
        // The handles taken here may turn out to be the last ones, and their end needs the lock: so it is released first.
        let tables = self.lock();
        let (gauges, histograms) = (tables.gauges.all(), tables.histograms.all());
        drop(tables);
        Readings {
            counters: self.read_counters(Company::Same),
            gauges: gauges.iter().map(|gauge| gauge.read(gauge.gauged())).collect(),
            histograms: histograms.iter().map(|histogram| histogram.read()).collect(),
        }
    }

    /// The counters, in the order of their names, and those that wait for one in this company.
    pub(super) fn read_counters(&self, company: Company) -> Vec<Reading> {
        let tables = self.lock();
        let counters = tables.counters.all();
        let waiting: Vec<Reading> = tables.carried.read(&tables.counters.0, company).collect();
        drop(tables);
        let mut readings: Vec<_> = counters.iter().map(|counter| counter.read(counter.counted())).collect();
        if !waiting.is_empty() {
            readings.extend(waiting);
            readings.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        }
        readings
    }

    /// Makes all counters zero.
    pub fn reset_counters(&self) {
        let mut tables = self.lock();
        tables.carried.clear();
        let counters = tables.counters.all();
        drop(tables);
        for counter in counters {
            counter.reset();
        }
    }

    /// Ends the current interval of all histograms: what they recorded since the last call is what they show as their
    /// interval until the next. The main thread calls it every `stats_flush_interval`.
    pub fn flush(&self) {
        let histograms = self.lock().histograms.all();
        for histogram in histograms {
            histogram.flush();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counter(self: &Arc<Self>, name: &str) -> Counter {
        let mut tables = self.lock();
        if let Some(found) = tables.counters.find(name) {
            return Counter::new(found);
        }
        let scalar = Scalar::new(Kind::Counter, name, tables.take_slot(self.workers), self);
        let counter = Counter::new(tables.counters.insert(Arc::clone(&scalar.name), scalar));
        tables.carried.join(name, &counter);
        counter
    }

    fn gauge(self: &Arc<Self>, name: &str) -> Gauge {
        let mut tables = self.lock();
        let found = tables.gauges.find(name);
        Gauge::new(found.unwrap_or_else(|| {
            let scalar = Scalar::new(Kind::Gauge, name, tables.take_slot(self.workers), self);
            tables.gauges.insert(Arc::clone(&scalar.name), scalar)
        }))
    }

    fn histogram(self: &Arc<Self>, name: &str) -> Histogram {
        let mut tables = self.lock();
        let found = tables.histograms.find(name);
        Histogram::new(found.unwrap_or_else(|| {
            let recorder = Recorder::new(name, self.workers, Arc::downgrade(self));
            tables.histograms.insert(recorder.name(), recorder)
        }))
    }

    /// Called by a histogram that nobody holds any more.
    pub(super) fn forget_histogram(&self, name: &str) {
        self.lock().histograms.forget(name);
    }

    fn forget_scalar(&self, scalar: &Scalar) {
        let mut tables = self.lock();
        match scalar.kind {
            Kind::Counter => tables.counters.forget(&scalar.name),
            Kind::Gauge => tables.gauges.forget(&scalar.name),
        }
        scalar.slot.cells().for_each(|cell| cell.store(0, Relaxed));
        tables.free.push(scalar.slot.clone());
    }
}

/// A place in the tree of names, and the way to register a stat there.
#[derive(Clone, Debug)]
pub struct Scope {
    registry: Arc<Registry>,
    /// Empty, or ends with a dot.
    prefix: Arc<str>,
}

impl Scope {
    /// The counter `name` of this scope.
    #[must_use]
    pub fn counter(&self, name: &str) -> Counter {
        self.registry.counter(&self.full_name(name))
    }

    /// The gauge `name` of this scope.
    #[must_use]
    pub fn gauge(&self, name: &str) -> Gauge {
        self.registry.gauge(&self.full_name(name))
    }

    /// The histogram `name` of this scope.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Histogram {
        self.registry.histogram(&self.full_name(name))
    }

    /// The scope `name` in this one. A name that holds what would be ambiguous in a stat name, such as the colon of an
    /// address, is written as Envoy writes it: `127.0.0.1:80` becomes `127.0.0.1_80`.
    #[must_use]
    pub fn scope(&self, name: &str) -> Self {
        let name = name.replace("://", "_").replace(":/", "_").replace([':', '\0'], "_");
        let name = name.trim_matches('.');
        let dot = if name.is_empty() { "" } else { "." };
        Self { registry: Arc::clone(&self.registry), prefix: format!("{}{name}{dot}", self.prefix).into() }
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
}

/// A counter or gauge: what its handles share. Its end frees the slot.
#[derive(Debug)]
pub(super) struct Scalar {
    kind: Kind,
    name: Arc<str>,
    pub(super) slot: Slot,
    /// Workers alone write the cells, so a reset notes what was counted before it.
    baseline: AtomicU64,
    registry: Weak<Registry>,
}

impl Scalar {
    fn new(kind: Kind, name: &str, slot: Slot, registry: &Arc<Registry>) -> Self {
        Self { kind, name: name.into(), slot, baseline: AtomicU64::new(0), registry: Arc::downgrade(registry) }
    }

    fn sum(&self) -> u64 {
        self.slot.cells().fold(0, |sum, cell| sum.wrapping_add(cell.load(Relaxed)))
    }

    pub(super) fn counted(&self) -> u64 {
        self.sum().wrapping_sub(self.baseline.load(Relaxed))
    }

    /// Never below zero: the reader may see the end of something on one worker, but not yet its begin on another.
    pub(super) fn gauged(&self) -> u64 {
        let sum: i64 = self.slot.cells().map(|cell| cell.load(Relaxed).cast_signed() >> 1).sum();
        sum.max(0).cast_unsigned()
    }

    fn read(&self, value: u64) -> Reading {
        let used = self.slot.cells().any(|cell| cell.load(Relaxed) != 0);
        Reading { name: Arc::clone(&self.name), value, used }
    }

    fn reset(&self) {
        self.baseline.store(self.sum(), Relaxed);
    }
}

impl Drop for Scalar {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.forget_scalar(self);
        }
    }
}

/// All stats at one moment, each kind in the order of the names.
#[derive(Debug, Default)]
pub struct Readings {
    /// The counters.
    pub counters: Vec<Reading>,
    /// The gauges.
    pub gauges: Vec<Reading>,
    /// The histograms.
    pub histograms: Vec<HistogramReading>,
}

/// A counter or gauge at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The full name, such as `http.ingress.downstream_rq_total`.
    pub name: Arc<str>,
    /// The sum over all workers.
    pub value: u64,
    /// Whether it was ever written.
    pub used: bool,
}

/// A histogram at one moment.
#[derive(Clone, Debug)]
pub struct HistogramReading {
    /// The full name.
    pub name: Arc<str>,
    /// What was recorded in the last full interval.
    pub interval: Distribution,
    /// What was recorded up to the end of the last full interval.
    pub cumulative: Distribution,
    /// Whether anything was ever recorded.
    pub used: bool,
}
