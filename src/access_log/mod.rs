//! Access logs (`envoy.config.accesslog.v3.AccessLog`): a filter, a format and a place for the lines.
//!
//! Everything is compiled when the configuration is loaded. At the end of a stream, [`AccessLog::log`] reads its [`StreamInfo`] and appends
//! to a buffer of the worker; `file.rs` takes it from there. The text formats of `format.rs` also make the values of headers.

mod command;
mod file;
mod filter;
mod format;
mod grpc_status;
mod journal;
mod json;
mod operator;
mod plain;
mod print;
mod scope;
mod substitution;
mod time;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::config::Field;
use crate::proto;
use crate::proto::accesslog::access_log::ConfigType;
use crate::proto::file_access_log::FileAccessLog;
use crate::proto::file_access_log::file_access_log::AccessLogFormat as FileFormat;
use crate::proto::stream_access_log::stderr_access_log::AccessLogFormat as StderrFormat;
use crate::proto::stream_access_log::stdout_access_log::AccessLogFormat as StdoutFormat;
use crate::proto::stream_access_log::{StderrAccessLog, StdoutAccessLog};
use crate::runtime::Runtime;
use crate::stream_info::{HeaderCapture, StreamInfo};

pub use command::FormatError;
pub use file::{Buffers, Destination, Mode, Sinks};
pub use filter::Filter;
pub use format::{Format, Style};
pub use scope::Scope;
pub use substitution::{Purpose, SubstitutionFormat};

use file::Sink;
use journal::JournalEntry;

/// One access log of a connection manager.
#[derive(Debug)]
pub struct AccessLog {
    filter: Option<Filter>,
    line: Line,
    sink: Arc<Sink>,
    capture: HeaderCapture,
}

/// What an entry looks like.
#[derive(Debug)]
enum Line {
    Formatted(SubstitutionFormat),
    Journal(JournalEntry),
}

impl AccessLog {
    /// Converts an access log and reports what is wrong with it. Its destination is opened among `sinks`.
    pub fn from_proto(log: &proto::accesslog::AccessLog, field: Field<'_>, sinks: &Sinks) -> Option<AccessLog> {
        // The name is free text; the type of the configuration says which log it is.
        let proto::accesslog::AccessLog { name: _name, filter, config_type } = log;
        let filter = match filter {
            Some(filter) => Filter::from_proto(filter, field.key("filter")).map(Some),
            None => Some(None),
        };
        let Some(ConfigType::TypedConfig(config)) = config_type else {
            field.key("typed_config").error("is required");
            return None;
        };
        let field = field.key("typed_config");
        let (line, destination) = logger(config, field)?;
        let sink = sinks
            .open(&destination)
            .map_err(|error| field.error(format!("cannot write to {destination}: {error}")))
            .ok()?;
        let log = AccessLog { filter: filter?, line: line?, sink, capture: HeaderCapture::default() };
        Some(AccessLog { capture: log.needs(), ..log })
    }

    /// The headers that must be kept until the end of a stream.
    #[must_use]
    pub fn capture(&self) -> &HeaderCapture {
        &self.capture
    }

    fn needs(&self) -> HeaderCapture {
        let mut capture = HeaderCapture::default();
        if let Some(filter) = &self.filter {
            filter.capture(&mut capture);
        }
        match &self.line {
            Line::Formatted(format) => format.capture(&mut capture),
            Line::Journal(entry) => entry.capture(&mut capture),
        }
        capture
    }

    /// Logs a stream that has ended, if the filter lets it, by the `runtime` as it is then.
    pub fn log(&self, info: &StreamInfo, runtime: &Runtime, buffers: &Buffers) {
        if self.filter.as_ref().is_some_and(|filter| !filter.passes(info, runtime)) {
            return;
        }
        let scope = Scope::finished(info);
        buffers.append(&self.sink, |out| match &self.line {
            Line::Formatted(format) => format.render(&scope, out),
            Line::Journal(entry) => entry.render(&scope, out),
        });
    }
}

/// The extension that `config` holds: what it prints, and where to.
fn logger(config: &proto::Any, field: Field<'_>) -> Option<(Option<Line>, Destination)> {
    match config.type_url.rsplit('.').next().unwrap_or_default() {
        "FileAccessLog" => {
            let FileAccessLog { path, access_log_format } = field.unpack(config)?;
            let line = match &access_log_format {
                None => Some(SubstitutionFormat::default_log()),
                Some(FileFormat::Format(text)) => SubstitutionFormat::from_text(text, field.key("format")),
                Some(FileFormat::JsonFormat(json)) => SubstitutionFormat::from_json(json, field.key("json_format")),
                Some(FileFormat::TypedJsonFormat(json)) => {
                    SubstitutionFormat::from_json(json, field.key("typed_json_format"))
                }
                Some(FileFormat::LogFormat(format)) => {
                    SubstitutionFormat::from_proto(format, Purpose::Log, field.key("log_format"))
                }
            };
            Some((line.map(Line::Formatted), Destination::from_path(&path)))
        }
        "StdoutAccessLog" => {
            let StdoutAccessLog { access_log_format } = field.unpack(config)?;
            let line = match &access_log_format {
                None => Some(SubstitutionFormat::default_log()),
                Some(StdoutFormat::LogFormat(format)) => {
                    SubstitutionFormat::from_proto(format, Purpose::Log, field.key("log_format"))
                }
            };
            Some((line.map(Line::Formatted), Destination::Stdout))
        }
        "StderrAccessLog" => {
            let StderrAccessLog { access_log_format } = field.unpack(config)?;
            let line = match &access_log_format {
                None => Some(SubstitutionFormat::default_log()),
                Some(StderrFormat::LogFormat(format)) => {
                    SubstitutionFormat::from_proto(format, Purpose::Log, field.key("log_format"))
                }
            };
            Some((line.map(Line::Formatted), Destination::Stderr))
        }
        "JournalAccessLog" => {
            let (entry, destination) = JournalEntry::from_proto(&field.unpack(config)?, field)?;
            Some((Some(Line::Journal(entry)), destination))
        }
        _ => {
            // It takes no part in traffic, but whoever relies on the log must know that it is not written.
            let name = config.type_url.rsplit('/').next().unwrap_or_default();
            field.error(format!("{name} is not implemented by Portreeve yet"));
            None
        }
    }
}
