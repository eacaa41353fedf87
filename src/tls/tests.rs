//! Handshakes of our two sides with each other, over real sockets with real certificates.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, date_time_ymd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{DownstreamTls, Secrets, TicketKeys, TlsError, UpstreamTls, stats::TlsStats, test_pki::Pki};
use crate::{
    config::{self, Field, Report, Source},
    net::{Alpn, Io},
    proto::tls::{DownstreamTlsContext, Secret, UpstreamTlsContext},
    stats::Registry,
    stream_info::TlsInfo,
};

/// Converts contexts and keeps what was said about them.
struct Bench {
    registry: Arc<Registry>,
    secrets: Secrets,
    /// Keeps what is counted when contexts go.
    _stats: [TlsStats; 2],
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Secrets::default())
    }

    fn with(secrets: Secrets) -> Bench {
        let registry = Registry::new(0);
        let stats = ["listener.test", "cluster.test"].map(|scope| TlsStats::new(&registry.scope(scope)));
        Bench { registry, secrets, _stats: stats }
    }

    fn secrets(yaml: &str) -> (Bench, Vec<String>) {
        let report = Report::new();
        let secrets: Vec<Secret> =
            yaml.split("---\n").filter_map(|text| config::load(&Source::new("test", text), &report)).collect();
        let secrets = Secrets::from_proto(&secrets, Field::root(&report).key("secrets"));
        (Bench::with(secrets), messages(report))
    }

    fn downstream(&self, yaml: &str) -> (Option<DownstreamTls>, Vec<String>) {
        let report = Report::new();
        let proto: DownstreamTlsContext = config::load(&Source::new("test", yaml), &report).unwrap();
        let scope = self.registry.scope("listener.test");
        let tls = DownstreamTls::from_proto(&proto, Field::root(&report), &self.secrets, &scope);
        (tls, messages(report))
    }

    fn upstream(&self, yaml: &str) -> (Option<UpstreamTls>, Vec<String>) {
        let report = Report::new();
        let proto: UpstreamTlsContext = config::load(&Source::new("test", yaml), &report).unwrap();
        let scope = self.registry.scope("cluster.test");
        let tls = UpstreamTls::from_proto(&proto, Field::root(&report), &self.secrets, &scope);
        (tls, messages(report))
    }

    /// A downstream context that is as it should be, even if it is old.
    fn server(&self, yaml: &str) -> DownstreamTls {
        let (tls, problems) = self.downstream(yaml);
        assert!(problems.iter().all(|problem| problem.ends_with("is deprecated by Envoy")), "{yaml}: {problems:?}");
        tls.expect("no problem was reported")
    }

    /// An upstream context that is as it should be, but for the warning that it verifies nothing.
    fn client(&self, yaml: &str) -> UpstreamTls {
        let (tls, problems) = self.upstream(yaml);
        assert!(problems.iter().all(|problem| problem.contains("anybody can pose")), "{yaml}: {problems:?}");
        tls.expect("no problem was reported")
    }

    fn counter(&self, name: &str) -> u64 {
        let (scope, name) = name.split_once(".ssl.").unwrap();
        self.registry.scope(scope).scope("ssl").counter(name).value()
    }
}

fn messages(report: Report) -> Vec<String> {
    report.into_problems().iter().map(ToString::to_string).collect()
}

type Accepted = Result<TlsInfo, TlsError>;
type Connected = Result<Option<Alpn>, TlsError>;

/// A handshake, and a byte in each direction, which shows what TLS 1.3 says about certificates only after it.
async fn handshake(server: &DownstreamTls, client: &UpstreamTls, host: &str, alpn: &[Alpn]) -> (Accepted, Connected) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let accept = async {
        let (mut io, info) = server.accept(Io::unix(ours).unwrap()).await?;
        io.write_all(b"s").await?;
        assert_eq!(io.read_u8().await?, b'c');
        Ok(info)
    };
    let connect = async {
        let (mut io, info) = client.connect(Io::unix(theirs).unwrap(), host, alpn).await?;
        assert_eq!(io.read_u8().await?, b's');
        io.write_all(b"c").await?;
        io.flush().await?;
        Ok(info.protocol())
    };
    tokio::join!(accept, connect)
}

fn inline(pem: &str) -> String {
    format!("{{inline_string: {pem:?}}}")
}

fn server_context(certificates: &[String], more: &str) -> String {
    let list = certificates
        .iter()
        .map(|pem| format!("  - certificate_chain: {0}\n    private_key: {0}\n", inline(pem)))
        .collect::<Vec<_>>()
        .concat();
    format!("common_tls_context:\n  tls_certificates:\n{list}{more}")
}

const ANYBODY: &str = "sni: a.example";

#[tokio::test]
async fn both_sides_agree() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let issued = pki.issue(&["a.example"]);
    let server = bench.server(&server_context(&[issued.both()], "  alpn_protocols: [h2, http/1.1]\n"));
    let client = bench.client(ANYBODY);
    let (accepted, connected) = handshake(&server, &client, "", &[Alpn::Http11]).await;
    let info = accepted.unwrap();
    assert_eq!(connected.unwrap(), Some(Alpn::Http11));
    assert_eq!((info.version, info.cipher), ("TLSv1.3", "TLS_AES_128_GCM_SHA256"));
    assert_eq!(info.sni.as_deref(), Some("a.example"));
    assert_eq!(info.alpn.as_deref(), Some(b"http/1.1".as_slice()));
    assert!(info.peer.is_none());
    for side in ["listener.test", "cluster.test"] {
        assert_eq!(bench.counter(&format!("{side}.ssl.handshake")), 1, "{side}");
        assert_eq!(bench.counter(&format!("{side}.ssl.versions.TLSv1.3")), 1, "{side}");
        assert_eq!(bench.counter(&format!("{side}.ssl.ciphers.TLS_AES_128_GCM_SHA256")), 1, "{side}");
        assert_eq!(bench.counter(&format!("{side}.ssl.curves.X25519")), 1, "{side}");
    }
    assert_eq!(bench.counter("listener.test.ssl.no_certificate"), 1);
}

#[tokio::test]
async fn keys_of_every_kind_in_every_form() {
    let (bench, pki) = (Bench::new(), Pki::new());
    for (algorithm, inner) in [
        (&PKCS_ECDSA_P256_SHA256, Some("EC PRIVATE KEY")),
        (&PKCS_ECDSA_P384_SHA384, Some("EC PRIVATE KEY")),
        (&PKCS_ED25519, None),
        (&PKCS_RSA_SHA256, Some("RSA PRIVATE KEY")),
    ] {
        let issued = pki.issue_with(algorithm, &["a.example"], |_| {});
        let mut keys = vec![issued.key.clone()];
        keys.extend(inner.map(|label| inner_key(&issued.key, label)));
        for key in keys {
            let both = format!("{key}{}", issued.certificate);
            let server = bench.server(&server_context(&[both], ""));
            let client = bench.client(&trusting(&pki, "sni: a.example\nauto_sni_san_validation: true\n"));
            let (accepted, connected) = handshake(&server, &client, "", &[]).await;
            connected.unwrap();
            accepted.unwrap();
        }
    }
}

/// PKCS#8 wraps the older forms in an OCTET STRING: SEQUENCE { version, algorithm, key }.
fn inner_key(pem: &str, label: &str) -> String {
    fn value(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, header) = match der[1] {
            long @ 0x81.. => {
                let bytes = usize::from(long & 0x7f);
                (der[2..2 + bytes].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + bytes)
            }
            short => (usize::from(short), 2),
        };
        der[header..].split_at(length)
    }
    let der = pem_body(pem);
    let (sequence, _) = value(&der);
    let (_, rest) = value(sequence);
    let (_, rest) = value(rest);
    let (key, _) = value(rest);
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(key))
}

fn trusting(pki: &Pki, more: &str) -> String {
    format!("common_tls_context: {{validation_context: {{trusted_ca: {}}}}}\n{more}", inline(&pki.ca()))
}

#[tokio::test]
async fn certificates_come_from_one_file_or_two_or_the_environment() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let issued = pki.issue(&["a.example"]);
    let both = pki.write("both.pem", &issued.both());
    let (chain, key) = (pki.write("chain.pem", &issued.certificate), pki.write("key.pem", &issued.key));
    for certificate in [
        format!("{{certificate_chain: {{filename: {both}}}, private_key: {{filename: {both}}}}}"),
        format!("{{certificate_chain: {{filename: {both}}}}}"),
        format!("{{certificate_chain: {{filename: {chain}}}, private_key: {{filename: {key}}}}}"),
        format!("{{certificate_chain: {{filename: {chain}}}, private_key: {}}}", inline(&issued.key)),
    ] {
        let server = bench.server(&format!("common_tls_context: {{tls_certificates: [{certificate}]}}"));
        let (accepted, connected) = handshake(&server, &bench.client(ANYBODY), "", &[]).await;
        assert!(accepted.is_ok() && connected.is_ok(), "{certificate}");
    }
}

#[test]
fn what_is_wrong_with_certificates_is_said_where_it_stands() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let (issued, other) = (pki.issue(&["a.example"]), pki.issue(&["b.example"]));
    let chain = pki.write("chain.pem", &issued.certificate);
    let key = pki.write("key.pem", &other.key);
    let empty = pki.write("empty.pem", "nothing here");
    let missing = pki.directory().join("missing.pem").display().to_string();
    let locked =
        pki.write("locked.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let reversed = pki.write("reversed.pem", &format!("{}{}", pki.ca(), issued.certificate));
    let right_key = pki.write("right.pem", &issued.key);
    let certificate = "common_tls_context.tls_certificates[0]";
    for (chain_file, key_file, problem) in [
        (
            &chain,
            &key,
            format!(
                "{certificate}.private_key.filename: the private key in {key} does not match the certificate in {chain}"
            ),
        ),
        (
            &missing,
            &key,
            format!(
                "{certificate}.certificate_chain.filename: cannot read {missing:?}: No such file or directory (os error 2)"
            ),
        ),
        (
            &chain,
            &missing,
            format!(
                "{certificate}.private_key.filename: cannot read {missing:?}: No such file or directory (os error 2)"
            ),
        ),
        (&empty, &key, format!("{certificate}.certificate_chain.filename: no certificate in {empty}")),
        (&chain, &empty, format!("{certificate}.private_key.filename: no private key in {empty}")),
        (
            &chain,
            &locked,
            format!(
                "{certificate}.private_key.filename: the private key in {locked} is protected by a passphrase: store it without, by `openssl pkey -in PROTECTED -out KEY`, for the service's user alone to read"
            ),
        ),
        (
            &reversed,
            &right_key,
            format!(
                "{certificate}.private_key.filename: the private key in {right_key} belongs to certificate 2 of {reversed}: the server's own must come first"
            ),
        ),
    ] {
        let yaml = format!(
            "common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {chain_file}}}, private_key: {{filename: {key_file}}}}}]}}"
        );
        let (tls, problems) = bench.downstream(&yaml);
        assert!(tls.is_none());
        assert_eq!(problems, [problem]);
    }
}

#[test]
fn what_is_missing_is_said_where_it_should_stand() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let chain = pki.write("chain.pem", &pki.issue(&["a.example"]).certificate);
    let broken = pki.write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
    let certificate = "common_tls_context.tls_certificates[0]";
    for (yaml, problem) in [
        (
            format!("common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {chain}}}}}]}}"),
            format!("{certificate}.certificate_chain.filename: no private key in {chain}, and no private_key is given"),
        ),
        (
            "common_tls_context: {}".into(),
            "common_tls_context.tls_certificates: a server needs at least one certificate".into(),
        ),
        (
            "common_tls_context: {tls_certificates: [{}]}".into(),
            format!("{certificate}.certificate_chain: is required"),
        ),
    ] {
        let (tls, problems) = bench.downstream(&yaml);
        assert!(tls.is_none());
        assert_eq!(problems, [problem]);
    }
    let yaml = format!("common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {broken}}}}}]}}");
    let (_, problems) = bench.downstream(&yaml);
    assert!(
        problems[0].starts_with(&format!("{certificate}.certificate_chain.filename: {broken} is not valid PEM")),
        "{problems:?}"
    );
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let certificates = [&["default.example"][..], &["a.example", "b.example"], &["*.wild.example"]]
        .map(|names| pki.issue(names).both());
    let server = bench.server(&server_context(&certificates, ""));
    for (asked, named, accepted) in [
        ("b.example", "b.example", true),
        ("B.Example", "b.example", true),
        ("x.wild.example", "x.wild.example", true),
        ("unknown.example", "default.example", true),
        ("wild.example", "default.example", true),
        ("a.b.wild.example", "default.example", true),
        ("b.example", "default.example", false),
    ] {
        let matcher = format!("match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {named}}}}}]");
        let client = bench.client(&format!(
            "sni: {asked}\ncommon_tls_context: {{validation_context: {{trusted_ca: {}, {matcher}}}}}",
            inline(&pki.ca())
        ));
        let (_, connected) = handshake(&server, &client, "", &[]).await;
        assert_eq!(connected.is_ok(), accepted, "{asked} {named}: {connected:?}");
    }
}

#[tokio::test]
async fn clients_that_can_get_the_elliptic_certificate() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let rsa = pki.issue_with(&PKCS_RSA_SHA256, &["a.example"], |_| {}).both();
    let elliptic = pki.issue(&["a.example"]).both();
    let server = bench.server(&server_context(&[rsa, elliptic], ""));
    for (suites, cipher) in [
        ("", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("cipher_suites: [ECDHE-RSA-AES256-GCM-SHA384]", "ECDHE-RSA-AES256-GCM-SHA384"),
    ] {
        let client = bench.client(&format!(
            "sni: a.example\ncommon_tls_context: {{tls_params: {{tls_maximum_protocol_version: TLSv1_2, {suites}}}}}"
        ));
        let (accepted, _) = handshake(&server, &client, "", &[]).await;
        let info = accepted.unwrap();
        assert_eq!((info.version, info.cipher), ("TLSv1.2", cipher));
    }
}

#[tokio::test]
async fn clients_without_a_name_may_be_refused() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let certificate = [pki.issue(&["a.example"]).both()];
    let nameless = bench.client("common_tls_context: {}");
    let (accepted, _) = handshake(&bench.server(&server_context(&certificate, "")), &nameless, "", &[]).await;
    assert_eq!(accepted.unwrap().sni, None);
    let strict = bench.server(&server_context(&certificate, "require_sni: true\n"));
    assert!(handshake(&strict, &nameless, "", &[]).await.0.is_err());
    assert!(handshake(&strict, &bench.client(ANYBODY), "", &[]).await.0.is_ok());
}

#[tokio::test]
async fn protocols_that_do_not_meet_leave_the_connection_without_one() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let server = bench.server(&server_context(&[pki.issue(&["a.example"]).both()], "  alpn_protocols: [h2]\n"));
    let (accepted, connected) = handshake(&server, &bench.client(ANYBODY), "", &[Alpn::Http11]).await;
    assert_eq!((accepted.unwrap().alpn, connected.unwrap()), (None, None));
    let own = bench.client("sni: a.example\ncommon_tls_context: {alpn_protocols: [h2]}");
    let (_, connected) = handshake(&server, &own, "", &[Alpn::Http11]).await;
    assert_eq!(connected.unwrap(), None, "what the pool does not speak is not offered, also if the context lists it");
}

#[tokio::test]
async fn versions_are_bounded() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let certificate = [pki.issue(&["a.example"]).both()];
    let params = "  tls_params: {tls_minimum_protocol_version: TLSv1_3}\n";
    let server = bench.server(&server_context(&certificate, params));
    let old = bench.client("sni: a.example\ncommon_tls_context: {tls_params: {tls_maximum_protocol_version: TLSv1_2}}");
    let (accepted, connected) = handshake(&server, &old, "", &[]).await;
    assert!(matches!(accepted, Err(TlsError::Protocol(_))), "{accepted:?}");
    assert!(matches!(connected, Err(TlsError::Protocol(_))), "{connected:?}");
    assert_eq!(bench.counter("listener.test.ssl.connection_error"), 1);
    assert_eq!(bench.counter("cluster.test.ssl.connection_error"), 1);
}

#[test]
fn parameters_speak_openssl() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let certificate = [pki.issue(&["a.example"]).both()];
    let params = "common_tls_context.tls_params";
    for (yaml, accepted, expected) in [
        (
            "cipher_suites: ['[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]', 'ECDHE-RSA-AES128-GCM-SHA256:AES128-SHA']",
            true,
            vec![format!("{params}.cipher_suites[1]: AES128-SHA is weak and will not be used")],
        ),
        (
            "cipher_suites: [ECDHE-NONSENSE]",
            false,
            vec![format!("{params}.cipher_suites: unknown cipher suites: ECDHE-NONSENSE")],
        ),
        (
            "cipher_suites: [AES128-SHA], tls_maximum_protocol_version: TLSv1_2",
            false,
            vec![
                format!("{params}.cipher_suites[0]: AES128-SHA is weak and will not be used"),
                format!("{params}.cipher_suites: no suite is left for TLS 1.2, and TLS 1.3 is excluded"),
            ],
        ),
        (
            "ecdh_curves: [X25519, 'prime256v1:P-384', P-521]",
            true,
            vec![format!("{params}.ecdh_curves[2]: P-521 will not be used")],
        ),
        ("ecdh_curves: ['X25519:P-256:P-521']", true, vec![format!("{params}.ecdh_curves[0]: P-521 will not be used")]),
        ("ecdh_curves: [P-999]", false, vec![format!("{params}.ecdh_curves[0]: unknown curve \"P-999\"")]),
        (
            "tls_minimum_protocol_version: TLSv1_0",
            true,
            vec![format!(
                "{params}.tls_minimum_protocol_version: TLS 1.0 and 1.1 are not spoken: the minimum is TLSv1_2"
            )],
        ),
        (
            "tls_maximum_protocol_version: TLSv1_1",
            false,
            vec![format!(
                "{params}.tls_maximum_protocol_version: TLS 1.0 and 1.1 are not spoken: the minimum is TLSv1_2"
            )],
        ),
        (
            "tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_2",
            false,
            vec![format!("{params}.tls_maximum_protocol_version: is less than tls_minimum_protocol_version")],
        ),
    ] {
        let (tls, problems) = bench.downstream(&server_context(&certificate, &format!("  tls_params: {{{yaml}}}\n")));
        assert_eq!((tls.is_some(), problems), (accepted, expected), "{yaml}");
    }
}

#[tokio::test]
async fn clients_show_their_certificates() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let certificate = [pki.issue(&["a.example"]).both()];
    let ca = inline(&pki.ca());
    let required = format!("  validation_context: {{trusted_ca: {ca}}}\nrequire_client_certificate: true\n");
    let required = bench.server(&server_context(&certificate, &required));
    let optional =
        bench.server(&server_context(&certificate, &format!("  validation_context: {{trusted_ca: {ca}}}\n")));

    let known = pki.issue(&["client.example", "spiffe://example/client", "me@example.org", "192.0.2.7"]);
    let stranger = Pki::new().issue(&["client.example"]);
    let [known, stranger] = [known, stranger].map(|issued| client_with(&bench, &issued.both()));
    let nobody = bench.client(ANYBODY);

    let peer = handshake(&required, &known, "", &[]).await.0.unwrap().peer.unwrap();
    assert_eq!(peer.subject, "CN=client.example,O=Test");
    assert_eq!(peer.issuer, "CN=Test CA");
    assert_eq!(peer.dns_sans, ["client.example"]);
    assert_eq!(peer.uri_sans, ["spiffe://example/client"]);
    assert_eq!(peer.email_sans, ["me@example.org"]);
    assert_eq!(peer.ip_sans, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(peer.fingerprint_256.len(), 64);
    assert!(handshake(&optional, &known, "", &[]).await.0.unwrap().peer.is_some());
    assert!(handshake(&optional, &nobody, "", &[]).await.0.unwrap().peer.is_none());

    for (server, client) in [(&required, &stranger), (&optional, &stranger), (&required, &nobody)] {
        let (accepted, connected) = handshake(server, client, "", &[]).await;
        assert!(matches!(accepted, Err(TlsError::Verify(_))), "{accepted:?}");
        assert!(connected.is_err());
    }
    assert_eq!(bench.counter("listener.test.ssl.fail_verify_error"), 2);
    assert_eq!(bench.counter("listener.test.ssl.fail_verify_no_cert"), 1);
    assert_eq!(bench.counter("listener.test.ssl.connection_error"), 0);
}

fn client_with(bench: &Bench, pem: &str) -> UpstreamTls {
    bench.client(&format!(
        "sni: a.example\ncommon_tls_context:\n  tls_certificates: [{{certificate_chain: {0}, private_key: {0}}}]\n",
        inline(pem)
    ))
}

#[tokio::test]
async fn clients_are_matched_by_name_and_pin_and_revocation() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let certificate = [pki.issue(&["a.example"]).both()];
    let serial = 4711;
    let issued = pki.issue_with(&PKCS_ECDSA_P256_SHA256, &["client.example", "spiffe://example/client"], |params| {
        params.serial_number = Some(serial.into());
    });
    let client = client_with(&bench, &issued.both());
    let der = pem_body(&issued.certificate);
    let hash = super::x509::sha256(&der).map(|byte| format!("{byte:02X}")).join(":");
    let pin = STANDARD.encode(super::x509::sha256(super::x509::public_key(&der).unwrap()));
    let other = "00".repeat(32);
    for (settings, accepted, counter) in [
        ("match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: client.example}}]", true, ""),
        ("match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: other.example}}]", false, "san"),
        ("match_typed_subject_alt_names: [{san_type: DNS, matcher: {suffix: .example}}]", true, ""),
        ("match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: 'spiffe://example/'}}]", true, ""),
        ("match_typed_subject_alt_names: [{san_type: EMAIL, matcher: {prefix: 'spiffe://example/'}}]", false, "san"),
        ("match_subject_alt_names: [{safe_regex: {regex: '.*example/cl.*'}}]", true, ""),
        (&format!("verify_certificate_hash: ['{hash}']"), true, ""),
        (&format!("verify_certificate_hash: ['{other}']"), false, "cert_hash"),
        (&format!("verify_certificate_hash: ['{other}'], verify_certificate_spki: ['{pin}']"), true, ""),
        (&format!("crl: {}", inline(&pki.revoke(&[1]))), true, ""),
        (&format!("crl: {}", inline(&pki.revoke(&[serial]))), false, "error"),
        (
            &format!("crl: {}, trust_chain_verification: ACCEPT_UNTRUSTED", inline(&pki.revoke(&[serial]))),
            true,
            "error",
        ),
    ] {
        let context = format!("  validation_context: {{trusted_ca: {}, {settings}}}\n", inline(&pki.ca()));
        let name = format!("listener.test.ssl.fail_verify_{counter}");
        let before = if counter.is_empty() { 0 } else { bench.counter(&name) };
        let (result, _) = handshake(&bench.server(&server_context(&certificate, &context)), &client, "", &[]).await;
        assert_eq!(result.is_ok(), accepted, "{settings}: {result:?}");
        if !counter.is_empty() {
            assert_eq!(bench.counter(&name), before + 1, "{settings}");
        }
        let verified = result.is_ok_and(|info| info.peer.is_some());
        assert_eq!(verified, accepted && counter.is_empty(), "an untrusted certificate is no fact: {settings}");
    }
}

fn pem_body(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(text).unwrap()
}

#[tokio::test]
async fn servers_are_verified_as_far_as_is_asked() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let server = |issued: &super::test_pki::Issued| bench.server(&server_context(&[issued.both()], ""));
    let good = server(&pki.issue(&["a.example", "*.w.example"]));
    let foreign = server(&Pki::new().issue(&["a.example"]));
    let ca = inline(&pki.ca());
    let trusted = trusting(&pki, "sni: a.example\n");
    let by_name = trusting(&pki, "sni: b.example\nauto_sni_san_validation: true\n");
    let auto = trusting(&pki, "sni: b.example\nauto_host_sni: true\nauto_sni_san_validation: true\n");
    let matched = format!(
        "common_tls_context: {{validation_context: {{trusted_ca: {ca}, match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: x.w.example}}}}]}}}}"
    );
    for (server, context, host, accepted) in [
        (&good, ANYBODY, "", true),
        (&foreign, ANYBODY, "", true),
        (&good, &trusted, "", true),
        (&foreign, &trusted, "", false),
        (&good, &by_name, "a.example", false),
        (&good, &auto, "a.example", true),
        (&good, &auto, "x.w.example", true),
        (&good, &auto, "x.y.w.example", false),
        (&good, &auto, "", false),
        (&good, &matched, "", true),
    ] {
        let (_, connected) = handshake(server, &bench.client(context), host, &[]).await;
        assert_eq!(connected.is_ok(), accepted, "{context} {host}: {connected:?}");
    }
    assert_eq!(bench.counter("cluster.test.ssl.fail_verify_error"), 1);
    assert_eq!(bench.counter("cluster.test.ssl.fail_verify_san"), 3);
}

#[tokio::test]
async fn a_certificate_among_the_authorities_is_trusted_itself() {
    let bench = Bench::new();
    let valid = Pki::self_signed(&["a.example"], |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let expired = Pki::self_signed(&["a.example"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    for (issued, settings, accepted) in
        [(&valid, "", true), (&expired, "", false), (&expired, ", allow_expired_certificate: true", true)]
    {
        let (server, _) = bench.downstream(&server_context(&[issued.both()], ""));
        let context = format!(
            "sni: a.example\ncommon_tls_context: {{validation_context: {{trusted_ca: {}{settings}}}}}",
            inline(&issued.certificate)
        );
        let (client, _) = bench.upstream(&context);
        let (_, connected) = handshake(&server.unwrap(), &client.unwrap(), "", &[]).await;
        assert_eq!(connected.is_ok(), accepted, "{connected:?}");
    }
}

#[tokio::test]
async fn expired_certificates_warn_and_fail_unless_allowed() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let expired = pki.issue_with(&PKCS_ECDSA_P256_SHA256, &["a.example"], |params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let file = pki.write("expired.pem", &expired.both());
    let (server, problems) = bench.downstream(&format!(
        "common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {file}}}}}]}}"
    ));
    assert_eq!(
        problems,
        [format!(
            "common_tls_context.tls_certificates[0].certificate_chain.filename: \
             the certificate \"CN=a.example,O=Test\" in {file} has expired"
        )]
    );
    let server = server.unwrap();
    let (_, connected) = handshake(&server, &bench.client(&trusting(&pki, "sni: a.example")), "", &[]).await;
    assert!(connected.unwrap_err().to_string().contains("expired"));
    let lenient = format!(
        "common_tls_context: {{validation_context: {{trusted_ca: {}, allow_expired_certificate: true}}}}",
        inline(&pki.ca())
    );
    handshake(&server, &bench.client(&lenient), "", &[]).await.1.unwrap();
}

#[tokio::test]
async fn sessions_are_resumed() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let certificate = [pki.issue(&["a.example"]).both()];
    let key = STANDARD.encode([7; 80]);
    for (settings, version, resumed) in [
        ("", "TLSv1_3", 1),
        ("", "TLSv1_2", 1),
        ("disable_stateless_session_resumption: true", "TLSv1_3", 0),
        ("disable_stateless_session_resumption: true", "TLSv1_2", 1),
        ("disable_stateless_session_resumption: true\ndisable_stateful_session_resumption: true", "TLSv1_2", 0),
        (&format!("session_ticket_keys: {{keys: [{{inline_bytes: {key}}}]}}"), "TLSv1_3", 1),
        ("session_timeout: 60s", "TLSv1_3", 1),
    ] {
        let params = format!("common_tls_context: {{tls_params: {{tls_maximum_protocol_version: {version}}}}}");
        let client = bench.client(&format!("sni: a.example\n{params}"));
        let before = bench.counter("listener.test.ssl.session_reused");
        for _ in 0..2 {
            // Another server each time where tickets alone carry the session; else one that remembers.
            let server = bench.server(&server_context(&certificate, &format!("{settings}\n")));
            let rounds = if settings.starts_with("session_ticket_keys") { 1 } else { 2 };
            for _ in 0..rounds {
                handshake(&server, &client, "", &[]).await.0.unwrap();
            }
            if rounds == 2 {
                break;
            }
        }
        let reused = bench.counter("listener.test.ssl.session_reused") - before;
        assert_eq!(reused, resumed, "{settings} {version}");
    }
}

#[tokio::test]
async fn a_session_of_one_process_is_resumed_by_the_next_and_the_other_way_round() {
    let pki = Pki::new();
    let (old_keys, new_keys) = (Arc::<TicketKeys>::default(), Arc::<TicketKeys>::default());
    let process = |keys| Bench::with(Secrets::default().with_ticket_keys(keys));
    let (old, new) = (process(&old_keys), process(&new_keys));
    let context = server_context(&[pki.issue(&["a.example"]).both()], "");
    let client = old.client("sni: a.example");
    handshake(&old.server(&context), &client, "", &[]).await.0.unwrap();
    new_keys.import(&old_keys.export());
    let reused = |bench: &Bench| bench.counter("listener.test.ssl.session_reused");
    handshake(&new.server(&context), &client, "", &[]).await.0.unwrap();
    assert_eq!((reused(&old), reused(&new)), (0, 1));
    handshake(&old.server(&context), &client, "", &[]).await.0.unwrap();
    assert_eq!((reused(&old), reused(&new)), (1, 1));
    let changed = server_context(&[pki.issue(&["a.example"]).both()], "");
    handshake(&new.server(&changed), &client, "", &[]).await.0.unwrap();
    assert_eq!(reused(&new), 1, "a session under another certificate");
}

#[test]
fn what_is_wrong_with_contexts_is_said_where_it_stands() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let certificate = [pki.issue(&["a.example"]).both()];
    let ca = inline(&pki.ca());
    let context = "common_tls_context.validation_context";
    for (settings, problem) in [
        ("  validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]}".to_owned(), format!("{context}.match_typed_subject_alt_names: proves nothing without trusted_ca, for anybody can sign any certificate")),
        (format!("  validation_context: {{verify_certificate_hash: [{}]}}", "x".repeat(64)), format!("{context}.verify_certificate_hash[0]: is not a SHA-256 digest")),
        ("  validation_context: {trusted_ca: {inline_string: ''}}".into(), format!("{context}.trusted_ca.inline_string: no certificate in <inline>")),
        (format!("  validation_context: {{trusted_ca: {ca}, crl: {ca}}}"), format!("{context}.crl.inline_string: no certificate revocation list in <inline>")),
        ("  validation_context_sds_secret_config: {name: x}".into(), "common_tls_context.validation_context_sds_secret_config.name: there is no \"x\" in static_resources.secrets".into()),
        ("  tls_certificate_sds_secret_configs: [{name: x, sds_config: {ads: {}}}]".into(), "common_tls_context.tls_certificate_sds_secret_configs[0].sds_config.ads: valid in Envoy, not implemented by Portreeve yet".into()),
        ("session_ticket_keys: {keys: [{inline_string: short}]}".into(), "session_ticket_keys.keys[0]: must have 80 bytes, has 5".into()),
    ] {
        let (_, problems) = bench.downstream(&server_context(&certificate, &format!("{settings}\n")));
        assert_eq!(problems, [problem], "{settings}");
    }
    for (yaml, problem) in [
        (
            ANYBODY,
            "common_tls_context.validation_context: without it the server's certificate is not verified, and anybody can pose as the server: set trusted_ca",
        ),
        (
            "auto_sni_san_validation: true",
            "auto_sni_san_validation: proves nothing without a validation context with trusted_ca",
        ),
        ("sni: 'not a name'", "sni: \"not a name\" is not a host name"),
    ] {
        assert_eq!(bench.upstream(yaml).1, [problem], "{yaml}");
    }
}

#[tokio::test]
async fn secrets_are_found_by_name() {
    let pki = Pki::new();
    let issued = pki.issue(&["a.example"]);
    let (bench, problems) = Bench::secrets(&format!(
        "name: own\ntls_certificate: {{certificate_chain: {0}, private_key: {0}}}\n---\n\
         name: clients\nvalidation_context: {{trusted_ca: {1}}}\n---\n\
         name: broken\ntls_certificate: {{certificate_chain: {{filename: /nonexistent}}}}\n",
        inline(&issued.both()),
        inline(&pki.ca())
    ));
    assert_eq!(
        problems,
        [
            "secrets[2].tls_certificate.certificate_chain.filename: cannot read \"/nonexistent\": No such file or directory (os error 2)"
        ]
    );
    let server = bench.server(
        "common_tls_context:\n  tls_certificate_sds_secret_configs: [{name: own}]\n  \
         combined_validation_context: {default_validation_context: {match_typed_subject_alt_names: \
         [{san_type: DNS, matcher: {exact: a.example}}]}, validation_context_sds_secret_config: {name: clients}}\n",
    );
    handshake(&server, &client_with(&bench, &issued.both()), "", &[]).await.0.unwrap();
    let (accepted, _) = handshake(&server, &client_with(&bench, &pki.issue(&["b.example"]).both()), "", &[]).await;
    assert!(matches!(accepted, Err(TlsError::Verify(_))));
    let (_, problems) = bench.downstream("common_tls_context: {tls_certificate_sds_secret_configs: [{name: broken}]}");
    assert_eq!(problems, Vec::<String>::new(), "what is wrong with it has been said");
    let (_, problems) = bench.downstream("common_tls_context: {tls_certificate_sds_secret_configs: [{name: clients}]}");
    assert_eq!(
        problems,
        ["common_tls_context.tls_certificate_sds_secret_configs[0].name: this secret is not a TLS certificate"]
    );
}

#[tokio::test]
async fn peers_that_do_not_speak_tls_are_told_so() {
    let (bench, pki) = (Bench::new(), Pki::new());
    let server = bench.server(&server_context(&[pki.issue(&["a.example"]).both()], ""));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(matches!(server.accept(Io::unix(ours).unwrap()).await, Err(TlsError::Protocol(_))));
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&21), "an alert");
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(matches!(server.accept(Io::unix(ours).unwrap()).await, Err(TlsError::Transport(_))));
    assert_eq!(bench.counter("listener.test.ssl.connection_error"), 1);
}
