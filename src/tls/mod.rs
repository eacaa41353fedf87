//! TLS contexts: certificates, verification, resumption. rustls is named here and in `net::io` only.
//!
//! A context becomes a [`DownstreamTls`] or an [`UpstreamTls`] when configuration is loaded: files are read, keys compared with
//! their certificates, matchers compiled. A handshake then only looks things up.

mod certificate;
mod cipher_suites;
mod client_hello;
mod common_context;
mod downstream;
mod error;
mod files;
mod fingerprint;
mod key_log;
mod ocsp;
mod parameters;
mod pem;
mod renewal;
mod resolver;
mod secret_counts;
mod secrets;
mod spiffe;
mod stats;
#[cfg(test)]
pub(crate) mod test_pki;
#[cfg(test)]
mod tests;
mod ticket;
mod ticket_keys;
mod upstream;
mod validation;
mod verifier;
mod x509;

pub use certificate::LoadedCertificate;
pub use client_hello::{ClientHello, Inspected};
pub use downstream::DownstreamTls;
pub use error::TlsError;
pub use files::WatchedFiles;
pub use fingerprint::Offer;
pub use renewal::{Owner, Renewal, RenewalStats};
pub use secret_counts::SecretCounts;
pub use secrets::Secrets;
pub use ticket_keys::TicketKeys;
pub use upstream::UpstreamTls;
