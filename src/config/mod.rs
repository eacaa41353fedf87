//! How documents become messages: positions, paths and errors. No domain knowledge.
//!
//! [`load`] turns a document into a message and checks the constraints that Envoy's own schema declares; [`Field`] carries the
//! path through the conversions to the model, so that one run reports every problem of a document; [`Diagnostics`] shows them
//! at their lines.

pub mod data_source;
pub mod diagnostics;
pub mod field;
mod locate;
mod position;
mod redact;
pub mod source;
mod tree;
mod yaml;

pub use diagnostics::{Colours, Diagnostics};
pub use field::{Field, IsSet, Problem, Report, Segment, Severity};
pub use source::Source;

use crate::proto;

/// Reads a YAML or JSON document as a message and reports all that is wrong with it. `None` if there is no reading it at all.
/// A message that comes with errors in the report is incomplete: worth converting to find further errors, not to be used.
///
/// # Panics
/// If `M` is not among the messages that [`proto::pool`] describes.
pub fn load<M: prost::Message + prost::Name + Default>(source: &Source, report: &Report) -> Option<M> {
    let descriptor = proto::pool().get_message_by_name(&M::full_name()).expect("invariant: the pool describes M");
    let root = match tree::parse(source.name(), source.text()) {
        Ok(root) => root,
        Err(error) => {
            report.push(Problem::of_syntax(error.message, error.at));
            return None;
        }
    };
    let field = Field::root(report);
    let bytes = yaml::write(&descriptor, &root, source.text(), field);
    M::decode(bytes.as_slice()).map_err(|error| field.error(format!("cannot be read: {error}"))).ok()
}
