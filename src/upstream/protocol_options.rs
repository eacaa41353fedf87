//! How a cluster's hosts are spoken to: `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`, and the older fields of
//! `Cluster` that say the same.

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use http::HeaderName;

use crate::{
    config::Field,
    http::http2,
    proto::{
        Any, UInt32Value,
        core::{
            self,
            http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat},
        },
        http_protocol_options::{
            self as upstreams,
            http_protocol_options::{
                AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
                explicit_http_config::ProtocolConfig,
            },
        },
    },
};

/// The key of these options in `typed_extension_protocol_options`.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// How a cluster's hosts are spoken to.
#[derive(Debug, Clone, PartialEq)]
pub struct ProtocolOptions {
    /// Which protocol.
    pub protocol: Protocol,
    /// A connection without requests is closed after this time; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A connection is closed after this many requests.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// The longest life of one attempt.
    pub max_stream_duration: Option<Duration>,
    /// The largest response head that is accepted, in bytes.
    pub max_response_headers_bytes: u32,
    /// The most response headers that are accepted.
    pub max_response_headers: usize,
    /// TLS asks for the host that the request is for.
    pub auto_sni: bool,
    /// A header that holds its name instead, in requests that have it.
    pub auto_sni_header: Option<HeaderName>,
    /// The certificate must be for the name that TLS asked for.
    pub auto_san_validation: bool,
    /// Settings of HTTP/1.1.
    pub http1: Http1Options,
    /// Settings of HTTP/2.
    pub http2: http2::Options,
}

/// Which protocol a cluster's hosts are spoken to by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge.
    Http2,
    /// What the host chooses by ALPN.
    Alpn,
    /// That of the downstream request.
    Downstream,
}

/// Settings of HTTP/1.1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Http1Options {
    /// Header names are sent in Proper-Case.
    pub proper_case: bool,
    /// The request target is an absolute URL, for hosts that are proxies.
    pub fully_qualified_url: bool,
    /// `enable_trailers`: those of responses are passed on.
    pub trailers: bool,
}

impl Default for ProtocolOptions {
    fn default() -> ProtocolOptions {
        ProtocolOptions {
            protocol: Protocol::Http1,
            idle_timeout: Some(Duration::from_hours(1)),
            max_requests_per_connection: None,
            max_stream_duration: None,
            max_response_headers_bytes: 60 * 1024,
            max_response_headers: 100,
            auto_sni: false,
            auto_sni_header: None,
            auto_san_validation: false,
            http1: Http1Options::default(),
            http2: http2::Options::default(),
        }
    }
}

/// The older spelling: fields of `Cluster` itself.
pub(super) struct DeprecatedOptions<'a> {
    pub common: &'a Option<core::HttpProtocolOptions>,
    pub upstream: &'a Option<core::UpstreamHttpProtocolOptions>,
    pub http1: &'a Option<core::Http1ProtocolOptions>,
    pub http2: &'a Option<core::Http2ProtocolOptions>,
    pub max_requests_per_connection: &'a Option<UInt32Value>,
    pub use_downstream_protocol: bool,
}

impl ProtocolOptions {
    /// Whether hosts choose the protocol by ALPN.
    pub(super) fn needs_alpn(&self) -> bool {
        self.protocol == Protocol::Alpn
    }

    /// `field` is the cluster's. The typed options take the place of the older fields as a whole.
    pub(super) fn from_proto(
        typed: &HashMap<String, Any>,
        deprecated: &DeprecatedOptions<'_>,
        field: Field<'_>,
    ) -> ProtocolOptions {
        let typed_field = field.key("typed_extension_protocol_options");
        for (key, any) in typed.iter().filter(|(key, _)| *key != KEY) {
            let name = any.type_url.rsplit('/').next().unwrap_or_default();
            typed_field.entry(key).error(format!("{name}: valid in Envoy, not implemented by Portreeve yet"));
        }
        let mut options = ProtocolOptions::default();
        if let Some(any) = typed.get(KEY) {
            let field = typed_field.entry(KEY);
            if let Some(proto) = field.unpack::<upstreams::HttpProtocolOptions>(any) {
                options.apply_typed(&proto, field);
            }
        } else {
            options.apply_deprecated(deprecated, field);
        }
        options
    }

    fn apply_deprecated(&mut self, deprecated: &DeprecatedOptions<'_>, field: Field<'_>) {
        let DeprecatedOptions { common, upstream, http1, http2, max_requests_per_connection, use_downstream_protocol } =
            deprecated;
        self.max_requests_per_connection = max_requests_per_connection.and_then(|max| NonZeroU32::new(max.value));
        self.apply_common(common.as_ref(), field.key("common_http_protocol_options"));
        self.apply_upstream(upstream.as_ref(), field.key("upstream_http_protocol_options"));
        self.http1 = Http1Options::from_proto(http1.as_ref(), field.key("http_protocol_options"));
        self.http2 = http2::Options::from_proto(http2.as_ref(), field.key("http2_protocol_options"));
        self.protocol = match (use_downstream_protocol, http2) {
            (true, _) => Protocol::Downstream,
            (false, Some(_)) => Protocol::Http2,
            (false, None) => Protocol::Http1,
        };
    }

    fn apply_typed(&mut self, proto: &upstreams::HttpProtocolOptions, field: Field<'_>) {
        let upstreams::HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
            upstream_protocol_options,
        } = proto;
        self.apply_common(common_http_protocol_options.as_ref(), field.key("common_http_protocol_options"));
        self.apply_upstream(upstream_http_protocol_options.as_ref(), field.key("upstream_http_protocol_options"));
        field.unsupported("http_filters", http_filters);
        field.unsupported("header_validation_config", header_validation_config);
        field.ignored("outlier_detection", outlier_detection, "hosts are not ejected for their errors yet");
        field.unsupported("request_mirror_policies", request_mirror_policies);
        field.unsupported("hash_policy", hash_policy);
        field.unsupported("retry_policy", retry_policy);
        match field.required("upstream_protocol_options", upstream_protocol_options) {
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
                self.apply_explicit(explicit, field.key("explicit_http_config"));
            }
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(downstream)) => {
                let UseDownstreamHttpConfig { http_protocol_options, http2_protocol_options, http3_protocol_options } =
                    downstream;
                let field = field.key("use_downstream_protocol_config");
                self.protocol = Protocol::Downstream;
                self.http1 =
                    Http1Options::from_proto(http_protocol_options.as_ref(), field.key("http_protocol_options"));
                self.http2 =
                    http2::Options::from_proto(http2_protocol_options.as_ref(), field.key("http2_protocol_options"));
                field.ignored("http3_protocol_options", http3_protocol_options, "HTTP/3 is not spoken upstream");
            }
            Some(UpstreamProtocolOptions::AutoConfig(auto)) => {
                let AutoHttpConfig {
                    http_protocol_options,
                    http2_protocol_options,
                    http3_protocol_options,
                    alternate_protocols_cache_options,
                } = auto;
                let field = field.key("auto_config");
                self.protocol = Protocol::Alpn;
                self.http1 =
                    Http1Options::from_proto(http_protocol_options.as_ref(), field.key("http_protocol_options"));
                self.http2 =
                    http2::Options::from_proto(http2_protocol_options.as_ref(), field.key("http2_protocol_options"));
                let why = "HTTP/3 is not spoken upstream";
                field.ignored("http3_protocol_options", http3_protocol_options, why);
                field.ignored("alternate_protocols_cache_options", alternate_protocols_cache_options, why);
            }
            None => {}
        }
    }

    fn apply_explicit(&mut self, proto: &ExplicitHttpConfig, field: Field<'_>) {
        let ExplicitHttpConfig { protocol_config } = proto;
        match field.required("protocol_config", protocol_config) {
            Some(ProtocolConfig::HttpProtocolOptions(http1)) => {
                self.protocol = Protocol::Http1;
                self.http1 = Http1Options::from_proto(Some(http1), field.key("http_protocol_options"));
            }
            Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                self.protocol = Protocol::Http2;
                self.http2 = http2::Options::from_proto(Some(http2), field.key("http2_protocol_options"));
            }
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                field.unsupported("http3_protocol_options", &true);
            }
            None => {}
        }
    }

    fn apply_common(&mut self, proto: Option<&core::HttpProtocolOptions>, field: Field<'_>) {
        let Some(proto) = proto else { return };
        let core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = proto;
        if let Some(timeout) = field.duration("idle_timeout", idle_timeout) {
            self.idle_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
        }
        if let Some(max) = max_requests_per_connection {
            self.max_requests_per_connection = NonZeroU32::new(max.value);
        }
        if let Some(kib) = max_response_headers_kb {
            match kib.value {
                1..=8192 => self.max_response_headers_bytes = kib.value * 1024,
                _ => field.key("max_response_headers_kb").error("must be from 1 to 8192"),
            }
        }
        if let Some(count) = max_headers_count {
            match count.value {
                0 => field.key("max_headers_count").error("must be at least 1"),
                count => self.max_response_headers = count as usize,
            }
        }
        let why = "connections upstream are bounded by idle_timeout and max_requests_per_connection only";
        field.ignored("max_connection_duration", max_connection_duration, why);
        field.ignored("max_connection_duration_jitter", max_connection_duration_jitter, why);
        let duration = field.duration("max_stream_duration", max_stream_duration);
        self.max_stream_duration = duration.filter(|duration| !duration.is_zero());
        let why = "it is for requests; set it on the connection manager";
        field.ignored("headers_with_underscores_action", headers_with_underscores_action, why);
    }

    fn apply_upstream(&mut self, proto: Option<&core::UpstreamHttpProtocolOptions>, field: Field<'_>) {
        let Some(proto) = proto else { return };
        let core::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header } = proto;
        self.auto_sni = *auto_sni;
        self.auto_san_validation = *auto_san_validation;
        if !override_auto_sni_header.is_empty() {
            match override_auto_sni_header.parse() {
                Ok(name) => self.auto_sni_header = Some(name),
                Err(_) => field.key("override_auto_sni_header").error("is not the name of a header"),
            }
        }
    }
}

impl Http1Options {
    fn from_proto(proto: Option<&core::Http1ProtocolOptions>, field: Field<'_>) -> Http1Options {
        let mut options = Http1Options::default();
        let Some(proto) = proto else { return options };
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
        } = proto;
        if let Some(HeaderKeyFormat { header_format }) = header_key_format {
            let field = field.key("header_key_format");
            match field.required("header_format", header_format) {
                Some(HeaderFormat::ProperCaseWords(_)) => options.proper_case = true,
                Some(HeaderFormat::StatefulFormatter(_)) => {
                    field.ignored("stateful_formatter", &true, "header names are sent in lower case");
                }
                None => {}
            }
        }
        let why = "it is for connections from clients";
        field.ignored("allow_absolute_url", allow_absolute_url, why);
        field.ignored("accept_http_10", accept_http_10, why);
        field.ignored("default_host_for_http_10", default_host_for_http_10, why);
        field.ignored("ignore_http_11_upgrade", ignore_http_11_upgrade, why);
        field.ignored(
            "override_stream_error_on_invalid_http_message",
            override_stream_error_on_invalid_http_message,
            why,
        );
        field.ignored("allow_chunked_length", allow_chunked_length, "a message with both lengths is refused");
        options.trailers = *enable_trailers;
        options.fully_qualified_url = *send_fully_qualified_url;
        field.ignored("use_balsa_parser", use_balsa_parser, "there is one parser");
        field.ignored("allow_custom_methods", allow_custom_methods, "any method is passed on");
        options
    }
}
