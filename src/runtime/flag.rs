//! Settings that the runtime may switch or change: `RuntimeFeatureFlag`, `RuntimeUInt32`.

use super::{Runtime, Value};
use crate::proto::core::{RuntimeFeatureFlag, RuntimeUInt32};

/// Whether something is done, as long as the runtime does not say otherwise.
#[derive(Clone, Debug)]
pub struct RuntimeFlag {
    default: bool,
    key: String,
}

impl RuntimeFlag {
    /// Converts the message; what is not said is on.
    #[must_use]
    pub fn from_proto(proto: Option<&RuntimeFeatureFlag>) -> RuntimeFlag {
        let Some(RuntimeFeatureFlag { default_value, runtime_key }) = proto else {
            return RuntimeFlag { default: true, key: String::new() };
        };
        RuntimeFlag { default: default_value.is_none_or(|on| on.value), key: runtime_key.clone() }
    }

    /// Whether it is on now.
    #[must_use]
    pub fn is_on(&self, runtime: &Runtime) -> bool {
        runtime.changed(&self.key).and_then(Value::boolean).unwrap_or(self.default)
    }
}

/// A number, as long as the runtime does not say another.
#[derive(Clone, Debug)]
pub struct RuntimeNumber {
    default: u64,
    key: String,
}

impl RuntimeNumber {
    /// Converts the message.
    #[must_use]
    pub fn from_proto(proto: &RuntimeUInt32) -> RuntimeNumber {
        let RuntimeUInt32 { default_value, runtime_key } = proto;
        RuntimeNumber { default: (*default_value).into(), key: runtime_key.clone() }
    }

    /// What it is now.
    #[must_use]
    pub fn value(&self, runtime: &Runtime) -> u64 {
        runtime.changed(&self.key).and_then(Value::integer).unwrap_or(self.default)
    }
}
