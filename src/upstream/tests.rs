//! Clusters from their configuration to the choice of a host.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::*;
use crate::{
    config::{self, Field, Report, Source},
    matcher::MetadataMatch,
    net::Address,
    proto,
    stats::Registry,
    tls::Secrets,
};

fn load(yaml: &str) -> (Option<ClusterEntry>, Vec<String>) {
    let report = Report::new();
    let proto: proto::cluster::Cluster = config::load(&Source::new("test.yaml", yaml), &report).unwrap();
    let entry = ClusterEntry::from_proto(&proto, Field::root(&report), &Secrets::default(), &Registry::new(0), None);
    (entry, report.into_problems().iter().map(ToString::to_string).collect())
}

fn accept(yaml: &str) -> ClusterEntry {
    let (entry, problems) = load(yaml);
    assert_eq!(problems, Vec::<String>::new());
    entry.unwrap()
}

fn problems(yaml: &str) -> Vec<String> {
    load(yaml).1
}

/// A cluster of these endpoints, each the fields of an `lb_endpoint` that come after its address.
fn cluster_of(kind: &str, endpoints: &[(&str, u16, &str)]) -> String {
    let yaml = |(address, port, rest): &(&str, u16, &str)| {
        format!("    - endpoint: {{address: {{socket_address: {{address: {address}, port_value: {port}}}}}}}\n{rest}")
    };
    let endpoints: Vec<String> = endpoints.iter().map(yaml).collect();
    format!(
        "name: c\ntype: {kind}\nload_assignment:\n  cluster_name: c\n  endpoints:\n  - lb_endpoints:\n{}",
        endpoints.concat()
    )
}

fn address(text: &str) -> Address {
    Address::from(text.parse::<SocketAddr>().unwrap())
}

#[test]
fn a_cluster_has_envoys_defaults() {
    let ClusterEntry { cluster, hosts, .. } = accept(&cluster_of("STATIC", &[("127.0.0.1", 80, "")]));
    assert_eq!(&*cluster.name, "c");
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.protocol, ProtocolOptions::default());
    assert_eq!(cluster.protocol.idle_timeout, Some(Duration::from_hours(1)));
    assert!((cluster.healthy_panic_threshold - 50.0).abs() < f64::EPSILON);
    assert!(cluster.tcp_keepalive.is_none());
    assert_eq!(hosts.hosts()[0].endpoint, Endpoint::new(address("127.0.0.1:80")));
    assert_eq!(cluster.stats.membership_total.value(), 1);
    assert_eq!(cluster.stats.membership_healthy.value(), 1);
}

#[test]
fn the_old_and_the_new_spelling_of_protocol_options_mean_the_same() {
    let cluster = cluster_of("STATIC", &[("127.0.0.1", 80, "")]);
    let old = "http2_protocol_options: {max_concurrent_streams: 7}\ncommon_http_protocol_options: {idle_timeout: 0s}\n";
    let new = "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    common_http_protocol_options: {idle_timeout: 0s}
    explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 7}}
";
    let (old, _deprecated) = load(&format!("{cluster}{old}"));
    let old = &old.unwrap().cluster.protocol;
    let new = &accept(&format!("{cluster}{new}")).cluster.protocol;
    assert_eq!(old, new);
    assert_eq!((new.protocol, new.http2.max_concurrent_streams, new.idle_timeout), (Protocol::Http2, 7, None));
}

#[test]
fn what_cannot_work_is_refused_at_its_place() {
    let at = |kind, address| problems(&cluster_of(kind, &[(address, 80, "")]));
    assert_eq!(
        at("STATIC", "example.com"),
        [
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \"example.com\" is not an \
          IP address, which a cluster of type STATIC needs; names need STRICT_DNS or LOGICAL_DNS"
        ]
    );
    assert_eq!(
        problems(&cluster_of("LOGICAL_DNS", &[("a", 80, ""), ("b", 80, "")])),
        ["load_assignment.endpoints: a cluster of type LOGICAL_DNS has exactly one locality with one endpoint"]
    );
    assert_eq!(problems("name: c\ntype: STRICT_DNS\n"), ["load_assignment: is missing: the cluster has no hosts"]);
    assert_eq!(
        problems("name: c\ntype: LOGICAL_DNS\n"),
        ["load_assignment: is required by clusters of type LOGICAL_DNS"]
    );
    let cluster = cluster_of("STATIC", &[("127.0.0.1", 80, "")]);
    for (setting, problem) in [
        ("lb_policy: MAGLEV\n", "lb_policy: valid in Envoy, not implemented by Portreeve yet"),
        ("lb_policy: RANDOM\n", "lb_policy: has no effect: requests are balanced by weighted round robin"),
        (
            "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    auto_config: {}
",
            "transport_socket: auto_config chooses the protocol by ALPN, which needs TLS",
        ),
    ] {
        assert_eq!(problems(&format!("{cluster}{setting}")), [problem]);
    }
}

#[test]
fn hosts_of_an_unchanged_endpoint_are_kept() {
    let entry = accept(&cluster_of("STATIC", &[("127.0.0.1", 80, ""), ("127.0.0.1", 81, "")]));
    let before = entry.hosts.hosts();
    let mut endpoints: Vec<Endpoint> = before.iter().map(|host| host.endpoint.clone()).collect();
    endpoints[1].weight = 5;
    endpoints.push(Endpoint::new(address("127.0.0.1:82")));
    let after = HostSet::new(&entry.cluster, endpoints, &entry.hosts);
    assert!(Arc::ptr_eq(&before[0], &after.hosts()[0]));
    assert!(!Arc::ptr_eq(&before[1], &after.hosts()[1]));
    before[1].stats.rq_total.inc();
    assert_eq!(after.hosts()[1].stats.rq_total.value(), 1, "the counters belong to the address");
    assert_eq!(entry.with_hosts(after).cluster.stats.membership_total.value(), 3);
}

/// The ports of the hosts that the next requests go to.
fn turns(cluster: &ClusterState, count: usize) -> Vec<u16> {
    (0..count)
        .map(|_| cluster.choose_host(&LoadBalancerContext::default()).unwrap().endpoint.address.port().unwrap())
        .collect()
}

fn state(entry: ClusterEntry) -> Rc<ClusterState> {
    let manager = ClusterManager::new(0);
    manager.update(&HashMap::from([(Arc::from("c"), entry)]));
    manager.get("c").unwrap()
}

#[test]
fn requests_go_round_by_weight() {
    let weights =
        [("127.0.0.1", 1, "      load_balancing_weight: 1\n"), ("127.0.0.1", 3, "      load_balancing_weight: 3\n")];
    let cluster = state(accept(&cluster_of("STATIC", &weights)));
    let turns = turns(&cluster, 400);
    assert_eq!(turns.iter().filter(|port| **port == 3).count(), 300);
}

#[test]
fn health_decides_until_too_few_are_healthy() {
    let healthy = "";
    let (unhealthy, degraded, draining) =
        ("      health_status: UNHEALTHY\n", "      health_status: DEGRADED\n", "      health_status: DRAINING\n");
    let chosen = |health: &[&str]| {
        let endpoints: Vec<_> = (1..).zip(health).map(|(port, health)| ("127.0.0.1", port, *health)).collect();
        let cluster = state(accept(&cluster_of("STATIC", &endpoints)));
        if cluster.choose_host(&LoadBalancerContext::default()).is_none() {
            return Vec::new();
        }
        let mut chosen = turns(&cluster, 20);
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    };
    assert_eq!(chosen(&[healthy, unhealthy]), [1]);
    assert_eq!(chosen(&[healthy, degraded]), [1]);
    assert_eq!(chosen(&[degraded, unhealthy]), [1]);
    assert_eq!(chosen(&[healthy, unhealthy, unhealthy]), [1, 2, 3], "below the panic threshold all are as good");
    assert_eq!(chosen(&[healthy, draining, draining]), [1], "what drains does not count");
    assert_eq!(chosen(&[draining]), Vec::<u16>::new());
}

#[test]
fn a_priority_is_used_when_those_before_it_are_not_healthy() {
    let yaml = |health: &str| {
        let endpoint = |port, health: &str| {
            format!(
                "    - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n{health}"
            )
        };
        format!(
            "name: c\nload_assignment:\n  cluster_name: c\n  endpoints:\n  - priority: 1\n    lb_endpoints:\n{}  - lb_endpoints:\n{}",
            endpoint(1, ""),
            endpoint(0, health)
        )
    };
    assert_eq!(turns(&state(accept(&yaml(""))), 2), [0, 0]);
    assert_eq!(turns(&state(accept(&yaml("      health_status: UNHEALTHY\n"))), 2), [1, 1]);
}

#[test]
fn a_snapshot_keeps_what_it_does_not_change() {
    let entry = accept(&cluster_of("STATIC", &[("127.0.0.1", 1, ""), ("127.0.0.1", 2, "")]));
    let manager = ClusterManager::new(0);
    let name: Arc<str> = "c".into();
    manager.update(&HashMap::from([(Arc::clone(&name), entry.clone())]));
    let state = manager.get("c").unwrap();
    let host = state.choose_host(&LoadBalancerContext::default()).unwrap();

    let mut endpoints: Vec<Endpoint> = entry.hosts.hosts().iter().map(|host| host.endpoint.clone()).collect();
    endpoints.push(Endpoint::new(address("127.0.0.1:3")));
    let hosts = HostSet::new(&entry.cluster, endpoints, &entry.hosts);
    manager.update(&HashMap::from([(name, entry.with_hosts(hosts))]));
    assert!(Rc::ptr_eq(&state, &manager.get("c").unwrap()));
    assert!(
        (0..3).any(|_| state.choose_host(&LoadBalancerContext::default()).unwrap() == host),
        "the host is the same with its connections"
    );
    assert_eq!(turns(&state, 3).iter().sum::<u16>(), 6);

    manager.update(&HashMap::new());
    assert!(manager.get("c").is_none());
}

fn follow(yaml: &str, until: impl Fn(&[Vec<String>]) -> bool) -> (ClusterEntry, Vec<Vec<String>>) {
    let entry = accept(yaml);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let published = RefCell::new(Vec::new());
    let done = tokio::sync::Notify::new();
    runtime.block_on(async {
        let publish = |hosts: Arc<HostSet>| {
            let addresses = hosts.hosts().iter().map(|host| host.endpoint.address.to_string()).collect();
            published.borrow_mut().push(addresses);
            if until(&published.borrow()) {
                done.notify_one();
            }
        };
        tokio::select! {
            () = dns::follow(Arc::clone(&entry.cluster), Arc::clone(&entry.hosts), publish) => {}
            () = done.notified() => {}
        }
    });
    (entry, published.into_inner())
}

#[test]
fn names_are_resolved_and_literals_stand_for_themselves() {
    let yaml = cluster_of("STRICT_DNS", &[("localhost", 80, ""), ("127.0.0.9", 81, "")]);
    let (entry, published) = follow(&format!("{yaml}dns_lookup_family: V4_ONLY\n"), |_| true);
    assert!(entry.hosts.hosts().is_empty());
    assert_eq!(published, [["127.0.0.1:80", "127.0.0.9:81"]]);
}

#[test]
fn a_name_that_does_not_resolve_is_published_as_no_host_and_tried_again() {
    let entry = accept(&cluster_of("LOGICAL_DNS", &[("name.invalid", 80, "")]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let published = Cell::new(0);
    runtime.block_on(async {
        let following = dns::follow(Arc::clone(&entry.cluster), Arc::clone(&entry.hosts), |hosts| {
            assert!(hosts.hosts().is_empty());
            published.set(published.get() + 1);
        });
        tokio::select! {
            () = following => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    });
    assert_eq!(published.get(), 1);
    assert_eq!(entry.cluster.stats.update_failure.value(), entry.cluster.stats.update_attempt.value());
}

#[test]
fn a_static_cluster_is_not_followed() {
    let entry = accept(&cluster_of("STATIC", &[("127.0.0.1", 80, "")]));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(dns::follow(entry.cluster, entry.hosts, |_| panic!("nothing to publish")));
}

/// Three hosts with labels, as the port says: 1 and 3 are for production, 2 is for tests.
fn labelled(subsets: &str) -> Rc<ClusterState> {
    let labels = |labels: &str| format!("      metadata: {{filter_metadata: {{envoy.lb: {{{labels}}}}}}}\n");
    let endpoints = [labels("stage: prod, version: 1"), labels("stage: test"), labels("stage: prod, version: [2, 3]")];
    let endpoints: Vec<_> = (1..).zip(&endpoints).map(|(port, labels)| ("127.0.0.1", port, labels.as_str())).collect();
    state(accept(&format!("{}lb_subset_config: {{{subsets}}}\n", cluster_of("STATIC", &endpoints))))
}

/// The ports that requests with these labels go to.
fn ports(cluster: &ClusterState, labels: &str) -> Vec<u16> {
    let yaml = format!("{{filter_metadata: {{envoy.lb: {{{labels}}}}}}}");
    let metadata: proto::core::Metadata = config::load(&Source::new("x.yaml", yaml), &Report::new()).unwrap();
    let asked = MetadataMatch::from_proto(Some(&metadata));
    let context = LoadBalancerContext { metadata_match: asked.as_ref(), ..LoadBalancerContext::default() };
    let chosen = (0..6).filter_map(|_| cluster.choose_host(&context)?.endpoint.address.port());
    let mut ports: Vec<u16> = chosen.collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[test]
fn labels_choose_among_hosts() {
    let selectors = "subset_selectors: [{keys: [stage]}, {keys: [version, stage]}]";
    let cluster = labelled(selectors);
    assert_eq!(ports(&cluster, "stage: prod"), [1, 3]);
    assert_eq!(ports(&cluster, "stage: prod, version: 1"), [1]);
    assert_eq!(ports(&cluster, "version: 1"), [0; 0]);
    assert_eq!(ports(&cluster, ""), [0; 0]);
    assert_eq!(cluster.cluster().stats.lb_subsets_active.value(), 4);
    assert_eq!(cluster.cluster().stats.lb_subsets_selected.value(), 12);

    let cluster = labelled(&format!("fallback_policy: DEFAULT_SUBSET, default_subset: {{stage: test}}, {selectors}"));
    assert_eq!(ports(&cluster, "stage: nowhere"), [2]);
    assert_eq!(cluster.cluster().stats.lb_subsets_fallback.value(), 6);

    let cluster = labelled("list_as_any: true, subset_selectors: [{keys: [version]}]");
    assert_eq!(ports(&cluster, "version: 3"), [3]);

    let own = "subset_selectors: [{keys: [stage], fallback_policy: ANY_ENDPOINT, single_host_per_subset: true}, \
               {keys: [stage, zone], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [stage]}]";
    let cluster = labelled(own);
    assert_eq!(ports(&cluster, "stage: prod, zone: a"), [1]);
    assert_eq!(ports(&cluster, "stage: nowhere, zone: a"), [1, 2, 3]);
}

#[test]
fn tried_priorities_are_left_alone_while_there_are_others() {
    let endpoint = |port: u16, priority: u32| {
        format!(
            "  - priority: {priority}\n    lb_endpoints:\n    - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n"
        )
    };
    let yaml =
        format!("name: c\nload_assignment:\n  cluster_name: c\n  endpoints:\n{}{}", endpoint(1, 0), endpoint(2, 1));
    let cluster = state(accept(&yaml));
    let port = |tried_priorities: &[u32]| {
        let context = LoadBalancerContext { tried_priorities, ..LoadBalancerContext::default() };
        cluster.choose_host(&context).unwrap().endpoint.address.port().unwrap()
    };
    assert_eq!([port(&[]), port(&[0]), port(&[1]), port(&[0, 1])], [1, 2, 1, 1]);
}
