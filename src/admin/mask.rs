//! `mask` of `/config_dump`: a protobuf field mask (`google.protobuf.FieldMask`), which goes through an `Any` as if it were not there.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use super::json;
use crate::proto::Any;

/// The fields that stay, each with those that stay of it; none of them: all.
#[derive(Debug, Default)]
struct Mask<'a>(BTreeMap<&'a str, Mask<'a>>);

/// What `mask` leaves of the message; `None` if the message does not have one of the fields that it names.
pub(super) fn apply(mask: &str, mut message: DynamicMessage) -> Option<DynamicMessage> {
    let mut root = Mask::default();
    for path in mask.split(',').map(str::trim).filter(|path| !path.is_empty()) {
        path.split('.').fold(&mut root, |level, field| level.0.entry(field).or_default());
    }
    root.trim(&mut message).then_some(message)
}

impl Mask<'_> {
    fn trim(&self, message: &mut DynamicMessage) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let descriptor = message.descriptor();
        if self.0.keys().any(|name| descriptor.get_field_by_name(name).is_none()) {
            return false;
        }
        let set: Vec<_> = message.fields().map(|(field, _)| field).collect();
        for field in set {
            match self.0.get(field.name()) {
                None => message.clear_field(&field),
                Some(inner) if inner.0.is_empty() => {}
                Some(inner) => {
                    let Value::Message(value) = message.get_field_mut(&field) else { return false };
                    if !inner.trim_packed(value) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn trim_packed(&self, message: &mut DynamicMessage) -> bool {
        if message.descriptor().full_name() != "google.protobuf.Any" {
            return self.trim(message);
        }
        let Ok(packed) = message.transcode_to::<Any>() else { return false };
        let Some(mut inner) = json::unpack(&packed) else { return false };
        if !self.trim(&mut inner) {
            return false;
        }
        message.transcode_from(&json::pack(&inner)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use prost::Name;

    use super::*;
    use crate::proto::{admin::clusters_config_dump::StaticCluster, cluster::Cluster};

    fn masked(mask: &str) -> Option<Vec<u8>> {
        use prost::Message;
        let cluster = Cluster { name: "c".to_owned(), alt_stat_name: "a".to_owned(), ..Cluster::default() };
        let packed = Any { type_url: Cluster::type_url(), value: cluster.encode_to_vec() };
        let element = json::dynamic(&StaticCluster { cluster: Some(packed), ..StaticCluster::default() });
        let left = apply(mask, element)?.transcode_to::<StaticCluster>().unwrap();
        Some(left.cluster.map(|cluster| cluster.value).unwrap_or_default())
    }

    #[test]
    fn a_mask_goes_through_what_is_packed() {
        use prost::Message;
        let named = Cluster { name: "c".to_owned(), ..Cluster::default() };
        assert_eq!(masked("cluster.name"), Some(named.encode_to_vec()));
        assert_eq!(masked("last_updated"), Some(Vec::new()));
        assert_eq!(masked("nope"), None);
        assert_eq!(masked("cluster.nope"), None);
    }
}
