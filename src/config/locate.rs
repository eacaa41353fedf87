//! Finds the place that a path means in a document.
//!
//! Paths are those of messages: proto names, lists with indexes. Documents may write fields in camelCase, one element for a
//! list, and the content of a `TypedStruct` one level down; a path may also end at a field that the document does not have.

use std::ops::Range;

use super::field::Segment;
use super::position;
use super::tree::{Entry, Node, Value};

/// The bytes of `text` that stand for `path` in the tree `root` of it: those of the value or, with `on_key` and for what goes
/// over many lines, of its name. What the document does not have is found where it should stand.
pub(super) fn locate(text: &str, root: &Node<'_>, path: &[Segment], on_key: bool) -> Range<usize> {
    let mut place = Place { node: root, key: None };
    // Where the innermost value that knows its place begins.
    let mut nearest = root.at.unwrap_or(0)..root.at.unwrap_or(0);
    for segment in path {
        let Some(next) = step(place.node, segment) else {
            return place.key.map_or(nearest, key_range);
        };
        place = Place { node: next.node, key: next.key.or(place.key.filter(|_| next.node.at.is_none())) };
        if let Some(at) = place.node.at {
            nearest = at..at;
        } else if let Some(key) = place.key {
            nearest = key_range(key);
        }
    }
    let by_name = on_key || matches!(place.node.value, Value::List(_) | Value::Map(_));
    match place.key {
        Some(key) if by_name => key_range(key),
        _ => place.node.at.map_or(nearest, |at| value_range(text, place.node, at)),
    }
}

/// A value and the entry that holds it, if it stands in a mapping.
struct Place<'n, 't> {
    node: &'n Node<'t>,
    key: Option<&'n Entry<'t>>,
}

fn step<'n, 't>(node: &'n Node<'t>, segment: &Segment) -> Option<Place<'n, 't>> {
    match (segment, &node.value) {
        (Segment::Index(index), Value::List(items)) => items.get(*index).map(|node| Place { node, key: None }),
        (Segment::Index(0), _) => Some(Place { node, key: None }),
        (Segment::Key(name), Value::Map(entries)) => find(entries, name)
            .or_else(|| find(entries, &camel_case(name)))
            .or_else(|| in_typed_struct(entries, segment)),
        (Segment::Entry(key), Value::Map(entries)) => find(entries, key),
        _ => None,
    }
}

/// The last entry of that name: where a name is given twice, the second is the wrong one.
fn find<'n, 't>(entries: &'n [Entry<'t>], name: &str) -> Option<Place<'n, 't>> {
    let entry = entries.iter().rfind(|entry| entry.key == name)?;
    Some(Place { node: &entry.node, key: Some(entry) })
}

fn in_typed_struct<'n, 't>(entries: &'n [Entry<'t>], segment: &Segment) -> Option<Place<'n, 't>> {
    let r#type = entries.iter().find(|entry| entry.key == "@type")?;
    let Value::Text(r#type) = &r#type.node.value else { return None };
    if !r#type.text.ends_with(".TypedStruct") {
        return None;
    }
    step(find(entries, "value")?.node, segment)
}

/// The JSON name of a proto field.
fn camel_case(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut after_underscore = false;
    for character in name.chars() {
        match character {
            '_' => after_underscore = true,
            _ if after_underscore => {
                camel.push(character.to_ascii_uppercase());
                after_underscore = false;
            }
            _ => camel.push(character),
        }
    }
    camel
}

fn key_range(entry: &Entry<'_>) -> Range<usize> {
    let start = entry.key_at.or(entry.node.at).unwrap_or(0);
    start..start + entry.key_at.map_or(0, |_| entry.key.len())
}

fn value_range(text: &str, node: &Node<'_>, at: usize) -> Range<usize> {
    let length = match &node.value {
        Value::Text(value) if text[at..].starts_with(value.text.as_ref()) => value.text.len(),
        Value::Text(value) if text[at..].get(1..).is_some_and(|rest| rest.starts_with(value.text.as_ref())) => {
            value.text.len() + 2
        }
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) => position::plain_scalar_at(text, at).len(),
        _ => 0,
    };
    at..at + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree;

    const DOCUMENT: &str = "\
static_resources:
  listeners:
  - name: first
    filterChains:
      filters:
      - typed_config:
          \"@type\": type.googleapis.com/xds.type.v3.TypedStruct
          value: {stat_prefix: &prefix \"x y\", codecs: [1, 2.5]}
    metadata: {a.b: *prefix}
    address:
      port: 80
";

    fn found(path: &[Segment], on_key: bool) -> &'static str {
        let root = tree::parse("test.yaml", DOCUMENT).expect("valid YAML");
        &DOCUMENT[locate(DOCUMENT, &root, path, on_key)]
    }

    fn path(text: &str) -> Vec<Segment> {
        let listener = ["static_resources", "listeners", "0"];
        let rest = text.split('/').filter(|part| !part.is_empty());
        let segment = |part: &str| part.parse().map_or_else(|_| Segment::Key(part.to_owned()), Segment::Index);
        listener.into_iter().chain(rest).map(segment).collect()
    }

    #[test]
    fn values_and_names_are_found() {
        assert_eq!(found(&path("name"), false), "first");
        assert_eq!(found(&path("name"), true), "name");
        assert_eq!(found(&path("address/port"), false), "80");
        assert_eq!(found(&path("address"), false), "address");
    }

    #[test]
    fn spellings_of_the_document_do_not_matter() {
        assert_eq!(found(&path("filter_chains/0/filters/0/typed_config"), true), "typed_config");
        assert_eq!(found(&path("filter_chains/0/filters/0/typed_config/stat_prefix"), false), "\"x y\"");
        assert_eq!(found(&path("filter_chains/0/filters/0/typed_config/codecs"), true), "codecs");
    }

    #[test]
    fn what_is_missing_is_found_where_it_should_stand() {
        assert_eq!(found(&path("address/missing/deeper"), false), "address");
        assert_eq!(found(&path("filter_chains/0/filters/0/typed_config/missing"), false), "typed_config");
        let mut entry = path("metadata");
        entry.push(Segment::Entry("a.b".to_owned()));
        assert_eq!(found(&entry, true), "a.b");
        assert_eq!(found(&entry, false), "\"x y\"", "where the anchor is");
    }
}
