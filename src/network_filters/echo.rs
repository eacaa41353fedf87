//! The filter `envoy.filters.network.echo`: clients get back what they send.

use std::{rc::Rc, sync::Arc};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
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
    name: "envoy.filters.network.echo",
    type_name: "envoy.extensions.filters.network.echo.v3.Echo",
    from_proto: |any, field, _| {
        let proto::echo::Echo {} = field.unpack(any)?;
        Some(Arc::new(Echo))
    },
};

const BUFFER: usize = 16 * 1024;

#[derive(Debug)]
struct Echo;

impl NetworkFilter for Echo {
    fn serve(
        self: Arc<Self>,
        mut io: Io,
        _connection: Rc<ConnectionInfo>,
        _worker: Rc<WorkerContext>,
        mut drain: Watcher,
    ) -> LocalFuture<'static, ()> {
        Box::pin(async move {
            let echo = async {
                let mut buffer = vec![0; BUFFER];
                loop {
                    match io.read(&mut buffer).await {
                        Ok(count) if count > 0 => io.write_all(&buffer[..count]).await?,
                        _ => return io.shutdown().await,
                    }
                    io.flush().await?;
                }
            };
            tokio::select! {
                // Whatever ends it, there is nobody to tell.
                _ = echo => {}
                () = drain.deadline() => {}
            }
        })
    }
}
