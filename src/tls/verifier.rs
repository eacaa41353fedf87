//! Applies a [`Validation`] to the peers of a handshake, and counts whom it turns away.

use std::{collections::HashMap, fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::{
    parameters::Parameters,
    stats::{HandshakeStats, SignatureCounters, TlsStats},
    validation::{Trust, Validation, names_host},
    x509,
};

/// What beside the chain of signatures is wrong with a certificate.
#[derive(Clone, Copy, Debug, Error)]
enum Refused {
    #[error("no subject alternative name matches")]
    Name,
    #[error("the certificate is not that of a workload in a known trust domain")]
    TrustDomain,
    #[error("neither the certificate nor its key is one of those pinned")]
    Pin,
    #[error("there are more intermediates than max_verify_depth allows")]
    Depth,
    #[error("the key usage of the certificate does not allow signatures")]
    Usage,
    #[error("the certificate cannot be read")]
    Damaged,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

/// What servers and clients have in common.
struct Verifier {
    validation: Arc<Validation>,
    algorithms: WebPkiSupportedAlgorithms,
    /// By what peers may sign, best first.
    schemes: Vec<SignatureScheme>,
    stats: HandshakeStats,
    signatures: SignatureCounters,
}

impl Verifier {
    fn new(validation: Arc<Validation>, parameters: &Parameters, stats: &TlsStats) -> Verifier {
        let algorithms = parameters.provider.signature_verification_algorithms;
        let known = algorithms.supported_schemes();
        let schemes = match &parameters.signatures {
            Some(chosen) => chosen.iter().filter(|scheme| known.contains(scheme)).copied().collect(),
            None => known,
        };
        Verifier {
            validation,
            algorithms,
            schemes,
            stats: stats.handshakes.clone(),
            signatures: stats.signatures.clone(),
        }
    }

    /// A peer may sign by what was offered to it only.
    fn offered(&self, signature: &DigitallySignedStruct) -> Result<(), Error> {
        if self.schemes.contains(&signature.scheme) {
            return Ok(());
        }
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    /// Chain, names and pins, in Envoy's order. `check_chain` says whether an authority vouches for the certificate at a time;
    /// `host` is a name that it must have.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        now: UnixTime,
        host: Option<&str>,
        check_chain: impl Fn(UnixTime) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let verified = self.verify_chain(leaf, now, check_chain).and_then(|()| self.verify_leaf(leaf, host));
        if self.validation.accept_untrusted { Ok(()) } else { verified }
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        now: UnixTime,
        check_chain: impl Fn(UnixTime) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let trust = match (&self.validation.trust, &self.validation.trust_domains) {
            (None, None) => return Ok(()),
            (trust, _) => trust.as_ref(),
        };
        let mut checked = check_chain(now);
        if self.validation.allow_expired {
            // Whatever the time: then it is one at which the certificate was, or will be, good.
            checked = match checked {
                Err(Error::InvalidCertificate(
                    CertificateError::ExpiredContext { not_after: time, .. }
                    | CertificateError::NotValidYetContext { not_before: time, .. },
                )) => check_chain(time),
                checked => checked,
            };
        }
        if checked.is_err() && trust.is_some_and(|trust| self.is_itself_trusted(trust, leaf, now)) {
            return Ok(());
        }
        checked.inspect_err(|_| self.stats.fail_verify_error.inc())
    }

    /// Whether there is a chain with no more intermediates than are allowed. The library, which has a limit of its own, does not say how many
    /// there are in the chain that it has found.
    fn verify_depth(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let Some(trust) = &self.validation.trust else { return Ok(()) };
        let Some(max) = trust.max_intermediates else { return Ok(()) };
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| Refused::Damaged)?;
        let is_short = |path: &VerifiedPath<'_>| {
            let short = path.intermediate_certificates().count() <= max;
            if short { Ok(()) } else { Err(webpki::Error::PathLenConstraintViolated) }
        };
        let algorithms = self.algorithms.all;
        leaf.verify_for_usage(algorithms, &trust.roots.roots, intermediates, now, usage, None, Some(&is_short))
            .map_err(|_| Refused::Depth)?;
        Ok(())
    }

    /// Whether the certificate itself stands in `trusted_ca`: it then needs nobody to vouch for it, and it may be the certificate
    /// of an authority, as self-signed ones often are. A revocation list could name it all the same, so none may be given.
    fn is_itself_trusted(&self, trust: &Trust, leaf: &CertificateDer<'_>, now: UnixTime) -> bool {
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
        let is_valid = || {
            x509::facts(leaf).is_some_and(|facts| {
                let current =
                    facts.not_after.is_some_and(|end| now <= end) && facts.not_before.is_some_and(|start| start <= now);
                current || self.validation.allow_expired
            })
        };
        trust.crls.is_empty() && trust.certificates.contains(leaf) && is_valid()
    }

    fn verify_leaf(&self, leaf: &CertificateDer<'_>, host: Option<&str>) -> Result<(), Error> {
        if host.is_some() || !self.validation.san_matchers.is_empty() {
            let facts = x509::facts(leaf).ok_or(Refused::Damaged)?;
            if !self.validation.accepts_names(&facts, leaf) || host.is_some_and(|host| !names_host(&facts, host)) {
                self.stats.fail_verify_san.inc();
                return Err(Refused::Name.into());
            }
        }
        if !self.validation.accepts_pins(leaf) {
            self.stats.fail_verify_cert_hash.inc();
            return Err(Refused::Pin.into());
        }
        Ok(())
    }
}

/// The library's verifiers of chains, one for each set of authorities.
enum Chains<V> {
    /// Anybody may sign.
    None,
    One(V),
    ByTrustDomain(HashMap<String, V>),
}

impl<V> Chains<V> {
    fn new<E>(validation: &Validation, build: impl Fn(&Trust) -> Result<V, E>) -> Result<Chains<V>, E> {
        Ok(match (&validation.trust, &validation.trust_domains) {
            (Some(trust), _) => Chains::One(build(trust)?),
            (None, Some(domains)) => {
                let built = domains.iter().map(|(name, trust)| Ok((name.clone(), build(trust)?)));
                Chains::ByTrustDomain(built.collect::<Result<_, E>>()?)
            }
            (None, None) => Chains::None,
        })
    }

    /// The one for a certificate, if its chain is to be verified.
    fn of(&self, validation: &Validation, leaf: &[u8]) -> Result<Option<&V>, Error> {
        match self {
            Chains::None => Ok(None),
            Chains::One(chain) => Ok(Some(chain)),
            Chains::ByTrustDomain(by_name) => {
                let domain = validation.trust_domains.as_ref().and_then(|domains| domains.of(leaf));
                let chain = domain.and_then(|name| by_name.get(name));
                chain.map(Some).ok_or(Refused::TrustDomain.into())
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &V> {
        let (one, many) = match self {
            Chains::None => (None, None),
            Chains::One(chain) => (Some(chain), None),
            Chains::ByTrustDomain(by_name) => (None, Some(by_name.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// Verifies the certificates of clients.
pub(super) struct ClientVerifier {
    verifier: Verifier,
    chains: Chains<Arc<dyn ClientCertVerifier>>,
    /// The names of the authorities, as clients are told them.
    hints: Vec<DistinguishedName>,
    mandatory: bool,
}

impl ClientVerifier {
    pub(super) fn new(
        validation: Arc<Validation>,
        mandatory: bool,
        parameters: &Parameters,
        stats: &TlsStats,
    ) -> Result<ClientVerifier, VerifierBuilderError> {
        let chains = Chains::new(&validation, |trust| {
            let provider = Arc::clone(&parameters.provider);
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&trust.roots), provider)
                .with_crls(trust.crls.iter().cloned());
            if trust.only_leaf_revocation { builder.only_check_end_entity_revocation() } else { builder }.build()
        })?;
        let told = if validation.suppress_client_ca_list { None } else { Some(&chains) };
        let hints = told.into_iter().flat_map(Chains::iter).flat_map(|chain| chain.root_hint_subjects());
        let hints = hints.cloned().collect();
        Ok(ClientVerifier { verifier: Verifier::new(validation, parameters, stats), chains, hints, mandatory })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let check_chain = |time| {
            let Some(chain) = self.chains.of(&self.verifier.validation, end_entity)? else { return Ok(()) };
            chain.verify_client_cert(end_entity, intermediates, time)?;
            self.verifier.verify_depth(end_entity, intermediates, time, KeyUsage::client_auth())
        };
        self.verifier.verify(end_entity, now, None, check_chain)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.offered(dss)?;
        let valid = verify_tls12_signature(message, cert, dss, &self.verifier.algorithms)?;
        self.verifier.signatures.count(dss.scheme);
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.offered(dss)?;
        let valid = verify_tls13_signature(message, cert, dss, &self.verifier.algorithms)?;
        self.verifier.signatures.count(dss.scheme);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.schemes.clone()
    }
}

/// Verifies the certificates of upstream hosts.
pub(super) struct ServerVerifier {
    verifier: Verifier,
    chains: Chains<Arc<WebPkiServerVerifier>>,
    /// The certificate must have the name that was asked for.
    match_server_name: bool,
}

impl ServerVerifier {
    pub(super) fn new(
        validation: Arc<Validation>,
        match_server_name: bool,
        parameters: &Parameters,
        stats: &TlsStats,
    ) -> Result<ServerVerifier, VerifierBuilderError> {
        let chains = Chains::new(&validation, |trust| {
            let provider = Arc::clone(&parameters.provider);
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&trust.roots), provider)
                .with_crls(trust.crls.iter().cloned());
            if trust.only_leaf_revocation { builder.only_check_end_entity_revocation() } else { builder }.build()
        })?;
        Ok(ServerVerifier { verifier: Verifier::new(validation, parameters, stats), chains, match_server_name })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let check_chain = |time| {
            let Some(chain) = self.chains.of(&self.verifier.validation, end_entity)? else { return Ok(()) };
            match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, time) {
                // The name is looked at last, so all else is well; which names are acceptable is not for the library to say.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                ))
                | Ok(_) => self.verifier.verify_depth(end_entity, intermediates, time, KeyUsage::server_auth()),
                Err(error) => Err(error),
            }
        };
        let host = match server_name {
            ServerName::DnsName(name) if self.match_server_name => Some(name.as_ref()),
            _ => None,
        };
        self.verifier.verify(end_entity, now, host, check_chain)?;
        if x509::is_rsa_not_for_signing(end_entity) {
            self.verifier.stats.connection_error.inc();
            return Err(Refused::Usage.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.offered(dss)?;
        let valid = verify_tls12_signature(message, cert, dss, &self.verifier.algorithms)?;
        self.verifier.signatures.count(dss.scheme);
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.offered(dss)?;
        let valid = verify_tls13_signature(message, cert, dss, &self.verifier.algorithms)?;
        self.verifier.signatures.count(dss.scheme);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.schemes.clone()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("validation", &self.verifier.validation).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("validation", &self.verifier.validation).finish_non_exhaustive()
    }
}
