//! Request headers (`envoy.config.route.v3.HeaderMatcher`).

use http::HeaderMap;
use http::HeaderName;

/// A compiled `HeaderMatcher`.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    name: HeaderName,
}

impl HeaderMatcher {
    /// Whether `headers` has what this matcher asks for.
    #[must_use]
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        let _ = (headers, &self.name);
        todo!()
    }
}
