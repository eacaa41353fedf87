//! `key_log`: the secrets of connections in a file, for programs that read recorded traffic.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::Write as _,
    sync::Arc,
};

use rustls::KeyLog;

use crate::{config::field::Field, proto::tls::TlsKeyLog};

/// A file in the format of NSS. Lines of several threads do not mix, because each is written at once.
#[derive(Debug)]
struct KeyLogFile(File);

/// The file that the message names; there is a warning, as whoever reads it reads the connections.
pub(super) fn from_proto(proto: &TlsKeyLog, field: Field<'_>) -> Option<Arc<dyn KeyLog>> {
    let TlsKeyLog { path, local_address_range, remote_address_range } = proto;
    field.unsupported("local_address_range", local_address_range);
    field.unsupported("remote_address_range", remote_address_range);
    let field = field.key("path");
    let file = OpenOptions::new().append(true).create(true).open(path);
    let file = file.inspect_err(|error| field.error(format!("cannot write {path:?}: {error}"))).ok()?;
    field.warning("whoever can read this file can read all connections");
    Some(Arc::new(KeyLogFile(file)))
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        for byte in client_random {
            let _ = write!(line, "{byte:02x}"); // writing to a String cannot fail
        }
        line.push(' ');
        for byte in secret {
            let _ = write!(line, "{byte:02x}");
        }
        line.push('\n');
        // A full disk costs the log, not the connection.
        let _ = (&self.0).write_all(line.as_bytes());
    }
}
