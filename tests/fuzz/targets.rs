//! The targets: what each parser must hold for any input.

use std::str;

use http::{HeaderMap, HeaderValue};
use portreeve::{
    access_log::Format,
    config::{self, Colours, Diagnostics, Report, Source},
    http::{
        grpc,
        path::{EscapedSlashes, Normalized, PathRules, normalize},
    },
    matcher::UriTemplate,
    net::{
        Io,
        proxy_protocol::{self, Parsed},
    },
    proto,
    tls::{ClientHello, Inspected},
};
use tokio::{io::AsyncWriteExt, net::UnixStream};

/// Formats of access logs. A format without commands is its own text.
pub fn access_log_format(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(format) = Format::parse(text)
        && let Some(literal) = format.as_literal()
    {
        assert_eq!(literal, text.replace("%%", "%"));
    }
}

/// What a client sends first to a TLS port: read without waiting for more than the limit.
pub fn client_hello(input: &[u8]) {
    const LIMIT: usize = 2_048;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(input).await.unwrap();
        drop(theirs);
        let seen = ClientHello::inspect(&mut Io::unix(ours).unwrap(), LIMIT).await.unwrap();
        assert!(!matches!(seen, Inspected::Tls(_)) || input.first() == Some(&22));
        assert!(!matches!(seen, Inspected::TooLarge) || input.len() >= LIMIT);
    });
}

/// Documents: every problem has a place that can be shown.
pub fn configuration(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let source = Source::new("fuzz.yaml", text);
    let report = Report::new();
    let message: Option<proto::bootstrap::Bootstrap> = config::load(&source, &report);
    let diagnostics = Diagnostics::new(&source, report);
    assert!(message.is_some() || diagnostics.errors() > 0, "refused in silence");
    diagnostics.render(Colours::Off);
}

/// `grpc-timeout`: what is understood is written and read again as the same time, or as a longer one where digits run out.
pub fn grpc_timeout(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let headers = |value| HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), value)]);
    if let Some(timeout) = grpc::timeout(&headers(value)) {
        let again = grpc::timeout(&headers(grpc::timeout_value(timeout)));
        assert!(again.is_some_and(|again| again >= timeout), "{timeout:?} became {again:?}");
    }
}

/// Paths under all rules: a path that is normal stays as it is.
pub fn path(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for escaped_slashes in [EscapedSlashes::Keep, EscapedSlashes::Reject, EscapedSlashes::UnescapeAndForward] {
        let rules = PathRules { normalize_path: true, merge_slashes: true, escaped_slashes };
        if let Normalized::Forward(path) = normalize(text, rules)
            && path.starts_with('/')
        {
            let plain = path.split('?').next().unwrap();
            assert!(!plain.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
            assert!(!plain.contains("//"), "{path}");
            assert_eq!(normalize(&path, rules), Normalized::Forward(path.as_ref().into()));
        }
    }
}

/// PROXY headers: what was understood, written anew, is understood as the same; half a header is never taken for a whole one.
pub fn proxy_protocol(input: &[u8]) {
    let Parsed::Header(header) = proxy_protocol::parse(input) else { return };
    assert!(header.length <= input.len());
    assert!(proxy_protocol::may_begin(header.version, input));
    for end in 0..header.length {
        assert!(!matches!(proxy_protocol::parse(&input[..end]), Parsed::Header(_)), "whole after {end} bytes");
    }
    let tlvs = header.tlvs.iter().map(|(kind, value)| (*kind, value.as_slice()));
    for written in [proxy_protocol::v1(header.addresses), proxy_protocol::v2(header.addresses, tlvs)] {
        let Parsed::Header(again) = proxy_protocol::parse(&written) else { panic!("{}", written.escape_ascii()) };
        assert_eq!((again.addresses, again.length), (header.addresses, written.len()));
    }
}

/// A template in the first line, and a path.
pub fn uri_template(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (template, path) = text.split_once('\n').unwrap_or((text, "/"));
    if let Ok(template) = UriTemplate::parse(template) {
        assert_eq!(template.matches(path.as_bytes()), template.captures(path.as_bytes()).is_some());
    }
}
