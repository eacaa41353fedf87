//! What a level of a route configuration says of HTTP filters (`typed_per_filter_config`): by their names in the filter chain, whether
//! they run. Of what was said on several levels, the most specific counts.

use std::collections::HashMap;

use prost::Name;

use crate::{config::Field, proto};

/// What one level says.
#[derive(Debug, Default)]
pub(super) struct FilterConfigs(Vec<(Box<str>, Switch)>);

/// Whether a filter runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Switch {
    /// It does, also if the filter chain has it disabled.
    On,
    /// It does not.
    Off,
}

/// Settings of filters that decide neither who gets in nor where a request goes.
const HARMLESS: [&str; 8] = [
    "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
    "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.decompressor.v3.DecompressorPerRoute",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.tap.v3.Tap",
];

impl FilterConfigs {
    pub(super) fn from_proto(protos: &HashMap<String, proto::Any>, field: Field<'_>) -> FilterConfigs {
        let mut names: Vec<_> = protos.keys().collect();
        names.sort_unstable();
        let switches = names.into_iter().filter_map(|name| {
            let switch = switch(name, &protos[name], field.entry(name))?;
            Some((name.as_str().into(), switch))
        });
        FilterConfigs(switches.collect())
    }

    /// Whether a filter runs, as far as this level says.
    pub(super) fn switch(&self, filter: &str) -> Option<Switch> {
        self.0.iter().find(|(name, _)| **name == *filter).map(|(_, switch)| *switch)
    }
}

fn switch(name: &str, any: &proto::Any, field: Field<'_>) -> Option<Switch> {
    if !any.type_url.ends_with(&proto::route::FilterConfig::full_name()) {
        return settings(any, Necessity::Required, field);
    }
    let proto::route::FilterConfig { config, is_optional, disabled } = field.unpack(any)?;
    if disabled {
        return Some(Switch::Off);
    }
    match config {
        None => {
            field.error(format!("Empty route/virtual host per filter configuration for {name} filter"));
            None
        }
        Some(config) if config.type_url.is_empty() => Some(Switch::On),
        Some(config) => {
            let necessity = if is_optional { Necessity::Optional } else { Necessity::Required };
            settings(&config, necessity, field.key("config"))
        }
    }
}

/// Whether settings that are not understood may be left out.
#[derive(Clone, Copy, PartialEq)]
enum Necessity {
    Required,
    Optional,
}

/// Reports the settings of a filter: no filter here has any by route. To ignore those of a filter that decides who gets in would be
/// dangerous even where the filter itself is not in the chain now.
fn settings(any: &proto::Any, necessity: Necessity, field: Field<'_>) -> Option<Switch> {
    let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
    if necessity == Necessity::Optional {
        field.warning("is left out, as is_optional permits: no filter here has settings by route yet");
    } else if HARMLESS.contains(&type_name) {
        field.warning("has no effect: no filter here has settings by route yet");
    } else {
        field.error("valid in Envoy, not implemented by Portreeve yet");
        return None;
    }
    Some(Switch::On)
}
