//! Runtime values (`layered_runtime`): what percentages and weights that name a runtime key are now.
//!
//! Layers lie on each other, and the last one that has a key says its value. The result is immutable: a change makes another
//! [`Runtime`], which workers get with their snapshot, so that reading a value on the path of a request takes no lock.

mod disk;
mod flag;
mod percent;
mod stats;
mod value;

use std::{collections::BTreeMap, path::Path};

pub use flag::{RuntimeFlag, RuntimeNumber};
pub use percent::{FractionalPercent, RuntimeFraction};
pub use stats::RuntimeStats;
pub use value::Value;

use crate::{
    config::Field,
    proto::{self, bootstrap::runtime_layer::LayerSpecifier},
};
use disk::DiskLayer;

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
    /// Its values by key.
    pub values: BTreeMap<String, Value>,
    source: Source,
    /// It could not be read.
    failed: bool,
}

/// Where the values of a layer come from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    Document,
    Admin,
    Directory(DiskLayer),
    /// The same, where there is none at present.
    Missing(DiskLayer),
}

impl Runtime {
    /// Reads all layers. A configuration without any has one that the admin interface can change, as Envoy's.
    #[must_use]
    pub fn from_proto(proto: &proto::bootstrap::LayeredRuntime, service_cluster: &str, field: Field<'_>) -> Runtime {
        let proto::bootstrap::LayeredRuntime { layers } = proto;
        let list = field.key("layers");
        let mut runtime = Runtime::default();
        for (i, layer) in layers.iter().enumerate() {
            let field = list.index(i);
            let layer = Layer::from_proto(layer, service_cluster, field);
            if runtime.layers.iter().any(|other| other.name == layer.name) {
                field.key("name").error(format!("Duplicate layer name: {}", layer.name));
            }
            if layer.source == Source::Admin && runtime.admin_layer().is_some() {
                field.key("admin_layer").error("there is an admin layer already");
            }
            runtime.layers.push(layer);
        }
        if runtime.layers.is_empty() {
            runtime.layers.push(Layer::new("", Source::Admin));
        }
        runtime.merge();
        runtime
    }

    /// The layers that there are, the lowest first.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|layer| !layer.failed && !matches!(layer.source, Source::Missing(_)))
    }

    /// The links whose change means that directories have other values.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        self.layers.iter().filter_map(|layer| match &layer.source {
            Source::Directory(disk) | Source::Missing(disk) => Some(disk.root.as_path()),
            Source::Document | Source::Admin => None,
        })
    }

    /// This runtime with what directories hold now; `None` if that is the same.
    #[must_use]
    pub fn read_again(&self) -> Option<Runtime> {
        let mut runtime = self.clone();
        for layer in &mut runtime.layers {
            layer.read_again();
        }
        let same = runtime.layers.iter().zip(&self.layers).all(|(now, before)| {
            now.values == before.values && now.source == before.source && now.failed == before.failed
        });
        runtime.merge();
        (!same).then_some(runtime)
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.merged.get(key)
    }

    /// The value of a key that a setting names; an empty one names nothing.
    fn changed(&self, key: &str) -> Option<&Value> {
        if key.is_empty() { None } else { self.get(key) }
    }

    /// What the keys of all layers are in the end.
    pub fn merged(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.merged.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether the admin interface may change values.
    #[must_use]
    pub fn admin_layer(&self) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.source == Source::Admin)
    }

    /// This runtime with other values in its admin layer; an empty text takes the key back. None if there is no such layer.
    #[must_use]
    pub fn modified<'a>(&self, changes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Runtime> {
        let mut runtime = self.clone();
        let layer = runtime.layers.iter_mut().find(|layer| layer.source == Source::Admin)?;
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
            && let Some(layer) = self.layers.iter_mut().find(|layer| layer.source == Source::Admin)
        {
            layer.values = values;
            self.merge();
        }
        self
    }

    fn merge(&mut self) {
        let values = self.layers().flat_map(|layer| &layer.values);
        let merged = values.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.merged = merged;
    }
}

impl Layer {
    fn new(name: &str, source: Source) -> Layer {
        Layer { name: name.to_owned(), values: BTreeMap::new(), source, failed: false }
    }

    fn from_proto(proto: &proto::bootstrap::RuntimeLayer, service_cluster: &str, field: Field<'_>) -> Layer {
        let proto::bootstrap::RuntimeLayer { name, layer_specifier } = proto;
        let mut layer = Layer::new(name, Source::Document);
        match layer_specifier {
            Some(LayerSpecifier::StaticLayer(values)) => {
                value::read_struct(values, "", field.key("static_layer"), &mut layer.values);
            }
            Some(LayerSpecifier::AdminLayer(proto::bootstrap::runtime_layer::AdminLayer {})) => {
                layer.source = Source::Admin;
            }
            Some(LayerSpecifier::DiskLayer(disk)) => {
                let disk = DiskLayer::from_proto(disk, service_cluster, field.key("disk_layer"));
                layer.source = Source::Missing(disk);
                layer.read_again();
            }
            Some(LayerSpecifier::RtdsLayer(rtds)) => field.unsupported("rtds_layer", &Some(rtds)),
            None => field.error("one of static_layer, disk_layer, admin_layer and rtds_layer is required"),
        }
        layer
    }

    fn is_directory(&self) -> bool {
        matches!(self.source, Source::Directory(_))
    }

    /// Takes what its directory holds now, if it has one. One that cannot be read is left out.
    fn read_again(&mut self) {
        let (Source::Directory(disk) | Source::Missing(disk)) = &self.source else { return };
        let (values, source) = match disk.read() {
            None => (Ok(BTreeMap::new()), Source::Missing(disk.clone())),
            Some(values) => (values, Source::Directory(disk.clone())),
        };
        self.failed = values.is_err();
        self.source = source;
        self.values = values.unwrap_or_else(|error| {
            tracing::warn!(layer = self.name, %error, "runtime values cannot be read");
            BTreeMap::new()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Report, Source, load};

    fn runtime(yaml: &str) -> (Runtime, Vec<String>) {
        let report = Report::new();
        let proto = load(&Source::new("x.yaml", yaml), &report).unwrap_or_default();
        let runtime = Runtime::from_proto(&proto, "web", Field::root(&report));
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
            "layers: [{name: a, admin_layer: {}}, {name: b, admin_layer: {}}, {name: a, static_layer: {x: null}}, {name: d, disk_layer: {symlink_root: /none/link}}]",
        );
        assert_eq!(
            problems,
            [
                "layers[1].admin_layer: there is an admin layer already",
                "layers[2].static_layer[\"x\"]: is no value of the runtime",
                "layers[2].name: Duplicate layer name: a",
                "layers[3].disk_layer.symlink_root: cannot be watched: there is no directory of \"/none/link\"",
            ]
        );
    }

    #[test]
    fn directories_are_layers() {
        let directory = tempfile::TempDir::new().unwrap();
        let root = directory.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("v1/all/a/b", "# a comment\n5\n");
        write("v1/all/share", "numerator: 3\ndenominator: TEN_THOUSAND\n");
        write("v1/own/web/flag", "false");
        write("v2/all/a/b", "6");
        let link = root.join("current");
        std::os::unix::fs::symlink(root.join("v1"), &link).unwrap();
        let (runtime, problems) = runtime(
            &"
layers:
- {name: base, static_layer: {flag: true, other: 1}}
- {name: all, disk_layer: {symlink_root: LINK, subdirectory: all}}
- {name: own, disk_layer: {symlink_root: LINK, subdirectory: own, append_service_cluster: true}}
- {name: none, disk_layer: {symlink_root: LINK, subdirectory: none}}
"
            .replace("LINK", &link.to_string_lossy()),
        );
        assert_eq!(problems, [""; 0]);
        assert_eq!(runtime.layers().map(|layer| layer.name.as_str()).collect::<Vec<_>>(), ["base", "all", "own"]);
        assert_eq!(runtime.get("a.b").and_then(Value::integer), Some(5));
        assert_eq!(runtime.get("share").and_then(Value::percent), Some(FractionalPercent::new(3, 10_000)));
        assert_eq!(runtime.get("flag").and_then(Value::boolean), Some(false));
        assert!(runtime.read_again().is_none());

        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(root.join("v2"), &link).unwrap();
        let swapped = runtime.read_again().unwrap();
        assert_eq!(swapped.get("a.b").and_then(Value::integer), Some(6));
        assert_eq!(swapped.get("flag").and_then(Value::boolean), Some(true));
        assert_eq!(swapped.get("share"), None);
    }

    #[test]
    fn without_layers_there_is_one_to_change() {
        let (runtime, _) = runtime("layers: []");
        assert!(runtime.modified([("a", "1")]).is_some());
        let (fixed, _) = self::runtime("layers: [{name: a, static_layer: {}}]");
        assert!(fixed.modified([("a", "1")]).is_none());
    }
}
