//! Statistics of an HTTP connection manager, by Envoy's names.

use http::StatusCode;

use crate::stats;

stats::declare! {
    /// Of every HTTP connection manager, under `http.<stat_prefix>.`
    pub struct ConnectionManagerStats {
        /// Connections served.
        downstream_cx_total: Counter,
        /// Connections open now.
        downstream_cx_active: Gauge,
        /// Connections with TLS.
        downstream_cx_ssl_total: Counter,
        /// Connections with TLS open now.
        downstream_cx_ssl_active: Gauge,
        /// Connections that spoke HTTP/1.
        downstream_cx_http1_total: Counter,
        /// Connections that speak HTTP/1 now.
        downstream_cx_http1_active: Gauge,
        /// Connections that spoke HTTP/2.
        downstream_cx_http2_total: Counter,
        /// Connections that speak HTTP/2 now.
        downstream_cx_http2_active: Gauge,
        /// Connections ended.
        downstream_cx_destroy: Counter,
        /// Connections ended with requests in progress.
        downstream_cx_destroy_active_rq: Counter,
        /// Connections that we ended.
        downstream_cx_destroy_local: Counter,
        /// Connections that we ended with requests in progress.
        downstream_cx_destroy_local_active_rq: Counter,
        /// Connections that clients ended.
        downstream_cx_destroy_remote: Counter,
        /// Connections that clients ended with requests in progress.
        downstream_cx_destroy_remote_active_rq: Counter,
        /// Connections closed after as many requests as one may have.
        downstream_cx_max_requests_reached: Counter,
        /// Connections that ended because the peer broke the protocol.
        downstream_cx_protocol_error: Counter,
        /// Lifetime of a connection, in milliseconds.
        downstream_cx_length_ms: Histogram,
        /// Bytes received.
        downstream_cx_rx_bytes_total: Counter,
        /// Bytes sent.
        downstream_cx_tx_bytes_total: Counter,
        /// Connections closed because the process drains.
        downstream_cx_drain_close: Counter,
        /// Connections closed by the idle timeout.
        downstream_cx_idle_timeout: Counter,
        /// Connections closed by their maximum duration.
        downstream_cx_max_duration_reached: Counter,
        /// Connections that became WebSockets or other upgrades.
        downstream_cx_upgrades_total: Counter,
        /// Upgraded streams now.
        downstream_cx_upgrades_active: Gauge,
        /// Requests.
        downstream_rq_total: Counter,
        /// Requests over HTTP/1.
        downstream_rq_http1_total: Counter,
        /// Requests over HTTP/2.
        downstream_rq_http2_total: Counter,
        /// Requests in progress.
        downstream_rq_active: Gauge,
        /// Requests that the client reset.
        downstream_rq_rx_reset: Counter,
        /// Requests whose stream we reset.
        downstream_rq_tx_reset: Counter,
        /// Requests whose path does not begin with "/".
        downstream_rq_non_relative_path: Counter,
        /// Requests whose path could not be normalized.
        downstream_rq_failed_path_normalization: Counter,
        /// Requests without the client's address that `original_ip_detection_extensions` ask for.
        downstream_rq_rejected_via_ip_detection: Counter,
        /// Requests redirected to their normalized path.
        downstream_rq_redirected_with_normalized_path: Counter,
        /// Upgrades refused because no setting allows them.
        downstream_rq_ws_on_non_ws_route: Counter,
        /// Responses that began before their request had ended.
        downstream_rq_response_before_rq_complete: Counter,
        /// Requests ended by the idle timeout.
        downstream_rq_idle_timeout: Counter,
        /// Requests ended by their maximum duration.
        downstream_rq_max_duration_reached: Counter,
        /// Requests that did not arrive in time.
        downstream_rq_timeout: Counter,
        /// Connections closed because most of their requests were reset at once.
        downstream_rq_too_many_premature_resets: Counter,
        /// Requests whose headers did not arrive in time.
        downstream_rq_header_timeout: Counter,
        /// From the headers of a request to the end of its response, in milliseconds.
        downstream_rq_time: Histogram,
    }
}

stats::declare! {
    /// Responses, under `http.<stat_prefix>.` and again under `listener.<address>.http.<stat_prefix>.`
    pub struct ResponseClasses {
        /// Requests whose response has begun.
        downstream_rq_completed: Counter,
        /// Responses with a status of 100 to 199: upgrades.
        downstream_rq_1xx: Counter,
        /// Responses with a status of 200 to 299.
        downstream_rq_2xx: Counter,
        /// Responses with a status of 300 to 399.
        downstream_rq_3xx: Counter,
        /// Responses with a status of 400 to 499.
        downstream_rq_4xx: Counter,
        /// Responses with a status of 500 to 599.
        downstream_rq_5xx: Counter,
    }
}

impl ResponseClasses {
    /// Counts a response that begins.
    pub fn count(&self, status: StatusCode) {
        self.downstream_rq_completed.inc();
        match status.as_u16() / 100 {
            1 => self.downstream_rq_1xx.inc(),
            2 => self.downstream_rq_2xx.inc(),
            3 => self.downstream_rq_3xx.inc(),
            4 => self.downstream_rq_4xx.inc(),
            5 => self.downstream_rq_5xx.inc(),
            _ => {}
        }
    }
}

stats::declare! {
    /// Of all connections of a protocol, under `http1.` or `http2.`
    pub struct CodecStats {
        /// Headers removed for an underscore in their name.
        dropped_headers_with_underscores: Counter,
        /// Requests refused for an underscore in the name of a header.
        requests_rejected_with_underscores_in_headers: Counter,
    }
}
