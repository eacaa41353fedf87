//! `portreeve reload`: have the next process take over from the running one.

use std::{io, io::Write, path::PathBuf, process::ExitCode};

use anyhow::bail;

use crate::server::control::{Answer, Question};

use super::{EXIT_FAILURE, control};

/// The options of `portreeve reload`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 the new process serves (without --wait: the reload has begun); 1 it does not, and the old one serves on; 2 wrong usage.",
    after_long_help = "The next process reads the configuration, takes the listening sockets and all registrations over, and serves; the old one \
        lets its connections finish. If anything is wrong, the reason is printed, and the old process serves on.\n\n\
        Exit status:\n  0  the new process serves; without --wait: the reload has begun\n  1  it does not, and the old one serves on\n  2  wrong usage"
)]
pub struct Args {
    /// Return only when the new process serves, or when it is clear that it will not; interrupting this gives the reload up
    #[arg(long)]
    wait: bool,
    /// The control socket of the running process
    #[arg(long, value_name = "PATH", env = "PORTREEVE_CONTROL", default_value = control::PATH)]
    control_path: PathBuf,
}

impl Args {
    /// Reloads.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match control::ask(&self.control_path, Question::Reload { wait: self.wait })? {
            Answer::Begun => Ok(ExitCode::SUCCESS),
            Answer::Reloaded { pid } => {
                writeln!(io::stdout(), "process {pid} serves")?;
                Ok(ExitCode::SUCCESS)
            }
            Answer::Failed { reason } => {
                writeln!(
                    io::stderr(),
                    "portreeve: reload failed, the running process serves on:\n{}",
                    reason.trim_end()
                )?;
                Ok(ExitCode::from(EXIT_FAILURE))
            }
            Answer::Status(_) => bail!("the process answers another question"),
        }
    }
}
