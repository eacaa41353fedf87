//! Malformed and hostile input: the right answer or the end of the connection, and the server goes on.

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{
    client::exchange,
    message::{Request, get},
    portreeve::{Config, Portreeve},
    upstream::{self, Upstream},
    within,
};

async fn start() -> (Upstream, Portreeve) {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).start().await;
    (upstream, portreeve)
}

#[tokio::test]
async fn malformed_http1_gets_400_and_the_end() {
    let (upstream, portreeve) = start().await;
    for request in [
        "GARBAGE\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nbad header: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nname: x\0y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "GET / HTTP/1.1\r\n\r\n",
        "G@T / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET relative HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let answer = exchange(portreeve.address(), request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "for {request:?}: {answer:?}");
    }
    assert!(upstream.requests().is_empty());
    assert_eq!(portreeve.get("/").await.text(), "hello");
}

#[tokio::test]
async fn http1_0_is_refused_unless_it_is_accepted() {
    let (_upstream, portreeve) = start().await;
    let answer = exchange(portreeve.address(), "GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
}

#[tokio::test]
async fn a_broken_chunk_ends_the_connection() {
    let (upstream, portreeve) = start().await;
    let request = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\nabc\r\n0\r\n\r\n";
    let answer = exchange(portreeve.address(), request).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(upstream.requests().is_empty());
    assert_eq!(portreeve.get("/").await.text(), "hello");
}

#[tokio::test]
async fn clients_that_break_off_leave_nothing_behind() {
    let (_upstream, portreeve) = start().await;
    for part in ["", "GET", "GET / HTTP/1.1\r\nhost", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc"] {
        let mut stream = portreeve.connect().await;
        stream.write_all(part.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut rest)).await;
    }
    assert_eq!(portreeve.get("/").await.text(), "hello");
    portreeve.until("http.main.downstream_cx_active", 0).await;
}

#[tokio::test]
async fn bytes_that_are_no_http2_end_the_connection() {
    let (_upstream, portreeve) = start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // A DATA frame before any SETTINGS; a frame larger than allowed; a HEADERS frame with rubbish in it.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let large = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let rubbish = [0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];
    for frames in
        [vec![0, 0, 1, 0, 0, 0, 0, 0, 1, b'x'], [&settings[..], &large].concat(), [&settings[..], &rubbish].concat()]
    {
        let answer = exchange(portreeve.address(), [preface.clone(), frames].concat()).await;
        assert!(!answer.contains("hello"), "{answer:?}");
    }
    assert_eq!(portreeve.http2().await.send(get("/")).await.text(), "hello");
}

#[tokio::test]
async fn http2_requests_with_forbidden_headers_are_reset() {
    let (upstream, portreeve) = start().await;
    let mut client = portreeve.http2().await;
    for (name, value) in [("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "websocket")] {
        let answer = client.try_send(get("/").header(name, value)).await;
        assert!(answer.is_err() || answer.unwrap().status == 400, "for {name}");
    }
    assert!(upstream.requests().is_empty());
    assert_eq!(client.send(get("/")).await.text(), "hello");
}

#[tokio::test]
async fn a_length_that_the_body_does_not_keep_is_an_error() {
    let (_upstream, portreeve) = start().await;
    let mut client = portreeve.http2().await;
    let request = Request { body: Bytes::from_static(b"abc"), ..Request::new(Method::POST, "/") };
    let answer = client.try_send(request.header("content-length", "5")).await;
    assert!(answer.is_err() || answer.unwrap().status == 400);
    assert_eq!(client.send(get("/")).await.text(), "hello");
}
