//! Connection pools: the connections of one worker to one host, by protocol.
//!
//! Nothing here is shared with other threads but counters. Whoever holds a response's body holds its connection, or its
//! stream's place on one; when the body ends, or is dropped, the next request has it.

mod attempt;
mod connect;
mod http1;
mod http2;
mod places;
mod replay;
mod response;
mod tcp;
mod tunnel;

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc};

use http::{HeaderName, Method, Version};
use tokio::{sync::OnceCell, time::Instant};

use super::{
    HostRef, Protocol,
    transport_socket::{ProxiedClient, TransportSocketOptions},
};
use crate::{
    http::{
        Request, Response, authority,
        upgrade::{TcpTunnel, Upgrade},
    },
    net::Alpn,
    proto::core::RoutingPriority,
};
use connect::{ConnectError, connect};

pub use attempt::{FailureKind, UpstreamAttempt, UpstreamFailure};
pub use tcp::TcpConnection;

/// The connections of one worker to one host, by the priority of the requests that they are for.
#[derive(Default)]
pub(super) struct Pools {
    default: NamedPools,
    high: NamedPools,
}

/// The connections for the requests of one priority.
struct NamedPools {
    own: Rc<Pool>,
    /// Those whose TLS asks for the host of the request (`auto_sni`), or whose PROXY header tells of the client.
    apart: RefCell<HashMap<Rc<TransportSocketOptions>, Rc<Pool>>>,
}

/// The connections of one worker to one host that may be used in place of each other.
struct Pool {
    options: Rc<TransportSocketOptions>,
    http1: Rc<http1::Pool>,
    http2: Rc<http2::Pool>,
    /// What the host chose by ALPN, where that decides.
    chosen: RefCell<Rc<OnceCell<Alpn>>>,
}

impl Default for NamedPools {
    fn default() -> NamedPools {
        NamedPools { own: Pool::new(Rc::default()), apart: RefCell::default() }
    }
}

impl Pools {
    /// Sends one attempt, and resolves when the response's headers come.
    pub(super) async fn send(
        &self,
        host: &HostRef,
        request: &mut Request,
        attempt: &UpstreamAttempt,
    ) -> Result<Response, UpstreamFailure> {
        let pools = if attempt.priority == RoutingPriority::High { &self.high } else { &self.default };
        pools.send(host, request, attempt).await
    }
}

impl NamedPools {
    async fn send(
        &self,
        host: &HostRef,
        request: &mut Request,
        attempt: &UpstreamAttempt,
    ) -> Result<Response, UpstreamFailure> {
        match set_apart(host, request, attempt) {
            Some(options) => self.apart(options).send(host, request, attempt).await,
            None => self.own.send(host, request, attempt).await,
        }
    }

    /// The connections of these options. Clients decide on them, so those without connections are forgotten.
    fn apart(&self, options: TransportSocketOptions) -> Rc<Pool> {
        let mut pools = self.apart.borrow_mut();
        if let Some(pool) = pools.get(&options) {
            return Rc::clone(pool);
        }
        pools.retain(|_, pool| pool.is_in_use());
        let options = Rc::new(options);
        let pool = Pool::new(Rc::clone(&options));
        pools.insert(options, Rc::clone(&pool));
        pool
    }
}

/// What the connection for a request must be like, if not any will do.
fn set_apart(host: &HostRef, request: &Request, attempt: &UpstreamAttempt) -> Option<TransportSocketOptions> {
    let protocol = &host.cluster().protocol;
    let server_name = if protocol.auto_sni && host.is_secured() {
        name_asked_for(request, protocol.auto_sni_header.as_ref()).map(Box::from)
    } else {
        None
    };
    let client = attempt.client.as_deref().filter(|_| host.learns_clients()).map(ProxiedClient::of);
    (server_name.is_some() || client.is_some()).then_some(TransportSocketOptions { server_name, client })
}

/// The name in a header of the request, or that of its authority. An address is no name.
fn name_asked_for<'r>(request: &'r Request, header: Option<&HeaderName>) -> Option<&'r str> {
    let named = header.and_then(|header| request.headers().get(header)).and_then(|value| value.to_str().ok());
    let name = host_of(named.or_else(|| authority(request))?);
    let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    (!is_address && !name.is_empty()).then_some(name)
}

/// An authority without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

impl Pool {
    fn new(options: Rc<TransportSocketOptions>) -> Rc<Pool> {
        Rc::new(Pool {
            http1: http1::Pool::new(Rc::clone(&options)),
            http2: http2::Pool::new(Rc::clone(&options)),
            options,
            chosen: RefCell::default(),
        })
    }

    fn is_in_use(self: &Rc<Pool>) -> bool {
        Rc::strong_count(self) > 1 || self.http1.has_idle() || self.http2.is_in_use()
    }

    async fn send(
        &self,
        host: &HostRef,
        request: &mut Request,
        attempt: &UpstreamAttempt,
    ) -> Result<Response, UpstreamFailure> {
        if request.extensions().get::<TcpTunnel>().is_some() {
            return Box::pin(tunnel::open(host, request, attempt)).await;
        }
        if request.extensions().get::<Upgrade>().is_some() && !is_sent_by_http2(request, host) {
            // Boxed, so that other requests do not carry its state.
            return Box::pin(self.http1.upgrade(host, request, attempt)).await;
        }
        let http2 = match host.cluster().protocol.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Downstream => request.version() == Version::HTTP_2,
            Protocol::Alpn => return Box::pin(self.send_by_alpn(host, request, attempt)).await,
        };
        if http2 {
            self.http2.send(host, request, attempt).await
        } else {
            self.http1.send(host, request, attempt).await
        }
    }

    async fn send_by_alpn(
        &self,
        host: &HostRef,
        request: &mut Request,
        attempt: &UpstreamAttempt,
    ) -> Result<Response, UpstreamFailure> {
        let chosen = Rc::clone(&self.chosen.borrow());
        let alpn =
            chosen.get_or_try_init(|| self.negotiate(host, attempt)).await.map_err(ConnectError::into_failure)?;
        let outcome = match alpn {
            Alpn::H2 => self.http2.send(host, request, attempt).await,
            Alpn::Http11 => self.http1.send(host, request, attempt).await,
        };
        if outcome.is_err() {
            // Perhaps the host speaks another protocol now.
            self.chosen.take();
        }
        outcome
    }

    /// Makes the first connection, and leaves it to the pool of the protocol that the host chooses.
    async fn negotiate(&self, host: &HostRef, attempt: &UpstreamAttempt) -> Result<Alpn, ConnectError> {
        attempt.connect_started.set(Some(Instant::now()));
        let alpn = &[Alpn::H2, Alpn::Http11];
        let established = connect(host, &self.options, alpn, attempt.priority).await?;
        attempt.connected.set(Some(Instant::now()));
        if established.alpn == Some(Alpn::H2) {
            self.http2.adopt(established).await?;
            Ok(Alpn::H2)
        } else {
            self.http1.adopt(established).await?;
            Ok(Alpn::Http11)
        }
    }
}

/// Whether a request for an upgrade, or a CONNECT, goes to the host by HTTP/2 as well: an upgrade only where `allow_connect` says that the
/// host knows extended CONNECT.
fn is_sent_by_http2(request: &Request, host: &HostRef) -> bool {
    let options = &host.cluster().protocol;
    let http2 = match options.protocol {
        Protocol::Http1 | Protocol::Alpn => false,
        Protocol::Http2 => true,
        Protocol::Downstream => request.version() == Version::HTTP_2,
    };
    http2 && (options.http2.allow_connect || *request.method() == Method::CONNECT)
}

#[cfg(test)]
mod tests;
