//! Which host takes the next request.
//!
//! Built anew whenever the hosts of a cluster change, so a choice looks at nothing but the hosts that may be chosen.

use super::{Cluster, ClusterStats, Health, HostRef};
use crate::matcher::MetadataMatch;

mod round_robin;
mod subset;

use round_robin::RoundRobin;
pub(super) use subset::SubsetConfig;
use subset::Subsets;

/// What a request asks of the choice of its host.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadBalancerContext<'a> {
    /// The labels that it must have, where the cluster has subsets.
    pub metadata_match: Option<&'a MetadataMatch>,
    /// Priorities that are left alone as long as another one has hosts to use.
    pub tried_priorities: &'a [u32],
}

/// The hosts of a cluster that may be chosen, and whose turn it is.
#[derive(Debug)]
pub(super) enum LoadBalancer {
    Whole(Turns),
    Subsets(Box<Subsets>),
}

impl Default for LoadBalancer {
    fn default() -> LoadBalancer {
        LoadBalancer::Whole(Turns::default())
    }
}

impl LoadBalancer {
    /// Goes over to these hosts; `seed` decides where the turn begins.
    pub(super) fn update(&mut self, cluster: &Cluster, hosts: &[HostRef], seed: u64) {
        match (&cluster.subsets, self) {
            (None, balancer) => {
                *balancer = LoadBalancer::Whole(Turns::new(hosts.to_vec(), cluster.healthy_panic_threshold, seed));
            }
            (Some(config), LoadBalancer::Subsets(subsets)) => subsets.update(config, cluster, hosts, seed),
            (Some(config), balancer) => {
                let mut subsets = Box::new(Subsets::default());
                subsets.update(config, cluster, hosts, seed);
                *balancer = LoadBalancer::Subsets(subsets);
            }
        }
    }

    /// The host whose turn it is.
    pub(super) fn choose(&mut self, cluster: &Cluster, context: &LoadBalancerContext<'_>) -> Option<HostRef> {
        match self {
            LoadBalancer::Whole(turns) => turns.choose(&cluster.stats, context),
            LoadBalancer::Subsets(subsets) => subsets.choose(cluster, context),
        }
    }
}

/// Hosts that take turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    hosts: Vec<HostRef>,
    panic_threshold: f64,
    seed: u64,
    usual: RoundRobin<HostRef>,
    /// Those without priorities that have been tried, by these. Made when they are asked for, which is seldom.
    others: Vec<(Vec<u32>, RoundRobin<HostRef>)>,
}

impl Turns {
    /// `panic_threshold` is the percentage of healthy hosts below which health is no criterion any more
    /// (`healthy_panic_threshold`).
    fn new(hosts: Vec<HostRef>, panic_threshold: f64, seed: u64) -> Turns {
        let levels = Levels::new(&hosts, panic_threshold);
        let eligible = levels.usable(&[]).unwrap_or_else(|| levels.last_resort());
        let usual = turns(&eligible, seed);
        Turns { usual, hosts, panic_threshold, seed, others: Vec::new() }
    }

    /// Where there is no host at all, even less than half of them are healthy, which is counted.
    fn choose(&mut self, stats: &ClusterStats, context: &LoadBalancerContext<'_>) -> Option<HostRef> {
        let host = self.next(context.tried_priorities);
        if host.is_none() {
            stats.lb_healthy_panic.inc();
        }
        host
    }

    fn next(&mut self, tried: &[u32]) -> Option<HostRef> {
        if tried.is_empty() {
            return self.usual.next().cloned();
        }
        if !self.others.iter().any(|(known, _)| known == tried) {
            let usable = Levels::new(&self.hosts, self.panic_threshold).usable(tried).unwrap_or_default();
            self.others.push((tried.to_vec(), turns(&usable, self.seed)));
        }
        let other = self.others.iter_mut().find(|(known, _)| known == tried);
        let host = other.and_then(|(_, turns)| turns.next()).cloned();
        host.or_else(|| self.usual.next().cloned())
    }
}

fn turns(hosts: &[&HostRef], seed: u64) -> RoundRobin<HostRef> {
    RoundRobin::new(hosts.iter().map(|host| (host.endpoint.weight, HostRef::clone(host))), seed)
}

/// Hosts by priority, without those that drain.
struct Levels<'h> {
    levels: Vec<(u32, Vec<&'h HostRef>)>,
    panic_threshold: f64,
}

impl<'h> Levels<'h> {
    fn new(hosts: &'h [HostRef], panic_threshold: f64) -> Levels<'h> {
        let mut priorities: Vec<u32> = hosts.iter().map(|host| host.endpoint.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let of = |priority| {
            let own = |host: &&HostRef| host.endpoint.priority == priority && host.endpoint.health != Health::Draining;
            (priority, hosts.iter().filter(own).collect())
        };
        Levels { levels: priorities.into_iter().map(of).collect(), panic_threshold }
    }

    /// The hosts of the first priority, but for those `tried`, that has enough healthy ones.
    fn usable(&self, tried: &[u32]) -> Option<Vec<&'h HostRef>> {
        let untried = self.levels.iter().filter(|(priority, _)| !tried.contains(priority));
        untried.map(|(_, level)| level).find_map(|level| {
            let of = |health| level.iter().copied().filter(|host| host.endpoint.health == health).collect::<Vec<_>>();
            let (healthy, degraded) = (of(Health::Healthy), of(Health::Degraded));
            let usable = healthy.len() + degraded.len();
            let enough = usable > 0 && real(usable) * 100.0 >= self.panic_threshold * real(level.len());
            enough.then_some(if healthy.is_empty() { degraded } else { healthy })
        })
    }

    /// All hosts of the first priority that has any.
    fn last_resort(self) -> Vec<&'h HostRef> {
        self.levels.into_iter().map(|(_, level)| level).find(|level| !level.is_empty()).unwrap_or_default()
    }
}

fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
