//! `portreeve version`: one line, as `envoy --version` prints one.

use std::io::{self, Write};
use std::process::ExitCode;

/// `portreeve version` takes no options.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        writeln!(io::stdout(), "portreeve {}", env!("CARGO_PKG_VERSION"))?;
        Ok(ExitCode::SUCCESS)
    }
}
