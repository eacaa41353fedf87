//! Documents that are generated from the source, or speak of it, and must not fall behind.

#[path = "docs/statistics.rs"]
mod statistics;
#[path = "docs/supported_fields.rs"]
mod supported_fields;
