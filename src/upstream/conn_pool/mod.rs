//! Connection pools: one per worker, host and protocol.

mod attempt;

pub use attempt::{FailureKind, UpstreamFailure, UpstreamTiming};
