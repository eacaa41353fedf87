//! What a request asks of the router by `x-envoy-*` headers, which end here.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{http::headers, route::RetryOn};

/// What a request asks of the router of this hop.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// `x-envoy-upstream-rq-timeout-ms`; zero means none.
    pub timeout: Option<Duration>,
    /// `x-envoy-upstream-rq-per-try-timeout-ms`; zero means none.
    pub per_try_timeout: Option<Duration>,
    /// `x-envoy-upstream-stream-duration-ms`; zero means none.
    pub stream_duration: Option<Duration>,
    /// `x-envoy-expected-rq-timeout-ms`, by which the router of the hop before tells what it expects.
    pub expected_timeout: Option<Duration>,
    /// `x-envoy-upstream-rq-timeout-alt-response`: a timeout is told by status 204.
    pub timeout_by_no_content: bool,
    /// `x-envoy-retry-on` and `x-envoy-retry-grpc-on`
    pub retry_on: RetryOn,
    /// `x-envoy-max-retries`
    pub max_retries: Option<u32>,
    /// `x-envoy-retriable-status-codes`
    pub retriable_status_codes: Vec<u16>,
    /// `x-envoy-retriable-header-names`
    pub retriable_headers: Vec<HeaderName>,
}

impl Orders {
    /// Takes them from the request. Few requests have any, which one look at the names tells.
    pub(super) fn take(request: &mut HeaderMap) -> Orders {
        let mut orders = Orders::default();
        let mut found = false;
        for (name, value) in request.iter().filter(|(name, _)| name.as_str().starts_with("x-envoy-")) {
            found |= orders.read(name.as_str(), value);
        }
        if found {
            headers::remove_orders(request);
        }
        orders
    }

    /// Whether the header is one of those that end here.
    fn read(&mut self, name: &str, value: &HeaderValue) -> bool {
        let text = value.to_str().unwrap_or_default();
        match name {
            "x-envoy-upstream-rq-timeout-ms" => self.timeout = milliseconds(text),
            "x-envoy-upstream-rq-per-try-timeout-ms" => self.per_try_timeout = milliseconds(text),
            "x-envoy-upstream-stream-duration-ms" => self.stream_duration = milliseconds(text),
            "x-envoy-upstream-rq-timeout-alt-response" => self.timeout_by_no_content = true,
            "x-envoy-retry-on" => self.retry_on = self.retry_on.union(RetryOn::parse_http(text).0),
            "x-envoy-retry-grpc-on" => self.retry_on = self.retry_on.union(RetryOn::parse_grpc(text).0),
            "x-envoy-max-retries" => self.max_retries = text.trim().parse().ok(),
            "x-envoy-retriable-status-codes" => {
                self.retriable_status_codes.extend(text.split(',').filter_map(|code| code.trim().parse::<u16>().ok()));
            }
            "x-envoy-retriable-header-names" => {
                let names = text.split(',').map(str::trim);
                self.retriable_headers.extend(names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()));
            }
            // It is for the next hop as well.
            "x-envoy-expected-rq-timeout-ms" => {
                self.expected_timeout = milliseconds(text);
                return false;
            }
            "x-envoy-hedge-on-per-try-timeout" | "x-envoy-upstream-alt-stat-name" => {}
            _ => return false,
        }
        true
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_millis)
}
