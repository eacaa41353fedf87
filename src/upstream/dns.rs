//! `STRICT_DNS` and `LOGICAL_DNS`: the hosts of a cluster from its names. Runs on the main thread.
//!
//! Names are resolved as the system resolves them (`getaddrinfo`: /etc/hosts, nsswitch, search domains), which does not tell
//! how long an answer is good for; so they are resolved again after `dns_refresh_rate`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::lookup_host, time::sleep};
use tracing::{debug, warn};

use super::{Cluster, Discovery, Endpoint, HostSet, load_assignment::NamedEndpoint};
use crate::{
    config::Field,
    net::Address,
    proto::{
        self,
        cares_dns_resolver::CaresDnsResolverConfig,
        cluster::cluster::{DnsLookupFamily, RefreshRate},
        core,
    },
};

const REFRESH_RATE: Duration = Duration::from_secs(5);

/// How the names of a cluster are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DnsOptions {
    refresh_rate: Duration,
    /// The first time between a failure and the next try; it doubles with each failure.
    failure_base: Duration,
    /// The longest time between a failure and the next try.
    failure_max: Duration,
    family: Family,
}

/// Which addresses of a name are wanted (`dns_lookup_family`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// IPv6 if there are any, else IPv4.
    V6Preferred,
    /// IPv4 if there are any, else IPv6.
    V4Preferred,
    V4Only,
    V6Only,
    All,
}

/// The fields of `Cluster` that are about DNS.
pub(super) struct DnsFields<'a> {
    pub refresh_rate: &'a Option<proto::Duration>,
    pub jitter: &'a Option<proto::Duration>,
    pub failure_refresh_rate: &'a Option<RefreshRate>,
    pub respect_ttl: bool,
    pub lookup_family: i32,
    pub resolvers: &'a Vec<core::Address>,
    pub use_tcp: bool,
    pub resolution_config: &'a Option<core::DnsResolutionConfig>,
    pub resolver_config: &'a Option<core::TypedExtensionConfig>,
}

impl DnsOptions {
    /// `field` is the cluster's.
    pub(super) fn from_proto(fields: &DnsFields<'_>, field: Field<'_>) -> Option<DnsOptions> {
        let DnsFields {
            refresh_rate,
            jitter,
            failure_refresh_rate,
            respect_ttl,
            lookup_family,
            resolvers,
            use_tcp,
            resolution_config,
            resolver_config,
        } = fields;
        let why = "names are resolved as the system does";
        field.unsupported("dns_resolvers", *resolvers);
        field.ignored("use_tcp_for_dns_lookups", use_tcp, why);
        field.ignored("respect_dns_ttl", respect_ttl, "names are resolved again after dns_refresh_rate");
        field.ignored("dns_jitter", *jitter, "clusters are resolved at different times anyway");
        if let Some(core::DnsResolutionConfig { resolvers, dns_resolver_options }) = resolution_config {
            let field = field.key("dns_resolution_config");
            field.unsupported("resolvers", resolvers);
            field.ignored("dns_resolver_options", dns_resolver_options, why);
        }
        if let Some(core::TypedExtensionConfig { name: _name, typed_config: Some(any) }) = resolver_config
            && any.type_url.ends_with("CaresDnsResolverConfig")
        {
            let field = field.key("typed_dns_resolver_config");
            let field = field.key("typed_config");
            field.unsupported("resolvers", &field.unpack::<CaresDnsResolverConfig>(any)?.resolvers);
        }
        field.ignored("typed_dns_resolver_config", *resolver_config, why);

        let refresh_rate = field.duration("dns_refresh_rate", refresh_rate).unwrap_or(REFRESH_RATE);
        let (mut failure_base, mut failure_max) = (refresh_rate, refresh_rate);
        if let Some(RefreshRate { base_interval, max_interval }) = failure_refresh_rate {
            let field = field.key("dns_failure_refresh_rate");
            failure_base = field.duration("base_interval", base_interval).unwrap_or(refresh_rate);
            failure_max = field.duration("max_interval", max_interval).unwrap_or(failure_base * 10);
            if failure_max < failure_base {
                field.key("max_interval").error("must not be less than base_interval");
            }
        }
        let family = match DnsLookupFamily::try_from(*lookup_family) {
            Ok(DnsLookupFamily::Auto) => Family::V6Preferred,
            Ok(DnsLookupFamily::V4Preferred) => Family::V4Preferred,
            Ok(DnsLookupFamily::V4Only) => Family::V4Only,
            Ok(DnsLookupFamily::V6Only) => Family::V6Only,
            Ok(DnsLookupFamily::All) => Family::All,
            Err(_) => {
                field.key("dns_lookup_family").error("unknown value");
                return None;
            }
        };
        Some(DnsOptions { refresh_rate, failure_base, failure_max, family })
    }
}

/// Keeps the hosts of a DNS cluster up to date for as long as it is polled. `publish` is called after the first resolution,
/// good or bad, and then whenever the hosts change. A name that resolves no more keeps its last good hosts.
///
/// Returns at once if the cluster is not found by DNS.
pub async fn follow(cluster: Arc<Cluster>, mut hosts: Arc<HostSet>, publish: impl Fn(Arc<HostSet>)) {
    if cluster.discovery == Discovery::Static {
        return;
    }
    let mut resolved: Vec<Vec<Endpoint>> = vec![Vec::new(); cluster.endpoints.len()];
    let mut first = true;
    let mut failures = 0;
    loop {
        let all_good = resolve_all(&cluster, &mut resolved, failures > 0).await;
        failures = if all_good { 0 } else { failures + 1 };
        let endpoints: Vec<Endpoint> = resolved.iter().flatten().cloned().collect();
        let unchanged = hosts.hosts().iter().map(|host| &host.endpoint).eq(&endpoints);
        if unchanged {
            cluster.stats.update_no_rebuild.inc();
        } else {
            hosts = HostSet::new(&cluster, endpoints, &hosts);
        }
        if first || !unchanged {
            publish(Arc::clone(&hosts));
        }
        first = false;
        sleep(cluster.dns.next_try(failures)).await;
    }
}

impl DnsOptions {
    fn next_try(&self, failures: u32) -> Duration {
        match failures {
            0 => self.refresh_rate,
            _ => self.failure_base.saturating_mul(1 << (failures - 1).min(16)).min(self.failure_max),
        }
    }
}

/// Resolves each name, and replaces what it resolved to before. Whether all of them could be resolved.
async fn resolve_all(cluster: &Cluster, resolved: &mut [Vec<Endpoint>], failing: bool) -> bool {
    let stats = &cluster.stats;
    let mut all_good = true;
    for (named, resolved) in cluster.endpoints.iter().zip(resolved) {
        let Some(name) = &named.name else { continue };
        stats.update_attempt.inc();
        match resolve(name, named, cluster).await {
            Ok(endpoints) => {
                stats.update_success.inc();
                if endpoints.is_empty() {
                    stats.update_empty.inc();
                }
                debug!(cluster = %cluster.name, name, addresses = endpoints.len(), "resolved");
                *resolved = endpoints;
            }
            Err(error) => {
                stats.update_failure.inc();
                if failing {
                    debug!(cluster = %cluster.name, name, %error, "still cannot resolve the name");
                } else {
                    warn!(cluster = %cluster.name, name, %error, "cannot resolve the name");
                }
                all_good = false;
            }
        }
    }
    all_good
}

async fn resolve(name: &str, named: &NamedEndpoint, cluster: &Cluster) -> io::Result<Vec<Endpoint>> {
    let port = named.endpoint.address.port().unwrap_or_default();
    let found = lookup_host((name, port)).await?;
    let mut addresses = cluster.dns.family.pick(found.map(|address| address.ip()));
    if cluster.discovery == Discovery::LogicalDns {
        addresses.truncate(1);
    } else {
        // Servers rotate their answers; that is no change.
        addresses.sort_unstable();
        addresses.dedup();
    }
    let at = |ip| Endpoint { address: Address::from(SocketAddr::new(ip, port)), ..named.endpoint.clone() };
    Ok(addresses.into_iter().map(at).collect())
}

impl Family {
    fn pick(self, found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let (mut v4, mut v6): (Vec<IpAddr>, Vec<IpAddr>) = found.partition(IpAddr::is_ipv4);
        match self {
            Family::V4Only => v4,
            Family::V6Only => v6,
            Family::V4Preferred => {
                if v4.is_empty() {
                    v6
                } else {
                    v4
                }
            }
            Family::V6Preferred => {
                if v6.is_empty() {
                    v4
                } else {
                    v6
                }
            }
            Family::All => {
                v4.append(&mut v6);
                v4
            }
        }
    }
}
