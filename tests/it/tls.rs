//! TLS on both sides: certificates, ALPN, client certificates, verification of upstreams.

use std::{net::SocketAddr, path::Path};

use rustls::ClientConfig;

use super::support::{
    certificates::{Authority, Identity},
    client::{self, connect_tls},
    message::{get, value},
    portreeve::{Config, Portreeve, connection_manager, transport_socket, virtual_host},
    upstream::{self, Upstream},
};

#[tokio::test]
async fn one_pem_file_serves_http1_and_http2_by_alpn() {
    let authority = Authority::new();
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).tls(&authority.issue(&["localhost"]).pem, "").start().await;
    for (offered, chosen) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)] {
        let config = authority.client(offered, None);
        let (stream, alpn) = connect_tls(portreeve.address(), "localhost", config).await.unwrap();
        assert_eq!(alpn.as_deref(), chosen);
        let mut client = if chosen == Some("h2") { client::http2(stream).await } else { client::http1(stream).await };
        assert_eq!(client.send(get("/")).await.text(), "hello");
        assert_eq!(value(&upstream.last().headers, "x-forwarded-proto"), "https");
    }
}

/// A filter chain that answers with its own name.
fn chain(name: &str, matches: &str, identity: &Identity) -> String {
    let route =
        format!("{{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: {name} }} }} }}");
    format!(
        "{{ filter_chain_match: {{ {matches} }}, filters: [ {} ], {} }}",
        connection_manager(&virtual_host(&route), ""),
        transport_socket(&identity.pem, "", "")
    )
}

/// A listener called `tls` with these chains.
fn listener(chains: &[String]) -> String {
    format!(
        r#"{{ name: tls, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }},
             listener_filters: [ {{ name: tls, typed_config: {{
               "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }} }} ],
             filter_chains: [ {} ] }}"#,
        chains.join(",")
    )
}

#[tokio::test]
async fn the_server_name_chooses_chain_and_certificate() {
    let authority = Authority::new();
    let exact = authority.issue(&["a.site.example"]);
    let wildcard = authority.issue(&["*.site.example"]);
    let chains = [
        chain("exact", "server_names: [ a.site.example ]", &exact),
        chain("wildcard", r#"server_names: [ "*.site.example" ]"#, &wildcard),
    ];
    let upstream = upstream::http1().start().await;
    let portreeve = Config::to(&upstream).listener(&listener(&chains)).start().await;
    for (name, expected) in [("a.site.example", "exact"), ("b.site.example", "wildcard")] {
        let config = authority.client(&["http/1.1"], None);
        let (stream, _) = connect_tls(portreeve.listener("tls"), name, config).await.unwrap();
        assert_eq!(client::http1(stream).await.send(get("/")).await.text(), expected);
    }
    let config = authority.client(&["http/1.1"], None);
    assert!(connect_tls(portreeve.listener("tls"), "other.test", config).await.is_err());
}

#[tokio::test]
async fn alpn_chooses_the_chain() {
    let authority = Authority::new();
    let identity = authority.issue(&["localhost"]);
    let chains = [
        chain("two", "transport_protocol: tls, application_protocols: [ h2 ]", &identity),
        chain("other", "transport_protocol: tls", &identity),
    ];
    let upstream = upstream::http1().start().await;
    let portreeve = Config::to(&upstream).listener(&listener(&chains)).start().await;
    let address = portreeve.listener("tls");
    let (stream, _) = connect_tls(address, "localhost", authority.client(&["h2"], None)).await.unwrap();
    assert_eq!(client::http2(stream).await.send(get("/")).await.text(), "two");
    let (stream, _) = connect_tls(address, "localhost", authority.client(&["http/1.1"], None)).await.unwrap();
    assert_eq!(client::http1(stream).await.send(get("/")).await.text(), "other");
}

/// Whether a request over this TLS connection is answered: TLS 1.3 refuses a client only after its handshake.
async fn served(address: SocketAddr, config: std::sync::Arc<ClientConfig>) -> bool {
    let Ok((stream, _)) = connect_tls(address, "localhost", config).await else { return false };
    client::http1(stream).await.try_send(get("/")).await.is_ok_and(|answer| answer.status == 200)
}

#[tokio::test]
async fn clients_without_a_trusted_certificate_are_refused() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let upstream = upstream::http1().route("/", "hello").start().await;
    let socket = transport_socket(
        &authority.issue(&["localhost"]).pem,
        &format!(", validation_context: {{ trusted_ca: {{ filename: \"{}\" }} }}", authority.certificate().display()),
        ", require_client_certificate: true",
    );
    let portreeve = Config::to(&upstream).chain(&socket).start().await;
    let address = portreeve.address();
    assert!(served(address, authority.client(&["http/1.1"], Some(&authority.issue(&["client"])))).await);
    assert!(!served(address, authority.client(&["http/1.1"], None)).await);
    assert!(!served(address, authority.client(&["http/1.1"], Some(&stranger.issue(&["client"])))).await);
}

#[tokio::test]
async fn a_returning_client_resumes_its_session() {
    let authority = Authority::new();
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).tls(&authority.issue(&["localhost"]).pem, "").start().await;
    let config = authority.client(&["http/1.1"], None);
    for _ in 0..4 {
        assert!(served(portreeve.address(), config.clone()).await);
    }
    assert!(portreeve.stat("listener.127.0.0.1_0.ssl.session_reused").await >= 3);
}

#[tokio::test]
async fn a_client_resumes_its_session_with_the_next_process() {
    let authority = Authority::new();
    let upstream = upstream::http1().route("/", "hello").start().await;
    let mut portreeve = Config::to(&upstream).tls(&authority.issue(&["localhost"]).pem, "").start().await;
    let config = authority.client(&["http/1.1"], None);
    assert!(served(portreeve.address(), config.clone()).await);
    let (status, said) = portreeve.reload().await;
    assert!(status.success(), "{said}");
    assert!(served(portreeve.address(), config).await);
    portreeve.until("listener.127.0.0.1_0.ssl.session_reused", 1).await;
}

/// A cluster's fields for TLS that trusts `ca`; `fields` are more of the validation context's.
fn upstream_tls(ca: &Path, sni: &str, fields: &str, alpn: &str) -> String {
    format!(
        r#", transport_socket: {{ name: tls, typed_config: {{
             "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: {sni},
             common_tls_context: {{ alpn_protocols: [ {alpn} ],
               validation_context: {{ trusted_ca: {{ filename: "{}" }} {fields} }} }} }} }}"#,
        ca.display()
    )
}

async fn behind_tls(upstream: &Upstream, fields: &str) -> Portreeve {
    Config::new().cluster_with("upstream", upstream.address, fields).start().await
}

#[tokio::test]
async fn upstreams_are_verified_by_authority_and_name() {
    let authority = Authority::new();
    let server = authority.issue(&["inner.example"]).server(&["http/1.1"]);
    let upstream = upstream::http1().tls(server).route("/", "hello").start().await;
    let ca = authority.certificate();
    let sans =
        |name: &str| format!(", match_typed_subject_alt_names: [ {{ san_type: DNS, matcher: {{ exact: {name} }} }} ]");
    let good = behind_tls(&upstream, &upstream_tls(&ca, "inner.example", &sans("inner.example"), "")).await;
    assert_eq!(good.get("/").await.text(), "hello");
    let other = behind_tls(&upstream, &upstream_tls(&ca, "inner.example", &sans("other.example"), "")).await;
    assert_eq!(other.get("/").await.status, 503);
    let strange = Authority::new();
    let strange = behind_tls(&upstream, &upstream_tls(&strange.certificate(), "inner.example", "", "")).await;
    assert_eq!(strange.get("/").await.status, 503);
    assert_eq!(strange.stat("cluster.upstream.ssl.fail_verify_error").await, 1);
}

#[tokio::test]
async fn http2_upstreams_are_reached_over_tls() {
    let authority = Authority::new();
    let server = authority.issue(&["inner.example"]).server(&["h2"]);
    let upstream = upstream::http2().tls(server).route("/", "hello").start().await;
    let auto = r#", typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
        auto_config: { http2_protocol_options: {} } } }"#;
    let fields = upstream_tls(&authority.certificate(), "inner.example", "", "") + auto;
    assert_eq!(behind_tls(&upstream, &fields).await.get("/").await.text(), "hello");
}

#[tokio::test]
async fn plain_text_on_a_tls_port_is_closed() {
    let authority = Authority::new();
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).tls(&authority.issue(&["localhost"]).pem, "").start().await;
    let answer = client::exchange(portreeve.address(), "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!answer.contains("200"), "{answer}");
    assert!(upstream.requests().is_empty());
}
