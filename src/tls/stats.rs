//! What Envoy counts of TLS: `listener.<address>.ssl.*` and `cluster.<name>.ssl.*`.

use std::{collections::BTreeMap, time::SystemTime};

use rustls::{
    CommonState, Error, HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme, crypto::SupportedKxGroup,
};

use crate::stats::{self, Counter, Gauge, Scope};

use super::{
    TlsError,
    cipher_suites::SUITES,
    parameters::{CURVES, SIGNATURES},
};

stats::declare! {
    /// Of the TLS connections of a listener or a cluster.
    pub struct HandshakeStats {
        /// TLS connections that failed, but not for a certificate.
        connection_error: Counter,
        /// TLS handshakes that succeeded.
        handshake: Counter,
        /// TLS sessions resumed.
        session_reused: Counter,
        /// TLS connections whose peer presented no certificate.
        no_certificate: Counter,
        /// TLS connections that failed because the client certificate was missing.
        fail_verify_no_cert: Counter,
        /// TLS connections that failed because the peer's certificate is not trusted.
        fail_verify_error: Counter,
        /// TLS connections that failed because no alternative name of the peer's certificate matches.
        fail_verify_san: Counter,
        /// TLS connections that failed because the peer's certificate is not one of those pinned.
        fail_verify_cert_hash: Counter,
    }
}

stats::declare! {
    /// Of the OCSP responses of a listener, where a certificate has one or the policy demands it.
    pub struct OcspStats {
        /// TLS clients that asked for an OCSP response.
        ocsp_staple_requests: Counter,
        /// TLS clients that got an OCSP response.
        ocsp_staple_responses: Counter,
        /// TLS clients that asked for an OCSP response and got none.
        ocsp_staple_omitted: Counter,
        /// TLS clients that were refused for want of an OCSP response.
        ocsp_staple_failed: Counter,
    }
}

/// All of them: those above, and one for each version, suite and curve.
#[derive(Clone, Debug)]
pub(super) struct TlsStats {
    pub(super) handshakes: HandshakeStats,
    pub(super) ocsp: OcspStats,
    versions: [(ProtocolVersion, Counter); 2],
    ciphers: Vec<Counter>,
    curves: Vec<(NamedGroup, Counter)>,
    pub(super) signatures: SignatureCounters,
    /// `certificate.<name>.expiration_unix_time_seconds`
    expirations: Vec<Gauge>,
}

impl TlsStats {
    /// Registers them in `scope`, a listener's or a cluster's.
    pub(super) fn new(scope: &Scope) -> TlsStats {
        let scope = scope.scope("ssl");
        let (versions, ciphers, curves) = (scope.scope("versions"), scope.scope("ciphers"), scope.scope("curves"));
        TlsStats {
            handshakes: HandshakeStats::new(&scope),
            ocsp: OcspStats::new(&scope),
            versions: [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2]
                .map(|version| (version, versions.counter(version_name(version)))),
            ciphers: SUITES.iter().map(|(name, _)| ciphers.counter(name)).collect(),
            curves: CURVES.iter().map(|(names, group)| (group.name(), curves.counter(names[0]))).collect(),
            signatures: SignatureCounters::new(&scope.scope("sigalgs")),
            expirations: Vec::new(),
        }
    }

    /// Tells when certificates end; of those that have one name, when the first does. `scope` is the listener's or the cluster's.
    pub(super) fn tell_expirations(&mut self, scope: &Scope, ends: &[(String, Option<SystemTime>)]) {
        let scope = scope.scope("ssl").scope("certificate");
        let mut first: BTreeMap<&str, SystemTime> = BTreeMap::new();
        for (name, end) in ends.iter().filter_map(|(name, end)| Some((name.as_str(), (*end)?))) {
            first.entry(name).and_modify(|first| *first = end.min(*first)).or_insert(end);
        }
        let gauges = first.into_iter().map(|(name, end)| {
            let gauge = scope.scope(name).gauge("expiration_unix_time_seconds");
            gauge.set(end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
            gauge
        });
        self.expirations = gauges.collect();
    }

    /// Counts a handshake that succeeded.
    pub(super) fn count(&self, session: &CommonState) {
        self.handshakes.handshake.inc();
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.handshakes.session_reused.inc();
        }
        if session.peer_certificates().is_none() {
            self.handshakes.no_certificate.inc();
        }
        let version = session.protocol_version();
        if let Some((_, counter)) = self.versions.iter().find(|(known, _)| Some(*known) == version) {
            counter.inc();
        }
        if let Some(position) = suite_position(session) {
            self.ciphers[position].inc();
        }
        let group = session.negotiated_key_exchange_group().map(SupportedKxGroup::name);
        if let Some((_, counter)) = self.curves.iter().find(|(known, _)| Some(*known) == group) {
            counter.inc();
        }
    }

    /// Counts a handshake that failed. Certificates that a verifier refused, it has counted.
    pub(super) fn count_failure(&self, error: &TlsError) {
        match error {
            TlsError::Verify(Error::NoCertificatesPresented) => self.handshakes.fail_verify_no_cert.inc(),
            // A peer that merely goes away is no error, here as in Envoy.
            TlsError::Verify(_) | TlsError::Transport(_) => {}
            TlsError::Protocol(_) => self.handshakes.connection_error.inc(),
        }
    }
}

/// Counts the algorithms by which peers have signed their handshakes.
#[derive(Clone, Debug)]
pub(super) struct SignatureCounters(Vec<(SignatureScheme, Counter)>);

impl SignatureCounters {
    fn new(scope: &Scope) -> SignatureCounters {
        let known = SIGNATURES.iter().flat_map(|(names, schemes)| schemes.iter().map(|scheme| (*scheme, names[0])));
        SignatureCounters(known.map(|(scheme, name)| (scheme, scope.counter(name))).collect())
    }

    /// Counts a signature that is good.
    pub(super) fn count(&self, scheme: SignatureScheme) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == scheme) {
            counter.inc();
        }
    }
}

/// `TLSv1.3` or `TLSv1.2`.
pub(super) fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "",
    }
}

/// OpenSSL's name of the suite in use.
pub(super) fn cipher_name(session: &CommonState) -> &'static str {
    suite_position(session).map_or("", |position| SUITES[position].0)
}

fn suite_position(session: &CommonState) -> Option<usize> {
    let suite = session.negotiated_cipher_suite()?;
    SUITES.iter().position(|(_, known)| *known == suite)
}
