//! STRICT_DNS and LOGICAL_DNS: the hosts of a cluster from its names. Runs on the main thread.

use std::{sync::Arc, time::Duration};

use super::{Cluster, HostSet};

/// How the names of a cluster are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DnsOptions {
    /// Time between resolutions.
    pub refresh_rate: Duration,
    /// The first time between a failure and the next try; it doubles with each failure.
    pub failure_base: Duration,
    /// The longest time between a failure and the next try.
    pub failure_max: Duration,
    /// Which addresses are wanted.
    pub family: Family,
}

/// Which addresses of a name are wanted (`dns_lookup_family`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv6 if there are any, else IPv4.
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4 if there are any, else IPv6.
    V4Preferred,
    /// Both.
    All,
}

/// Resolves the names of a DNS cluster for ever, and publishes its hosts after the first resolution, good or bad, and then
/// whenever they change. A name that does not resolve any more keeps its last good hosts.
pub async fn follow(cluster: Arc<Cluster>, hosts: Arc<HostSet>, publish: impl Fn(Arc<HostSet>)) {
    let _ = (cluster, hosts, publish);
    todo!()
}
