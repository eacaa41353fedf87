//! A certificate that we present: `envoy.extensions.transport_sockets.tls.v3.TlsCertificate`.

use std::{sync::Arc, time::SystemTime};

use rustls::{
    SignatureAlgorithm, SignatureScheme,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer},
    sign::{CertifiedKey, Signer, SigningKey},
};

use crate::{config::field::Field, proto, stream_info::PeerCertificate};

use super::{
    files::FileReader,
    ocsp::OcspResponse,
    pem::{self, Origin, Pem},
    x509,
};

const PROTECTED: &str = "there is no reading a protected";
const STORE_WITHOUT: &str =
    "store it without, by `openssl pkey -in PROTECTED -out KEY`, for the service's user alone to read";
const CONVERT: &str =
    "make PEM of it, by `openssl pkcs12 -in FILE -nodes -out PEM`, and name that as certificate_chain";

/// A certificate chain and its key, checked to belong together.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// What statistics call it: the name of the secret that it is, or one made of what stands in the configuration.
    pub(super) stat_name: String,
    /// What to staple to it; the key in `stapled` has it.
    pub(super) ocsp: Option<OcspResponse>,
    pub(super) stapled: Arc<CertifiedKey>,
    pub(super) must_staple: bool,
    /// The DNS names it is valid for, or its common name if it has none.
    pub(super) names: Vec<String>,
    pub(super) loaded: LoadedCertificate,
}

/// A certificate in use and where it was read: a row of `/certs`.
#[derive(Clone, Debug)]
pub struct LoadedCertificate {
    /// The file, `<inline>`, or the environment variable with a `$` before it.
    pub path: String,
    /// What the certificate says.
    pub facts: Arc<PeerCertificate>,
    /// From when to when the OCSP response that is stapled to it holds.
    pub ocsp: Option<(SystemTime, Option<SystemTime>)>,
}

impl LoadedCertificate {
    /// That of an authority.
    pub(super) fn authority(origin: &Origin, facts: PeerCertificate) -> LoadedCertificate {
        LoadedCertificate { path: origin.to_string(), facts: facts.into(), ocsp: None }
    }
}

impl Certificate {
    /// Loads chain and key. One PEM file may hold both: named twice, or named once as the chain.
    pub(super) fn from_proto(
        proto: &proto::tls::TlsCertificate,
        field: Field<'_>,
        files: &FileReader,
    ) -> Option<Arc<Certificate>> {
        let proto::tls::TlsCertificate {
            certificate_chain,
            private_key,
            pkcs12,
            watched_directory,
            private_key_provider,
            password,
            ocsp_staple,
            signed_certificate_timestamp,
            tls_params,
        } = proto;
        field.unsupported("private_key_provider", private_key_provider);
        if password.is_some() && pkcs12.is_none() {
            field.key("password").error(format!("{PROTECTED} key: {STORE_WITHOUT}"));
        }
        field.unsupported("tls_params", tls_params);
        field.ignored("signed_certificate_timestamp", signed_certificate_timestamp, "TLS libraries dropped it");
        files.watch(watched_directory.as_ref());
        if pkcs12.is_some() {
            field.key("pkcs12").error(format!("PKCS#12 is not read: {CONVERT}"));
        }
        if pkcs12.is_some() || private_key_provider.is_some() {
            return None; // reported already, and there is no other key
        }

        let chain_source = field.required("certificate_chain", certificate_chain)?;
        let key_source = private_key.as_ref().unwrap_or(chain_source);
        let (chain_field, key_field) = match private_key {
            Some(_) => (field.key("certificate_chain"), field.key("private_key")),
            None => (field.key("certificate_chain"), field.key("certificate_chain")),
        };
        let chain = pem::load(chain_source, chain_field, files);
        let key = private_key.as_ref().map(|source| pem::load(source, key_field, files));
        let chain = chain?;
        let key = match &key {
            Some(key) => key.as_ref()?,
            None => &chain,
        };
        let place = pem::value(key_source, &key_field);
        let signing_key = signing_key(key, private_key.is_none(), place);
        let leaf = leaf(&chain, pem::value(chain_source, &chain_field));
        let (signing_key, facts) = (signing_key?, leaf?);
        check_pair(&chain, &key.origin, &*signing_key, place)?;
        let ocsp = match ocsp_staple {
            Some(source) => OcspResponse::from_proto(source, &chain.certificates[0], field.key("ocsp_staple"), files)?,
            None => None,
        };
        let key = CertifiedKey::new(chain.certificates, signing_key);

        Some(Arc::new(Certificate {
            stat_name: pem::stat_name("unnamed_cert", chain_source),
            names: names(&key.cert[0], &facts),
            must_staple: x509::must_staple(&key.cert[0]),
            loaded: LoadedCertificate {
                path: chain.origin.to_string(),
                facts: facts.into(),
                ocsp: ocsp.as_ref().map(OcspResponse::validity),
            },
            stapled: with_response(&key, ocsp.as_ref()),
            key: Arc::new(key),
            ocsp,
        }))
    }

    /// The same, for contexts where only these algorithms may be used to sign.
    pub(super) fn limited_to(&self, schemes: &[SignatureScheme]) -> Arc<Certificate> {
        let key = LimitedKey { key: Arc::clone(&self.key.key), schemes: schemes.to_vec() };
        let key = CertifiedKey { key: Arc::new(key), ..CertifiedKey::clone(&self.key) };
        Arc::new(Certificate { stapled: with_response(&key, self.ocsp.as_ref()), key: Arc::new(key), ..self.clone() })
    }

    /// Whether clients that can should be given this one rather than one with an RSA key: it is cheaper to sign with.
    pub(super) fn is_ecdsa(&self) -> bool {
        matches!(self.key.key.algorithm(), SignatureAlgorithm::ECDSA | SignatureAlgorithm::ED25519)
    }
}

fn with_response(key: &CertifiedKey, ocsp: Option<&OcspResponse>) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey { ocsp: ocsp.map(|response| response.der.clone()), ..key.clone() })
}

/// A key that signs by some of the algorithms that it could.
#[derive(Debug)]
struct LimitedKey {
    key: Arc<dyn SigningKey>,
    schemes: Vec<SignatureScheme>,
}

impl SigningKey for LimitedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let allowed: Vec<_> = offered.iter().filter(|scheme| self.schemes.contains(scheme)).copied().collect();
        self.key.choose_scheme(&allowed)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

fn signing_key(pem: &Pem, only_chain_named: bool, field: Field<'_>) -> Option<Arc<dyn SigningKey>> {
    let Some(key) = pem.keys.first() else {
        field.error(if pem.has_encrypted_key {
            format!("the private key in {} is protected by a passphrase: {STORE_WITHOUT}", pem.origin)
        } else if only_chain_named {
            format!("no private key in {}, and no private_key is given", pem.origin)
        } else {
            format!("no private key in {}", pem.origin)
        });
        return None;
    };
    any_supported_type(key)
        .inspect_err(|_| field.error(format!("the {} private key in {} cannot be used", encoding(key), pem.origin)))
        .ok()
}

fn encoding(key: &PrivateKeyDer<'_>) -> &'static str {
    match key {
        PrivateKeyDer::Pkcs1(_) => "PKCS#1",
        PrivateKeyDer::Sec1(_) => "SEC1",
        PrivateKeyDer::Pkcs8(_) => "PKCS#8",
        _ => "unknown",
    }
}

/// The facts of the server's own certificate, the first of the chain; warns if it is not valid today.
fn leaf(chain: &Pem, field: Field<'_>) -> Option<PeerCertificate> {
    let Some(leaf) = chain.certificates.first() else {
        field.error(format!("no certificate in {}", chain.origin));
        return None;
    };
    let Some(facts) = x509::facts(leaf) else {
        field.error(format!("the first certificate in {} is damaged", chain.origin));
        return None;
    };
    warn_of_validity(&facts, &chain.origin, field);
    Some(facts)
}

/// Warns of a certificate that has expired, or whose time has not come.
pub(super) fn warn_of_validity(facts: &PeerCertificate, origin: &Origin, field: Field<'_>) {
    let now = SystemTime::now();
    if facts.not_after.is_some_and(|end| end < now) {
        field.warning(format!("the certificate {:?} in {origin} has expired", facts.subject));
    }
    if facts.not_before.is_some_and(|start| start > now) {
        field.warning(format!("the certificate {:?} in {origin} is not valid yet", facts.subject));
    }
}

fn check_pair(chain: &Pem, key_origin: &Origin, key: &dyn SigningKey, field: Field<'_>) -> Option<()> {
    let Some(expected) = key.public_key() else { return Some(()) };
    let belongs = |certificate: &CertificateDer<'_>| x509::public_key(certificate) == Some(expected.as_ref());
    match chain.certificates.iter().position(belongs) {
        Some(0) => Some(()),
        Some(position) => {
            field.error(format!(
                "the private key in {key_origin} belongs to certificate {} of {}: the server's own must come first",
                position + 1,
                chain.origin
            ));
            None
        }
        None => {
            field.error(format!("the private key in {key_origin} does not match the certificate in {}", chain.origin));
            None
        }
    }
}

fn names(leaf: &[u8], facts: &PeerCertificate) -> Vec<String> {
    let mut names: Vec<String> = facts.dns_sans.iter().map(|name| name.to_ascii_lowercase()).collect();
    if names.is_empty() {
        names.extend(x509::common_name(leaf).map(|name| name.to_ascii_lowercase()));
    }
    names
}
