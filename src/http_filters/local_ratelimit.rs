//! `envoy.filters.http.local_ratelimit`: so many requests in so much time, on all workers together.
//!
//! The most specific settings count as a whole, with a bucket and statistics of their own.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::{
    config::Field,
    filter::{
        LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
        token_bucket::TokenBucket,
    },
    http::{Request, Response, header_mutations::HeaderMutations, local_reply::LocalReply},
    proto::{core::HeaderValueOption, http_local_ratelimit::LocalRateLimit as Proto, type_v3::HttpStatus},
    route::FilterSettingsFactory,
    runtime::RuntimeFraction,
    stats,
    stream_info::ResponseFlags,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.local_ratelimit",
    type_name: "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    from_proto: |any, field, cx| {
        let limit = LocalRateLimit::from_proto(&field.unpack(any)?, field, cx.stats)?;
        Some(Arc::new(Filter(Arc::new(limit))))
    },
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: FACTORY.type_name,
    from_proto: |any, field, stats| {
        let limit = LocalRateLimit::from_proto(&field.unpack(any)?, field, stats)?;
        if limit.bucket.is_none() {
            field.error("local rate limit token bucket must be set for per filter configs");
            return None;
        }
        Some(Arc::new(limit))
    },
};

/// The gRPC status of a refusal with `rate_limited_as_resource_exhausted`.
const RESOURCE_EXHAUSTED: u32 = 8;

#[derive(Debug)]
struct Filter(Arc<LocalRateLimit>);

/// A checked `LocalRateLimit`.
#[derive(Debug)]
struct LocalRateLimit {
    /// `None`: no limit.
    bucket: Option<TokenBucket>,
    status: StatusCode,
    /// `None`: never, as in Envoy.
    enabled: Option<RuntimeFraction>,
    /// `None`: never; requests are counted all the same.
    enforced: Option<RuntimeFraction>,
    /// Of requests that pass only because nothing is enforced.
    request_headers: HeaderMutations,
    response_headers: HeaderMutations,
    grpc_status: Option<u32>,
    /// `x-ratelimit-limit`, `-remaining` and `-reset` on responses.
    tells_limits: bool,
    stats: LocalRateLimitStats,
}

stats::declare! {
    /// Of the HTTP rate limits with this prefix, under `<stat_prefix>.http_local_rate_limit.`
    struct LocalRateLimitStats {
        /// Requests that were looked at.
        enabled: Counter,
        /// Requests that were refused.
        enforced: Counter,
        /// Requests that were one too many, refused or not.
        rate_limited: Counter,
        /// Requests that were not too many.
        ok: Counter,
    }
}

impl LocalRateLimit {
    fn from_proto(proto: &Proto, field: Field<'_>, stats: &Arc<stats::Registry>) -> Option<LocalRateLimit> {
        let Proto {
            stat_prefix,
            status,
            token_bucket,
            filter_enabled,
            filter_enforced,
            request_headers_to_add_when_not_enforced,
            response_headers_to_add,
            descriptors,
            stage,
            local_rate_limit_per_downstream_connection,
            local_cluster_rate_limit,
            enable_x_ratelimit_headers,
            vh_rate_limits,
            always_consume_default_token_bucket,
            rate_limited_as_resource_exhausted,
            rate_limits,
            max_dynamic_descriptors,
            enable_retry_after_header,
        } = proto;
        let no_descriptors = "it counts with descriptors only";
        field.unsupported("descriptors", descriptors);
        field.ignored("stage", stage, no_descriptors);
        field.unsupported("local_rate_limit_per_downstream_connection", local_rate_limit_per_downstream_connection);
        field.unsupported("local_cluster_rate_limit", local_cluster_rate_limit);
        field.ignored("vh_rate_limits", vh_rate_limits, no_descriptors);
        field.ignored("always_consume_default_token_bucket", always_consume_default_token_bucket, no_descriptors);
        field.ignored("rate_limits", rate_limits, no_descriptors);
        field.ignored("max_dynamic_descriptors", max_dynamic_descriptors, no_descriptors);
        field.ignored("enable_retry_after_header", enable_retry_after_header, "refusals carry no retry-after header");
        let bucket = match token_bucket {
            Some(bucket) => Some(TokenBucket::from_proto(bucket, field.key("token_bucket"))?),
            None => None,
        };
        let headers =
            |key, options: &[HeaderValueOption]| HeaderMutations::from_proto((options, field.key(key)), (&[], field));
        Some(LocalRateLimit {
            bucket,
            status: status_code(status.as_ref()),
            enabled: filter_enabled.as_ref().map(RuntimeFraction::from_proto),
            enforced: filter_enforced.as_ref().map(RuntimeFraction::from_proto),
            request_headers: headers(
                "request_headers_to_add_when_not_enforced",
                request_headers_to_add_when_not_enforced,
            ),
            response_headers: headers("response_headers_to_add", response_headers_to_add),
            grpc_status: rate_limited_as_resource_exhausted.then_some(RESOURCE_EXHAUSTED),
            tells_limits: *enable_x_ratelimit_headers != 0,
            stats: LocalRateLimitStats::new(&stats.scope(stat_prefix).scope("http_local_rate_limit")),
        })
    }

    fn tell_limits(&self, headers: &mut HeaderMap) {
        if let Some(bucket) = &self.bucket {
            let (remaining, wait) = bucket.remaining();
            let reset = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.append("x-ratelimit-limit", HeaderValue::from(bucket.max()));
            headers.append("x-ratelimit-remaining", HeaderValue::from(remaining));
            headers.append("x-ratelimit-reset", HeaderValue::from(reset));
        }
    }
}

/// Below 400 a status is no refusal, and Envoy takes its default.
fn status_code(status: Option<&HttpStatus>) -> StatusCode {
    let code = status.and_then(|status| u16::try_from(status.code).ok()).filter(|code| *code >= 400);
    code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::TOO_MANY_REQUESTS)
}

impl HttpFilterConfig for Filter {
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        let limit = place.settings().unwrap_or_else(|| Arc::clone(&self.0));
        Box::new(Limiter { limit, looked_at: false })
    }
}

/// The filter on one stream.
struct Limiter {
    limit: Arc<LocalRateLimit>,
    looked_at: bool,
}

impl HttpFilter for Limiter {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        ready(self.decide(request, stream))
    }

    fn encode_headers<'a>(&'a mut self, response: &'a mut Response, _stream: &'a mut Stream) -> LocalFuture<'a, ()> {
        if self.looked_at && self.limit.tells_limits {
            self.limit.tell_limits(response.headers_mut());
        }
        ready(())
    }
}

impl Limiter {
    fn decide(&mut self, request: &mut Request, stream: &mut Stream) -> Decoded {
        let limit = &*self.limit;
        let runtime = stream.worker.runtime();
        let holds = |share: &Option<RuntimeFraction>| {
            share.as_ref().is_some_and(|share| share.holds(&runtime, stream.worker.random.next_u64()))
        };
        if !holds(&limit.enabled) {
            return Decoded::Continue;
        }
        self.looked_at = true;
        limit.stats.enabled.inc();
        if limit.bucket.as_ref().is_none_or(TokenBucket::take) {
            limit.stats.ok.inc();
            return Decoded::Continue;
        }
        limit.stats.rate_limited.inc();
        if !holds(&limit.enforced) {
            limit.request_headers.apply_to_request(request.headers_mut(), &stream.info);
            return Decoded::Continue;
        }
        limit.stats.enforced.inc();
        let mut reply = LocalReply {
            flags: ResponseFlags::RATE_LIMITED,
            body: "local_rate_limited".into(),
            grpc_status: limit.grpc_status,
            ..LocalReply::new(limit.status, "local_rate_limited")
        };
        limit.response_headers.apply_to_response(&mut reply.headers, &stream.info);
        Decoded::Reply(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_refuse() {
        assert_eq!(status_code(None), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(status_code(Some(&HttpStatus { code: 200 })), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(status_code(Some(&HttpStatus { code: 503 })), StatusCode::SERVICE_UNAVAILABLE);
    }
}
