//! TLS contexts: certificates, verification, resumption. rustls is named here and in `net::io` only.

mod downstream;
mod error;
mod secrets;
mod upstream;

pub use downstream::{ClientHello, DownstreamTls};
pub use error::TlsError;
pub use secrets::Secrets;
pub use upstream::UpstreamTls;
