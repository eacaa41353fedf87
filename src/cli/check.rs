//! `portreeve check`: what start-up would say to a configuration, without starting anything.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::access_log;
use crate::config::{self, Colours, Diagnostics, Report, Source};
use crate::filter::Services;
use crate::proto;
use crate::snapshot::{Change, ConfigManager};
use crate::stats::Registry;

use super::EXIT_FAILURE;

/// The options of `portreeve check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration files in YAML or JSON; "-" is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// For people or for machines
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Each problem with its line, then one line for each file
    Text,
    /// One object for all files
    Json,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Args { files, format } = self;
        let mut out = io::stdout().lock();
        let colours = if out.is_terminal() { Colours::On } else { Colours::Off };
        let mut verdicts = Vec::with_capacity(files.len());
        for file in &files {
            let verdict = Verdict::of(file, colours);
            if format == Format::Text {
                out.write_all(verdict.text.as_bytes())?;
            }
            verdicts.push(verdict);
        }
        let valid = verdicts.iter().all(|verdict| verdict.valid);
        if format == Format::Json {
            let files: Vec<_> = verdicts.into_iter().map(|verdict| verdict.json).collect();
            writeln!(out, "{:#}", json!({"valid": valid, "files": files}))?;
        }
        Ok(if valid { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
    }
}

/// What is said of one file.
struct Verdict {
    valid: bool,
    text: String,
    json: serde_json::Value,
}

impl Verdict {
    fn of(file: &Path, colours: Colours) -> Verdict {
        let source = match Source::read(file) {
            Ok(source) => source,
            Err(error) => return Verdict::unreadable(file, &error),
        };
        let report = Report::new();
        if let Some(bootstrap) = config::load::<proto::bootstrap::Bootstrap>(&source, &report) {
            convert(bootstrap, &report);
        }
        let diagnostics = Diagnostics::new(&source, report);
        let valid = diagnostics.errors() == 0;
        let text = format!("{}{}: {}\n", diagnostics.render(colours), source.name(), summary(&diagnostics));
        Verdict { valid, text, json: diagnostics.to_json() }
    }

    fn unreadable(file: &Path, error: &io::Error) -> Verdict {
        let name = file.display().to_string();
        let message = format!("cannot be read: {error}");
        let problem = json!({"severity": "error", "line": 1, "column": 1, "path": "", "message": message});
        Verdict {
            valid: false,
            text: format!("{name}: error: {message}\n{name}: refused, 1 error\n"),
            json: json!({"file": name, "valid": false, "problems": [problem]}),
        }
    }
}

/// Takes the document through the door that it comes through at start-up, in a process of its own that ends here.
fn convert(bootstrap: proto::bootstrap::Bootstrap, report: &Report) {
    let mut manager = ConfigManager::new(Registry::new(0), access_log::Mode::Check, Services::default());
    // Why it is rejected stands in the report.
    let _ = manager.apply(Change::Bootstrap(Box::new(bootstrap), report));
}

/// `refused, 2 errors, 1 warning`
fn summary(diagnostics: &Diagnostics<'_>) -> String {
    let count = |number: usize, thing: &str| match number {
        0 => String::new(),
        1 => format!(", 1 {thing}"),
        _ => format!(", {number} {thing}s"),
    };
    let verdict = if diagnostics.errors() == 0 { "valid" } else { "refused" };
    format!("{verdict}{}{}", count(diagnostics.errors(), "error"), count(diagnostics.warnings(), "warning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> Verdict {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.yaml");
        std::fs::write(&file, text).expect("a file");
        Verdict::of(&file, Colours::Off)
    }

    #[test]
    fn a_valid_file_is_said_to_be_valid() {
        let verdict = verdict("static_resources: {}\n");
        assert!(verdict.valid);
        assert!(verdict.text.ends_with("x.yaml: valid\n"), "{}", verdict.text);
        assert_eq!(verdict.json["valid"], true);
    }

    #[test]
    fn a_refused_file_says_why() {
        let verdict = verdict("static_resource: {}\nnode: 5\n");
        assert!(!verdict.valid);
        assert!(verdict.text.contains("x.yaml:1:1: error: static_resource: no field"), "{}", verdict.text);
        assert!(verdict.text.ends_with("x.yaml: refused, 2 errors\n"), "{}", verdict.text);
        assert_eq!(verdict.json["problems"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_refused() {
        let verdict = Verdict::of(Path::new("/nonexistent/x.yaml"), Colours::Off);
        assert!(!verdict.valid);
        assert!(verdict.text.starts_with("/nonexistent/x.yaml: error: cannot be read: No such file"));
        assert_eq!(verdict.json["problems"][0]["severity"], "error");
    }
}
