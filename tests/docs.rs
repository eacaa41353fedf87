//! What is generated from the source or stands beside it, documents and packages, and must not fall behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "docs/packages.rs"]
mod packages;
#[path = "docs/runbook.rs"]
mod runbook;
#[path = "docs/statistics.rs"]
mod statistics;
#[path = "docs/supported_fields.rs"]
mod supported_fields;
