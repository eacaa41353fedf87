//! `envoy.filters.http.health_check`: answers those who ask for the health of this process, or of the clusters behind it.
//!
//! In pass-through mode the upstream is asked, and its answer may be remembered for a while. While `/healthcheck/fail` counts, every
//! health check fails, and other responses say so by `x-envoy-immediate-health-check-fail`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;

use crate::{
    config::Field,
    filter::{
        FactoryContext, LocalFuture, WorkerContext,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
    },
    http::{Request, Response, local_reply::LocalReply},
    matcher::HeaderMatcher,
    proto::health_check_filter::HealthCheck as Proto,
    stats::{self, Counter},
    stream_info::ResponseFlags,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.health_check",
    type_name: "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    from_proto: |any, field, cx| {
        let check = HealthCheck::from_proto(&field.unpack(any)?, field, cx)?;
        Some(Arc::new(check))
    },
};

const CHECKED_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
const IMMEDIATE_FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
const DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");

/// A checked `HealthCheck`.
#[derive(Debug)]
struct HealthCheck {
    /// Whether a health check goes on to the upstream.
    passes_through: bool,
    /// What makes a request one.
    headers: Vec<HeaderMatcher>,
    /// How many hosts of a cluster must be healthy, in percent.
    min_healthy: Vec<(String, f64)>,
    cache: Option<Cache>,
    /// Our own, for `x-envoy-upstream-healthchecked-cluster`.
    service_cluster: HeaderValue,
    /// Set by `/healthcheck/fail`.
    fails: Arc<AtomicBool>,
    stats: HealthCheckStats,
    /// `http.<stat_prefix>.tracing.health_check`: requests that no tracer samples because they are health checks.
    untraced: Counter,
}

stats::declare! {
    /// Of the filters of a connection manager, under `http.<stat_prefix>.health_check.`
    struct HealthCheckStats {
        /// Health checks.
        request_total: Counter,
        /// Health checks that were answered here, well.
        ok: Counter,
        /// Health checks that were answered here, otherwise.
        failed: Counter,
        /// Health checks that were answered by what the upstream said before.
        cached_response: Counter,
        /// Health checks that failed for want of a cluster.
        failed_cluster_not_found: Counter,
        /// Health checks that failed because a cluster has no hosts.
        failed_cluster_empty: Counter,
        /// Health checks that failed because a cluster has too few healthy hosts.
        failed_cluster_unhealthy: Counter,
        /// Health checks that told of a degraded upstream.
        degraded: Counter,
    }
}

impl HealthCheck {
    fn from_proto(proto: &Proto, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<HealthCheck> {
        let Proto { pass_through_mode, cache_time, cluster_min_healthy_percentages, headers } = proto;
        let passes_through = field.required("pass_through_mode", pass_through_mode)?.value;
        let cache_time = field.duration("cache_time", cache_time).filter(|time| !time.is_zero());
        if cache_time.is_some() && !passes_through {
            field.key("cache_time").error("cache_time_ms must not be set when path_through_mode is disabled");
        }
        let list = field.key("headers");
        let headers = headers.iter().enumerate();
        let headers = headers.map(|(index, header)| HeaderMatcher::from_proto(header, list.index(index)));
        let mut min_healthy: Vec<_> =
            cluster_min_healthy_percentages.iter().map(|(cluster, percent)| (cluster.clone(), percent.value)).collect();
        min_healthy.sort_by(|one, other| one.0.cmp(&other.0));
        Some(HealthCheck {
            passes_through,
            headers: headers.collect::<Option<_>>()?,
            min_healthy,
            cache: cache_time.map(Cache::new),
            service_cluster: HeaderValue::from_str(cx.service_cluster).ok()?,
            fails: Arc::clone(&cx.services.fails_health_checks),
            stats: HealthCheckStats::new(&cx.filter_stats("health_check")),
            untraced: cx.filter_stats("tracing").counter("health_check"),
        })
    }

    /// The answer to a health check that is not passed on. Details are Envoy's.
    fn answer(&self, worker: &WorkerContext) -> LocalReply {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let (status, details) = if self.fails.load(Relaxed) {
            (unavailable, "health_check_failed")
        } else if let Some(cache) = &self.cache {
            let (status, degraded) = cache.last();
            self.stats.cached_response.inc();
            let mut reply = LocalReply::new(status, "health_check_cached");
            if degraded {
                self.stats.degraded.inc();
                reply.headers.insert(DEGRADED, HeaderValue::from_static(""));
            }
            return self.counted(reply);
        } else if let Some(failure) = self.min_healthy.iter().find_map(|(name, min)| unhealthy(worker, name, *min)) {
            match failure {
                NOT_FOUND => self.stats.failed_cluster_not_found.inc(),
                EMPTY => self.stats.failed_cluster_empty.inc(),
                _ => self.stats.failed_cluster_unhealthy.inc(),
            }
            (unavailable, failure)
        } else if self.min_healthy.is_empty() {
            (StatusCode::OK, "health_check_ok")
        } else {
            (StatusCode::OK, "health_check_ok_cluster_healthy")
        };
        self.counted(LocalReply::new(status, details))
    }

    fn counted(&self, mut reply: LocalReply) -> LocalReply {
        if reply.status.is_success() {
            self.stats.ok.inc();
        } else {
            self.stats.failed.inc();
            reply.flags = ResponseFlags::FAILED_LOCAL_HEALTH_CHECK;
        }
        reply
    }
}

/// Details of failures by clusters.
const NOT_FOUND: &str = "health_check_failed_no_cluster_found";
const EMPTY: &str = "health_check_failed_cluster_empty";
const UNHEALTHY: &str = "health_check_failed_cluster_unhealthy";

/// Why a cluster does not have that many healthy hosts, if so.
fn unhealthy(worker: &WorkerContext, cluster: &str, min_percent: f64) -> Option<&'static str> {
    let Some(cluster) = worker.clusters.get(cluster) else { return Some(NOT_FOUND) };
    let stats = &cluster.cluster().stats;
    let (healthy, total) = (stats.membership_healthy.value(), stats.membership_total.value());
    if total == 0 {
        return (min_percent > 0.0).then_some(EMPTY);
    }
    #[allow(clippy::cast_precision_loss, reason = "nobody has that many hosts")]
    let too_few = (healthy as f64) < total as f64 * min_percent / 100.0;
    too_few.then_some(UNHEALTHY)
}

/// What the upstream last said. It counts to the end of the period in which it was said, as in Envoy, where a timer clears it.
#[derive(Debug)]
struct Cache {
    begun: Instant,
    period: Duration,
    /// Number of the period, from 1, then status, then whether degraded, in one word; 0 when nothing was said.
    said: AtomicU64,
}

const STATUS_SHIFT: u32 = 1;
const PERIOD_SHIFT: u32 = 16;

impl Cache {
    fn new(period: Duration) -> Cache {
        Cache { begun: Instant::now(), period, said: AtomicU64::new(0) }
    }

    fn period(&self) -> u64 {
        let periods = self.begun.elapsed().as_nanos() / self.period.as_nanos().max(1);
        u64::try_from(periods).unwrap_or(u64::MAX >> PERIOD_SHIFT) + 1
    }

    fn counts(&self) -> bool {
        self.said.load(Relaxed) >> PERIOD_SHIFT == self.period()
    }

    fn last(&self) -> (StatusCode, bool) {
        let said = self.said.load(Relaxed);
        let status = u16::try_from(said >> STATUS_SHIFT & 0x3ff).ok().and_then(|code| StatusCode::from_u16(code).ok());
        (status.unwrap_or(StatusCode::OK), said & 1 == 1)
    }

    fn remember(&self, status: StatusCode, degraded: bool) {
        let said = self.period() << PERIOD_SHIFT | u64::from(status.as_u16()) << STATUS_SHIFT | u64::from(degraded);
        self.said.store(said, Relaxed);
    }
}

impl HttpFilterConfig for HealthCheck {
    fn new_stream(self: Arc<Self>, _place: Place<'_>) -> Box<dyn HttpFilter> {
        Box::new(Check { config: self, is_check: false })
    }
}

/// The filter on one stream.
struct Check {
    config: Arc<HealthCheck>,
    is_check: bool,
}

impl HttpFilter for Check {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        let config = &self.config;
        self.is_check = config.headers.iter().all(|header| header.matches(&*request));
        if !self.is_check {
            return ready(Decoded::Continue);
        }
        stream.info.is_health_check = true;
        config.untraced.inc();
        let cached = config.cache.as_ref().is_some_and(Cache::counts);
        if config.passes_through && !cached && !config.fails.load(Relaxed) {
            return ready(Decoded::Continue);
        }
        config.stats.request_total.inc();
        Box::pin(async move {
            // The answer is for the whole request.
            while let Some(Ok(_)) = request.body_mut().frame().await {}
            Decoded::Reply(self.config.answer(&stream.worker))
        })
    }

    fn encode_headers<'a>(&'a mut self, response: &'a mut Response, _stream: &'a mut Stream) -> LocalFuture<'a, ()> {
        if self.is_check {
            if let Some(cache) = &self.config.cache {
                cache.remember(response.status(), response.headers().contains_key(DEGRADED));
            }
            response.headers_mut().insert(CHECKED_CLUSTER, self.config.service_cluster.clone());
        } else if self.config.fails.load(Relaxed) {
            response.headers_mut().insert(IMMEDIATE_FAIL, HeaderValue::from_static("true"));
        }
        ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_for_its_period() {
        let cache = Cache::new(Duration::from_hours(1));
        assert!(!cache.counts());
        cache.remember(StatusCode::SERVICE_UNAVAILABLE, true);
        assert!(cache.counts());
        assert_eq!(cache.last(), (StatusCode::SERVICE_UNAVAILABLE, true));
        let short = Cache::new(Duration::from_millis(1));
        short.remember(StatusCode::OK, false);
        std::thread::sleep(Duration::from_millis(3));
        assert!(!short.counts());
    }
}
