//! The filter `envoy.filters.listener.http_inspector`: which HTTP a connection without TLS speaks, by its first line.
//!
//! What it finds is matched by `application_protocols`: `http/1.0`, `http/1.1` or `h2c`.

use super::{Accepted, Rejection};
use crate::{filter::FactoryContext, net::Io, stats};

/// How an HTTP/2 client with prior knowledge begins (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest first line.
const MAX_LINE: usize = 64 * 1024;

/// The filter, which has no settings.
#[derive(Debug)]
pub(super) struct HttpInspector {
    stats: HttpInspectorStats,
}

stats::declare! {
    /// Of the HTTP inspectors of all listeners, under `http_inspector.`
    struct HttpInspectorStats {
        /// Connections that began with a line too long to say what they speak.
        read_error: Counter,
        /// Connections that speak HTTP/1.0, or anything that looks like it.
        http10_found: Counter,
        /// Connections that speak HTTP/1.1.
        http11_found: Counter,
        /// Connections that speak HTTP/2 by prior knowledge.
        http2_found: Counter,
        /// Connections that speak something else.
        http_not_found: Counter,
    }
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http10,
    Http11,
    Http2,
    Other,
    /// There must be more of them.
    Unknown,
}

impl HttpInspector {
    pub(super) fn new(cx: &FactoryContext<'_>) -> HttpInspector {
        HttpInspector { stats: HttpInspectorStats::new(&cx.stats.scope("http_inspector")) }
    }

    pub(super) async fn inspect(&self, io: &mut Io, accepted: &mut Accepted) -> Result<(), Rejection> {
        if accepted.transport_protocol == "tls" {
            return Ok(());
        }
        let mut seen = 0;
        loop {
            let bytes = io.peek(seen + 1).await?;
            if bytes.len() <= seen {
                return Err(Rejection::RemoteClose);
            }
            seen = bytes.len();
            let (found, protocol) = match spoken(bytes) {
                Spoken::Unknown if seen >= MAX_LINE => {
                    self.stats.read_error.inc();
                    return Err(Rejection::ByFilter);
                }
                Spoken::Unknown => continue,
                Spoken::Other => {
                    self.stats.http_not_found.inc();
                    return Ok(());
                }
                Spoken::Http10 => (&self.stats.http10_found, "http/1.0"),
                Spoken::Http11 => (&self.stats.http11_found, "http/1.1"),
                Spoken::Http2 => (&self.stats.http2_found, "h2c"),
            };
            found.inc();
            accepted.application_protocols = vec![protocol.as_bytes().to_vec()];
            return Ok(());
        }
    }
}

fn spoken(bytes: &[u8]) -> Spoken {
    if bytes.starts_with(HTTP2_PREFACE) {
        return Spoken::Http2;
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Spoken::Unknown;
    }
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = bytes.iter().take_while(|byte| is_token(byte)).count();
    if method == 0 || bytes.get(method).is_some_and(|byte| *byte != b' ') {
        return Spoken::Other;
    }
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Spoken::Unknown };
    let line = bytes[..end].trim_ascii_end();
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).skip(1);
    match (words.next(), words.next()) {
        (Some(_), Some(b"HTTP/1.1")) => Spoken::Http11,
        (Some(_), Some(version)) if version.starts_with(b"HTTP/") => Spoken::Http10,
        (Some(_), None) => Spoken::Http10,
        _ => Spoken::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_what_is_spoken() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nhost: a\r\n"[..], Spoken::Http11),
            (b"anything /x HTTP/1.0\r\n", Spoken::Http10),
            (b"GET / HTTP/1.1", Spoken::Unknown),
            (HTTP2_PREFACE, Spoken::Http2),
            (b"PRI * HTTP/2.0\r\n", Spoken::Unknown),
            (b"GET /\r\n", Spoken::Http10),
            (b"\r\nGET / HTTP/1.1\r\n", Spoken::Other),
            (b"\x16\x03\x01", Spoken::Other),
            (b"hello\r\n", Spoken::Other),
        ] {
            assert_eq!(spoken(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
