//! A draw among several clusters (`weighted_clusters`), by random, or by a number that a request header brings.

use http::{HeaderName, HeaderValue};

use super::{
    Context,
    cluster_specifier::Target,
    filter_configs::FilterConfigs,
    hash_policy::HashPolicies,
    mutations::{Lists, Mutations},
    rewrite::literal_host,
    route_match::Subject,
};
use crate::{
    config::Field,
    matcher::MetadataMatch,
    proto::{self, BoolValue},
    runtime::{self, Runtime},
};

/// `weighted_clusters`
#[derive(Debug)]
pub(super) struct WeightedClusters {
    clusters: Vec<WeightedCluster>,
    /// As configured.
    total: u64,
    /// What decides in place of the random number, where a request has it.
    number: Option<Number>,
    /// Whether the runtime may change weights.
    has_runtime_weights: bool,
}

#[derive(Debug)]
enum Number {
    Header(HeaderName),
    Hash(HashPolicies),
}

/// One of several clusters, with what only its share of the requests gets.
#[derive(Debug)]
pub(super) struct WeightedCluster {
    pub(super) target: Target,
    pub(super) mutations: Mutations,
    pub(super) filters: FilterConfigs,
    pub(super) host: Option<HeaderValue>,
    /// With what the route asks for.
    pub(super) metadata_match: Option<MetadataMatch>,
    weight: u32,
    /// The runtime key of the weight; empty if there is none.
    weight_key: String,
}

impl WeightedClusters {
    pub(super) fn from_proto(
        proto: &proto::route::WeightedCluster,
        hash_policy: &[proto::route::route_action::HashPolicy],
        context: &Context<'_>,
        action: Field<'_>,
    ) -> Option<WeightedClusters> {
        use proto::route::weighted_cluster::RandomValueSpecifier;

        let field = action.key("weighted_clusters");
        let proto::route::WeightedCluster { clusters, total_weight, runtime_key_prefix, random_value_specifier } =
            proto;
        field.ignored("total_weight", total_weight, "the total is the sum of the weights");
        let number = match random_value_specifier {
            Some(RandomValueSpecifier::HeaderName(name)) => {
                HeaderName::from_bytes(name.as_bytes()).ok().map(Number::Header)
            }
            Some(RandomValueSpecifier::UseHashPolicy(BoolValue { value: true })) => {
                Some(Number::Hash(HashPolicies::from_proto(hash_policy, action.key("hash_policy"))))
            }
            Some(RandomValueSpecifier::UseHashPolicy(BoolValue { value: false })) | None => None,
        };
        let list = field.key("clusters");
        let count = clusters.len();
        let clusters: Vec<_> = clusters
            .iter()
            .enumerate()
            .filter_map(|(i, cluster)| WeightedCluster::from_proto(cluster, runtime_key_prefix, context, list.index(i)))
            .collect();
        let total = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
        if clusters.len() == count && (total == 0 || total > u64::from(u32::MAX)) {
            list.error(format!("the sum of the weights must be 1 to {}", u32::MAX));
        }
        let has_runtime_weights = !runtime_key_prefix.is_empty();
        (total > 0).then_some(WeightedClusters { clusters, total, number, has_runtime_weights })
    }

    /// What the route asks of hosts; what a cluster says itself goes before.
    pub(super) fn inherit(&mut self, route: &MetadataMatch) {
        for cluster in &mut self.clusters {
            cluster.metadata_match = MetadataMatch::layered(Some(route), cluster.metadata_match.take());
        }
    }

    /// Whether every request gets a cluster: the runtime may set all weights to zero.
    pub(super) fn always_has_one(&self) -> bool {
        !self.has_runtime_weights
    }

    /// The index of the cluster for a request; None if all weights are zero.
    pub(super) fn draw<B>(&self, subject: &Subject<'_, B>) -> Option<usize> {
        let number = match &self.number {
            Some(Number::Header(name)) => {
                let value = subject.request.headers().get(name).and_then(|value| value.to_str().ok());
                value.and_then(|value| value.trim().parse().ok())
            }
            Some(Number::Hash(policies)) => policies.hash(subject.request, subject.info),
            None => None,
        };
        let random = number.unwrap_or(subject.random);
        let runtime = self.has_runtime_weights.then_some(subject.runtime);
        let total = match runtime {
            None => self.total,
            Some(_) => self.clusters.iter().map(|cluster| cluster.weight(runtime)).sum(),
        };
        let mut place = random.checked_rem(total)?;
        self.clusters.iter().position(|cluster| {
            let weight = cluster.weight(runtime);
            let here = place < weight;
            place = place.saturating_sub(weight);
            here
        })
    }

    pub(super) fn get(&self, index: usize) -> &WeightedCluster {
        &self.clusters[index]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &WeightedCluster> {
        self.clusters.iter()
    }
}

impl WeightedCluster {
    fn from_proto(
        proto: &proto::route::weighted_cluster::ClusterWeight,
        runtime_key_prefix: &str,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<WeightedCluster> {
        use proto::route::weighted_cluster::cluster_weight::HostRewriteSpecifier;

        let proto::route::weighted_cluster::ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = proto;
        let target = match (name.is_empty(), cluster_header.is_empty()) {
            (false, true) => Target::named(name, context, field.key("name")),
            (true, false) => Target::header(cluster_header, field.key("cluster_header")),
            _ => {
                field.error("must have exactly one of name and cluster_header");
                None
            }
        };
        let lists = Lists {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
        };
        Some(WeightedCluster {
            weight: field.required("weight", weight).map_or(0, |weight| weight.value),
            weight_key: format!("{runtime_key_prefix}.{name}"),
            mutations: Mutations::from_proto(&lists, field),
            filters: FilterConfigs::from_proto(
                typed_per_filter_config,
                field.key("typed_per_filter_config"),
                context.filters,
            ),
            host: host_rewrite_specifier.as_ref().and_then(|HostRewriteSpecifier::HostRewriteLiteral(host)| {
                literal_host(host, field.key("host_rewrite_literal"))
            }),
            metadata_match: MetadataMatch::from_proto(metadata_match.as_ref()),
            target: target?,
        })
    }

    /// The weight, or what the runtime says it is.
    fn weight(&self, runtime: Option<&Runtime>) -> u64 {
        let changed = runtime.and_then(|runtime| runtime.get(&self.weight_key)).and_then(runtime::Value::integer);
        changed.unwrap_or(self.weight.into())
    }
}
