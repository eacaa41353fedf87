//! The client side of TLS: `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection,
    client::Resumption,
    pki_types::{IpAddr, Ipv4Addr, ServerName},
    sign::SingleCertAndKey,
};
use tokio_rustls::TlsConnector;

use crate::{
    config::field::Field,
    net::{Alpn, Io},
    proto::tls::UpstreamTlsContext,
    stats::Scope,
    stream_info::TlsInfo,
};

use super::{
    LoadedCertificate, Secrets, TlsError, WatchedFiles,
    certificate::Certificate,
    common_context::CommonContext,
    files::FileReader,
    key_log::ConnectionKeyLog,
    stats::{self, TlsStats},
    validation::Validation,
    verifier::ServerVerifier,
    x509,
};

/// Servers whose sessions are kept unless `max_session_keys` says otherwise.
const SESSIONS: usize = 256;

/// How a cluster's connections are secured.
#[derive(Clone)]
pub struct UpstreamTls {
    connector: TlsConnector,
    /// Who is asked for, unless a host has a name and `auto_host_sni` prefers that.
    server_name: ServerName<'static>,
    auto_host_sni: bool,
    certificate: Option<Arc<Certificate>>,
    validation: Arc<Validation>,
    key_log: Option<ConnectionKeyLog>,
    stats: TlsStats,
    /// What it was made of, to make the next of the same.
    proto: Box<UpstreamTlsContext>,
    scope: Scope,
    files: WatchedFiles,
}

impl UpstreamTls {
    /// Loads certificates and compiles verification; `scope` is the cluster's.
    #[must_use]
    pub fn from_proto(
        proto: &UpstreamTlsContext,
        field: Field<'_>,
        secrets: &Secrets,
        scope: &Scope,
    ) -> Option<UpstreamTls> {
        UpstreamTls::load(proto, field, secrets, scope, &FileReader::default())
    }

    /// The same context with what its files hold now; `files` comes to know them even if that is not acceptable.
    pub(super) fn renewed(&self, field: Field<'_>, secrets: &Secrets, files: &FileReader) -> Option<UpstreamTls> {
        UpstreamTls::load(&self.proto, field, secrets, &self.scope, files)
    }

    fn load(
        proto: &UpstreamTlsContext,
        field: Field<'_>,
        secrets: &Secrets,
        scope: &Scope,
        files: &FileReader,
    ) -> Option<UpstreamTls> {
        let UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            allow_renegotiation,
            max_session_keys,
            enforce_rsa_key_usage,
        } = proto;
        field.ignored("allow_renegotiation", allow_renegotiation, "nobody may renegotiate, TLS 1.3 has it no more");
        field.ignored("enforce_rsa_key_usage", enforce_rsa_key_usage, "key usage is always looked at, as in Envoy");
        let common_field = field.key("common_tls_context");
        let common = CommonContext::from_proto(common_tls_context.as_ref(), common_field, secrets, files)?;
        if common.certificates.len() > 1 {
            common_field.key("tls_certificates").error("a client has at most one certificate");
            return None;
        }
        let server_name = server_name(sni).or_else(|| {
            field.key("sni").error(format!("{sni:?} is not a host name"));
            None
        })?;
        let validation = common.validation.unwrap_or_default();
        if *auto_sni_san_validation && !validation.has_authorities() {
            field.key("auto_sni_san_validation").error("proves nothing without a validation context with trusted_ca");
            return None;
        }
        if !validation.asks_anything() {
            common_field.key("validation_context").warning(
                "without it the server's certificate is not verified, and anybody can pose as the server: set trusted_ca",
            );
        }

        let mut stats = TlsStats::new(scope);
        stats.tell_expirations(scope, &common.expirations);
        let provider = &common.parameters.provider;
        let match_server_name = *auto_sni_san_validation;
        let verifier = ServerVerifier::new(Arc::clone(&validation), match_server_name, &common.parameters, &stats);
        let verifier =
            verifier.inspect_err(|error| common_field.key("validation_context").error(error.to_string())).ok()?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&common.parameters.versions)
            .inspect_err(|error| common_field.key("tls_params").error(error.to_string()))
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let certificate = common.certificates.into_iter().next();
        let mut config = match &certificate {
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&certificate.key))))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = common.alpn_protocols;
        config.resumption = match max_session_keys {
            Some(limit) if limit.value == 0 => Resumption::disabled(),
            Some(limit) => Resumption::in_memory_sessions(usize::try_from(limit.value).unwrap_or(usize::MAX)),
            None => Resumption::in_memory_sessions(SESSIONS),
        };
        Some(UpstreamTls {
            connector: TlsConnector::from(Arc::new(config)),
            server_name,
            auto_host_sni: *auto_host_sni,
            certificate,
            validation,
            key_log: common.key_log,
            stats,
            proto: Box::new(proto.clone()),
            scope: scope.clone(),
            files: files.files(),
        })
    }

    /// Secures a connection to a host. `host_name` is asked for where `auto_host_sni` says so. `alpn` is what the pool that
    /// connects can speak, best first.
    ///
    /// # Errors
    /// If the peers cannot agree, the server's certificate is not acceptable, or the connection fails.
    pub async fn connect(&self, io: Io, host_name: &str, alpn: &[Alpn]) -> Result<(Io, TlsInfo), TlsError> {
        let server_name = match server_name(host_name) {
            Some(name) if self.auto_host_sni && !host_name.is_empty() => name,
            _ => self.server_name.clone(),
        };
        let mut connector = self.connector.clone();
        if let Some(key_log) = self.key_log.as_ref().and_then(|log| log.of(&io)) {
            let mut config = ClientConfig::clone(connector.config());
            config.key_log = key_log;
            connector = TlsConnector::from(Arc::new(config));
        }
        let connected = connector.with_alpn(self.protocols(alpn)).connect(server_name, io).await;
        match connected {
            Ok(stream) => {
                let session = stream.get_ref().1;
                self.stats.count(session);
                let info = self.info(session);
                Ok((Io::tls_client(stream), info))
            }
            Err(error) => {
                let error = TlsError::from(error);
                self.stats.count_failure(&error);
                Err(error)
            }
        }
    }

    fn info(&self, session: &ClientConnection) -> TlsInfo {
        let chain = session.peer_certificates().unwrap_or_default();
        TlsInfo {
            version: session.protocol_version().map_or("", stats::version_name),
            cipher: stats::cipher_name(session),
            sni: None,
            alpn: session.alpn_protocol().map(Into::into),
            peer_presented: !chain.is_empty(),
            peer: chain.first().and_then(|der| x509::facts(der)).map(Box::new),
            peer_chain: x509::chain(chain),
            local: self.certificate().map(|own| Arc::clone(&own.facts)),
        }
    }

    /// What is offered: what the context lists, less the HTTP that the pool does not speak; or what the pool speaks, if no HTTP
    /// is left of that. To a caller that speaks no HTTP it is not known what is spoken: what the context lists.
    fn protocols(&self, alpn: &[Alpn]) -> Vec<Vec<u8>> {
        let listed = self.connector.config().alpn_protocols.iter();
        if alpn.is_empty() {
            return listed.cloned().collect();
        }
        let mut offered: Vec<Vec<u8>> =
            listed.filter(|name| Alpn::from_wire(name).is_none_or(|known| alpn.contains(&known))).cloned().collect();
        if !offered.iter().any(|name| Alpn::from_wire(name).is_some()) {
            offered.extend(alpn.iter().map(|protocol| protocol.as_str().as_bytes().to_vec()));
        }
        offered
    }

    /// The certificate that we show, if any.
    #[must_use]
    pub fn certificate(&self) -> Option<&LoadedCertificate> {
        self.certificate.as_ref().map(|certificate| &certificate.loaded)
    }

    /// The files that it was made of.
    #[must_use]
    pub fn files(&self) -> &WatchedFiles {
        &self.files
    }

    /// The authorities that must have signed the certificates of hosts.
    #[must_use]
    pub fn authorities(&self) -> &[LoadedCertificate] {
        self.validation.authorities()
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Who to ask for; the address that is nobody's stands for nobody, because addresses are never sent.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    if name.is_empty() {
        return Some(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4]))));
    }
    ServerName::try_from(name.to_owned()).ok()
}
