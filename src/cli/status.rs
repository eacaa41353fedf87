//! `portreeve status`: which processes serve, and which still finish what they have begun.

use std::{io, io::Write, path::PathBuf, process::ExitCode};

use anyhow::bail;

use crate::server::control::{Answer, Question, Status};

use super::{EXIT_FAILURE, control};

/// The options of `portreeve status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The control socket of the running process
    #[arg(long, value_name = "PATH", env = "PORTREEVE_CONTROL", default_value = control::PATH)]
    control_path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

impl Args {
    /// Asks and prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let status = match control::ask(&self.control_path, Question::Status)? {
            Answer::Status(status) => status,
            Answer::Failed { reason } => {
                writeln!(io::stderr(), "portreeve: {reason}")?;
                return Ok(ExitCode::from(EXIT_FAILURE));
            }
            Answer::Begun | Answer::Reloaded { .. } => bail!("the process answers another question"),
        };
        let mut out = io::stdout().lock();
        match self.format {
            Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?,
            Format::Text => print(&mut out, &status)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let Status { pid, version, generation, uptime_s, state, draining } = status;
    writeln!(out, "process {pid}: {state}, version {version}, generation {generation}, up for {uptime_s} s")?;
    for earlier in draining {
        writeln!(out, "process {}: draining, generation {}", earlier.pid, earlier.generation)?;
    }
    Ok(())
}
