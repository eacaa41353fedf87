//! A virtual host: the routes of one set of domains.

use super::Action;

/// A compiled `envoy.config.route.v3.VirtualHost`.
#[derive(Debug)]
pub struct VirtualHost {
    name: String,
    routes: Vec<Route>,
}

impl VirtualHost {
    /// The name for statistics and logs (`%VIRTUAL_CLUSTER_NAME%`'s sibling).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn route(&self, index: u32) -> &Route {
        &self.routes[index as usize]
    }
}

/// A compiled `envoy.config.route.v3.Route`: what the router needs once it matched.
#[derive(Debug)]
pub struct Route {
    /// `%ROUTE_NAME%`; empty if the configuration gives none.
    pub name: String,
    /// What to do with the request.
    pub action: Action,
}
