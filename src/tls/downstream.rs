//! The server side of TLS: `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`.

use std::{io, sync::Arc, time::Duration};

use rustls::{
    ServerConfig, ServerConnection,
    server::{
        Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
        StoresServerSessions,
    },
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    config::field::Field,
    net::Io,
    proto::tls::{
        DownstreamTlsContext,
        downstream_tls_context::{OcspStaplePolicy, SessionTicketKeysType},
    },
    stats::Scope,
    stream_info::TlsInfo,
};

use super::{
    LoadedCertificate, Secrets, TlsError, WatchedFiles,
    certificate::Certificate,
    client_hello,
    common_context::CommonContext,
    files::FileReader,
    key_log::ConnectionKeyLog,
    resolver::{CertificateResolver, ResolverOptions, StaplingResolver},
    secrets,
    stats::{self, TlsStats},
    ticket,
    ticket_keys::TicketKeys,
    validation::Validation,
    verifier::ClientVerifier,
    x509,
};

/// How long clients may resume a session unless `session_timeout` says otherwise.
const SESSION_TIMEOUT: Duration = Duration::from_hours(2);

/// Sessions kept for clients that cannot keep tickets, where tickets are off.
const STORED_SESSIONS: usize = 1024;

/// How a filter chain accepts TLS connections.
#[derive(Debug)]
pub struct DownstreamTls {
    configs: Configs,
    /// For clients that ask for OCSP responses, where there may be some.
    stapling: Option<Configs>,
    certificates: Vec<Arc<Certificate>>,
    validation: Arc<Validation>,
    key_log: Option<ConnectionKeyLog>,
    stats: TlsStats,
    /// What it was made of, to make the next of the same.
    proto: Box<DownstreamTlsContext>,
    scope: Scope,
    files: WatchedFiles,
}

impl DownstreamTls {
    /// Loads certificates and keys, and compiles verification; `scope` is the listener's.
    #[must_use]
    pub fn from_proto(
        proto: &DownstreamTlsContext,
        field: Field<'_>,
        secrets: &Secrets,
        scope: &Scope,
    ) -> Option<DownstreamTls> {
        DownstreamTls::load(proto, field, secrets, scope, &FileReader::default())
    }

    /// The same context with what its files hold now; `files` comes to know them even if that is not acceptable.
    pub(super) fn renewed(&self, field: Field<'_>, secrets: &Secrets, files: &FileReader) -> Option<DownstreamTls> {
        DownstreamTls::load(&self.proto, field, secrets, &self.scope, files)
    }

    fn load(
        proto: &DownstreamTlsContext,
        field: Field<'_>,
        secrets: &Secrets,
        scope: &Scope,
        files: &FileReader,
    ) -> Option<DownstreamTls> {
        let DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            disable_stateful_session_resumption,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = proto;
        let policy = OcspStaplePolicy::try_from(*ocsp_staple_policy).unwrap_or_default();
        let session_timeout = field.duration("session_timeout", session_timeout).unwrap_or(SESSION_TIMEOUT);
        let tickets = Tickets::from_proto(session_ticket_keys_type.as_ref(), field, secrets, files);
        let common_field = field.key("common_tls_context");
        let common = CommonContext::from_proto(common_tls_context.as_ref(), common_field, secrets, files)?;
        if common.certificates.is_empty() {
            common_field.key("tls_certificates").error("a server needs at least one certificate");
            return None;
        }

        check_staples(&common.certificates, policy, common_field)?;

        let mut stats = TlsStats::new(scope);
        stats.tell_expirations(scope, &common.expirations);
        let validation = common.validation.unwrap_or_default();
        let required = require_client_certificate.is_some_and(|required| required.value);
        let mandatory = required || validation.needs_certificate();
        let provider = &common.parameters.provider;
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&common.parameters.versions)
            .inspect_err(|error| common_field.key("tls_params").error(error.to_string()))
            .ok()?;
        let builder = if mandatory || validation.asks_anything() {
            let verifier = ClientVerifier::new(Arc::clone(&validation), mandatory, &common.parameters, &stats)
                .inspect_err(|error| common_field.key("validation_context").error(error.to_string()))
                .ok()?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        } else {
            builder.with_no_client_auth()
        };
        let options = ResolverOptions {
            require_sni: require_sni.is_some_and(|required| required.value),
            full_scan_on_mismatch: full_scan_certs_on_sni_mismatch.is_some_and(|scan| scan.value),
        };
        let resolver = Arc::new(CertificateResolver::new(common.certificates.clone(), options));
        let mut config = builder.with_cert_resolver(Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>);
        config.ignore_client_order = !prefer_client_ciphers;
        config.alpn_protocols = common.alpn_protocols;
        let fingerprint = fingerprint(mandatory, &common.certificates, &validation);
        tickets?.apply(&mut config, session_timeout, fingerprint, *disable_stateful_session_resumption);

        let staples = common.certificates.iter().any(|certificate| certificate.ocsp.is_some());
        let stapling = (staples || policy != OcspStaplePolicy::LenientStapling).then(|| {
            let resolver = StaplingResolver { certificates: resolver, policy, stats: stats.ocsp.clone() };
            let mut config = config.clone();
            config.cert_resolver = Arc::new(resolver);
            Configs::new(config)
        });
        Some(DownstreamTls {
            configs: Configs::new(config),
            stapling,
            key_log: common.key_log,
            certificates: common.certificates,
            validation,
            stats,
            proto: Box::new(proto.clone()),
            scope: scope.clone(),
            files: files.files(),
        })
    }

    /// Does the handshake. A peer that does not speak TLS is told so, with an alert.
    ///
    /// # Errors
    /// If the peers cannot agree, the client's certificate is not acceptable, or the connection fails.
    pub async fn accept(&self, io: Io) -> Result<(Io, TlsInfo), TlsError> {
        match self.handshake(io).await {
            Ok(stream) => {
                let session = stream.get_ref().1;
                self.stats.count(session);
                let info = self.info(session);
                Ok((Io::tls_server(stream), info))
            }
            Err(error) => {
                let error = TlsError::from(error);
                self.stats.count_failure(&error);
                Err(error)
            }
        }
    }

    async fn handshake(&self, mut io: Io) -> io::Result<TlsStream<Io>> {
        let configs = match &self.stapling {
            Some(stapling) if client_hello::ClientHello::asks_for_ocsp(&mut io).await? => stapling,
            _ => &self.configs,
        };
        let key_log = self.key_log.as_ref().and_then(|log| log.of(&io));
        let start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let mut config = Arc::clone(configs.of(&start.client_hello()));
        if let Some(key_log) = key_log {
            Arc::make_mut(&mut config).key_log = key_log;
        }
        start.into_stream(config).await
    }

    fn info(&self, session: &ServerConnection) -> TlsInfo {
        // What nobody vouches for is no fact.
        let chain = session.peer_certificates().filter(|_| self.validation.vouches()).unwrap_or_default();
        // The session does not tell which certificate was shown.
        let own = if let [only] = &self.certificates[..] { Some(&only.loaded) } else { None };
        TlsInfo {
            version: session.protocol_version().map_or("", stats::version_name),
            cipher: stats::cipher_name(session),
            sni: session.server_name().map(Into::into),
            alpn: session.alpn_protocol().map(Into::into),
            peer_presented: session.peer_certificates().is_some(),
            peer: chain.first().and_then(|der| x509::facts(der)).map(Box::new),
            peer_chain: x509::chain(chain),
            local: own.map(|own| Arc::clone(&own.facts)),
        }
    }

    /// The certificates that clients are shown.
    pub fn certificates(&self) -> impl Iterator<Item = &LoadedCertificate> {
        self.certificates.iter().map(|certificate| &certificate.loaded)
    }

    /// The files that it was made of.
    pub fn files(&self) -> &WatchedFiles {
        &self.files
    }

    /// The authorities whose clients are let in.
    #[must_use]
    pub fn authorities(&self) -> &[LoadedCertificate] {
        self.validation.authorities()
    }
}

/// The same for clients with which we share a protocol, and for the others.
#[derive(Debug)]
struct Configs {
    with_alpn: Arc<ServerConfig>,
    /// For clients that offer protocols of which we have none: they get a connection without a protocol agreed on.
    without_alpn: Arc<ServerConfig>,
}

impl Configs {
    fn new(config: ServerConfig) -> Configs {
        let mut without_alpn = config.clone();
        without_alpn.alpn_protocols.clear();
        Configs { with_alpn: Arc::new(config), without_alpn: Arc::new(without_alpn) }
    }

    fn of(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        let ours = &self.with_alpn.alpn_protocols;
        let shares_protocol =
            hello.alpn().is_none_or(|mut offered| offered.any(|protocol| ours.iter().any(|ours| ours == protocol)));
        if shares_protocol { &self.with_alpn } else { &self.without_alpn }
    }
}

/// Whether every certificate has the OCSP response that it or the policy demands.
fn check_staples(certificates: &[Arc<Certificate>], policy: OcspStaplePolicy, field: Field<'_>) -> Option<()> {
    let lacks = |certificate: &&Arc<Certificate>| {
        certificate.ocsp.is_none() && (certificate.must_staple || policy == OcspStaplePolicy::MustStaple)
    };
    let Some(lacking) = certificates.iter().find(lacks) else { return Some(()) };
    let path = &lacking.loaded.path;
    field.key("tls_certificates").error(format!("an ocsp_staple is required for the certificate in {path}"));
    None
}

/// How sessions are resumed without our keeping them.
enum Tickets {
    OfProcess(Arc<TicketKeys>),
    Keys(Vec<Arc<ticket::TicketKey>>),
    None,
}

impl Tickets {
    fn from_proto(
        keys: Option<&SessionTicketKeysType>,
        field: Field<'_>,
        secrets: &Secrets,
        files: &FileReader,
    ) -> Option<Tickets> {
        match keys {
            None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => {
                Some(Tickets::OfProcess(secrets.own_ticket_keys()))
            }
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => Some(Tickets::None),
            Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
                secrets::ticket_keys(keys, field.key("session_ticket_keys"), files).map(Tickets::Keys)
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(reference)) => {
                let field = field.key("session_ticket_keys_sds_secret_config");
                secrets.ticket_keys(reference, field, files).map(Tickets::Keys)
            }
        }
    }

    fn apply(self, config: &mut ServerConfig, timeout: Duration, context: [u8; 32], stateless_only: bool) {
        config.session_storage = if stateless_only {
            Arc::new(NoServerSessionStorage {})
        } else {
            ServerSessionMemoryCache::new(STORED_SESSIONS) as Arc<dyn StoresServerSessions>
        };
        match self {
            Tickets::OfProcess(keys) => config.ticketer = ticket::rotating(keys, context, timeout),
            Tickets::Keys(keys) => config.ticketer = ticket::with_keys(keys, context, timeout),
            // Without a ticketer, TLS 1.3 tickets would name sessions that we keep; Envoy has none of these.
            Tickets::None => config.send_tls13_tickets = 0,
        }
    }
}

/// What a session depends on: one that was begun under other certificates or another demand for the client's is not resumed. It follows from
/// the configuration and its files alone, so that the next process comes to the same.
fn fingerprint(mandatory: bool, certificates: &[Arc<Certificate>], validation: &Validation) -> [u8; 32] {
    let own = certificates.iter().map(|certificate| x509::sha256(certificate.key.cert.first().map_or(&[], |der| der)));
    let mut bytes: Vec<u8> = own.flatten().collect();
    bytes.extend(validation.fingerprint);
    bytes.push(mandatory.into());
    x509::sha256(&bytes)
}
