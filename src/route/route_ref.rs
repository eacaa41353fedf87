//! Finding the route of a request, and what the route then does to its messages.

use std::{borrow::Cow, fmt, ops::Deref, rc::Rc, sync::Arc};

use http::{HeaderMap, HeaderValue, Request, uri::PathAndQuery};

use super::{
    Action, AttemptHeaders, CountedBy, FilterSettings, Forward, MirrorPolicy, RegisteredRoutes, RetryPolicy, Route,
    RouteConfiguration, RouteKey, Switch,
    cluster_specifier::ClusterSpecifier,
    mutations::Mutations,
    registered::Position,
    rewrite::{self, HostRewrite, PathRewrite},
    route_match::Subject,
    virtual_host::{DEFAULT_BUFFER_LIMIT, RouteIndex, VirtualHost},
    weighted_clusters::WeightedCluster,
};
use crate::{
    access_log::Scope,
    http::{
        headers::{self, X_ENVOY_ORIGINAL_HOST, X_ENVOY_ORIGINAL_PATH, X_FORWARDED_HOST},
        set_authority, set_path,
    },
    matcher::{LOAD_BALANCING, MetadataMatch, RequestHead},
    runtime::Runtime,
    stream_info::StreamInfo,
};

/// The route of one request. It keeps its tables alive through the worker's own `Rc`s, so that neither finding nor cloning it
/// touches a reference count that other threads use.
#[derive(Clone, Debug)]
pub struct RouteRef {
    table: Rc<Arc<RouteConfiguration>>,
    virtual_host: usize,
    route: RouteIndex,
    choice: Choice,
}

/// What was decided together with the route.
#[derive(Clone, Debug)]
enum Choice {
    Nothing,
    Weighted(usize),
    /// Of the actions of a tree that names clusters.
    Action(Option<usize>),
    Registered(Rc<Arc<RegisteredRoutes>>, Position),
}

/// What decides on the route of a request, beside the configuration.
pub struct Lookup<'a, B> {
    /// The request as it came, but for what the connection manager made of it.
    pub request: &'a Request<B>,
    /// Its connection, and what filters have found out.
    pub info: &'a StreamInfo,
    /// The routes of registered workers.
    pub registered: &'a Rc<Arc<RegisteredRoutes>>,
    /// The runtime values, which change shares and weights.
    pub runtime: &'a Runtime,
    /// Decides weighted clusters and shares, so that one request gets one answer.
    pub random: u64,
}

/// Which route of a table it is, and of weighted clusters which one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RoutePlace {
    virtual_host: usize,
    route: u32,
    cluster: Option<usize>,
}

impl fmt::Display for RoutePlace {
    /// `routes[3]`, or `routes[3].clusters[0]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "routes[{}]", self.route)?;
        self.cluster.map_or(Ok(()), |cluster| write!(f, ".clusters[{cluster}]"))
    }
}

/// Whether a request tells the upstream the path and the host that it had before a rewrite.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Originals {
    /// By `x-envoy-original-path` and `x-envoy-original-host`.
    Told,
    /// Not (`suppress_envoy_headers`).
    Untold,
}

impl RouteConfiguration {
    /// The first route that accepts a request: virtual hosts by domain, then routes in order.
    pub fn find<B>(table: &Rc<Arc<RouteConfiguration>>, lookup: &Lookup<'_, B>) -> Option<RouteRef> {
        let request = lookup.request;
        let virtual_host = table.domains.find(request)?;
        let host = &table.virtual_hosts[virtual_host];
        let (route, choice) = if host.wants_https(request) {
            (RouteIndex::HttpsRedirect, Choice::Nothing)
        } else {
            let path = request.uri().path();
            let end = if table.ignore_path_parameters { path.find(';') } else { None };
            let subject = Subject::new(lookup, &path[..end.unwrap_or(path.len())]);
            host.find(&subject, |route| Choice::make(route, &subject))?
        };
        Some(RouteRef { table: Rc::clone(table), virtual_host, route, choice })
    }

    /// All routes, each with the name of its virtual host; a route to weighted clusters is there once for each of them.
    pub fn places(&self) -> impl Iterator<Item = (RoutePlace, &str, &Route)> {
        self.virtual_hosts.iter().enumerate().flat_map(|(virtual_host, host)| {
            host.routes().flat_map(move |(index, route)| {
                let clusters = match &route.action {
                    Action::Forward(forward) => forward.cluster.weighted().map(|clusters| clusters.iter().count()),
                    Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
                };
                let places = (0..clusters.unwrap_or(1)).map(move |cluster| RoutePlace {
                    virtual_host,
                    route: index,
                    cluster: clusters.map(|_| cluster),
                });
                places.map(move |place| (place, host.name(), route))
            })
        })
    }
}

impl Choice {
    /// None if a route needs a registered one, and there is none: the next route is tried.
    fn make<B>(route: &Route, subject: &Subject<'_, B>) -> Option<Choice> {
        let Action::Forward(forward) = &route.action else { return Some(Choice::Nothing) };
        match &forward.cluster {
            ClusterSpecifier::One(_) => Some(Choice::Nothing),
            ClusterSpecifier::Weighted(clusters) => clusters.draw(subject).map(Choice::Weighted),
            ClusterSpecifier::Tree(tree) => Some(Choice::Action(tree.position(&subject.data()))),
            ClusterSpecifier::Missing => None,
            ClusterSpecifier::Registered => {
                let position = subject.registered.find(subject.request, subject.path)?;
                Some(Choice::Registered(Rc::clone(subject.registered), position))
            }
        }
    }
}

impl RouteRef {
    /// The name of the virtual host that the request's authority chose.
    #[must_use]
    pub fn virtual_host_name(&self) -> &str {
        self.virtual_host().name()
    }

    /// Which route of its table this is; None for the redirect of `require_tls`.
    #[must_use]
    pub fn place(&self) -> Option<RoutePlace> {
        let RouteIndex::Configured(route) = self.route else { return None };
        let cluster = if let Choice::Weighted(index) = self.choice { Some(index) } else { None };
        Some(RoutePlace { virtual_host: self.virtual_host, route, cluster })
    }

    /// Whether the HTTP filter of this name runs, as far as the configuration says: of the weighted cluster, the route, the virtual
    /// host and the whole, the first that says anything counts.
    #[must_use]
    pub fn filter_switch(&self, filter: &str) -> Option<Switch> {
        let cluster = self.weighted().map(|weighted| &weighted.filters);
        let levels = [&self.filters, &self.virtual_host().filters, &self.table.filters];
        cluster.into_iter().chain(levels).find_map(|level| level.switch(filter))
    }

    /// The settings of the HTTP filter of this name, of the most specific level that has any.
    #[must_use]
    pub fn filter_settings(&self, filter: &str) -> Option<&FilterSettings> {
        let cluster = self.weighted().map(|weighted| &weighted.filters);
        let levels = [&self.filters, &self.virtual_host().filters, &self.table.filters];
        cluster.into_iter().chain(levels).find_map(|level| level.settings(filter))
    }

    /// By what the request is counted, beside its cluster.
    pub fn counted_by<B>(&self, request: &Request<B>) -> CountedBy<'_> {
        CountedBy { virtual_cluster: self.virtual_host().virtual_cluster(request), route: self.stats.as_ref() }
    }

    fn virtual_host(&self) -> &VirtualHost {
        &self.table.virtual_hosts[self.virtual_host]
    }

    /// The cluster that the request goes to: named, drawn by weight, named by a request header or by a registration.
    /// None if this route does not forward, or if the header that should name the cluster is missing.
    #[must_use]
    pub fn cluster<'a>(&'a self, request: impl Into<RequestHead<'a>>) -> Option<&'a str> {
        if let Choice::Registered(routes, position) = &self.choice {
            return Some(&routes.route(*position).cluster);
        }
        match (&self.forward()?.cluster, self.weighted()) {
            (_, Some(weighted)) => weighted.target.name(request.into()),
            (ClusterSpecifier::One(target), None) => target.name(request.into()),
            (ClusterSpecifier::Tree(tree), None) => match self.choice {
                Choice::Action(Some(action)) => Some(tree.action(action)),
                _ => None,
            },
            (ClusterSpecifier::Weighted(_) | ClusterSpecifier::Registered | ClusterSpecifier::Missing, None) => None,
        }
    }

    /// What labels the host of the request must have: as the route or its weighted cluster says, and as filters have found out.
    #[must_use]
    pub fn metadata_match(&self, info: &StreamInfo) -> Option<Cow<'_, MetadataMatch>> {
        let forward = self.forward()?;
        let configured = self.weighted().map_or(&forward.metadata_match, |weighted| &weighted.metadata_match).as_ref();
        let found = MetadataMatch::with_dynamic(configured, info.dynamic_metadata.get(LOAD_BALANCING));
        found.map(Cow::Owned).or(configured.map(Cow::Borrowed))
    }

    /// Whether requests may be sent now. False for a registered route whose registrant drains or has expired; the router
    /// then answers 503 with the flag UH.
    #[must_use]
    pub fn is_available(&self) -> bool {
        match &self.choice {
            Choice::Registered(routes, position) => routes.route(*position).available,
            Choice::Nothing | Choice::Weighted(_) | Choice::Action(_) => true,
        }
    }

    /// Whether a header of the request named the registrant that gets it.
    #[must_use]
    pub fn is_registered_by_header(&self) -> bool {
        matches!(&self.choice, Choice::Registered(routes, position)
            if matches!(routes.key(*position), RouteKey::Header(..)))
    }

    /// The route's policy, or else the virtual host's.
    #[must_use]
    pub fn retry_policy(&self) -> Option<&RetryPolicy> {
        let own = self.forward().and_then(|forward| forward.retry_policy.as_ref());
        own.or(self.virtual_host().retry_policy.as_ref())
    }

    /// Whether an attempt that takes too long goes on beside the next one: by the route's policy, or else the virtual host's.
    #[must_use]
    pub fn hedges_on_per_try_timeout(&self) -> bool {
        let own = self.forward().and_then(|forward| forward.hedge_on_per_try_timeout);
        own.or(self.virtual_host().hedge_on_per_try_timeout).unwrap_or(false)
    }

    /// How much of a request's body may be kept for further attempts, in bytes.
    #[must_use]
    pub fn buffer_limit(&self) -> usize {
        let limit = self.deref().buffer_limit.or(self.virtual_host().buffer_limit);
        limit.unwrap_or(DEFAULT_BUFFER_LIMIT)
    }

    /// The copies that are made of its requests: the route's, or else the virtual host's, or else the configuration's.
    #[must_use]
    pub fn mirror_policies(&self) -> &[MirrorPolicy] {
        let own = self.forward().map_or(&[][..], |forward| &forward.mirror_policies);
        let levels = [own, &self.virtual_host().mirror_policies, &self.table.mirror_policies];
        levels.into_iter().find(|level| !level.is_empty()).unwrap_or_default()
    }

    /// The route that another request takes in the same configuration.
    #[must_use]
    pub fn find_again<B>(&self, lookup: &Lookup<'_, B>) -> Option<RouteRef> {
        RouteConfiguration::find(&self.table, lookup)
    }

    /// Which headers tell of the attempts at a request.
    #[must_use]
    pub fn attempt_headers(&self) -> AttemptHeaders {
        self.virtual_host().attempt_headers
    }

    /// Makes of the client's request the one that goes upstream: headers, then host, then path. Headers can quote `info`, where
    /// the path, the authority and the name of the `cluster` are put first.
    pub fn finalize_request<B>(
        &self,
        request: &mut Request<B>,
        info: &mut StreamInfo,
        cluster: &Arc<str>,
        originals: Originals,
    ) {
        let forward = self.forward();
        let rewrites_by_format = forward.is_some_and(|forward| {
            let host = matches!(forward.host, Some(HostRewrite::Format(_)));
            host || forward.path.as_ref().is_some_and(PathRewrite::is_format)
        });
        if rewrites_by_format || self.mutations().any(|mutations| mutations.request.has_formats()) {
            info.path = request.uri().path_and_query().cloned();
            info.authority = rewrite::current_host(request);
            info.upstream_cluster = Some(Arc::clone(cluster));
        }
        for mutations in self.mutations() {
            mutations.request.apply_to_request(request.headers_mut(), info);
        }
        let Some(forward) = forward else { return };
        // As in Envoy, this rewrite is not told, and one of the route goes over it.
        if let Some(host) = self.weighted().and_then(|weighted| weighted.host.clone()) {
            set_authority(request, host);
        }
        if let Some(host) = forward.host.as_ref().and_then(|rewrite| rewrite.host(request, info)) {
            self.rewrite_host(request, host, originals);
        }
        self.rewrite_path(request, forward, info, originals);
    }

    /// Gives the request the name of the host that it goes to, if the route asks for that (`auto_host_rewrite`).
    pub fn finalize_host<B>(&self, request: &mut Request<B>, host_name: &str, originals: Originals) {
        let asked = self.forward().is_some_and(|forward| matches!(forward.host, Some(HostRewrite::Upstream)));
        if asked
            && !host_name.is_empty()
            && let Ok(host) = HeaderValue::from_str(host_name)
        {
            self.rewrite_host(request, host, originals);
        }
    }

    /// Changes the headers of the response, whoever made it.
    pub fn finalize_response(&self, headers: &mut HeaderMap, info: &StreamInfo) {
        for mutations in self.mutations() {
            mutations.response.apply_to_response(headers, info);
        }
    }

    fn rewrite_host<B>(&self, request: &mut Request<B>, host: HeaderValue, originals: Originals) {
        if let Some(current) = rewrite::current_host(request) {
            let headers = request.headers_mut();
            if self.forward().is_some_and(|forward| forward.append_x_forwarded_host) {
                headers::append_new(headers, X_FORWARDED_HOST, &current);
            }
            if originals == Originals::Told {
                headers.insert(X_ENVOY_ORIGINAL_HOST, current);
            }
        }
        set_authority(request, host);
    }

    fn rewrite_path<B>(&self, request: &mut Request<B>, forward: &Forward, info: &StreamInfo, originals: Originals) {
        let Some(path) = request.uri().path_and_query().map(PathAndQuery::as_str) else { return };
        let by_registration = match &self.choice {
            Choice::Registered(routes, position) => routes.rewrite(*position),
            Choice::Nothing | Choice::Weighted(_) | Choice::Action(_) => None,
        };
        let rewritten = match (by_registration, &forward.path) {
            (Some((length, replacement)), _) => rewrite::replace_segments(path, length, replacement),
            (None, Some(rewrite)) => match rewrite.apply(path, &Scope::of_request(info, request.headers())) {
                Some(rewritten) => rewritten,
                None => return,
            },
            (None, None) => return,
        };
        if originals == Originals::Told
            && let Ok(path) = HeaderValue::from_str(path)
        {
            request.headers_mut().insert(X_ENVOY_ORIGINAL_PATH, path);
        }
        set_path(request, rewritten);
    }

    fn forward(&self) -> Option<&Forward> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
        }
    }

    fn weighted(&self) -> Option<&WeightedCluster> {
        match (&self.forward()?.cluster, &self.choice) {
            (ClusterSpecifier::Weighted(clusters), Choice::Weighted(index)) => Some(clusters.get(*index)),
            _ => None,
        }
    }

    /// From the weighted cluster on, the levels in the order in which they act: the last one wins.
    fn mutations(&self) -> impl Iterator<Item = &Mutations> {
        let mut levels = [&self.deref().mutations, &self.virtual_host().mutations, &self.table.mutations];
        if self.table.most_specific_header_mutations_wins {
            levels.reverse();
        }
        self.weighted().map(|weighted| &weighted.mutations).into_iter().chain(levels)
    }
}

impl Deref for RouteRef {
    type Target = Route;

    fn deref(&self) -> &Route {
        self.virtual_host().route(self.route)
    }
}
