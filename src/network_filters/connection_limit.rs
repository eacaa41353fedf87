//! The filter `envoy.filters.network.connection_limit`: so many connections of a filter chain at once, on all workers together.

use std::{sync::Arc, time::Duration};

use crate::{
    config::Field,
    filter::{
        FactoryContext,
        network::{Admission, ReadFilter, ReadFilterFactory},
    },
    net, proto,
    runtime::{Runtime, RuntimeFlag},
    stats,
    stream_info::{ConnectionInfo, ResponseFlags},
};

/// The row of this filter.
pub const FACTORY: ReadFilterFactory = ReadFilterFactory {
    type_name: "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    from_proto: |any, field, cx| {
        let limit = ConnectionLimit::from_proto(&field.unpack(any)?, field, cx)?;
        Some(Arc::new(limit))
    },
};

/// A checked `ConnectionLimit`.
#[derive(Debug)]
struct ConnectionLimit {
    limit: Arc<net::ConnectionLimit>,
    /// How long a refused connection is kept open, so that its client does not come back at once.
    delay: Duration,
    enabled: RuntimeFlag,
    stats: ConnectionLimitStats,
}

stats::declare! {
    /// Of the connection limits with this prefix, under `connection_limit.<stat_prefix>.`
    struct ConnectionLimitStats {
        /// Connections closed because there were as many as there may be.
        limited_connections: Counter,
        /// Connections that were let in and are open.
        active_connections: Gauge,
    }
}

impl ConnectionLimit {
    fn from_proto(
        proto: &proto::connection_limit::ConnectionLimit,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
    ) -> Option<ConnectionLimit> {
        let proto::connection_limit::ConnectionLimit { stat_prefix, max_connections, delay, runtime_enabled } = proto;
        let max = field.required("max_connections", max_connections)?.value;
        Some(ConnectionLimit {
            limit: net::ConnectionLimit::new(max),
            delay: field.duration("delay", delay).unwrap_or_default(),
            enabled: RuntimeFlag::from_proto(runtime_enabled.as_ref()),
            stats: ConnectionLimitStats::new(&cx.stats.scope(&format!("connection_limit.{stat_prefix}"))),
        })
    }
}

impl ReadFilter for ConnectionLimit {
    fn admit(&self, _connection: &mut ConnectionInfo, runtime: &Runtime) -> Admission {
        if !self.enabled.is_on(runtime) {
            return Admission::Continue;
        }
        let Some(permit) = self.limit.acquire() else {
            self.stats.limited_connections.inc();
            return Admission::Close { delay: self.delay, flags: ResponseFlags::NONE };
        };
        Admission::ContinueHolding(Box::new((permit, self.stats.active_connections.hold())))
    }
}
