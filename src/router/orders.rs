//! What a request asks of the router by `x-envoy-*` headers, which end here.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{
    http::{headers, local_reply::LocalReply},
    route::RetryOn,
    stream_info::ResponseFlags,
};

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
    /// `x-envoy-hedge-on-per-try-timeout`
    pub hedge_on_per_try_timeout: Option<bool>,
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
            "x-envoy-hedge-on-per-try-timeout" => self.hedge_on_per_try_timeout = text.parse().ok(),
            "x-envoy-upstream-alt-stat-name" => {}
            _ => return false,
        }
        true
    }
}

/// A header that must be right if it is there (`strict_check_headers`).
#[derive(Debug)]
pub(super) struct StrictHeader {
    name: HeaderName,
    is_right: fn(&str) -> bool,
}

impl StrictHeader {
    /// One of the five that Envoy's schema allows.
    pub(super) fn named(name: &str) -> Option<StrictHeader> {
        let is_number = |text: &str| text.trim().parse::<u64>().is_ok();
        let is_right: fn(&str) -> bool = match name.to_ascii_lowercase().as_str() {
            "x-envoy-retry-on" => |text| RetryOn::parse_http(text).1,
            "x-envoy-retry-grpc-on" => |text| RetryOn::parse_grpc(text).1,
            _ => is_number,
        };
        Some(StrictHeader { name: HeaderName::from_bytes(name.as_bytes()).ok()?, is_right })
    }

    /// Whether the request has it with a right value, or has it not.
    pub(super) fn is_right(&self, headers: &HeaderMap) -> bool {
        headers.get(&self.name).is_none_or(|value| value.to_str().is_ok_and(self.is_right))
    }

    /// The reply to a request that has it with a wrong value.
    pub(super) fn reply(&self, headers: &HeaderMap) -> LocalReply {
        let name = self.name.as_str();
        let value = String::from_utf8_lossy(headers.get(&self.name).map_or(&[][..], HeaderValue::as_bytes));
        let details = format!("request_headers_failed_strict_check{{{name}}}");
        LocalReply {
            flags: ResponseFlags::INVALID_ENVOY_REQUEST_HEADERS,
            close: true,
            body: format!("invalid header '{name}' with value '{value}'").into(),
            ..LocalReply::new(StatusCode::BAD_REQUEST, details)
        }
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_millis)
}
