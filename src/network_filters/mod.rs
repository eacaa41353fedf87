//! Network filters: what serves a connection once its transport is up. One row each.

mod tcp_proxy;

use std::sync::Arc;

use crate::{
    config::Field,
    conn_manager,
    filter::{
        FactoryContext,
        network::{NetworkFilter, NetworkFilterFactory},
    },
    proto::{self, listener::filter::ConfigType},
};

/// Every network filter that a configuration can name.
pub const FACTORIES: &[NetworkFilterFactory] = &[conn_manager::FACTORY, tcp_proxy::FACTORY];

/// The package of Envoy's network filters.
const PACKAGE: &str = "envoy.extensions.filters.network.";

/// Converts the filters of a chain. There may be none, which closes what it is given; if there are several, all but the last must be
/// of a kind that passes connections on, and there are none of these yet.
#[must_use]
pub fn from_proto(
    filters: &[proto::listener::Filter],
    field: Field<'_>,
    cx: &FactoryContext<'_>,
) -> Option<Vec<Arc<dyn NetworkFilter>>> {
    let converted = filters.iter().enumerate().map(|(index, filter)| convert(filter, field.index(index), cx));
    let converted: Vec<_> = converted.collect();
    if converted.is_empty() {
        field.warning("without filters, every connection is closed at once");
    }
    if converted.len() > 1 && converted.iter().all(Option::is_some) {
        field.index(0).error("this filter serves the connection to its end: it must be the last of its chain");
    }
    converted.into_iter().collect()
}

fn convert(
    filter: &proto::listener::Filter,
    field: Field<'_>,
    cx: &FactoryContext<'_>,
) -> Option<Arc<dyn NetworkFilter>> {
    // The name is free text: the type decides.
    let proto::listener::Filter { name, config_type } = filter;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(discovery)) => {
            field.unsupported("config_discovery", &Some(discovery));
            return None;
        }
        None => {
            field.key("typed_config").error(format!("is required: the name {name:?} alone does not say what to do"));
            return None;
        }
    };
    let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
    if let Some(factory) = cx.network_filters.iter().find(|factory| factory.type_name == type_name) {
        return (factory.from_proto)(any, field.key("typed_config"), cx);
    }
    if type_name.starts_with(PACKAGE) && proto::pool().get_message_by_name(type_name).is_some() {
        field.unsupported("typed_config", &Some(any));
    } else {
        let known: Vec<_> = cx.network_filters.iter().map(|factory| factory.type_name).collect();
        let message = format!("{type_name:?} is not a network filter; there are: {}", known.join(", "));
        field.key("typed_config").error(message);
    }
    None
}
