//! The admin interface, in Envoy's formats.

use serde_json::Value;

use super::support::{
    certificates::Authority,
    client,
    message::{Request, get, post},
    portreeve::{Config, Portreeve},
    upstream::{self, Upstream},
};

async fn start() -> (Upstream, Portreeve) {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).start().await;
    assert_eq!(portreeve.get("/").await.text(), "hello");
    (upstream, portreeve)
}

async fn json(portreeve: &Portreeve, path: &str) -> Value {
    let answer = portreeve.admin(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_str(answer.text()).unwrap()
}

/// The status of a request to the admin interface.
async fn status(portreeve: &Portreeve, request: Request) -> u16 {
    client::http1(client::connect(portreeve.admin).await).await.send(request).await.status
}

#[tokio::test]
async fn it_says_that_it_is_live() {
    let (_upstream, portreeve) = start().await;
    assert_eq!(portreeve.admin("/ready").await.text(), "LIVE\n");
    let info = json(&portreeve, "/server_info").await;
    assert_eq!(info["state"], "LIVE");
    assert_eq!(info["command_line_options"]["concurrency"], 2);
    assert!(portreeve.admin("/").await.text().contains("config_dump"));
}

#[tokio::test]
async fn it_lists_listeners_and_clusters() {
    let (upstream, portreeve) = start().await;
    let listeners = portreeve.admin("/listeners").await;
    assert_eq!(listeners.text(), format!("main::{}\n", portreeve.address()));
    let clusters = portreeve.admin("/clusters").await;
    let host = format!("upstream::{}", upstream.address);
    assert!(clusters.text().contains(&format!("{host}::health_flags::healthy")), "{}", clusters.text());
    assert!(clusters.text().contains(&format!("{host}::rq_total::1")), "{}", clusters.text());
    let clusters = json(&portreeve, "/clusters?format=json").await;
    assert_eq!(clusters["cluster_statuses"][0]["name"], "upstream");
}

#[tokio::test]
async fn it_dumps_the_configuration_without_secrets() {
    let authority = Authority::new();
    let upstream = upstream::http1().route("/", "hello").start().await;
    let identity = authority.issue(&["localhost"]);
    let (certificate, key) = (serde_json::to_string(&identity.certificate), serde_json::to_string(&identity.key));
    let socket = format!(
        r#"transport_socket: {{ name: tls, typed_config: {{
             "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
             common_tls_context: {{ tls_certificates: [
               {{ certificate_chain: {{ inline_string: {} }}, private_key: {{ inline_string: {} }} }} ] }} }} }}"#,
        certificate.unwrap(),
        key.unwrap()
    );
    let portreeve = Config::to(&upstream).chain(&socket).start().await;
    let dump = portreeve.admin("/config_dump").await;
    assert!(!dump.text().contains("PRIVATE KEY"));
    assert!(dump.text().contains("[redacted]"));
    let dump: Value = serde_json::from_str(dump.text()).unwrap();
    let types: Vec<_> =
        dump["configs"].as_array().unwrap().iter().filter_map(|config| config["@type"].as_str()).collect();
    for kind in ["Bootstrap", "Clusters", "Listeners"] {
        assert!(types.contains(&format!("type.googleapis.com/envoy.admin.v3.{kind}ConfigDump").as_str()), "{types:?}");
    }
    let certificates = json(&portreeve, "/certs").await;
    assert_eq!(certificates["certificates"][0]["cert_chain"][0]["subject_alt_names"][0]["dns"], "localhost");
}

#[tokio::test]
async fn it_prints_stats_in_three_formats() {
    let (_upstream, portreeve) = start().await;
    assert_eq!(portreeve.stat("cluster.upstream.upstream_rq_200").await, 1);
    assert_eq!(portreeve.stat("http.main.downstream_rq_2xx").await, 1);
    let stats = json(&portreeve, "/stats?format=json&filter=^cluster.upstream.upstream_rq_total$").await;
    assert_eq!(stats["stats"][0]["value"], 1);
    let prometheus = portreeve.admin("/stats/prometheus").await;
    let line = r#"envoy_cluster_upstream_rq_total{envoy_cluster_name="upstream"} 1"#;
    assert!(prometheus.text().contains(line), "{}", prometheus.text());
}

#[tokio::test]
async fn changes_need_post_and_a_local_host() {
    let (_upstream, portreeve) = start().await;
    let host = portreeve.admin.to_string();
    assert_eq!(status(&portreeve, get("/logging?level=debug").host(&host)).await, 405);
    assert_eq!(status(&portreeve, post("/logging?level=debug", "").host(&host)).await, 200);
    assert_eq!(status(&portreeve, post("/logging?level=nonsense", "").host(&host)).await, 400);
    assert_eq!(status(&portreeve, get("/ready").host("attacker.example")).await, 403);
    let foreign = get("/ready").host(&host).header("origin", "http://attacker.example");
    assert_eq!(status(&portreeve, foreign).await, 403);
    assert_eq!(status(&portreeve, get("/unknown").host(&host)).await, 404);
}
