//! From a document to the bytes of a message, led by the message's descriptor.
//!
//! This is protobuf's JSON mapping with the leniency of the reader that Envoy uses: fields in either spelling, one element
//! where a list is due, `null` for unset. Unlike that reader it goes on after an error, so that all of them are found, and
//! takes a field given twice for a mistake.

mod legacy;
mod scalar;
mod suggest;
mod well_known;
mod wire;

use std::borrow::Cow;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use self::scalar::{Presence, Slot, unexpected};
use self::wire::put_bytes;
use super::field::Field;
use super::tree::{Entry, Node, Text, Value};

/// Writes `root`, the tree of the document `text`, as a `message` and reports all that does not fit.
pub(super) fn write(message: &MessageDescriptor, root: &Node<'_>, text: &str, field: Field<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    Walker { text }.message(message, root, field, &mut out);
    out
}

struct Walker<'t> {
    text: &'t str,
}

/// The fields of a message as a mapping has them.
#[derive(Clone, Copy)]
struct Content<'n, 't> {
    entries: &'n [Entry<'t>],
    /// It is that of an `Any`, where `@type` names the message.
    typed: bool,
}

impl Walker<'_> {
    fn message(&self, descriptor: &MessageDescriptor, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        if descriptor.full_name().starts_with("google.protobuf.") && self.well_known(descriptor, node, field, out) {
            return;
        }
        match &node.value {
            Value::Map(entries) => self.fields(descriptor, Content { entries, typed: false }, field, out),
            Value::Null => {}
            value => {
                let expected = format!("a mapping ({})", descriptor.full_name());
                refuse(field, &unexpected(&expected, value));
            }
        }
    }

    fn fields(&self, descriptor: &MessageDescriptor, content: Content<'_, '_>, field: Field<'_>, out: &mut Vec<u8>) {
        let Content { entries, typed } = content;
        let mut seen: Vec<FieldDescriptor> = Vec::new();
        for entry in entries {
            if typed && entry.key == "@type" {
                continue;
            }
            let Some(known) = find_or_report(descriptor, entries, entry, field) else { continue };
            if is_unset(&known, &entry.node.value) {
                continue;
            }
            if let Some(conflict) = conflict(&known, &seen) {
                field.key(&entry.key).error_on_key(conflict, entry.key_at);
                continue;
            }
            self.field(&known, &entry.node, field.key(known.name()), out);
            seen.push(known);
        }
        if !seen.iter().any(|field| field.name() == "typed_config") {
            default_extension(descriptor, entries, &seen, field, out);
        }
    }

    fn field(&self, known: &FieldDescriptor, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        if known.is_map() {
            return self.map(known, node, field, out);
        }
        let kind = &known.kind();
        if !known.is_list() {
            let presence = if known.supports_presence() { Presence::Explicit } else { Presence::Implicit };
            return self.single(Slot { number: known.number(), kind, presence }, node, field, out);
        }
        let slot = Slot { number: known.number(), kind, presence: Presence::Explicit };
        let Value::List(items) = &node.value else {
            return self.single(slot, node, field.index(0), out);
        };
        for (position, item) in items.iter().enumerate() {
            let place = field.index(position);
            if is_unset(known, &item.value) {
                place.warning("has no effect: an empty element of a list is left out");
            } else {
                self.single(slot, item, place, out);
            }
        }
    }

    fn map(&self, known: &FieldDescriptor, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        let Value::Map(entries) = &node.value else {
            return refuse(field, &unexpected("a mapping", &node.value));
        };
        let Kind::Message(pair) = known.kind() else { unreachable!("invariant: a map's entries are messages") };
        let (key_kind, value_kind) = (pair.map_entry_key_field().kind(), pair.map_entry_value_field().kind());
        for (position, entry) in entries.iter().enumerate() {
            let place = field.entry(&entry.key);
            if entries[..position].iter().any(|earlier| earlier.key == entry.key) {
                place.error_on_key("is given twice".to_owned(), entry.key_at);
                continue;
            }
            let key = Value::Text(Text { text: Cow::Borrowed(&*entry.key), plain: false });
            let key = Node { value: key, at: entry.key_at };
            let mut bytes = Vec::new();
            self.single(Slot { number: 1, kind: &key_kind, presence: Presence::Explicit }, &key, place, &mut bytes);
            let slot = Slot { number: 2, kind: &value_kind, presence: Presence::Explicit };
            self.single(slot, &entry.node, place, &mut bytes);
            put_bytes(known.number(), &bytes, out);
        }
    }

    fn single(&self, slot: Slot<'_>, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        let Kind::Message(descriptor) = slot.kind else {
            return self.scalar(slot, node, field, out);
        };
        let mut bytes = Vec::new();
        self.message(descriptor, node, field, &mut bytes);
        put_bytes(slot.number, &bytes, out);
    }

    fn scalar(&self, slot: Slot<'_>, node: &Node<'_>, field: Field<'_>, out: &mut Vec<u8>) {
        if let Err(reason) = scalar::write(slot, node, self.text, out) {
            refuse(field, &reason);
        }
    }
}

/// Reports a value; where it may be a secret, without repeating it.
fn refuse(field: Field<'_>, reason: &str) {
    match reason.split_once(", found ") {
        Some((expected, _)) if field.is_secret() => field.error(format!("{expected}, found something else")),
        _ => field.error(reason),
    }
}

/// The field that a key names. An unknown key is reported; if it is a slip of the pen, the field that it probably means is
/// answered all the same, so that what stands below it is checked too.
fn find_or_report(
    descriptor: &MessageDescriptor,
    entries: &[Entry<'_>],
    entry: &Entry<'_>,
    field: Field<'_>,
) -> Option<FieldDescriptor> {
    let key = entry.key.as_ref();
    if let Some(known) = descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key)) {
        return Some(known);
    }
    let place = field.key(key);
    if key == "<<" {
        let reason = "merge keys are not part of the YAML that Envoy reads: use an alias for the whole value";
        place.error_on_key(reason.to_owned(), entry.key_at);
        return None;
    }
    let unknown = format!("no field {key:?} in {}", descriptor.full_name());
    if let Some(replacement) = legacy::replacement(descriptor.full_name(), key) {
        place.error_on_key(format!("{unknown}: Envoy's v2 API had it, v3 has {replacement}"), entry.key_at);
        return None;
    }
    let Some(near) = suggest::field(descriptor, key) else {
        place.error_on_key(unknown, entry.key_at);
        return None;
    };
    place.error_on_key(format!("{unknown} (did you mean {near:?}?)"), entry.key_at);
    descriptor.get_field_by_name(&near).filter(|near| !entries.iter().any(|entry| names(near, &entry.key)))
}

fn names(field: &FieldDescriptor, key: &str) -> bool {
    field.name() == key || field.json_name() == key
}

/// `null` is no value, but for fields that can hold it; nor is an `Any` without content, but where that switches a filter on.
fn is_unset(field: &FieldDescriptor, value: &Value<'_>) -> bool {
    match value {
        Value::Null => match field.kind() {
            Kind::Message(message) => message.full_name() != "google.protobuf.Value",
            Kind::Enum(descriptor) => descriptor.full_name() != "google.protobuf.NullValue",
            _ => true,
        },
        Value::Map(entries) if entries.is_empty() => {
            matches!(field.kind(), Kind::Message(message) if message.full_name() == "google.protobuf.Any")
                && field.parent_message().full_name() != "envoy.config.route.v3.FilterConfig"
        }
        _ => false,
    }
}

/// Why a field cannot be set beside those already seen.
fn conflict(field: &FieldDescriptor, seen: &[FieldDescriptor]) -> Option<String> {
    if seen.contains(field) {
        return Some("is given twice".to_owned());
    }
    let choice = field.containing_oneof()?;
    let other = choice.fields().find(|other| seen.contains(other))?;
    let members: Vec<_> = choice.fields().map(|field| field.name().to_owned()).collect();
    Some(format!("only one of {} may be set, and {} is set already", members.join(", "), other.name()))
}

/// Says of an extension that is only named, as Envoy allowed until 1.22, which type its name stood for. Goes on with that type, so
/// that whatever else is wrong is reported in the same run.
fn default_extension(
    descriptor: &MessageDescriptor,
    entries: &[Entry<'_>],
    seen: &[FieldDescriptor],
    field: Field<'_>,
    out: &mut Vec<u8>,
) {
    let Some(typed_config) = descriptor.get_field_by_name("typed_config") else { return };
    if conflict(&typed_config, seen).is_some() {
        return;
    }
    let name = entries.iter().find(|entry| entry.key == "name").map(|entry| &entry.node.value);
    let Some(Value::Text(name)) = name else { return };
    let Some(type_name) = legacy::type_of_bare_name(descriptor.full_name(), &name.text) else { return };
    field.key("name").error(format!(
        "a name alone configures nothing: add typed_config: {{\"@type\": type.googleapis.com/{type_name}}}"
    ));
    let mut any = Vec::new();
    well_known::put_any(&format!("type.googleapis.com/{type_name}"), &[], &mut any);
    put_bytes(typed_config.number(), &any, out);
}

#[cfg(test)]
mod tests;
