//! Counters that outlive the process: what one has counted, its successor goes on from, so that no rate ever jumps.
//!
//! The old process keeps a [`Tally`] and gives away first all that it has counted, then again and again what it has counted
//! since, for as long as it drains. The new one adds that to its own by [`Registry::carry`]. A name that nothing counts by yet,
//! such as that of a response code which has not occurred again, waits in the registry: it is listed as soon as another stat of
//! its scope exists, and its counter begins with it. At most [`WAITING`] names wait; what comes on top is lost.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use super::{Counter, Reading, Registry};

/// How many names may wait for a counter.
pub const WAITING: usize = 65_536;

/// What was counted under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The full name.
    pub name: Arc<str>,
    /// How much.
    pub value: u64,
    /// Whether it is a counter of [`Registry::unlisted`], such as one of a single host.
    pub unlisted: bool,
}

/// What was given away of a registry's counters.
#[derive(Debug)]
pub struct Tally {
    registry: Arc<Registry>,
    listed: HashMap<Arc<str>, u64>,
    unlisted: HashMap<Arc<str>, u64>,
}

impl Tally {
    /// Nothing was given away yet.
    #[must_use]
    pub fn new(registry: &Arc<Registry>) -> Tally {
        Tally { registry: Arc::clone(registry), listed: HashMap::new(), unlisted: HashMap::new() }
    }

    /// What was counted since the last call; by the first, everything.
    pub fn take(&mut self) -> Vec<Counted> {
        let mut counted = since(&mut self.listed, self.registry.read_counters(Company::Near), false);
        counted.append(&mut since(&mut self.unlisted, self.registry.unlisted().read_counters(Company::Near), true));
        counted
    }
}

/// A counter that is less than it was has been reset, or has ended and come anew: then all of it is new.
fn since(told: &mut HashMap<Arc<str>, u64>, readings: Vec<Reading>, unlisted: bool) -> Vec<Counted> {
    let fresh = |Reading { name, value, .. }| {
        let before = told.insert(Arc::clone(&name), value).unwrap_or_default();
        let value = value.checked_sub(before).unwrap_or(value);
        (value > 0).then_some(Counted { name, value, unlisted })
    };
    readings.into_iter().filter_map(fresh).collect()
}

impl Registry {
    /// Adds what another process has counted. On a thread that counts.
    pub fn carry(self: &Arc<Self>, counted: impl IntoIterator<Item = Counted>) {
        for Counted { name, value, unlisted } in counted {
            let registry = if unlisted { self.unlisted() } else { self };
            // Alone, because the handle may turn out to be the last one, and its end needs the lock.
            let counter = registry.lock().find_counter_or_wait(&name, value);
            if let Some(counter) = counter {
                counter.add(value);
            }
        }
    }
}

/// Which stats must exist for a name that waits to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// One of its own scope: what is gone from the configuration is not listed any more.
    Same,
    /// One of the scope around its own is enough, such as one of `cluster.a` for `cluster.a.external.upstream_rq_200`, because
    /// scopes may come with their first event, and that may be one of a later process.
    Near,
}

/// What was carried here under names that nothing counts by yet.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<Arc<str>, u64>);

impl Waiting {
    /// Adds to what waits under this name.
    pub(super) fn add(&mut self, name: &Arc<str>, value: u64) {
        if let Some(waiting) = self.0.get_mut(name) {
            *waiting = waiting.wrapping_add(value);
        } else if self.0.len() < WAITING {
            self.0.insert(Arc::clone(name), value);
        }
    }

    /// Gives what waits to the counter that has just come.
    pub(super) fn join(&mut self, name: &str, counter: &Counter) {
        if let Some(value) = self.0.remove(name) {
            counter.add(value);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Those that have company in `names`.
    pub(super) fn read<T>(&self, names: &BTreeMap<Arc<str>, T>, company: Company) -> impl Iterator<Item = Reading> {
        let is_used = |scope: &str| {
            let next = names.range::<str, _>((Bound::Included(scope), Bound::Unbounded)).next();
            next.is_some_and(|(next, _)| next.starts_with(scope))
        };
        let has_company = move |name: &str| {
            let scope = scope_of(name);
            let around = scope_of(scope.trim_end_matches('.'));
            // A scope of one word, such as `cluster`, is everybody's.
            let near = company == Company::Near && around.matches('.').count() > 1;
            is_used(scope) || near && is_used(around)
        };
        let waiting = self.0.iter().filter(move |(name, _)| has_company(name));
        waiting.map(|(name, value)| Reading { name: Arc::clone(name), value: *value, used: true })
    }
}

/// The scope of a name, with its dot at the end.
fn scope_of(name: &str) -> &str {
    &name[..name.rfind('.').map_or(0, |dot| dot + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, value: u64) -> Counted {
        Counted { name: name.into(), value, unlisted: false }
    }

    fn read(registry: &Arc<Registry>) -> Vec<(String, u64)> {
        registry.read().counters.iter().map(|counter| (counter.name.to_string(), counter.value)).collect()
    }

    #[test]
    fn a_tally_gives_everything_and_then_what_has_come() {
        let registry = Registry::new(1);
        let (first, second) = (registry.scope("a").counter("x"), registry.scope("a").counter("y"));
        let host = registry.unlisted().scope("cluster.c.h").counter("rq_total");
        first.add(5);
        host.add(2);
        let mut tally = Tally::new(&registry);
        let of_host = Counted { unlisted: true, ..listed("cluster.c.h.rq_total", 2) };
        assert_eq!(tally.take(), [listed("a.x", 5), of_host]);
        assert!(tally.take().is_empty());
        first.inc();
        second.add(3);
        assert_eq!(tally.take(), [listed("a.x", 1), listed("a.y", 3)]);
        registry.reset_counters();
        first.add(2);
        assert_eq!(tally.take(), [listed("a.x", 2)]);
    }

    #[test]
    fn what_is_carried_is_added_to_what_was_counted() {
        let (old, new) = (Registry::new(1), Registry::new(1));
        let (counter, host) = (old.scope("a").counter("x"), old.unlisted().scope("h").counter("y"));
        let (successor, hosts) = (new.scope("a").counter("x"), new.unlisted().scope("h").counter("y"));
        counter.add(5);
        host.add(2);
        successor.inc();
        let mut tally = Tally::new(&old);
        new.carry(tally.take());
        counter.inc();
        new.carry(tally.take());
        assert_eq!((successor.value(), hosts.value()), (7, 2));
        assert_eq!(read(&new), [("a.x".to_owned(), 7)]);
    }

    #[test]
    fn a_name_without_counter_waits_and_is_listed_beside_its_neighbours() {
        let registry = Registry::new(1);
        registry.carry([listed("cluster.a.upstream_rq_503", 4), listed("cluster.gone.upstream_rq_503", 4)]);
        assert!(read(&registry).is_empty());
        let _neighbour = registry.scope("cluster.a").counter("upstream_rq_total");
        registry.carry([listed("cluster.a.upstream_rq_503", 1)]);
        let expected = [("cluster.a.upstream_rq_503", 5), ("cluster.a.upstream_rq_total", 0)];
        assert_eq!(read(&registry), expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(Tally::new(&registry).take(), [listed("cluster.a.upstream_rq_503", 5)], "the next process gets it");

        let mut tally = Tally::new(&registry);
        tally.take();
        let counter = registry.scope("cluster.a").counter("upstream_rq_503");
        assert_eq!(counter.value(), 5);
        counter.inc();
        assert_eq!(tally.take(), [listed("cluster.a.upstream_rq_503", 1)]);
        drop(counter);
        assert_eq!(registry.scope("cluster.a").counter("upstream_rq_503").value(), 0, "once");
    }

    #[test]
    fn a_scope_that_comes_with_its_first_event_is_passed_on_by_processes_without_one() {
        let registry = Registry::new(1);
        let carried = [listed("cluster.a.external.upstream_rq_200", 4)];
        registry.carry(carried.clone());
        assert!(Tally::new(&registry).take().is_empty(), "the cluster is gone");
        let _cluster = registry.scope("cluster.a").counter("upstream_rq_total");
        assert_eq!(read(&registry), [("cluster.a.upstream_rq_total".to_owned(), 0)]);
        assert_eq!(Tally::new(&registry).take(), carried);
    }

    #[test]
    fn a_reset_forgets_what_waits() {
        let registry = Registry::new(1);
        registry.carry([listed("a.x", 4)]);
        registry.reset_counters();
        assert_eq!(registry.scope("a").counter("x").value(), 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        let registry = Registry::new(1);
        registry.carry((0..=WAITING).map(|number| listed(&format!("a.{number}"), 1)));
        let scope = registry.scope("a");
        let values = [0, WAITING].map(|number| scope.counter(&number.to_string()).value());
        assert_eq!(values, [1, 0]);
    }
}
