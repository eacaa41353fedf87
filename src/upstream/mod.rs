//! Clusters: hosts, balancing, connection pools.
