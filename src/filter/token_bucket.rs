//! A token bucket that all workers share: `envoy.type.v3.TokenBucket`, filled continuously as Envoy's.
//!
//! It is one number, the moment at which the bucket will be full again: taking a token puts it off by the time that one token takes to
//! come. So there is no lock and no timer.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::{config::field::Field, proto};

/// A bucket, full at first.
#[derive(Debug)]
pub struct TokenBucket {
    begun: Instant,
    /// Nanoseconds after `begun`.
    full_at: AtomicU64,
    /// Nanoseconds in which a token comes.
    per_token: u64,
    /// Nanoseconds in which an empty bucket fills.
    capacity: u64,
}

impl TokenBucket {
    /// Converts a bucket; Envoy fills none oftener than every 50 ms.
    #[must_use]
    pub fn from_proto(proto: &proto::type_v3::TokenBucket, field: Field<'_>) -> Option<TokenBucket> {
        let proto::type_v3::TokenBucket { max_tokens, tokens_per_fill, fill_interval } = proto;
        let interval = field.duration("fill_interval", fill_interval);
        field.required("fill_interval", fill_interval)?;
        let interval = interval?;
        if interval < Duration::from_millis(50) {
            field.key("fill_interval").error("must be at least 50ms");
            return None;
        }
        let tokens = tokens_per_fill.map_or(1, |tokens| tokens.value);
        Some(TokenBucket::new(*max_tokens, interval / tokens.max(1)))
    }

    fn new(max: u32, per_token: Duration) -> TokenBucket {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        TokenBucket {
            begun: Instant::now(),
            full_at: AtomicU64::new(0),
            per_token: nanos(per_token).max(1),
            capacity: nanos(per_token.saturating_mul(max)),
        }
    }

    /// Takes a token; false if there is none.
    pub fn take(&self) -> bool {
        self.take_at(u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// How many tokens a full bucket holds.
    pub fn max(&self) -> u64 {
        self.capacity / self.per_token
    }

    /// How many tokens there are now, and how long it takes until there is one.
    pub fn remaining(&self) -> (u64, Duration) {
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let missing = self.full_at.load(Relaxed).saturating_sub(now);
        let there = self.capacity.saturating_sub(missing);
        let wait = if there >= self.per_token { 0 } else { self.per_token - there };
        (there / self.per_token, Duration::from_nanos(wait))
    }

    fn take_at(&self, now: u64) -> bool {
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let next = full_at.max(now).saturating_add(self.per_token);
            (next - now <= self.capacity).then_some(next)
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_one_by_one() {
        let bucket = TokenBucket::new(2, Duration::from_nanos(100));
        assert_eq!([0, 0, 0].map(|now| bucket.take_at(now)), [true, true, false]);
        assert_eq!([99, 100, 101].map(|now| bucket.take_at(now)), [false, true, false]);
        assert_eq!([1000, 1000, 1000].map(|now| bucket.take_at(now)), [true, true, false]);
    }

    #[test]
    fn what_is_left_is_told() {
        let bucket = TokenBucket::new(2, Duration::from_hours(1));
        assert_eq!((bucket.max(), bucket.remaining()), (2, (2, Duration::ZERO)));
        assert!(bucket.take() && bucket.take());
        let (left, wait) = bucket.remaining();
        assert_eq!(left, 0);
        assert!(wait <= Duration::from_hours(1) && wait > Duration::from_mins(59), "{wait:?}");
    }

    #[test]
    fn a_bucket_without_room_gives_nothing() {
        assert!(!TokenBucket::new(0, Duration::from_nanos(100)).take_at(1000));
    }
}
