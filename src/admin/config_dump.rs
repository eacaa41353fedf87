//! `/config_dump`: the configuration that is in force, without its secrets.

use std::time::SystemTime;

use http::StatusCode;
use prost::{Message, Name};
use prost_reflect::{ReflectMessage, Value};
use regex::Regex;

use super::{
    endpoint::{Answer, Parameter},
    endpoints,
    json::{self, Defaults},
    mask,
    query::Query,
    redact::Redactor,
    server_info,
};
use crate::{
    proto::{
        self, Any, Timestamp,
        admin::{
            BootstrapConfigDump, ClustersConfigDump, ConfigDump, ListenersConfigDump, RoutesConfigDump,
            ScopedRoutesConfigDump, SecretsConfigDump, clusters_config_dump::StaticCluster,
            listeners_config_dump::StaticListener, routes_config_dump::StaticRouteConfig,
            secrets_config_dump::StaticSecret,
        },
        bootstrap::Bootstrap,
        hcm::{HttpConnectionManager, http_connection_manager::RouteSpecifier},
        listener::{Listener, filter::ConfigType},
        route::RouteConfiguration,
    },
    snapshot::Snapshot,
};

/// What `/config_dump` understands.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::any("resource", "The list of resources to dump, such as static_clusters"),
    Parameter::any(
        "mask",
        "The fields to dump, with commas between them: of each element of the resource, or of each dump",
    ),
    Parameter::any("name_regex", "Dump only what has a name that matches this regular expression"),
    Parameter::any("include_eds", "Dump the hosts of clusters, too"),
];

/// Answers `/config_dump`.
pub(super) fn respond(snapshot: &Snapshot, query: &Query) -> Answer {
    // An empty pattern is as good as none; another must match the whole name.
    let name = query.get("name_regex").filter(|name| !name.is_empty());
    let name = match name.map(|name| Regex::new(&format!("^(?:{name})$"))).transpose() {
        Ok(name) => name,
        Err(error) => return Answer::bad_request(format!("Error while parsing name_regex: {error}\n")).plain(),
    };
    let wanted = |found: &str| name.as_ref().is_none_or(|name| name.is_match(found));
    let bootstrap = Bootstrap { node: Some(server_info::node(snapshot)), ..(*snapshot.proto).clone() };
    let mut dump = dump(bootstrap, snapshot.loaded, wanted);
    if query.has("include_eds") {
        // Behind the clusters, as the kinds of configuration are sorted.
        dump.configs.insert(2, any(&endpoints::dump(snapshot, wanted)));
    }
    if let Some(resource) = query.get("resource") {
        match select(&dump, resource) {
            Ok(selected) => dump = selected,
            Err(refusal) => return refusal,
        }
    }
    if let Some(mask) = query.get("mask") {
        let masked = dump.configs.iter().filter_map(|config| mask::apply(mask, json::unpack(config)?));
        let masked: Vec<Any> = masked.map(|message| json::pack(&message)).collect();
        if masked.is_empty() && !dump.configs.is_empty() {
            let used = if query.has("resource") { "used" } else { "applied to any configs" };
            return Answer::bad_request(format!("FieldMask {mask} could not be successfully {used}.")).plain();
        }
        dump.configs = masked;
    }
    let mut dump = json::dynamic(&dump);
    Redactor::new().redact(&mut dump);
    json::print(&dump, Defaults::Skip)
}

fn dump(bootstrap: Bootstrap, loaded: SystemTime, wanted: impl Fn(&str) -> bool) -> ConfigDump {
    let Timestamp { seconds, nanos } = proto::timestamp(loaded);
    let last_updated = Some(Timestamp { seconds, nanos: nanos - nanos % 1_000_000 });
    let resources = bootstrap.static_resources.clone().unwrap_or_default();
    let routes = resources.listeners.iter().flat_map(route_configurations);
    let routes = RoutesConfigDump {
        static_route_configs: routes
            .filter(|route| wanted(&route.name))
            .map(|route| StaticRouteConfig { route_config: Some(any(&route)), last_updated })
            .collect(),
        ..RoutesConfigDump::default()
    };
    let mut clusters: Vec<_> = resources.clusters.iter().filter(|cluster| wanted(&cluster.name)).collect();
    clusters.sort_by_key(|cluster| &cluster.name);
    let clusters = ClustersConfigDump {
        static_clusters: (clusters.into_iter())
            .map(|cluster| StaticCluster { cluster: Some(any(cluster)), last_updated })
            .collect(),
        ..ClustersConfigDump::default()
    };
    let listeners = ListenersConfigDump {
        static_listeners: (resources.listeners.iter().filter(|listener| wanted(&listener.name)))
            .map(|listener| StaticListener { listener: Some(any(listener)), last_updated })
            .collect(),
        ..ListenersConfigDump::default()
    };
    let secrets = SecretsConfigDump {
        static_secrets: (resources.secrets.iter().filter(|secret| wanted(&secret.name)))
            .map(|secret| StaticSecret { name: secret.name.clone(), secret: Some(any(secret)), last_updated })
            .collect(),
        ..SecretsConfigDump::default()
    };
    let scoped_routes = ScopedRoutesConfigDump::default();
    let bootstrap = BootstrapConfigDump { bootstrap: Some(bootstrap), last_updated };
    let configs = [any(&bootstrap), any(&clusters), any(&listeners), any(&scoped_routes), any(&routes), any(&secrets)];
    ConfigDump { configs: configs.into() }
}

/// The route configurations that stand in the connection managers of a listener.
fn route_configurations(listener: &Listener) -> impl Iterator<Item = RouteConfiguration> {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    chains.flat_map(|chain| &chain.filters).filter_map(|filter| {
        let Some(ConfigType::TypedConfig(config)) = &filter.config_type else {
            return None;
        };
        if config.type_url != HttpConnectionManager::type_url() {
            return None;
        }
        match HttpConnectionManager::decode(&*config.value).ok()?.route_specifier? {
            RouteSpecifier::RouteConfig(routes) => Some(routes),
            _ => None,
        }
    })
}

fn any<M: Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// The elements of the list `resource`, whichever of the configurations has it.
fn select(dump: &ConfigDump, resource: &str) -> Result<ConfigDump, Answer> {
    for config in &dump.configs {
        let config = json::unpack(config).expect("invariant: these were packed just now");
        let Some(field) = config.descriptor().get_field_by_name(resource) else {
            continue;
        };
        return match config.get_field(&field).as_list() {
            Some(elements) => {
                Ok(ConfigDump { configs: elements.iter().filter_map(Value::as_message).map(json::pack).collect() })
            }
            None => {
                let why = format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field");
                Err(Answer::bad_request(why).plain())
            }
        };
    }
    Err(Answer::text(format!("{resource} not found in config dump")).with_status(StatusCode::NOT_FOUND).plain())
}
