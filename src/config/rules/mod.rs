//! The constraints that messages declare beside their fields, as `validate.rules`: Envoy refuses what breaks them, be it from a
//! file or from a management server.
//!
//! Also reports fields that Envoy has deprecated (a warning, as in Envoy's log) or refuses since (an error).

mod bounds;
mod compile;
mod text;

use std::collections::HashMap;
use std::rc::Rc;

use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, ReflectMessage, Value};

use self::compile::{Compiler, FieldRules, ListRules, MapRules, MessageRules, ValueRules};
use super::field::Field;

/// Reports every constraint that `message`, or a message inside it, breaks.
pub(super) fn check(message: &DynamicMessage, field: Field<'_>) {
    Checker { compiler: Compiler::new(), messages: HashMap::new() }.message(message, field);
}

struct Checker {
    compiler: Compiler,
    messages: HashMap<String, Rc<MessageRules>>,
}

impl Checker {
    fn rules_of(&mut self, message: &MessageDescriptor) -> Rc<MessageRules> {
        if let Some(rules) = self.messages.get(message.full_name()) {
            return Rc::clone(rules);
        }
        let rules = Rc::new(self.compiler.message(message));
        self.messages.insert(message.full_name().to_owned(), Rc::clone(&rules));
        rules
    }

    fn message(&mut self, message: &DynamicMessage, field: Field<'_>) {
        let descriptor = message.descriptor();
        if descriptor.full_name() == "google.protobuf.Any" {
            return self.any(message, field);
        }
        if descriptor.full_name().starts_with("google.protobuf.") {
            return;
        }
        let rules = self.rules_of(&descriptor);
        for choice in &rules.required_choices {
            if !choice.fields().any(|member| message.has_field(&member)) {
                let members: Vec<_> = choice.fields().map(|member| member.name().to_owned()).collect();
                match members.as_slice() {
                    [only] => field.key(only).error("is required"),
                    _ => field.error(format!("one of {} is required", members.join(", "))),
                }
            }
        }
        for (known, rules) in &rules.fields {
            let is_set = message.has_field(known);
            if !is_set && known.containing_oneof().is_some() {
                continue;
            }
            self.field(message, known, rules, field.key(known.name()));
        }
    }

    fn field(&mut self, message: &DynamicMessage, known: &FieldDescriptor, rules: &FieldRules, field: Field<'_>) {
        let is_set = message.has_field(known);
        if !is_set && rules.required {
            return field.error("is required");
        }
        if is_set {
            rules.deprecation.report(field);
        }
        let value = message.get_field(known);
        match &*value {
            Value::List(items) => self.list(items, &rules.list, field),
            Value::Map(entries) => self.map(entries, &rules.map, field),
            // A field that can tell whether it is set is judged only if it is.
            _ if !is_set && known.supports_presence() => {}
            value => self.value(value, &rules.value, field),
        }
    }

    fn list(&mut self, items: &[Value], rules: &ListRules, field: Field<'_>) {
        if let Some(violation) = rules.violation(items) {
            field.error(violation);
        }
        for (position, item) in items.iter().enumerate() {
            self.value(item, &rules.items, field.index(position));
        }
    }

    fn map(&mut self, entries: &HashMap<MapKey, Value>, rules: &MapRules, field: Field<'_>) {
        if let Some(violation) = rules.violation(entries.len()) {
            field.error(violation);
        }
        for (key, value) in entries {
            let name = match key {
                MapKey::String(name) => name.clone(),
                other => format!("{other:?}"),
            };
            let place = field.entry(&name);
            self.value(&Value::from(key.clone()), &rules.keys, place);
            self.value(value, &rules.values, place);
        }
    }

    fn value(&mut self, value: &Value, rules: &ValueRules, field: Field<'_>) {
        if let Some(violation) = rules.violation(value) {
            field.error(violation);
        }
        if let Value::Message(message) = value
            && !rules.is_opaque()
        {
            self.message(message, field);
        }
    }

    /// Goes into the message that an `Any` holds. One that is not known, or damaged, has been reported by its reader.
    fn any(&mut self, any: &DynamicMessage, field: Field<'_>) {
        let Some((descriptor, bytes)) = content(any) else { return };
        if let Ok(message) = DynamicMessage::decode(descriptor, bytes) {
            self.message(&message, field);
        }
    }
}

fn content(any: &DynamicMessage) -> Option<(MessageDescriptor, bytes::Bytes)> {
    let url = any.get_field_by_number(1)?;
    let name = url.as_str()?.rsplit('/').next()?.to_owned();
    let descriptor = any.descriptor().parent_pool().get_message_by_name(&name)?;
    Some((descriptor, any.get_field_by_number(2)?.as_bytes()?.clone()))
}

#[cfg(test)]
mod tests;
