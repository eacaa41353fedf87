//! The command line: one file per command, Envoy's option names where Envoy has the option.
//!
//! Every command is a `clap::Args` struct with a `run` method that answers the exit status. What goes wrong on the way travels up
//! as `anyhow::Error` and is printed here, once.

mod certificate;
mod check;
mod control;
mod demo;
mod envoy_options;
mod generate;
mod reload;
mod route_check;
mod run;
mod status;
mod version;
mod workers;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A configuration that is refused, or a start-up that fails.
pub const EXIT_FAILURE: u8 = 1;

#[derive(Debug, Parser)]
#[command(
    name = "portreeve",
    version,
    about = "The single-port ingress appliance for systemd hosts.",
    long_about = "Portreeve listens where Envoy's configuration says, and takes requests to clusters and to workers that register themselves.",
    after_help = "Exit status: 0 success; 1 a configuration or start-up error; 2 wrong usage.",
    after_long_help = "Examples:\n  \
        portreeve check /etc/portreeve/envoy3.yaml      every error and warning, with its line\n  \
        portreeve route-check envoy3.yaml tests.yaml    unit tests of its routes\n  \
        portreeve run -c /etc/portreeve/envoy3.yaml     serve until SIGTERM\n  \
        portreeve reload --wait                         take the configuration over as it is now\n  \
        portreeve demo                                  a complete set-up that needs no file\n  \
        portreeve workers list                          what has registered itself\n\n\
        Exit status:\n  0  success\n  1  a configuration or start-up error\n  2  wrong usage",
    subcommand_required = true,
    arg_required_else_help = true,
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a configuration until told to stop
    Run(Box<run::Args>),
    /// Say everything that is wrong with configuration files, without serving them
    Check(check::Args),
    /// Run tests of a configuration's routes, in the files of Envoy's router check tool
    RouteCheck(route_check::Args),
    /// Serve a built-in example that needs no file
    Demo(demo::Args),
    /// Have the next process take over from the running one, with the configuration as it is now
    Reload(reload::Args),
    /// Show which processes serve, and which still finish what they have begun
    Status(status::Args),
    /// See and change the workers registered with a running Portreeve
    Workers(workers::Args),
    /// Make a self-signed certificate for a first start
    Certificate(certificate::Args),
    /// Write man pages and shell completions, for packages
    #[command(hide = true)]
    Generate(generate::Args),
    /// Print the version
    Version(version::Args),
}

/// Runs the command that the process's arguments name. Wrong usage ends the process here, with status 2.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => args.run(),
        Command::Check(args) => args.run(),
        Command::RouteCheck(args) => args.run(),
        Command::Demo(args) => args.run(),
        Command::Reload(args) => args.run(),
        Command::Status(args) => args.run(),
        Command::Workers(args) => args.run(),
        Command::Certificate(args) => args.run(),
        Command::Generate(args) => args.run(),
        Command::Version(args) => args.run(),
    };
    outcome.unwrap_or_else(|error| {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "portreeve: {error:#}");
        ExitCode::from(EXIT_FAILURE)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
