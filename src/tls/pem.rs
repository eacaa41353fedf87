//! PEM: certificates, keys and revocation lists in a file, or in the configuration itself.
//!
//! The only file that names the PEM parser.

use std::fmt::{self, Display, Formatter};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls_pemfile::Item;

use crate::{
    config::field::Field,
    proto::core::{DataSource, data_source::Specifier},
};

use super::{files::FileReader, x509::sha256};

/// The PEM sections of one source that TLS has a use for.
pub(super) struct Pem {
    pub(super) origin: Origin,
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
    /// There is a key that only a passphrase opens.
    pub(super) has_encrypted_key: bool,
}

/// Where bytes come from, for messages and for `/certs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin(String);

impl Origin {
    pub(super) fn of(source: &DataSource) -> Origin {
        Origin(match &source.specifier {
            Some(Specifier::Filename(path)) => path.clone(),
            Some(Specifier::InlineBytes(_) | Specifier::InlineString(_)) => "<inline>".to_owned(),
            Some(Specifier::EnvironmentVariable(name)) => format!("${name}"),
            None => String::new(),
        })
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What Envoy calls, in statistics, a certificate that has no name: after what the configuration holds of it in `inline_bytes`.
pub(super) fn stat_name(kind: &str, source: &DataSource) -> String {
    let inline = match &source.specifier {
        Some(Specifier::InlineBytes(bytes)) => bytes.as_slice(),
        _ => &[],
    };
    let [a, b, c, d, ..] = sha256(inline);
    format!("{kind}_{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// The place of a source's value: `certificate_chain.filename` rather than `certificate_chain`.
pub(super) fn value<'a>(source: &DataSource, field: &'a Field<'a>) -> Field<'a> {
    match &source.specifier {
        Some(Specifier::Filename(_)) => field.key("filename"),
        Some(Specifier::InlineBytes(_)) => field.key("inline_bytes"),
        Some(Specifier::InlineString(_)) => field.key("inline_string"),
        Some(Specifier::EnvironmentVariable(_)) => field.key("environment_variable"),
        None => *field,
    }
}

/// Reads a source and splits it; sections of other kinds, such as Diffie-Hellman parameters, are skipped.
pub(super) fn load(source: &DataSource, field: Field<'_>, files: &FileReader) -> Option<Pem> {
    let bytes = files.read(source, field)?;
    let mut pem = Pem {
        origin: Origin::of(source),
        certificates: Vec::new(),
        keys: Vec::new(),
        crls: Vec::new(),
        has_encrypted_key: has_encrypted_key(&bytes),
    };
    let mut rest = bytes.as_slice();
    loop {
        match rustls_pemfile::read_one_from_slice(rest) {
            Ok(None) => return Some(pem),
            Ok(Some((item, tail))) => {
                pem.add(item);
                rest = tail;
            }
            Err(error) => {
                value(source, &field).error(format!("{} is not valid PEM: {error:?}", pem.origin));
                return None;
            }
        }
    }
}

impl Pem {
    fn add(&mut self, item: Item) {
        match item {
            Item::X509Certificate(certificate) => self.certificates.push(certificate),
            Item::Pkcs1Key(key) => self.keys.push(key.into()),
            Item::Pkcs8Key(key) => self.keys.push(key.into()),
            Item::Sec1Key(key) => self.keys.push(key.into()),
            Item::Crl(crl) => self.crls.push(crl),
            _ => {}
        }
    }
}

/// Whether there is a passphrase-protected key, in either of the two ways that OpenSSL writes them. The parser passes over the
/// newer and takes the older for damaged.
fn has_encrypted_key(bytes: &[u8]) -> bool {
    let contains = |needle: &[u8]| memchr::memmem::find(bytes, needle).is_some();
    contains(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(b"Proc-Type: 4,ENCRYPTED")
}
