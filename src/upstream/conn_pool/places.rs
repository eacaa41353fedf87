//! Places under a cluster's circuit breakers: who waits for a connection, and connections themselves.

use std::{cell::Cell, sync::Arc};

use super::{FailureKind, connect::ConnectError};
use crate::{
    proto::core::RoutingPriority,
    stats::Counter,
    upstream::{Cluster, HostRef},
};

/// A request that waits for a connection. Dropped before it has one, it was cancelled.
pub(super) struct Pending<'a> {
    host: &'a HostRef,
    priority: RoutingPriority,
    ended: Cell<bool>,
}

impl Pending<'_> {
    /// One more that waits.
    ///
    /// # Errors
    /// If there are too many.
    pub(super) fn begin(host: &HostRef, priority: RoutingPriority) -> Result<Pending<'_>, ConnectError> {
        let (stats, limits) = (&host.cluster().stats, host.cluster().circuit_breakers.of(priority));
        if !limits.pending_requests.has_room() {
            return Err(overflow(&stats.upstream_rq_pending_overflow));
        }
        limits.pending_requests.take();
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        host.stats.rq_pending_active.inc();
        Ok(Pending { host, priority, ended: Cell::new(false) })
    }

    /// It waits no more.
    pub(super) fn end(&self) {
        self.ended.set(true);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let cluster = self.host.cluster();
        cluster.stats.upstream_rq_pending_active.dec();
        self.host.stats.rq_pending_active.dec();
        cluster.circuit_breakers.of(self.priority).pending_requests.give_back();
        if !self.ended.get() {
            cluster.stats.upstream_rq_cancelled.inc();
        }
    }
}

/// Why a request that a circuit breaker does not let through is not sent; `counter` counts it.
pub(super) fn overflow(counter: &Counter) -> ConnectError {
    counter.inc();
    ConnectError::new(FailureKind::Overflow, &"a circuit breaker is open")
}

/// A connection, from before it is made until it has closed.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    cluster: Arc<Cluster>,
    priority: RoutingPriority,
}

impl ConnectionPlace {
    /// Whether there may be one more. A host without any connection always gets one, or its requests would wait for ever.
    pub(super) fn is_free(host: &HostRef, priority: RoutingPriority) -> bool {
        let breakers = &host.cluster().circuit_breakers;
        let of_host = breakers.max_connections_per_host.is_none_or(|max| host.stats.cx_active.value() < max);
        of_host && breakers.of(priority).connections.has_room()
    }

    /// One more.
    pub(super) fn take(host: &HostRef, priority: RoutingPriority) -> ConnectionPlace {
        host.cluster().circuit_breakers.of(priority).connections.take();
        ConnectionPlace { cluster: Arc::clone(host.cluster()), priority }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.cluster.circuit_breakers.of(self.priority).connections.give_back();
    }
}
