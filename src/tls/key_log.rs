//! `key_log`: the secrets of connections in a file, for programs that read recorded traffic.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::Write as _,
    sync::Arc,
};

use rustls::KeyLog;

use crate::{
    config::field::Field,
    matcher::CidrRange,
    net::{Address, Io},
    proto::{self, tls::TlsKeyLog},
};

/// A file in the format of NSS. Lines of several threads do not mix, because each is written at once.
#[derive(Debug)]
struct KeyLogFile(File);

/// Which connections are logged where.
#[derive(Clone, Debug)]
pub(super) struct ConnectionKeyLog {
    file: Arc<KeyLogFile>,
    /// The addresses of our end; all, if there are none.
    local: Vec<CidrRange>,
    /// Those of the peer's.
    remote: Vec<CidrRange>,
}

impl ConnectionKeyLog {
    /// Opens the file that the message names; there is a warning, as whoever reads it reads the connections.
    pub(super) fn from_proto(proto: &TlsKeyLog, field: Field<'_>) -> Option<ConnectionKeyLog> {
        let TlsKeyLog { path, local_address_range, remote_address_range } = proto;
        let ranges = |name, protos: &[proto::core::CidrRange]| {
            let list = field.key(name);
            let ranges =
                protos.iter().enumerate().map(|(index, proto)| CidrRange::from_proto(proto, list.index(index)));
            ranges.collect::<Option<Vec<_>>>()
        };
        let local = ranges("local_address_range", local_address_range)?;
        let remote = ranges("remote_address_range", remote_address_range)?;
        let field = field.key("path");
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.inspect_err(|error| field.error(format!("cannot write {path:?}: {error}"))).ok()?;
        field.warning("whoever can read this file can read the connections");
        Some(ConnectionKeyLog { file: Arc::new(KeyLogFile(file)), local, remote })
    }

    /// The log for a connection, if it is to be logged.
    pub(super) fn of(&self, connection: &Io) -> Option<Arc<dyn KeyLog>> {
        let logged = within(&self.local, connection.local_address()) && within(&self.remote, connection.peer_address());
        logged.then(|| Arc::clone(&self.file) as Arc<dyn KeyLog>)
    }
}

fn within(ranges: &[CidrRange], address: &Address) -> bool {
    ranges.is_empty() || address.ip().is_some_and(|ip| ranges.iter().any(|range| range.contains(ip)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_choose_connections() {
        let range = CidrRange::new([10, 1, 0, 0].into(), 16).unwrap();
        let (inside, outside) = (Address::Ip(([10, 1, 2, 3], 443).into()), Address::Ip(([10, 2, 0, 1], 443).into()));
        let pipe = Address::Pipe("/run/x.sock".into());
        assert!(within(&[range], &inside));
        assert!(!within(&[range], &outside) && !within(&[range], &pipe));
        assert!(within(&[], &outside) && within(&[], &pipe), "without ranges every connection");
    }
}
