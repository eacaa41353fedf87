//! The routes of registered workers: an immutable table that registration replaces as registrants come and go.
//!
//! A route in YAML whose cluster specifier plugin is `portreeve.registration.v1.RegisteredRoutes` matches if a registered
//! route matches too; timeouts, header mutations and upgrades are those of the YAML route.

use std::sync::Arc;

/// What selects a registered route.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RouteKey {
    /// A request header with exactly this, non-empty value. Preferred over any prefix.
    Header(Arc<str>, Arc<str>),
    /// A path prefix, ending at a segment boundary. The longest one wins.
    Prefix(Arc<str>),
}

/// One route of one registration.
#[derive(Clone, Debug)]
pub struct RegisteredRoute {
    /// The cluster that the registration founded or joined.
    pub cluster: Arc<str>,
    /// Replaces the matched prefix.
    pub prefix_rewrite: Option<Arc<str>>,
    /// False while the registrant drains or after its lease has ended: the route still matches and is answered with 503.
    pub available: bool,
}

/// All registered routes. Replacing some yields a new table that shares what did not change with the old one.
#[derive(Debug, Default)]
pub struct RegisteredRoutes {}

impl RegisteredRoutes {
    /// The route registered under exactly this key.
    #[must_use]
    pub fn get(&self, key: &RouteKey) -> Option<&RegisteredRoute> {
        let _ = key;
        todo!()
    }

    /// This table with some routes set (`Some`) or removed (`None`).
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = (RouteKey, Option<RegisteredRoute>)>) -> RegisteredRoutes {
        let _ = changes.into_iter();
        todo!()
    }

    /// How many routes are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
