//! File descriptors run short: connections wait or are refused, and what is there goes on.

use super::support::{client, message::get, portreeve::Config, upstream};

const ACCEPT_FAILED: &str = "listener.127.0.0.1_0.downstream_cx_accept_failed";
const OVERFLOW: &str = "listener.127.0.0.1_0.downstream_global_cx_overflow";

#[tokio::test]
async fn connections_leave_descriptors_for_their_requests() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).descriptors(256).start().await;
    let mut connections = Vec::new();
    for _ in 0..64 {
        connections.push(portreeve.http1().await);
    }
    portreeve.until("http.main.downstream_cx_active", 64).await;
    portreeve.http1().await.closed().await;
    assert_eq!(portreeve.stat(OVERFLOW).await, 1);
    for connection in &mut connections {
        assert_eq!(connection.send(get("/")).await.text(), "hello");
    }
    assert_eq!(portreeve.stat(ACCEPT_FAILED).await, 0);
}

#[tokio::test]
async fn without_descriptors_connections_wait_until_others_have_ended() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let more =
        "{layered_runtime: {layers: [{name: a, static_layer: {overload: {global_downstream_max_connections: 1000}}}]}}";
    let config = Config::to(&upstream).argument("--config-yaml").argument(more);
    let mut portreeve = config.descriptors(64).start().await;
    let mut connections = Vec::new();
    for _ in 0..64 {
        connections.push(client::connect(portreeve.address()).await);
    }
    portreeve.log("connections wait").await;
    let mut waiting = portreeve.http1().await;
    drop(connections);
    assert_eq!(waiting.send(get("/")).await.text(), "hello");
    let failed = portreeve.stat(ACCEPT_FAILED).await;
    assert!((1..200).contains(&failed), "{failed}: neither silence nor a spin");
}
