//! Which host takes the next request.
//!
//! Built anew whenever the hosts of a cluster change, so a choice looks at nothing but the hosts that may be chosen.

use super::{Health, HostRef};

mod round_robin;

use round_robin::RoundRobin;

/// The hosts of a cluster that may be chosen, and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct LoadBalancer(RoundRobin<HostRef>);

impl LoadBalancer {
    /// `panic_threshold` is the percentage of healthy hosts below which health is no criterion any more
    /// (`healthy_panic_threshold`); `seed` decides where the turn begins.
    pub(super) fn new(hosts: &[HostRef], panic_threshold: f64, seed: u64) -> LoadBalancer {
        let eligible = eligible(hosts, panic_threshold);
        LoadBalancer(RoundRobin::new(eligible.into_iter().map(|host| (host.endpoint.weight, host.clone())), seed))
    }

    /// The host whose turn it is.
    pub(super) fn choose(&mut self) -> Option<HostRef> {
        self.0.next().cloned()
    }
}

fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The hosts of the first priority that has enough healthy ones; else all of the first priority that has any.
fn eligible(hosts: &[HostRef], panic_threshold: f64) -> Vec<&HostRef> {
    let mut levels: Vec<u32> = hosts.iter().map(|host| host.endpoint.priority).collect();
    levels.sort_unstable();
    levels.dedup();
    let mut last_resort = Vec::new();
    for priority in levels {
        let level: Vec<&HostRef> = hosts
            .iter()
            .filter(|host| host.endpoint.priority == priority && host.endpoint.health != Health::Draining)
            .collect();
        let of = |health| level.iter().copied().filter(|host| host.endpoint.health == health).collect::<Vec<_>>();
        let (healthy, degraded) = (of(Health::Healthy), of(Health::Degraded));
        let usable = healthy.len() + degraded.len();
        if usable > 0 && real(usable) * 100.0 >= panic_threshold * real(level.len()) {
            return if healthy.is_empty() { degraded } else { healthy };
        }
        if last_resort.is_empty() {
            last_resort = level;
        }
    }
    last_resort
}
