//! Where to listen, and how: `envoy.config.core.v3.Address` with the socket settings of whoever listens.

use std::{fmt, io, net::IpAddr, num::NonZeroUsize};

use thiserror::Error;

use crate::{
    config::Field,
    net::Address,
    proto::core::{self, address, socket_address::PortSpecifier},
    sys::socket::{self, ListenSocket, TcpOptions},
};

/// An address and what the socket on it is to be like.
#[derive(Clone, Debug)]
pub struct ListenAddress {
    /// As configured: the port may be 0, for any.
    pub address: Address,
    pub(super) tcp: TcpOptions,
    /// Mode of the file of a Unix socket; the umask decides if there is none.
    mode: Option<u32>,
}

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {}", socket::bind_failure(.cause))]
pub struct BindError {
    /// Which.
    pub address: Address,
    /// Why.
    pub cause: io::Error,
}

impl ListenAddress {
    /// An address with Envoy's defaults for its socket.
    #[must_use]
    pub fn from_proto(proto: &core::Address, field: Field<'_>) -> Option<ListenAddress> {
        let core::Address { address } = proto;
        match field.required("socket_address", address)? {
            address::Address::SocketAddress(socket) => ListenAddress::ip(socket, field.key("socket_address")),
            address::Address::Pipe(pipe) => {
                let core::Pipe { path, mode } = pipe;
                let field = field.key("pipe");
                if path.is_empty() {
                    field.key("path").error("is required");
                    return None;
                }
                if *mode > 0o777 {
                    field.key("mode").error("must be at most 0777");
                    return None;
                }
                let mode = (*mode != 0).then_some(*mode);
                Some(ListenAddress { address: Address::Pipe(path.into()), tcp: defaults(false), mode })
            }
            address::Address::EnvoyInternalAddress(internal) => {
                let core::EnvoyInternalAddress { endpoint_id: _endpoint_id, address_name_specifier: _name } = internal;
                field.key("envoy_internal_address").error("a listener within the process says internal_listener: {}");
                None
            }
        }
    }

    /// Where an internal listener is found.
    pub(super) fn internal(listener: &str) -> ListenAddress {
        let address = Address::Internal { listener: listener.into(), endpoint_id: "".into() };
        ListenAddress { address, tcp: defaults(false), mode: None }
    }

    fn ip(proto: &core::SocketAddress, field: Field<'_>) -> Option<ListenAddress> {
        let core::SocketAddress {
            protocol,
            address,
            resolver_name,
            ipv4_compat,
            network_namespace_filepath,
            port_specifier,
        } = proto;
        field.unsupported("protocol", protocol);
        if *protocol != 0 {
            return None;
        }
        field.unsupported("resolver_name", resolver_name);
        field.unsupported("network_namespace_filepath", network_namespace_filepath);
        let Ok(ip) = address.parse::<IpAddr>() else {
            field.key("address").error(format!("{address:?} is not an IP address, such as 127.0.0.1, 0.0.0.0 or ::"));
            return None;
        };
        let port = match port_specifier {
            Some(PortSpecifier::PortValue(port)) => {
                u16::try_from(*port).inspect_err(|_| field.key("port_value").error("must be at most 65535")).ok()?
            }
            Some(PortSpecifier::NamedPort(_)) => {
                field.key("named_port").error("a listener needs a port_value");
                return None;
            }
            None => {
                field.key("port_value").error("is required");
                return None;
            }
        };
        Some(ListenAddress { address: Address::Ip((ip, port).into()), tcp: defaults(*ipv4_compat), mode: None })
    }

    /// Binds one socket for each worker, listening already; or several workers' handles of one socket, where the kernel cannot
    /// spread connections or must not. Sockets that another process has bound to this address are gone on with: there may be
    /// more of them than workers.
    ///
    /// # Errors
    /// If the address is taken, foreign, or not allowed.
    pub fn bind(&self, inherited: Vec<ListenSocket>, workers: NonZeroUsize) -> Result<Vec<ListenSocket>, BindError> {
        match &self.address {
            Address::Ip(_) if !inherited.is_empty() => socket::resume_tcp(inherited, &self.tcp, workers),
            Address::Pipe(_) if !inherited.is_empty() => socket::resume_unix(inherited, self.tcp.backlog, workers),
            Address::Ip(address) => socket::listen_tcp(*address, &self.tcp, workers),
            Address::Pipe(path) => socket::listen_unix(path, self.mode, self.tcp.backlog, workers),
            Address::Internal { .. } => Ok(Vec::new()),
        }
        .map_err(|cause| BindError { address: self.address.clone(), cause })
    }
}

/// As statistics name a listener by it.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Internal { listener, .. } => write!(f, "envoy_internal_{listener}"),
            address => address.fmt(f),
        }
    }
}

fn defaults(ipv4_compat: bool) -> TcpOptions {
    // The kernel cuts the backlog down to net.core.somaxconn.
    TcpOptions {
        reuse_port: true,
        backlog: u32::MAX,
        freebind: false,
        ipv4_compat,
        keepalive: None,
        options: Vec::new(),
    }
}
