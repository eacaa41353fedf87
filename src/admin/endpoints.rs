//! The hosts of clusters as `/config_dump?include_eds` shows them.

use prost::{Message, Name};

use super::json;
use crate::{
    proto::{
        Any, UInt32Value,
        admin::{EndpointsConfigDump, endpoints_config_dump::StaticEndpointConfig},
        core::HealthStatus,
        endpoint::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, cluster_load_assignment::Policy,
            endpoint::HealthCheckConfig, lb_endpoint::HostIdentifier,
        },
    },
    snapshot::Snapshot,
    upstream::{ClusterEntry, Health, Host},
};

/// The hosts of all clusters whose names are wanted.
pub(super) fn dump(snapshot: &Snapshot, wanted: impl Fn(&str) -> bool) -> EndpointsConfigDump {
    let mut clusters: Vec<_> = snapshot.clusters.iter().filter(|(name, _)| wanted(name)).collect();
    clusters.sort_unstable_by_key(|(name, _)| *name);
    let configs = clusters.into_iter().map(|(name, entry)| {
        let assignment = assignment(name, entry);
        let packed = Any { type_url: ClusterLoadAssignment::type_url(), value: assignment.encode_to_vec() };
        StaticEndpointConfig { endpoint_config: Some(packed), ..StaticEndpointConfig::default() }
    });
    EndpointsConfigDump { static_endpoint_configs: configs.collect(), ..EndpointsConfigDump::default() }
}

fn assignment(name: &str, entry: &ClusterEntry) -> ClusterLoadAssignment {
    let mut localities: Vec<LocalityLbEndpoints> = Vec::new();
    for host in entry.hosts.hosts() {
        let (locality, priority) = (host.endpoint.locality.clone().unwrap_or_default(), host.endpoint.priority);
        let same =
            |group: &&mut LocalityLbEndpoints| group.locality == Some(locality.clone()) && group.priority == priority;
        match localities.iter_mut().find(same) {
            Some(group) => group.lb_endpoints.push(endpoint(host)),
            None => localities.push(LocalityLbEndpoints {
                locality: Some(locality),
                priority,
                load_balancing_weight: Some(UInt32Value { value: 0 }),
                lb_endpoints: vec![endpoint(host)],
                ..LocalityLbEndpoints::default()
            }),
        }
    }
    let policy = Policy { overprovisioning_factor: Some(UInt32Value { value: 140 }), ..Policy::default() };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: localities,
        policy: Some(policy),
        ..ClusterLoadAssignment::default()
    }
}

fn endpoint(host: &Host) -> LbEndpoint {
    let shown = &host.endpoint;
    let health = match shown.health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Degraded => HealthStatus::Degraded,
        Health::Unhealthy => HealthStatus::Unhealthy,
        Health::Draining => HealthStatus::Draining,
    };
    let endpoint = Endpoint {
        address: Some(json::address(&shown.address)),
        hostname: shown.hostname.clone(),
        health_check_config: Some(HealthCheckConfig::default()),
        ..Endpoint::default()
    };
    LbEndpoint {
        health_status: health.into(),
        metadata: shown.metadata.clone(),
        load_balancing_weight: Some(UInt32Value { value: shown.weight }),
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
    }
}
