//! Which cluster a route forwards to (`cluster_specifier`): a name, a draw by weight, a request header, a registration, a matcher tree.

use std::sync::Arc;

use prost::Name;

use super::{Context, match_input::RequestInput, weighted_clusters::WeightedClusters};
use crate::{
    config::{Field, Report},
    matcher::{KeepMatching, MatchTree, MetadataMatch, RequestHead, RequestHeader},
    proto::{
        self,
        matcher_cluster_specifier::{ClusterAction, MatcherClusterSpecifier},
    },
};

/// How the cluster of a forwarded request is found.
#[derive(Debug)]
pub(super) enum ClusterSpecifier {
    One(Target),
    Weighted(WeightedClusters),
    /// `MatcherClusterSpecifier`: the cluster that a matcher tree chooses.
    Tree(MatchTree<RequestInput, Arc<str>>),
    /// A plugin that is not known here and may be missing: the route does not match.
    Missing,
    /// `portreeve.registration.v1.RegisteredRoutes`: the cluster of the registered route that matches.
    Registered,
}

/// A cluster by its name, or by a header that names it.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    Header(RequestHeader),
}

impl Target {
    pub(super) fn name<'a>(&'a self, request: RequestHead<'a>) -> Option<&'a str> {
        match self {
            Target::Name(name) => Some(name),
            Target::Header(header) => str::from_utf8(header.first(request)?).ok(),
        }
    }

    pub(super) fn named(name: &str, context: &Context<'_>, field: Field<'_>) -> Option<Target> {
        if context.validate_clusters && !context.cluster_names.contains(name) {
            field.error(format!("there is no cluster {name:?}"));
            return None;
        }
        Some(Target::Name(name.into()))
    }

    pub(super) fn header(name: &str, field: Field<'_>) -> Option<Target> {
        let name = RequestHeader::new(name);
        if name.is_none() {
            field.error("not a valid header name");
        }
        name.map(Target::Header)
    }
}

impl ClusterSpecifier {
    /// Whether the hash policy of the route decides among weighted clusters.
    pub(super) fn is_drawn_by_hash(proto: &proto::route::route_action::ClusterSpecifier) -> bool {
        use proto::route::{route_action::ClusterSpecifier as Proto, weighted_cluster::RandomValueSpecifier};

        matches!(proto, Proto::WeightedClusters(clusters) if matches!(
            clusters.random_value_specifier, Some(RandomValueSpecifier::UseHashPolicy(proto::BoolValue { value: true }))
        ))
    }

    /// The clusters among which one is drawn.
    pub(super) fn weighted(&self) -> Option<&WeightedClusters> {
        if let ClusterSpecifier::Weighted(clusters) = self { Some(clusters) } else { None }
    }

    /// The same where what the route asks of hosts holds of weighted clusters, too, as far as they do not say otherwise.
    pub(super) fn inheriting(mut self, metadata_match: Option<&MetadataMatch>) -> ClusterSpecifier {
        if let (ClusterSpecifier::Weighted(clusters), Some(metadata_match)) = (&mut self, metadata_match) {
            clusters.inherit(metadata_match);
        }
        self
    }

    /// Whether the route does not match where there is no cluster.
    pub(super) fn may_decline(&self) -> bool {
        !matches!(self, ClusterSpecifier::One(_) | ClusterSpecifier::Tree(_))
            && !matches!(self, ClusterSpecifier::Weighted(clusters) if clusters.always_has_one())
    }

    pub(super) fn from_proto(
        proto: &proto::route::route_action::ClusterSpecifier,
        hash_policy: &[proto::route::route_action::HashPolicy],
        context: &Context<'_>,
        field: Field<'_>,
    ) -> Option<ClusterSpecifier> {
        use proto::route::route_action::ClusterSpecifier as Proto;

        match proto {
            Proto::Cluster(name) => Target::named(name, context, field.key("cluster")).map(ClusterSpecifier::One),
            Proto::ClusterHeader(name) => Target::header(name, field.key("cluster_header")).map(ClusterSpecifier::One),
            Proto::WeightedClusters(clusters) => {
                WeightedClusters::from_proto(clusters, hash_policy, context, field).map(ClusterSpecifier::Weighted)
            }
            Proto::ClusterSpecifierPlugin(name) => {
                let named = |plugin: &&proto::route::ClusterSpecifierPlugin| {
                    plugin.extension.as_ref().is_some_and(|extension| extension.name == *name)
                };
                let Some(plugin) = context.plugins.iter().find(named) else {
                    let field = field.key("cluster_specifier_plugin");
                    field.error(format!("Unknown cluster specifier plugin name: {name} is used in the route"));
                    return None;
                };
                // What is wrong with it is told where it stands.
                ClusterSpecifier::of_plugin(plugin, Field::root(&Report::new()))
            }
            Proto::InlineClusterSpecifierPlugin(plugin) => {
                ClusterSpecifier::of_plugin(plugin, field.key("inline_cluster_specifier_plugin"))
            }
        }
    }

    /// The cluster that a plugin chooses, of the two that there are.
    pub(super) fn of_plugin(
        proto: &proto::route::ClusterSpecifierPlugin,
        field: Field<'_>,
    ) -> Option<ClusterSpecifier> {
        let proto::route::ClusterSpecifierPlugin { extension, is_optional } = proto;
        let proto::core::TypedExtensionConfig { name, typed_config } = field.required("extension", extension)?;
        let field = field.key("extension");
        if name.is_empty() {
            field.key("name").error("is required");
        }
        let config = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let found = config.type_url.rsplit('/').next().unwrap_or_default();
        if found == proto::registration::RegisteredRoutes::full_name() {
            let proto::registration::RegisteredRoutes {} = field.unpack(config)?;
            return Some(ClusterSpecifier::Registered);
        }
        if found == MatcherClusterSpecifier::full_name() {
            let MatcherClusterSpecifier { cluster_matcher } = field.unpack(config)?;
            let tree = field.required("cluster_matcher", &cluster_matcher)?;
            let tree =
                MatchTree::from_proto(tree, field.key("cluster_matcher"), KeepMatching::Refused, &mut cluster_name);
            return tree.map(ClusterSpecifier::Tree);
        }
        if *is_optional {
            field.warning(format!("{found} is not implemented by Portreeve: routes that use it never match"));
            return Some(ClusterSpecifier::Missing);
        }
        field.error(format!("{found}: valid in Envoy, not implemented by Portreeve yet"));
        None
    }
}

/// The cluster that an action of a tree names.
fn cluster_name(action: &proto::xds_core::TypedExtensionConfig, field: Field<'_>) -> Option<Arc<str>> {
    let proto::xds_core::TypedExtensionConfig { name: _name, typed_config } = action;
    let any = field.required("typed_config", typed_config)?;
    let ClusterAction { cluster } = field.key("typed_config").unpack(any)?;
    Some(cluster.into())
}
