//! `/logging`: what is logged by which part of the process.

use std::fmt::Write;

use super::{Process, endpoint::Answer, query::Query};

/// A part of the process that logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    /// Its name, such as `conn_manager`.
    pub name: String,
    /// The least severe that it logs.
    pub level: LogLevel,
}

/// How severe a message must be to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What helps to debug.
    Debug,
    /// What a reader of the log may want to know.
    Info,
    /// What an operator should look at.
    Warning,
    /// What failed.
    Error,
    /// What the process cannot go on with.
    Critical,
    /// Nothing.
    Off,
}

impl LogLevel {
    /// The names of the levels in their order.
    pub const NAMES: [&'static str; 7] = ["trace", "debug", "info", "warning", "error", "critical", "off"];
    const ALL: [Self; 7] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical, Self::Off];

    /// The level of this name; `warn` is another name of `warning`, as on the command line.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = if name == "warn" { "warning" } else { name };
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// The name of the level.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// No part of the process that logs has this name.
#[derive(Debug, thiserror::Error)]
#[error("unknown logger name")]
pub struct UnknownLogger;

/// Why a change of levels was refused, in Envoy's words.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error("invalid number of parameters")]
    TooMany,
    #[error("empty logger name or empty logger level")]
    Empty,
    #[error("group parameter requires fine-grain logging to be enabled")]
    NoGroups,
    #[error("unknown logger level")]
    UnknownLevel,
    #[error(transparent)]
    UnknownLogger(#[from] UnknownLogger),
}

/// Changes what `query` says, if anything, and prints the levels.
pub(super) fn respond(process: &dyn Process, query: &Query) -> Answer {
    if query.is_empty() {
        return Answer::text(levels(process));
    }
    match change(process, query) {
        Ok(()) => Answer::text(levels(process)),
        Err(error) => Answer::bad_request(format!(
            "error: {error}\n\n\
             usage: /logging?<name>=<level> (change single level)\n\
             usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
             usage: /logging?level=<level> (change all levels)\n\
             usage: /logging?group=<group_name>:<level> (change group of loggers)\n\
             levels: {}\n{}",
            LogLevel::NAMES.join(" "),
            levels(process)
        )),
    }
}

fn levels(process: &dyn Process) -> String {
    let mut text = String::from("active loggers:\n");
    for Logger { name, level } in process.loggers() {
        let _ = writeln!(text, "  {name}: {}", level.name());
    }
    text.push('\n');
    text
}

/// All changes are checked before the first is made.
fn change(process: &dyn Process, query: &Query) -> Result<(), ChangeError> {
    let mut given = query.iter();
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        return Err(ChangeError::TooMany);
    };
    match name {
        "level" => Ok(process.set_log_level(None, level(value)?)?),
        "group" => Err(ChangeError::NoGroups),
        "paths" => {
            let known = process.loggers();
            let changes: Vec<(&str, LogLevel)> = value
                .split(',')
                .filter(|path| !path.is_empty())
                .map(|path| {
                    let (name, value) = path.split_once(':').ok_or(ChangeError::Empty)?;
                    if name.is_empty() || value.is_empty() {
                        return Err(ChangeError::Empty);
                    }
                    if !known.iter().any(|logger| logger.name == name) {
                        return Err(UnknownLogger.into());
                    }
                    Ok((name, level(value)?))
                })
                .collect::<Result<_, _>>()?;
            changes.into_iter().try_for_each(|(name, level)| Ok(process.set_log_level(Some(name), level)?))
        }
        name => Ok(process.set_log_level(Some(name), level(value)?)?),
    }
}

fn level(name: &str) -> Result<LogLevel, ChangeError> {
    LogLevel::from_name(name).ok_or(ChangeError::UnknownLevel)
}
