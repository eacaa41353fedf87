//! Circuit breakers (`CircuitBreakers`): how much of a cluster may be in use at once, by all workers together.
//!
//! Each priority has counts of its own, atomics that all workers share. As in Envoy a count may pass its limit by as many as take
//! the last place at the same moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    config::Field,
    proto::{
        cluster::{
            CircuitBreakers as CircuitBreakersProto,
            circuit_breakers::{Thresholds as ThresholdsProto, thresholds::RetryBudget as RetryBudgetProto},
        },
        core::RoutingPriority,
    },
    stats::{Gauge, Scope},
};

/// The limits of one cluster.
#[derive(Debug)]
pub struct CircuitBreakers {
    priorities: [Thresholds; 2],
    /// `per_host_thresholds`: connections of all workers to one host.
    pub max_connections_per_host: Option<u64>,
}

/// The limits for the requests of one priority.
#[derive(Debug)]
pub struct Thresholds {
    /// Connections, whatever they do.
    pub connections: Resource,
    /// Requests that wait for a connection.
    pub pending_requests: Resource,
    /// Requests on connections.
    pub requests: Resource,
    /// Further attempts that wait or run.
    pub retries: Resource,
    budget: Option<RetryBudget>,
}

/// Something of which there may be so many.
#[derive(Debug)]
pub struct Resource {
    max: u64,
    used: AtomicU64,
    open: Gauge,
    remaining: Option<Gauge>,
}

/// `retry_budget`: retries as a share of the requests that there are.
#[derive(Debug)]
struct RetryBudget {
    percent: f64,
    least: u64,
}

impl CircuitBreakers {
    /// Converts the settings of a cluster, whose stats are in `scope`.
    pub(super) fn from_proto(proto: Option<&CircuitBreakersProto>, field: Field<'_>, scope: &Scope) -> CircuitBreakers {
        let none = CircuitBreakersProto::default();
        let CircuitBreakersProto { thresholds, per_host_thresholds } = proto.unwrap_or(&none);
        let scope = scope.scope("circuit_breakers");
        let list = field.key("thresholds");
        let of = |priority: RoutingPriority, name: &str| {
            // As in Envoy the first one of a priority counts.
            let found = thresholds.iter().enumerate().find(|(_, proto)| proto.priority == priority as i32);
            let scope = scope.scope(name);
            match found {
                Some((i, proto)) => Thresholds::from_proto(proto, list.index(i), &scope),
                None => Thresholds::from_proto(&ThresholdsProto::default(), list, &scope),
            }
        };
        CircuitBreakers {
            priorities: [of(RoutingPriority::Default, "default"), of(RoutingPriority::High, "high")],
            max_connections_per_host: max_connections_per_host(per_host_thresholds, field.key("per_host_thresholds")),
        }
    }

    /// The limits for requests of this priority.
    #[must_use]
    pub fn of(&self, priority: RoutingPriority) -> &Thresholds {
        &self.priorities[usize::from(priority == RoutingPriority::High)]
    }
}

const DEFAULT_MAX: u64 = 1024;
const DEFAULT_MAX_RETRIES: u64 = 3;

impl Thresholds {
    fn from_proto(proto: &ThresholdsProto, field: Field<'_>, scope: &Scope) -> Thresholds {
        let ThresholdsProto {
            priority: _priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = proto;
        let why = "each worker has one pool for each host, and makes no others";
        field.ignored("max_connection_pools", max_connection_pools, why);
        let resource = |max: u64, open: &str, remaining: &str| {
            Resource::new(max, scope.gauge(open), track_remaining.then(|| scope.gauge(remaining)))
        };
        let limit = |value: &Option<crate::proto::UInt32Value>, default| {
            value.as_ref().map_or(default, |value| u64::from(value.value))
        };
        Thresholds {
            connections: resource(limit(max_connections, DEFAULT_MAX), "cx_open", "remaining_cx"),
            pending_requests: resource(
                limit(max_pending_requests, DEFAULT_MAX),
                "rq_pending_open",
                "remaining_pending",
            ),
            requests: resource(limit(max_requests, DEFAULT_MAX), "rq_open", "remaining_rq"),
            retries: resource(limit(max_retries, DEFAULT_MAX_RETRIES), "rq_retry_open", "remaining_retries"),
            budget: retry_budget.as_ref().map(|budget| RetryBudget::from_proto(budget, field.key("retry_budget"))),
        }
    }

    /// Whether one more attempt may be made after a failed one.
    #[must_use]
    pub fn can_retry(&self) -> bool {
        match &self.budget {
            None => self.retries.has_room(),
            Some(budget) => self.retries.used() < budget.max(self.requests.used() + self.pending_requests.used()),
        }
    }
}

impl RetryBudget {
    fn from_proto(proto: &RetryBudgetProto, field: Field<'_>) -> RetryBudget {
        let RetryBudgetProto { budget_percent, budget_interval, min_retry_concurrency } = proto;
        field.ignored("budget_interval", budget_interval, "the share is that of the requests of the moment");
        RetryBudget {
            percent: budget_percent.as_ref().map_or(20.0, |percent| percent.value),
            least: min_retry_concurrency.as_ref().map_or(DEFAULT_MAX_RETRIES, |least| u64::from(least.value)),
        }
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
    fn max(&self, requests: u64) -> u64 {
        ((requests as f64 * self.percent / 100.0) as u64).max(self.least)
    }
}

impl Resource {
    fn new(max: u64, open: Gauge, remaining: Option<Gauge>) -> Resource {
        if let Some(remaining) = &remaining {
            remaining.set(max);
        }
        Resource { max, used: AtomicU64::new(0), open, remaining }
    }

    /// How many there may be.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Whether there may be one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.used() < self.max
    }

    /// How many there are.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// One more.
    pub fn take(&self) {
        let before = self.used.fetch_add(1, Relaxed);
        if before + 1 == self.max {
            self.open.inc();
        }
        if let Some(remaining) = &self.remaining
            && before < self.max
        {
            remaining.dec();
        }
    }

    /// One less.
    pub fn give_back(&self) {
        let before = self.used.fetch_sub(1, Relaxed);
        if before == self.max {
            self.open.dec();
        }
        if let Some(remaining) = &self.remaining
            && before <= self.max
        {
            remaining.inc();
        }
    }
}

/// Only the connections of the default priority can be limited so.
fn max_connections_per_host(protos: &[ThresholdsProto], list: Field<'_>) -> Option<u64> {
    let (i, proto) = protos.iter().enumerate().find(|(_, proto)| proto.priority == RoutingPriority::Default as i32)?;
    let ThresholdsProto {
        priority: _priority,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining,
        max_connection_pools,
    } = proto;
    let field = list.index(i);
    for (name, is_set) in [
        ("max_pending_requests", max_pending_requests.is_some()),
        ("max_requests", max_requests.is_some()),
        ("max_retries", max_retries.is_some()),
        ("max_connection_pools", max_connection_pools.is_some()),
        ("retry_budget", retry_budget.is_some()),
        ("track_remaining", *track_remaining),
    ] {
        if is_set {
            field.key(name).error("per_host_thresholds can limit max_connections only");
        }
    }
    max_connections.as_ref().map(|max| u64::from(max.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Report,
        proto::{UInt32Value, type_v3::Percent},
        stats::Registry,
    };

    fn thresholds(proto: &ThresholdsProto, registry: &std::sync::Arc<Registry>) -> Thresholds {
        let report = Report::new();
        Thresholds::from_proto(proto, Field::root(&report), &registry.scope("x"))
    }

    #[test]
    fn a_breaker_opens_at_its_limit_and_closes_below_it() {
        let registry = Registry::new(1);
        let proto = ThresholdsProto {
            max_requests: Some(UInt32Value { value: 2 }),
            track_remaining: true,
            ..ThresholdsProto::default()
        };
        let thresholds = thresholds(&proto, &registry);
        let (open, remaining) = (registry.scope("x").gauge("rq_open"), registry.scope("x").gauge("remaining_rq"));
        assert_eq!((open.value(), remaining.value()), (0, 2));
        thresholds.requests.take();
        assert!(thresholds.requests.has_room());
        thresholds.requests.take();
        assert!(!thresholds.requests.has_room());
        thresholds.requests.take();
        assert_eq!((open.value(), remaining.value()), (1, 0));
        thresholds.requests.give_back();
        thresholds.requests.give_back();
        assert_eq!((open.value(), remaining.value()), (0, 1));
    }

    #[test]
    fn a_retry_budget_is_a_share_of_the_requests_but_not_less_than_its_minimum() {
        let registry = Registry::new(1);
        let retry_budget = Some(RetryBudgetProto {
            budget_percent: Some(Percent { value: 50.0 }),
            min_retry_concurrency: Some(UInt32Value { value: 1 }),
            ..RetryBudgetProto::default()
        });
        let thresholds = thresholds(&ThresholdsProto { retry_budget, ..ThresholdsProto::default() }, &registry);
        assert!(thresholds.can_retry());
        thresholds.retries.take();
        assert!(!thresholds.can_retry());
        for _ in 0..4 {
            thresholds.requests.take();
        }
        assert!(thresholds.can_retry());
    }
}
