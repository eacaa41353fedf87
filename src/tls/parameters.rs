//! Versions, cipher suites and curves: `envoy.extensions.transport_sockets.tls.v3.TlsParameters`, in OpenSSL's names.

use std::sync::Arc;

use rustls::{
    SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, aws_lc_rs::kx_group},
    version::{TLS12, TLS13},
};

use crate::{
    config::field::Field,
    proto::tls::{
        TlsParameters,
        tls_parameters::{CompliancePolicy, TlsProtocol},
    },
};

use super::cipher_suites::{self, SUITES};

/// Key exchanges by all the names that Envoy knows; the first of each is the one in statistics.
pub(super) const CURVES: [(&[&str], &dyn SupportedKxGroup); 4] = [
    (&["X25519", "x25519"], kx_group::X25519),
    (&["P-256", "prime256v1", "secp256r1"], kx_group::SECP256R1),
    (&["P-384", "secp384r1"], kx_group::SECP384R1),
    (&["X25519MLKEM768"], kx_group::X25519MLKEM768),
];

const OTHER_CURVES: [&str; 2] = ["P-521", "secp521r1"];

/// Signature algorithms by the names of RFC 8446 and by OpenSSL's older ones; some are for TLS 1.2 or for certificates alone.
pub(super) const SIGNATURES: [(&[&str], &[SignatureScheme]); 11] = [
    (&["ecdsa_secp256r1_sha256", "ECDSA+SHA256"], &[SignatureScheme::ECDSA_NISTP256_SHA256]),
    (&["ecdsa_secp384r1_sha384", "ECDSA+SHA384"], &[SignatureScheme::ECDSA_NISTP384_SHA384]),
    (&["ecdsa_secp521r1_sha512", "ECDSA+SHA512"], &[SignatureScheme::ECDSA_NISTP521_SHA512]),
    (&["ed25519", "Ed25519"], &[SignatureScheme::ED25519]),
    (&["rsa_pss_rsae_sha256", "RSA-PSS+SHA256", "PSS+SHA256"], &[SignatureScheme::RSA_PSS_SHA256]),
    (&["rsa_pss_rsae_sha384", "RSA-PSS+SHA384", "PSS+SHA384"], &[SignatureScheme::RSA_PSS_SHA384]),
    (&["rsa_pss_rsae_sha512", "RSA-PSS+SHA512", "PSS+SHA512"], &[SignatureScheme::RSA_PSS_SHA512]),
    (&["rsa_pkcs1_sha256", "RSA+SHA256"], &[SignatureScheme::RSA_PKCS1_SHA256]),
    (&["rsa_pkcs1_sha384", "RSA+SHA384"], &[SignatureScheme::RSA_PKCS1_SHA384]),
    (&["rsa_pkcs1_sha512", "RSA+SHA512"], &[SignatureScheme::RSA_PKCS1_SHA512]),
    (&["rsa_pkcs1_sha1", "RSA+SHA1", "ecdsa_sha1", "ECDSA+SHA1", "rsa_pkcs1_md5_sha1"], &[]),
];

/// What `FIPS_202205` leaves, as `BoringSSL` has it: of suites, of curves, of signature algorithms.
const FIPS_202205: ([&str; 6], [&str; 2], [&str; 8]) = (
    [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ],
    ["P-256", "P-384"],
    [
        "rsa_pkcs1_sha256",
        "rsa_pkcs1_sha384",
        "rsa_pkcs1_sha512",
        "ecdsa_secp256r1_sha256",
        "ecdsa_secp384r1_sha384",
        "rsa_pss_rsae_sha256",
        "rsa_pss_rsae_sha384",
        "rsa_pss_rsae_sha512",
    ],
);

/// What a handshake may agree on.
pub(super) struct Parameters {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    /// By what algorithms both sides may sign; `None`: by all that we know.
    pub(super) signatures: Option<Vec<SignatureScheme>>,
}

impl Parameters {
    /// Envoy's defaults where nothing is said, except that TLS 1.3 is spoken upstream, too.
    pub(super) fn from_proto(proto: Option<&TlsParameters>, field: Field<'_>) -> Option<Parameters> {
        let default = TlsParameters::default();
        let TlsParameters {
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            cipher_suites,
            ecdh_curves,
            signature_algorithms,
            compliance_policies,
        } = proto.unwrap_or(&default);
        let fips = fips(compliance_policies, field.key("compliance_policies"));
        if fips? {
            return Some(Parameters::fips());
        }

        let versions = versions(*tls_minimum_protocol_version, *tls_maximum_protocol_version, field);
        let suites = suites(cipher_suites, field.key("cipher_suites"));
        let kx_groups = curves(ecdh_curves, field.key("ecdh_curves"));
        let signatures = signatures(signature_algorithms, field.key("signature_algorithms"));
        let (mut versions, mut suites, kx_groups) = (versions?, suites?, kx_groups?);

        // A version without suites cannot be spoken, and a suite without its version must not be offered.
        versions.retain(|version| suites.iter().any(|suite| suite.version() == *version));
        suites.retain(|suite| versions.contains(&suite.version()));
        if versions.is_empty() {
            field.key("cipher_suites").error("no suite is left for TLS 1.2, and TLS 1.3 is excluded");
            return None;
        }
        let provider = CryptoProvider { cipher_suites: suites, kx_groups, ..aws_lc_rs::default_provider() };
        Some(Parameters { provider: Arc::new(provider), versions, signatures: signatures? })
    }

    /// What `FIPS_202205` allows, which takes the place of all that is chosen otherwise.
    fn fips() -> Parameters {
        let (suites, curves, signatures) = FIPS_202205;
        let suites = SUITES.iter().filter(|(name, _)| suites.contains(name)).map(|(_, suite)| *suite);
        let curves = CURVES.iter().filter(|(names, _)| curves.contains(&names[0])).map(|(_, group)| *group);
        let provider = CryptoProvider {
            cipher_suites: suites.collect(),
            kx_groups: curves.collect(),
            ..aws_lc_rs::default_provider()
        };
        let signatures = SIGNATURES.iter().filter(|(names, _)| signatures.contains(&names[0]));
        let signatures = signatures.flat_map(|(_, schemes)| *schemes).copied().collect();
        Parameters { provider: Arc::new(provider), versions: vec![&TLS13, &TLS12], signatures: Some(signatures) }
    }
}

fn fips(policies: &[i32], field: Field<'_>) -> Option<bool> {
    match policies {
        [] => Some(false),
        [policy] if *policy == CompliancePolicy::Fips202205 as i32 => Some(true),
        _ => {
            field.error("FIPS_202205 is the only policy that there is");
            None
        }
    }
}

fn versions(minimum: i32, maximum: i32, field: Field<'_>) -> Option<Vec<&'static SupportedProtocolVersion>> {
    let (minimum, maximum) = (TlsProtocol::try_from(minimum).ok()?, TlsProtocol::try_from(maximum).ok()?);
    if matches!(minimum, TlsProtocol::TlSv10 | TlsProtocol::TlSv11) {
        field.key("tls_minimum_protocol_version").warning("TLS 1.0 and 1.1 are not spoken: the minimum is TLSv1_2");
    }
    if matches!(maximum, TlsProtocol::TlSv10 | TlsProtocol::TlSv11) {
        field.key("tls_maximum_protocol_version").error("TLS 1.0 and 1.1 are not spoken: the minimum is TLSv1_2");
        return None;
    }
    if minimum == TlsProtocol::TlSv13 && maximum == TlsProtocol::TlSv12 {
        field.key("tls_maximum_protocol_version").error("is less than tls_minimum_protocol_version");
        return None;
    }
    let mut versions = Vec::with_capacity(2);
    if maximum != TlsProtocol::TlSv12 {
        versions.push(&TLS13);
    }
    if minimum != TlsProtocol::TlSv13 {
        versions.push(&TLS12);
    }
    Some(versions)
}

/// The TLS 1.3 suites, which Envoy does not let one choose, and those of TLS 1.2 that are named.
fn suites(lists: &[String], field: Field<'_>) -> Option<Vec<SupportedCipherSuite>> {
    if lists.is_empty() {
        return Some(SUITES.map(|(_, suite)| suite).to_vec());
    }
    let tls13 = SUITES.iter().map(|(_, suite)| *suite).filter(|suite| suite.tls13().is_some());
    let tls12 = cipher_suites::choose(lists, field)?;
    Some(tls13.chain(tls12).collect())
}

fn curves(lists: &[String], field: Field<'_>) -> Option<Vec<&'static dyn SupportedKxGroup>> {
    if lists.is_empty() {
        return Some(CURVES.iter().map(|(_, group)| *group).collect());
    }
    let mut groups = Vec::new();
    let mut valid = true;
    for (index, list) in lists.iter().enumerate() {
        let field = field.index(index);
        for name in list.split(':') {
            match CURVES.iter().find(|(known, _)| known.contains(&name)) {
                Some((_, group)) => groups.push(*group),
                None if OTHER_CURVES.contains(&name) => field.warning(format!("{name} will not be used")),
                None => {
                    field.error(format!("unknown curve {name:?}"));
                    valid = false;
                }
            }
        }
    }
    if valid && groups.is_empty() {
        field.error("no curve is left");
    }
    (valid && !groups.is_empty()).then_some(groups)
}

fn signatures(lists: &[String], field: Field<'_>) -> Option<Option<Vec<SignatureScheme>>> {
    if lists.is_empty() {
        return Some(None);
    }
    let mut schemes = Vec::new();
    let mut unknown = Vec::new();
    for name in lists.iter().flat_map(|list| list.split(':')) {
        match SIGNATURES.iter().find(|(known, _)| known.contains(&name)) {
            Some((_, [])) => field.warning(format!("{name} is weak and will not be used")),
            Some((_, found)) => schemes.extend(*found),
            None => unknown.push(name),
        }
    }
    if !unknown.is_empty() {
        field.error(format!("unknown signature algorithms: {}", unknown.join(", ")));
    } else if schemes.is_empty() {
        field.error("no signature algorithm is left");
    }
    (unknown.is_empty() && !schemes.is_empty()).then_some(Some(schemes))
}
