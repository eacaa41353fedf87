//! The filter `envoy.filters.network.sni_cluster`: a TCP proxy after it takes a connection to the cluster whose name the client asked for.

use std::sync::Arc;

use crate::{
    filter::network::{Admission, ReadFilter, ReadFilterFactory},
    proto,
    runtime::Runtime,
    stream_info::ConnectionInfo,
};

/// The row of this filter.
pub const FACTORY: ReadFilterFactory = ReadFilterFactory {
    type_name: "envoy.extensions.filters.network.sni_cluster.v3.SniCluster",
    from_proto: |any, field, _| {
        let proto::sni_cluster::SniCluster {} = field.unpack(any)?;
        Some(Arc::new(SniCluster))
    },
};

#[derive(Debug)]
struct SniCluster;

impl ReadFilter for SniCluster {
    fn admit(&self, connection: &mut ConnectionInfo, _runtime: &Runtime) -> Admission {
        connection.upstream_cluster.clone_from(&connection.server_name);
        Admission::Continue
    }
}
