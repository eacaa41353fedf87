//! Files of certificates that change while the server runs: written in place, replaced, reached by another link; and those that make no
//! sense.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::support::{
    certificates::{Authority, Identity},
    client::{self, connect_tls},
    message::get,
    portreeve::{Config, Portreeve, transport_socket},
    upstream::{self, Upstream},
    within,
};

/// The name that the server's certificate is for now.
async fn shown(authority: &Authority, portreeve: &Portreeve) -> String {
    let config = authority.client(&["http/1.1"], None);
    for name in ["old.test", "new.test", "third.test"] {
        if connect_tls(portreeve.address(), name, config.clone()).await.is_ok() {
            return name.to_owned();
        }
    }
    "none of them".to_owned()
}

async fn until_shown(authority: &Authority, portreeve: &Portreeve, name: &str) {
    within(name, async { while shown(authority, portreeve).await != name {} }).await;
}

async fn serving(pem: &Path) -> (Upstream, Portreeve) {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).tls(pem, "").start().await;
    (upstream, portreeve)
}

fn text(identity: &Identity) -> String {
    fs::read_to_string(&identity.pem).unwrap()
}

#[tokio::test]
async fn a_file_written_in_place_serves_new_connections() {
    let authority = Authority::new();
    let (old, new) = (authority.issue(&["old.test"]), authority.issue(&["new.test"]));
    let (_upstream, portreeve) = serving(&old.pem).await;
    let config = authority.client(&["http/1.1"], None);
    let (stream, _) = connect_tls(portreeve.address(), "old.test", config).await.unwrap();
    let mut open = client::http1(stream).await;
    assert_eq!(open.send(get("/")).await.text(), "hello");
    fs::write(&old.pem, text(&new)).unwrap();
    until_shown(&authority, &portreeve, "new.test").await;
    assert_eq!(open.send(get("/")).await.text(), "hello", "connections go on");
    assert_eq!(portreeve.stat("certificates.update_success").await, 1);
    assert!(portreeve.admin("/certs").await.text().contains("new.test"));
}

#[tokio::test]
async fn a_file_replaced_by_another_and_a_link_that_moves_are_noticed() {
    let authority = Authority::new();
    let (old, new, third) =
        (authority.issue(&["old.test"]), authority.issue(&["new.test"]), authority.issue(&["third.test"]));
    let directory = old.pem.parent().unwrap().join("mounted");
    for (name, identity) in [("..1", &old), ("..2", &new)] {
        fs::create_dir_all(directory.join(name)).unwrap();
        fs::write(directory.join(name).join("tls.pem"), text(identity)).unwrap();
    }
    symlink("..1", directory.join("..data")).unwrap();
    symlink("..data/tls.pem", directory.join("tls.pem")).unwrap();
    let (_upstream, portreeve) = serving(&directory.join("tls.pem")).await;
    assert_eq!(shown(&authority, &portreeve).await, "old.test");

    symlink("..2", directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    until_shown(&authority, &portreeve, "new.test").await;

    fs::write(directory.join("other.pem"), text(&third)).unwrap();
    fs::rename(directory.join("other.pem"), directory.join("..2/tls.pem")).unwrap();
    until_shown(&authority, &portreeve, "third.test").await;
}

#[tokio::test]
async fn files_that_make_no_sense_are_refused_until_they_do() {
    let authority = Authority::new();
    let (old, new) = (authority.issue(&["old.test"]), authority.issue(&["new.test"]));
    let (_upstream, mut portreeve) = serving(&old.pem).await;
    let (whole, other) = (text(&new), text(&old));
    // The chain is new, and the key is not yet.
    let chain = whole.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let key = &other[other.find("-----BEGIN PRIVATE KEY-----").unwrap()..];
    fs::write(&old.pem, format!("{chain}{key}")).unwrap();
    let line = portreeve.log("changed files are refused").await;
    assert!(line.contains("does not match the certificate") && line.contains("old.test"), "{line}");
    assert_eq!(shown(&authority, &portreeve).await, "old.test");
    fs::remove_file(&old.pem).unwrap();
    let line = portreeve.log("changed files are refused").await;
    assert!(line.contains("No such file"), "{line}");
    assert_eq!(portreeve.stat("certificates.update_rejected").await, 2);
    fs::write(&old.pem, whole).unwrap();
    until_shown(&authority, &portreeve, "new.test").await;
}

#[tokio::test]
async fn authorities_of_clients_and_of_upstreams_follow_their_files() {
    let (first, second) = (Authority::new(), Authority::new());
    let server = second.issue(&["inner.example"]).server(&["http/1.1"]);
    let upstream = upstream::http1().tls(server).route("/", "hello").start().await;
    let ca = first.issue(&["unused"]).pem.parent().unwrap().join("trusted.pem");
    fs::copy(first.certificate(), &ca).unwrap();
    let trusted = format!("validation_context: {{ trusted_ca: {{ filename: \"{}\" }} }}", ca.display());
    let fields = format!(
        r#", transport_socket: {{ name: tls, typed_config: {{
             "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
             common_tls_context: {{ {trusted} }} }} }}"#
    );
    let socket = transport_socket(
        &first.issue(&["localhost"]).pem,
        &format!(", {trusted}"),
        ", require_client_certificate: true",
    );
    let portreeve = Config::new().cluster_with("upstream", upstream.address, &fields).chain(&socket).start().await;
    let status = async |authority: &Authority| {
        let config = first.client(&["http/1.1"], Some(&authority.issue(&["client"])));
        let Ok((stream, _)) = connect_tls(portreeve.address(), "localhost", config).await else { return 0 };
        client::http1(stream).await.try_send(get("/")).await.map_or(0, |answer| answer.status)
    };
    assert_eq!(status(&first).await, 503, "the upstream is not trusted");
    assert_eq!(status(&second).await, 0, "the client is not trusted");
    fs::copy(second.certificate(), &ca).unwrap();
    within("the other authority", async { while status(&second).await != 200 {} }).await;
    assert_eq!(status(&first).await, 0);
}
