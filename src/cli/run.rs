//! `portreeve run`.

use std::process::ExitCode;

/// The options of `portreeve run`.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        todo!()
    }
}
