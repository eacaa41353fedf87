//! Connection pools: the connections of one worker to one host, by protocol.
//!
//! Nothing here is shared with other threads but counters. Whoever holds a response's body holds its connection, or its
//! stream's place on one; when the body ends, or is dropped, the next request has it.

mod attempt;
mod connect;
mod http1;
mod http2;
mod replay;
mod response;

use std::{cell::RefCell, rc::Rc};

use http::Version;
use tokio::{sync::OnceCell, time::Instant};

use super::{HostRef, Protocol};
use crate::{
    http::{Request, Response, upgrade::Upgrade},
    net::Alpn,
};
use connect::{ConnectError, connect};

pub use attempt::{FailureKind, UpstreamFailure, UpstreamTiming};

/// The connections of one worker to one host.
#[derive(Default)]
pub(super) struct Pools {
    http1: Rc<http1::Pool>,
    http2: Rc<http2::Pool>,
    /// What the host chose by ALPN, where that decides.
    chosen: RefCell<Rc<OnceCell<Alpn>>>,
}

impl Pools {
    /// Sends one attempt, and resolves when the response's headers come.
    pub(super) async fn send(
        &self,
        host: &HostRef,
        request: Request,
        timing: &mut UpstreamTiming,
    ) -> Result<Response, UpstreamFailure> {
        if request.extensions().get::<Upgrade>().is_some() {
            // Boxed, so that other requests do not carry its state.
            return Box::pin(http1::upgrade(host, request, timing)).await;
        }
        match host.cluster().protocol.protocol {
            Protocol::Http1 => self.http1.send(host, request, timing).await,
            Protocol::Http2 => self.http2.send(host, request, timing).await,
            Protocol::Downstream if request.version() == Version::HTTP_2 => {
                self.http2.send(host, request, timing).await
            }
            Protocol::Downstream => self.http1.send(host, request, timing).await,
            Protocol::Alpn => Box::pin(self.send_by_alpn(host, request, timing)).await,
        }
    }

    async fn send_by_alpn(
        &self,
        host: &HostRef,
        request: Request,
        timing: &mut UpstreamTiming,
    ) -> Result<Response, UpstreamFailure> {
        let chosen = Rc::clone(&self.chosen.borrow());
        let alpn = match chosen.get_or_try_init(|| self.negotiate(host, timing)).await {
            Ok(alpn) => *alpn,
            Err(error) => return Err(error.into_failure(request)),
        };
        let outcome = match alpn {
            Alpn::H2 => self.http2.send(host, request, timing).await,
            Alpn::Http11 => self.http1.send(host, request, timing).await,
        };
        if outcome.is_err() {
            // Perhaps the host speaks another protocol now.
            self.chosen.take();
        }
        outcome
    }

    /// Makes the first connection, and leaves it to the pool of the protocol that the host chooses.
    async fn negotiate(&self, host: &HostRef, timing: &mut UpstreamTiming) -> Result<Alpn, ConnectError> {
        timing.connect_started = Some(Instant::now());
        let established = connect(host, &[Alpn::H2, Alpn::Http11]).await?;
        timing.connected = Some(Instant::now());
        if established.alpn == Some(Alpn::H2) {
            self.http2.adopt(established).await?;
            Ok(Alpn::H2)
        } else {
            self.http1.adopt(established).await?;
            Ok(Alpn::Http11)
        }
    }
}

#[cfg(test)]
mod tests;
