//! `SubstitutionFormatString`: a text or JSON format as logs and local replies have it.
//!
//! Compiled when the configuration is loaded; filled in by walking a list and appending to the caller's buffer.

use crate::config::{Field, data_source};
use crate::proto::Struct;
use crate::proto::core::substitution_format_string::Format as FormatProto;
use crate::proto::core::{JsonFormatOptions, SubstitutionFormatString, TypedExtensionConfig};
use crate::stream_info::HeaderCapture;

use super::format::{Format, Style};
use super::json::JsonFormat;
use super::scope::Scope;

/// What Envoy logs when no format is given.
const DEFAULT_LOG_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n",
);

/// What a format is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A line of a log: control bytes are escaped, so that nobody forges a line.
    Log,
    /// The body of a local reply: bytes stay as they are, and the content type counts.
    LocalReply,
}

/// A compiled format.
///
/// ```ignore
/// // When the configuration is loaded:
/// let format = SubstitutionFormat::from_proto(proto, Purpose::LocalReply, field)?;
/// format.capture(&mut capture);       // the headers that must still be there when it is filled in
/// // For each message:
/// let scope = Scope::of_response(&info, response.headers()).with_local_reply_body(b"no route");
/// format.render(&scope, &mut body);   // appends
/// ```
#[derive(Debug)]
pub struct SubstitutionFormat {
    body: Body,
    content_type: Option<Box<str>>,
}

#[derive(Debug)]
enum Body {
    Text(Format, Style),
    Json(JsonFormat),
}

impl SubstitutionFormat {
    /// Compiles a format and reports what is wrong with it.
    #[must_use]
    pub fn from_proto(format: &SubstitutionFormatString, purpose: Purpose, field: Field<'_>) -> Option<Self> {
        let SubstitutionFormatString { omit_empty_values, content_type, formatters, json_format_options, format } =
            format;
        if purpose == Purpose::Log {
            field.ignored("content_type", content_type, "it is for local replies, not for logs");
        }
        let has_formatter = has_req_without_query(formatters, field.key("formatters"));
        // Keys are sorted in any case: where that is not asked for, no order is.
        if let Some(JsonFormatOptions { sort_properties: _sort_properties }) = json_format_options {}
        let style = Style::new(purpose, *omit_empty_values);
        let body = match format {
            Some(FormatProto::TextFormat(text)) => text_body(text, style, field.key("text_format"))?,
            Some(FormatProto::JsonFormat(json)) => json_body(json, *omit_empty_values, field.key("json_format"))?,
            Some(FormatProto::TextFormatSource(source)) => {
                let field = field.key("text_format_source");
                let bytes = data_source::read(source, field)?;
                let text = String::from_utf8(bytes).map_err(|_| field.error("is not valid UTF-8")).ok()?;
                text_body(&text, style, field)?
            }
            None => {
                field.error("one of text_format, text_format_source and json_format is required");
                return None;
            }
        };
        let needs_formatter = match &body {
            Body::Text(format, _) => format.needs_formatter(),
            Body::Json(format) => format.needs_formatter(),
        };
        if needs_formatter && !has_formatter {
            field.error("%REQ_WITHOUT_QUERY% needs envoy.formatter.req_without_query among the formatters");
            return None;
        }
        let content_type = (!content_type.is_empty()).then(|| content_type.as_str().into());
        Some(Self { body, content_type })
    }

    /// What Envoy logs when no format is given.
    #[must_use]
    pub fn default_log() -> Self {
        let format = Format::parse(DEFAULT_LOG_FORMAT).expect("invariant: the format above is valid");
        Self::of(Body::Text(format, Style::Line))
    }

    /// A log's format by one of the fields that came before `log_format`.
    pub(super) fn from_text(text: &str, field: Field<'_>) -> Option<Self> {
        text_body(text, Style::Line, field).map(Self::of)
    }

    /// A log's format by one of the fields that came before `log_format`.
    pub(super) fn from_json(json: &Struct, field: Field<'_>) -> Option<Self> {
        json_body(json, false, field).map(Self::of)
    }

    fn of(body: Body) -> Self {
        Self { body, content_type: None }
    }

    /// The `content-type` of what the format makes, as configured or by its kind.
    #[must_use]
    pub fn content_type(&self) -> &str {
        match (&self.content_type, &self.body) {
            (Some(configured), _) => configured,
            (None, Body::Text(..)) => "text/plain",
            (None, Body::Json(_)) => "application/json",
        }
    }

    /// Appends the format, filled in, to `out`.
    pub fn render(&self, scope: &Scope<'_>, out: &mut Vec<u8>) {
        match &self.body {
            Body::Text(format, style) => format.render(scope, *style, out),
            Body::Json(format) => format.render(scope, out),
        }
    }

    /// Adds the headers that must be kept until the format is filled in.
    pub fn capture(&self, capture: &mut HeaderCapture) {
        match &self.body {
            Body::Text(format, _) => format.capture(capture),
            Body::Json(format) => format.capture(capture),
        }
    }
}

/// Whether the one formatter that adds a command is there. What the others add, every format knows or refuses by itself.
fn has_req_without_query(formatters: &[TypedExtensionConfig], field: Field<'_>) -> bool {
    let mut found = false;
    for (i, formatter) in formatters.iter().enumerate() {
        let TypedExtensionConfig { name: _name, typed_config } = formatter;
        let kind = typed_config.as_ref().and_then(|config| config.type_url.rsplit('/').next()).unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            "ReqWithoutQuery" => found = true,
            "Metadata" | "Cel" => {}
            _ => field.index(i).error(format!("{kind} is not implemented by Portreeve yet")),
        }
    }
    found
}

impl Style {
    fn new(purpose: Purpose, omit_empty: bool) -> Style {
        match (purpose, omit_empty) {
            (Purpose::Log, false) => Style::Line,
            (Purpose::Log, true) => Style::LineOmittingEmpty,
            (Purpose::LocalReply, false) => Style::Body,
            (Purpose::LocalReply, true) => Style::HeaderValue,
        }
    }
}

fn text_body(text: &str, style: Style, field: Field<'_>) -> Option<Body> {
    Format::parse_for_log(text, field).map(|format| Body::Text(format, style))
}

fn json_body(format: &Struct, omit_empty: bool, field: Field<'_>) -> Option<Body> {
    JsonFormat::from_proto(format, omit_empty, field).map(Body::Json)
}
