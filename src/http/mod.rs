//! HTTP vocabulary: messages, bodies, codecs. No policy.

pub mod cork;
pub mod headers;
pub mod path;
