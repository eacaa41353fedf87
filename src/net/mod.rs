//! Addresses and byte streams: what the rest of the crate says instead of "socket".

use std::error::Error;

pub mod acceptor;
pub mod address;
pub mod connection_limit;
pub mod io;
mod metered;
pub mod proxy_protocol;
pub mod socket_settings;
pub mod switchboard;

pub use acceptor::Acceptor;
pub use address::Address;
pub use connection_limit::{ConnectionLimit, ConnectionLimits};
pub use io::Io;
pub use metered::{Meter, Metered};
pub use switchboard::Switchboard;

/// An application protocol that TLS peers agree on, as far as a proxy of HTTP has to tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2 over TLS, `h2`.
    H2,
    /// HTTP/1.1, `http/1.1`.
    Http11,
}

impl Alpn {
    /// The protocol that this ALPN name stands for; `None` for the many that are not HTTP/1.1 or HTTP/2.
    #[must_use]
    pub fn from_wire(name: &[u8]) -> Option<Alpn> {
        match name {
            b"h2" => Some(Alpn::H2),
            b"http/1.1" => Some(Alpn::Http11),
            _ => None,
        }
    }

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Alpn::H2 => "h2",
            Alpn::Http11 => "http/1.1",
        }
    }
}

/// An error and what caused it, in one line.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The system's words for an error, without its number.
#[must_use]
pub fn system_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words).to_owned()
}
