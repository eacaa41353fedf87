//! What is wrong with a document, with the lines it is wrong in: for people and for machines.

use super::{Problem, Report, Source};

/// The problems of one document, each at its line, in the order of the lines.
#[derive(Debug)]
pub struct Diagnostics {
    problems: Vec<Problem>,
}

impl Diagnostics {
    /// Finds the line of every problem.
    pub fn new(_source: &Source, report: Report) -> Diagnostics {
        Diagnostics { problems: report.into_problems() }
    }

    /// How many problems make the document unacceptable.
    pub fn errors(&self) -> usize {
        self.problems.len()
    }

    /// `file:line:column: error: path: reason`, the line itself and a caret below the place; in colours if asked for.
    pub fn render(&self, _colours: bool) -> String {
        todo!()
    }

    /// The same for machines.
    pub fn to_json(&self) -> serde_json::Value {
        todo!()
    }
}
