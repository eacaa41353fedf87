//! RouteConfiguration: what matches, and what to do then.
//!
//! The third step of a request's walk: the connection manager asks [`RouteConfiguration::find`] for the first route whose
//! match accepts the request, and keeps the answer as a [`RouteRef`]. Everything here is immutable once built; matchers,
//! rewrites and header values are compiled when the configuration is loaded, nothing is parsed per request.

mod action;
mod registered;
mod virtual_host;

use std::collections::HashSet;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

pub use action::{Action, Cluster, DirectResponse, Forward, HostRewrite, MaxStreamDuration, Redirect, UpgradeConfig};
pub use registered::{RegisteredRoute, RegisteredRoutes, RouteKey};
pub use virtual_host::{Route, VirtualHost};

use http::HeaderMap;
use http::Request;

use crate::config::Field;
use crate::proto;
use crate::stream_info::StreamInfo;

/// A compiled `envoy.config.route.v3.RouteConfiguration`.
#[derive(Debug)]
pub struct RouteConfiguration {
    name: String,
    virtual_hosts: Vec<VirtualHost>,
}

impl RouteConfiguration {
    /// The name by which a listener asks for it and `/config_dump` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Converts and checks. A route to a cluster that is not among `cluster_names` is an error, as far as `validate_clusters` asks for it.
    pub fn from_proto(
        proto: &proto::route::RouteConfiguration,
        field: Field<'_>,
        cluster_names: &HashSet<Arc<str>>,
    ) -> Option<RouteConfiguration> {
        let _ = (proto, field.path(), cluster_names);
        todo!()
    }

    /// The first route that accepts `request`: virtual hosts by domain, then routes in order. `random` decides weighted
    /// clusters and runtime fractions, so that one request gets one answer.
    pub fn find<B>(
        table: &Rc<Arc<RouteConfiguration>>,
        registered: &Rc<Arc<RegisteredRoutes>>,
        request: &Request<B>,
        random: u64,
    ) -> Option<RouteRef> {
        let _ = (table, registered, request, random);
        todo!()
    }
}

/// The route of one request. It keeps its tables alive through the worker's own `Rc`, so that neither finding nor cloning
/// it touches a reference count that other threads use.
#[derive(Clone, Debug)]
pub struct RouteRef {
    table: Rc<Arc<RouteConfiguration>>,
    virtual_host: u32,
    route: u32,
}

impl RouteRef {
    /// The virtual host that the request's authority chose.
    #[must_use]
    pub fn virtual_host(&self) -> &VirtualHost {
        &self.table.virtual_hosts[self.virtual_host as usize]
    }

    /// The cluster that the request goes to: named, drawn by weight, named by a request header or by a registration.
    /// None if this route does not forward, or if the header that should name the cluster is missing.
    #[must_use]
    pub fn cluster<'a>(&'a self, headers: &'a HeaderMap) -> Option<&'a str> {
        let _ = headers;
        todo!()
    }

    /// Rewrites path and host and applies the header mutations, just before the request is sent.
    pub fn finalize_request(&self, request: &mut crate::http::Request, info: &StreamInfo) {
        let _ = (request, info);
        todo!()
    }

    /// Applies the header mutations for responses, whoever answered.
    pub fn finalize_response(&self, response: &mut crate::http::Response, info: &StreamInfo) {
        let _ = (response, info);
        todo!()
    }

    /// Whether requests may be sent now. False for a registered route whose registrant drains or has expired; the router
    /// then answers 503 with the flag UH.
    #[must_use]
    pub fn is_available(&self) -> bool {
        todo!()
    }
}

impl Deref for RouteRef {
    type Target = Route;

    fn deref(&self) -> &Route {
        self.virtual_host().route(self.route)
    }
}
