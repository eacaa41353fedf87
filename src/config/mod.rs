//! How documents become messages: positions, paths and errors. No domain knowledge.
//!
//! `yaml` turns a document into the bytes of a message, `rules` checks the constraints that Envoy's own schema declares, and
//! [`Field`] carries the path through the conversions to the model, so that one run reports every problem of a document.

pub mod field;

pub use field::{Field, IsSet, Problem, Report, Segment, Severity};
