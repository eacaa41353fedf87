//! What a certificate says, read once when it is loaded or when a peer presents it.

use std::{
    fmt::Write,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use x509_parser::{
    certificate::X509Certificate,
    der_parser::{ber::BerObjectContent, der::parse_der, oid},
    extensions::GeneralName,
    oid_registry::{self, Oid},
    parse_x509_certificate,
    time::ASN1Time,
    x509::{AttributeTypeAndValue, X509Name},
};

use crate::stream_info::{ChainCertificate, PeerCertificate};

/// The facts of a certificate in DER form; `None` if it is damaged.
pub(super) fn facts(der: &[u8]) -> Option<PeerCertificate> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let mut facts = PeerCertificate {
        subject: rfc2253(certificate.subject()),
        issuer: rfc2253(certificate.issuer()),
        fingerprint_256: hex(&sha256(der)),
        fingerprint_1: hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
        serial: hex(&certificate.tbs_certificate.serial.to_bytes_be()),
        not_before: time(certificate.validity().not_before),
        not_after: time(certificate.validity().not_after),
        ..PeerCertificate::default()
    };
    for name in alternative_names(&certificate) {
        match name {
            GeneralName::DNSName(name) => facts.dns_sans.push((*name).to_owned()),
            GeneralName::URI(uri) => facts.uri_sans.push((*uri).to_owned()),
            GeneralName::RFC822Name(email) => facts.email_sans.push((*email).to_owned()),
            GeneralName::IPAddress(bytes) => facts.ip_sans.extend(ip_address(bytes)),
            _ => {}
        }
    }
    Some(facts)
}

/// The first URI of a certificate that may be a workload's (X.509-SVID): not an authority's, and with a key usage that does not
/// allow to sign certificates or revocation lists.
pub(super) fn workload_uri(der: &[u8]) -> Option<String> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let usage = certificate.key_usage().ok().flatten()?.value;
    if usage.key_cert_sign() || usage.crl_sign() || certificate.is_ca() {
        return None;
    }
    alternative_names(&certificate).iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

/// The certificates of a peer, as it sent them.
pub(super) fn chain(certificates: &[impl AsRef<[u8]>]) -> Vec<ChainCertificate> {
    let read = |der: &[u8]| ChainCertificate {
        serial: serial(der).map(|bytes| hex(bytes.strip_prefix(&[0]).unwrap_or(bytes))).unwrap_or_default(),
        fingerprint_256: hex(&sha256(der)),
        fingerprint_1: hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref()),
        der: der.into(),
    };
    certificates.iter().map(|der| read(der.as_ref())).collect()
}

/// The serial number, as the certificate has it.
pub(super) fn serial(der: &[u8]) -> Option<&[u8]> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    Some(certificate.tbs_certificate.raw_serial())
}

/// Whether the certificate promises an OCSP response with it (RFC 7633).
pub(super) fn must_staple(der: &[u8]) -> bool {
    const TLS_FEATURE: Oid<'_> = oid!(1.3.6.1.5.5.7.1.24);
    const STATUS_REQUEST: [u8; 5] = [0x30, 3, 2, 1, 5];
    let Ok((_, certificate)) = parse_x509_certificate(der) else { return false };
    matches!(certificate.get_extension_unique(&TLS_FEATURE), Ok(Some(feature)) if feature.value == STATUS_REQUEST)
}

/// Whether it is an object identifier in dotted form.
pub(super) fn is_oid(text: &str) -> bool {
    text.parse::<Oid<'_>>().is_ok()
}

/// The alternative names of the kind that this object identifier stands for, as far as they are text.
pub(super) fn other_names(der: &[u8], oid: &str) -> Vec<String> {
    let Ok((_, certificate)) = parse_x509_certificate(der) else { return Vec::new() };
    let values = alternative_names(&certificate).iter().filter_map(|name| match name {
        GeneralName::OtherName(kind, value) if kind.to_id_string() == oid => Some(*value),
        _ => None,
    });
    values.filter_map(text_within).collect()
}

/// The text in an explicitly tagged value.
fn text_within(tagged: &[u8]) -> Option<String> {
    let (_, outer) = parse_der(tagged).ok()?;
    let (_, inner) = parse_der(outer.as_slice().ok()?).ok()?;
    match inner.content {
        BerObjectContent::UTF8String(text)
        | BerObjectContent::PrintableString(text)
        | BerObjectContent::IA5String(text) => Some(text.to_owned()),
        _ => None,
    }
}

/// Whether the certificate of an RSA key says that the key is not for signing, which is what it does in every handshake of ours.
pub(super) fn is_rsa_not_for_signing(der: &[u8]) -> bool {
    let Ok((_, certificate)) = parse_x509_certificate(der) else { return false };
    let is_rsa = certificate.public_key().algorithm.algorithm == oid_registry::OID_PKCS1_RSAENCRYPTION;
    is_rsa && matches!(certificate.key_usage(), Ok(Some(usage)) if !usage.value.digital_signature())
}

/// The common name, for certificates that name no host in their alternative names.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// The public key with its algorithm, in DER form (`SubjectPublicKeyInfo`).
pub(super) fn public_key(der: &[u8]) -> Option<&[u8]> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    Some(certificate.tbs_certificate.subject_pki.raw)
}

/// SHA-256, as certificates and public keys are pinned.
pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
    digest(&SHA256, data).as_ref().try_into().expect("invariant: SHA-256 has 32 bytes")
}

fn alternative_names<'a>(certificate: &'a X509Certificate<'a>) -> &'a [GeneralName<'a>] {
    match certificate.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        Ok(None) | Err(_) => &[],
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

/// `CN=a,O=b`: the last relative name first, as RFC 2253 writes names.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut rdns: Vec<String> =
        name.iter().map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    rdns.reverse();
    rdns.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    match (short_name(oid), attribute.as_str()) {
        (Some(name), Ok(value)) => format!("{name}={}", escaped(value)),
        (Some(name), Err(_)) => format!("{name}=#{}", hex(attribute.as_slice())),
        (None, Ok(value)) => format!("{}={}", oid.to_id_string(), escaped(value)),
        (None, Err(_)) => format!("{}=#{}", oid.to_id_string(), hex(attribute.as_slice())),
    }
}

fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    let names = [
        (oid_registry::OID_X509_COMMON_NAME, "CN"),
        (oid_registry::OID_X509_ORGANIZATION_NAME, "O"),
        (oid_registry::OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (oid_registry::OID_X509_COUNTRY_NAME, "C"),
        (oid_registry::OID_X509_LOCALITY_NAME, "L"),
        (oid_registry::OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (oid_registry::OID_X509_STREET_ADDRESS, "street"),
        (oid_registry::OID_X509_SERIALNUMBER, "serialNumber"),
        (oid_registry::OID_X509_SURNAME, "SN"),
        (oid_registry::OID_X509_GIVEN_NAME, "GN"),
        (oid_registry::OID_DOMAIN_COMPONENT, "DC"),
        (oid_registry::OID_USERID, "UID"),
        (oid_registry::OID_PKCS9_EMAIL_ADDRESS, "emailAddress"),
    ];
    names.into_iter().find(|(known, _)| known == oid).map(|(_, name)| name)
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for (at, character) in value.char_indices() {
        let at_an_end = at == 0 || at + character.len_utf8() == value.len();
        if matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (character == '#' && at == 0)
            || (character == ' ' && at_an_end)
        {
            text.push('\\');
        }
        text.push(character);
    }
    text
}
