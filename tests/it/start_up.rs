//! Start-up that cannot succeed: a clear error, exit status 1, nothing half-started.

use std::net::TcpListener;

use super::support::{certificates::Authority, portreeve::Config, upstream};

/// Asserts that start-up ends with status 1 and an error that holds all these words.
async fn refused(config: Config, words: &[&str]) {
    let (status, log) = config.fail().await;
    assert_eq!(status.code(), Some(1), "{log}");
    for word in words {
        assert!(log.contains(word), "no {word:?} in:\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

fn config() -> Config {
    Config::new().routes("{ match: { prefix: / }, direct_response: { status: 200 } }")
}

/// A listener on a port that somebody else has.
#[tokio::test]
async fn a_port_in_use_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let listener = format!(
        "{{ name: second, address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }}, filter_chains: [ {{}} ] }}",
        address.port()
    );
    refused(config().listener(&listener), &["second", &address.to_string(), "in use"]).await;
}

#[tokio::test]
async fn a_missing_certificate_is_named_with_its_line() {
    let path = std::path::Path::new("/nonexistent/server.pem");
    refused(config().tls(path, ""), &["envoy3.yaml:", "certificate_chain", "/nonexistent/server.pem"]).await;
}

#[tokio::test]
async fn a_key_that_does_not_match_is_refused() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["one"]), authority.issue(&["other"]));
    let mixed = one.pem.with_file_name("mixed.pem");
    std::fs::write(&mixed, format!("{}{}", one.certificate, other.key)).unwrap();
    refused(config().tls(&mixed, ""), &["private_key", "match"]).await;
}

#[tokio::test]
async fn mistakes_are_reported_all_at_once() {
    let manager = r#"stat_prefixx: a, http_filters: [ { name: x, typed_config: { "@type": type.googleapis.com/no.such.Filter } } ]"#;
    let upstream = upstream::http1().start().await;
    let config = config().manager(manager).cluster_with("c", upstream.address, ", lb_policy: ROUND_ROBINN");
    refused(config, &["stat_prefixx", "stat_prefix", "no.such.Filter", "ROUND_ROBINN", "envoy3.yaml:"]).await;
}

#[tokio::test]
async fn a_route_to_an_unknown_cluster_is_refused() {
    let routes = "{ match: { prefix: / }, route: { cluster: nowhere } }";
    refused(Config::new().routes(routes), &["nowhere", "route.cluster"]).await;
}

#[tokio::test]
async fn broken_yaml_is_refused_at_its_line() {
    refused(config().routes("{ match: ["), &["envoy3.yaml:"]).await;
}
