//! How long a request may take: what its route says, within it what the client asks for, and what the host is told of both.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::orders::Orders;
use crate::{
    filter::timer::TryTimeouts,
    http::grpc,
    route::{Forward, RetryPolicy},
    upstream::Cluster,
};

const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The deadlines of one request, none of them zero.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Timeouts {
    /// From the end of the request to the end of the response.
    pub response: Option<Duration>,
    per_try: Option<Duration>,
    per_try_idle: Option<Duration>,
    /// What the request asks for in place of the cluster's `max_stream_duration`; zero means none.
    stream_duration: Option<Duration>,
    /// An attempt that takes too long goes on beside the next one: each may take as long as all.
    pub is_hedged: bool,
    /// The host is told by `grpc-timeout` as well.
    told_by_grpc: bool,
}

impl Timeouts {
    /// `grpc_timeout`: what a gRPC client asks for; `Some(None)` if it asks for nothing.
    pub(super) fn of_request(
        forward: &Forward,
        retry_policy: Option<&RetryPolicy>,
        orders: &Orders,
        grpc_timeout: Option<Option<Duration>>,
        respect_expected: bool,
    ) -> Timeouts {
        let limits = grpc_timeout.and_then(|asked| Some((asked, forward.grpc_timeout?)));
        let configured = match limits {
            Some((asked, limits)) => limits.limit(asked),
            None => forward.timeout,
        };
        let expected = orders.expected_timeout.filter(|_| respect_expected);
        let response = positive(expected.or(orders.timeout), configured);
        let per_try = positive(orders.per_try_timeout, retry_policy.and_then(|policy| policy.per_try_timeout));
        Timeouts {
            response,
            // One that would never pass first is none.
            per_try: per_try.filter(|per_try| response.is_none_or(|response| *per_try < response)),
            per_try_idle: retry_policy.and_then(|policy| policy.per_try_idle_timeout),
            stream_duration: orders.stream_duration,
            is_hedged: false,
            told_by_grpc: limits.is_some(),
        }
    }

    /// The same where attempts have no deadlines of their own.
    pub(super) fn without_tries(self) -> Timeouts {
        Timeouts { per_try: None, per_try_idle: None, ..self }
    }

    /// The deadlines of one attempt.
    pub(super) fn of_attempt(&self, cluster: &Cluster) -> TryTimeouts {
        TryTimeouts {
            response: self.per_try,
            idle: self.per_try_idle,
            duration: positive(self.stream_duration, cluster.protocol.max_stream_duration),
        }
    }

    /// Tells the host how long it will be waited for, `elapsed` after the end of the request.
    pub(super) fn tell(&self, headers: &mut HeaderMap, elapsed: Duration, by_envoy_header: bool) {
        let per_try = self.per_try.filter(|_| !self.is_hedged);
        let Some(mut expected) = per_try.or(self.response) else { return };
        if let Some(response) = self.response {
            // At least one millisecond, for zero would mean for ever.
            let left = response.saturating_sub(elapsed).max(Duration::from_millis(1));
            expected = expected.min(left);
        }
        let milliseconds = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        if by_envoy_header {
            headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(milliseconds));
        }
        if self.told_by_grpc {
            headers.insert("grpc-timeout", grpc::timeout_value(expected));
        }
    }
}

/// What is asked for, if anything is, else what is configured; zero means none.
fn positive(asked: Option<Duration>, configured: Option<Duration>) -> Option<Duration> {
    asked.or(configured).filter(|timeout| !timeout.is_zero())
}
