//! `portreeve run`: serve a configuration. The options are Envoy's.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;

use crate::admin::LogLevel;
use crate::proto;
use crate::proto::admin::{CommandLineOptions, command_line_options};
use crate::server::logging::{self, Log};
use crate::server::{self, ConfigSource, NodeOverrides, Options, Program, StartError, control, supervisor};

use super::EXIT_FAILURE;
use super::envoy_options::EnvoyOptions;

/// The options of `portreeve run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Signals: SIGTERM and SIGINT drain and end, a second one ends at once; SIGHUP reloads; SIGUSR1 reopens log files.",
    after_long_help = "Examples:\n  \
        portreeve run -c /etc/portreeve/envoy3.yaml\n  \
        portreeve run -c envoy3.yaml --config-yaml 'admin: {address: {socket_address: {address: 127.0.0.1, port_value: 8001}}}'\n  \
        portreeve run -c envoy3.yaml -l debug --component-log-level upstream:trace,router:info\n\n\
        Signals:\n  \
        SIGTERM, SIGINT  stop accepting, let requests finish, end with status 0; a second one ends at once\n  \
        SIGUSR1          reopen access logs and the log file\n  \
        SIGHUP           start the next process with the configuration as it is now, and leave the sockets to it; if it does\n  \
                         not come to serve, this one serves on"
)]
pub struct Args {
    /// The configuration: Envoy's bootstrap, as YAML or JSON
    #[arg(short, long, value_name = "FILE", required_unless_present = "config_yaml", help_heading = "Configuration")]
    config_path: Option<PathBuf>,
    /// YAML that is merged over the file, or stands for it
    #[arg(long, value_name = "YAML", help_heading = "Configuration")]
    config_yaml: Option<String>,
    /// Whether to serve, or only to validate the configuration and end
    #[arg(long, value_enum, default_value_t = Mode::Serve, help_heading = "Configuration")]
    mode: Mode,

    /// Threads that serve connections, at least 1; the default is one for each processor that the process may use
    #[arg(long, value_name = "N", value_parser = concurrency, help_heading = "Process")]
    concurrency: Option<NonZeroUsize>,
    /// How long connections may go on after a reload, in the process before; `unlimited`: until the last one ends
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = drain_time, help_heading = "Process")]
    drain_time_s: DrainTime,
    /// How long requests may take to finish when the process is told to end; never longer than the drain time
    #[arg(long, value_name = "SECONDS", default_value_t = 60, help_heading = "Process")]
    stop_time_s: u64,
    /// Stay above the serving process: keep its sockets, pass signals on, start another one if it crashes. For where no service manager
    /// does; always so for the first process of a container
    #[arg(long, help_heading = "Process")]
    supervise: bool,
    /// The socket for `portreeve reload` and `portreeve status`; under systemd `control.sock` in the runtime directory, else none
    #[arg(long, value_name = "PATH", help_heading = "Process")]
    control_path: Option<PathBuf>,
    /// A file for the address of the admin interface, which tells the port when 0 is configured
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    admin_address_path: Option<PathBuf>,
    /// `node.id`, in place of the configured one
    #[arg(long, value_name = "ID", help_heading = "Process")]
    service_node: Option<String>,
    /// `node.cluster`, in place of the configured one
    #[arg(long, value_name = "NAME", help_heading = "Process")]
    service_cluster: Option<String>,
    /// `node.locality.zone`, in place of the configured one
    #[arg(long, value_name = "ZONE", help_heading = "Process")]
    service_zone: Option<String>,
    /// A label of all statistics in Prometheus's format
    #[arg(long, value_name = "NAME:VALUE", value_parser = stats_tag, help_heading = "Process")]
    stats_tag: Vec<(String, String)>,

    /// What to log: trace, debug, info, warning, error, critical or off
    #[arg(short, long, value_name = "LEVEL", default_value = "info", value_parser = log_level, help_heading = "Logs")]
    log_level: LogLevel,
    /// Levels of single loggers, such as upstream:debug,router:trace; GET /logging lists the loggers
    #[arg(long, value_name = "NAME:LEVEL", value_delimiter = ',', value_parser = component_level, help_heading = "Logs")]
    component_log_level: Vec<(String, LogLevel)>,
    /// How the log looks: text, json, or auto, which is the journal's own form under systemd and text elsewhere
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = log_form, help_heading = "Logs")]
    log_format: logging::Form,
    /// A file for the log, in place of standard error
    #[arg(long, value_name = "FILE", help_heading = "Logs")]
    log_path: Option<PathBuf>,
    /// How often access logs are written out, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, help_heading = "Logs")]
    file_flush_interval_msec: u64,

    #[command(flatten)]
    envoy: EnvoyOptions,
}

/// What to do with the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Serve it
    Serve,
    /// Validate it and end
    Validate,
}

impl Args {
    /// Serves until told to stop.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let notes = self.envoy.judge()?;
        if self.file_flush_interval_msec == 0 {
            bail!("--file-flush-interval-msec must be at least 1");
        }
        let log = Log::init(logging::Options {
            level: self.log_level,
            loggers: self.component_log_level.clone(),
            form: self.log_format,
            path: self.log_path.clone(),
        })?;
        for note in notes {
            tracing::warn!("{note}");
        }
        let mode = self.mode;
        let supervise = supervisor::is_needed() || self.supervise && !supervisor::is_there();
        let options = self.options()?;
        match mode {
            Mode::Validate => {
                server::validate(&options)?;
                writeln!(io::stdout(), "configuration '{}' OK", options.command_line.config_path)?;
            }
            Mode::Serve if supervise => return Ok(supervisor::run()?),
            Mode::Serve => {
                abort_on_panic();
                match server::run(options, log) {
                    // Once is enough.
                    Err(StartError::Told) => return Ok(ExitCode::from(EXIT_FAILURE)),
                    outcome => outcome?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(self) -> anyhow::Result<Options> {
        let concurrency = match self.concurrency {
            Some(concurrency) => concurrency,
            None => thread::available_parallelism()?,
        };
        let command_line = self.command_line(concurrency);
        Ok(Options {
            config: ConfigSource { path: self.config_path, yaml: self.config_yaml, stats_tags: self.stats_tag },
            node: NodeOverrides { id: self.service_node, cluster: self.service_cluster, zone: self.service_zone },
            concurrency,
            drain_time: self.drain_time_s.0,
            stop_time: Duration::from_secs(self.stop_time_s),
            control_path: self.control_path.or_else(control_path),
            program: Program::current()?,
            flush_interval: Duration::from_millis(self.file_flush_interval_msec),
            admin_address_path: self.admin_address_path,
            command_line,
        })
    }

    /// The options as `/server_info` shows them.
    fn command_line(&self, concurrency: NonZeroUsize) -> CommandLineOptions {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let loggers: Vec<_> =
            self.component_log_level.iter().map(|(name, level)| format!("{name}:{}", level.name())).collect();
        CommandLineOptions {
            config_path: path(&self.config_path),
            config_yaml: self.config_yaml.clone().unwrap_or_default(),
            concurrency: u32::try_from(concurrency.get()).unwrap_or(u32::MAX),
            drain_time: self.drain_time_s.0.map(proto::duration),
            file_flush_interval: Some(proto::duration(Duration::from_millis(self.file_flush_interval_msec))),
            admin_address_path: path(&self.admin_address_path),
            service_node: self.service_node.clone().unwrap_or_default(),
            service_cluster: self.service_cluster.clone().unwrap_or_default(),
            service_zone: self.service_zone.clone().unwrap_or_default(),
            log_level: self.log_level.name().to_owned(),
            component_log_level: loggers.join(","),
            log_path: path(&self.log_path),
            stats_tag: self.stats_tag.iter().map(|(name, value)| format!("{name}:{value}")).collect(),
            mode: match self.mode {
                Mode::Serve => command_line_options::Mode::Serve,
                Mode::Validate => command_line_options::Mode::Validate,
            }
            .into(),
            disable_hot_restart: true,
            ..CommandLineOptions::default()
        }
    }
}

/// `None` is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DrainTime(Option<Duration>);

fn drain_time(text: &str) -> Result<DrainTime, String> {
    if text == "unlimited" {
        return Ok(DrainTime(None));
    }
    let seconds = text.parse().map_err(|_| "expected seconds, or unlimited")?;
    Ok(DrainTime(Some(Duration::from_secs(seconds))))
}

/// As in Envoy, 0 is 1.
fn concurrency(text: &str) -> Result<NonZeroUsize, String> {
    let threads: usize = text.parse().map_err(|_| "expected a number")?;
    Ok(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN))
}

/// `NAME:VALUE`. Envoy takes letters and digits for names, and values without dots.
fn stats_tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME:VALUE")?;
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("the name must be of letters and digits".to_owned());
    }
    if value.is_empty() || value.contains('.') {
        return Err("the value must not be empty, nor contain a dot".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// In the directory that systemd gives the service for such things (`RuntimeDirectory=`).
fn control_path() -> Option<PathBuf> {
    let directories = std::env::var_os("RUNTIME_DIRECTORY")?;
    Some(std::env::split_paths(&directories).next()?.join(control::FILE))
}

fn log_level(name: &str) -> Result<LogLevel, String> {
    LogLevel::from_name(name).ok_or_else(|| format!("expected one of {}", LogLevel::NAMES.join(", ")))
}

fn component_level(text: &str) -> Result<(String, LogLevel), String> {
    let (name, level) = text.split_once(':').ok_or("expected NAME:LEVEL")?;
    Ok((name.to_owned(), log_level(level)?))
}

fn log_form(name: &str) -> Result<logging::Form, String> {
    match name {
        "auto" => Ok(logging::Form::Automatic),
        "text" => Ok(logging::Form::Text),
        "json" => Ok(logging::Form::Json),
        pattern if pattern.contains('%') => {
            Err("Envoy's patterns are not implemented; expected auto, text or json".to_owned())
        }
        _ => Err("expected auto, text or json".to_owned()),
    }
}

/// A broken invariant ends the process, on whatever thread it shows: the service manager starts a sound one.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
        Command::try_parse_from([&["run"], arguments].concat()).map(|command| command.args)
    }

    #[test]
    fn options_of_envoy_are_understood() {
        let args = parse(&[
            "-c",
            "a.yaml",
            "-l",
            "warn",
            "--component-log-level",
            "upstream:debug,router:trace",
            "--concurrency",
            "2",
            "--base-id",
            "3",
            "--drain-time-s",
            "5",
            "--service-zone",
            "z",
        ])
        .unwrap();
        assert_eq!(args.envoy.judge().unwrap().len(), 1);
        let options = args.options().unwrap();
        assert_eq!(options.concurrency.get(), 2);
        assert_eq!(options.drain_time, Some(Duration::from_secs(5)));
        assert_eq!(options.command_line.component_log_level, "upstream:debug,router:trace");
        assert_eq!(options.command_line.log_level, "warning");
    }

    #[test]
    fn no_thread_at_all_is_one_as_in_envoy() {
        let args = parse(&["-c", "a.yaml", "--concurrency", "0"]).unwrap();
        assert_eq!(args.options().unwrap().concurrency, NonZeroUsize::MIN);
    }

    /// The verdicts were taken from Envoy 1.40.
    #[test]
    fn tags_of_all_statistics() {
        let args = parse(&["-c", "a.yaml", "--stats-tag", "zone:a:b", "--stats-tag", "Pod1:x-y_z/ 1"]).unwrap();
        let options = args.options().unwrap();
        assert_eq!(options.command_line.stats_tag, ["zone:a:b", "Pod1:x-y_z/ 1"]);
        assert_eq!(options.config.stats_tags[0], ("zone".to_owned(), "a:b".to_owned()));
        for wrong in ["zone", "a_b:c", "a.b:c", "a:b.c", "a:"] {
            assert!(parse(&["-c", "a.yaml", "--stats-tag", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        assert!(parse(&[]).is_err(), "a configuration is needed");
        assert!(parse(&["--config-yaml", "{}"]).is_ok());
        for wrong in
            [&["-c", "a", "-l", "loud"][..], &["-c", "a", "--concurrency", "-1"], &["-c", "a", "--log-format", "%v"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(&["-c", "a", "--restart-epoch", "1"]).unwrap().envoy.judge().is_err());
    }
}
