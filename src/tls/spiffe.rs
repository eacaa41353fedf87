//! `envoy.tls.cert_validator.spiffe`: each trust domain has authorities of its own, so that none can vouch for the workloads of another.
//!
//! Which ones count for a certificate says its SPIFFE ID, the first URI among its alternative names (X.509-SVID).

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{RootCertStore, pki_types::CertificateDer};
use serde::Deserialize;

use crate::{
    config::field::Field,
    proto::{
        core::{DataSource, TypedExtensionConfig},
        tls::{CertificateValidationContext, SpiffeCertValidatorConfig, spiffe_cert_validator_config::TrustDomain},
    },
};

use super::{
    certificate::LoadedCertificate,
    files::FileReader,
    pem::{self, Origin},
    validation::Trust,
    x509,
};

/// The authorities of each trust domain.
#[derive(Debug)]
pub(super) struct TrustDomains {
    by_name: BTreeMap<String, Trust>,
    /// Those of all domains, for `/certs`.
    pub(super) loaded: Vec<LoadedCertificate>,
}

impl TrustDomains {
    /// The validator that `custom_validator_config` of `context` names; there is no other.
    pub(super) fn from_proto(
        context: &CertificateValidationContext,
        proto: &TypedExtensionConfig,
        field: Field<'_>,
        files: &FileReader,
    ) -> Option<TrustDomains> {
        report_unused(context, field);
        let field = field.key("custom_validator_config");
        let TypedExtensionConfig { name, typed_config } = proto;
        if name != "envoy.tls.cert_validator.spiffe" {
            field
                .key("name")
                .error(format!("{name:?} is not implemented by Portreeve: there is envoy.tls.cert_validator.spiffe"));
            return None;
        }
        let config = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let SpiffeCertValidatorConfig { trust_domains, trust_bundles } =
            field.unpack::<SpiffeCertValidatorConfig>(config)?;
        let by_name = match &trust_bundles {
            Some(source) => bundles(source, field.key("trust_bundles"), files)?,
            None => domains(&trust_domains, field.key("trust_domains"), files)?,
        };
        let loaded = by_name.values().flat_map(|trust| trust.loaded.iter().cloned()).collect();
        Some(TrustDomains { by_name, loaded })
    }

    /// The trust domain that has to vouch for this certificate; `None` for one that cannot be that of a workload.
    pub(super) fn of(&self, leaf: &[u8]) -> Option<&str> {
        let uri = x509::workload_uri(leaf)?;
        self.by_name.get_key_value(trust_domain(&uri)?).map(|(name, _)| name.as_str())
    }

    /// All of them, with the names of their domains.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Trust)> {
        self.by_name.iter()
    }
}

/// What stands beside the validator and has no effect with it, in Envoy neither.
fn report_unused(context: &CertificateValidationContext, field: Field<'_>) {
    const WHY: &str =
        "the SPIFFE validator looks at its own bundles, at alternative names and at allow_expired_certificate only";
    field.ignored("trusted_ca", &context.trusted_ca, WHY);
    field.ignored("system_root_certs", &context.system_root_certs, WHY);
    field.ignored("crl", &context.crl, WHY);
    field.ignored("verify_certificate_hash", &context.verify_certificate_hash, WHY);
    field.ignored("verify_certificate_spki", &context.verify_certificate_spki, WHY);
    field.ignored("trust_chain_verification", &context.trust_chain_verification, WHY);
    field.ignored("max_verify_depth", &context.max_verify_depth, WHY);
}

fn domains(protos: &[TrustDomain], field: Field<'_>, files: &FileReader) -> Option<BTreeMap<String, Trust>> {
    if protos.is_empty() {
        field.error("at least one trust domain is required");
        return None;
    }
    let mut by_name = BTreeMap::new();
    for (index, proto) in protos.iter().enumerate() {
        let field = field.index(index);
        let TrustDomain { name, trust_bundle, workload_trust_domain } = proto;
        field.unsupported("workload_trust_domain", workload_trust_domain);
        let bundle = field.required("trust_bundle", trust_bundle)?;
        let trust = Trust::from_source(bundle, field.key("trust_bundle"), files)?;
        if by_name.insert(name.clone(), trust).is_some() {
            field.key("name").error(format!("Multiple trust bundles are given for one trust domain for {name}"));
            return None;
        }
    }
    Some(by_name)
}

/// A SPIFFE bundle map, which holds the bundles of all domains as JSON Web Keys.
#[derive(Deserialize)]
struct BundleMap {
    trust_domains: BTreeMap<String, Bundle>,
}

#[derive(Deserialize)]
struct Bundle {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "use")]
    purpose: String,
    #[serde(default)]
    x5c: Vec<String>,
}

fn bundles(source: &DataSource, field: Field<'_>, files: &FileReader) -> Option<BTreeMap<String, Trust>> {
    let bytes = files.read(source, field)?;
    let field = pem::value(source, &field);
    let map: BundleMap = serde_json::from_slice(&bytes)
        .inspect_err(|error| field.error(format!("is not a SPIFFE bundle map: {error}")))
        .ok()?;
    let mut by_name = BTreeMap::new();
    for (name, Bundle { keys }) in map.trust_domains {
        let encoded = keys.iter().filter(|key| key.purpose == "x509-svid").flat_map(|key| &key.x5c);
        let certificates: Option<Vec<_>> =
            encoded.map(|text| STANDARD.decode(text).ok().map(CertificateDer::from)).collect();
        let trust = certificates.and_then(|certificates| trust(certificates, &Origin::of(source)));
        let Some(trust) = trust else {
            field.error(format!("the bundle of {name} holds no certificate, or a damaged one"));
            return None;
        };
        by_name.insert(name, trust);
    }
    Some(by_name)
}

fn trust(certificates: Vec<CertificateDer<'static>>, origin: &Origin) -> Option<Trust> {
    let mut roots = RootCertStore::empty();
    let mut loaded = Vec::with_capacity(certificates.len());
    for certificate in &certificates {
        roots.add(certificate.clone()).ok()?;
        loaded.push(LoadedCertificate::authority(origin, x509::facts(certificate)?));
    }
    (!certificates.is_empty()).then(|| Trust::new(roots, certificates, loaded))
}

/// `example.org` of `spiffe://example.org/workload`.
fn trust_domain(id: &str) -> Option<&str> {
    let (domain, _) = id.strip_prefix("spiffe://")?.split_once('/')?;
    Some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trust_domain_stands_between_scheme_and_path() {
        assert_eq!(trust_domain("spiffe://a.example/b/c"), Some("a.example"));
        for id in ["spiffe://a.example", "https://a.example/b", "a.example/b", ""] {
            assert_eq!(trust_domain(id), None, "{id}");
        }
    }
}
