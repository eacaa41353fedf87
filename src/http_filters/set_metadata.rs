//! `envoy.filters.http.set_metadata`: writes constants into the dynamic metadata of requests.

use std::sync::Arc;

use crate::{
    config::Field,
    filter::{
        LocalFuture,
        http::{Decoded, HttpFilter, HttpFilterConfig, HttpFilterFactory, Place, Stream, ready},
    },
    http::Request,
    proto::{
        Struct, Value,
        set_metadata::{Config, Metadata},
        value::Kind,
    },
    route::FilterSettingsFactory,
    stats,
};

/// The row of this filter.
pub const FACTORY: HttpFilterFactory = HttpFilterFactory {
    name: "envoy.filters.http.set_metadata",
    type_name: "envoy.extensions.filters.http.set_metadata.v3.Config",
    from_proto: |any, field, cx| {
        let entries = Arc::new(Entries::from_proto(&field.unpack(any)?, field));
        Some(Arc::new(SetMetadata { entries, stats: SetMetadataStats::new(&cx.filter_stats("set_metadata")) }))
    },
};

/// What routes can say of it.
pub const SETTINGS: FilterSettingsFactory = FilterSettingsFactory {
    type_name: FACTORY.type_name,
    from_proto: |any, field, _| Some(Arc::new(Entries::from_proto(&field.unpack(any)?, field))),
};

#[derive(Debug)]
struct SetMetadata {
    entries: Arc<Entries>,
    stats: SetMetadataStats,
}

stats::declare! {
    /// Of the filters of a connection manager, under `http.<stat_prefix>.set_metadata.`
    struct SetMetadataStats {
        /// Values that were not written, because there was one already.
        overwrite_denied: Counter,
    }
}

/// A checked `Config`.
#[derive(Debug)]
struct Entries(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    namespace: String,
    value: Struct,
    /// What is there already is merged with the value; else it stays alone.
    overwrites: bool,
}

impl Entries {
    fn from_proto(proto: &Config, field: Field<'_>) -> Entries {
        let Config { metadata_namespace, value, metadata } = proto;
        let older = value.as_ref().filter(|_| !metadata_namespace.is_empty());
        let older =
            older.map(|value| Entry { namespace: metadata_namespace.clone(), value: value.clone(), overwrites: true });
        let list = field.key("metadata");
        let entries = metadata.iter().enumerate().filter_map(|(index, entry)| {
            let Metadata { metadata_namespace, allow_overwrite, value, typed_value } = entry;
            list.index(index).ignored("typed_value", typed_value, "nothing reads typed metadata");
            Some(Entry { namespace: metadata_namespace.clone(), value: value.clone()?, overwrites: *allow_overwrite })
        });
        Entries(older.into_iter().chain(entries).collect())
    }
}

impl HttpFilterConfig for SetMetadata {
    fn new_stream(self: Arc<Self>, place: Place<'_>) -> Box<dyn HttpFilter> {
        let entries = place.settings().unwrap_or_else(|| Arc::clone(&self.entries));
        Box::new(Writer { entries, filter: self })
    }
}

/// The filter on one stream.
struct Writer {
    filter: Arc<SetMetadata>,
    entries: Arc<Entries>,
}

impl HttpFilter for Writer {
    fn decode_headers<'a>(&'a mut self, _request: &'a mut Request, stream: &'a mut Stream) -> LocalFuture<'a, Decoded> {
        for Entry { namespace, value, overwrites } in &self.entries.0 {
            match stream.info.dynamic_metadata.get_mut(namespace) {
                None => _ = stream.info.dynamic_metadata.insert(namespace.clone(), value.clone()),
                Some(there) if *overwrites => update(there, value),
                Some(_) => self.filter.stats.overwrite_denied.inc(),
            }
        }
        ready(Decoded::Continue)
    }
}

/// Scalars replace, lists grow, structs are merged, and a value of another kind replaces.
fn update(there: &mut Struct, with: &Struct) {
    for (key, value) in &with.fields {
        match (there.fields.get_mut(key).and_then(|there| there.kind.as_mut()), &value.kind) {
            (Some(Kind::ListValue(there)), Some(Kind::ListValue(more))) => {
                there.values.extend(more.values.iter().cloned());
            }
            (Some(Kind::StructValue(there)), Some(Kind::StructValue(more))) => update(there, more),
            (_, kind) => _ = there.fields.insert(key.clone(), Value { kind: kind.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::proto::ListValue;

    fn number(number: f64) -> Value {
        Value { kind: Some(Kind::NumberValue(number)) }
    }

    fn list(numbers: &[f64]) -> Value {
        let values = numbers.iter().copied().map(number).collect();
        Value { kind: Some(Kind::ListValue(ListValue { values })) }
    }

    fn fields(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Struct {
        Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<HashMap<_, _>>() }
    }

    #[test]
    fn metadata_is_merged_by_kinds() {
        let nested = |value| Value { kind: Some(Kind::StructValue(value)) };
        let mut there = fields([("a", number(1.0)), ("l", list(&[1.0])), ("s", nested(fields([("x", number(1.0))])))]);
        update(
            &mut there,
            &fields([("a", number(2.0)), ("l", list(&[2.0])), ("s", nested(fields([("y", number(2.0))])))]),
        );
        let wanted = fields([
            ("a", number(2.0)),
            ("l", list(&[1.0, 2.0])),
            ("s", nested(fields([("x", number(1.0)), ("y", number(2.0))]))),
        ]);
        assert_eq!(there, wanted);
        update(&mut there, &fields([("l", number(3.0))]));
        assert_eq!(there.fields["l"], number(3.0));
    }
}
