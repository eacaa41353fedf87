//! `/clusters`: every host of every cluster, its health and what it has done.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write,
};

use regex::Regex;

use super::{
    endpoint::{Answer, FORMAT, Parameter},
    json::{self, Defaults},
    query::Query,
};
use crate::{
    proto::{
        UInt32Value,
        admin::{ClusterStatus, Clusters, HostHealthStatus, HostStatus, SimpleMetric, simple_metric::Type},
        cluster::{CircuitBreakers, circuit_breakers},
        core::{HealthStatus, RoutingPriority},
    },
    snapshot::Snapshot,
    upstream::{Cluster, ClusterEntry, Health, Host, Thresholds},
};

/// What `/clusters` understands.
pub(super) const PARAMETERS: &[Parameter] =
    &[FORMAT, Parameter::any("filter", "Regular expression for filtering clusters by name")];

/// Answers `/clusters`. A cluster that the configuration file does not have came by an API.
pub(super) fn respond(snapshot: &Snapshot, query: &Query) -> Answer {
    let filter = match query.get("filter").map(Regex::new).transpose() {
        Ok(filter) => filter,
        Err(error) => return Answer::bad_request(format!("Invalid re2 regex: {error}\n")),
    };
    let wanted = |name: &str| filter.as_ref().is_none_or(|filter| filter.is_match(name));
    let clusters: BTreeMap<&str, &ClusterEntry> =
        snapshot.clusters.iter().map(|(name, entry)| (&**name, entry)).filter(|(name, _)| wanted(name)).collect();
    let configured = snapshot.proto.static_resources.iter().flat_map(|resources| &resources.clusters);
    let configured: HashSet<&str> = configured.map(|cluster| &*cluster.name).collect();
    let by_api = |name: &str| !configured.contains(name);
    match query.get("format") {
        Some("json") => json::answer(&statuses(&clusters, by_api), Defaults::Skip),
        _ => Answer::text(text(&clusters, by_api)),
    }
}

/// There are no canaries, and no outlier detection that would know a success rate: -1 says so.
fn text(clusters: &BTreeMap<&str, &ClusterEntry>, by_api: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for (name, ClusterEntry { cluster, hosts, .. }) in clusters {
        let _ = writeln!(text, "{name}::observability_name::{}", cluster.observability_name);
        for (priority, key) in
            [(RoutingPriority::Default, "default_priority"), (RoutingPriority::High, "high_priority")]
        {
            for (limit, max) in limits(cluster.circuit_breakers.of(priority)) {
                let _ = writeln!(text, "{name}::{key}::{limit}::{max}");
            }
        }
        let _ = writeln!(text, "{name}::added_via_api::{}", by_api(name));
        for host in hosts.hosts() {
            let endpoint = &host.endpoint;
            let mut line = |key: &str, value: &dyn std::fmt::Display| {
                let _ = writeln!(text, "{name}::{}::{key}::{value}", endpoint.address);
            };
            let mut stats: Vec<(&str, u64)> = counters(host).into_iter().chain(gauges(host)).collect();
            stats.sort_unstable();
            for (key, value) in &stats {
                line(key, value);
            }
            let locality = endpoint.locality.clone().unwrap_or_default();
            line("hostname", &endpoint.hostname);
            line("health_flags", &health_flags(endpoint.health));
            line("weight", &endpoint.weight);
            line("region", &locality.region);
            line("zone", &locality.zone);
            line("sub_zone", &locality.sub_zone);
            line("canary", &false);
            line("priority", &endpoint.priority);
            line("success_rate", &-1);
            line("local_origin_success_rate", &-1);
        }
    }
    text
}

fn limits(thresholds: &Thresholds) -> [(&'static str, u64); 4] {
    [
        ("max_connections", thresholds.connections.max()),
        ("max_pending_requests", thresholds.pending_requests.max()),
        ("max_requests", thresholds.requests.max()),
        ("max_retries", thresholds.retries.max()),
    ]
}

fn counters(host: &Host) -> [(&'static str, u64); 6] {
    let stats = &host.stats;
    [
        ("cx_connect_fail", stats.cx_connect_fail.value()),
        ("cx_total", stats.cx_total.value()),
        ("rq_error", stats.rq_error.value()),
        ("rq_success", stats.rq_success.value()),
        ("rq_timeout", stats.rq_timeout.value()),
        ("rq_total", stats.rq_total.value()),
    ]
}

fn gauges(host: &Host) -> [(&'static str, u64); 3] {
    [
        ("cx_active", host.stats.cx_active.value()),
        ("rq_active", host.stats.rq_active.value()),
        ("rq_pending_active", host.stats.rq_pending_active.value()),
    ]
}

fn health_flags(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Degraded => "/degraded_eds_health",
        Health::Unhealthy => "/failed_eds_health",
        Health::Draining => "/eds_status_draining",
    }
}

fn statuses(clusters: &BTreeMap<&str, &ClusterEntry>, by_api: impl Fn(&str) -> bool) -> Clusters {
    let status = |(name, entry): (&&str, &&ClusterEntry)| ClusterStatus {
        name: String::from(*name),
        observability_name: entry.cluster.observability_name.to_string(),
        added_via_api: by_api(name),
        host_statuses: entry.hosts.hosts().iter().map(|host| host_status(host)).collect(),
        circuit_breakers: Some(circuit_breakers(&entry.cluster)),
        ..ClusterStatus::default()
    };
    Clusters { cluster_statuses: clusters.iter().map(status).collect() }
}

fn circuit_breakers(cluster: &Cluster) -> CircuitBreakers {
    let thresholds = [RoutingPriority::Default, RoutingPriority::High].map(|priority| {
        let max = limits(cluster.circuit_breakers.of(priority))
            .map(|(_, max)| Some(UInt32Value { value: u32::try_from(max).unwrap_or(u32::MAX) }));
        let [max_connections, max_pending_requests, max_requests, max_retries] = max;
        circuit_breakers::Thresholds {
            priority: priority.into(),
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            ..circuit_breakers::Thresholds::default()
        }
    });
    CircuitBreakers { thresholds: thresholds.into(), ..CircuitBreakers::default() }
}

fn host_status(host: &Host) -> HostStatus {
    let metric =
        |kind: Type| move |(name, value): (&str, u64)| SimpleMetric { r#type: kind.into(), value, name: name.into() };
    let endpoint = &host.endpoint;
    let health = match endpoint.health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Degraded => HealthStatus::Degraded,
        Health::Unhealthy => HealthStatus::Unhealthy,
        Health::Draining => HealthStatus::Draining,
    };
    HostStatus {
        address: Some(json::address(&endpoint.address)),
        stats: counters(host)
            .map(metric(Type::Counter))
            .into_iter()
            .chain(gauges(host).map(metric(Type::Gauge)))
            .collect(),
        health_status: Some(HostHealthStatus { eds_health_status: health.into(), ..HostHealthStatus::default() }),
        weight: endpoint.weight,
        hostname: endpoint.hostname.clone(),
        priority: endpoint.priority,
        locality: Some(endpoint.locality.clone().unwrap_or_default()),
        ..HostStatus::default()
    }
}
