//! Reads the constraints out of descriptors, once per message type.

use prost_reflect::{
    DynamicMessage, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
    Value,
};

use super::bounds::{Bounds, Length, Number, Ordered, Span};
use super::text::TextRules;
use crate::config::field::Field;
use crate::proto;

/// What a message type asks of its fields.
pub(super) struct MessageRules {
    pub required_choices: Vec<OneofDescriptor>,
    pub fields: Vec<(FieldDescriptor, FieldRules)>,
}

/// What is asked of one field.
#[derive(Default)]
pub(super) struct FieldRules {
    pub required: bool,
    pub deprecation: Deprecation,
    pub list: ListRules,
    pub map: MapRules,
    pub value: ValueRules,
}

#[derive(Default)]
pub(super) struct ListRules {
    length: Length,
    unique: bool,
    pub items: ValueRules,
}

#[derive(Default)]
pub(super) struct MapRules {
    length: Length,
    pub keys: ValueRules,
    pub values: ValueRules,
}

/// What is asked of a single value.
#[derive(Default)]
pub(super) enum ValueRules {
    #[default]
    Anything,
    /// A message that is not looked into.
    Opaque,
    Number(Bounds<Number>),
    Span(Bounds<Span>),
    Text(Box<TextRules>),
    Bytes(Length),
    Flag(Option<bool>),
    Enum(Bounds<Number>, Option<EnumDescriptor>),
    Any(Vec<String>),
}

/// Whether Envoy still wants a field to be used.
#[derive(Clone, Copy, Default)]
pub(super) enum Deprecation {
    #[default]
    None,
    Deprecated,
    Disallowed,
}

impl Deprecation {
    pub fn report(self, field: Field<'_>) {
        match self {
            Deprecation::None => {}
            Deprecation::Deprecated => field.warning("is deprecated by Envoy"),
            Deprecation::Disallowed => field.error("is deprecated by Envoy, which does not accept it any more"),
        }
    }
}

impl ListRules {
    pub fn violation(&self, items: &[Value]) -> Option<String> {
        let duplicate = |(position, item): (usize, &Value)| items[..position].contains(item).then_some(position);
        match self.unique.then(|| items.iter().enumerate().find_map(duplicate)).flatten() {
            Some(position) => Some(format!("must not hold the same twice, as element {position}")),
            None => self.length.violation(items.len(), "elements"),
        }
    }
}

impl MapRules {
    pub fn violation(&self, entries: usize) -> Option<String> {
        self.length.violation(entries, "entries")
    }
}

impl ValueRules {
    /// Whether the value, a message, keeps its content to itself.
    pub fn is_opaque(&self) -> bool {
        matches!(self, ValueRules::Opaque)
    }

    /// Why `value` does not satisfy the constraints.
    pub fn violation(&self, value: &Value) -> Option<String> {
        // google.protobuf.UInt32Value and its like stand for what they wrap.
        let wrapped = match (self, value) {
            (ValueRules::Span(_) | ValueRules::Any(_), _) => None,
            (_, Value::Message(wrapper)) => wrapper.get_field_by_number(1),
            _ => None,
        };
        let value = wrapped.as_deref().unwrap_or(value);
        match self {
            ValueRules::Anything | ValueRules::Opaque => None,
            ValueRules::Number(bounds) => bounds.violation(&Number::read(value)?),
            ValueRules::Span(bounds) => bounds.violation(&Span::read(value)?),
            ValueRules::Text(rules) => rules.violation(value.as_str()?),
            ValueRules::Bytes(length) => length.violation(value.as_bytes()?.len(), "bytes"),
            ValueRules::Flag(required) => {
                let required = required.filter(|required| Some(*required) != value.as_bool())?;
                Some(format!("must be {required}"))
            }
            ValueRules::Enum(bounds, defined) => {
                let number = value.as_enum_number()?;
                if defined.as_ref().is_some_and(|defined| defined.get_value(number).is_none()) {
                    return Some(format!("has no value {number}"));
                }
                bounds.violation(&Number::read(value)?)
            }
            ValueRules::Any(types) => {
                let any = value.as_message()?;
                let url = any.get_field_by_number(1)?;
                let allowed = types.is_empty() || types.iter().any(|allowed| Some(allowed.as_str()) == url.as_str());
                (!allowed).then(|| format!("must be of type {}", types.join(", ")))
            }
        }
    }
}

/// The extensions of descriptors that hold the constraints.
pub(super) struct Compiler {
    rules: ExtensionDescriptor,
    required: ExtensionDescriptor,
    disallowed: ExtensionDescriptor,
}

impl Compiler {
    pub fn new() -> Compiler {
        let extension =
            |name| proto::pool().get_extension_by_name(name).expect("invariant: the pool holds Envoy's protos");
        Compiler {
            rules: extension("validate.rules"),
            required: extension("validate.required"),
            disallowed: extension("envoy.annotations.disallowed_by_default"),
        }
    }

    pub fn message(&self, message: &MessageDescriptor) -> MessageRules {
        let is_required =
            |choice: &OneofDescriptor| choice.options().get_extension(&self.required).as_bool().unwrap_or(false);
        MessageRules {
            required_choices: message.oneofs().filter(is_required).collect(),
            fields: message.fields().map(|field| (field.clone(), self.field(&field))).collect(),
        }
    }

    fn field(&self, field: &FieldDescriptor) -> FieldRules {
        let options = field.options();
        let mut compiled = FieldRules { deprecation: self.deprecation(&options), ..FieldRules::default() };
        if !options.has_extension(&self.rules) {
            return compiled;
        }
        let extension = options.get_extension(&self.rules);
        let Some(rules) = extension.as_message() else { return compiled };
        compiled.required = ["message", "duration", "timestamp", "any"].iter().any(|kind| {
            let rules = rules.get_field_by_name(kind).and_then(|rules| flag(rules.as_message()?, "required"));
            rules.unwrap_or(false)
        });
        if let Some(list) = part(rules, "repeated") {
            compiled.list = ListRules {
                length: length(&list, ["len", "min_items", "max_items"]),
                unique: flag(&list, "unique").unwrap_or(false),
                items: part(&list, "items").map(|items| value_rules(&items, &field.kind())).unwrap_or_default(),
            };
        } else if let (Some(map), Kind::Message(entry)) = (part(rules, "map"), field.kind()) {
            let of = |name, kind: Kind| part(&map, name).map(|rules| value_rules(&rules, &kind)).unwrap_or_default();
            compiled.map = MapRules {
                length: length(&map, ["len", "min_pairs", "max_pairs"]),
                keys: of("keys", entry.map_entry_key_field().kind()),
                values: of("values", entry.map_entry_value_field().kind()),
            };
        } else {
            compiled.value = value_rules(rules, &field.kind());
        }
        compiled
    }

    fn deprecation(&self, options: &DynamicMessage) -> Deprecation {
        let disallowed = options.get_extension(&self.disallowed).as_bool().unwrap_or(false);
        match (disallowed, flag(options, "deprecated").unwrap_or(false)) {
            (true, _) => Deprecation::Disallowed,
            (false, true) => Deprecation::Deprecated,
            (false, false) => Deprecation::None,
        }
    }
}

/// The constraints of a `validate.FieldRules` on one value of a kind.
fn value_rules(rules: &DynamicMessage, kind: &Kind) -> ValueRules {
    if part(rules, "message").and_then(|rules| flag(&rules, "skip")) == Some(true) {
        return ValueRules::Opaque;
    }
    let Some((name, rules)) = rules.fields().find_map(|(field, rules)| {
        let name = field.name().to_owned();
        (name != "message").then(|| Some((name, rules.as_message()?.clone())))?
    }) else {
        return ValueRules::Anything;
    };
    match name.as_str() {
        "string" => ValueRules::Text(Box::new(TextRules::of(&rules))),
        "bytes" => ValueRules::Bytes(length(&rules, ["len", "min_len", "max_len"])),
        "bool" => ValueRules::Flag(flag(&rules, "const")),
        "enum" => {
            let defined = flag(&rules, "defined_only").unwrap_or(false);
            ValueRules::Enum(Bounds::of(&rules), kind.as_enum().filter(|_| defined).cloned())
        }
        "duration" => ValueRules::Span(Bounds::of(&rules)),
        "any" => {
            let types = rules.get_field_by_name("in");
            let types = types.as_ref().and_then(|types| types.as_list()).unwrap_or_default();
            ValueRules::Any(types.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect())
        }
        _ => ValueRules::Number(Bounds::of(&rules)),
    }
}

fn part(rules: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    rules.get_field_by_name(name).filter(|_| rules.has_field_by_name(name))?.as_message().cloned()
}

fn flag(rules: &DynamicMessage, name: &str) -> Option<bool> {
    rules.get_field_by_name(name).filter(|_| rules.has_field_by_name(name))?.as_bool()
}

fn length(rules: &DynamicMessage, [exactly, at_least, at_most]: [&str; 3]) -> Length {
    let number = |name: &str| rules.get_field_by_name(name).filter(|_| rules.has_field_by_name(name))?.as_u64();
    Length { exactly: number(exactly), at_least: number(at_least), at_most: number(at_most) }
}
