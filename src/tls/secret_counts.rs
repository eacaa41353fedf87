//! What Envoy counts of secrets that do not stand in the bootstrap: `sds.<name>.*`, here of those in files of their own.

use std::{cell::RefCell, collections::HashMap};

use crate::stats::{self, Scope};

stats::declare! {
    /// Of a secret in a file of its own, under `sds.<name>.`
    pub struct SecretStats {
        /// Times that there was something new to read.
        update_attempt: Counter,
        /// Times that what was read was accepted.
        update_success: Counter,
        /// Times that nothing could be read, or no secret.
        update_failure: Counter,
        /// Times that a secret was refused.
        update_rejected: Counter,
    }
}

/// What came of reading a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Update {
    Accepted,
    Refused,
    /// There is none.
    Missing,
}

/// The counts of all such secrets. They outlive the configurations that name them, as a secret is read again with each.
#[derive(Debug)]
pub struct SecretCounts {
    scope: Scope,
    /// By name, with the digest of what was counted last.
    by_name: RefCell<HashMap<String, (SecretStats, Option<[u8; 32]>)>>,
}

impl SecretCounts {
    /// `scope` is that of the process.
    #[must_use]
    pub fn new(scope: &Scope) -> SecretCounts {
        SecretCounts { scope: scope.scope("sds"), by_name: RefCell::default() }
    }

    /// Counts what came of reading a file with this digest, unless that has been counted.
    pub(super) fn count(&self, name: &str, digest: Option<[u8; 32]>, update: Update) {
        let mut by_name = self.by_name.borrow_mut();
        let (stats, counted) = match by_name.get_mut(name) {
            Some((_, counted)) if *counted == digest => return,
            Some(known) => known,
            None => by_name.entry(name.to_owned()).or_insert((SecretStats::new(&self.scope.scope(name)), None)),
        };
        *counted = digest;
        stats.update_attempt.inc();
        match update {
            Update::Accepted => stats.update_success.inc(),
            Update::Refused => stats.update_rejected.inc(),
            Update::Missing => stats.update_failure.inc(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;

    #[test]
    fn what_has_not_changed_is_counted_once() {
        let stats = Registry::new(0);
        let counts = SecretCounts::new(&stats.scope(""));
        let count = |name: &str| stats.scope("sds.a").counter(name).value();
        counts.count("a", Some([1; 32]), Update::Accepted);
        counts.count("a", Some([1; 32]), Update::Accepted);
        counts.count("a", Some([2; 32]), Update::Refused);
        counts.count("a", None, Update::Missing);
        let values = ["update_attempt", "update_success", "update_rejected", "update_failure"].map(count);
        assert_eq!(values, [3, 1, 1, 1]);
    }
}
