//! Which certificate a client is shown: by server name, then by what signatures it can check.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::certificate::Certificate;

/// The certificates of a downstream context.
#[derive(Debug)]
pub(super) struct CertificateResolver {
    certificates: Vec<Arc<Certificate>>,
    /// By exact name, or by `.example.com` for `*.example.com`: positions in `certificates`, in order of the document.
    by_name: HashMap<String, Vec<usize>>,
    options: ResolverOptions,
}

/// Settings of a downstream context that choose certificates.
#[derive(Debug)]
pub(super) struct ResolverOptions {
    /// Clients that name no server are refused.
    pub(super) require_sni: bool,
    /// A name that no certificate has gets the first that the client can check, not simply the first.
    pub(super) full_scan_on_mismatch: bool,
}

impl CertificateResolver {
    /// At least one certificate is needed.
    pub(super) fn new(certificates: Vec<Arc<Certificate>>, options: ResolverOptions) -> CertificateResolver {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (position, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                let name = name.strip_prefix('*').unwrap_or(name);
                by_name.entry(name.to_owned()).or_default().push(position);
            }
        }
        CertificateResolver { certificates, by_name, options }
    }

    fn choose(&self, server_name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Certificate> {
        let Some(name) = server_name else {
            return if self.options.require_sni { None } else { self.first_usable(schemes) };
        };
        let name = name.to_ascii_lowercase();
        let wildcard = name.find('.').map(|dot| &name[dot..]);
        [Some(name.as_str()), wildcard]
            .into_iter()
            .flatten()
            .filter_map(|name| self.by_name.get(name))
            .find_map(|positions| best(positions.iter().map(|position| &*self.certificates[*position]), schemes))
            .or_else(|| if self.options.full_scan_on_mismatch { self.first_usable(schemes) } else { self.first() })
    }

    fn first_usable(&self, schemes: &[SignatureScheme]) -> Option<&Certificate> {
        best(self.certificates.iter().map(|certificate| &**certificate), schemes).or_else(|| self.first())
    }

    fn first(&self) -> Option<&Certificate> {
        self.certificates.first().map(|certificate| &**certificate)
    }
}

/// Of those that the client can check, the first with an elliptic key, or the first.
fn best<'a>(
    candidates: impl Iterator<Item = &'a Certificate> + Clone,
    schemes: &[SignatureScheme],
) -> Option<&'a Certificate> {
    let mut usable = candidates.filter(|certificate| certificate.key.key.choose_scheme(schemes).is_some());
    usable.clone().find(|certificate| certificate.is_ecdsa()).or_else(|| usable.next())
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes()).map(|certificate| Arc::clone(&certificate.key))
    }
}
