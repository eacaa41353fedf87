//! Clusters: hosts, balancing, connection pools.
//!
//! [`Cluster`], [`HostSet`] and [`Host`] are the model, shared by all threads. [`ClusterManager`] is one worker's view of
//! it: per cluster the balancer's position, per host the connections. A request takes two steps here:
//! [`ClusterState::choose_host`], then [`ClusterState::send`], both on the worker's own thread.

mod bind_config;
mod circuit_breaker;
mod cluster;
mod cluster_manager;
mod cluster_stats;
mod conn_pool;
pub mod dns;
mod host;
mod host_set;
mod load_assignment;
mod load_balancer;
mod protocol_options;
mod response_stats;
mod transport_socket;

pub use bind_config::BindConfig;
pub use circuit_breaker::{CircuitBreakers, Resource, Thresholds};
pub use cluster::{Cluster, ClusterEntry, Discovery};
pub use cluster_manager::{ClusterManager, ClusterState, HostRef};
pub use cluster_stats::ClusterStats;
pub use conn_pool::{FailureKind, TcpConnection, UpstreamAttempt, UpstreamFailure};
pub use host::{Endpoint, Health, Host, HostStats};
pub use host_set::HostSet;
pub use load_balancer::LoadBalancerContext;
pub use protocol_options::{Http1Options, Protocol, ProtocolOptions};
pub use response_stats::{Origin, ResponseStats};
pub use transport_socket::{TransportSocket, TransportSockets};

#[cfg(test)]
mod tests;
