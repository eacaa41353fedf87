//! The filter `envoy.filters.network.rbac`: whether a connection may be served, by who and where its client is.
//!
//! It decides when the connection is open, its handshake done. None of what it looks at changes after that, so that the enforcement
//! types come to the same.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    config::Field,
    filter::{
        FactoryContext,
        network::{Admission, ReadFilter, ReadFilterFactory},
        rbac::{Engines, Facts, Rbac, Subject},
    },
    proto,
    stream_info::{ConnectionInfo, ResponseFlags},
};

/// The row of this filter.
pub const FACTORY: ReadFilterFactory = ReadFilterFactory {
    type_name: "envoy.extensions.filters.network.rbac.v3.RBAC",
    from_proto: |any, field, cx| {
        let filter = RbacFilter::from_proto(&field.unpack(any)?, field, cx)?;
        Some(Arc::new(filter))
    },
};

/// A checked `RBAC` of the network filter.
#[derive(Debug)]
struct RbacFilter {
    engines: Engines,
    delay_deny: Duration,
}

impl RbacFilter {
    fn from_proto(proto: &proto::network_rbac::Rbac, field: Field<'_>, cx: &FactoryContext<'_>) -> Option<RbacFilter> {
        let proto::network_rbac::Rbac {
            rules,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            stat_prefix,
            enforcement_type: _same,
            delay_deny,
        } = proto;
        field.unsupported("matcher", matcher);
        field.unsupported("shadow_matcher", shadow_matcher);
        let convert = |proto: &Option<proto::rbac::Rbac>, name| match proto {
            Some(rules) => Rbac::from_proto(rules, field.key(name), Subject::Connections).map(Some),
            None => Some(None),
        };
        let (rules, shadow_rules) = (convert(rules, "rules"), convert(shadow_rules, "shadow_rules"));
        let scope = cx.stats.scope(stat_prefix.trim_end_matches('.')).scope("rbac");
        Some(RbacFilter {
            engines: Engines::new(rules?, shadow_rules?, &scope, ["", shadow_rules_stat_prefix]),
            delay_deny: field.duration("delay_deny", delay_deny).unwrap_or_default(),
        })
    }
}

impl ReadFilter for RbacFilter {
    fn admit_secured(&self, connection: &ConnectionInfo) -> Admission {
        let none = HashMap::new();
        let said = connection.proxy_protocol.as_ref().and_then(|said| said.metadata.as_ref());
        let facts = Facts {
            connection,
            client: connection.remote.ip(),
            request: None,
            metadata: said.map_or(&none, |metadata| &metadata.filter_metadata),
        };
        let decision = self.engines.decide(facts);
        if decision.allowed {
            return Admission::Continue;
        }
        tracing::debug!(name: "peer_denied", peer = %connection.remote, details = %decision.details(), "refused by RBAC");
        Admission::Close { delay: self.delay_deny, flags: ResponseFlags::NONE }
    }
}
