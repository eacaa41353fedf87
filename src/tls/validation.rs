//! Which peers are acceptable: `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer},
};

use crate::{
    config::field::{Field, IsSet},
    matcher::StringMatcher,
    proto::{
        core::DataSource,
        matcher::{self, string_matcher::MatchPattern},
        tls::{
            CertificateValidationContext, SubjectAltNameMatcher,
            certificate_validation_context::TrustChainVerification, subject_alt_name_matcher::SanType,
        },
    },
    stream_info::PeerCertificate,
};

use super::{
    certificate::{LoadedCertificate, warn_of_validity},
    files::FileReader,
    pem,
    spiffe::TrustDomains,
    x509,
};

/// What is asked of a peer's certificate. The default asks nothing.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// Who may sign; `None`: the chain is not checked.
    pub(super) trust: Option<Trust>,
    /// Who may sign by trust domain, in place of `trust`.
    pub(super) trust_domains: Option<TrustDomains>,
    /// One of these must match an alternative name, if there are any.
    pub(super) san_matchers: Vec<SanMatcher>,
    /// SHA-256 of the certificates that are acceptable; together with `public_keys`, if there are any.
    certificates: Vec<[u8; 32]>,
    /// SHA-256 of the public keys that are acceptable.
    public_keys: Vec<[u8; 32]>,
    pub(super) allow_expired: bool,
    /// Failures are counted, but nobody is turned away.
    pub(super) accept_untrusted: bool,
    /// Clients are not told which authorities we trust.
    pub(super) suppress_client_ca_list: bool,
    /// Of all that is asked: the settings, and what stands in the files that they name.
    pub(super) fingerprint: [u8; 32],
}

/// The authorities that may have signed a peer's certificate.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    /// What `roots` was made from, for certificates that are trusted themselves.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
    pub(super) only_leaf_revocation: bool,
    /// So many certificates may stand between the peer's and the authority's.
    pub(super) max_intermediates: Option<usize>,
    pub(super) loaded: Vec<LoadedCertificate>,
    /// What statistics call them.
    pub(super) stat_name: String,
}

impl Validation {
    /// Loads authorities and compiles matchers.
    pub(super) fn from_proto(
        proto: &CertificateValidationContext,
        field: Field<'_>,
        files: &FileReader,
    ) -> Option<Arc<Validation>> {
        let CertificateValidationContext {
            trusted_ca,
            ca_certificate_provider_instance,
            system_root_certs,
            watched_directory,
            verify_certificate_spki,
            verify_certificate_hash,
            match_typed_subject_alt_names,
            match_subject_alt_names,
            require_signed_certificate_timestamp,
            crl,
            allow_expired_certificate,
            trust_chain_verification,
            custom_validator_config,
            only_verify_leaf_cert_crl,
            max_verify_depth,
            suppress_client_ca_list,
        } = proto;
        field.unsupported("ca_certificate_provider_instance", ca_certificate_provider_instance);
        field.unsupported("require_signed_certificate_timestamp", require_signed_certificate_timestamp);
        files.watch(watched_directory.as_ref());
        if let Some(validator) = custom_validator_config {
            let trust_domains = TrustDomains::from_proto(proto, validator, field, files);
            let san_matchers = san_matchers(match_typed_subject_alt_names, match_subject_alt_names, field)?;
            return Some(Arc::new(Validation::of_workloads(proto, trust_domains?, san_matchers)));
        }

        let trust = match (trusted_ca, system_root_certs) {
            (Some(source), None) => Some(Trust::from_source(source, field.key("trusted_ca"), files)),
            (None, Some(_)) => Some(Trust::of_system(field.key("system_root_certs"))),
            (Some(_), Some(_)) => {
                field.key("system_root_certs").error("cannot be combined with trusted_ca");
                return None;
            }
            (None, None) => None,
        };
        let crls = crl.as_ref().map(|source| revocation_lists(source, field.key("crl"), files));
        let san_matchers = san_matchers(match_typed_subject_alt_names, match_subject_alt_names, field);
        let certificates = digests(verify_certificate_hash, hex_digest, field.key("verify_certificate_hash"));
        let public_keys = digests(verify_certificate_spki, base64_digest, field.key("verify_certificate_spki"));

        if trust.is_none() {
            check_without_trust(proto, field)?;
        }
        let mut trust = match trust {
            Some(trust) => Some(trust?),
            None => None,
        };
        if let Some(trust) = &mut trust {
            trust.only_leaf_revocation = *only_verify_leaf_cert_crl;
            // The depth counts the authority, too.
            trust.max_intermediates = max_verify_depth.map(|max| max.value.saturating_sub(1) as usize);
            if let Some(crls) = crls {
                trust.crls.extend(crls?);
            }
        }
        let fingerprint = fingerprint(proto, trust.iter());
        Some(Arc::new(Validation {
            fingerprint,
            trust,
            trust_domains: None,
            san_matchers: san_matchers?,
            certificates: certificates?,
            public_keys: public_keys?,
            allow_expired: *allow_expired_certificate,
            accept_untrusted: *trust_chain_verification == TrustChainVerification::AcceptUntrusted as i32,
            suppress_client_ca_list: *suppress_client_ca_list,
        }))
    }

    /// What the SPIFFE validator asks.
    fn of_workloads(
        proto: &CertificateValidationContext,
        trust_domains: TrustDomains,
        san_matchers: Vec<SanMatcher>,
    ) -> Validation {
        Validation {
            fingerprint: fingerprint(proto, trust_domains.iter().map(|(_, trust)| trust)),
            trust_domains: Some(trust_domains),
            san_matchers,
            allow_expired: proto.allow_expired_certificate,
            suppress_client_ca_list: proto.suppress_client_ca_list,
            ..Validation::default()
        }
    }

    /// The authorities, for `/certs`.
    pub(super) fn authorities(&self) -> &[LoadedCertificate] {
        match (&self.trust, &self.trust_domains) {
            (Some(trust), _) => &trust.loaded,
            (None, Some(domains)) => &domains.loaded,
            (None, None) => &[],
        }
    }

    /// Whether somebody must have signed a peer's certificate.
    pub(super) fn has_authorities(&self) -> bool {
        self.trust.is_some() || self.trust_domains.is_some()
    }

    /// Whether anything at all is asked of a certificate.
    pub(super) fn asks_anything(&self) -> bool {
        self.has_authorities() || !self.certificates.is_empty() || !self.public_keys.is_empty()
    }

    /// Whether a client without a certificate cannot have what is asked: a trust domain, a name, or one of the pins.
    pub(super) fn needs_certificate(&self) -> bool {
        if self.trust_domains.is_some() {
            return true;
        }
        let asks = !self.san_matchers.is_empty() || !self.certificates.is_empty() || !self.public_keys.is_empty();
        asks && !self.accept_untrusted
    }

    /// Whether a peer that got through is who its certificate says.
    pub(super) fn vouches(&self) -> bool {
        self.asks_anything() && !self.accept_untrusted
    }

    /// Whether an alternative name is acceptable; of a workload it is its URI.
    pub(super) fn accepts_names(&self, facts: &PeerCertificate, der: &[u8]) -> bool {
        if self.trust_domains.is_some() {
            let workload = PeerCertificate { uri_sans: facts.uri_sans.clone(), ..PeerCertificate::default() };
            return self.san_matchers.is_empty()
                || self.san_matchers.iter().any(|matcher| matcher.matches(&workload, &[]));
        }
        self.san_matchers.is_empty() || self.san_matchers.iter().any(|matcher| matcher.matches(facts, der))
    }

    /// Whether the certificate or its key is one of those pinned.
    pub(super) fn accepts_pins(&self, der: &[u8]) -> bool {
        if self.certificates.is_empty() && self.public_keys.is_empty() {
            return true;
        }
        self.certificates.contains(&x509::sha256(der))
            || x509::public_key(der).is_some_and(|key| self.public_keys.contains(&x509::sha256(key)))
    }
}

/// Names and revocation lists say something only of certificates for which an authority vouches.
fn check_without_trust(proto: &CertificateValidationContext, field: Field<'_>) -> Option<()> {
    for (name, is_set) in [
        ("match_typed_subject_alt_names", proto.match_typed_subject_alt_names.is_set()),
        ("match_subject_alt_names", proto.match_subject_alt_names.is_set()),
        ("crl", proto.crl.is_set()),
    ] {
        if is_set {
            field.key(name).error("proves nothing without trusted_ca, for anybody can sign any certificate");
            return None;
        }
    }
    Some(())
}

fn san_matchers(
    typed: &[SubjectAltNameMatcher],
    untyped: &[matcher::StringMatcher],
    field: Field<'_>,
) -> Option<Vec<SanMatcher>> {
    let typed = typed
        .iter()
        .enumerate()
        .map(|(index, proto)| SanMatcher::from_proto(proto, field.key("match_typed_subject_alt_names").index(index)));
    let untyped = untyped.iter().enumerate().map(|(index, proto)| {
        let field = field.key("match_subject_alt_names");
        let matcher = StringMatcher::from_proto(proto, field.index(index))?;
        Some(SanMatcher::Any { host: exact(proto).map(ToOwned::to_owned), matcher })
    });
    let matchers: Vec<_> = typed.chain(untyped).collect();
    matchers.into_iter().collect()
}

impl Trust {
    pub(super) fn from_source(source: &DataSource, field: Field<'_>, files: &FileReader) -> Option<Trust> {
        let pem = pem::load(source, field, files)?;
        let field = pem::value(source, &field);
        if pem.certificates.is_empty() {
            field.error(format!("no certificate in {}", pem.origin));
            return None;
        }
        let mut roots = RootCertStore::empty();
        let mut loaded = Vec::with_capacity(pem.certificates.len());
        for (index, certificate) in pem.certificates.iter().enumerate() {
            let facts = x509::facts(certificate);
            let (Some(facts), Ok(())) = (facts, roots.add(certificate.clone())) else {
                field.error(format!("certificate {} of {} is damaged", index + 1, pem.origin));
                return None;
            };
            loaded.push(LoadedCertificate::authority(&pem.origin, facts));
        }
        if let [only] = loaded.as_slice() {
            warn_of_validity(&only.facts, &pem.origin, field); // in bundles, some always have expired
        }
        // Lists in the same file count, too.
        let stat_name = pem::stat_name("unnamed_ca_cert", source);
        Some(Trust { crls: pem.crls, stat_name, ..Trust::new(roots, pem.certificates, loaded) })
    }

    fn of_system(field: Field<'_>) -> Option<Trust> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs.iter().cloned());
        if added == 0 {
            field.error("the system has no root certificates: install ca-certificates, or set trusted_ca");
            return None;
        }
        Some(Trust::new(roots, found.certs, Vec::new()))
    }

    pub(super) fn new(
        roots: RootCertStore,
        certificates: Vec<CertificateDer<'static>>,
        loaded: Vec<LoadedCertificate>,
    ) -> Trust {
        Trust {
            roots: Arc::new(roots),
            certificates,
            crls: Vec::new(),
            only_leaf_revocation: false,
            max_intermediates: None,
            loaded,
            stat_name: String::new(),
        }
    }
}

fn fingerprint<'a>(settings: &CertificateValidationContext, trust: impl Iterator<Item = &'a Trust>) -> [u8; 32] {
    let mut bytes = settings.encode_to_vec();
    for trust in trust {
        bytes.extend(trust.certificates.iter().flat_map(|der| x509::sha256(der)));
        bytes.extend(trust.crls.iter().flat_map(|der| x509::sha256(der)));
    }
    x509::sha256(&bytes)
}

fn revocation_lists(
    source: &DataSource,
    field: Field<'_>,
    files: &FileReader,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let pem = pem::load(source, field, files)?;
    if pem.crls.is_empty() {
        pem::value(source, &field).error(format!("no certificate revocation list in {}", pem.origin));
        return None;
    }
    Some(pem.crls)
}

fn digests(texts: &[String], parse: fn(&str) -> Option<[u8; 32]>, field: Field<'_>) -> Option<Vec<[u8; 32]>> {
    let parsed: Vec<_> = texts.iter().map(|text| parse(text)).collect();
    for (index, digest) in parsed.iter().enumerate() {
        if digest.is_none() {
            field.index(index).error("is not a SHA-256 digest");
        }
    }
    parsed.into_iter().collect()
}

/// 64 hexadecimal digits, or 32 pairs of them with colons between, as OpenSSL prints them.
fn hex_digest(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = match text.len() {
        64 => text.bytes().collect(),
        95 if text.bytes().skip(2).step_by(3).all(|byte| byte == b':') => {
            text.bytes().enumerate().filter(|(index, _)| index % 3 != 2).map(|(_, byte)| byte).collect()
        }
        _ => return None,
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(digest)
}

fn base64_digest(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// `SubjectAltNameMatcher`: a pattern for the alternative names of one kind.
#[derive(Debug)]
pub(super) enum SanMatcher {
    /// A host name, which a wildcard in the certificate may stand for.
    DnsName(String),
    Dns(StringMatcher),
    Uri(StringMatcher),
    Email(StringMatcher),
    Ip(StringMatcher),
    /// Names of another kind, by the kind's object identifier.
    Other(String, StringMatcher),
    /// The old, untyped form: names of every kind; `host` is the DNS name of an exact pattern.
    Any {
        host: Option<String>,
        matcher: StringMatcher,
    },
}

impl SanMatcher {
    fn from_proto(proto: &SubjectAltNameMatcher, field: Field<'_>) -> Option<SanMatcher> {
        let SubjectAltNameMatcher { san_type, matcher, oid } = proto;
        let pattern = field.required("matcher", matcher)?;
        let compiled = StringMatcher::from_proto(pattern, field.key("matcher"))?;
        match SanType::try_from(*san_type) {
            Ok(SanType::Dns) => Some(match exact(pattern) {
                Some(name) => SanMatcher::DnsName(name.to_owned()),
                None => SanMatcher::Dns(compiled),
            }),
            Ok(SanType::Uri) => Some(SanMatcher::Uri(compiled)),
            Ok(SanType::Email) => Some(SanMatcher::Email(compiled)),
            Ok(SanType::IpAddress) => Some(SanMatcher::Ip(compiled)),
            Ok(SanType::OtherName) if x509::is_oid(oid) => Some(SanMatcher::Other(oid.clone(), compiled)),
            Ok(SanType::OtherName) => {
                field.key("oid").error(format!("{oid:?} is not an object identifier, which OTHER_NAME needs"));
                None
            }
            Ok(SanType::Unspecified) | Err(_) => {
                field.key("san_type").error("is required");
                None
            }
        }
    }

    fn matches(&self, facts: &PeerCertificate, der: &[u8]) -> bool {
        let any = |names: &[String], matcher: &StringMatcher| names.iter().any(|name| matcher.matches(name.as_bytes()));
        let any_ip =
            |matcher: &StringMatcher| facts.ip_sans.iter().any(|ip| matcher.matches(ip.to_string().as_bytes()));
        match self {
            SanMatcher::DnsName(name) => names_host(facts, name),
            SanMatcher::Dns(matcher) => any(&facts.dns_sans, matcher),
            SanMatcher::Uri(matcher) => any(&facts.uri_sans, matcher),
            SanMatcher::Email(matcher) => any(&facts.email_sans, matcher),
            SanMatcher::Ip(matcher) => any_ip(matcher),
            SanMatcher::Other(oid, matcher) => any(&x509::other_names(der, oid), matcher),
            SanMatcher::Any { host, matcher } => {
                host.as_ref().map_or_else(|| any(&facts.dns_sans, matcher), |host| names_host(facts, host))
                    || [&facts.uri_sans, &facts.email_sans].into_iter().any(|names| any(names, matcher))
                    || any_ip(matcher)
            }
        }
    }
}

fn exact(proto: &matcher::StringMatcher) -> Option<&str> {
    match &proto.match_pattern {
        Some(MatchPattern::Exact(name)) => Some(name),
        _ => None,
    }
}

/// Whether a DNS name of the certificate stands for `host`; `*.example.com` stands for `a.example.com`, not for `a.b.example.com`.
pub(super) fn names_host(facts: &PeerCertificate, host: &str) -> bool {
    let parent = host.split_once('.').map(|(_, parent)| parent);
    facts.dns_sans.iter().any(|name| {
        let wildcard = name.strip_prefix("*.").zip(parent);
        name.eq_ignore_ascii_case(host) || wildcard.is_some_and(|(name, parent)| name.eq_ignore_ascii_case(parent))
    })
}
