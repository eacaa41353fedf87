//! `portreeve route-check`: runs the test files of Envoy's route table check tool against the routes of a configuration.
//!
//! Requests are made up and given to the real route table; nothing is sent. What runtime fractions do is part of a test: only those
//! let requests through whose runtime key the test names, as in Envoy's tool.

mod coverage;
mod table;
mod test;

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};

use super::EXIT_FAILURE;
use crate::{
    config::{self, Colours, Diagnostics, Report, Source},
    proto::route_check::{Validation, ValidationItem},
};
use coverage::{Coverage, Measure};
use table::Table;

/// The options of `portreeve route-check`. They are those of Envoy's tool.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example of a test file:\n  \
    tests:\n  \
    - test_name: the API goes to its cluster\n    \
      input: {authority: example.com, path: /api/users, method: GET}\n    \
      validate: {cluster_name: api, path_rewrite: /users}\n\n\
    Exit status:\n  0  all tests passed\n  1  a test failed, coverage is too low, or a file is wrong")]
#[allow(clippy::struct_excessive_bools, reason = "they are switches")]
pub struct Args {
    /// A configuration, or a `RouteConfiguration` alone, in YAML or JSON
    #[arg(value_name = "CONFIG", required_unless_present = "config_path")]
    config: Option<PathBuf>,

    /// Tests in YAML or JSON
    #[arg(value_name = "TESTS", required_unless_present = "test_path")]
    tests: Option<PathBuf>,

    /// The same as CONFIG
    #[arg(short, long, value_name = "FILE", conflicts_with = "config")]
    config_path: Option<PathBuf>,

    /// The same as TESTS
    #[arg(short, long, value_name = "FILE", requires = "config_path")]
    test_path: Option<PathBuf>,

    /// Which route configuration is meant, where CONFIG has several
    #[arg(long, value_name = "NAME")]
    route_config: Option<String>,

    /// Name the tests that passed, too
    #[arg(short, long)]
    details: bool,

    /// Say nothing of tests that passed, whatever --details says
    #[arg(long)]
    only_show_failures: bool,

    /// Fail if less than this percentage of the routes is covered
    #[arg(short, long, value_name = "PERCENTAGE", default_value_t = 0.0, hide_default_value = true)]
    fail_under: f64,

    /// Measure coverage by all that could be checked of each route
    #[arg(long)]
    covall: bool,

    /// Name the routes that no test covers
    #[arg(long)]
    detailed_coverage: bool,

    /// Accepted for Envoy's sake: deprecated fields are never refused here
    #[arg(long)]
    disable_deprecation_check: bool,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (config, tests) = match (&self.config_path, &self.config, &self.tests) {
            (None, Some(config), Some(tests)) => (config, tests),
            (Some(config), None, None) => (config, self.test_path.as_ref().context("--test-path is required")?),
            _ => bail!("give CONFIG and TESTS, or --config-path and --test-path"),
        };
        let table = Table::load(config, self.route_config.as_deref())?;
        let tests: Validation = load(&read(tests)?)?;
        let mut coverage = Coverage::of(&table.routes);
        let mut failed = 0;
        for item in &tests.tests {
            let outcome = test::run(item, &table, &mut coverage)?;
            failed += usize::from(!outcome.is_empty());
            self.report(item, &outcome)?;
        }
        let covered = coverage.percentage(if self.covall { Measure::Everything } else { Measure::Routes });
        self.conclude(&tests.tests, failed, covered, &coverage)
    }

    fn report(&self, item: &ValidationItem, failures: &[String]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if failures.is_empty() {
            return if self.details && !self.only_show_failures { writeln!(out, "{}", item.test_name) } else { Ok(()) };
        }
        writeln!(out, "{}", item.test_name)?;
        failures.iter().try_for_each(|failure| writeln!(out, "  {failure}"))
    }

    fn conclude(
        &self,
        tests: &[ValidationItem],
        failed: usize,
        covered: f64,
        coverage: &Coverage,
    ) -> anyhow::Result<ExitCode> {
        let mut out = io::stdout().lock();
        if self.detailed_coverage {
            for missing in coverage.missing() {
                writeln!(out, "Missing test for {missing}")?;
            }
        }
        writeln!(out, "{} of {} tests passed", tests.len() - failed, tests.len())?;
        writeln!(out, "Current route coverage: {covered:.1}%")?;
        let too_low = covered < self.fail_under;
        if too_low {
            writeln!(out, "Failed to meet coverage requirement: {}%", self.fail_under)?;
        }
        Ok(if failed > 0 || too_low { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS })
    }
}

fn read(file: &Path) -> anyhow::Result<Source> {
    Source::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// A document that must be right.
fn load<M: prost::Message + prost::Name + Default>(source: &Source) -> anyhow::Result<M> {
    let report = Report::new();
    let message = config::load(source, &report);
    refuse_errors(source, report)?;
    message.with_context(|| format!("{} is refused", source.name()))
}

/// Shows what is wrong with a document, if anything is.
fn refuse_errors(source: &Source, report: Report) -> anyhow::Result<()> {
    if !report.has_errors() {
        return Ok(());
    }
    let colours = if io::stderr().is_terminal() { Colours::On } else { Colours::Off };
    io::stderr().write_all(Diagnostics::new(source, report).render(colours).as_bytes())?;
    bail!("{} is refused", source.name());
}

#[cfg(test)]
mod tests;
