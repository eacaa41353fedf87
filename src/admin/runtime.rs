//! `/runtime` and `/runtime_modify`: the runtime values, and the layer of them that requests can change.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Process, endpoint::Answer, json as admin_json, query::Query};
use crate::runtime::{Layer, Runtime};

const USAGE: &str = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       \
or send the parameters as form values\nuse an empty value to remove a previously added override\n";

/// Answers `/runtime`: each key with its value, and what each layer says of it.
pub(super) fn show(runtime: &Runtime) -> Answer {
    let layers: Vec<&Layer> = runtime.layers().collect();
    let entries: Map<String, Value> = runtime
        .merged()
        .map(|(key, value)| {
            let of_layer = |layer: &&Layer| layer.values.get(key).map_or("", |value| value.text()).to_owned();
            let layer_values: Vec<String> = layers.iter().map(of_layer).collect();
            (key.to_owned(), json!({ "final_value": value.text(), "layer_values": layer_values }))
        })
        .collect();
    // The layer that there is without a configuration has no name and is not shown.
    let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).filter(|name| !name.is_empty()).collect();
    admin_json::pretty(&json!({ "layers": names, "entries": entries }))
}

/// Answers `/runtime_modify`.
pub(super) fn modify(process: &dyn Process, query: &Query) -> Answer {
    if query.is_empty() {
        return Answer::bad_request(USAGE);
    }
    let snapshot = process.snapshot();
    if snapshot
        .runtime
        .admin_layer()
        .is_none_or(|layer| layer.name.is_empty() && snapshot.proto.layered_runtime.is_none())
    {
        return Answer::text("No admin layer specified").with_status(StatusCode::SERVICE_UNAVAILABLE);
    }
    process.modify_runtime(query.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
    Answer::ok()
}
