//! Labels of hosts (the metadata `envoy.lb`), and what requests ask of them (`metadata_match`).
//!
//! Values are kept as texts that are equal when the values are, so that a list of labels can be looked up as a whole.

use std::fmt::Write;

use crate::proto::{self, value::Kind};

/// Under this name stands in metadata what balancers select by.
pub const LOAD_BALANCING: &str = "envoy.lb";

/// The label that lists what to ask for in place of the others, one after the other.
const FALLBACK_LIST: &str = "fallback_list";

/// Some labels, in the order of their names, each once.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Labels(Vec<(Box<str>, Box<str>)>);

impl Labels {
    /// All fields of a struct.
    #[must_use]
    pub fn from_struct(fields: &proto::Struct) -> Labels {
        let mut labels: Vec<_> =
            fields.fields.iter().map(|(name, value)| (name.as_str().into(), comparable(value))).collect();
        labels.sort_unstable();
        Labels(labels)
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// Those of these names.
    #[must_use]
    pub fn only(&self, names: &[Box<str>]) -> Labels {
        Labels(self.0.iter().filter(|(name, _)| names.contains(name)).cloned().collect())
    }

    /// These and those of `other`, which go before.
    #[must_use]
    pub fn merged(&self, other: &Labels) -> Labels {
        let own = self.0.iter().filter(|(name, _)| other.names().all(|other| other != &**name));
        let mut labels: Vec<_> = own.chain(&other.0).cloned().collect();
        labels.sort_unstable();
        Labels(labels)
    }

    /// Whether a host with these fields has all of the labels. `lists`: one value of a list is enough.
    #[must_use]
    pub fn are_of(&self, host: Option<&proto::Struct>, lists: Lists) -> bool {
        self.0.iter().all(|(name, value)| {
            let own = host.and_then(|host| host.fields.get(&**name));
            own.is_some_and(|own| values(own, lists).iter().any(|own| own == value))
        })
    }

    /// What a host with these fields has of these names; nothing unless it has all. `lists`: once for each value of a list.
    #[must_use]
    pub fn of_host(host: &proto::Struct, names: &[Box<str>], lists: Lists) -> Vec<Labels> {
        let mut all = vec![Labels::default()];
        for name in names {
            let Some(value) = host.fields.get(&**name) else { return Vec::new() };
            let values = values(value, lists);
            let with = |labels: &Labels, value: &str| {
                let mut labels = labels.clone();
                labels.0.push((name.clone(), value.into()));
                labels
            };
            all = all.iter().flat_map(|labels| values.iter().map(move |value| with(labels, value))).collect();
        }
        all
    }
}

/// What a list as the value of a label means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lists {
    /// The list itself.
    AsOne,
    /// Any of its values.
    AsAny,
}

fn values(value: &proto::Value, lists: Lists) -> Vec<Box<str>> {
    match (&value.kind, lists) {
        (Some(Kind::ListValue(list)), Lists::AsAny) => list.values.iter().map(comparable).collect(),
        _ => vec![comparable(value)],
    }
}

/// What labels the host of a request must have (`metadata_match`).
#[derive(Clone, Debug)]
pub struct MetadataMatch {
    labels: Labels,
    overrides: Option<Vec<Labels>>,
    alternatives: Option<Vec<Labels>>,
}

impl MetadataMatch {
    /// Takes what the message says to balancers; None if it says nothing to them.
    #[must_use]
    pub fn from_proto(metadata: Option<&proto::core::Metadata>) -> Option<MetadataMatch> {
        metadata?.filter_metadata.get(LOAD_BALANCING).map(MetadataMatch::from_struct)
    }

    fn from_struct(fields: &proto::Struct) -> MetadataMatch {
        let list = fields.fields.get(FALLBACK_LIST).map(|value| match &value.kind {
            Some(Kind::ListValue(list)) => list.values.iter().map(struct_labels).collect(),
            _ => Vec::new(),
        });
        MetadataMatch::new(Labels::from_struct(fields), list)
    }

    fn new(labels: Labels, overrides: Option<Vec<Labels>>) -> MetadataMatch {
        let alternatives = overrides.as_ref().map(|overrides| {
            let base = Labels(labels.0.iter().filter(|(name, _)| &**name != FALLBACK_LIST).cloned().collect());
            let merged = overrides.iter().map(|labels| base.merged(labels)).collect();
            if overrides.is_empty() { vec![base] } else { merged }
        });
        MetadataMatch { labels, overrides, alternatives }
    }

    /// This and what `other` says, which goes before.
    #[must_use]
    pub fn merged(&self, other: &MetadataMatch) -> MetadataMatch {
        let overrides = other.overrides.as_ref().or(self.overrides.as_ref());
        MetadataMatch::new(self.labels.merged(&other.labels), overrides.cloned())
    }

    /// What both say, where either says anything; `upper` goes before.
    #[must_use]
    pub fn layered(lower: Option<&MetadataMatch>, upper: Option<MetadataMatch>) -> Option<MetadataMatch> {
        match (lower, upper) {
            (Some(lower), Some(upper)) => Some(lower.merged(&upper)),
            (lower, None) => lower.cloned(),
            (None, upper) => upper,
        }
    }

    /// The same with what filters have found out of the request, which goes before; None if they have found nothing.
    #[must_use]
    pub fn with_dynamic(configured: Option<&MetadataMatch>, found: Option<&proto::Struct>) -> Option<MetadataMatch> {
        MetadataMatch::layered(configured, Some(MetadataMatch::from_struct(found?)))
    }

    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// What is asked for one after the other by the label `fallback_list`, where it means that.
    #[must_use]
    pub fn alternatives(&self) -> Option<&[Labels]> {
        self.alternatives.as_deref()
    }
}

fn struct_labels(value: &proto::Value) -> Labels {
    match &value.kind {
        Some(Kind::StructValue(fields)) => Labels::from_struct(fields),
        _ => Labels::default(),
    }
}

fn comparable(value: &proto::Value) -> Box<str> {
    let mut text = String::new();
    write_comparable(value, &mut text);
    text.into()
}

/// Each value begins with what it is, and says where it ends.
fn write_comparable(value: &proto::Value, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = match &value.kind {
        None | Some(Kind::NullValue(_)) => write!(text, "null;"),
        Some(Kind::NumberValue(number)) => write!(text, "number {number};"),
        Some(Kind::StringValue(value)) => write!(text, "string {} {value};", value.len()),
        Some(Kind::BoolValue(value)) => write!(text, "{value};"),
        Some(Kind::StructValue(fields)) => {
            let mut fields: Vec<_> = fields.fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (name, value) in fields {
                let _ = write!(text, "{} {name} ", name.len());
                write_comparable(value, text);
            }
            write!(text, "}}")
        }
        Some(Kind::ListValue(list)) => {
            text.push('[');
            list.values.iter().for_each(|value| write_comparable(value, text));
            write!(text, "]")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Report, Source, load};

    fn fields(yaml: &str) -> proto::Struct {
        load(&Source::new("x.yaml", yaml), &Report::new()).unwrap()
    }

    #[test]
    fn hosts_have_labels() {
        let host = fields("{stage: prod, version: [1, 2], canary: true}");
        for (asked, of_one, of_any) in [
            ("{stage: prod}", true, true),
            ("{stage: prod, canary: true}", true, true),
            ("{stage: test}", false, false),
            ("{canary: 'true'}", false, false),
            ("{version: 2}", false, true),
            ("{version: [1, 2]}", true, false),
            ("{zone: a}", false, false),
            ("{}", true, true),
        ] {
            let labels = Labels::from_struct(&fields(asked));
            assert_eq!(labels.are_of(Some(&host), Lists::AsOne), of_one, "{asked}");
            assert_eq!(labels.are_of(Some(&host), Lists::AsAny), of_any, "{asked}");
        }
        let names = ["stage".into(), "version".into()];
        assert_eq!(Labels::of_host(&host, &names, Lists::AsOne).len(), 1);
        let each = Labels::of_host(&host, &names, Lists::AsAny);
        assert_eq!(each[1], Labels::from_struct(&fields("{version: 2, stage: prod}")));
        assert!(Labels::of_host(&host, &["zone".into()], Lists::AsAny).is_empty());
    }

    #[test]
    fn what_is_said_later_goes_before() {
        let of = |yaml: &str| MetadataMatch::from_struct(&fields(yaml));
        let labels = |yaml: &str| Labels::from_struct(&fields(yaml));
        let merged = of("{a: 1, b: 2}").merged(&of("{b: 3, c: 4}"));
        assert_eq!(*merged.labels(), labels("{a: 1, b: 3, c: 4}"));
        let listed = of("{a: 1, fallback_list: [{b: 2}, {a: 5}]}");
        assert_eq!(listed.alternatives().unwrap(), [labels("{a: 1, b: 2}"), labels("{a: 5}")]);
        let merged = listed.merged(&of("{a: 7}"));
        assert_eq!(merged.alternatives().unwrap(), [labels("{a: 7, b: 2}"), labels("{a: 5}")]);
    }
}
