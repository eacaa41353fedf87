//! HTTP vocabulary: messages, bodies, codecs. No policy.

pub mod headers;
pub mod path;
