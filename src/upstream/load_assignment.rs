//! The endpoints that a configuration names: `envoy.config.endpoint.v3.ClusterLoadAssignment`, before names are resolved.
//!
//! Localities are flattened: each endpoint knows its own, and all of a priority stand in one row.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Discovery, Endpoint, Health};
use crate::{
    config::Field,
    net::Address,
    proto::{
        core::{
            self, HealthStatus, address, envoy_internal_address::AddressNameSpecifier, socket_address::PortSpecifier,
        },
        endpoint::{
            self, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, cluster_load_assignment::Policy,
            lb_endpoint::HostIdentifier,
        },
    },
};

/// An endpoint that configuration names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NamedEndpoint {
    /// The name to resolve; `None` when the address is known.
    pub name: Option<String>,
    /// Until the name is resolved, the address has no more than the port.
    pub endpoint: Endpoint,
}

/// The endpoints of an assignment, in its order.
pub(super) fn endpoints(
    assignment: &ClusterLoadAssignment,
    discovery: Discovery,
    field: Field<'_>,
) -> Vec<NamedEndpoint> {
    let ClusterLoadAssignment { cluster_name, endpoints, named_endpoints, policy } = assignment;
    if cluster_name.is_empty() {
        field.key("cluster_name").error("is required");
    }
    field.unsupported("named_endpoints", named_endpoints);
    if let Some(policy) = policy {
        let Policy { drop_overloads, overprovisioning_factor, endpoint_stale_after, weighted_priority_health } = policy;
        let field = field.key("policy");
        field.unsupported("drop_overloads", drop_overloads);
        let why = "the first priority with enough healthy hosts takes all requests";
        field.ignored("overprovisioning_factor", overprovisioning_factor, why);
        field.ignored("weighted_priority_health", weighted_priority_health, why);
        field.ignored("endpoint_stale_after", endpoint_stale_after, "it is for endpoints from a management server");
    }
    let list = field.key("endpoints");
    endpoints
        .iter()
        .enumerate()
        .flat_map(|(index, locality)| locality_endpoints(locality, discovery, list.index(index)))
        .collect()
}

fn locality_endpoints(proto: &LocalityLbEndpoints, discovery: Discovery, field: Field<'_>) -> Vec<NamedEndpoint> {
    let LocalityLbEndpoints { locality, metadata, lb_endpoints, load_balancing_weight, priority, proximity, lb_config } =
        proto;
    field.ignored("load_balancing_weight", load_balancing_weight, "hosts are balanced by their own weights");
    field.ignored("proximity", proximity, "hosts are balanced by their own weights");
    field.unsupported("lb_config", lb_config);
    if *priority > 128 {
        field.key("priority").error("must be at most 128");
    }
    let list = field.key("lb_endpoints");
    let mut endpoints = Vec::with_capacity(lb_endpoints.len());
    for (index, proto) in lb_endpoints.iter().enumerate() {
        if let Some(mut named) = named_endpoint(proto, discovery, list.index(index)) {
            named.endpoint.priority = *priority;
            named.endpoint.locality.clone_from(locality);
            named.endpoint.locality_metadata.clone_from(metadata);
            endpoints.push(named);
        }
    }
    endpoints
}

fn named_endpoint(proto: &LbEndpoint, discovery: Discovery, field: Field<'_>) -> Option<NamedEndpoint> {
    let LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = proto;
    let weight = load_balancing_weight.map_or(1, |weight| weight.value);
    if weight == 0 {
        field.key("load_balancing_weight").error("must be at least 1");
    }
    let health = match HealthStatus::try_from(*health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Health::Unhealthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Err(_) => {
            field.key("health_status").error("unknown value");
            return None;
        }
    };
    match host_identifier {
        None => {
            field.key("endpoint").error("is required");
            None
        }
        Some(HostIdentifier::EndpointName(name)) => {
            field.unsupported("endpoint_name", name);
            None
        }
        Some(HostIdentifier::Endpoint(proto)) => {
            let field = field.key("endpoint");
            let endpoint::Endpoint { address, health_check_config, hostname, additional_addresses, observability_name } =
                proto;
            field.ignored("health_check_config", health_check_config, "hosts are not health-checked yet");
            field.ignored("additional_addresses", additional_addresses, "a host is reached at its first address only");
            field.ignored("observability_name", observability_name, "hosts are shown by their address");
            let (name, address) = locate(field.required("address", address)?, discovery, field.key("address"))?;
            let hostname = if hostname.is_empty() { name.clone().unwrap_or_default() } else { hostname.clone() };
            let endpoint = Endpoint {
                hostname,
                logical: discovery == Discovery::LogicalDns,
                weight,
                health,
                metadata: metadata.clone(),
                ..Endpoint::new(address)
            };
            Some(NamedEndpoint { name, endpoint })
        }
    }
}

/// The name to resolve, if any, and the address as far as it is known.
fn locate(proto: &core::Address, discovery: Discovery, field: Field<'_>) -> Option<(Option<String>, Address)> {
    match &proto.address {
        None => {
            field.key("socket_address").error("is required");
            None
        }
        Some(address::Address::EnvoyInternalAddress(internal)) => {
            let core::EnvoyInternalAddress { endpoint_id, address_name_specifier } = internal;
            let field = field.key("envoy_internal_address");
            if discovery != Discovery::Static {
                field.error("an internal listener needs a cluster of type STATIC");
                return None;
            }
            let Some(AddressNameSpecifier::ServerListenerName(listener)) = address_name_specifier else { return None };
            let (listener, endpoint_id) = (listener.as_str().into(), endpoint_id.as_str().into());
            Some((None, Address::Internal { listener, endpoint_id }))
        }
        Some(address::Address::Pipe(core::Pipe { path, mode })) => {
            let field = field.key("pipe");
            field.ignored("mode", mode, "it is for listeners");
            if discovery != Discovery::Static {
                field.error("a Unix socket needs a cluster of type STATIC");
                return None;
            }
            if path.is_empty() {
                field.key("path").error("is required");
                return None;
            }
            Some((None, Address::Pipe(path.into())))
        }
        Some(address::Address::SocketAddress(socket)) => locate_socket(socket, discovery, field.key("socket_address")),
    }
}

fn locate_socket(
    proto: &core::SocketAddress,
    discovery: Discovery,
    field: Field<'_>,
) -> Option<(Option<String>, Address)> {
    let core::SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = proto;
    if *protocol != core::socket_address::Protocol::Tcp as i32 {
        field.unsupported("protocol", protocol);
    }
    field.unsupported("resolver_name", resolver_name);
    field.ignored("ipv4_compat", ipv4_compat, "it is for listeners");
    field.unsupported("network_namespace_filepath", network_namespace_filepath);
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).ok(),
        Some(PortSpecifier::NamedPort(name)) => {
            field.unsupported("named_port", name);
            return None;
        }
        None => {
            field.key("port_value").error("is required");
            return None;
        }
    };
    if port.is_none() {
        field.key("port_value").error("must be at most 65535");
    }
    if address.is_empty() {
        field.key("address").error("is required");
        return None;
    }
    let unresolved = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    match (discovery, address.parse::<IpAddr>()) {
        (Discovery::Static, Ok(ip)) => Some((None, SocketAddr::new(ip, port?).into())),
        (Discovery::Static, Err(_)) => {
            field.key("address").error(format!(
                "{address:?} is not an IP address, which a cluster of type STATIC needs; names need STRICT_DNS or LOGICAL_DNS"
            ));
            None
        }
        (Discovery::StrictDns | Discovery::LogicalDns, _) => Some((Some(address.clone()), unresolved(port?).into())),
    }
}
