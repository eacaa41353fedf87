//! TLS: the first bytes of a client, and the files that certificates, keys and secrets are read from.

use std::{fs, sync::OnceLock};

use portreeve::{
    config::{Field, Report},
    net::Io,
    proto::{
        core::{
            ConfigSource, DataSource, PathConfigSource, config_source::ConfigSourceSpecifier, data_source::Specifier,
        },
        tls::{
            CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsCertificate,
            TlsSessionTicketKeys, common_tls_context::ValidationContextType,
            downstream_tls_context::SessionTicketKeysType,
        },
    },
    stats::Registry,
    tls::{ClientHello, DownstreamTls, Inspected, Secrets},
};
use tokio::{io::AsyncWriteExt, net::UnixStream};

/// What a client sends first to a TLS port: read without waiting for more than the limit.
pub fn client_hello(input: &[u8]) {
    const LIMIT: usize = 2_048;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(input).await.unwrap();
        drop(theirs);
        let seen = ClientHello::inspect(&mut Io::unix(ours).unwrap(), LIMIT).await.unwrap();
        assert!(!matches!(seen, Inspected::Tls(_)) || input.first() == Some(&22));
        assert!(!matches!(seen, Inspected::TooLarge) || input.len() >= LIMIT);
    });
}

/// PEM: certificates and keys, authorities, revocation lists, all of the same bytes; and session ticket keys.
pub fn pem(input: &[u8]) {
    let (certificate, key) = certificate();
    let authorities =
        CertificateValidationContext { trusted_ca: bytes(input), crl: bytes(input), ..Default::default() };
    let keys = TlsSessionTicketKeys { keys: bytes(input).into_iter().collect() };
    load(&context(bytes(input), bytes(input), None, None));
    load(&context(bytes(certificate), bytes(key), Some(authorities), Some(keys)));
}

/// OCSP responses, stapled to a certificate.
pub fn ocsp(input: &[u8]) {
    let (certificate, key) = certificate();
    let mut context = context(bytes(certificate), bytes(key), None, None);
    context.common_tls_context.as_mut().unwrap().tls_certificates[0].ocsp_staple = bytes(input);
    load(&context);
}

/// A file of secrets, which a context names.
pub fn secrets(input: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secrets.yaml");
    fs::write(&path, input).unwrap();
    let secret = |name: &str| SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
                path: path.display().to_string(),
                ..Default::default()
            })),
            ..Default::default()
        }),
    };
    load(&DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![secret("certificate")],
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(secret(
                "authorities",
            ))),
            ..Default::default()
        }),
        session_ticket_keys_type: Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(secret("keys"))),
        ..Default::default()
    });
}

/// A context is made, or it is said why not.
fn load(context: &DownstreamTlsContext) {
    let report = Report::new();
    let registry = Registry::new(0);
    let made = DownstreamTls::from_proto(context, Field::root(&report), &Secrets::default(), &registry.scope(""));
    assert!(made.is_some() || report.has_errors(), "refused in silence");
}

fn context(
    certificate_chain: Option<DataSource>,
    private_key: Option<DataSource>,
    authorities: Option<CertificateValidationContext>,
    keys: Option<TlsSessionTicketKeys>,
) -> DownstreamTlsContext {
    let certificate = TlsCertificate { certificate_chain, private_key, ..Default::default() };
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: vec![certificate],
            validation_context_type: authorities.map(ValidationContextType::ValidationContext),
            ..Default::default()
        }),
        session_ticket_keys_type: keys.map(SessionTicketKeysType::SessionTicketKeys),
        ..Default::default()
    }
}

fn bytes(bytes: &[u8]) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())), ..Default::default() })
}

/// A certificate for which `seeds/ocsp` has responses, and its key.
fn certificate() -> (&'static [u8], &'static [u8]) {
    static MADE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (certificate, key) = MADE.get_or_init(|| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["host.test".to_owned()]).unwrap();
        let serial = 0x26af_4081_b286_d09c_e2ba_cdb4_908d_f768_u128.to_be_bytes();
        params.serial_number = Some(rcgen::SerialNumber::from([&serial[..], &[0x7f, 0xb4, 0x87, 0x8c]].concat()));
        (params.self_signed(&key).unwrap().pem().into_bytes(), key.serialize_pem().into_bytes())
    });
    (certificate, key)
}
