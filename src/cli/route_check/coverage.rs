//! How much of a route table the tests that passed have seen.

use std::collections::HashMap;

use crate::route::{Action, RouteConfiguration, RoutePlace};

/// What can be checked of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Aspect {
    Cluster,
    VirtualCluster,
    VirtualHost,
    PathRewrite,
    HostRewrite,
    PathRedirect,
    CodeRedirect,
}

/// How coverage is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// A route of which anything was checked is covered.
    Routes,
    /// A route is covered as far as all that can be checked of it was.
    Everything,
}

/// The routes and what was checked of each; of weighted clusters, each counts as one.
pub(super) struct Coverage {
    routes: Vec<Tested>,
    checked: HashMap<RoutePlace, Vec<Aspect>>,
}

/// A route that is to be tested.
struct Tested {
    place: RoutePlace,
    /// How much of it can be checked.
    aspects: u32,
    /// For people.
    name: String,
}

impl Coverage {
    pub(super) fn of(table: &RouteConfiguration) -> Coverage {
        let routes = table.places().map(|(place, virtual_host, route)| Tested {
            place,
            aspects: if matches!(route.action, Action::Forward(_)) { 5 } else { 2 },
            name: format!("host: {virtual_host}, route: {place} {}", route.name).trim_end().to_owned(),
        });
        Coverage { routes: routes.collect(), checked: HashMap::new() }
    }

    /// A test has found what it wanted.
    pub(super) fn mark(&mut self, place: RoutePlace, aspect: Aspect) {
        let checked = self.checked.entry(place).or_default();
        if !checked.contains(&aspect) {
            checked.push(aspect);
        }
    }

    /// 0 to 100.
    pub(super) fn percentage(&self, measure: Measure) -> f64 {
        let all = match measure {
            Measure::Routes => self.routes.len(),
            Measure::Everything => self.routes.iter().map(|route| route.aspects as usize).sum(),
        };
        let checked = self.routes.iter().filter_map(|route| self.checked.get(&route.place));
        let covered: usize = match measure {
            Measure::Routes => checked.count(),
            Measure::Everything => checked.map(Vec::len).sum(),
        };
        #[allow(clippy::cast_precision_loss, reason = "no table has 2^52 routes")]
        if all == 0 { 100.0 } else { 100.0 * covered as f64 / all as f64 }
    }

    /// The routes that no test has seen.
    pub(super) fn missing(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().filter(|route| !self.checked.contains_key(&route.place)).map(|route| route.name.as_str())
    }
}
