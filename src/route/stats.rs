//! Statistics of requests by virtual cluster (`vhost.<virtual host>.vcluster.<name>.`) and by route (`stat_prefix`).

use std::sync::Arc;

use http::{Request, StatusCode};

use crate::{
    config::Field,
    matcher::HeaderMatcher,
    proto,
    stats::{self, ResponseCodes, Scope},
};

stats::declare! {
    /// Of a virtual cluster, under `vhost.<virtual host>.vcluster.<name>.`, and of a route with a `stat_prefix`, under
    /// `vhost.<virtual host>.route.<stat_prefix>.`
    pub struct RequestStats {
        /// Requests sent to hosts.
        upstream_rq_total: Counter,
        /// Requests whose route's timeout ran out.
        upstream_rq_timeout: Counter,
        /// Responses of any status.
        upstream_rq_completed: Counter,
        /// Requests sent again.
        upstream_rq_retry: Counter,
        /// Requests not sent again because it had been done often enough.
        upstream_rq_retry_limit_exceeded: Counter,
        /// Requests not sent again because a circuit breaker was open.
        upstream_rq_retry_overflow: Counter,
        /// Time from the end of a request to the end of its response, in milliseconds.
        upstream_rq_time: Histogram,
    }
}

/// What is counted under one name.
#[derive(Debug)]
pub struct NamedStats {
    name: Arc<str>,
    /// Counters and times.
    pub stats: RequestStats,
    /// `upstream_rq_200`, `upstream_rq_2xx` and so on.
    codes: ResponseCodes,
}

impl NamedStats {
    pub(super) fn new(name: &str, scope: &Scope) -> NamedStats {
        let scope = scope.scope(name);
        NamedStats {
            name: name.into(),
            stats: RequestStats::new(&scope),
            codes: ResponseCodes::new(&scope, "upstream_rq"),
        }
    }

    /// The name of the virtual cluster, or the route's `stat_prefix`.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts a response.
    pub fn answered(&self, status: StatusCode) {
        self.stats.upstream_rq_completed.inc();
        self.codes.inc(status.as_u16());
    }
}

/// By what a request is counted: its virtual cluster and its route, where they have statistics.
#[derive(Clone, Copy, Debug)]
pub struct CountedBy<'r> {
    /// The virtual cluster.
    pub virtual_cluster: Option<&'r NamedStats>,
    /// The route, by its `stat_prefix`.
    pub route: Option<&'r NamedStats>,
}

impl<'r> CountedBy<'r> {
    /// Both, as far as there are any.
    pub fn each(self) -> impl Iterator<Item = &'r NamedStats> {
        self.virtual_cluster.into_iter().chain(self.route)
    }
}

/// The virtual clusters of a virtual host: what its requests are counted by.
#[derive(Debug, Default)]
pub(super) struct VirtualClusters {
    clusters: Vec<(Vec<HeaderMatcher>, NamedStats)>,
    /// Counts what none of them takes.
    other: Option<NamedStats>,
}

impl VirtualClusters {
    pub(super) fn from_proto(protos: &[proto::route::VirtualCluster], scope: &Scope, field: Field<'_>) -> Self {
        let scope = scope.scope("vcluster");
        let mut clusters = Vec::with_capacity(protos.len());
        for (i, proto) in protos.iter().enumerate() {
            let proto::route::VirtualCluster { headers, name } = proto;
            let field = field.index(i);
            let list = field.key("headers");
            if headers.is_empty() {
                list.error("virtual clusters must define 'headers'");
            }
            let matchers = headers.iter().enumerate();
            let matchers = matchers.filter_map(|(i, header)| HeaderMatcher::from_proto(header, list.index(i)));
            clusters.push((matchers.collect(), NamedStats::new(name, &scope)));
        }
        let other = (!protos.is_empty()).then(|| NamedStats::new("other", &scope));
        VirtualClusters { clusters, other }
    }

    /// The first virtual cluster whose headers the request has; else the one for all others, if there are any.
    pub(super) fn find<B>(&self, request: &Request<B>) -> Option<&NamedStats> {
        let fits = |(headers, _): &&(Vec<HeaderMatcher>, _)| headers.iter().all(|header| header.matches(request));
        self.clusters.iter().find(fits).map(|(_, stats)| stats).or(self.other.as_ref())
    }
}
