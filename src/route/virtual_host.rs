//! A virtual host: the routes of one set of domains.

use std::ops::Range;

use http::{HeaderValue, Request};
use prost::Name;

use super::{
    Context, MirrorPolicy, NamedStats, RetryPolicy,
    filter_configs::FilterConfigs,
    match_input::RequestInput,
    mutations::{Lists, Mutations},
    path_index::{PathIndex, first_at_or_after},
    retry_policy::hedge_on_per_try_timeout,
    route::Route,
    route_match::Subject,
    stats::VirtualClusters,
};
use crate::{
    config::Field,
    http::headers::{X_ENVOY_INTERNAL, X_FORWARDED_PROTO},
    matcher::{KeepMatching, MatchTree},
    proto::{self, route::virtual_host::TlsRequirementType},
    stream_info::HeaderCapture,
};

/// A compiled `envoy.config.route.v3.VirtualHost`.
#[derive(Debug)]
pub(super) struct VirtualHost {
    name: String,
    routes: Vec<Route>,
    /// `matcher`: which of the routes are asked, where they are not asked in order.
    tree: Option<RouteTree>,
    /// Routes whose path match is text, by that text.
    by_text: PathIndex,
    /// Those that ignore case, by their text in lower case.
    by_lowercase: PathIndex,
    /// The others.
    unindexed: Vec<u32>,
    require_tls: TlsRequirementType,
    https_redirect: Route,
    virtual_clusters: VirtualClusters,
    pub(super) mutations: Mutations,
    pub(super) filters: FilterConfigs,
    pub(super) mirror_policies: Vec<MirrorPolicy>,
    pub(super) retry_policy: Option<RetryPolicy>,
    pub(super) hedge_on_per_try_timeout: Option<bool>,
    pub(super) buffer_limit: Option<usize>,
    pub(super) attempt_headers: AttemptHeaders,
}

/// A tree whose actions are routes: those at these places.
type RouteTree = MatchTree<RequestInput, Range<u32>>;

/// Which headers tell of the attempts at a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttemptHeaders {
    /// `x-envoy-attempt-count` upstream.
    pub count_in_request: bool,
    /// `x-envoy-attempt-count` downstream.
    pub count_in_response: bool,
    /// `x-envoy-is-timeout-retry` on further attempts.
    pub timeout_retry: bool,
}

/// How much of a request's body is kept for further attempts, in bytes: the newer of both settings, or else the older one, which
/// cannot raise the limit.
pub(super) fn buffer_limit(
    per_request_buffer_limit_bytes: Option<proto::UInt32Value>,
    request_body_buffer_limit: Option<proto::UInt64Value>,
) -> Option<usize> {
    match (request_body_buffer_limit, per_request_buffer_limit_bytes) {
        (Some(limit), _) => Some(usize::try_from(limit.value).unwrap_or(usize::MAX)),
        (None, Some(limit)) => Some(DEFAULT_BUFFER_LIMIT.min(limit.value as usize)),
        (None, None) => None,
    }
}

/// As much of a body is kept unless a setting says otherwise.
pub(super) const DEFAULT_BUFFER_LIMIT: usize = 1024 * 1024;

/// Which route of a virtual host.
#[derive(Clone, Copy, Debug)]
pub(super) enum RouteIndex {
    Configured(u32),
    /// The redirect that `require_tls` asks for.
    HttpsRedirect,
}

impl VirtualHost {
    pub(super) fn from_proto(
        proto: &proto::route::VirtualHost,
        context: &Context<'_>,
        field: Field<'_>,
    ) -> VirtualHost {
        // The domains are read by `Domains`, which needs those of all virtual hosts.
        let proto::route::VirtualHost {
            name,
            domains: _domains,
            routes,
            matcher,
            require_tls,
            virtual_clusters,
            rate_limits,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            cors,
            typed_per_filter_config,
            include_request_attempt_count,
            include_attempt_count_in_response,
            retry_policy,
            retry_policy_typed_config,
            hedge_policy,
            include_is_timeout_retry_header,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
            request_mirror_policies,
            metadata,
            route_specifiers,
        } = proto;
        field.ignored("rate_limits", rate_limits, "there is no filter that limits rates");
        field.unsupported("route_specifiers", route_specifiers);
        field.ignored("cors", cors, "use the filter's own configuration");
        field.unsupported("retry_policy_typed_config", retry_policy_typed_config);
        field.ignored("metadata", metadata, "nothing reads it");
        let lists = Lists {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
        };
        let scope = context.scope.scope(name);
        let context = &Context { scope: &scope, ..*context };
        let list = field.key("routes");
        let mut converted: Vec<_> = routes
            .iter()
            .enumerate()
            .filter_map(|(i, route)| Route::from_proto(route, context, list.index(i)))
            .collect();
        let complete = converted.len() == routes.len();
        if matcher.is_some() && !routes.is_empty() {
            field.key("matcher").error("cannot set both matcher and routes on virtual host");
        }
        let tree = matcher.as_ref().and_then(|tree| route_tree(tree, context, &mut converted, field.key("matcher")));
        let virtual_cluster_list = field.key("virtual_clusters");
        let host = VirtualHost {
            tree,
            virtual_clusters: VirtualClusters::from_proto(virtual_clusters, &scope, virtual_cluster_list),
            require_tls: TlsRequirementType::try_from(*require_tls).unwrap_or(TlsRequirementType::All),
            mutations: Mutations::from_proto(&lists, field),
            filters: FilterConfigs::from_proto(
                typed_per_filter_config,
                field.key("typed_per_filter_config"),
                context.filters,
            ),
            mirror_policies: MirrorPolicy::list_from_proto(
                request_mirror_policies,
                context,
                field.key("request_mirror_policies"),
            ),
            retry_policy: retry_policy
                .as_ref()
                .map(|policy| RetryPolicy::from_proto(policy, field.key("retry_policy"))),
            hedge_on_per_try_timeout: hedge_on_per_try_timeout(hedge_policy, field.key("hedge_policy")),
            buffer_limit: buffer_limit(*per_request_buffer_limit_bytes, *request_body_buffer_limit),
            attempt_headers: AttemptHeaders {
                count_in_request: *include_request_attempt_count,
                count_in_response: *include_attempt_count_in_response,
                timeout_retry: *include_is_timeout_retry_header,
            },
            ..VirtualHost::with_routes(name.clone(), converted)
        };
        // Otherwise the numbers of the routes are not those of the document.
        if complete && host.tree.is_none() {
            host.warn_of_shadowed_routes(list);
        }
        host
    }

    /// Routes that can never match, because one before them takes all that they accept.
    fn warn_of_shadowed_routes(&self, list: Field<'_>) {
        for (i, route) in (0..).zip(&self.routes) {
            let path = route.matcher.path();
            let text = path.literal().map_or("/", |literal| literal.text.as_str());
            let covering = self.first(text, |j, other| {
                let takes_all = || other.matcher.path().covers(path) && other.takes_all_of_its_path();
                (j < i && takes_all()).then_some(j)
            });
            if let Some((_, earlier)) = covering {
                let place = list.index(i as usize);
                place.key("match").warning_beside(
                    "can never match: an earlier route takes all that it accepts",
                    &list.index(earlier as usize),
                );
            }
        }
    }

    fn with_routes(name: String, routes: Vec<Route>) -> VirtualHost {
        let indexed = |ignore_case: bool| {
            (0..).zip(&routes).filter_map(move |(i, route)| {
                let literal = route.matcher.path().literal().filter(|literal| literal.ignore_case == ignore_case)?;
                let text = if ignore_case { literal.text.to_ascii_lowercase() } else { literal.text.clone() };
                Some((i, text.into_bytes().into()))
            })
        };
        VirtualHost {
            name,
            tree: None,
            virtual_clusters: VirtualClusters::default(),
            by_text: PathIndex::new(indexed(false)),
            by_lowercase: PathIndex::new(indexed(true)),
            unindexed: (0..)
                .zip(&routes)
                .filter_map(|(i, route)| route.matcher.path().literal().is_none().then_some(i))
                .collect(),
            routes,
            require_tls: TlsRequirementType::None,
            https_redirect: Route::https_redirect(),
            mutations: Mutations::default(),
            filters: FilterConfigs::default(),
            mirror_policies: Vec::new(),
            retry_policy: None,
            hedge_on_per_try_timeout: None,
            buffer_limit: None,
            attempt_headers: AttemptHeaders::default(),
        }
    }

    /// The virtual cluster of a request.
    pub(super) fn virtual_cluster<B>(&self, request: &Request<B>) -> Option<&NamedStats> {
        self.virtual_clusters.find(request)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Adds the request headers that its routes need for the headers of responses.
    pub(super) fn capture(&self, capture: &mut HeaderCapture) {
        self.mutations.response.capture(capture);
        for route in &self.routes {
            route.capture(capture);
        }
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = (u32, &Route)> {
        (0..).zip(&self.routes)
    }

    pub(super) fn route(&self, index: RouteIndex) -> &Route {
        match index {
            RouteIndex::Configured(index) => &self.routes[index as usize],
            RouteIndex::HttpsRedirect => &self.https_redirect,
        }
    }

    /// Whether `require_tls` sends the request away.
    pub(super) fn wants_https<B>(&self, request: &Request<B>) -> bool {
        let is = |name, value| request.headers().get(name).is_some_and(|found: &HeaderValue| found == value);
        let by_http = || !is(X_FORWARDED_PROTO, "https");
        match self.require_tls {
            TlsRequirementType::None => false,
            TlsRequirementType::ExternalOnly => by_http() && !is(X_ENVOY_INTERNAL, "true"),
            TlsRequirementType::All => by_http(),
        }
    }

    /// The first route that accepts a request and for which `choose` returns something, and that.
    pub(super) fn find<B, T>(
        &self,
        subject: &Subject<'_, B>,
        choose: impl Fn(&Route) -> Option<T>,
    ) -> Option<(RouteIndex, T)> {
        let accept = |_, route: &Route| if route.matcher.matches(subject) { choose(route) } else { None };
        let (index, choice) = match &self.tree {
            None => self.first(subject.path, accept)?,
            Some(tree) => {
                let mut places = tree.find(&subject.data())?.clone();
                places.find_map(|i| Some((i, accept(i, &self.routes[i as usize])?)))?
            }
        };
        Some((RouteIndex::Configured(index), choice))
    }

    /// The first route, among those whose text the path starts with and those that have none, for which `choose` returns
    /// something, and that.
    fn first<'r, T>(&'r self, path: &str, choose: impl Fn(u32, &'r Route) -> Option<T>) -> Option<(u32, T)> {
        let by_text = self.by_text.candidates(path.as_bytes());
        let lowercase = if self.by_lowercase.is_empty() { String::new() } else { path.to_ascii_lowercase() };
        let by_lowercase = self.by_lowercase.candidates(lowercase.as_bytes());
        let mut next = 0;
        loop {
            let unindexed = first_at_or_after(&self.unindexed, next);
            let index = [by_text.next(next), by_lowercase.next(next), unindexed].into_iter().flatten().min()?;
            let route = &self.routes[index as usize];
            if let Some(choice) = choose(index, route) {
                return Some((index, choice));
            }
            next = index + 1;
        }
    }
}

/// The tree of a virtual host; the routes of its actions are added to `routes`. As in Envoy, their clusters need not exist.
fn route_tree(
    proto: &proto::xds_matcher::Matcher,
    context: &Context<'_>,
    routes: &mut Vec<Route>,
    field: Field<'_>,
) -> Option<RouteTree> {
    let context = &Context { validate_clusters: false, ..*context };
    MatchTree::from_proto(proto, field, KeepMatching::Refused, &mut |action, field| {
        let proto::xds_core::TypedExtensionConfig { name: _name, typed_config } = action;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let start = routes.len();
        let found = any.type_url.rsplit('/').next().unwrap_or_default();
        if found == proto::route::RouteList::full_name() {
            let proto::route::RouteList { routes: protos } = field.unpack(any)?;
            let list = field.key("routes");
            for (i, proto) in protos.iter().enumerate() {
                routes.push(Route::from_proto(proto, context, list.index(i))?);
            }
        } else {
            routes.push(Route::from_proto(&field.unpack(any)?, context, field)?);
        }
        Some(u32::try_from(start).ok()?..u32::try_from(routes.len()).ok()?)
    })
}
