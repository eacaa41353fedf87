//! `portreeve demo`: a complete set-up that needs no file.
//!
//! The ingress is the real one, started as `portreeve run` starts it, with the configuration that `--print-config` shows. Two
//! sample workers run on a thread of their own; one registers itself over the public port, as any worker would.

mod echo;
mod files;
mod guide;
mod page;
mod sample;
mod websocket;

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};

use self::{files::Files, guide::Guide};
use crate::{
    admin::LogLevel,
    proto::admin::CommandLineOptions,
    server::{
        self, ConfigSource, NodeOverrides, Options, Program,
        logging::{self, Log},
    },
};

/// The options of `portreeve demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "It prints what to try. Ctrl-C ends it.")]
pub struct Args {
    /// The port of the ingress
    #[arg(long, default_value_t = 8443, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The port of the admin interface
    #[arg(long, default_value_t = 8001, value_parser = clap::value_parser!(u16).range(1..))]
    admin_port: u16,
    /// Where certificates and token are kept; the default is portreeve-demo in the user's runtime directory, or in /tmp
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Print the configuration and end
    #[arg(long)]
    print_config: bool,
}

impl Args {
    /// Serves until Ctrl-C.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let program = Program::current()?;
        let files = Files::prepare(self.directory)?;
        let config = config(&files, self.port, self.admin_port);
        if self.print_config {
            io::stdout().write_all(config.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        check_free(self.port, "--port")?;
        check_free(self.admin_port, "--admin-port")?;
        let log = Log::init(logging::Options {
            level: LogLevel::Warning,
            loggers: vec![("registration".to_owned(), LogLevel::Info)],
            form: logging::Form::Text,
            path: None,
        })?;
        let sample = sample::bind()?;
        let guide = Guide::new(&files, self.port, self.admin_port, &sample)?;
        let ingress = files.client(self.port);
        thread::Builder::new().name("sample".to_owned()).spawn(move || sample::run(sample, &ingress, &guide))?;
        server::run(options(config, program), log)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The configuration of the ingress.
fn config(files: &Files, port: u16, admin_port: u16) -> String {
    include_str!("demo/envoy3.yaml")
        .replace("@PORT@", &port.to_string())
        .replace("@ADMIN_PORT@", &admin_port.to_string())
        .replace("@DIRECTORY@", &files.directory().display().to_string())
}

/// Says so if something listens there already. The ingress itself would share the port with another demo.
fn check_free(port: u16, option: &str) -> anyhow::Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("port {port} of 127.0.0.1 is in use; choose another with {option}")
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on 127.0.0.1:{port} ({option})")),
    }
}

fn options(config: String, program: Program) -> Options {
    Options {
        config: ConfigSource { yaml: Some(config), ..ConfigSource::default() },
        node: NodeOverrides::default(),
        concurrency: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        drain_time: Some(Duration::from_secs(2)),
        stop_time: Duration::from_secs(2),
        control_path: None,
        program,
        flush_interval: Duration::from_millis(50),
        admin_address_path: None,
        command_line: CommandLineOptions::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::validate;

    #[test]
    fn the_configuration_is_valid() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::prepare(Some(directory.path().join("demo"))).unwrap();
        validate(&options(config(&files, 8443, 8001), Program::current().unwrap())).unwrap();
    }

    #[test]
    fn a_port_in_use_is_told_with_the_option_that_changes_it() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = check_free(port, "--port").unwrap_err().to_string();
        assert_eq!(error, format!("port {port} of 127.0.0.1 is in use; choose another with --port"));
    }
}
