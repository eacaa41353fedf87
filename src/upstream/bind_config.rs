//! Where connections to hosts come from: `upstream_bind_config` of a cluster, or of all that have none.
//!
//! There is one source address for each version of IP at most. A host of a version that none is for is connected to from
//! the main one, which fails as it does in Envoy.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::net::TcpSocket;

use crate::{
    config::Field,
    net::{socket_settings, system_words},
    proto::core::{self, ExtraSourceAddress, SocketOptionsOverride, socket_address::PortSpecifier},
    sys::socket_option::{SocketOption, SocketState},
};

/// A checked `BindConfig`: the source addresses, the main one first.
#[derive(Debug, Clone)]
pub struct BindConfig(Vec<Source>);

#[derive(Debug, Clone)]
struct Source {
    /// `None`: the kernel chooses.
    address: Option<SocketAddr>,
    options: Vec<SocketOption>,
}

impl BindConfig {
    /// Its addresses and options, each where it is wrong.
    #[must_use]
    pub fn from_proto(proto: &core::BindConfig, field: Field<'_>) -> Option<BindConfig> {
        let core::BindConfig {
            source_address,
            freebind,
            socket_options,
            extra_source_addresses,
            additional_source_addresses,
            local_address_selector,
            validate_network_namespaces,
        } = proto;
        field.unsupported("local_address_selector", local_address_selector);
        field.ignored("validate_network_namespaces", validate_network_namespaces, "there are no network namespaces");
        let freebind = freebind.map(|freebind| freebind.value);
        let main = match source_address {
            Some(proto) => Some(source_ip(proto, field.key("source_address"))?),
            None => None,
        };
        let options = (socket_options.as_slice(), field.key("socket_options"));
        let mut sources = vec![Source::new(main, freebind, options)];
        if source_address.is_none() && !(extra_source_addresses.is_empty() && additional_source_addresses.is_empty()) {
            field.error(
                "extra source addresses are for the other version of IP than that of source_address, which is missing",
            );
        }
        if !extra_source_addresses.is_empty() && !additional_source_addresses.is_empty() {
            field.error("has extra_source_addresses as well as additional_source_addresses, which mean the same");
        }
        let list = field.key("extra_source_addresses");
        for (index, ExtraSourceAddress { address, socket_options: own }) in extra_source_addresses.iter().enumerate() {
            let field = list.index(index);
            let Some(address) = field.required("address", address) else { continue };
            let Some(address) = source_ip(address, field.key("address")) else { continue };
            let options = match own {
                Some(SocketOptionsOverride { socket_options }) => {
                    (socket_options.as_slice(), field.key("socket_options"))
                }
                None => options,
            };
            sources.push(Source::new(Some(address), freebind, options));
        }
        let list = field.key("additional_source_addresses");
        for (index, proto) in additional_source_addresses.iter().enumerate() {
            let Some(address) = source_ip(proto, list.index(index)) else { continue };
            sources.push(Source::new(Some(address), freebind, options));
        }
        let version = |source: &Source| source.address.map(|address| address.is_ipv4());
        if sources.len() > 2 || sources.len() == 2 && version(&sources[0]) == version(&sources[1]) {
            field.error("has several source addresses of one version of IP");
        }
        Some(BindConfig(sources))
    }

    /// A socket to connect to `host` with, bound.
    ///
    /// # Errors
    /// As the kernel says.
    pub(super) fn socket_for(&self, host: SocketAddr) -> io::Result<TcpSocket> {
        let fits = |source: &&Source| source.address.is_none_or(|address| address.is_ipv4() == host.is_ipv4());
        let Source { address, options } = self.0.iter().find(fits).unwrap_or(&self.0[0]);
        let socket = if host.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        SocketOption::set_all(options, SocketState::Prebind, &socket)?;
        if let Some(address) = address {
            let told = |error: io::Error| {
                io::Error::new(error.kind(), format!("failed to bind to {address}: {}", system_words(&error)))
            };
            socket.bind(*address).map_err(told)?;
        }
        SocketOption::set_all(options, SocketState::Bound, &socket)?;
        Ok(socket)
    }
}

impl Source {
    fn new(
        address: Option<SocketAddr>,
        freebind: Option<bool>,
        (options, field): (&[core::SocketOption], Field<'_>),
    ) -> Source {
        let ip = address.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
        let mut options = socket_settings::socket_options(options, ip, field);
        options.extend(freebind.map(|allowed| SocketOption::freebind(ip.is_ipv6(), allowed)));
        Source { address, options }
    }
}

fn source_ip(proto: &core::SocketAddress, field: Field<'_>) -> Option<SocketAddr> {
    let core::SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = proto;
    field.unsupported("protocol", protocol);
    field.unsupported("resolver_name", resolver_name);
    field.unsupported("network_namespace_filepath", network_namespace_filepath);
    field.ignored("ipv4_compat", ipv4_compat, "it is for listeners");
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).ok(),
        Some(PortSpecifier::NamedPort(_)) => None,
        None => Some(0),
    };
    let ip = address.parse::<IpAddr>().ok();
    if ip.is_none() {
        field.key("address").error(format!("{address:?} is not an IP address"));
    }
    if port.is_none() {
        field.error("needs a port_value of at most 65535, 0 for any");
    }
    Some(SocketAddr::new(ip?, port?))
}
