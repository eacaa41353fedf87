//! Versions, cipher suites and curves: `envoy.extensions.transport_sockets.tls.v3.TlsParameters`, in OpenSSL's names.

use std::sync::Arc;

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, aws_lc_rs::cipher_suite, aws_lc_rs::kx_group},
    version::{TLS12, TLS13},
};

use crate::{
    config::field::Field,
    proto::tls::{TlsParameters, tls_parameters::TlsProtocol},
};

/// Suites in the order in which we prefer them, with OpenSSL's names. AES-128 comes first: it is as safe as need be and the
/// cheapest where processors know AES.
pub(super) const SUITES: [(&str, SupportedCipherSuite); 9] = [
    ("TLS_AES_128_GCM_SHA256", cipher_suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Suites that Envoy would take and that lack forward secrecy or authenticated encryption.
const WEAK_SUITES: [&str; 13] = [
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "AES128-SHA256",
    "AES256-SHA256",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA256",
];

/// Key exchanges by all the names that Envoy knows; the first of each is the one in statistics.
pub(super) const CURVES: [(&[&str], &dyn SupportedKxGroup); 4] = [
    (&["X25519", "x25519"], kx_group::X25519),
    (&["P-256", "prime256v1", "secp256r1"], kx_group::SECP256R1),
    (&["P-384", "secp384r1"], kx_group::SECP384R1),
    (&["X25519MLKEM768"], kx_group::X25519MLKEM768),
];

const OTHER_CURVES: [&str; 5] = ["P-521", "secp521r1", "P-224", "secp224r1", "X25519Kyber768Draft00"];

/// What a handshake may agree on.
pub(super) struct Parameters {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
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
        field.unsupported("signature_algorithms", signature_algorithms);
        field.unsupported("compliance_policies", compliance_policies);

        let versions = versions(*tls_minimum_protocol_version, *tls_maximum_protocol_version, field);
        let suites = suites(cipher_suites, field.key("cipher_suites"));
        let kx_groups = curves(ecdh_curves, field.key("ecdh_curves"));
        let (mut versions, mut suites, kx_groups) = (versions?, suites?, kx_groups?);

        // A version without suites cannot be spoken, and a suite without its version must not be offered.
        versions.retain(|version| suites.iter().any(|suite| suite.version() == *version));
        suites.retain(|suite| versions.contains(&suite.version()));
        if versions.is_empty() {
            field.key("cipher_suites").error("no suite is left for TLS 1.2, and TLS 1.3 is excluded");
            return None;
        }
        let provider = CryptoProvider { cipher_suites: suites, kx_groups, ..aws_lc_rs::default_provider() };
        Some(Parameters { provider: Arc::new(provider), versions })
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
    let mut suites: Vec<_> = SUITES.iter().map(|(_, suite)| *suite).filter(|suite| suite.tls13().is_some()).collect();
    let mut valid = true;
    for (index, list) in lists.iter().enumerate() {
        let field = field.index(index);
        // `[A|B]` says that two suites are equally good, `A:B` is OpenSSL's list.
        for name in list.split(['[', ']', '|', ':']).map(str::trim).filter(|name| !name.is_empty()) {
            match SUITES.iter().find(|(known, _)| *known == name) {
                Some((_, suite)) if suite.tls13().is_some() => field.warning("TLS 1.3 suites are always offered"),
                Some((_, suite)) => suites.push(*suite),
                None if WEAK_SUITES.contains(&name) => field.warning(format!("{name} is weak and will not be used")),
                None => {
                    field.error(format!("unknown cipher suite {name:?}"));
                    valid = false;
                }
            }
        }
    }
    valid.then_some(suites)
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
