//! Access logs: formats, flags, and one line for every request whatever becomes of it.

use serde_json::Value;

use super::support::{
    message::get,
    portreeve::Config,
    upstream::{self, Reply},
};

/// An access log on standard output; `format` begins with a comma.
fn log(format: &str) -> String {
    format!(
        r#"access_log: [ {{ name: log, typed_config: {{
             "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout {format} }} }} ]"#
    )
}

/// A log of one text line.
fn text(format: &str) -> String {
    log(&format!(r#", log_format: {{ text_format_source: {{ inline_string: "{format}\n" }} }}"#))
}

#[tokio::test]
async fn the_default_line_is_envoys() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let mut portreeve = Config::to(&upstream).manager(&log("")).start().await;
    portreeve.send(get("/path?q=1").host("a.example").header("user-agent", "test")).await;
    let line = portreeve.output().await;
    let id = upstream.last().headers["x-request-id"].to_str().unwrap().to_owned();
    let (start, rest) = line.split_once("] ").unwrap();
    assert_eq!((start.len(), &start[..1], start.ends_with('Z')), (25, "[", true), "{line}");
    let (request, rest) = rest.split_once(" - 0 5 ").unwrap();
    assert_eq!(request, r#""GET /path?q=1 HTTP/1.1" 200"#);
    let tail = format!(r#""-" "test" "{id}" "a.example" "{}""#, upstream.address);
    assert!(rest.ends_with(&tail), "{line}");
}

#[tokio::test]
async fn json_keeps_numbers_and_nesting() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let format = r#", log_format: { json_format: { status: "%RESPONSE_CODE%", what: { method: "%REQ(:METHOD)%",
        path: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%" }, none: "%REQ(x-none)%", mixed: "%PROTOCOL% %BYTES_SENT%" } }"#;
    let mut portreeve = Config::to(&upstream).manager(&log(format)).start().await;
    portreeve.get("/path").await;
    let line: Value = serde_json::from_str(&portreeve.output().await).unwrap();
    assert_eq!(line["status"], 200);
    assert_eq!(line["what"]["method"], "GET");
    assert_eq!(line["what"]["path"], "/path");
    assert_eq!(line["none"], Value::Null);
    assert_eq!(line["mixed"], "HTTP/1.1 5");
}

#[tokio::test]
async fn failures_have_their_flags_and_details() {
    let upstream = upstream::http1().route("/reset", Reply::Reset).route("/", Reply::Silence).start().await;
    let gone = upstream::http1().start().await.address;
    let routes = r"{ match: { prefix: /gone }, route: { cluster: gone } },
        { match: { prefix: /slow }, route: { cluster: upstream, timeout: 0.1s } },
        { match: { prefix: /reset }, route: { cluster: upstream } },
        { match: { path: /direct }, direct_response: { status: 418 } },
        { match: { path: /unknown }, route: { cluster_header: x-cluster } }";
    let format = text("%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%");
    let mut portreeve =
        Config::to(&upstream).routes(routes).cluster_with("gone", gone, "").manager(&format).start().await;
    for (path, expected) in [
        ("/none", "404 NR route_not_found"),
        ("/gone", "503 UF upstream_reset_before_response_started{remote_connection_failure"),
        ("/slow", "504 UT response_timeout"),
        ("/reset", "503 UC upstream_reset_before_response_started{connection_termination}"),
        ("/direct", "418 - direct_response"),
        ("/unknown", "503 NC cluster_not_found"),
    ] {
        portreeve.get(path).await;
        let line = portreeve.output().await;
        assert!(line.starts_with(&format!("{path} {expected}")), "{line}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_logged_too() {
    let upstream = upstream::http1().route("/", Reply::Silence).start().await;
    let format = text("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%");
    let mut portreeve = Config::to(&upstream).manager(&format).start().await;
    let client = portreeve.http2().await;
    let exchange = client.open(get("/")).await;
    portreeve.until("cluster.upstream.upstream_rq_active", 1).await;
    drop(exchange);
    assert_eq!(portreeve.output().await, "0 DR http2.remote_reset");
    let _exchange = client.open(get("/")).await;
    portreeve.until("cluster.upstream.upstream_rq_active", 1).await;
    drop(client);
    assert_eq!(portreeve.output().await, "0 DC downstream_remote_disconnect");
}
