//! gRPC over HTTP/2, as far as a proxy must know it: which requests are gRPC, and how a failure is said in it.
//!
//! Rules: grpc/doc/PROTOCOL-HTTP2.md and http-grpc-status-mapping.md of the gRPC project.

use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderValue, header};

/// Whether the content type is `application/grpc`, with or without a suffix such as `+proto`; gRPC-Web is not,
/// and parameters are not expected.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return false };
    match content_type.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest[0] == b'+',
        None => false,
    }
}

/// The status of a call whose time ran out.
pub const DEADLINE_EXCEEDED: u32 = 4;

/// `grpc-status` of a response's headers or trailers.
pub fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A `grpc-message`: everything but printable ASCII is percent-encoded.
pub fn message(text: &[u8]) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or(HeaderValue::from_static(""))
}

/// The deadline that the client set by `grpc-timeout`: at most eight digits and a unit.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// A `grpc-timeout`, in the finest unit that has room for it, but none finer than milliseconds. Rounded up: a deadline does not
/// turn into none.
pub fn timeout_value(timeout: Duration) -> HeaderValue {
    const LARGEST: u64 = 99_999_999;
    let milliseconds = u64::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let (amount, unit) = [(1, 'm'), (1_000, 'S'), (60_000, 'M')]
        .into_iter()
        .map(|(size, unit)| (milliseconds.div_ceil(size), unit))
        .find(|(amount, _)| *amount <= LARGEST)
        .unwrap_or((milliseconds.div_ceil(3_600_000).min(LARGEST), 'H'));
    HeaderValue::from_str(&format!("{amount}{unit}")).unwrap_or(HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn content_types() {
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", false),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&headers("content-type", value)), grpc, "{value}");
        }
    }

    #[test]
    fn timeouts() {
        for (value, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("1H", Some(Duration::from_hours(1))),
            ("100000000S", None),
            ("S", None),
            ("-1S", None),
            ("5", None),
            ("5x", None),
        ] {
            assert_eq!(timeout(&headers("grpc-timeout", value)), expected, "{value}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(message("no route: 100 %\u{e9}".as_bytes()), "no route: 100 %25%C3%A9");
    }
}
