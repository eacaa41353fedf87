//! Settings of sockets, of those that listen and of those that connect: `envoy.config.core.v3.SocketOption` and `TcpKeepalive`.

use std::{net::IpAddr, time::Duration};

use crate::{
    config::Field,
    proto::{
        UInt32Value,
        core::{
            self,
            socket_option::{SocketIpVersion, SocketState as SocketStateProto, Value},
        },
    },
    sys::{
        socket::Keepalive,
        socket_option::{SocketOption, SocketState},
    },
};

/// `socket_options` of a socket that has or gets an address of this kind.
#[must_use]
pub fn socket_options(protos: &[core::SocketOption], address: IpAddr, list: Field<'_>) -> Vec<SocketOption> {
    let converted = protos.iter().enumerate().map(|(index, proto)| socket_option(proto, address, list.index(index)));
    converted.collect::<Vec<_>>().into_iter().flatten().collect()
}

fn socket_option(proto: &core::SocketOption, ip: IpAddr, field: Field<'_>) -> Option<SocketOption> {
    let core::SocketOption { description: _description, level, name, state, r#type, ip_version, value } = proto;
    let for_tcp = r#type.is_none_or(|kind| kind.stream.is_some() || kind.datagram.is_none());
    let for_version = match SocketIpVersion::try_from(*ip_version) {
        Ok(SocketIpVersion::Ipv4) => ip.is_ipv4(),
        Ok(SocketIpVersion::Ipv6) => ip.is_ipv6(),
        _ => true,
    };
    let number = |number: i64, name| {
        i32::try_from(number).inspect_err(|_| field.key(name).error("is no number of a socket option")).ok()
    };
    let value = match value {
        Some(Value::IntValue(value)) => number(*value, "int_value")?.to_ne_bytes().to_vec(),
        Some(Value::BufValue(bytes)) => bytes.clone(),
        None => {
            field.error("int_value or buf_value is required");
            return None;
        }
    };
    let state = match SocketStateProto::try_from(*state) {
        Ok(SocketStateProto::StateBound) => SocketState::Bound,
        Ok(SocketStateProto::StateListening) => SocketState::Listening,
        _ => SocketState::Prebind,
    };
    let option = SocketOption { level: number(*level, "level")?, name: number(*name, "name")?, value, state };
    (for_tcp && for_version).then_some(option)
}

/// `TcpKeepalive`, whose presence alone turns probes on.
#[must_use]
pub fn keepalive(proto: &core::TcpKeepalive) -> Keepalive {
    let core::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval } = proto;
    let seconds = |value: &Option<UInt32Value>| {
        value.filter(|value| value.value > 0).map(|value| Duration::from_secs(value.value.into()))
    };
    Keepalive {
        time: seconds(keepalive_time),
        interval: seconds(keepalive_interval),
        probes: keepalive_probes.map(|probes| probes.value).filter(|probes| *probes > 0),
    }
}
