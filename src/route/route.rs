//! A route: what it matches, what it does then.

use super::{
    Context, NamedStats, Redirect,
    action::Action,
    cluster_specifier::ClusterSpecifier,
    filter_configs::FilterConfigs,
    mutations::{Lists, Mutations},
    rewrite::Matched,
    route_match::RouteMatch,
    virtual_host::buffer_limit,
};
use crate::{config::Field, proto, stream_info::HeaderCapture};

/// A compiled `envoy.config.route.v3.Route`.
#[derive(Debug)]
pub struct Route {
    /// `%ROUTE_NAME%`; empty if the configuration gives none.
    pub name: String,
    /// What to do with the request.
    pub action: Action,
    pub(super) buffer_limit: Option<usize>,
    /// `stat_prefix`
    pub(super) stats: Option<NamedStats>,
    pub(super) mutations: Mutations,
    pub(super) filters: FilterConfigs,
    pub(super) matcher: RouteMatch,
}

impl Route {
    pub(super) fn from_proto(proto: &proto::route::Route, context: &Context<'_>, field: Field<'_>) -> Option<Route> {
        let proto::route::Route {
            name,
            r#match,
            action,
            metadata,
            decorator,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            tracing,
            per_request_buffer_limit_bytes,
            stat_prefix,
            request_body_buffer_limit,
            route_specifiers,
        } = proto;
        field.unsupported("route_specifiers", route_specifiers);
        field.ignored("metadata", metadata, "nothing reads it");
        field.ignored("decorator", decorator, "requests are not traced yet");
        field.ignored("tracing", tracing, "requests are not traced yet");
        let lists = Lists {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
        };
        let mutations = Mutations::from_proto(&lists, field);
        let matcher = r#match.as_ref().and_then(|proto| RouteMatch::from_proto(proto, field.key("match")));
        // The action is checked even if the match is wrong.
        let replaced = matcher.as_ref().map_or(Matched::Path, |matcher| matcher.path().matched());
        let action = action.as_ref().and_then(|proto| Action::from_proto(proto, replaced, context, field));
        Some(Route {
            name: name.clone(),
            action: action?,
            buffer_limit: buffer_limit(*per_request_buffer_limit_bytes, *request_body_buffer_limit),
            stats: (!stat_prefix.is_empty()).then(|| NamedStats::new(stat_prefix, &context.scope.scope("route"))),
            mutations,
            filters: FilterConfigs::from_proto(
                typed_per_filter_config,
                field.key("typed_per_filter_config"),
                context.filters,
            ),
            matcher: matcher?,
        })
    }

    /// Adds the request headers that it needs for the headers of responses.
    pub(super) fn capture(&self, capture: &mut HeaderCapture) {
        self.mutations.response.capture(capture);
        if let Action::Forward(forward) = &self.action
            && let ClusterSpecifier::Weighted(clusters) = &forward.cluster
        {
            for cluster in clusters.iter() {
                cluster.mutations.response.capture(capture);
            }
        }
    }

    /// Whether no request with a path that it accepts goes on to the next route.
    pub(super) fn takes_all_of_its_path(&self) -> bool {
        self.matcher.is_path_only()
            && !matches!(&self.action, Action::Forward(forward) if forward.cluster.may_decline())
    }

    /// The route of a request that `require_tls` sends away.
    pub(super) fn https_redirect() -> Route {
        Route {
            name: String::new(),
            action: Action::Redirect(Redirect::to_https()),
            buffer_limit: None,
            stats: None,
            mutations: Mutations::default(),
            filters: FilterConfigs::default(),
            matcher: RouteMatch::any(),
        }
    }
}
