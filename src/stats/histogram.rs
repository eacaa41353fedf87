//! Histograms: how often which value was recorded, to two decimal digits.
//!
//! Buckets are log-linear as in Envoy: ten to ninety-nine times a power of ten. A worker has buckets of its own, ninety
//! per decade, made when the first value of that decade arrives, so recording is a few relaxed loads and stores.

#![expect(clippy::cast_precision_loss, reason = "quantiles are estimates")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Registry, registry::HistogramReading, worker};

/// The quantiles that Envoy computes of every histogram.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

/// How values are distributed: latencies in milliseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Recorder>);

impl Histogram {
    pub(super) fn new(recorder: Arc<Recorder>) -> Self {
        Self(recorder)
    }

    /// Records a time in whole milliseconds, the unit of all histograms of times.
    pub fn record_time(&self, time: Duration) {
        self.record(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    /// Records one value.
    pub fn record(&self, value: u64) {
        let shard = self.0.shards[worker()].get_or_init(Box::default);
        let bucket = Bucket::of(value);
        let decade = shard.decades[bucket.decade()].get_or_init(|| Box::new([const { AtomicU64::new(0) }; 90]));
        add(&decade[bucket.step()], 1);
        add(&shard.sum, value);
    }
}

/// Only the owning worker writes a cell.
fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// What the handles of one histogram share.
#[derive(Debug)]
pub(super) struct Recorder {
    name: Arc<str>,
    shards: Box<[OnceLock<Box<Shard>>]>,
    flushed: Mutex<Flushed>,
    registry: Weak<Registry>,
}

/// The buckets of one worker.
#[derive(Debug, Default)]
struct Shard {
    sum: AtomicU64,
    decades: [OnceLock<Box<[AtomicU64; 90]>>; DECADES],
}

/// The state at the last two ends of an interval.
#[derive(Debug, Default)]
struct Flushed {
    cumulative: Distribution,
    interval: Distribution,
}

impl Recorder {
    pub(super) fn new(name: &str, workers: usize, registry: Weak<Registry>) -> Self {
        let shards = (0..=workers).map(|_| OnceLock::new()).collect();
        Self { name: name.into(), shards, flushed: Mutex::default(), registry }
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    pub(super) fn read(&self) -> HistogramReading {
        let cumulative = self.merge();
        let interval = self.flushed().interval.clone();
        HistogramReading { name: self.name(), interval, used: cumulative.count() > 0, cumulative }
    }

    pub(super) fn flush(&self) {
        let cumulative = self.merge();
        let mut flushed = self.flushed();
        flushed.interval = cumulative.since(&flushed.cumulative);
        flushed.cumulative = cumulative;
    }

    fn flushed(&self) -> MutexGuard<'_, Flushed> {
        self.flushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn merge(&self) -> Distribution {
        let mut merged = Distribution::default();
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            merged.sum = merged.sum.wrapping_add(shard.sum.load(Relaxed));
            for (decade, cells) in (0..).zip(&shard.decades) {
                for (step, cell) in (0..).zip(cells.get().into_iter().flat_map(|cells| cells.iter())) {
                    let count = cell.load(Relaxed);
                    if count > 0 {
                        *merged.buckets.entry(Bucket::new(decade, step)).or_default() += count;
                    }
                }
            }
        }
        merged
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.forget_histogram(&self.name);
        }
    }
}

/// The decades of a `u64`, and one before them for zero.
const DECADES: usize = 21;

/// The values that are the same to two decimal digits. Decade 0 holds zero alone, decade 1 the values 1 to 9, decade 2
/// the values 10 to 99, decade 3 the values 100 to 999 in steps of ten, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bucket(u16);

impl Bucket {
    fn new(decade: u64, step: u64) -> Self {
        Self(u16::try_from(decade * 90 + step).expect("invariant: there are 21 decades of 90 steps"))
    }

    fn of(value: u64) -> Self {
        match value {
            0 => Self(0),
            1..10 => Self::new(1, value * 10 - 10),
            _ => {
                let magnitude = value.ilog10();
                Self::new(u64::from(magnitude) + 1, value / 10_u64.pow(magnitude - 1) - 10)
            }
        }
    }

    fn decade(self) -> usize {
        usize::from(self.0 / 90)
    }

    fn step(self) -> usize {
        usize::from(self.0 % 90)
    }

    fn width(self) -> f64 {
        match self.0 / 90 {
            0 => 0.0,
            1 => 0.1,
            decade => 10_f64.powi(i32::from(decade) - 2),
        }
    }

    fn lower(self) -> f64 {
        let digits = f64::from(self.0 % 90 + 10);
        match self.0 / 90 {
            0 => 0.0,
            1 => digits / 10.0,
            _ => digits * self.width(),
        }
    }
}

/// Recorded values, summed over the workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    buckets: BTreeMap<Bucket, u64>,
    sum: u64,
}

impl Distribution {
    /// How many values were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// The sum of all recorded values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many values are at most `limit`, as Envoy counts: the whole bucket that `limit` lies in is included.
    #[must_use]
    pub fn count_up_to(&self, limit: f64) -> u64 {
        self.buckets.iter().take_while(|(bucket, _)| bucket.lower() <= limit).map(|(_, count)| count).sum()
    }

    /// How many values are above `from` and at most `to`, counted as [`count_up_to`](Self::count_up_to) does.
    #[must_use]
    pub fn count_between(&self, from: f64, to: f64) -> u64 {
        self.count_up_to(to) - self.count_up_to(from)
    }

    /// The buckets that hold values: lower bound, width, and how many values.
    pub fn bins(&self) -> impl Iterator<Item = (f64, f64, u64)> {
        self.buckets.iter().map(|(bucket, count)| (bucket.lower(), bucket.width(), *count))
    }

    /// The value at each of [`QUANTILES`]; not a number if nothing was recorded.
    #[must_use]
    pub fn quantiles(&self) -> [f64; QUANTILES.len()] {
        let total = self.count() as f64;
        QUANTILES.map(|quantile| self.value_at((quantile * total).ceil().max(1.0)))
    }

    /// The value at place `rank`, counted from one; those of one bucket are taken to lie evenly in it.
    fn value_at(&self, rank: f64) -> f64 {
        let mut below = 0.0;
        for (bucket, &count) in &self.buckets {
            let count = count as f64;
            if rank <= below + count {
                return bucket.lower() + (rank - below) / (count + 1.0) * bucket.width();
            }
            below += count;
        }
        f64::NAN
    }

    /// What was recorded since `earlier`.
    fn since(&self, earlier: &Self) -> Self {
        let since = |(bucket, count): (&Bucket, &u64)| {
            let count = count - earlier.buckets.get(bucket).unwrap_or(&0);
            (count > 0).then_some((*bucket, count))
        };
        Self { buckets: self.buckets.iter().filter_map(since).collect(), sum: self.sum.wrapping_sub(earlier.sum) }
    }
}
