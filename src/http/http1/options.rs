//! Settings of HTTP/1.1 on connections from clients (`envoy.config.core.v3.Http1ProtocolOptions`, and the limits of the connection manager).

use std::time::Duration;

use http::HeaderValue;

use crate::{
    config::Field,
    matcher::StringMatcher,
    proto::core::{
        self,
        http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat},
    },
};

/// How the names of header fields are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// As HTTP/2 has them.
    #[default]
    Lower,
    /// `proper_case_words`: `Content-Type`.
    ProperWords,
}

/// Settings of HTTP/1.1 connections.
#[allow(clippy::struct_excessive_bools, reason = "one for each setting of Envoy's that is one")]
#[derive(Debug, Clone)]
pub struct Options {
    /// Most fields in a head (`max_headers_count`).
    pub max_headers: usize,
    /// Most bytes of request line and headers (`max_request_headers_kb`).
    pub max_header_bytes: usize,
    /// Time for the head once its first byte is there (`request_headers_timeout`).
    pub header_timeout: Option<Duration>,
    /// How long a connection that we end waits for the client to end it, so that the answer is not lost (`delayed_close_timeout`).
    pub delayed_close: Option<Duration>,
    /// `accept_http_10`
    pub accept_http_10: bool,
    /// `default_host_for_http_10`
    pub default_host_for_http_10: Option<HeaderValue>,
    /// `allow_absolute_url`
    pub allow_absolute_url: bool,
    /// `allow_chunked_length`: of two framings the transfer coding counts.
    pub allow_chunked_length: bool,
    /// `allow_custom_methods`
    pub allow_custom_methods: bool,
    /// `ignore_http_11_upgrade`: requests for these upgrades are answered as if they asked for none.
    pub ignored_upgrades: Vec<StringMatcher>,
    /// `enable_trailers`
    pub trailers: bool,
    /// `header_key_format`
    pub header_case: HeaderCase,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_headers: 100,
            max_header_bytes: 60 * 1024,
            header_timeout: None,
            delayed_close: Some(Duration::from_secs(1)),
            accept_http_10: false,
            default_host_for_http_10: None,
            allow_absolute_url: true,
            allow_chunked_length: false,
            allow_custom_methods: false,
            ignored_upgrades: Vec::new(),
            trailers: false,
            header_case: HeaderCase::Lower,
        }
    }
}

impl Options {
    /// Converts and checks what `http_protocol_options` says; the other settings have their defaults.
    pub fn from_proto(proto: Option<&core::Http1ProtocolOptions>, field: Field<'_>) -> Options {
        let default = core::Http1ProtocolOptions::default();
        let core::Http1ProtocolOptions {
            allow_absolute_url,
            accept_http_10,
            default_host_for_http_10,
            header_key_format,
            enable_trailers,
            allow_chunked_length,
            override_stream_error_on_invalid_http_message,
            send_fully_qualified_url,
            use_balsa_parser,
            allow_custom_methods,
            ignore_http_11_upgrade,
        } = proto.unwrap_or(&default);
        field.ignored(
            "override_stream_error_on_invalid_http_message",
            override_stream_error_on_invalid_http_message,
            "an invalid message ends its connection",
        );
        field.ignored("send_fully_qualified_url", send_fully_qualified_url, "it is a setting of clusters");
        field.ignored("use_balsa_parser", use_balsa_parser, "there is one parser");
        let host = (!default_host_for_http_10.is_empty()).then(|| HeaderValue::from_str(default_host_for_http_10));
        if matches!(host, Some(Err(_))) {
            field.key("default_host_for_http_10").error("is not a host name");
        }
        let upgrades = field.key("ignore_http_11_upgrade");
        Options {
            accept_http_10: *accept_http_10,
            default_host_for_http_10: host.and_then(Result::ok),
            allow_absolute_url: allow_absolute_url.as_ref().is_none_or(|allow| allow.value),
            allow_chunked_length: *allow_chunked_length,
            allow_custom_methods: *allow_custom_methods,
            ignored_upgrades: (ignore_http_11_upgrade.iter().enumerate())
                .filter_map(|(index, matcher)| StringMatcher::from_proto(matcher, upgrades.index(index)))
                .collect(),
            trailers: *enable_trailers,
            header_case: header_case(header_key_format.as_ref(), field.key("header_key_format")),
            ..Options::default()
        }
    }
}

fn header_case(format: Option<&HeaderKeyFormat>, field: Field<'_>) -> HeaderCase {
    let Some(HeaderKeyFormat { header_format }) = format else { return HeaderCase::Lower };
    match field.required("header_format", header_format) {
        Some(HeaderFormat::ProperCaseWords(_)) => HeaderCase::ProperWords,
        Some(HeaderFormat::StatefulFormatter(_)) => {
            field.ignored("stateful_formatter", &true, "header names are sent in lower case");
            HeaderCase::Lower
        }
        None => HeaderCase::Lower,
    }
}
