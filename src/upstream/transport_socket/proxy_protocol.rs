//! `upstream_proxy_protocol`: a connection begins with a header that names the client for whom it was made.

use prost::Message;

use super::TransportSocketOptions;
use crate::{
    config::Field,
    net::proxy_protocol,
    proto::core::{
        Metadata, PerHostConfig, ProxyProtocolConfig, ProxyProtocolPassThroughTlVs, TlvEntry,
        proxy_protocol_config::Version, proxy_protocol_pass_through_tl_vs::PassTlVsMatchType,
    },
    stats::{Counter, Scope},
};

/// The metadata of a host that adds values of its own.
const METADATA: &str = "envoy.transport_sockets.proxy_protocol";

/// The header of a cluster's connections.
#[derive(Debug)]
pub(super) struct ProxyProtocolHeader {
    version: Version,
    passed_on: PassedOn,
    added: Vec<(u8, Vec<u8>)>,
    v2_tlvs_exceed_max_length: Counter,
}

/// Which values of a header downstream are repeated.
#[derive(Debug)]
enum PassedOn {
    All,
    Types(Vec<u8>),
}

impl ProxyProtocolHeader {
    /// `scope` is the cluster's.
    pub(super) fn from_proto(
        proto: Option<&ProxyProtocolConfig>,
        field: Field<'_>,
        scope: &Scope,
    ) -> ProxyProtocolHeader {
        let v2_tlvs_exceed_max_length = scope.scope("upstream_proxy_protocol").counter("v2_tlvs_exceed_max_length");
        let unset = ProxyProtocolConfig::default();
        let ProxyProtocolConfig { version, pass_through_tlvs, added_tlvs } = proto.unwrap_or(&unset);
        let passed_on = match pass_through_tlvs {
            Some(ProxyProtocolPassThroughTlVs { match_type, tlv_type }) => {
                match PassTlVsMatchType::try_from(*match_type) {
                    Ok(PassTlVsMatchType::IncludeAll) => PassedOn::All,
                    _ => PassedOn::Types(tlv_type.iter().map(|kind| kind.to_le_bytes()[0]).collect()),
                }
            }
            None => PassedOn::Types(Vec::new()),
        };
        let list = field.key("added_tlvs");
        let added = added_tlvs.iter().enumerate().map(|(index, TlvEntry { r#type, value, format_string })| {
            list.index(index).unsupported("format_string", format_string);
            (r#type.to_le_bytes()[0], value.clone())
        });
        ProxyProtocolHeader {
            version: Version::try_from(*version).unwrap_or(Version::V1),
            passed_on,
            added: added.collect(),
            v2_tlvs_exceed_max_length,
        }
    }

    /// The header for a connection made on behalf of `options.client`; without one, the connection speaks for itself.
    pub(super) fn bytes(&self, options: &TransportSocketOptions, of_host: Option<&Metadata>) -> Vec<u8> {
        let client = options.client.as_ref();
        let addresses = client.and_then(|client| client.source.socket_addr().zip(client.destination.socket_addr()));
        if self.version == Version::V1 {
            return proxy_protocol::v1(addresses);
        }
        let mut tlvs = of_host.map(values_of_host).unwrap_or_default();
        tlvs.extend(without(&tlvs, &self.added));
        let passed = client.map(|client| client.tlvs.iter().filter(|(kind, _)| self.passed_on.contains(*kind)));
        let passed: Vec<_> = passed.into_iter().flatten().cloned().collect();
        tlvs.extend(without(&tlvs, &passed));
        let length: usize = tlvs.iter().map(|(_, value)| 3 + value.len()).sum();
        if length > proxy_protocol::V2_MAX_TLVS {
            self.v2_tlvs_exceed_max_length.inc();
        }
        proxy_protocol::v2(addresses, tlvs.iter().map(|(kind, value)| (*kind, value.as_slice())))
    }
}

/// Those of a type that is not among the first.
fn without(first: &[(u8, Vec<u8>)], second: &[(u8, Vec<u8>)]) -> Vec<(u8, Vec<u8>)> {
    second.iter().filter(|(kind, _)| first.iter().all(|(other, _)| other != kind)).cloned().collect()
}

fn values_of_host(metadata: &Metadata) -> Vec<(u8, Vec<u8>)> {
    let config = metadata.typed_filter_metadata.get(METADATA);
    // Metadata is free: what is of another type is for somebody else.
    let config = config.and_then(|any| PerHostConfig::decode(any.value.as_slice()).ok()).unwrap_or_default();
    config.added_tlvs.into_iter().map(|entry| (entry.r#type.to_le_bytes()[0], entry.value)).collect()
}

impl PassedOn {
    fn contains(&self, kind: u8) -> bool {
        match self {
            PassedOn::All => true,
            PassedOn::Types(types) => types.contains(&kind),
        }
    }
}
