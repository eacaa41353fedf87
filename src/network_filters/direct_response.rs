//! The filter `envoy.filters.network.direct_response`: clients get some bytes, and the end of the connection.

use std::{rc::Rc, sync::Arc};

use tokio::io::AsyncWriteExt;

use crate::{
    config::data_source,
    drain::Watcher,
    filter::{
        LocalFuture, WorkerContext,
        network::{NetworkFilter, NetworkFilterFactory},
    },
    net::Io,
    proto,
    stream_info::ConnectionInfo,
};

/// The row of this filter.
pub const FACTORY: NetworkFilterFactory = NetworkFilterFactory {
    name: "envoy.filters.network.direct_response",
    type_name: "envoy.extensions.filters.network.direct_response.v3.Config",
    from_proto: |any, field, _| {
        let proto::direct_response::Config { response } = field.unpack(any)?;
        let response = match &response {
            Some(source) => data_source::read(source, field.key("response"))?,
            None => Vec::new(),
        };
        Some(Arc::new(DirectResponse(response)))
    },
};

#[derive(Debug)]
struct DirectResponse(Vec<u8>);

impl NetworkFilter for DirectResponse {
    fn serve(
        self: Arc<Self>,
        mut io: Io,
        _connection: Rc<ConnectionInfo>,
        _worker: Rc<WorkerContext>,
        mut drain: Watcher,
    ) -> LocalFuture<'static, ()> {
        Box::pin(async move {
            let answer = async {
                io.write_all(&self.0).await?;
                io.shutdown().await
            };
            tokio::select! {
                // Whatever ends it, there is nobody to tell.
                _ = answer => {}
                () = drain.deadline() => {}
            }
        })
    }
}
