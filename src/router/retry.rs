//! Whether an attempt that failed is followed by another one, and how long that waits.
//!
//! What calls for another attempt is in the route's policy and in the request's own words; how many there may be at once is the
//! cluster's circuit breaker's.

use std::{
    num::NonZeroUsize,
    rc::Rc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, StatusCode};

use super::orders::Orders;
use crate::{
    filter::Random,
    http::{Request, Response, grpc},
    matcher::{LOAD_BALANCING, Lists},
    proto::{self, core::RoutingPriority},
    route::{BackOff, HostPredicate, ResetFormat, RetryOn, RetryPolicy},
    upstream::{ClusterState, FailureKind, HostRef, LoadBalancerContext},
};

const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// The further attempts that a request may have.
pub(super) struct RetryState<'a> {
    policy: Option<&'a RetryPolicy>,
    cluster: Rc<ClusterState>,
    priority: RoutingPriority,
    on: RetryOn,
    left: u32,
    status_codes: Vec<u16>,
    headers: Vec<HeaderName>,
    next_wait: Duration,
    permit: Option<Permit>,
    tried: Vec<HostRef>,
    priorities: TriedPriorities,
}

/// The priorities of the hosts that were tried (`previous_priorities`).
#[derive(Default)]
struct TriedPriorities {
    /// One for each attempt.
    attempts: Vec<u32>,
    /// Those to be left alone, in order.
    excluded: Vec<u32>,
}

impl TriedPriorities {
    /// What is to be left alone by the next attempt: from `after` attempts on, and anew after as many again, all of these.
    fn excluded(&mut self, after: NonZeroUsize) -> &[u32] {
        if !self.attempts.is_empty() && self.attempts.len().is_multiple_of(after.get()) {
            self.excluded.clone_from(&self.attempts);
            self.excluded.sort_unstable();
            self.excluded.dedup();
        }
        &self.excluded
    }

    /// An attempt goes to a host of this priority. One that was to be left alone says that there is no other any more: all begins again.
    fn add(&mut self, priority: u32) {
        if self.excluded.contains(&priority) {
            *self = TriedPriorities::default();
        }
        self.attempts.push(priority);
    }
}

/// What becomes of the request after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another attempt after this time.
    Again(Duration),
    /// This was the last one.
    Final,
    /// Another one would be due, and there have been enough.
    LimitExceeded,
    /// Another one would be due, and the cluster has too many.
    Overflow,
}

/// How an attempt ended that brought no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// By a failure, before or after the request was sent.
    Failed { kind: FailureKind, sent: bool },
    /// By a deadline of the attempt.
    TimedOut,
}

impl<'a> RetryState<'a> {
    /// `None` if neither the policy nor the request asks for further attempts.
    pub(super) fn new(
        policy: Option<&'a RetryPolicy>,
        orders: Orders,
        request: &Request,
        cluster: &Rc<ClusterState>,
        priority: RoutingPriority,
    ) -> Option<RetryState<'a>> {
        let on = policy.map_or(RetryOn::default(), |policy| policy.on).union(orders.retry_on);
        let excluded = policy.is_some_and(|policy| {
            let wanted = &policy.retriable_request_headers;
            !wanted.is_empty() && !wanted.iter().any(|header| header.matches(request))
        });
        if on.is_empty() || excluded {
            return None;
        }
        Some(RetryState {
            policy,
            cluster: Rc::clone(cluster),
            priority,
            on,
            left: orders.max_retries.unwrap_or_else(|| policy.map_or(1, |policy| policy.num_retries)),
            status_codes: orders.retriable_status_codes,
            headers: orders.retriable_headers,
            next_wait: policy.map_or(BackOff::default(), |policy| policy.back_off).base,
            permit: None,
            tried: Vec::new(),
            priorities: TriedPriorities::default(),
        })
    }

    /// What becomes of the request after this response.
    pub(super) fn after_response(&mut self, response: &Response, random: &Random) -> Verdict {
        let due = self.is_due_after(response);
        let asked = if due { self.wait_asked_for(response.headers()) } else { None };
        self.decide(due, asked, random)
    }

    /// What becomes of the request after an attempt without a response.
    pub(super) fn after_loss(&mut self, loss: Loss, random: &Random) -> Verdict {
        let due = match loss {
            Loss::Failed { kind: FailureKind::Overflow | FailureKind::RequestBody, .. } => false,
            Loss::Failed { kind, sent } => self.on.intersects(conditions(kind, sent)),
            Loss::TimedOut => self.on.intersects(NO_RESPONSE),
        };
        self.decide(due, None, random)
    }

    /// What becomes of the request while an attempt takes too long: another one at its side, whatever the policy says of failures.
    pub(super) fn while_slow(&mut self, random: &Random) -> Verdict {
        self.decide(true, None, random)
    }

    /// Whether this response calls for another attempt.
    pub(super) fn is_due_after(&self, response: &Response) -> bool {
        let (status, headers) = (response.status(), response.headers());
        if headers.contains_key(RATE_LIMITED) {
            return self.on.intersects(RetryOn::ENVOY_RATELIMITED);
        }
        let code = status.as_u16();
        let listed = || {
            let configured = self.policy.is_some_and(|policy| policy.retriable_status_codes.contains(&code));
            configured || self.status_codes.contains(&code)
        };
        let by_header = || {
            let configured = self.policy.map_or(&[][..], |policy| &policy.retriable_headers);
            configured.iter().any(|header| header.matches_headers(headers))
                || self.headers.iter().any(|name| headers.contains_key(name))
        };
        self.on.intersects(of_status(status))
            || self.on.intersects(RetryOn::RETRIABLE_STATUS_CODES) && listed()
            || self.on.intersects(RetryOn::RETRIABLE_HEADERS) && by_header()
            || grpc::status(headers).is_some_and(|status| self.on.intersects(of_grpc_status(status)))
    }

    fn decide(&mut self, due: bool, asked: Option<Duration>, random: &Random) -> Verdict {
        let stats = &self.cluster.cluster().stats;
        if !due {
            if self.permit.take().is_some() {
                stats.upstream_rq_retry_success.inc();
            }
            return Verdict::Final;
        }
        let Some(left) = self.left.checked_sub(1) else {
            stats.upstream_rq_retry_limit_exceeded.inc();
            return Verdict::LimitExceeded;
        };
        self.left = left;
        self.permit = None;
        if !self.cluster.cluster().circuit_breakers.of(self.priority).can_retry() {
            stats.upstream_rq_retry_overflow.inc();
            return Verdict::Overflow;
        }
        self.permit = Some(Permit::take(&self.cluster, self.priority));
        stats.upstream_rq_retry.inc();
        Verdict::Again(if let Some(asked) = asked {
            stats.upstream_rq_retry_backoff_ratelimited.inc();
            // Never sooner, and not all at once.
            asked + part_of(asked / 2, random)
        } else {
            stats.upstream_rq_retry_backoff_exponential.inc();
            let wait = part_of(self.next_wait, random);
            let max = self.policy.map_or(BackOff::default(), |policy| policy.back_off).max;
            self.next_wait = (2 * self.next_wait).min(max);
            wait
        })
    }

    /// How long the response asks to be left alone, if it may.
    fn wait_asked_for(&self, headers: &HeaderMap) -> Option<Duration> {
        let policy = self.policy?;
        let asked = policy.reset_headers.iter().find_map(|header| {
            let seconds = headers.get(&header.name)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)?;
            let wait = match header.format {
                ResetFormat::Seconds => seconds,
                ResetFormat::UnixTimestamp => {
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
                    seconds.checked_sub(now)?
                }
            };
            (wait <= policy.max_reset_interval).then_some(wait)
        })?;
        Some(asked).filter(|wait| *wait > Duration::from_millis(1))
    }

    /// A host for the next attempt: after the first one, one that the policy does not avoid, if a few choices find it.
    pub(super) fn choose_host(&mut self, context: &LoadBalancerContext<'_>) -> Option<HostRef> {
        let after = self.policy.and_then(|policy| policy.priorities_tried_after);
        let tried_priorities = after.map_or(&[][..], |after| self.priorities.excluded(after));
        let context = &LoadBalancerContext { tried_priorities, ..*context };
        let omit = self.policy.map_or(&[][..], |policy| &policy.omit);
        let choices = self.policy.map_or(0, |policy| policy.host_selection_retries);
        let mut host = self.cluster.choose_host(context)?;
        if self.permit.is_some() {
            for _ in 0..choices {
                if !omit.iter().any(|predicate| is_omitted(predicate, &host, &self.tried)) {
                    break;
                }
                host = self.cluster.choose_host(context)?;
            }
        }
        if omit.iter().any(|predicate| matches!(predicate, HostPredicate::PreviousHosts)) {
            self.tried.push(host.clone());
        }
        if after.is_some() {
            self.priorities.add(host.endpoint.priority);
        }
        Some(host)
    }
}

/// Any failure.
const NO_RESPONSE: RetryOn = RetryOn::RESET.union(RetryOn::SERVER_ERROR).union(RetryOn::GATEWAY_ERROR);

fn conditions(kind: FailureKind, sent: bool) -> RetryOn {
    let of_kind = match kind {
        FailureKind::Connect | FailureKind::Bind | FailureKind::ConnectTimeout | FailureKind::Tls => {
            RetryOn::CONNECT_FAILURE
        }
        FailureKind::RefusedStream => RetryOn::REFUSED_STREAM,
        _ => RetryOn::default(),
    };
    let unsent = if sent { RetryOn::default() } else { RetryOn::RESET_BEFORE_REQUEST };
    NO_RESPONSE.union(of_kind).union(unsent)
}

fn of_status(status: StatusCode) -> RetryOn {
    match status.as_u16() {
        409 => RetryOn::RETRIABLE_4XX,
        502..=504 => RetryOn::SERVER_ERROR.union(RetryOn::GATEWAY_ERROR),
        500..=599 => RetryOn::SERVER_ERROR,
        _ => RetryOn::default(),
    }
}

fn of_grpc_status(status: u32) -> RetryOn {
    match status {
        1 => RetryOn::GRPC_CANCELLED,
        4 => RetryOn::GRPC_DEADLINE_EXCEEDED,
        8 => RetryOn::GRPC_RESOURCE_EXHAUSTED,
        13 => RetryOn::GRPC_INTERNAL,
        14 => RetryOn::GRPC_UNAVAILABLE,
        _ => RetryOn::default(),
    }
}

/// A random time shorter than `whole`, in milliseconds.
fn part_of(whole: Duration, random: &Random) -> Duration {
    let milliseconds = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.next_u64().checked_rem(milliseconds).unwrap_or(0))
}

fn is_omitted(predicate: &HostPredicate, host: &HostRef, tried: &[HostRef]) -> bool {
    let labels = host.endpoint.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(LOAD_BALANCING));
    match predicate {
        HostPredicate::PreviousHosts => tried.contains(host),
        HostPredicate::CanaryHosts => labels.is_some_and(|labels| {
            let canary = labels.fields.get("canary").and_then(|value| value.kind.as_ref());
            canary == Some(&proto::value::Kind::BoolValue(true))
        }),
        HostPredicate::Metadata(wanted) => wanted.are_of(labels, Lists::AsAny),
    }
}

/// A place among the retries of a cluster.
struct Permit {
    cluster: Rc<ClusterState>,
    priority: RoutingPriority,
}

impl Permit {
    fn take(cluster: &Rc<ClusterState>, priority: RoutingPriority) -> Permit {
        cluster.cluster().circuit_breakers.of(priority).retries.take();
        Permit { cluster: Rc::clone(cluster), priority }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.cluster.cluster().circuit_breakers.of(self.priority).retries.give_back();
    }
}
