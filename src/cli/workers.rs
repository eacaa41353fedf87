//! `portreeve workers`.

use std::process::ExitCode;

/// The options of `portreeve workers`.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        todo!()
    }
}
