//! The session ticket keys of the process, for the contexts that configure none.
//!
//! All contexts share them; what keeps their sessions apart is the context's fingerprint (`ticket.rs`). The newest key seals and is renewed in
//! time, an older one opens for as long as a ticket that it sealed may be good. They go on to the next process in a hand-off, so that
//! clients resume there what they began here.

use std::{
    fmt,
    sync::{self, Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use aws_lc_rs::rand::fill;

use crate::proto::{self, handoff as wire};

use super::ticket::{NAME_LENGTH, TicketKey, now};

/// The longest that a ticket may be good (RFC 8446 section 4.6.1).
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// Between these a key is renewed.
const RENEWAL: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(24));

/// More keys than rotation can keep: a bound on what another process hands over.
const MAX_KEYS: usize = 64;

/// A rotating set of keys. The first is made when it is needed.
#[derive(Debug, Default)]
#[expect(
    clippy::disallowed_types,
    reason = "read once for each handshake and never for a request; written when a key is renewed"
)]
pub struct TicketKeys {
    ring: sync::RwLock<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Newest first.
    keys: Vec<Aged>,
    /// The longest that a ticket of any context is good.
    lifetime: Duration,
}

struct Aged {
    bytes: [u8; TicketKey::LENGTH],
    /// Seconds since the epoch.
    made: u64,
    key: Arc<TicketKey>,
}

impl TicketKeys {
    /// The keys that may be needed in the next process, newest first.
    #[must_use]
    pub fn export(&self) -> Vec<wire::TicketKey> {
        let now = now();
        let export =
            |aged: &Aged| wire::TicketKey { key: aged.bytes.to_vec(), age: Some(proto::duration(aged.age(now))) };
        self.read().keys.iter().map(export).collect()
    }

    /// Takes over what another process has exported. Keys of another form are left out: their tickets cost a full handshake.
    pub fn import(&self, keys: &[wire::TicketKey]) {
        let now = now();
        let mut ring = self.write();
        for wire::TicketKey { key, age } in keys {
            let age = age.map_or(0, |age| u64::try_from(age.seconds).unwrap_or_default());
            let Some(aged) = Aged::new(key, now.saturating_sub(age)) else { continue };
            if ring.keys.iter().all(|known| known.key.name() != aged.key.name()) {
                ring.keys.push(aged);
            }
        }
        ring.keys.sort_by_key(|aged| std::cmp::Reverse(aged.made));
        ring.keys.truncate(MAX_KEYS);
    }

    /// A context has tickets that are good for this long.
    pub(super) fn serve(&self, lifetime: Duration) {
        let mut ring = self.write();
        ring.lifetime = ring.lifetime.max(lifetime.min(LONGEST));
    }

    /// The key that seals; a new one if it is time, which is `now` in seconds since the epoch. `None` if the system has no randomness.
    pub(super) fn sealing(&self, now: u64) -> Option<Arc<TicketKey>> {
        if let Some(newest) = self.read().current(now) {
            return Some(newest);
        }
        let mut ring = self.write();
        // Another thread may have come first.
        if ring.current(now).is_none() {
            let kept = ring.renewal() + ring.lifetime;
            ring.keys.retain(|aged| aged.age(now) <= kept);
            let mut bytes = [0; TicketKey::LENGTH];
            fill(&mut bytes).ok()?;
            ring.keys.insert(0, Aged::new(&bytes, now)?);
        }
        ring.current(now)
    }

    /// The key of that name.
    pub(super) fn named(&self, name: &[u8; NAME_LENGTH]) -> Option<Arc<TicketKey>> {
        self.read().keys.iter().find(|aged| aged.key.name() == name).map(|aged| Arc::clone(&aged.key))
    }

    fn read(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn renewal(&self) -> Duration {
        (self.lifetime / 2).clamp(RENEWAL.0, RENEWAL.1)
    }

    /// The newest key, unless it is to be renewed.
    fn current(&self, now: u64) -> Option<Arc<TicketKey>> {
        self.keys.first().filter(|aged| aged.age(now) < self.renewal()).map(|aged| Arc::clone(&aged.key))
    }
}

impl Aged {
    fn new(bytes: &[u8], made: u64) -> Option<Aged> {
        let key = TicketKey::from_bytes(bytes)?;
        Some(Aged { bytes: bytes.try_into().ok()?, made, key })
    }

    fn age(&self, now: u64) -> Duration {
        Duration::from_secs(now.saturating_sub(self.made))
    }
}

impl fmt::Debug for Aged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aged").field("made", &self.made).finish_non_exhaustive()
    }
}

impl fmt::Debug for wire::TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("age", &self.age).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn keys() -> TicketKeys {
        let keys = TicketKeys::default();
        keys.serve(Duration::from_secs(2 * HOUR));
        keys
    }

    #[test]
    fn a_key_seals_for_an_hour_and_opens_for_as_long_as_its_tickets_are_good() {
        let keys = keys();
        let start = 10 * HOUR;
        let first = keys.sealing(start).unwrap();
        assert_eq!(keys.sealing(start + HOUR - 1).unwrap().name(), first.name());
        let second = keys.sealing(start + HOUR).unwrap();
        assert_ne!(second.name(), first.name());
        keys.sealing(start + 3 * HOUR).unwrap();
        assert!(keys.named(first.name()).is_some(), "its last ticket was made after an hour, and is good for two");
        keys.sealing(start + 4 * HOUR).unwrap();
        assert!(keys.named(first.name()).is_none());
        assert!(keys.named(second.name()).is_some());
    }

    #[test]
    fn the_next_process_goes_on_with_the_keys_of_this_one() {
        let (old, new) = (keys(), keys());
        let key = old.sealing(now()).unwrap();
        new.import(&old.export());
        assert_eq!(new.sealing(now()).unwrap().name(), key.name(), "which the old process can open");
        new.import(&old.export());
        assert_eq!(new.export().len(), 1);
        let later = now() + HOUR;
        assert_ne!(new.sealing(later).unwrap().name(), key.name(), "a key does not become younger on the way");
    }

    #[test]
    fn keys_of_another_form_are_left_out_and_there_are_not_too_many() {
        let keys = keys();
        let exported = |fill, length| wire::TicketKey { key: vec![fill; length], age: None };
        keys.import(&[exported(1, 79), exported(2, 0)]);
        assert!(keys.export().is_empty());
        keys.import(&(0..=255).map(|fill| exported(fill, TicketKey::LENGTH)).collect::<Vec<_>>());
        assert_eq!(keys.export().len(), MAX_KEYS);
    }

    #[test]
    fn secrets_are_not_shown() {
        let keys = keys();
        keys.import(&[wire::TicketKey { key: vec![0xab; TicketKey::LENGTH], age: None }]);
        let state = wire::State { ticket_keys: keys.export(), ..wire::State::default() };
        assert_eq!(state.ticket_keys.len(), 1);
        for shown in [format!("{keys:?}"), format!("{state:?}")] {
            assert!(!shown.contains("171") && !shown.contains("ab, "), "{shown}");
        }
    }
}
