//! A host: one address of a cluster, with its counters.
//!
//! Immutable. A host outlives updates of its cluster for as long as its endpoint does not change; connections and counters
//! outlive even a change of weight, priority or metadata, because they belong to the address.

use super::transport_socket::SocketIndex;
use crate::{net::Address, proto::core, stats};

/// One address of a cluster.
#[derive(Debug)]
pub struct Host {
    /// What configuration, DNS or a registration says of it.
    pub endpoint: Endpoint,
    /// What all workers count.
    pub stats: HostStats,
    /// Which of its cluster's.
    pub(super) transport_socket: SocketIndex,
}

/// What configuration, DNS or a registration says of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Address,
    /// The name that DNS resolved or that the configuration gives; may be empty.
    pub hostname: String,
    /// Connections belong to the name, not to the address, which may change under them (`LOGICAL_DNS`).
    pub logical: bool,
    /// Its share of the requests; at least 1.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u32,
    /// Whether it takes requests.
    pub health: Health,
    /// Where it runs.
    pub locality: Option<core::Locality>,
    /// What filters and balancers may select by.
    pub metadata: Option<core::Metadata>,
    /// That of its locality.
    pub locality_metadata: Option<core::Metadata>,
}

/// Whether a host takes requests, as its source says (`health_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Healthy,
    /// Only when no healthy one is left.
    Degraded,
    /// Only when too few healthy ones are left (`healthy_panic_threshold`).
    Unhealthy,
    /// Never again; running requests finish.
    Draining,
}

impl Endpoint {
    /// A healthy endpoint of weight 1 at `address`.
    #[must_use]
    pub fn new(address: Address) -> Endpoint {
        Endpoint {
            address,
            hostname: String::new(),
            logical: false,
            weight: 1,
            priority: 0,
            health: Health::Healthy,
            locality: None,
            metadata: None,
            locality_metadata: None,
        }
    }

    /// What its connections belong to: those of one target serve every host that has it.
    pub(super) fn target(&self) -> Target<'_> {
        let address = if self.logical { None } else { Some(&self.address) };
        Target { address, hostname: &self.hostname }
    }
}

/// Address and name of a host, or the name alone where the address may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Target<'a> {
    address: Option<&'a Address>,
    hostname: &'a str,
}

stats::declare! {
    /// Of a host, shown by `/clusters` instead of `/stats`.
    pub struct HostStats {
        /// Connections made or tried.
        cx_total: Counter,
        /// Connections open now.
        cx_active: Gauge,
        /// Connections that could not be made.
        cx_connect_fail: Counter,
        /// Requests sent.
        rq_total: Counter,
        /// Requests running now.
        rq_active: Gauge,
        /// Requests that wait for a connection.
        rq_pending_active: Gauge,
        /// Responses other than 5xx.
        rq_success: Counter,
        /// 5xx responses, and attempts without a response.
        rq_error: Counter,
        /// Attempts given up because time ran out.
        rq_timeout: Counter,
    }
}
