//! Subsets of the hosts of a cluster, by labels that requests ask for (`lb_subset_config`).
//!
//! Each list of labels that hosts have of the names of a selector is a subset, with turns of its own. A request that asks for
//! other labels than those of a selector, or for labels that no host has, gets what the fallback says.

use std::collections::{HashMap, hash_map::Entry};

use prost::Name;

use super::{LoadBalancerContext, Turns};
use crate::{
    config::Field,
    matcher::{LOAD_BALANCING, Labels, Lists},
    proto::{
        self,
        cluster::cluster::{
            LbSubsetConfig,
            lb_subset_config::{
                LbSubsetFallbackPolicy, LbSubsetMetadataFallbackPolicy, LbSubsetSelector,
                lb_subset_selector::LbSubsetSelectorFallbackPolicy,
            },
        },
        subset_policy::Subset as SubsetPolicy,
    },
    stats::{Gauge, Held, Scope},
    upstream::{Cluster, HostRef},
};

/// A compiled `LbSubsetConfig`.
#[derive(Debug)]
pub(in crate::upstream) struct SubsetConfig {
    fallback: Fallback,
    default_subset: Labels,
    selectors: Vec<Selector>,
    panic_mode_any: bool,
    lists: Lists,
    /// What a request lists by `fallback_list` is asked for one by one.
    asks_alternatives: bool,
    /// Labels that no selector names are left out of what a request asks for.
    allow_redundant_keys: bool,
    /// `lb_subsets_single_host_per_subset_duplicate`
    duplicates: Gauge,
}

/// What a request gets that asks for no subset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fallback {
    Nothing,
    AnyHost,
    DefaultSubset,
}

#[derive(Debug)]
struct Selector {
    /// In order.
    keys: Vec<Box<str>>,
    fallback: Option<SelectorFallback>,
    single_host: bool,
}

#[derive(Debug)]
enum SelectorFallback {
    Of(Fallback),
    /// It asks for fewer labels: those of these names.
    Keys(Vec<Box<str>>),
}

impl SubsetConfig {
    /// Compiles the configuration; None if it has no selectors, which leaves the cluster whole.
    pub(in crate::upstream) fn from_proto(
        proto: &LbSubsetConfig,
        field: Field<'_>,
        scope: &Scope,
    ) -> Option<SubsetConfig> {
        let LbSubsetConfig {
            fallback_policy,
            default_subset,
            subset_selectors,
            locality_weight_aware,
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            metadata_fallback_policy,
        } = proto;
        let why = "hosts are balanced by their own weights";
        field.ignored("locality_weight_aware", locality_weight_aware, why);
        field.ignored("scale_locality_weight", scale_locality_weight, why);
        let list = field.key("subset_selectors");
        let mut selectors: Vec<Selector> = Vec::with_capacity(subset_selectors.len());
        for (i, selector) in subset_selectors.iter().enumerate() {
            let mut selector = Selector::from_proto(selector, list.index(i));
            // As in Envoy, only the first selector with a name at its place has a say of its own.
            if selectors.iter().any(|earlier| earlier.keys.starts_with(&selector.keys)) {
                selector.fallback = None;
            }
            selectors.push(selector);
        }
        if selectors.is_empty() {
            return None;
        }
        Some(SubsetConfig {
            fallback: match LbSubsetFallbackPolicy::try_from(*fallback_policy).unwrap_or_default() {
                LbSubsetFallbackPolicy::NoFallback => Fallback::Nothing,
                LbSubsetFallbackPolicy::AnyEndpoint => Fallback::AnyHost,
                LbSubsetFallbackPolicy::DefaultSubset => Fallback::DefaultSubset,
            },
            default_subset: default_subset.as_ref().map(Labels::from_struct).unwrap_or_default(),
            selectors,
            panic_mode_any: *panic_mode_any,
            lists: if *list_as_any { Lists::AsAny } else { Lists::AsOne },
            asks_alternatives: *metadata_fallback_policy == LbSubsetMetadataFallbackPolicy::FallbackList as i32,
            allow_redundant_keys: false,
            duplicates: scope.gauge("lb_subsets_single_host_per_subset_duplicate"),
        })
    }

    /// Compiles the policy of a `load_balancing_policy` that says the same; its policy within subsets is another matter.
    pub(in crate::upstream) fn of_policy(
        proto: &proto::Any,
        field: Field<'_>,
        scope: &Scope,
    ) -> Option<(Option<SubsetConfig>, SubsetPolicy)> {
        let policy: SubsetPolicy = field.unpack(proto)?;
        let selector = |selector: &proto::subset_policy::subset::LbSubsetSelector| {
            let proto::subset_policy::subset::LbSubsetSelector {
                keys,
                single_host_per_subset,
                fallback_policy,
                fallback_keys_subset,
            } = selector.clone();
            LbSubsetSelector { keys, single_host_per_subset, fallback_policy, fallback_keys_subset }
        };
        let same = LbSubsetConfig {
            fallback_policy: policy.fallback_policy,
            default_subset: policy.default_subset.clone(),
            subset_selectors: policy.subset_selectors.iter().map(selector).collect(),
            locality_weight_aware: policy.locality_weight_aware,
            scale_locality_weight: policy.scale_locality_weight,
            panic_mode_any: policy.panic_mode_any,
            list_as_any: policy.list_as_any,
            metadata_fallback_policy: policy.metadata_fallback_policy,
        };
        let config = SubsetConfig::from_proto(&same, field, scope);
        let allow_redundant_keys = policy.allow_redundant_keys;
        Some((config.map(|config| SubsetConfig { allow_redundant_keys, ..config }), policy))
    }

    /// Whether a type of policy is that of [`SubsetConfig::of_policy`].
    pub(in crate::upstream) fn is_policy(type_url: &str) -> bool {
        type_url.rsplit('/').next() == Some(SubsetPolicy::full_name().as_str())
    }
}

impl Selector {
    fn from_proto(proto: &LbSubsetSelector, field: Field<'_>) -> Selector {
        let LbSubsetSelector { keys, single_host_per_subset, fallback_policy, fallback_keys_subset } = proto;
        let (keys, fewer) = (names(keys), names(fallback_keys_subset));
        let policy = LbSubsetSelectorFallbackPolicy::try_from(*fallback_policy).unwrap_or_default();
        let place = field.key("fallback_keys_subset");
        if policy != LbSubsetSelectorFallbackPolicy::KeysSubset {
            if !fewer.is_empty() {
                place.error("fallback_keys_subset can be set only for KEYS_SUBSET fallback_policy");
            }
        } else if fewer.is_empty() {
            place.error("fallback_keys_subset cannot be empty");
        } else if !fewer.iter().all(|key| keys.contains(key)) {
            place.error("fallback_keys_subset must be a subset of selector keys");
        } else if fewer == keys {
            place.error("fallback_keys_subset cannot be equal to keys");
        }
        let fallback = match policy {
            LbSubsetSelectorFallbackPolicy::NotDefined => None,
            LbSubsetSelectorFallbackPolicy::NoFallback => Some(SelectorFallback::Of(Fallback::Nothing)),
            LbSubsetSelectorFallbackPolicy::AnyEndpoint => Some(SelectorFallback::Of(Fallback::AnyHost)),
            LbSubsetSelectorFallbackPolicy::DefaultSubset => Some(SelectorFallback::Of(Fallback::DefaultSubset)),
            LbSubsetSelectorFallbackPolicy::KeysSubset => Some(SelectorFallback::Keys(fewer)),
        };
        Selector { keys, fallback, single_host: *single_host_per_subset }
    }

    fn is_for(&self, labels: &Labels) -> bool {
        self.keys.iter().map(|key| &**key).eq(labels.names())
    }
}

fn names(names: &[String]) -> Vec<Box<str>> {
    let mut names: Vec<Box<str>> = names.iter().map(|name| name.as_str().into()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The subsets of a cluster as its hosts are now.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Subsets {
    by_labels: HashMap<Labels, Subset>,
    /// Every host.
    any: Turns,
    default: Turns,
}

#[derive(Debug)]
struct Subset {
    turns: Turns,
    /// Among `lb_subsets_active`.
    active: Held,
}

impl Subsets {
    /// Sorts these hosts anew.
    pub(super) fn update(&mut self, config: &SubsetConfig, cluster: &Cluster, hosts: &[HostRef], seed: u64) {
        let stats = &cluster.stats;
        let turns = |hosts| Turns::new(hosts, cluster.healthy_panic_threshold, seed);
        let mut known = std::mem::take(&mut self.by_labels);
        for (labels, hosts) in sorted(config, hosts) {
            let active = known.remove(&labels).map_or_else(
                || {
                    stats.lb_subsets_created.inc();
                    stats.lb_subsets_active.hold()
                },
                |subset| subset.active,
            );
            self.by_labels.insert(labels, Subset { turns: turns(hosts), active });
        }
        known.iter().for_each(|_| stats.lb_subsets_removed.inc());
        let in_default = |host: &&HostRef| config.default_subset.are_of(labels_of(host), config.lists);
        self.default = turns(hosts.iter().filter(in_default).cloned().collect());
        self.any = turns(hosts.to_vec());
    }

    /// The host whose turn it is in the subset that the request asks for, or in what stands in for that.
    pub(super) fn choose(&mut self, cluster: &Cluster, context: &LoadBalancerContext<'_>) -> Option<HostRef> {
        let config = cluster.subsets.as_ref()?;
        let Some(asked) = context.metadata_match else { return self.fall_back(config, cluster, context) };
        match asked.alternatives() {
            Some(alternatives) if config.asks_alternatives => {
                alternatives.iter().find_map(|labels| self.choose_of(config, cluster, labels, context))
            }
            _ => self.choose_of(config, cluster, asked.labels(), context),
        }
    }

    fn choose_of(
        &mut self,
        config: &SubsetConfig,
        cluster: &Cluster,
        asked: &Labels,
        context: &LoadBalancerContext<'_>,
    ) -> Option<HostRef> {
        let without_redundant = if config.allow_redundant_keys { config.without_redundant(asked) } else { None };
        let labels = without_redundant.as_ref().unwrap_or(asked);
        if let Some(subset) = self.by_labels.get_mut(labels) {
            cluster.stats.lb_subsets_selected.inc();
            return subset.turns.choose(&cluster.stats, context);
        }
        let selector = config.selectors.iter().find(|selector| selector.is_for(labels));
        match selector.and_then(|selector| selector.fallback.as_ref()) {
            None => self.fall_back(config, cluster, context),
            Some(SelectorFallback::Of(Fallback::Nothing)) => None,
            Some(SelectorFallback::Of(Fallback::AnyHost)) => self.any.choose(&cluster.stats, context),
            Some(SelectorFallback::Of(Fallback::DefaultSubset)) => self.default.choose(&cluster.stats, context),
            Some(SelectorFallback::Keys(keys)) => self.choose_of(config, cluster, &labels.only(keys), context),
        }
    }

    fn fall_back(
        &mut self,
        config: &SubsetConfig,
        cluster: &Cluster,
        context: &LoadBalancerContext<'_>,
    ) -> Option<HostRef> {
        let host = match config.fallback {
            Fallback::Nothing => return None,
            Fallback::AnyHost => self.any.choose(&cluster.stats, context),
            Fallback::DefaultSubset => self.default.choose(&cluster.stats, context),
        };
        if host.is_some() {
            cluster.stats.lb_subsets_fallback.inc();
            return host;
        }
        let host = if config.panic_mode_any { self.any.choose(&cluster.stats, context) } else { None };
        if host.is_some() {
            cluster.stats.lb_subsets_fallback_panic.inc();
        }
        host
    }
}

impl SubsetConfig {
    /// The labels that the first selector names of which the request asks for all.
    fn without_redundant(&self, asked: &Labels) -> Option<Labels> {
        let reduced = self.selectors.iter().map(|selector| (selector, asked.only(&selector.keys)));
        reduced.into_iter().find(|(selector, labels)| selector.is_for(labels)).map(|(_, labels)| labels)
    }
}

/// The hosts of each subset.
fn sorted(config: &SubsetConfig, hosts: &[HostRef]) -> HashMap<Labels, Vec<HostRef>> {
    let mut sorted: HashMap<Labels, Vec<HostRef>> = HashMap::new();
    let mut duplicates = 0;
    for host in hosts {
        let Some(labels) = labels_of(host) else { continue };
        for selector in &config.selectors {
            for labels in Labels::of_host(labels, &selector.keys, config.lists) {
                match sorted.entry(labels) {
                    Entry::Occupied(_) if selector.single_host => duplicates += 1,
                    entry => entry.or_default().push(host.clone()),
                }
            }
        }
    }
    config.duplicates.set(duplicates);
    sorted
}

fn labels_of(host: &HostRef) -> Option<&proto::Struct> {
    host.endpoint.metadata.as_ref()?.filter_metadata.get(LOAD_BALANCING)
}
