//! What Envoy counts of TLS: `listener.<address>.ssl.*` and `cluster.<name>.ssl.*`.

use rustls::{CommonState, Error, HandshakeKind, NamedGroup, ProtocolVersion, crypto::SupportedKxGroup};

use crate::stats::{self, Counter, Scope};

use super::{TlsError, cipher_suites::SUITES, parameters::CURVES};

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

/// All of them: those above, and one for each version, suite and curve.
#[derive(Clone, Debug)]
pub(super) struct TlsStats {
    pub(super) handshakes: HandshakeStats,
    versions: [(ProtocolVersion, Counter); 2],
    ciphers: Vec<Counter>,
    curves: Vec<(NamedGroup, Counter)>,
}

impl TlsStats {
    /// Registers them in `scope`, a listener's or a cluster's.
    pub(super) fn new(scope: &Scope) -> TlsStats {
        let scope = scope.scope("ssl");
        let (versions, ciphers, curves) = (scope.scope("versions"), scope.scope("ciphers"), scope.scope("curves"));
        TlsStats {
            handshakes: HandshakeStats::new(&scope),
            versions: [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2]
                .map(|version| (version, versions.counter(version_name(version)))),
            ciphers: SUITES.iter().map(|(name, _)| ciphers.counter(name)).collect(),
            curves: CURVES.iter().map(|(names, group)| (group.name(), curves.counter(names[0]))).collect(),
        }
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
            TlsError::Verify(_) => {}
            TlsError::Transport(_) | TlsError::Protocol(_) => self.handshakes.connection_error.inc(),
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
