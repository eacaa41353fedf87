//! The configuration that the packages install: it serves at once, and does what its comments promise.

use std::{
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::support::{
    client::{self, connect_tls},
    message::get,
    portreeve::{Config, Portreeve},
};

/// Starts what is installed, with free ports and with its files in this directory.
async fn start(directory: &Path, change: fn(&str) -> String) -> Portreeve {
    let pem = directory.join("server.pem");
    let made = portreeve(&["certificate", "--self-signed", "--name", "localhost", pem.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    let here = format!("{}/", directory.display());
    let mut document = change(include_str!("../../etc/portreeve/envoy3.yaml"));
    for (installed, tested) in [
        ("port_value: 443 ", "port_value: 0 "),
        ("port_value: 8001 ", "port_value: 0 "),
        ("address: 0.0.0.0", "address: 127.0.0.1"),
        ("/var/lib/portreeve/", &here),
        ("/var/log/portreeve/", &here),
        ("filename: /etc/portreeve/", &format!("filename: {here}")),
    ] {
        assert!(document.contains(installed), "{installed}");
        document = document.replace(installed, tested);
    }
    Config::document(document).start().await
}

fn portreeve(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portreeve")).args(arguments).output().unwrap()
}

/// `portreeve workers list`, as docs/operations/install.md has it.
fn list(portreeve: &Portreeve, directory: &Path) -> Output {
    let port = portreeve.listener("public").port();
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let address = format!("https://localhost:{port}");
    let (ca, token) = (file("server.pem"), file("registration.token"));
    self::portreeve(&["workers", "list", "--address", &address, "--ca", &ca, "--token-file", &token])
}

#[tokio::test]
async fn it_answers_by_tls_and_nobody_may_register() {
    let directory = tempfile::tempdir().unwrap();
    let portreeve = start(directory.path(), str::to_owned).await;
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_file(directory.path().join("server.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (stream, alpn) = connect_tls(portreeve.listener("public"), "localhost", Arc::new(config)).await.unwrap();
    assert_eq!(alpn.as_deref(), Some("h2"));
    let mut client = client::http2(stream).await;
    let page = client.send(get("/")).await;
    assert!(page.text().starts_with("Portreeve is running"), "{}", page.text());
    assert_eq!(client.send(get("/x")).await.status, 404);

    std::fs::write(directory.path().join("registration.token"), "0123456789abcdef\n").unwrap();
    let refused = list(&portreeve, directory.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("UNAUTHENTICATED"), "{refused:?}");
}

#[tokio::test]
async fn with_its_callers_uncommented_they_may() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("registration.token"), "0123456789abcdef\n").unwrap();
    let uncomment = |text: &str| {
        let (before, rest) = text.split_once("# callers:\n").unwrap();
        let (callers, after) = rest.split_once("          - name: envoy.filters.http.router").unwrap();
        // What is a comment in the example stays one.
        let callers = callers.replace("# - ", "- ").replace("#   ", "  ");
        format!("{before}callers:\n{callers}          - name: envoy.filters.http.router{after}")
    };
    let portreeve = start(directory.path(), uncomment).await;
    let listed = list(&portreeve, directory.path());
    assert!(listed.status.success(), "{listed:?}");
}
