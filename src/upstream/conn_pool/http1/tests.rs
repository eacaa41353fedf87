//! How pooled connections are used, kept and lost.

use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::tests::{Peer, channel, cluster, eventually, get, post, read_head, run, run_paused, send, text};
use crate::{
    http::{body::Body, upgrade::Upgrade},
    upstream::FailureKind,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn a_connection_serves_one_request_after_the_other() {
    run(async {
        let peer = Peer::http1(|_, request| {
            assert!(request.starts_with("GET /x HTTP/1.1\r\n") && request.contains("host: test\r\n"), "{request}");
            Some(OK.to_owned())
        })
        .await;
        let cluster = cluster(peer.address, "");
        for _ in 0..3 {
            assert_eq!(text(send(&cluster, get("http://test/x")).await.unwrap()).await, "ok");
        }
        assert_eq!(peer.connections(), 1);
        let stats = &cluster.cluster().stats;
        assert_eq!((stats.upstream_rq_total.value(), stats.upstream_rq_active.value()), (3, 0));
        assert_eq!((stats.upstream_cx_http1_total.value(), stats.upstream_cx_active.value()), (1, 1));
        assert!(stats.upstream_cx_rx_bytes_total.value() >= 3 * OK.len() as u64);
    });
}

#[test]
fn requests_at_the_same_time_have_connections_of_their_own() {
    run(async {
        let peer = Peer::http1(|_, _| Some(OK.to_owned())).await;
        let cluster = cluster(peer.address, "");
        let first = send(&cluster, get("/")).await.unwrap();
        let second = send(&cluster, get("/")).await.unwrap();
        assert_eq!(peer.connections(), 2);
        assert_eq!(text(first).await + &text(second).await, "okok");
        text(send(&cluster, get("/")).await.unwrap()).await;
        assert_eq!(peer.connections(), 2);
    });
}

#[test]
fn a_connection_that_closed_while_idle_is_not_used() {
    run(async {
        let peer = Peer::new(|_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
        })
        .await;
        let cluster = cluster(peer.address, "");
        for _ in 0..3 {
            text(send(&cluster, post(Body::full("x"))).await.unwrap()).await;
            let stats = &cluster.cluster().stats;
            eventually(|| stats.upstream_cx_active.value() == 0).await;
        }
        assert_eq!(peer.connections(), 3);
        assert_eq!(cluster.cluster().stats.upstream_cx_destroy_remote.value(), 3);
    });
}

#[test]
fn a_request_that_meets_an_idle_close_is_handed_back_if_it_is_safe_to_repeat() {
    run(async {
        let peer = Peer::http1(|_, request| (!request.contains(" /close ")).then(|| OK.to_owned())).await;
        let cluster = cluster(peer.address, "");
        let close = |method| {
            let request = http::Request::builder().method(method).uri("/close").header("host", "test");
            request.body(Body::empty()).unwrap()
        };
        for (method, handed_back) in [("GET", true), ("DELETE", false)] {
            text(send(&cluster, get("/")).await.unwrap()).await;
            tokio::time::sleep(Duration::from_millis(110)).await;
            let failure = send(&cluster, close(method)).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Disconnect);
            assert_eq!(failure.unprocessed, handed_back, "{method}");
        }
        let failure = send(&cluster, close("GET")).await.unwrap_err();
        assert!(!failure.unprocessed, "a new connection has not idled");
    });
}

#[test]
fn a_response_given_up_closes_its_connection() {
    run(async {
        let peer = Peer::new(|_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegin").await.unwrap();
            let _ = stream.read_u8().await;
        })
        .await;
        let cluster = cluster(peer.address, "");
        let mut response = send(&cluster, get("/")).await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
        drop(response);
        let stats = &cluster.cluster().stats;
        eventually(|| stats.upstream_cx_active.value() == 0).await;
        assert_eq!(stats.upstream_cx_destroy_local_with_active_rq.value(), 1);
        // HTTP/1 knows no resets.
        assert_eq!(stats.upstream_rq_tx_reset.value(), 0);
        assert_eq!(stats.upstream_rq_active.value(), 0);
    });
}

#[test]
fn a_connection_whose_request_is_still_being_sent_waits_to_be_used_again() {
    run(async {
        let peer = Peer::new(|_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            // chunk "x", and the last one
            let mut rest = [0; 11];
            stream.read_exact(&mut rest).await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
        })
        .await;
        let cluster = cluster(peer.address, "");
        let (sender, body) = channel();
        text(send(&cluster, post(body)).await.unwrap()).await;
        tokio::task::yield_now().await;
        sender.send("x".into()).await.unwrap();
        drop(sender);
        tokio::time::sleep(Duration::from_millis(20)).await;
        text(send(&cluster, get("/")).await.unwrap()).await;
        assert_eq!(peer.connections(), 1);
    });
}

#[test]
fn connections_are_closed_after_their_number_of_requests_and_when_idle() {
    run_paused(async {
        let peer = Peer::http1(|_, _| Some(OK.to_owned())).await;
        let cluster = cluster(
            peer.address,
            "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    common_http_protocol_options: {idle_timeout: 30s, max_requests_per_connection: 2}
    explicit_http_config: {http_protocol_options: {}}
",
        );
        for _ in 0..3 {
            text(send(&cluster, get("/")).await.unwrap()).await;
        }
        assert_eq!(peer.connections(), 2);
        let stats = &cluster.cluster().stats;
        assert_eq!(stats.upstream_cx_max_requests.value(), 1);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(stats.upstream_cx_active.value(), 1);
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(stats.upstream_cx_idle_timeout.value(), 1);
        assert_eq!(stats.upstream_cx_active.value(), 0);
    });
}

#[test]
fn a_body_of_unknown_length_is_sent_by_every_method() {
    run(async {
        let peer = Peer::new(|_, mut stream| async move {
            let head = read_head(&mut stream).await.unwrap();
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            let mut chunks = [0; 11];
            stream.read_exact(&mut chunks).await.unwrap();
            assert_eq!(&chunks, b"1\r\nx\r\n0\r\n\r\n");
            stream.write_all(OK.as_bytes()).await.unwrap();
        })
        .await;
        let cluster = cluster(peer.address, "");
        let (sender, body) = channel();
        let mut request = get("/");
        *request.body_mut() = body;
        sender.try_send("x".into()).unwrap();
        drop(sender);
        assert_eq!(text(send(&cluster, request).await.unwrap()).await, "ok");
    });
}

#[test]
fn a_broken_response_is_a_protocol_error() {
    run(async {
        let peer = Peer::http1(|_, _| Some("nonsense\r\n\r\n".to_owned())).await;
        let cluster = cluster(peer.address, "");
        let failure = send(&cluster, get("/")).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Protocol);
        assert!(!failure.unprocessed);
    });
}

fn upgrade(body: Body) -> crate::http::Request {
    let mut request = get("/");
    *request.body_mut() = body;
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    request.extensions_mut().insert(Upgrade("websocket".parse().unwrap()));
    request
}

#[test]
fn the_directions_of_an_upgraded_connection_end_independently() {
    run(async {
        let peer = Peer::new(|_, mut stream| async move {
            let head = read_head(&mut stream).await.unwrap();
            assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: Upgrade\r\n"), "{head}");
            assert!(!head.contains("transfer-encoding"), "{head}");
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
            stream.write_all(answer).await.unwrap();
            let mut received = String::new();
            stream.read_to_string(&mut received).await.unwrap();
            assert_eq!(received, "onetwo");
            stream.write_all(b" after your end").await.unwrap();
        })
        .await;
        let cluster = cluster(peer.address, "");
        let (sender, body) = channel();
        let mut response = send(&cluster, upgrade(body)).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        sender.send("one".into()).await.unwrap();
        sender.send("two".into()).await.unwrap();
        drop(sender);
        assert_eq!(text(response).await, " after your end");
        let stats = &cluster.cluster().stats;
        assert_eq!(stats.upstream_rq_active.value(), 0);
        eventually(|| stats.upstream_cx_active.value() == 0).await;
    });
}

#[test]
fn a_refused_upgrade_is_an_ordinary_response() {
    run(async {
        let peer = Peer::http1(|_, _| Some("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_owned())).await;
        let cluster = cluster(peer.address, "");
        let (_sender, body) = channel();
        let response = send(&cluster, upgrade(body)).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(text(response).await, "no");
    });
}

#[test]
fn requests_beyond_the_connections_that_there_may_be_wait_for_one() {
    run(async {
        let peer = Peer::http1(|_, _| Some(OK.to_owned())).await;
        let cluster = cluster(peer.address, "circuit_breakers: {thresholds: [{max_connections: 1}]}");
        let first = send(&cluster, get("/")).await.unwrap();
        let waiting = tokio::task::spawn_local({
            let cluster = std::rc::Rc::clone(&cluster);
            async move { text(send(&cluster, get("/")).await.unwrap()).await }
        });
        eventually(|| cluster.cluster().stats.upstream_cx_overflow.value() == 1).await;
        assert_eq!(text(first).await, "ok");
        assert_eq!(waiting.await.unwrap(), "ok");
        assert_eq!(peer.connections(), 1);
    });
}

#[test]
fn requests_beyond_those_that_there_may_be_overflow() {
    run(async {
        let peer = Peer::http1(|_, _| Some(OK.to_owned())).await;
        let cluster = cluster(peer.address, "circuit_breakers: {thresholds: [{max_requests: 1}]}");
        let first = send(&cluster, get("/")).await.unwrap();
        assert_eq!(send(&cluster, get("/")).await.unwrap_err().kind, FailureKind::Overflow);
        assert_eq!(text(first).await, "ok");
        // The connection that was made in vain is of use now.
        assert_eq!(text(send(&cluster, get("/")).await.unwrap()).await, "ok");
        assert_eq!(peer.connections(), 2);
        let stats = &cluster.cluster().stats;
        assert_eq!((stats.upstream_rq_active_overflow.value(), stats.upstream_rq_total.value()), (1, 2));
    });
}
