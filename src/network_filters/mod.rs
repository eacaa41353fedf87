//! Network filters: what serves a connection once its transport is up, and what may refuse it before. One row each.

mod connection_limit;
mod direct_response;
mod echo;
mod local_ratelimit;
mod rbac;
mod sni_cluster;
mod tcp_proxy;

use std::sync::Arc;

use crate::{
    config::Field,
    conn_manager,
    filter::{
        FactoryContext,
        network::{NetworkFilter, NetworkFilterFactory, ReadFilter, ReadFilterFactory},
    },
    proto::{self, listener::filter::ConfigType},
};

/// Every network filter that can serve connections.
pub const FACTORIES: &[NetworkFilterFactory] =
    &[conn_manager::FACTORY, tcp_proxy::FACTORY, echo::FACTORY, direct_response::FACTORY];

/// Every network filter that can stand before one of those.
const READ_FILTERS: &[ReadFilterFactory] =
    &[connection_limit::FACTORY, local_ratelimit::FACTORY, rbac::FACTORY, sni_cluster::FACTORY];

/// The package of Envoy's network filters.
const PACKAGE: &str = "envoy.extensions.filters.network.";

/// The filters of a chain.
#[derive(Clone, Debug, Default)]
pub struct NetworkFilters {
    /// What a connection has to pass first, in this order.
    pub read: Vec<Arc<dyn ReadFilter>>,
    /// What serves it; if there is none, it is closed.
    pub terminal: Option<Arc<dyn NetworkFilter>>,
}

enum Converted {
    Read(Arc<dyn ReadFilter>),
    Terminal(Arc<dyn NetworkFilter>),
}

/// Converts the filters of a chain. There may be none, which closes what it is given; else the last one, and it alone, serves
/// connections to their end.
#[must_use]
pub fn from_proto(
    filters: &[proto::listener::Filter],
    list: Field<'_>,
    cx: &FactoryContext<'_>,
) -> Option<NetworkFilters> {
    if filters.is_empty() {
        list.warning("without filters, every connection is closed at once");
    }
    let converted: Vec<_> =
        filters.iter().enumerate().map(|(index, filter)| convert(filter, list.index(index), cx)).collect();
    let mut chain = NetworkFilters::default();
    for (index, filter) in converted.into_iter().collect::<Option<Vec<_>>>()?.into_iter().enumerate() {
        let is_last = index + 1 == filters.len();
        match filter {
            Converted::Read(_) if is_last => {
                list.index(index).error("this filter passes connections on: it cannot be the last of its chain");
            }
            Converted::Terminal(_) if !is_last => {
                list.index(index)
                    .error("this filter serves the connection to its end: it must be the last of its chain");
            }
            Converted::Read(filter) => chain.read.push(filter),
            Converted::Terminal(filter) => chain.terminal = Some(filter),
        }
    }
    Some(chain)
}

fn convert(filter: &proto::listener::Filter, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<Converted> {
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
    let config = field.key("typed_config");
    if let Some(factory) = cx.network_filters.iter().find(|factory| factory.type_name == type_name) {
        return (factory.from_proto)(any, config, cx).map(Converted::Terminal);
    }
    if let Some(factory) = READ_FILTERS.iter().find(|factory| factory.type_name == type_name) {
        return (factory.from_proto)(any, config, cx).map(Converted::Read);
    }
    if type_name.starts_with(PACKAGE) && proto::pool().get_message_by_name(type_name).is_some() {
        field.unsupported("typed_config", &Some(any));
    } else {
        let terminal = cx.network_filters.iter().map(|factory| factory.type_name);
        let known: Vec<_> = terminal.chain(READ_FILTERS.iter().map(|factory| factory.type_name)).collect();
        config.error(format!("{type_name:?} is not a network filter; there are: {}", known.join(", ")));
    }
    None
}
