//! The filter `envoy.filters.network.local_ratelimit`: so many new connections of a filter chain in so much time, on all workers together.

use std::{sync::Arc, time::Duration};

use crate::{
    config::Field,
    filter::{
        FactoryContext,
        network::{Admission, ReadFilter, ReadFilterFactory},
        token_bucket::TokenBucket,
    },
    proto,
    runtime::{Runtime, RuntimeFlag},
    stats,
    stream_info::{ConnectionInfo, ResponseFlags},
};

/// The row of this filter.
pub const FACTORY: ReadFilterFactory = ReadFilterFactory {
    type_name: "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
    from_proto: |any, field, cx| {
        let limit = LocalRateLimit::from_proto(&field.unpack(any)?, field, cx)?;
        Some(Arc::new(limit))
    },
};

/// A checked `LocalRateLimit`.
#[derive(Debug)]
struct LocalRateLimit {
    bucket: TokenBucket,
    enabled: RuntimeFlag,
    stats: LocalRateLimitStats,
}

stats::declare! {
    /// Of the rate limits with this prefix, under `local_rate_limit.<stat_prefix>.`
    struct LocalRateLimitStats {
        /// Connections closed because there were too many.
        rate_limited: Counter,
    }
}

impl LocalRateLimit {
    fn from_proto(
        proto: &proto::network_local_ratelimit::LocalRateLimit,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
    ) -> Option<LocalRateLimit> {
        let proto::network_local_ratelimit::LocalRateLimit { stat_prefix, token_bucket, runtime_enabled, share_key } =
            proto;
        field.unsupported("share_key", share_key);
        let bucket = TokenBucket::from_proto(field.required("token_bucket", token_bucket)?, field.key("token_bucket"));
        Some(LocalRateLimit {
            bucket: bucket?,
            enabled: RuntimeFlag::from_proto(runtime_enabled.as_ref()),
            stats: LocalRateLimitStats::new(&cx.stats.scope(&format!("local_rate_limit.{stat_prefix}"))),
        })
    }
}

impl ReadFilter for LocalRateLimit {
    fn admit(&self, _connection: &mut ConnectionInfo, runtime: &Runtime) -> Admission {
        if self.enabled.is_on(runtime) && !self.bucket.take() {
            self.stats.rate_limited.inc();
            // The flag is Envoy's.
            return Admission::Close { delay: Duration::ZERO, flags: ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED };
        }
        Admission::Continue
    }
}
