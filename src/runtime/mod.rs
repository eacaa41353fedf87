//! Runtime values (`layered_runtime`): what percentages and weights that name a runtime key are now.
//!
//! Layers lie on each other, and the last one that has a key says its value. The result is immutable: a change makes another
//! [`Runtime`], which workers get with their snapshot, so that reading a value on the path of a request takes no lock.

mod percent;
mod value;

use std::collections::BTreeMap;

pub use percent::{FractionalPercent, RuntimeFraction};
pub use value::Value;

use crate::{
    config::Field,
    proto::{self, bootstrap::runtime_layer::LayerSpecifier},
};

/// All runtime values, by layer.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    layers: Vec<Layer>,
    /// What holds of all layers.
    merged: BTreeMap<String, Value>,
}

/// One layer of the runtime.
#[derive(Clone, Debug)]
pub struct Layer {
    /// As the configuration calls it.
    pub name: String,
    /// Whether it is the one that the admin interface changes.
    pub is_admin: bool,
    /// Its values by key.
    pub values: BTreeMap<String, Value>,
}

impl Runtime {
    /// Reads all layers. A configuration without any has one that the admin interface can change, as Envoy's.
    #[must_use]
    pub fn from_proto(proto: &proto::bootstrap::LayeredRuntime, field: Field<'_>) -> Runtime {
        let proto::bootstrap::LayeredRuntime { layers } = proto;
        let list = field.key("layers");
        let mut runtime = Runtime::default();
        for (i, layer) in layers.iter().enumerate() {
            let field = list.index(i);
            let layer = Layer::from_proto(layer, field);
            if runtime.layers.iter().any(|other| other.name == layer.name) {
                field.key("name").error(format!("Duplicate layer name: {}", layer.name));
            }
            if layer.is_admin && runtime.admin_layer().is_some() {
                field.key("admin_layer").error("there is an admin layer already");
            }
            runtime.layers.push(layer);
        }
        if runtime.layers.is_empty() {
            runtime.layers.push(Layer { name: String::new(), is_admin: true, values: BTreeMap::new() });
        }
        runtime.merge();
        runtime
    }

    /// The layers, the lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.merged.get(key)
    }

    /// What the keys of all layers are in the end.
    pub fn merged(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.merged.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether the admin interface may change values.
    #[must_use]
    pub fn admin_layer(&self) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.is_admin)
    }

    /// This runtime with other values in its admin layer; an empty text takes the key back. None if there is no such layer.
    #[must_use]
    pub fn modified<'a>(&self, changes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Runtime> {
        let mut runtime = self.clone();
        let layer = runtime.layers.iter_mut().find(|layer| layer.is_admin)?;
        for (key, text) in changes {
            if text.is_empty() {
                layer.values.remove(key);
            } else {
                layer.values.insert(key.to_owned(), Value::from_text(text));
            }
        }
        runtime.merge();
        Some(runtime)
    }

    /// The values that the admin interface has set, for a runtime that takes this one's place.
    #[must_use]
    pub fn with_admin_values_of(mut self, before: &Runtime) -> Runtime {
        if let Some(values) = before.admin_layer().map(|layer| layer.values.clone())
            && let Some(layer) = self.layers.iter_mut().find(|layer| layer.is_admin)
        {
            layer.values = values;
            self.merge();
        }
        self
    }

    fn merge(&mut self) {
        let values = self.layers.iter().flat_map(|layer| &layer.values);
        self.merged = values.map(|(key, value)| (key.clone(), value.clone())).collect();
    }
}

impl Layer {
    fn from_proto(proto: &proto::bootstrap::RuntimeLayer, field: Field<'_>) -> Layer {
        let proto::bootstrap::RuntimeLayer { name, layer_specifier } = proto;
        let mut layer = Layer { name: name.clone(), is_admin: false, values: BTreeMap::new() };
        match layer_specifier {
            Some(LayerSpecifier::StaticLayer(values)) => value::read_struct(values, "", &mut layer.values),
            Some(LayerSpecifier::AdminLayer(proto::bootstrap::runtime_layer::AdminLayer {})) => layer.is_admin = true,
            Some(LayerSpecifier::DiskLayer(disk)) => field.unsupported("disk_layer", &Some(disk)),
            Some(LayerSpecifier::RtdsLayer(rtds)) => field.unsupported("rtds_layer", &Some(rtds)),
            None => field.error("one of static_layer, disk_layer, admin_layer and rtds_layer is required"),
        }
        layer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Report, Source, load};

    fn runtime(yaml: &str) -> (Runtime, Vec<String>) {
        let report = Report::new();
        let proto = load(&Source::new("x.yaml", yaml), &report).unwrap_or_default();
        let runtime = Runtime::from_proto(&proto, Field::root(&report));
        (runtime, report.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_last_layer_with_a_key_says_its_value() {
        let (runtime, problems) = runtime(
            "
layers:
- {name: base, static_layer: {a: {b: 5, c: text}, 'x.y': 7, share: {numerator: 1, denominator: TEN_THOUSAND}}}
- {name: over, static_layer: {a: {b: 6}, flag: true}}
- {name: admin, admin_layer: {}}
",
        );
        assert_eq!(problems, [""; 0]);
        assert_eq!(runtime.get("a.b").and_then(Value::integer), Some(6));
        assert_eq!(runtime.get("a.c").map(Value::text), Some("text"));
        assert_eq!(runtime.get("x.y").and_then(Value::integer), Some(7));
        assert_eq!(runtime.get("a"), None);
        let share = FractionalPercent::new(1, 10_000);
        assert_eq!(runtime.get("share").and_then(Value::percent), Some(share));
        let modified = runtime.modified([("a.b", "9"), ("flag", "false")]).unwrap();
        assert_eq!(modified.get("a.b").and_then(Value::integer), Some(9));
        let back = modified.modified([("a.b", "")]).unwrap();
        assert_eq!(back.get("a.b").and_then(Value::integer), Some(6));
        assert_eq!(runtime.with_admin_values_of(&modified).get("a.b").and_then(Value::integer), Some(9));
    }

    #[test]
    fn layers_are_checked() {
        let (_, problems) = runtime(
            "layers: [{name: a, admin_layer: {}}, {name: b, admin_layer: {}}, {name: a, static_layer: {}}, {name: d, disk_layer: {}}]",
        );
        assert_eq!(
            problems,
            [
                "layers[1].admin_layer: there is an admin layer already",
                "layers[2].name: Duplicate layer name: a",
                "layers[3].disk_layer: valid in Envoy, not implemented by Portreeve yet",
            ]
        );
    }

    #[test]
    fn without_layers_there_is_one_to_change() {
        let (runtime, _) = runtime("layers: []");
        assert!(runtime.modified([("a", "1")]).is_some());
        let (fixed, _) = self::runtime("layers: [{name: a, static_layer: {}}]");
        assert!(fixed.modified([("a", "1")]).is_none());
    }
}
