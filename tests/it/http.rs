//! HTTP/1.1 and HTTP/2 on both sides: bodies, trailers, headers, limits, timeouts.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{
    message::{Request, append, get, post, value},
    portreeve::{Config, HTTP2},
    upstream::{self, Reply},
    within,
};

#[tokio::test]
async fn every_combination_of_versions_carries_bodies_and_trailers() {
    let body = Bytes::from(vec![b'x'; 300_000]);
    let reply = Reply::from(std::str::from_utf8(&body).unwrap()).header("x-kind", "large").trailer("x-sum", "1");
    let http1 = upstream::http1().route("/", Reply::from("hello")).start().await;
    let http2 = upstream::http2().route("/", reply).start().await;
    let routes =
        "{ match: { prefix: /1 }, route: { cluster: http1 } }, { match: { prefix: /2 }, route: { cluster: http2 } }";
    let config = Config::new().routes(routes).cluster("http1", &http1).http2_cluster("http2", &http2);
    let portreeve = config.start().await;
    for mut client in [portreeve.http1().await, portreeve.http2().await] {
        let answer = client.send(post("/1", body.clone())).await;
        assert_eq!((answer.status, answer.text()), (200, "hello"));
        assert_eq!(http1.last().body, body);
        let answer = client.send(post("/2", body.clone())).await;
        assert_eq!((answer.status, answer.body.len()), (200, body.len()));
        assert_eq!(value(&answer.headers, "x-kind"), "large");
        assert_eq!(http2.last().body, body);
    }
    let mut trailers = HeaderMap::new();
    append(&mut trailers, "x-sum", "2");
    let answer = portreeve.http2().await.send(Request { trailers, ..post("/2", "sum") }).await;
    assert_eq!(value(&answer.trailers, "x-sum"), "1");
    assert_eq!(value(&http2.last().trailers, "x-sum"), "2");
}

#[tokio::test]
async fn a_connection_carries_many_requests_to_one_upstream_connection() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).start().await;
    let mut client = portreeve.http1().await;
    for _ in 0..10 {
        assert_eq!(client.send(get("/")).await.text(), "hello");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn answers_without_a_body_end_where_they_should() {
    let upstream = upstream::http1()
        .route("/204", Reply::from("").status(204))
        .route("/304", Reply::from("").status(304))
        .route("/", "hello")
        .start()
        .await;
    let portreeve = Config::to(&upstream).start().await;
    for mut client in [portreeve.http1().await, portreeve.http2().await] {
        assert_eq!(client.send(get("/204")).await.status, 204);
        assert_eq!(client.send(get("/304")).await.status, 304);
        let head = client.send(Request::new(Method::HEAD, "/")).await;
        assert_eq!((head.status, head.body.len(), value(&head.headers, "content-length").as_str()), (200, 0, "5"));
        assert_eq!(client.send(get("/")).await.text(), "hello");
    }
}

#[tokio::test]
async fn the_upstream_learns_where_a_request_came_from() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).manager("use_remote_address: true").start().await;
    let request = get("/").header("x-forwarded-for", "192.0.2.1").header("x-request-id", "mine");
    portreeve.send(request).await;
    let headers = upstream.last().headers;
    assert!(value(&headers, "x-forwarded-for").starts_with("192.0.2.1,"), "{headers:?}");
    assert_eq!(value(&headers, "x-forwarded-proto"), "http");
    portreeve.get("/").await;
    let headers = upstream.last().headers;
    assert!(value(&headers, "x-forwarded-for").parse::<IpAddr>().is_ok(), "{headers:?}");
    assert_eq!(value(&headers, "x-request-id").len(), 36);
}

#[tokio::test]
async fn headers_of_one_connection_stay_there() {
    let reply = Reply::from("hello").header("connection", "keep-alive").header("keep-alive", "timeout=5");
    let upstream = upstream::http1().route("/", reply).start().await;
    let portreeve = Config::to(&upstream).start().await;
    let request = get("/").header("connection", "x-mine").header("x-mine", "1").header("te", "gzip");
    let answer =
        portreeve.send(request.header("proxy-connection", "keep-alive").header("keep-alive", "timeout=5")).await;
    assert!(!answer.headers.contains_key("keep-alive"));
    let seen = upstream.last().headers;
    for name in ["proxy-connection", "keep-alive", "te", "connection"] {
        assert!(!seen.contains_key(name), "{name} went upstream: {seen:?}");
    }
}

#[tokio::test]
async fn a_slow_upstream_meets_the_route_timeout() {
    let upstream = upstream::http1().route("/", Reply::Silence).start().await;
    let routes = "{ match: { prefix: / }, route: { cluster: upstream, timeout: 0.1s } }";
    let portreeve = Config::to(&upstream).routes(routes).start().await;
    let answer = portreeve.get("/").await;
    assert_eq!((answer.status, answer.text()), (504, "upstream request timeout"));
    assert_eq!(portreeve.stat("cluster.upstream.upstream_rq_timeout").await, 1);
}

#[tokio::test]
async fn a_stream_without_traffic_meets_the_idle_timeout() {
    let upstream = upstream::http1().route("/", Reply::Silence).start().await;
    let portreeve = Config::to(&upstream).manager("stream_idle_timeout: 0.1s").start().await;
    assert_eq!(portreeve.http2().await.send(get("/")).await.status, 504);
    // A request that never ends.
    let client = portreeve.http2().await;
    let (answer, _body) = client.open(post("/", "")).await;
    assert_eq!(within("the timeout", answer).await.unwrap().status(), 408);
    assert_eq!(portreeve.stat("http.main.downstream_rq_idle_timeout").await, 2);
}

#[tokio::test]
async fn upstream_failures_are_answered_with_503() {
    let upstream = upstream::http1().route("/", Reply::Reset).start().await;
    let gone = upstream::http1().start().await.address;
    let routes = "{ match: { prefix: /gone }, route: { cluster: gone } }, { match: { prefix: / }, route: { cluster: upstream } }";
    let portreeve = Config::to(&upstream).routes(routes).cluster_with("gone", gone, "").start().await;
    assert_eq!(portreeve.get("/").await.status, 503);
    assert_eq!(portreeve.get("/gone").await.status, 503);
    assert_eq!(portreeve.stat("cluster.gone.upstream_cx_connect_fail").await, 1);
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).manager("max_request_headers_kb: 8").start().await;
    let large = "x".repeat(9000);
    let answer = portreeve.send(get("/").header("x-large", &large)).await;
    assert_eq!(answer.status, 431);
    assert!(upstream.requests().is_empty());
}

/// An HTTP/2 server whose first stream is refused, and whose others are answered.
#[tokio::test]
async fn a_refused_stream_is_sent_again() {
    let streams = Arc::new(AtomicUsize::new(0));
    let upstream = upstream::raw(move |stream, _| {
        let streams = streams.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                if streams.fetch_add(1, Ordering::SeqCst) == 0 {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    respond.send_response(http::Response::new(()), true).unwrap();
                }
            }
        }
    })
    .await;
    let portreeve = Config::new().cluster_with("upstream", upstream.address, HTTP2).start().await;
    assert_eq!(portreeve.get("/").await.status, 200);
}

/// An HTTP/1.1 server that closes a connection after its first answer, without saying so.
#[tokio::test]
async fn a_connection_that_closed_while_idle_is_not_an_error() {
    let upstream = upstream::raw(|mut stream, _| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    let portreeve = Config::to(&upstream).start().await;
    let mut client = portreeve.http1().await;
    for _ in 0..20 {
        assert_eq!(client.send(get("/")).await.text(), "ok");
    }
}

#[tokio::test]
async fn more_streams_than_one_upstream_connection_takes_open_another() {
    let upstream = upstream::http2().max_streams(4).route("/wait", Reply::Silence).route("/", "hello").start().await;
    let portreeve = Config::new().http2_cluster("upstream", &upstream).start().await;
    let mut client = portreeve.http2().await;
    assert_eq!(client.send(get("/")).await.text(), "hello");
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(client.open(post("/wait", "")).await);
    }
    assert_eq!(client.send(get("/")).await.text(), "hello");
    assert!(upstream.connections() >= 3, "{} connections", upstream.connections());
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_upstream() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let upstream = upstream::raw(move |mut stream, _| {
        let sent = counter.clone();
        async move {
            let chunk = vec![b'x'; 65536];
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
            while stream.write_all(&chunk).await.is_ok() {
                sent.fetch_add(chunk.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let portreeve = Config::to(&upstream).start().await;
    let client = portreeve.http2().await;
    let (answer, _) = client.open(get("/")).await;
    let answer = within("headers", answer).await.unwrap();
    let stalled = async {
        let mut before = usize::MAX;
        while before != sent.load(Ordering::SeqCst) {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        before
    };
    let buffered = within("the upstream to stop", stalled).await;
    assert!(buffered < 16 << 20, "{buffered} bytes left the upstream, and nobody read them");
    drop(answer);
}
