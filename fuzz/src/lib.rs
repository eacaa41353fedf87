//! The targets of `tests/fuzz`, for `fuzz_targets/`.

#![allow(clippy::unwrap_used, reason = "a target fails by panicking")]

#[path = "../../tests/fuzz/targets/mod.rs"]
pub mod targets;
