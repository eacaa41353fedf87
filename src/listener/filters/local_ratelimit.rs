//! The filter `envoy.filters.listener.local_ratelimit`: so many new connections in so much time, on all workers together.

use super::Rejection;
use crate::{
    config::Field,
    filter::{FactoryContext, token_bucket::TokenBucket},
    proto::listener_local_ratelimit,
    runtime::{Runtime, RuntimeFlag},
    stats,
};

/// A checked `LocalRateLimit`.
#[derive(Debug)]
pub(super) struct LocalRateLimit {
    bucket: TokenBucket,
    enabled: RuntimeFlag,
    stats: LocalRateLimitStats,
}

stats::declare! {
    /// Of a listener's rate limit, under `listener_local_ratelimit.<stat_prefix>.`
    struct LocalRateLimitStats {
        /// Connections closed because there were too many.
        rate_limited: Counter,
    }
}

impl LocalRateLimit {
    pub(super) fn from_proto(
        proto: &listener_local_ratelimit::LocalRateLimit,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
    ) -> Option<LocalRateLimit> {
        let listener_local_ratelimit::LocalRateLimit { stat_prefix, token_bucket, runtime_enabled } = proto;
        let bucket = TokenBucket::from_proto(field.required("token_bucket", token_bucket)?, field.key("token_bucket"));
        let scope = cx.stats.scope(&format!("listener_local_ratelimit.{stat_prefix}"));
        Some(LocalRateLimit {
            bucket: bucket?,
            enabled: RuntimeFlag::from_proto(runtime_enabled.as_ref()),
            stats: LocalRateLimitStats::new(&scope),
        })
    }

    /// Lets a connection in if there is a token for it.
    pub(super) fn admit(&self, runtime: &Runtime) -> Result<(), Rejection> {
        if self.enabled.is_on(runtime) && !self.bucket.take() {
            self.stats.rate_limited.inc();
            return Err(Rejection::ByFilter);
        }
        Ok(())
    }
}
