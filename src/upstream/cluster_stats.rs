//! What is counted of a cluster.

use super::{Health, HostSet};
use crate::stats;

stats::declare! {
    /// Of a cluster, under `cluster.<name>.`
    pub struct ClusterStats {
        /// Connections made or tried.
        upstream_cx_total: Counter,
        /// Connections open now.
        upstream_cx_active: Gauge,
        /// HTTP/1.1 connections made.
        upstream_cx_http1_total: Counter,
        /// HTTP/2 connections made.
        upstream_cx_http2_total: Counter,
        /// Connections that could not be made.
        upstream_cx_connect_fail: Counter,
        /// Of these, those whose source address could not be had (`upstream_bind_config`).
        bind_errors: Counter,
        /// Times that no more hosts were tried for a TCP connection, because each had failed.
        upstream_cx_connect_attempts_exceeded: Counter,
        /// Connections that were not made in time.
        upstream_cx_connect_timeout: Counter,
        /// Time to make a connection, in milliseconds.
        upstream_cx_connect_ms: Histogram,
        /// Requests that a connection served.
        upstream_rq_per_cx: Histogram,
        /// Lifetime of a connection, in milliseconds.
        upstream_cx_length_ms: Histogram,
        /// Connections closed.
        upstream_cx_destroy: Counter,
        /// Connections closed by us.
        upstream_cx_destroy_local: Counter,
        /// Connections closed by the host.
        upstream_cx_destroy_remote: Counter,
        /// Connections closed while requests were running.
        upstream_cx_destroy_with_active_rq: Counter,
        /// Connections closed by us while requests were running.
        upstream_cx_destroy_local_with_active_rq: Counter,
        /// Connections closed by the host while requests were running.
        upstream_cx_destroy_remote_with_active_rq: Counter,
        /// Connections closed because they had no request for too long.
        upstream_cx_idle_timeout: Counter,
        /// Connections closed because they had served their number of requests.
        upstream_cx_max_requests: Counter,
        /// Bytes received.
        upstream_cx_rx_bytes_total: Counter,
        /// Bytes sent.
        upstream_cx_tx_bytes_total: Counter,
        /// Times that the bound on connections was reached.
        upstream_cx_overflow: Counter,
        /// Times that no connection could be used or made for a request, because there was no host.
        upstream_cx_none_healthy: Counter,
        /// Times that a host was to be chosen while less than half of them were healthy: there was none at all.
        lb_healthy_panic: Counter,
        /// Subsets of hosts that there are now, on all workers.
        lb_subsets_active: Gauge,
        /// Subsets that came with their first host.
        lb_subsets_created: Counter,
        /// Subsets that went with their last host.
        lb_subsets_removed: Counter,
        /// Times that a host was chosen from the subset that was asked for.
        lb_subsets_selected: Counter,
        /// Times that a host was chosen by the fallback of the cluster.
        lb_subsets_fallback: Counter,
        /// Times that a host was chosen from all, because even the fallback had none.
        lb_subsets_fallback_panic: Counter,
        /// Times that a host was not read from because its client could not take more.
        upstream_flow_control_paused_reading_total: Counter,
        /// Times that a host was read from again after that.
        upstream_flow_control_resumed_reading_total: Counter,
        /// Requests sent, retries included.
        upstream_rq_total: Counter,
        /// Requests running now.
        upstream_rq_active: Gauge,
        /// Requests that waited for a connection.
        upstream_rq_pending_total: Counter,
        /// Requests that wait for a connection now.
        upstream_rq_pending_active: Gauge,
        /// Requests refused because too many waited.
        upstream_rq_pending_overflow: Counter,
        /// Requests refused because too many were running.
        upstream_rq_active_overflow: Counter,
        /// Connections closed because the host broke the protocol.
        upstream_cx_protocol_error: Counter,
        /// Requests that failed because their connection could not be made.
        upstream_rq_pending_failure_eject: Counter,
        /// Requests cancelled before they had a connection.
        upstream_rq_cancelled: Counter,
        /// Requests that the route's timeout ended.
        upstream_rq_timeout: Counter,
        /// Attempts given up because of `per_try_timeout`.
        upstream_rq_per_try_timeout: Counter,
        /// Attempts given up because of `per_try_idle_timeout`.
        upstream_rq_per_try_idle_timeout: Counter,
        /// Attempts given up because the stream upstream had lived long enough.
        upstream_rq_max_duration_reached: Counter,
        /// Further attempts.
        upstream_rq_retry: Counter,
        /// Further attempts that brought an answer which called for no other.
        upstream_rq_retry_success: Counter,
        /// Further attempts not made because there were too many.
        upstream_rq_retry_overflow: Counter,
        /// Requests whose attempts were used up.
        upstream_rq_retry_limit_exceeded: Counter,
        /// Further attempts after a wait of our own choice.
        upstream_rq_retry_backoff_exponential: Counter,
        /// Further attempts after a wait that the response asked for.
        upstream_rq_retry_backoff_ratelimited: Counter,
        /// Requests that will not be sent again or mirrored, because their body is too large to be kept.
        retry_or_shadow_abandoned: Counter,
        /// Redirects that were followed.
        upstream_internal_redirect_succeeded_total: Counter,
        /// Redirects that should have been followed and went to the client.
        upstream_internal_redirect_failed_total: Counter,
        /// Requests that the host reset.
        upstream_rq_rx_reset: Counter,
        /// Requests that we reset.
        upstream_rq_tx_reset: Counter,
        /// Time from sending a request to the end of its response, in milliseconds.
        upstream_rq_time: Histogram,
        /// Changes of the hosts.
        membership_change: Counter,
        /// Hosts that take requests.
        membership_healthy: Gauge,
        /// Hosts that take requests only when no healthy one is left.
        membership_degraded: Gauge,
        /// All hosts.
        membership_total: Gauge,
        /// Resolutions tried.
        update_attempt: Counter,
        /// Resolutions that succeeded.
        update_success: Counter,
        /// Resolutions that failed.
        update_failure: Counter,
        /// Resolutions that succeeded without an address.
        update_empty: Counter,
        /// Resolutions that changed nothing.
        update_no_rebuild: Counter,
    }
}

impl ClusterStats {
    /// Sets the gauges of membership; on the main thread.
    pub(super) fn record_membership(&self, hosts: &HostSet) {
        self.membership_total.set(hosts.hosts().len() as u64);
        self.membership_healthy.set(hosts.count(Health::Healthy));
        self.membership_degraded.set(hosts.count(Health::Degraded));
    }
}
