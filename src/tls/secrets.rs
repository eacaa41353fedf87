//! Secrets by name: `static_resources.secrets`.

use crate::{config::field::Field, proto};

/// The static secrets of a bootstrap, which TLS contexts name.
#[derive(Debug, Default)]
pub struct Secrets {}

impl Secrets {
    /// Reads and checks every secret, also those that nothing names.
    pub fn from_proto(secrets: &[proto::tls::Secret], field: Field<'_>) -> Secrets {
        let _ = (secrets, field.path());
        todo!()
    }
}
