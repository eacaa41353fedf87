//! The route table under test: of a whole configuration, or of a route configuration alone.

use std::{collections::HashSet, path::Path, rc::Rc, sync::Arc};

use anyhow::{Context, bail};
use prost::Message;

use super::{load, read, refuse_errors};
use crate::{
    access_log,
    config::{self, Field, Report, Source},
    filter::Services,
    http_filters,
    proto::{self, bootstrap::Bootstrap, core::RuntimeFractionalPercent, route::RouteConfiguration as Proto},
    route::{RouteConfiguration, Surroundings},
    runtime::Runtime,
    snapshot::{Change, ConfigManager},
    stats::Registry,
};

/// The runtime key of fractions that have none, so that they can be told apart from those that a test switches on.
const NO_KEY: &str = "route-check.fraction-without-key";

/// The routes under test.
pub(super) struct Table {
    pub(super) routes: Rc<Arc<RouteConfiguration>>,
    /// The runtime keys of its fractions.
    fractions: Vec<String>,
}

impl Table {
    /// Reads the routes of a file; `name` says which, if there are several route configurations.
    pub(super) fn load(file: &Path, name: Option<&str>) -> anyhow::Result<Table> {
        let source = read(file)?;
        let mut proto = if config::has_field(&source, "virtual_hosts") {
            load(&source)?
        } else {
            choose(of_bootstrap(&source)?, name).with_context(|| file.display().to_string())?
        };
        let fractions = switchable_fractions(&mut proto);
        // Whether the clusters exist is not asked.
        proto.validate_clusters = Some(proto::BoolValue { value: false });
        let report = Report::new();
        let surroundings = Surroundings {
            cluster_names: &HashSet::new(),
            stats: &Registry::new(0),
            filter_settings: http_filters::SETTINGS,
        };
        let routes = RouteConfiguration::from_proto(&proto, Field::root(&report), surroundings);
        refuse_errors(&source, report)?;
        Ok(Table { routes: Rc::new(Arc::new(routes)), fractions })
    }

    /// The runtime in which the fractions of one key alone let requests through.
    pub(super) fn runtime(&self, key: &str) -> Runtime {
        let runtime =
            Runtime::from_proto(&proto::bootstrap::LayeredRuntime::default(), "", Field::root(&Report::new()));
        let off = self.fractions.iter().filter(|other| *other != key).map(|other| (other.as_str(), "0"));
        runtime.modified(off).unwrap_or_default()
    }
}

/// All route configurations of a valid bootstrap.
fn of_bootstrap(source: &Source) -> anyhow::Result<Vec<Proto>> {
    let bootstrap: Bootstrap = load(source)?;
    let report = Report::new();
    let mut manager = ConfigManager::new(Registry::new(0), access_log::Mode::Check, Services::default());
    // Why it is rejected stands in the report.
    let _ = manager.apply(Change::Bootstrap(Box::new(bootstrap.clone()), &report));
    refuse_errors(source, report)?;
    let listeners = bootstrap.static_resources.unwrap_or_default().listeners;
    let chains = listeners
        .into_iter()
        .flat_map(|listener| listener.filter_chains.into_iter().chain(listener.default_filter_chain));
    Ok(chains.flat_map(|chain| chain.filters).filter_map(|filter| routes_of(&filter)).collect())
}

fn routes_of(filter: &proto::listener::Filter) -> Option<Proto> {
    use proto::{hcm::http_connection_manager::RouteSpecifier, listener::filter::ConfigType};

    let Some(ConfigType::TypedConfig(config)) = &filter.config_type else { return None };
    if !config.type_url.ends_with(".HttpConnectionManager") {
        return None;
    }
    let manager = proto::hcm::HttpConnectionManager::decode(config.value.as_slice()).ok()?;
    match manager.route_specifier? {
        RouteSpecifier::RouteConfig(routes) => Some(routes),
        RouteSpecifier::Rds(_) | RouteSpecifier::ScopedRoutes(_) => None,
    }
}

/// The one that is meant. Several that are the same count as one.
fn choose(mut all: Vec<Proto>, name: Option<&str>) -> anyhow::Result<Proto> {
    all.retain(|proto| name.is_none_or(|name| proto.name == name));
    let Some(first) = all.pop() else {
        match name {
            Some(name) => bail!("there is no route configuration {name:?}"),
            None => bail!("there are no virtual_hosts, and no listener with a route_config"),
        }
    };
    if let Some(other) = all.iter().find(|other| **other != first) {
        bail!("there are several route configurations, {:?} and {:?}: say --route-config", other.name, first.name);
    }
    Ok(first)
}

/// Gives all fractions a runtime key, and those that let nothing through by default the smallest share: a test that names the key
/// tells by its random value whether a request is let through. Answers the keys.
fn switchable_fractions(proto: &mut Proto) -> Vec<String> {
    let routes = proto.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes);
    let matches = routes.filter_map(|route| route.r#match.as_mut());
    let fractions = matches.filter_map(|matched| matched.runtime_fraction.as_mut());
    fractions
        .map(|RuntimeFractionalPercent { default_value, runtime_key }| {
            let default = default_value.get_or_insert_default();
            default.numerator = default.numerator.max(1);
            if runtime_key.is_empty() {
                NO_KEY.clone_into(runtime_key);
            }
            runtime_key.clone()
        })
        .collect()
}
