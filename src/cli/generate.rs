//! `portreeve generate`: man pages and shell completions, made from the command line itself when a package is built.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use time::OffsetDateTime;

use super::Cli;

/// The options of `portreeve generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to put the files
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl Args {
    /// Writes the files.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Args { directory } = self;
        fs::create_dir_all(&directory)?;
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
        let mut completed = Command::new("portreeve").version(env!("CARGO_PKG_VERSION")).subcommands(shown);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut completed, "portreeve", &directory)?;
        }
        man_pages(&command, &date()?, &directory)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `portreeve.8`, `portreeve-run.8` and so on: a page for each command.
fn man_pages(command: &Command, date: &str, directory: &Path) -> anyhow::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        man_pages(command, date, directory)?;
    }
    let source = concat!("portreeve ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).section("8").date(date).source(source).manual("Portreeve");
    let mut page = Vec::new();
    man.render(&mut page)?;
    // Examples and tables stay as they are, line by line.
    let page = String::from_utf8(page)?
        .replace(".SH EXTRA\n", ".SH NOTES\n.nf\n")
        .replace(".SH VERSION\n", ".fi\n.SH VERSION\n");
    fs::write(directory.join(man.get_filename()), page)?;
    Ok(())
}

/// The day of the build, or the one that stands for it where builds are to be the same.
fn date() -> anyhow::Result<String> {
    let moment = match env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => OffsetDateTime::from_unix_timestamp(seconds.parse()?)?,
        Err(_) => OffsetDateTime::now_utc(),
    };
    Ok(moment.date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_a_completion() {
        let directory = tempfile::tempdir().unwrap();
        Args { directory: directory.path().to_owned() }.run().unwrap();
        for name in ["portreeve.8", "portreeve-run.8", "portreeve-workers-list.8"] {
            assert!(directory.path().join(name).exists(), "{name}");
        }
        for name in ["portreeve.bash", "_portreeve", "portreeve.fish"] {
            let text = fs::read_to_string(directory.path().join(name)).unwrap();
            assert!(text.contains("drain-time-s"), "{name}");
            assert!(!text.contains("generate"), "{name} offers what is for building packages only");
        }
        assert!(!directory.path().join("portreeve-generate.8").exists());
    }
}
