//! The filter `envoy.filters.listener.proxy_protocol`: a header of the PROXY protocol is taken off, and the client that it names counts.

use std::{borrow::Cow, collections::HashMap};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{Accepted, Rejection};
use crate::{
    config::Field,
    filter::FactoryContext,
    net::{
        Io,
        proxy_protocol::{Header, Parsed, Version, may_begin, parse},
    },
    proto::{
        self, Struct, Value,
        core::{
            Metadata, ProxyProtocolPassThroughTlVs, proxy_protocol_config::Version as VersionProto,
            proxy_protocol_pass_through_tl_vs::PassTlVsMatchType,
        },
        proxy_protocol::proxy_protocol::{
            KeyValuePair, Rule, TlvLocation, key_value_pair::ValueStringEncoding as Encoding,
        },
        value,
    },
    stats,
    stream_info::ProxyProtocol,
};

/// Where values go whose rule names no namespace.
const NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";

/// A checked `ProxyProtocol`.
#[derive(Debug)]
pub(super) struct ProxyProtocolFilter {
    rules: HashMap<u8, KeyValuePair>,
    passed_on: PassedOn,
    /// A connection without a header is served, too.
    optional: bool,
    allows_v1: bool,
    allows_v2: bool,
    stats: ProxyProtocolStats,
    v1: VersionStats,
    v2: VersionStats,
    legacy: LegacyStats,
}

/// The values that a header upstream may repeat.
#[derive(Debug)]
enum PassedOn {
    All,
    Types(Vec<u8>),
}

stats::declare! {
    /// Of the PROXY protocol filters of all listeners, under `proxy_proto.`, or `proxy_proto.<stat_prefix>.`
    struct ProxyProtocolStats {
        /// Connections closed because they had no header.
        not_found_disallowed: Counter,
        /// Connections without a header that were let in.
        not_found_allowed: Counter,
    }
}

stats::declare! {
    /// Of each version, under `proxy_proto.versions.v1.` and `proxy_proto.versions.v2.`
    struct VersionStats {
        /// Connections with a header.
        found: Counter,
        /// Of these, those closed because this version is not allowed.
        disallowed: Counter,
        /// Connections closed because of a malformed header.
        error: Counter,
    }
}

stats::declare! {
    /// Of the PROXY protocol filters of all listeners.
    struct LegacyStats {
        /// Connections closed because of a malformed or a missing header.
        downstream_cx_proxy_proto_error: Counter,
    }
}

impl ProxyProtocolFilter {
    pub(super) fn from_proto(
        proto: &proto::proxy_protocol::ProxyProtocol,
        field: Field<'_>,
        cx: &FactoryContext<'_>,
    ) -> Option<ProxyProtocolFilter> {
        let proto::proxy_protocol::ProxyProtocol {
            rules,
            allow_requests_without_proxy_protocol,
            pass_through_tlvs,
            disallowed_versions,
            stat_prefix,
            tlv_location,
        } = proto;
        if *tlv_location == TlvLocation::FilterState as i32 {
            field.unsupported("tlv_location", tlv_location);
        }
        let list = field.key("rules");
        let mut by_type = HashMap::new();
        for (index, Rule { tlv_type, on_tlv_present }) in rules.iter().enumerate() {
            let Some(pair) = field_of_rule(on_tlv_present.as_ref(), list.index(index)) else { continue };
            by_type.insert(tlv_type.to_le_bytes()[0], pair);
        }
        let allows = |version: VersionProto| !disallowed_versions.contains(&(version as i32));
        if !allows(VersionProto::V1) && !allows(VersionProto::V2) {
            field.key("disallowed_versions").error("at least one version must be allowed");
            return None;
        }
        let scope = cx.stats.scope("proxy_proto");
        let scope = if stat_prefix.is_empty() { scope } else { scope.scope(stat_prefix) };
        Some(ProxyProtocolFilter {
            rules: by_type,
            passed_on: PassedOn::from_proto(pass_through_tlvs.as_ref()),
            optional: *allow_requests_without_proxy_protocol,
            allows_v1: allows(VersionProto::V1),
            allows_v2: allows(VersionProto::V2),
            stats: ProxyProtocolStats::new(&scope),
            v1: VersionStats::new(&scope.scope("versions.v1")),
            v2: VersionStats::new(&scope.scope("versions.v2")),
            legacy: LegacyStats::new(&cx.stats.scope("")),
        })
    }

    /// Takes the header off the connection.
    pub(super) async fn read(&self, io: &mut Io, accepted: &mut Accepted) -> Result<(), Rejection> {
        let mut seen = 0;
        let parsed = loop {
            let bytes = io.peek(seen + 1).await?;
            if bytes.len() <= seen {
                return Err(Rejection::RemoteClose);
            }
            seen = bytes.len();
            let may_be = |version, allowed| allowed && may_begin(version, bytes);
            if self.optional && !may_be(Version::V1, self.allows_v1) && !may_be(Version::V2, self.allows_v2) {
                self.stats.not_found_allowed.inc();
                return Ok(());
            }
            match parse(bytes) {
                Parsed::Incomplete => {}
                parsed => break parsed,
            }
        };
        match parsed {
            Parsed::Header(header) => self.accept(header, io, accepted),
            Parsed::Malformed(version) => {
                self.of(version).error.inc();
                self.legacy.downstream_cx_proxy_proto_error.inc();
                Err(Rejection::ByFilter)
            }
            Parsed::NotFound | Parsed::Incomplete => {
                self.stats.not_found_disallowed.inc();
                self.legacy.downstream_cx_proxy_proto_error.inc();
                Err(Rejection::ByFilter)
            }
        }
    }

    fn accept(&self, header: Header, io: &mut Io, accepted: &mut Accepted) -> Result<(), Rejection> {
        self.of(header.version).found.inc();
        let allowed = match header.version {
            Version::V1 => self.allows_v1,
            Version::V2 => self.allows_v2,
        };
        if !allowed {
            self.of(header.version).disallowed.inc();
            return Err(Rejection::ByFilter);
        }
        io.skip(header.length);
        if let Some((source, destination)) = header.addresses {
            accepted.remote = source.into();
            accepted.local = destination.into();
        }
        accepted.proxy_protocol = Some(Box::new(ProxyProtocol {
            metadata: self.metadata(&header.tlvs),
            tlvs: header.tlvs.into_iter().filter(|(kind, _)| self.passed_on.contains(*kind)).collect(),
        }));
        Ok(())
    }

    /// The values that rules ask for.
    fn metadata(&self, tlvs: &[(u8, Vec<u8>)]) -> Option<Metadata> {
        let mut metadata = None;
        for (kind, bytes) in tlvs {
            let Some(KeyValuePair { metadata_namespace, key, value_string_encoding }) = self.rules.get(kind) else {
                continue;
            };
            let text = match Encoding::try_from(*value_string_encoding) {
                Ok(Encoding::Base64) => BASE64_STANDARD.encode(bytes).into(),
                _ => sanitized(bytes),
            };
            let namespace = if metadata_namespace.is_empty() { NAMESPACE } else { metadata_namespace };
            let metadata: &mut Metadata = metadata.get_or_insert_default();
            let fields: &mut Struct = metadata.filter_metadata.entry(namespace.to_owned()).or_default();
            let value = Value { kind: Some(value::Kind::StringValue(text.into_owned())) };
            fields.fields.insert(key.clone(), value);
        }
        metadata
    }

    fn of(&self, version: Version) -> &VersionStats {
        match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        }
    }
}

fn field_of_rule(pair: Option<&KeyValuePair>, field: Field<'_>) -> Option<KeyValuePair> {
    let pair = pair?;
    if pair.key.is_empty() {
        field.key("on_tlv_present").key("key").error("is required");
        return None;
    }
    Some(pair.clone())
}

/// What is no UTF-8 becomes exclamation marks, as in Envoy.
fn sanitized(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes
            .utf8_chunks()
            .flat_map(|chunk| [chunk.valid().to_owned(), "!".repeat(chunk.invalid().len())])
            .collect::<String>()
            .into(),
    }
}

impl PassedOn {
    fn from_proto(proto: Option<&ProxyProtocolPassThroughTlVs>) -> PassedOn {
        let Some(ProxyProtocolPassThroughTlVs { match_type, tlv_type }) = proto else {
            return PassedOn::Types(Vec::new());
        };
        match PassTlVsMatchType::try_from(*match_type) {
            Ok(PassTlVsMatchType::IncludeAll) => PassedOn::All,
            _ => PassedOn::Types(tlv_type.iter().map(|kind| kind.to_le_bytes()[0]).collect()),
        }
    }

    fn contains(&self, kind: u8) -> bool {
        match self {
            PassedOn::All => true,
            PassedOn::Types(types) => types.contains(&kind),
        }
    }
}
