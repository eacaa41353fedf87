//! `RouteConfiguration`: what matches, and what to do then.
//!
//! The connection manager asks [`RouteConfiguration::find`] for the first route whose match accepts a request, and keeps the
//! answer as a [`RouteRef`]; the router asks that for the cluster and lets it change the messages on their way. Everything here
//! is immutable once built: matchers, rewrites and header values are compiled when the configuration is loaded. What Envoy's
//! own schema demands has been checked by then, and a message that breaks its rules is refused whatever becomes of it here.

mod action;
mod cluster_specifier;
mod direct_response;
mod domains;
mod filter_configs;
mod hash_policy;
mod internal_redirect;
mod match_input;
mod mirror;
mod mutations;
mod path_index;
mod path_match;
mod redirect;
mod registered;
mod retry_policy;
mod rewrite;
#[allow(clippy::module_inception, reason = "the file of the type that Envoy calls Route")]
mod route;
mod route_match;
mod route_ref;
mod stats;
mod virtual_host;
mod weighted_clusters;

use std::{collections::HashSet, sync::Arc};

use http::{HeaderName, Request};

pub use action::{Action, Forward, GrpcTimeout, MaxStreamDuration, UpgradeConfig};
pub use direct_response::DirectResponse;
pub use filter_configs::{FilterSettings, FilterSettingsFactory, Switch};
pub use internal_redirect::{InternalRedirectPolicy, RedirectPredicate};
pub use mirror::MirrorPolicy;
pub use redirect::Redirect;
pub use registered::{RegisteredRoute, RegisteredRoutes, RouteKey};
pub use retry_policy::{BackOff, HostPredicate, ResetFormat, ResetHeader, RetryOn, RetryPolicy};
pub use route::Route;
pub use route_ref::{Lookup, Originals, RoutePlace, RouteRef};
pub use stats::{CountedBy, NamedStats, RequestStats};
pub use virtual_host::AttemptHeaders;

use crate::{
    config::Field,
    http::headers::X_ENVOY_INTERNAL,
    proto,
    stats::{Registry, Scope},
    stream_info::HeaderCapture,
};
use cluster_specifier::ClusterSpecifier;
use domains::Domains;
use filter_configs::{FilterConfigs, Known};
use mutations::{Lists, Mutations};
use virtual_host::VirtualHost;

/// A compiled `envoy.config.route.v3.RouteConfiguration`.
#[derive(Debug)]
pub struct RouteConfiguration {
    name: String,
    domains: Domains,
    virtual_hosts: Vec<VirtualHost>,
    mutations: Mutations,
    filters: FilterConfigs,
    internal_only_headers: Vec<HeaderName>,
    mirror_policies: Vec<MirrorPolicy>,
    most_specific_header_mutations_wins: bool,
    ignore_path_parameters: bool,
    capture: HeaderCapture,
}

/// What a route configuration is made with.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The clusters that there are.
    pub cluster_names: &'a HashSet<Arc<str>>,
    /// Where its statistics are made.
    pub stats: &'a Arc<Registry>,
    /// The settings of filters that it can hold.
    pub filter_settings: &'a [FilterSettingsFactory],
}

/// What conversions below need to know of the whole.
#[derive(Clone, Copy)]
struct Context<'a> {
    /// `vhost.`
    scope: &'a Scope,
    cluster_names: &'a HashSet<Arc<str>>,
    validate_clusters: bool,
    plugins: &'a [proto::route::ClusterSpecifierPlugin],
    max_direct_response_body: usize,
    filters: Known<'a>,
}

impl RouteConfiguration {
    /// Compiles a route configuration. Unless it says otherwise by `validate_clusters`, a route to a cluster that does not
    /// exist is an error.
    #[must_use]
    pub fn from_proto(
        proto: &proto::route::RouteConfiguration,
        field: Field<'_>,
        surroundings: Surroundings<'_>,
    ) -> RouteConfiguration {
        let proto::route::RouteConfiguration {
            name,
            virtual_hosts,
            vhds,
            internal_only_headers,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            request_headers_to_remove,
            most_specific_header_mutations_wins,
            validate_clusters,
            max_direct_response_body_size_bytes,
            cluster_specifier_plugins,
            request_mirror_policies,
            ignore_port_in_host_matching,
            vhost_header,
            ignore_path_parameters_in_path_matching,
            typed_per_filter_config,
            metadata,
            route_specifiers,
        } = proto;
        field.unsupported("vhds", vhds);
        field.unsupported("route_specifiers", route_specifiers);
        field.ignored("metadata", metadata, "nothing reads it");
        let plugin_list = field.key("cluster_specifier_plugins");
        for (i, plugin) in cluster_specifier_plugins.iter().enumerate() {
            ClusterSpecifier::of_plugin(plugin, plugin_list.index(i));
        }

        let Surroundings { cluster_names, stats, filter_settings } = surroundings;
        let context = Context {
            scope: &stats.scope("vhost"),
            cluster_names,
            validate_clusters: validate_clusters.as_ref().is_none_or(|validate| validate.value),
            plugins: cluster_specifier_plugins,
            max_direct_response_body: max_direct_response_body_size_bytes
                .as_ref()
                .map_or(DEFAULT_MAX_DIRECT_RESPONSE_BODY, |limit| limit.value as usize),
            filters: Known { kinds: filter_settings, stats },
        };
        let lists = Lists {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
        };
        let list = field.key("virtual_hosts");
        let mut configuration = RouteConfiguration {
            name: name.clone(),
            domains: Domains::from_proto(virtual_hosts, list)
                .ignoring_port(*ignore_port_in_host_matching)
                .named_by(header_name(vhost_header, field.key("vhost_header"))),
            virtual_hosts: virtual_hosts
                .iter()
                .enumerate()
                .map(|(i, host)| VirtualHost::from_proto(host, &context, list.index(i)))
                .collect(),
            mutations: Mutations::from_proto(&lists, field),
            filters: FilterConfigs::from_proto(
                typed_per_filter_config,
                field.key("typed_per_filter_config"),
                context.filters,
            ),
            internal_only_headers: header_names(internal_only_headers, field.key("internal_only_headers")),
            mirror_policies: MirrorPolicy::list_from_proto(
                request_mirror_policies,
                &context,
                field.key("request_mirror_policies"),
            ),
            most_specific_header_mutations_wins: *most_specific_header_mutations_wins,
            ignore_path_parameters: *ignore_path_parameters_in_path_matching,
            capture: HeaderCapture::default(),
        };
        configuration.capture = configuration.captured_headers();
        configuration
    }

    /// The name by which listeners refer to it and `/config_dump` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the headers that only internal clients may send (`internal_only_headers`), unless the client is one.
    pub fn remove_internal_only<B>(&self, request: &mut Request<B>) {
        if !self.internal_only_headers.is_empty() && !is_internal(request) {
            for name in &self.internal_only_headers {
                request.headers_mut().remove(name);
            }
        }
    }

    /// The request headers that must be kept until the response for the values of its headers.
    #[must_use]
    pub fn capture(&self) -> &HeaderCapture {
        &self.capture
    }

    fn captured_headers(&self) -> HeaderCapture {
        let mut capture = HeaderCapture::default();
        self.mutations.response.capture(&mut capture);
        for virtual_host in &self.virtual_hosts {
            virtual_host.capture(&mut capture);
        }
        capture
    }
}

/// What the connection manager has found out of the client's address.
fn is_internal<B>(request: &Request<B>) -> bool {
    request.headers().get(X_ENVOY_INTERNAL).is_some_and(|value| value == "true")
}

fn header_names(names: &[String], field: Field<'_>) -> Vec<HeaderName> {
    let names = names.iter().enumerate();
    names.filter_map(|(i, name)| header_name(name, field.index(i))).collect()
}

fn header_name(name: &str, field: Field<'_>) -> Option<HeaderName> {
    if name.is_empty() {
        return None;
    }
    let header = HeaderName::from_bytes(name.as_bytes()).ok();
    if header.is_none() {
        field.error("not a valid header name");
    }
    header
}

const DEFAULT_MAX_DIRECT_RESPONSE_BODY: usize = 4096;

#[cfg(test)]
mod tests;
