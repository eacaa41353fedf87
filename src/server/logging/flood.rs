//! A dam against floods: events that any peer can cause, as often as it likes, are written at a bounded rate.
//!
//! An event counts as one of them by its name: `warn!(name: "peer_refused", …)`. What is left out is counted, and the count is logged. A few
//! atomics are all the memory; nobody waits.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// The events that peers cause.
const PEER_EVENTS: [&str; 6] =
    ["peer_tls_failed", "peer_protocol_error", "peer_unmatched", "peer_overflow", "peer_refused", "accept_failed"];

/// So many of a kind are written in each period.
const BURST: u64 = 20;

const PERIOD: Duration = Duration::from_secs(10);

/// Lets some events of each kind through.
#[derive(Debug, Clone)]
pub(super) struct Dam(Arc<[Bucket; PEER_EVENTS.len()]>, Instant);

#[derive(Debug, Default)]
struct Bucket {
    /// The number of the period, and below it how many events it has had.
    seen: AtomicU64,
    left_out: AtomicU64,
}

const COUNT_BITS: u32 = 32;

impl Dam {
    pub(super) fn new() -> Dam {
        Dam(Arc::default(), Instant::now())
    }

    /// Logs how many events were left out since the last time. Call it now and then.
    pub(super) fn report(&self) {
        for (kind, bucket) in PEER_EVENTS.iter().zip(&*self.0) {
            let count = bucket.left_out.swap(0, Relaxed);
            if count > 0 {
                tracing::warn!(kind, count, "events of this kind were left out, for there were too many");
            }
        }
    }

    fn admits(&self, name: &str, now: Instant) -> bool {
        let Some(at) = PEER_EVENTS.iter().position(|known| *known == name) else { return true };
        let period = now.saturating_duration_since(self.1).as_secs() / PERIOD.as_secs();
        self.0[at].admits(period)
    }
}

impl Bucket {
    fn admits(&self, period: u64) -> bool {
        let first = period << COUNT_BITS;
        // A thread that comes late with an old period counts for the new one.
        let before = self.seen.fetch_update(Relaxed, Relaxed, |seen| Some(seen.max(first) + 1)).unwrap_or_default();
        let admitted = before.max(first) - (before.max(first) >> COUNT_BITS << COUNT_BITS) < BURST;
        if !admitted {
            self.left_out.fetch_add(1, Relaxed);
        }
        admitted
    }
}

impl<S: Subscriber> Layer<S> for Dam {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.admits(event.metadata().name(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted_and_others_pass() {
        let dam = Dam::new();
        let now = dam.1;
        let admitted = |name, now| (0..100).filter(|_| dam.admits(name, now)).count();
        assert_eq!(admitted("peer_refused", now), 20);
        assert_eq!(admitted("peer_tls_failed", now), 20, "each kind has its own");
        assert_eq!(admitted("ready", now), 100);
        assert_eq!(admitted("peer_refused", now + PERIOD), 20);
        assert_eq!(dam.0[4].left_out.load(Relaxed), 160);
        dam.report();
        assert_eq!(dam.0[4].left_out.load(Relaxed), 0);
    }

    #[test]
    fn a_period_without_end_does_not_run_into_the_next() {
        let bucket = Bucket::default();
        bucket.seen.store(u64::from(u32::MAX) - 1, Relaxed);
        assert!(!bucket.admits(0));
        assert!(bucket.admits(2));
    }
}
