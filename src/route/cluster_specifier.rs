//! Which cluster a route forwards to (`cluster_specifier`): a name, a draw by weight, a request header, a registration.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Name;

use super::{
    Context,
    mutations::{Lists, Mutations},
    rewrite::literal_host,
};
use crate::{config::Field, proto};

/// How the cluster of a forwarded request is found.
#[derive(Debug)]
pub(super) enum ClusterSpecifier {
    One(Target),
    Weighted(WeightedClusters),
    /// `portreeve.registration.v1.RegisteredRoutes`: the cluster of the registered route that matches.
    Registered,
}

/// A cluster by its name, or by a header that names it.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    Header(HeaderName),
}

impl Target {
    pub(super) fn name<'a>(&'a self, headers: &'a HeaderMap) -> Option<&'a str> {
        match self {
            Target::Name(name) => Some(name),
            Target::Header(header) => headers.get(header)?.to_str().ok(),
        }
    }

    fn named(name: &str, context: &Context<'_>, field: Field<'_>) -> Option<Target> {
        if context.validate_clusters && !context.cluster_names.contains(name) {
            field.error(format!("there is no cluster {name:?}"));
            return None;
        }
        Some(Target::Name(name.into()))
    }

    fn header(name: &str, field: Field<'_>) -> Option<Target> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok();
        if name.is_none() {
            field.error("not a valid header name");
        }
        name.map(Target::Header)
    }
}

impl ClusterSpecifier {
    /// Whether the route does not match where there is no cluster.
    pub(super) fn may_decline(&self) -> bool {
        matches!(self, ClusterSpecifier::Registered)
    }

    pub(super) fn from_proto(
        proto: &proto::route::route_action::ClusterSpecifier,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<ClusterSpecifier> {
        use proto::route::route_action::ClusterSpecifier as Proto;

        match proto {
            Proto::Cluster(name) => Target::named(name, context, field.key("cluster")).map(ClusterSpecifier::One),
            Proto::ClusterHeader(name) => Target::header(name, field.key("cluster_header")).map(ClusterSpecifier::One),
            Proto::WeightedClusters(clusters) => {
                WeightedClusters::from_proto(clusters, context, field.key("weighted_clusters"))
                    .map(ClusterSpecifier::Weighted)
            }
            Proto::ClusterSpecifierPlugin(name) => {
                let named = |plugin: &&proto::route::ClusterSpecifierPlugin| {
                    plugin.extension.as_ref().is_some_and(|extension| extension.name == *name)
                };
                // What the plugin is has been checked where it stands.
                if !context.plugins.iter().any(|plugin| named(&plugin)) {
                    field
                        .key("cluster_specifier_plugin")
                        .error(format!("there is no cluster specifier plugin {name:?}"));
                }
                Some(ClusterSpecifier::Registered)
            }
            Proto::InlineClusterSpecifierPlugin(plugin) => {
                check_plugin(plugin, field.key("inline_cluster_specifier_plugin"));
                Some(ClusterSpecifier::Registered)
            }
        }
    }
}

/// The only cluster specifier plugin there is looks up registered routes and has no settings.
pub(super) fn check_plugin(proto: &proto::route::ClusterSpecifierPlugin, field: Field<'_>) {
    let proto::route::ClusterSpecifierPlugin { extension, is_optional } = proto;
    field.ignored("is_optional", is_optional, "a plugin that is not known here is always an error");
    let Some(proto::core::TypedExtensionConfig { name, typed_config }) = field.required("extension", extension) else {
        return;
    };
    let field = field.key("extension");
    if name.is_empty() {
        field.key("name").error("is required");
    }
    let Some(config) = field.required("typed_config", typed_config) else { return };
    let field = field.key("typed_config");
    match config.type_url.rsplit('/').next() {
        Some(other) if other != proto::registration::RegisteredRoutes::full_name() => {
            field.error(format!("{other}: valid in Envoy, not implemented by Portreeve yet"));
        }
        // It has no settings.
        _ => drop(field.unpack::<proto::registration::RegisteredRoutes>(config)),
    }
}

/// `weighted_clusters`
#[derive(Debug)]
pub(super) struct WeightedClusters {
    clusters: Vec<WeightedCluster>,
    total: u64,
}

/// One of several clusters, with what only its share of the requests gets.
#[derive(Debug)]
pub(super) struct WeightedCluster {
    pub(super) target: Target,
    pub(super) mutations: Mutations,
    pub(super) host: Option<HeaderValue>,
    weight: u32,
}

impl WeightedClusters {
    fn from_proto(
        proto: &proto::route::WeightedCluster,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<WeightedClusters> {
        use proto::route::weighted_cluster::RandomValueSpecifier;

        let proto::route::WeightedCluster { clusters, total_weight, runtime_key_prefix, random_value_specifier } =
            proto;
        field.ignored("total_weight", total_weight, "the total is the sum of the weights");
        field.ignored("runtime_key_prefix", runtime_key_prefix, "there is no runtime configuration");
        match random_value_specifier {
            None => {}
            Some(RandomValueSpecifier::HeaderName(name)) => field.unsupported("header_name", name),
            Some(RandomValueSpecifier::UseHashPolicy(hash)) => field.unsupported("use_hash_policy", &hash.value),
        }
        let list = field.key("clusters");
        let count = clusters.len();
        let clusters: Vec<_> = clusters
            .iter()
            .enumerate()
            .filter_map(|(i, cluster)| WeightedCluster::from_proto(cluster, context, list.index(i)))
            .collect();
        let total = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
        if clusters.len() == count && (total == 0 || total > u64::from(u32::MAX)) {
            list.error(format!("the sum of the weights must be 1 to {}", u32::MAX));
        }
        (total > 0).then_some(WeightedClusters { clusters, total })
    }

    /// The index of the cluster that `random` falls upon.
    pub(super) fn draw(&self, random: u64) -> usize {
        let mut place = random % self.total;
        let fallen = self.clusters.iter().position(|cluster| {
            let weight = u64::from(cluster.weight);
            let here = place < weight;
            place = place.saturating_sub(weight);
            here
        });
        fallen.expect("invariant: place is below the sum of the weights")
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
        field.unsupported("metadata_match", metadata_match);
        super::filter_configs_unsupported("typed_per_filter_config", typed_per_filter_config, field);
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
            mutations: Mutations::from_proto(&lists, field),
            host: host_rewrite_specifier.as_ref().and_then(|HostRewriteSpecifier::HostRewriteLiteral(host)| {
                literal_host(host, field.key("host_rewrite_literal"))
            }),
            target: target?,
        })
    }
}
