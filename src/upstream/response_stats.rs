//! Responses of a cluster by status, and again by who asked and who answered: `cluster.<name>.upstream_rq_<code>`,
//! `internal.`, `external.`, `canary.` and `retry.` before it.

use std::{sync::OnceLock, time::Duration};

use http::{HeaderMap, HeaderName};

use crate::stats::{Counter, Histogram, ResponseCodes, Scope};

const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const CANARY: HeaderName = HeaderName::from_static("x-envoy-upstream-canary");

/// Where a request comes from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From within: the connection manager says so by `x-envoy-internal`.
    Internal,
    /// From anywhere else.
    #[default]
    External,
}

impl Origin {
    /// The origin of the request with these headers.
    #[must_use]
    pub fn of(request: &HeaderMap) -> Origin {
        let internal = request.get(&INTERNAL).is_some_and(|value| value == "true");
        if internal { Origin::Internal } else { Origin::External }
    }

    /// As statistics call it.
    fn name(self) -> &'static str {
        match self {
            Origin::Internal => "internal",
            Origin::External => "external",
        }
    }
}

/// What is counted of the responses of a cluster. Each group is registered when it first occurs.
#[derive(Debug)]
pub struct ResponseStats {
    scope: Scope,
    all: Group,
    internal: OnceLock<Group>,
    external: OnceLock<Group>,
    canary: OnceLock<Group>,
    /// Those that another attempt followed.
    retry: OnceLock<Group>,
    internal_time: OnceLock<Histogram>,
    external_time: OnceLock<Histogram>,
}

#[derive(Debug)]
struct Group {
    completed: Counter,
    codes: ResponseCodes,
}

impl ResponseStats {
    pub(super) fn new(scope: &Scope) -> ResponseStats {
        ResponseStats {
            scope: scope.clone(),
            all: Group::new(scope),
            internal: OnceLock::new(),
            external: OnceLock::new(),
            canary: OnceLock::new(),
            retry: OnceLock::new(),
            internal_time: OnceLock::new(),
            external_time: OnceLock::new(),
        }
    }

    /// Counts a response of a host.
    pub fn count(&self, status: u16, origin: Origin, headers: &HeaderMap) {
        self.count_own(status, origin);
        if headers.get(&CANARY).is_some_and(|value| value == "true") {
            self.canary.get_or_init(|| Group::new(&self.scope.scope("canary"))).count(status);
        }
    }

    /// Counts a reply of ours in place of a host's.
    pub fn count_own(&self, status: u16, origin: Origin) {
        self.all.count(status);
        let group = match origin {
            Origin::Internal => &self.internal,
            Origin::External => &self.external,
        };
        group.get_or_init(|| Group::new(&self.scope.scope(origin.name()))).count(status);
    }

    /// Counts a response that another attempt follows.
    pub fn count_retried(&self, status: u16) {
        self.retry.get_or_init(|| Group::new(&self.scope.scope("retry"))).count(status);
    }

    /// Records how long a response took, by who asked.
    pub(super) fn record_time(&self, time: Duration, origin: Origin) {
        let histogram = match origin {
            Origin::Internal => &self.internal_time,
            Origin::External => &self.external_time,
        };
        histogram.get_or_init(|| self.scope.scope(origin.name()).histogram("upstream_rq_time")).record_time(time);
    }
}

impl Group {
    fn new(scope: &Scope) -> Group {
        Group { completed: scope.counter("upstream_rq_completed"), codes: ResponseCodes::new(scope, "upstream_rq") }
    }

    fn count(&self, status: u16) {
        self.completed.inc();
        self.codes.inc(status);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::stats::Registry;

    #[test]
    fn responses_count_for_all_and_for_their_groups() {
        let registry = Registry::new(0);
        let stats = ResponseStats::new(&registry.scope("cluster.c"));
        let mut headers = HeaderMap::new();
        assert_eq!(Origin::of(&headers), Origin::External);
        stats.count(200, Origin::External, &headers);
        headers.insert(CANARY, HeaderValue::from_static("true"));
        stats.count(503, Origin::Internal, &headers);
        stats.count_own(504, Origin::External);
        let counters = registry.read().counters;
        let value = |name: &str| counters.iter().find(|counter| &*counter.name == name).map(|counter| counter.value);
        for (name, expected) in [
            ("cluster.c.upstream_rq_completed", Some(3)),
            ("cluster.c.upstream_rq_5xx", Some(2)),
            ("cluster.c.external.upstream_rq_200", Some(1)),
            ("cluster.c.external.upstream_rq_504", Some(1)),
            ("cluster.c.internal.upstream_rq_completed", Some(1)),
            ("cluster.c.canary.upstream_rq_5xx", Some(1)),
            ("cluster.c.canary.upstream_rq_200", None),
        ] {
            assert_eq!(value(name), expected, "{name}");
        }
    }
}
