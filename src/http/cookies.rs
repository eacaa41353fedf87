//! Cookies of requests (RFC 6265 section 4.2).

use http::{HeaderMap, header};

/// The first cookie of this name, without the quotes that its value may have.
#[must_use]
pub fn value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    let cookies = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    cookies.filter_map(cookie).find_map(|(other, value)| (other == name.as_bytes()).then_some(value))
}

/// Name and value of one cookie.
fn cookie(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let value = &text[equals + 1..];
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some((text[..equals].trim_ascii_start(), unquoted.unwrap_or(value)))
}
