//! WebSocket and other protocol switches: over HTTP/1.1, and over HTTP/2 by extended CONNECT.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{
    client::{self, upgrade},
    message::{get, value},
    portreeve::{Config, HTTP2},
    upstream::{self, Reply, Upstream},
    within,
};

const WEBSOCKET: &str = "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    sec-websocket-protocol: chat\r\n";

async fn echo() -> Upstream {
    upstream::http1().route("/hello", "hello").route("/", Reply::Echo).start().await
}

fn config(upstream: &Upstream) -> Config {
    Config::to(upstream).manager("upgrade_configs: [ { upgrade_type: websocket } ]")
}

#[tokio::test]
async fn http1_switches_and_carries_bytes_both_ways() {
    let upstream = echo().await;
    let portreeve = config(&upstream).start().await;
    let (head, mut stream) = upgrade(portreeve.connect().await, "/chat?room=1", WEBSOCKET).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n"), "{head}");
    let seen = upstream.last();
    assert_eq!(seen.uri, "/chat?room=1");
    assert_eq!(value(&seen.headers, "upgrade"), "websocket");
    assert_eq!(value(&seen.headers, "sec-websocket-protocol"), "chat");
    for text in [b"hello".to_vec(), vec![7; 100_000]] {
        let mut back = vec![0; text.len()];
        stream.write_all(&text).await.unwrap();
        within("the echo", stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, text);
    }
    stream.shutdown().await.unwrap();
    assert_eq!(within("the end", stream.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn http2_extended_connect_becomes_an_http1_upgrade() {
    let upstream = echo().await;
    let portreeve = config(&upstream).manager("http2_protocol_options: { allow_connect: true }").start().await;
    let mut client = portreeve.http2().await;
    // The settings are here once something is answered.
    assert_eq!(client.send(get("/hello")).await.text(), "hello");
    assert!(client.extended_connect());
    let (answer, mut to) = client.extended(get("/chat").header("sec-websocket-protocol", "chat"), "websocket").await;
    let answer = within("headers", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = upstream.last();
    assert_eq!((seen.method, seen.uri.path().to_owned()), (http::Method::GET, "/chat".to_owned()));
    assert_eq!(value(&seen.headers, "upgrade"), "websocket");
    assert_eq!(value(&seen.headers, "sec-websocket-protocol"), "chat");
    assert!(seen.headers.contains_key("sec-websocket-key"));
    let mut from = answer.into_body();
    to.send_data(Bytes::from_static(b"hello"), false).unwrap();
    assert_eq!(within("the echo", from.data()).await.unwrap().unwrap(), "hello");
    to.send_data(Bytes::new(), true).unwrap();
    while let Some(data) = within("the end", from.data()).await {
        assert_eq!(data.unwrap(), "");
    }
}

#[tokio::test]
async fn an_http2_cluster_is_reached_by_http1_for_an_upgrade() {
    let upstream = echo().await;
    let portreeve = Config::new()
        .cluster_with("upstream", upstream.address, HTTP2)
        .manager("upgrade_configs: [ { upgrade_type: websocket } ]")
        .start()
        .await;
    let (head, _) = upgrade(portreeve.connect().await, "/", WEBSOCKET).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

#[tokio::test]
async fn an_upgrade_that_is_not_configured_is_refused() {
    let upstream = echo().await;
    let portreeve = Config::to(&upstream).start().await;
    let (head, _) = upgrade(portreeve.connect().await, "/", WEBSOCKET).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_refusal_of_the_upstream_is_passed_on() {
    let upstream = upstream::http1().route("/", Reply::from("no").status(401)).start().await;
    let portreeve = config(&upstream).start().await;
    let (head, mut stream) = upgrade(portreeve.connect().await, "/", WEBSOCKET).await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    let mut body = [0; 2];
    within("the body", stream.read_exact(&mut body)).await.unwrap();
    assert_eq!(&body, b"no");
}

#[tokio::test]
async fn a_route_may_switch_upgrades_off() {
    let upstream = echo().await;
    let routes = "{ match: { prefix: / }, route: { cluster: upstream,
        upgrade_configs: [ { upgrade_type: websocket, enabled: false } ] } }";
    let portreeve = config(&upstream).routes(routes).start().await;
    let stream = client::connect(portreeve.address()).await;
    let (head, _) = upgrade(stream, "/", WEBSOCKET).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}
