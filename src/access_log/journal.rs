//! Entries for the journal of systemd (`portreeve.access_log.v1.JournalAccessLog`): each fact a field of its own.
//!
//! An entry is rendered in the journal's native protocol, each field with the length of its value, so that any bytes may stand in one. In a
//! worker's buffer an entry follows its own length; the writing thread sends each as a datagram (`file.rs`).

use std::path::PathBuf;

use crate::config::Field;
use crate::proto::access_log_journal::JournalAccessLog;
use crate::stream_info::HeaderCapture;

use super::file::Destination;
use super::format::{Format, Style};
use super::scope::Scope;

const SOCKET: &str = "/run/systemd/journal/socket";

const MESSAGE: &str = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS%";

/// The fields that every entry has.
const FIELDS: &[(&str, &str)] = &[
    ("PORTREEVE_STATUS", "%RESPONSE_CODE%"),
    ("PORTREEVE_FLAGS", "%RESPONSE_FLAGS%"),
    ("PORTREEVE_DETAILS", "%RESPONSE_CODE_DETAILS%"),
    ("PORTREEVE_METHOD", "%REQ(:METHOD)%"),
    ("PORTREEVE_PATH", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("PORTREEVE_AUTHORITY", "%REQ(:AUTHORITY)%"),
    ("PORTREEVE_PROTOCOL", "%PROTOCOL%"),
    ("PORTREEVE_CLIENT", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("PORTREEVE_ROUTE", "%ROUTE_NAME%"),
    ("PORTREEVE_CLUSTER", "%UPSTREAM_CLUSTER%"),
    ("PORTREEVE_UPSTREAM_HOST", "%UPSTREAM_HOST%"),
    ("PORTREEVE_DURATION_MS", "%DURATION%"),
    ("PORTREEVE_BYTES_RECEIVED", "%BYTES_RECEIVED%"),
    ("PORTREEVE_BYTES_SENT", "%BYTES_SENT%"),
    ("PORTREEVE_REQUEST_ID", "%REQ(X-REQUEST-ID)%"),
];

/// The length that stands before an entry in a buffer, and before a value in an entry.
const ENTRY_LENGTH: usize = size_of::<u32>();
const VALUE_LENGTH: usize = size_of::<u64>();

/// A compiled entry.
#[derive(Debug)]
pub struct JournalEntry {
    fields: Vec<(Box<str>, Format)>,
}

impl JournalEntry {
    /// Compiles an entry, and says where it goes.
    pub fn from_proto(proto: &JournalAccessLog, field: Field<'_>) -> Option<(JournalEntry, Destination)> {
        let JournalAccessLog { message, fields: further, socket } = proto;
        let message = if message.is_empty() { MESSAGE } else { message };
        let mut fields = vec![("MESSAGE".into(), Format::parse_for_log(message, field.key("message"))?)];
        for (name, format) in FIELDS {
            fields.push(((*name).into(), Format::parse(format).expect("invariant: the formats above are valid")));
        }
        let mut names: Vec<_> = further.keys().collect();
        names.sort_unstable();
        for name in names {
            let list = field.key("fields");
            let field = list.entry(name);
            if !is_field_name(name) {
                field.error("a field's name has capital letters, digits and underscores, and begins with a letter");
                return None;
            }
            fields.push((name.as_str().into(), Format::parse_for_log(&further[name], field)?));
        }
        let socket = if socket.is_empty() { SOCKET } else { socket };
        Some((JournalEntry { fields }, Destination::Journal(PathBuf::from(socket))))
    }

    /// Adds the headers that the entry needs at the end of a stream.
    pub fn capture(&self, capture: &mut HeaderCapture) {
        self.fields.iter().for_each(|(_, format)| format.capture(capture));
    }

    /// Appends one entry. Fields without a value are left out.
    pub fn render(&self, scope: &Scope<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; ENTRY_LENGTH]);
        let failed = scope.info.response_code.is_some_and(|status| status >= 500);
        let priority: &[u8] = if failed { b"PRIORITY=4\n" } else { b"PRIORITY=6\n" };
        out.extend_from_slice(priority);
        out.extend_from_slice(b"SYSLOG_IDENTIFIER=portreeve\n");
        for (name, format) in &self.fields {
            let before = out.len();
            out.extend_from_slice(name.as_bytes());
            out.push(b'\n');
            let length = out.len();
            out.extend_from_slice(&[0; VALUE_LENGTH]);
            let value = out.len();
            format.render(scope, Style::HeaderValue, out);
            if out.len() == value {
                out.truncate(before);
                continue;
            }
            let size = (out.len() - value) as u64;
            out[length..value].copy_from_slice(&size.to_le_bytes());
            out.push(b'\n');
        }
        let size = u32::try_from(out.len() - start - ENTRY_LENGTH).unwrap_or(u32::MAX);
        out[start..start + ENTRY_LENGTH].copy_from_slice(&size.to_le_bytes());
    }
}

/// The entries in a buffer.
pub fn entries(mut buffer: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = buffer.split_first_chunk::<ENTRY_LENGTH>()?;
        let (entry, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        buffer = rest;
        Some(entry)
    })
}

/// What the journal takes for a field of a program; a leading underscore is its own.
fn is_field_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::access_log::{Buffers, Mode, Sinks};
    use crate::config::Report;
    use crate::stats::Registry;
    use crate::stream_info::StreamInfo;

    /// The fields of an entry, as the journal reads them.
    fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let (line, rest) = (&entry[..end], &entry[end + 1..]);
            let (name, value, rest) = if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
                (&line[..equals], &line[equals + 1..], rest)
            } else {
                let (length, rest) = rest.split_first_chunk::<8>().unwrap();
                let (value, rest) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
                (line, value, &rest[1..])
            };
            fields.push((String::from_utf8(name.to_vec()).unwrap(), String::from_utf8_lossy(value).into_owned()));
            entry = rest;
        }
        fields
    }

    #[test]
    fn entries_reach_the_journal_field_by_field() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journal = UnixDatagram::bind(&path).unwrap();
        let proto = JournalAccessLog {
            fields: [("TENANT".to_owned(), "t\n%PROTOCOL%".to_owned())].into(),
            socket: path.to_str().unwrap().to_owned(),
            ..JournalAccessLog::default()
        };
        let report = Report::new();
        let (entry, destination) = JournalEntry::from_proto(&proto, Field::root(&report)).unwrap();
        let sinks = Sinks::new(Mode::Write, &Registry::new(1).scope(""));
        let sink = sinks.open(&destination).unwrap();
        let buffers = Buffers::default();
        let mut info = StreamInfo::sample();
        for status in [200, 503] {
            info.response_code = Some(status);
            buffers.append(&sink, |out| entry.render(&Scope::finished(&info), out));
        }
        buffers.flush();
        sinks.finish();
        let mut datagram = [0; 4096];
        for (status, priority) in [("200", "6"), ("503", "4")] {
            let size = journal.recv(&mut datagram).unwrap();
            let fields = fields(&datagram[..size]);
            let value = |name: &str| fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
            assert_eq!((value("PORTREEVE_STATUS"), value("PRIORITY")), (Some(status), Some(priority)));
            assert_eq!(value("MESSAGE"), Some(format!("GET  HTTP/1.1 {status} -").as_str()));
            assert_eq!(value("TENANT"), Some("t\nHTTP/1.1"));
            assert_eq!(value("PORTREEVE_CLUSTER"), None);
        }
    }

    #[test]
    fn names_of_fields_are_checked() {
        for name in ["_PID", "lower", "1A", "A-B", ""] {
            let fields = [(name.to_owned(), "x".to_owned())].into();
            let report = Report::new();
            let proto = JournalAccessLog { fields, ..JournalAccessLog::default() };
            assert!(JournalEntry::from_proto(&proto, Field::root(&report)).is_none() && report.has_errors(), "{name}");
        }
    }
}
