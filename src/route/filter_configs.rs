//! What a level of a route configuration says of HTTP filters (`typed_per_filter_config`): by their names in the filter chain, whether
//! they run, and by which settings. Of what was said on several levels, the most specific counts.
//!
//! The settings of a filter are its own affair: it registers a conversion ([`FilterSettingsFactory`]), and asks for what came of it.

use std::{any::Any, collections::HashMap, fmt, sync::Arc};

use prost::Name;

use crate::{config::Field, proto, stats};

/// What one level says.
#[derive(Debug, Default)]
pub(super) struct FilterConfigs(Vec<FilterConfig>);

/// What one level says of one filter.
struct FilterConfig {
    name: Box<str>,
    switch: Switch,
    settings: Option<FilterSettings>,
}

impl fmt::Debug for FilterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.name, self.switch)
    }
}

/// Settings of a filter, of a type that it knows.
pub type FilterSettings = Arc<dyn Any + Send + Sync>;

/// How a kind of settings is converted.
#[derive(Clone, Copy, Debug)]
pub struct FilterSettingsFactory {
    /// Their message type.
    pub type_name: &'static str,
    /// The conversion; `None` when an error has been reported.
    pub from_proto: fn(&proto::Any, Field<'_>, &Arc<stats::Registry>) -> Option<FilterSettings>,
}

/// The kinds of settings that there are, and where their statistics are made.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) kinds: &'a [FilterSettingsFactory],
    pub(super) stats: &'a Arc<stats::Registry>,
}

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
    "envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit",
    "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
    "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.decompressor.v3.DecompressorPerRoute",
    "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.tap.v3.Tap",
];

impl FilterConfigs {
    pub(super) fn from_proto(
        protos: &HashMap<String, proto::Any>,
        field: Field<'_>,
        known: Known<'_>,
    ) -> FilterConfigs {
        let mut names: Vec<_> = protos.keys().collect();
        names.sort_unstable();
        let configs = names.into_iter().filter_map(|name| known.config(name, &protos[name], field.entry(name)));
        FilterConfigs(configs.collect())
    }

    /// Whether a filter runs, as far as this level says.
    pub(super) fn switch(&self, filter: &str) -> Option<Switch> {
        self.of(filter).map(|config| config.switch)
    }

    /// The settings of a filter on this level.
    pub(super) fn settings(&self, filter: &str) -> Option<&FilterSettings> {
        self.of(filter)?.settings.as_ref()
    }

    fn of(&self, filter: &str) -> Option<&FilterConfig> {
        self.0.iter().find(|config| *config.name == *filter)
    }
}

/// Whether settings that are not understood may be left out.
#[derive(Clone, Copy, PartialEq)]
enum Necessity {
    Required,
    Optional,
}

impl Known<'_> {
    fn config(self, name: &str, any: &proto::Any, field: Field<'_>) -> Option<FilterConfig> {
        let config = |switch, settings| FilterConfig { name: name.into(), switch, settings };
        if !any.type_url.ends_with(&proto::route::FilterConfig::full_name()) {
            let settings = self.settings(any, Necessity::Required, field)?;
            return Some(config(Switch::On, settings));
        }
        let proto::route::FilterConfig { config: inner, is_optional, disabled } = field.unpack(any)?;
        if disabled {
            return Some(config(Switch::Off, None));
        }
        match inner {
            None => {
                field.error(format!("Empty route/virtual host per filter configuration for {name} filter"));
                None
            }
            Some(inner) if inner.type_url.is_empty() => Some(config(Switch::On, None)),
            Some(inner) => {
                let necessity = if is_optional { Necessity::Optional } else { Necessity::Required };
                let settings = self.settings(&inner, necessity, field.key("config"))?;
                Some(config(Switch::On, settings))
            }
        }
    }

    /// Converts the settings of a filter; `Some(None)` if they are left out. To ignore those of a filter that decides who gets in would
    /// be dangerous even where the filter itself is not in the chain now.
    fn settings(self, any: &proto::Any, necessity: Necessity, field: Field<'_>) -> Option<Option<FilterSettings>> {
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
        if let Some(kind) = self.kinds.iter().find(|kind| kind.type_name == type_name) {
            return (kind.from_proto)(any, field, self.stats).map(Some);
        }
        if necessity == Necessity::Optional {
            field.warning("is left out, as is_optional permits: Portreeve has no such filter yet");
        } else if HARMLESS.contains(&type_name) {
            field.warning("has no effect: Portreeve has no such filter yet");
        } else {
            field.error("valid in Envoy, not implemented by Portreeve yet");
            return None;
        }
        Some(None)
    }
}
