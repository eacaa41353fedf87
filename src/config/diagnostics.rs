//! What is wrong with a document, with the lines it is wrong in: for people and for machines.

use std::fmt::Write;
use std::ops::Range;

use serde_json::json;

use super::{Problem, Report, Severity, Source, locate, position, redact, tree};

/// The problems of one document, each at its line, in the order of the lines.
#[derive(Debug)]
pub struct Diagnostics<'s> {
    source: &'s Source,
    diagnostics: Vec<Diagnostic>,
}

/// A problem and its place.
#[derive(Debug)]
struct Diagnostic {
    problem: Problem,
    bytes: Range<usize>,
    line: usize,
    column: usize,
    /// The line of the other place that the problem is about.
    beside: Option<usize>,
}

/// Whether a text is shown in colours, as on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Terminal escapes mark severities and places.
    On,
    /// Plain text.
    Off,
}

impl<'s> Diagnostics<'s> {
    /// Finds the place of every problem.
    pub fn new(source: &'s Source, report: Report) -> Diagnostics<'s> {
        let problems = report.into_problems();
        if problems.is_empty() {
            return Diagnostics { source, diagnostics: Vec::new() };
        }
        let text = source.text();
        let root = tree::parse(source.name(), text).ok();
        let lines = position::Lines::new(text);
        let mut diagnostics: Vec<_> = problems
            .into_iter()
            .map(|problem| {
                let mut bytes = problem.at.map_or(0..0, |at| at..at);
                if let Some(root) = &root {
                    let located = locate::locate(text, root, &problem.path, problem.on_key);
                    if problem.at.is_none_or(|at| at == located.start) {
                        bytes = located;
                    }
                }
                let (line, column) = lines.line_and_column(bytes.start);
                let beside = root.as_ref().zip(problem.beside.as_ref()).map(|(root, other)| {
                    let other = locate::locate(text, root, other, false);
                    lines.line_and_column(other.start).0
                });
                Diagnostic { problem, bytes, line, column, beside }
            })
            .collect();
        diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        Diagnostics { source, diagnostics }
    }

    /// How many problems make the document unacceptable.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.problem.severity == Severity::Error).count()
    }

    /// How many problems its author should know of.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.diagnostics.len() - self.errors()
    }

    /// `file:line:column: error: path: reason`, below it the line with a caret under the place.
    #[must_use]
    pub fn render(&self, colours: Colours) -> String {
        self.rendered(colours).collect()
    }

    /// Each problem as [`Self::render`] shows it.
    pub fn rendered(&self, colours: Colours) -> impl Iterator<Item = String> {
        self.diagnostics.iter().map(move |diagnostic| {
            let mut out = String::new();
            // Writing to a string cannot fail.
            let _ = diagnostic.render(self.source, colours, &mut out);
            out
        })
    }

    /// `{"file", "valid", "problems": [{"severity", "line", "column", "path", "message"}]}`
    pub fn to_json(&self) -> serde_json::Value {
        let problems: Vec<_> = self.diagnostics.iter().map(Diagnostic::to_json).collect();
        json!({"file": self.source.name(), "valid": self.errors() == 0, "problems": problems})
    }
}

impl Diagnostic {
    fn render(&self, source: &Source, colours: Colours, out: &mut String) -> std::fmt::Result {
        let (bold, colour, reset) = match (colours, self.problem.severity) {
            (Colours::Off, _) => ("", "", ""),
            (Colours::On, Severity::Error) => ("\x1b[1m", "\x1b[1;31m", "\x1b[0m"),
            (Colours::On, Severity::Warning) => ("\x1b[1m", "\x1b[1;33m", "\x1b[0m"),
        };
        let place = format!("{}:{}:{}:", source.name(), self.line, self.column);
        write!(out, "{bold}{place}{reset} {colour}{}:{reset} {}", self.severity(), self.problem)?;
        match self.beside {
            Some(line) => writeln!(out, " (line {line})")?,
            None => writeln!(out)?,
        }
        let text = source.text();
        let line = position::line_at(text, self.bytes.start);
        let shown = redact::line(text, position::within(text, line), line);
        let (excerpt, column) = excerpt(&shown, self.column);
        if excerpt.trim().is_empty() {
            return Ok(());
        }
        writeln!(out, "{:>6} | {excerpt}", self.line)?;
        let visible = excerpt.chars().count();
        if column <= visible {
            let width = text[self.bytes.clone()].chars().count().clamp(1, visible + 1 - column);
            writeln!(out, "       | {}{colour}{}{reset}", " ".repeat(column - 1), "^".repeat(width))?;
        }
        Ok(())
    }

    fn severity(&self) -> &'static str {
        match self.problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "severity": self.severity(),
            "line": self.line,
            "column": self.column,
            "path": self.problem.location(),
            "message": self.message(),
        })
    }

    /// The reason, with the other place where there is one.
    fn message(&self) -> String {
        match self.beside {
            Some(line) => format!("{} (line {line})", self.problem.message),
            None => self.problem.message.clone(),
        }
    }
}

/// As much of a line as fits a screen, and where in it the place at `column` is found.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    const WIDTH: usize = 160;
    const BEFORE: usize = 80;
    let line = line.replace('\t', " ");
    if line.chars().count() <= WIDTH {
        return (line, column);
    }
    let skipped = column.saturating_sub(BEFORE);
    let mut excerpt: String = line.chars().skip(skipped).take(WIDTH).collect();
    if line.chars().count() > skipped + WIDTH {
        excerpt.push('…');
    }
    if skipped == 0 { (excerpt, column) } else { (format!("…{excerpt}"), column - skipped + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Field;

    const TEXT: &str = "a: 1\nb:\n  - c: \"x\"\n    private_key: {inline_string: \"abc\"}\n";

    fn diagnostics(source: &Source) -> Diagnostics<'_> {
        let report = Report::new();
        let root = Field::root(&report);
        root.key("b").index(0).key("missing").error("is required");
        root.key("b").index(0).key("c").error("is too short");
        root.key("a").warning("is old");
        root.key("b").index(0).key("private_key").key("inline_string").error("is no key");
        Diagnostics::new(source, report)
    }

    #[test]
    fn problems_are_shown_in_the_order_of_their_lines_with_a_caret() {
        let source = Source::new("x.yaml", TEXT);
        let diagnostics = diagnostics(&source);
        assert_eq!((diagnostics.errors(), diagnostics.warnings()), (3, 1));
        let expected = "\
x.yaml:1:4: warning: a: is old
     1 | a: 1
       |    ^
x.yaml:3:5: error: b[0].missing: is required
     3 |   - c: \"x\"
       |     ^
x.yaml:3:8: error: b[0].c: is too short
     3 |   - c: \"x\"
       |        ^^^
x.yaml:4:34: error: b[0].private_key.inline_string: is no key
     4 |     private_key: {inline_string: <hidden>
       |                                  ^^^^^
";
        assert_eq!(diagnostics.render(Colours::Off), expected);
        assert!(diagnostics.render(Colours::On).contains("\x1b[1;31merror:\x1b[0m"));
    }

    #[test]
    fn of_long_lines_the_part_around_the_place_is_shown() {
        let line = format!("{}X{}", "a".repeat(300), "b".repeat(300));
        let (shown, column) = excerpt(&line, 301);
        assert_eq!(shown.chars().nth(column - 1), Some('X'));
        assert_eq!(shown.chars().count(), 162);
        assert!(shown.starts_with('…') && shown.ends_with('…'));
        assert_eq!(excerpt("a: b", 4), ("a: b".to_owned(), 4));
    }

    #[test]
    fn machines_get_json() {
        let source = Source::new("x.yaml", TEXT);
        let json = diagnostics(&source).to_json();
        assert_eq!(json["valid"], false);
        assert_eq!(
            json["problems"][0],
            json!({"severity": "warning", "line": 1, "column": 4, "path": "a", "message": "is old"})
        );
    }

    #[test]
    fn a_document_without_problems_shows_nothing() {
        let source = Source::new("x.yaml", "a: 1");
        let diagnostics = Diagnostics::new(&source, Report::new());
        assert_eq!(diagnostics.render(Colours::Off), "");
        assert_eq!(diagnostics.to_json(), json!({"file": "x.yaml", "valid": true, "problems": []}));
    }
}
