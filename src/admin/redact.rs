//! Secrets do not leave the process: `/config_dump` prints `[redacted]` in their place.
//!
//! What is secret, the field's own definition says (`udpa.annotations.sensitive`, Envoy's option and ours). Beyond that,
//! values of headers that carry credentials are, which Envoy prints.

use std::collections::{HashMap, HashSet};

use prost::Message;
use prost_reflect::{DynamicMessage, ExtensionDescriptor, FieldDescriptor, MessageDescriptor, ReflectMessage, Value};

use super::json;
use crate::proto::{self, Any};

const REDACTED: &str = "[redacted]";

/// Headers that carry credentials, in lower case.
const SECRET_HEADERS: [&str; 7] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "x-auth-token",
    "x-amz-security-token",
];

/// Replaces the secrets in messages.
pub(super) struct Redactor {
    option: Option<ExtensionDescriptor>,
    /// The numbers of the sensitive fields of every message seen so far.
    sensitive: HashMap<String, HashSet<u32>>,
}

impl Redactor {
    pub(super) fn new() -> Self {
        let option = proto::pool().get_extension_by_name("udpa.annotations.sensitive");
        Self { option, sensitive: HashMap::new() }
    }

    /// Replaces all secrets in `message`, also in messages that it holds as `Any`.
    pub(super) fn redact(&mut self, message: &mut DynamicMessage) {
        self.redact_message(message, false);
    }

    /// `secret` says that the whole message is one.
    fn redact_message(&mut self, message: &mut DynamicMessage, secret: bool) {
        let descriptor = message.descriptor();
        match descriptor.full_name() {
            "google.protobuf.Any" => return self.redact_any(message, secret),
            "envoy.config.core.v3.HeaderValue" if has_secret_name(message) => {
                for name in ["value", "raw_value"] {
                    self.redact_named(message, name);
                }
                return;
            }
            _ => {}
        }
        let sensitive = self.sensitive_fields(&descriptor);
        let set: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
        for field in set {
            let secret = secret || sensitive.contains(&field.number());
            self.redact_value(message.get_field_mut(&field), secret);
        }
    }

    fn redact_named(&mut self, message: &mut DynamicMessage, name: &str) {
        if message.has_field_by_name(name)
            && let Some(value) = message.get_field_by_name_mut(name)
        {
            self.redact_value(value, true);
        }
    }

    fn redact_value(&mut self, value: &mut Value, secret: bool) {
        match value {
            Value::Message(message) => self.redact_message(message, secret),
            Value::List(values) => values.iter_mut().for_each(|value| self.redact_value(value, secret)),
            Value::Map(values) => values.values_mut().for_each(|value| self.redact_value(value, secret)),
            Value::String(text) if secret => REDACTED.clone_into(text),
            Value::Bytes(bytes) if secret => *bytes = REDACTED.into(),
            _ => {}
        }
    }

    /// Takes the message out of an `Any`, and puts it back. One of unknown type could hold anything: it is emptied.
    fn redact_any(&mut self, message: &mut DynamicMessage, secret: bool) {
        let mut any = message.transcode_to::<Any>().expect("invariant: it is an Any");
        any.value = json::unpack(&any).map_or_else(Vec::new, |mut content| {
            self.redact_message(&mut content, secret);
            content.encode_to_vec()
        });
        message.transcode_from(&any).expect("invariant: it is an Any");
    }

    fn sensitive_fields(&mut self, message: &MessageDescriptor) -> HashSet<u32> {
        let Some(option) = &self.option else {
            return HashSet::new();
        };
        let is_sensitive = |field: &FieldDescriptor| field.options().get_extension(option).as_bool().unwrap_or(false);
        self.sensitive
            .entry(message.full_name().to_owned())
            .or_insert_with(|| message.fields().filter(is_sensitive).map(|field| field.number()).collect())
            .clone()
    }
}

fn has_secret_name(header: &DynamicMessage) -> bool {
    let name = header.get_field_by_name("key");
    name.is_some_and(|name| SECRET_HEADERS.contains(&name.as_str().unwrap_or_default().to_ascii_lowercase().as_str()))
}
