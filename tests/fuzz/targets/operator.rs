//! What operators write: documents, formats of logs, values of the runtime.

use std::str;

use http::{HeaderMap, HeaderName, HeaderValue};
use portreeve::{
    access_log::{self, Format, Scope, Style},
    config::{self, Colours, Diagnostics, Field, Report, Source},
    filter::Services,
    proto::bootstrap::{Bootstrap, LayeredRuntime},
    runtime::{Runtime, Value},
    snapshot::{Change, ConfigManager},
    stats::Registry,
    stream_info::StreamInfo,
};

/// Formats of access logs. A format without commands is its own text, and what is logged is one line.
pub fn access_log_format(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(format) = Format::parse(text) else { return };
    if let Some(literal) = format.as_literal() {
        assert_eq!(literal, text.replace("%%", "%"));
    }
    let mut info = StreamInfo::sample();
    let header = |name, value: &'static [u8]| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value).expect("invariant: a value"))
    };
    info.request_headers = vec![header("user-agent", b"\x80\t\xff"), header("cookie", b"a=b; c")];
    info.response_headers = vec![header("content-type", b"text/html; charset=\"a\"")];
    let headers: HeaderMap = info.request_headers.iter().cloned().collect();
    let mut line = Vec::new();
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    for style in [Style::Line, Style::LineOmittingEmpty, Style::HeaderValue, Style::Body] {
        for scope in [Scope::finished(&info), Scope::of_request(&info, &headers), Scope::of_response(&info, &headers)] {
            line.clear();
            format.render(&scope, style, &mut line);
            assert!(matches!(style, Style::HeaderValue | Style::Body) || lines(&line) <= lines(input));
        }
    }
}

/// Documents: whatever is refused is refused with an error, every problem has a place that can be shown, and the verdict is the
/// same the next time.
pub fn configuration(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let source = Source::new("fuzz.yaml", text);
    let report = Report::new();
    let document: Option<Bootstrap> = config::load(&source, &report);
    assert!(document.is_some() || report.has_errors(), "refused in silence");
    if let Some(document) = document {
        let mut manager = ConfigManager::new(Registry::new(0), access_log::Mode::Check, Services::default());
        let accepted = manager.apply(Change::Bootstrap(Box::new(document.clone()), &report)).is_ok();
        assert_ne!(accepted, report.has_errors());
        let again = Report::new();
        if accepted {
            assert!(manager.apply(Change::Bootstrap(Box::new(document), &again)).is_ok());
        }
    }
    let _ = Diagnostics::new(&source, report).render(Colours::Off);
}

/// Values of the runtime: a document of layers in all but the last line, which is a value of the admin layer.
pub fn runtime(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (layers, value) = text.rsplit_once('\n').unwrap_or(("layers: [{name: admin, admin_layer: {}}]", text));
    let report = Report::new();
    let layers: LayeredRuntime = config::load(&Source::new("runtime.yaml", layers), &report).unwrap_or_default();
    let runtime = Runtime::from_proto(&layers, "", Field::root(&report));
    let modified = runtime.modified([("key", value)]);
    assert_eq!(modified.is_some(), runtime.admin_layer().is_some());
    let modified = modified.unwrap_or(runtime);
    for (key, value) in modified.merged() {
        assert_eq!(modified.get(key), Some(value));
        if let Some(percent) = value.percent() {
            assert_eq!(percent.to_string().split('/').count(), 2);
            let _ = percent.holds(99);
        }
    }
    if let Some(number) = Value::from_text(value).integer() {
        assert_eq!(Value::from_text(&number.to_string()).integer(), Some(number));
    }
}
