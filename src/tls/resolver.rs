//! Which certificate a client is shown: by server name, then by what signatures it can check.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::proto::tls::downstream_tls_context::OcspStaplePolicy;

use super::{certificate::Certificate, ocsp::Staple, stats::OcspStats};

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

    fn choose(
        &self,
        server_name: Option<&str>,
        schemes: &[SignatureScheme],
        fits: impl Fn(&Certificate) -> bool,
    ) -> Option<&Certificate> {
        let usable =
            |certificate: &&Certificate| certificate.key.key.choose_scheme(schemes).is_some() && fits(certificate);
        let Some(name) = server_name else {
            return if self.options.require_sni { None } else { self.first_usable(usable) };
        };
        let name = name.to_ascii_lowercase();
        let wildcard = name.find('.').map(|dot| &name[dot..]);
        [Some(name.as_str()), wildcard]
            .into_iter()
            .flatten()
            .filter_map(|name| self.by_name.get(name))
            .find_map(|positions| best(positions.iter().map(|position| &*self.certificates[*position]).filter(usable)))
            .or_else(|| if self.options.full_scan_on_mismatch { self.first_usable(usable) } else { self.first() })
    }

    fn first_usable(&self, usable: impl Fn(&&Certificate) -> bool + Clone) -> Option<&Certificate> {
        best(self.certificates.iter().map(|certificate| &**certificate).filter(usable)).or_else(|| self.first())
    }

    fn first(&self) -> Option<&Certificate> {
        self.certificates.first().map(|certificate| &**certificate)
    }
}

/// Of certificates that the client can check, the first with an elliptic key, or the first.
fn best<'a>(mut usable: impl Iterator<Item = &'a Certificate> + Clone) -> Option<&'a Certificate> {
    usable.clone().find(|certificate| certificate.is_ecdsa()).or_else(|| usable.next())
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.choose(hello.server_name(), hello.signature_schemes(), |_| true);
        chosen.map(|certificate| Arc::clone(&certificate.key))
    }
}

/// Certificates for clients that ask for OCSP responses.
#[derive(Debug)]
pub(super) struct StaplingResolver {
    pub(super) certificates: Arc<CertificateResolver>,
    pub(super) policy: OcspStaplePolicy,
    pub(super) stats: OcspStats,
}

impl StaplingResolver {
    fn staple(&self, certificate: &Certificate) -> Staple {
        let policy = if certificate.must_staple { OcspStaplePolicy::MustStaple } else { self.policy };
        Staple::choose(policy, certificate.ocsp.as_ref())
    }
}

impl ResolvesServerCert for StaplingResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.stats.ocsp_staple_requests.inc();
        let fits = |certificate: &Certificate| self.staple(certificate) != Staple::Refusal;
        let certificate = self.certificates.choose(hello.server_name(), hello.signature_schemes(), fits)?;
        match self.staple(certificate) {
            Staple::Response => {
                self.stats.ocsp_staple_responses.inc();
                Some(Arc::clone(&certificate.stapled))
            }
            Staple::Nothing => {
                self.stats.ocsp_staple_omitted.inc();
                Some(Arc::clone(&certificate.key))
            }
            Staple::Refusal => {
                self.stats.ocsp_staple_failed.inc();
                None
            }
        }
    }
}
