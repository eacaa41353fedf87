//! Access logs (`envoy.config.accesslog.v3.AccessLog`): a filter, a format and a place for the lines.
//!
//! Everything is compiled when the configuration is loaded. At the end of a stream, [`AccessLog::log`] reads its [`StreamInfo`] and appends
//! to a buffer of the worker; `file.rs` takes it from there. The text formats of `format.rs` also make the values of headers.

mod command;
mod file;
mod filter;
mod format;
mod grpc_status;
mod json;
mod operator;
mod time;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::config::{Field, data_source};
use crate::proto;
use crate::proto::accesslog::access_log::ConfigType;
use crate::proto::core::SubstitutionFormatString;
use crate::proto::core::substitution_format_string::Format as FormatProto;
use crate::proto::file_access_log::FileAccessLog;
use crate::proto::file_access_log::file_access_log::AccessLogFormat as FileFormat;
use crate::proto::stream_access_log::stderr_access_log::AccessLogFormat as StderrFormat;
use crate::proto::stream_access_log::stdout_access_log::AccessLogFormat as StdoutFormat;
use crate::proto::stream_access_log::{StderrAccessLog, StdoutAccessLog};
use crate::stream_info::{HeaderCapture, StreamInfo};

pub use command::FormatError;
pub use file::{Buffers, Destination, Mode, Sinks};
pub use format::{Format, Style};
pub use operator::Scope;

use file::Sink;
use filter::Filter;
use json::JsonFormat;

/// What Envoy prints when no format is given.
const DEFAULT_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n",
);

/// One access log of a connection manager.
#[derive(Debug)]
pub struct AccessLog {
    filter: Option<Filter>,
    line: Line,
    sink: Arc<Sink>,
    capture: HeaderCapture,
}

#[derive(Debug)]
enum Line {
    Text(Format, Style),
    Json(JsonFormat),
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
            Line::Text(format, _) => format.capture(&mut capture),
            Line::Json(format) => format.capture(&mut capture),
        }
        capture
    }

    /// Logs a stream that has ended, if the filter lets it.
    pub fn log(&self, info: &StreamInfo, buffers: &Buffers) {
        if self.filter.as_ref().is_some_and(|filter| !filter.passes(info)) {
            return;
        }
        let scope = Scope::finished(info);
        buffers.append(&self.sink, |out| match &self.line {
            Line::Text(format, style) => format.render(&scope, *style, out),
            Line::Json(format) => format.render(&scope, out),
        });
    }
}

/// The extension that `config` holds: what it prints, and where to.
fn logger(config: &proto::Any, field: Field<'_>) -> Option<(Option<Line>, Destination)> {
    match config.type_url.rsplit('.').next().unwrap_or_default() {
        "FileAccessLog" => {
            let FileAccessLog { path, access_log_format } = field.unpack(config)?;
            let line = match &access_log_format {
                None => default_line(),
                Some(FileFormat::Format(text)) => text_line(text, Style::Line, field.key("format")),
                Some(FileFormat::JsonFormat(json)) => json_line(json, false, field.key("json_format")),
                Some(FileFormat::TypedJsonFormat(json)) => json_line(json, false, field.key("typed_json_format")),
                Some(FileFormat::LogFormat(format)) => Line::from_proto(format, field.key("log_format")),
            };
            Some((line, Destination::from_path(&path)))
        }
        "StdoutAccessLog" => {
            let StdoutAccessLog { access_log_format } = field.unpack(config)?;
            let line = match &access_log_format {
                None => default_line(),
                Some(StdoutFormat::LogFormat(format)) => Line::from_proto(format, field.key("log_format")),
            };
            Some((line, Destination::Stdout))
        }
        "StderrAccessLog" => {
            let StderrAccessLog { access_log_format } = field.unpack(config)?;
            let line = match &access_log_format {
                None => default_line(),
                Some(StderrFormat::LogFormat(format)) => Line::from_proto(format, field.key("log_format")),
            };
            Some((line, Destination::Stderr))
        }
        _ => {
            // It takes no part in traffic, but whoever relies on the log must know that it is not written.
            let name = config.type_url.rsplit('/').next().unwrap_or_default();
            field.error(format!("{name} is not implemented by Portreeve yet"));
            None
        }
    }
}

impl Line {
    fn from_proto(format: &SubstitutionFormatString, field: Field<'_>) -> Option<Line> {
        let SubstitutionFormatString { omit_empty_values, content_type, formatters, json_format_options, format } =
            format;
        field.ignored("content_type", content_type, "it is for local replies, not for logs");
        field.ignored("formatters", formatters, "the commands that they add are not implemented");
        field.ignored("json_format_options", json_format_options, "keys are always sorted");
        let style = if *omit_empty_values { Style::LineOmittingEmpty } else { Style::Line };
        match format {
            Some(FormatProto::TextFormat(text)) => text_line(text, style, field.key("text_format")),
            Some(FormatProto::JsonFormat(json)) => json_line(json, *omit_empty_values, field.key("json_format")),
            Some(FormatProto::TextFormatSource(source)) => {
                let field = field.key("text_format_source");
                let bytes = data_source::read(source, field)?;
                let text = String::from_utf8(bytes).map_err(|_| field.error("is not valid UTF-8")).ok()?;
                text_line(&text, style, field)
            }
            None => {
                field.error("one of text_format, text_format_source and json_format is required");
                None
            }
        }
    }
}

fn default_line() -> Option<Line> {
    Format::parse(DEFAULT_FORMAT).ok().map(|format| Line::Text(format, Style::Line))
}

fn text_line(text: &str, style: Style, field: Field<'_>) -> Option<Line> {
    Format::parse_for_log(text, field).map(|format| Line::Text(format, style))
}

fn json_line(format: &proto::Struct, omit_empty: bool, field: Field<'_>) -> Option<Line> {
    JsonFormat::from_proto(format, omit_empty, field).map(Line::Json)
}
