//! `envoy.filters.http.csrf`: a request that changes something must come from a page of the site that it is for.
//!
//! Browsers say by `origin`, or else `referer`, which page a request comes from; it must be of the request's own authority, or one of
//! `additional_origins`. The most specific policy counts as a whole.

use std::sync::Arc;

use http::{HeaderName, Method, StatusCode, header};

use crate::{
    config::Field,
    filter::{
        FactoryContext, LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
    },
    http::{Request, authority, local_reply::LocalReply},
    matcher::StringMatcher,
    proto::csrf::CsrfPolicy as Proto,
    route::FilterSettingsFactory,
    runtime::RuntimeFraction,
    stats,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.csrf",
    type_name: "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
    from_proto: |any, field, cx| {
        let policy = CsrfPolicy::from_proto(&field.unpack(any)?, field)?;
        Some(Arc::new(Csrf::new(policy, cx)))
    },
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: FACTORY.type_name,
    from_proto: |any, field, _| Some(Arc::new(CsrfPolicy::from_proto(&field.unpack(any)?, field)?)),
};

#[derive(Debug)]
struct Csrf {
    policy: Arc<CsrfPolicy>,
    stats: CsrfStats,
}

/// A checked `CsrfPolicy`.
#[derive(Debug)]
struct CsrfPolicy {
    enabled: RuntimeFraction,
    /// Counted, but not refused.
    shadow_enabled: Option<RuntimeFraction>,
    additional_origins: Vec<StringMatcher>,
}

stats::declare! {
    /// Of the filters of a connection manager, under `http.<stat_prefix>.csrf.`
    struct CsrfStats {
        /// Requests that do not say where they come from.
        missing_source_origin: Counter,
        /// Requests that come from elsewhere.
        request_invalid: Counter,
        /// Requests that come from where they may.
        request_valid: Counter,
    }
}

impl CsrfPolicy {
    fn from_proto(proto: &Proto, field: Field<'_>) -> Option<CsrfPolicy> {
        let Proto { filter_enabled, shadow_enabled, additional_origins } = proto;
        let list = field.key("additional_origins");
        let origins = additional_origins.iter().enumerate();
        let origins = origins.map(|(index, origin)| StringMatcher::from_proto(origin, list.index(index)));
        Some(CsrfPolicy {
            enabled: RuntimeFraction::from_proto(field.required("filter_enabled", filter_enabled)?),
            shadow_enabled: shadow_enabled.as_ref().map(RuntimeFraction::from_proto),
            additional_origins: origins.collect::<Option<_>>()?,
        })
    }

    fn accepts(&self, source: &[u8], request: &Request) -> bool {
        authority(request).is_some_and(|target| source == target.as_bytes())
            || self.additional_origins.iter().any(|origin| origin.matches(source))
    }
}

impl Csrf {
    fn new(policy: CsrfPolicy, cx: &FactoryContext<'_>) -> Csrf {
        Csrf { policy: Arc::new(policy), stats: CsrfStats::new(&cx.filter_stats("csrf")) }
    }
}

impl HttpFilterConfig for Csrf {
    fn applies_to(&self, request: &Request) -> bool {
        [Method::POST, Method::PUT, Method::DELETE, Method::PATCH].contains(request.method())
    }

    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        let policy = place.settings().unwrap_or_else(|| Arc::clone(&self.policy));
        Box::new(Check { policy, csrf: self })
    }
}

/// The filter on one stream.
struct Check {
    csrf: Arc<Csrf>,
    policy: Arc<CsrfPolicy>,
}

impl HttpFilter for Check {
    fn decode_headers<'a>(&'a mut self, request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        ready(self.decide(request, stream))
    }
}

impl Check {
    fn decide(&self, request: &Request, stream: &Stream) -> Decoded {
        let runtime = stream.worker.runtime();
        let random = stream.worker.random.next_u64();
        let enabled = self.policy.enabled.holds(&runtime, random);
        let shadow = self.policy.shadow_enabled.as_ref().is_some_and(|share| share.holds(&runtime, random));
        if !enabled && !shadow {
            return Decoded::Continue;
        }
        let stats = &self.csrf.stats;
        let source = source_origin(request);
        if source.is_empty() {
            stats.missing_source_origin.inc();
        } else if self.policy.accepts(source, request) {
            stats.request_valid.inc();
            return Decoded::Continue;
        } else {
            stats.request_invalid.inc();
        }
        if !enabled {
            return Decoded::Continue;
        }
        let reply = LocalReply::new(StatusCode::FORBIDDEN, "csrf_origin_mismatch");
        Decoded::Reply(LocalReply { body: "Invalid origin".into(), ..reply })
    }
}

/// Where a request comes from; empty if it does not say.
fn source_origin(request: &Request) -> &[u8] {
    let of = |name: HeaderName| request.headers().get(name).map(|value| host_and_port(value.as_bytes()));
    of(header::ORIGIN).filter(|origin| !origin.is_empty()).or_else(|| of(header::REFERER)).unwrap_or_default()
}

/// What stands between scheme and path; nothing if there is no scheme, as in an origin that the browser keeps to itself ("null").
fn host_and_port(url: &[u8]) -> &[u8] {
    let Some(scheme) = url.windows(3).position(|three| three == b"://") else { return &[] };
    let rest = &url[scheme + 3..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_is_host_and_port() {
        assert_eq!(host_and_port(b"https://a.test:8443/b?c"), b"a.test:8443");
        assert_eq!(host_and_port(b"http://a.test?b"), b"a.test");
        assert_eq!(host_and_port(b"null"), b"");
    }
}
