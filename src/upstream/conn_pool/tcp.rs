//! TCP upstream: one connection for each connection downstream, made when it is needed and never used again.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    UpstreamFailure,
    connect::{ConnectError, ConnectionRecord, MeteredIo, Side, connect},
    places::Pending,
};
use crate::{
    net::Io,
    proto::core::RoutingPriority,
    stats::Gauge,
    stream_info::ConnectionInfo,
    stream_info::UpstreamConnectionInfo,
    upstream::{
        HostRef,
        transport_socket::{ProxiedClient, TransportSocketOptions},
    },
};

/// A connection to a host for a stream of bytes. Unless [`Self::closed_by_host`] says otherwise, it is we who close it, by dropping it.
#[derive(Debug)]
pub struct TcpConnection {
    io: MeteredIo,
    record: Rc<ConnectionRecord>,
    cluster_active: Gauge,
    host_active: Gauge,
}

impl TcpConnection {
    /// Connects to a host, for a client where there is one. It counts as a request that waits, and then as one that runs, as in Envoy.
    pub(in crate::upstream) async fn connect(
        host: &HostRef,
        client: Option<&ConnectionInfo>,
    ) -> Result<TcpConnection, UpstreamFailure> {
        let stats = &host.cluster().stats;
        let priority = RoutingPriority::Default;
        let pending = Pending::begin(host, priority).map_err(ConnectError::into_failure)?;
        let client = client.filter(|_| host.learns_clients()).map(ProxiedClient::of);
        let options = TransportSocketOptions { client, ..TransportSocketOptions::default() };
        let established = connect(host, &options, &[], priority).await;
        pending.end();
        drop(pending);
        let established = established.map_err(|error| {
            stats.upstream_rq_pending_failure_eject.inc();
            ConnectError::into_failure(error)
        })?;
        let (cluster_active, host_active) = (stats.upstream_rq_active.clone(), host.stats.rq_active.clone());
        stats.upstream_rq_total.inc();
        host.stats.rq_total.inc();
        cluster_active.inc();
        host_active.inc();
        established.record.begin();
        Ok(TcpConnection { io: established.io, record: established.record, cluster_active, host_active })
    }

    /// What logs tell of it.
    #[must_use]
    pub fn info(&self) -> &Rc<UpstreamConnectionInfo> {
        self.record.info()
    }

    /// Notes that the host has closed it.
    pub fn closed_by_host(&self) {
        self.record.close(Side::Remote);
    }

    /// The bytes below the counting.
    #[must_use]
    pub fn io(&self) -> &Io {
        self.io.get_ref()
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.record.close(Side::Local);
        self.cluster_active.dec();
        self.host_active.dec();
    }
}

impl AsyncRead for TcpConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
