//! How many connections there may be at once, of one listener or of all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::process::{Resource, getrlimit};

/// File descriptors for all that is no connection: sockets that listen, logs, threads, the admin interface.
const RESERVED_DESCRIPTORS: u64 = 128;

/// A bound on connections that all workers share. Counting costs an atomic per connection, and nothing per request.
#[derive(Debug)]
pub struct ConnectionLimit {
    max: u64,
    open: AtomicU64,
}

impl ConnectionLimit {
    /// At most `max` at once.
    #[must_use]
    pub fn new(max: u64) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit { max, open: AtomicU64::new(0) })
    }

    /// As many as there are file descriptors for if each has a connection upstream, too; `None` if the system sets no limit.
    #[must_use]
    pub fn of_descriptors() -> Option<Arc<ConnectionLimit>> {
        // The process raises its limit to what it may have.
        getrlimit(Resource::Nofile).maximum.map(|descriptors| ConnectionLimit::new(downstream_share(descriptors)))
    }

    /// The right to be one of them; `None` if there are as many as there may be.
    #[must_use]
    pub fn acquire(self: &Arc<Self>) -> Option<Permit> {
        let permit = Permit(Arc::clone(self));
        (self.open.fetch_add(1, Relaxed) < self.max).then_some(permit)
    }
}

fn downstream_share(descriptors: u64) -> u64 {
    (descriptors - RESERVED_DESCRIPTORS.min(descriptors / 2)) / 2
}

/// The right to be one of the connections that there may be. Dropping it gives it back.
#[derive(Debug)]
pub struct Permit(Arc<ConnectionLimit>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// The limits that a bootstrap sets.
#[derive(Debug, Clone, Default)]
pub struct ConnectionLimits {
    /// Of all listeners together.
    pub global: Option<Arc<ConnectionLimit>>,
    /// Of single listeners, by name.
    pub of_listener: HashMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_connections_and_the_process_itself_have_their_share_of_descriptors() {
        let shares = [64, 256, 1024, 1 << 20].map(downstream_share);
        assert_eq!(shares, [16, 64, 448, 524_224]);
    }

    #[test]
    fn a_permit_that_ends_makes_room() {
        let limit = ConnectionLimit::new(2);
        let (first, _second) = (limit.acquire().unwrap(), limit.acquire().unwrap());
        assert!(limit.acquire().is_none());
        assert!(limit.acquire().is_none(), "a refusal takes no room");
        drop(first);
        assert!(limit.acquire().is_some());
    }
}
