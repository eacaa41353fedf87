//! Limits of connections by runtime values, and the runtime keys that Envoy has and Portreeve has not.
//!
//! Keys of a configuration's own (of a `runtime_fraction`, say) may be any. Those by which Envoy consults the runtime all over change
//! what happens there: one that nothing reads here is an error.

use crate::config::Field;
use crate::net::{ConnectionLimit, ConnectionLimits};
use crate::proto;
use crate::proto::bootstrap::runtime_layer::LayerSpecifier;
use crate::proto::value::Kind;

/// Keys that only tune Envoy itself.
const TUNING: &[&str] = &["envoy.reloadable_features.", "envoy.restart_features.", "envoy.deprecated_features", "re2."];

/// How keys begin that Envoy consults by itself.
const KEYS_OF_ENVOY: &[&str] = &[
    "circuit_breakers.",
    "envoy.",
    "ext_authz.",
    "fault.http.",
    "health_check.",
    "outlier_detection.",
    "overload.",
    "ratelimit.",
    "tracing.",
    "upstream.",
];

/// How keys begin that are consulted where they count.
const KEYS_IN_USE: &str = "overload.premature_reset_";

/// The limits that all layers set; a later layer overrides those before it.
pub(super) fn connection_limits(proto: &proto::bootstrap::LayeredRuntime, field: Field<'_>) -> ConnectionLimits {
    let proto::bootstrap::LayeredRuntime { layers } = proto;
    let mut limits = ConnectionLimits::default();
    for (i, layer) in layers.iter().enumerate() {
        let list = field.key("layers");
        let field = list.index(i);
        let proto::bootstrap::RuntimeLayer { name: _name, layer_specifier } = layer;
        if let Some(LayerSpecifier::StaticLayer(values)) = layer_specifier {
            read(values, "", field.key("static_layer"), &mut limits);
        }
    }
    limits
}

/// A nested value stands under the keys above it, joined by dots.
fn read(values: &proto::Struct, prefix: &str, field: Field<'_>, limits: &mut ConnectionLimits) {
    for (key, value) in &values.fields {
        let field = field.entry(key);
        let key = format!("{prefix}{key}");
        if let Some(Kind::StructValue(values)) = &value.kind {
            read(values, &format!("{key}."), field, limits);
        } else if let Some(listener) = limited_listener(&key) {
            if let Some(limit) = whole_number(value, field) {
                limits.of_listener.insert(listener.to_owned(), limit);
            }
        } else if key == "overload.global_downstream_max_connections" {
            limits.global = whole_number(value, field).map(ConnectionLimit::new);
        } else if TUNING.iter().any(|known| key.starts_with(known)) {
            field.warning("has no effect: it tunes Envoy itself");
        } else if KEYS_OF_ENVOY.iter().any(|known| key.starts_with(known)) && !key.starts_with(KEYS_IN_USE) {
            field.error(format!("runtime key {key:?} is valid in Envoy, not implemented by Portreeve yet"));
        }
    }
}

fn limited_listener(key: &str) -> Option<&str> {
    key.strip_prefix("envoy.resource_limits.listener.")?.strip_suffix(".connection_limit")
}

/// Numbers may be quoted, as elsewhere in the runtime.
fn whole_number(value: &proto::Value, field: Field<'_>) -> Option<u64> {
    let number = match value.kind.as_ref()? {
        Kind::NumberValue(number) => number.to_string().parse().ok(),
        Kind::StringValue(text) => text.parse().ok(),
        _ => None,
    };
    if number.is_none() {
        field.error("must be a number of connections");
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn limits(values: &[(&str, Kind)]) -> (ConnectionLimits, Vec<String>) {
        let fields = values.iter().map(|(key, kind)| ((*key).to_owned(), proto::Value { kind: Some(kind.clone()) }));
        let layer = proto::bootstrap::RuntimeLayer {
            name: "static".into(),
            layer_specifier: Some(LayerSpecifier::StaticLayer(proto::Struct { fields: fields.collect() })),
        };
        let report = Report::new();
        let layers = proto::bootstrap::LayeredRuntime { layers: vec![layer] };
        let limits = connection_limits(&layers, Field::root(&report));
        (limits, report.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn connection_limits_may_be_nested() {
        let flat = "envoy.resource_limits.listener.web.example.connection_limit";
        let (read, problems) = limits(&[(flat, Kind::NumberValue(100.0))]);
        assert_eq!((read.of_listener["web.example"], problems), (100, vec![]));
        let inner = proto::Value { kind: Some(Kind::StringValue("7".into())) };
        let nested = proto::Struct { fields: [("connection_limit".to_owned(), inner)].into() };
        let (read, problems) = limits(&[("envoy.resource_limits.listener.web", Kind::StructValue(nested))]);
        assert_eq!((read.of_listener["web"], problems), (7, vec![]));
    }

    #[test]
    fn the_limit_of_the_process_may_stand_here() {
        let key = "overload.global_downstream_max_connections";
        let (read, problems) = limits(&[(key, Kind::NumberValue(50_000.0))]);
        assert!(read.global.is_some() && problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn values_that_nothing_reads_are_errors() {
        let (_, problems) = limits(&[("upstream.healthy_panic_threshold", Kind::NumberValue(1.0))]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].ends_with("not implemented by Portreeve yet"), "{problems:?}");
        let limit = "envoy.resource_limits.listener.web.connection_limit";
        let (_, problems) = limits(&[(limit, Kind::NumberValue(-1.0))]);
        assert!(problems[0].ends_with("must be a number of connections"), "{problems:?}");
    }
}
