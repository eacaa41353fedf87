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
mod rules;
pub mod source;
mod tree;
mod yaml;

pub use diagnostics::{Colours, Diagnostics};
pub use field::{Field, IsSet, Problem, Report, Segment, Severity};
pub use source::Source;

use prost_reflect::DynamicMessage;

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
    if matches!(root.value, tree::Value::Null) {
        field.error("the document is empty");
        return None;
    }
    let bytes = yaml::write(&descriptor, &root, source.text(), field);
    report.settle();
    drop(root);
    match DynamicMessage::decode(descriptor, bytes.as_slice()) {
        Ok(message) => rules::check(&message, field),
        Err(error) => field.error(format!("cannot be read: {error}")),
    }
    report.settle();
    M::decode(bytes.as_slice()).ok()
}

/// Whether a document's root has this field. What kind of document it is can be told so before it is read as such.
#[must_use]
pub fn has_field(source: &Source, name: &str) -> bool {
    match tree::parse(source.name(), source.text()).map(|root| root.value) {
        Ok(tree::Value::Map(entries)) => entries.iter().any(|entry| entry.key == name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_and_checked_in_one_run() {
        let text = "static_resources:\n  clusters:\n  - {name: 5, connect_timeout: 0s}\n  - {name: ''}\n";
        let source = Source::new("x.yaml", text);
        let report = Report::new();
        let bootstrap: proto::bootstrap::Bootstrap = load(&source, &report).expect("a message");
        assert_eq!(bootstrap.static_resources.map(|resources| resources.clusters.len()), Some(2));
        let problems: Vec<_> = report.into_problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "static_resources.clusters[0].name: expected a string, found the number 5: write it in quotes",
                "static_resources.clusters[0].connect_timeout: must be above 0s, is 0s",
                "static_resources.clusters[1].name: must not be empty",
            ]
        );
    }

    #[test]
    fn a_document_that_cannot_be_parsed_is_shown_at_its_line() {
        let source = Source::new("x.yaml", "node:\n  id: [a\n");
        let report = Report::new();
        assert!(load::<proto::bootstrap::Bootstrap>(&source, &report).is_none());
        let shown = Diagnostics::new(&source, report).render(Colours::Off);
        assert!(shown.starts_with("x.yaml:3:1: error: did not find expected"), "{shown}");
    }

    #[test]
    fn an_empty_document_is_an_error() {
        let source = Source::new("x.yaml", "# nothing\n");
        let report = Report::new();
        let _: Option<proto::bootstrap::Bootstrap> = load(&source, &report);
        assert_eq!(report.into_problems()[0].to_string(), "the document is empty");
    }
}
