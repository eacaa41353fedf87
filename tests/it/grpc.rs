//! gRPC: trailers, streams in both directions, independent half-close, failures as gRPC statuses.

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::sync::mpsc;

use super::support::{
    client::grpc_frame,
    message::{Request, append, post},
    portreeve::Config,
    upstream::{self, Reply, Upstream},
    within,
};

/// A request for a gRPC method.
fn call(path: &str, message: &[u8]) -> Request {
    post(path, grpc_frame(message)).header("content-type", "application/grpc").header("te", "trailers")
}

#[tokio::test]
async fn a_unary_call_keeps_its_message_and_trailers() {
    let frame = grpc_frame(b"answer");
    let reply = Reply::from(std::str::from_utf8(&frame).unwrap())
        .header("content-type", "application/grpc")
        .trailer("grpc-status", "0")
        .trailer("x-detail", "fine");
    let upstream = upstream::http2().route("/", reply).start().await;
    let portreeve = Config::new().http2_cluster("upstream", &upstream).start().await;
    let answer = portreeve.http2().await.send(call("/pkg.Service/Method", b"question")).await;
    assert_eq!((answer.status, answer.body, answer.trailers.len()), (200, frame, 2));
    let seen = upstream.last();
    assert_eq!(seen.body, grpc_frame(b"question"));
    assert_eq!(seen.headers["te"], "trailers");
}

/// A gRPC server that answers every message with the same message.
async fn echo() -> Upstream {
    upstream::raw(|stream, _| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut requests = request.into_body();
                let mut responses = respond.send_response(http::Response::new(()), false).unwrap();
                while let Some(Ok(chunk)) = requests.data().await {
                    requests.flow_control().release_capacity(chunk.len()).unwrap();
                    responses.send_data(chunk, false).unwrap();
                }
                responses.send_trailers(status(0)).unwrap();
            });
        }
    })
    .await
}

fn status(code: u8) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    append(&mut trailers, "grpc-status", &code.to_string());
    trailers
}

#[tokio::test]
async fn both_directions_of_a_stream_flow_at_once() {
    let upstream = echo().await;
    let portreeve = Config::new().http2_cluster("upstream", &upstream).start().await;
    let client = portreeve.http2().await;
    let (answer, mut requests) = client.open(call("/pkg.Service/Chat", b"")).await;
    let mut responses = within("headers", answer).await.unwrap().into_body();
    for number in 0..100_u8 {
        requests.send_data(grpc_frame(&[number]), false).unwrap();
        let mut received = Bytes::new();
        while received.len() < 6 {
            let chunk = within("the echo", responses.data()).await.unwrap().unwrap();
            responses.flow_control().release_capacity(chunk.len()).unwrap();
            received = [received, chunk].concat().into();
        }
        assert_eq!(received, grpc_frame(&[number]));
    }
    requests.send_data(Bytes::new(), true).unwrap();
    assert!(within("the end", responses.data()).await.is_none());
    let trailers = within("trailers", responses.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

/// The server ends the stream while the client's direction is open, and the client reads slowly.
#[tokio::test]
async fn a_slow_reader_gets_all_of_a_stream_that_the_server_ended_first() {
    const MESSAGES: usize = 400;
    let frame = grpc_frame(&[b'm'; 4096]);
    let sent = frame.clone();
    let upstream = upstream::raw(move |stream, _| {
        let frame = sent.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut responses = respond.send_response(http::Response::new(()), false).unwrap();
                for _ in 0..MESSAGES {
                    responses.send_data(frame.clone(), false).unwrap();
                }
                responses.send_trailers(status(0)).unwrap();
                // As servers do that want no more of the request: RST_STREAM(NO_ERROR) once all is sent.
                drop(request);
            }
        }
    })
    .await;
    let portreeve = Config::new().http2_cluster("upstream", &upstream).start().await;
    let client = portreeve.http2().await;
    let (answer, requests) = client.open(call("/pkg.Service/Watch", b"")).await;
    let mut responses = within("headers", answer).await.unwrap().into_body();
    let mut received = 0;
    while let Some(chunk) = within("data", responses.data()).await {
        let chunk = chunk.unwrap();
        received += chunk.len();
        // Everybody else gets to run between two reads.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        responses.flow_control().release_capacity(chunk.len()).unwrap();
    }
    assert_eq!(received, MESSAGES * frame.len());
    let trailers = within("trailers", responses.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    drop(requests);
}

#[tokio::test]
async fn a_client_that_goes_away_resets_the_upstream_stream() {
    let (resets, mut reset) = mpsc::unbounded_channel();
    let upstream = upstream::raw(move |stream, _| {
        let resets = resets.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let resets = resets.clone();
                tokio::spawn(async move {
                    let mut responses = respond.send_response(http::Response::new(()), false).unwrap();
                    let reason = std::future::poll_fn(|context| responses.poll_reset(context)).await;
                    resets.send(reason.unwrap()).unwrap();
                });
            }
        }
    })
    .await;
    let portreeve = Config::new().http2_cluster("upstream", &upstream).start().await;
    let client = portreeve.http2().await;
    let (answer, requests) = client.open(call("/pkg.Service/Watch", b"")).await;
    let answer = within("headers", answer).await.unwrap();
    drop((answer, requests));
    assert_eq!(within("the reset", reset.recv()).await, Some(h2::Reason::CANCEL));
}

#[tokio::test]
async fn failures_become_grpc_statuses() {
    let silent = upstream::http2().route("/", Reply::Silence).start().await;
    let gone = upstream::http2().start().await.address;
    let routes = r"{ match: { prefix: /gone }, route: { cluster: gone } },
        { match: { prefix: /slow }, route: { cluster: silent, timeout: 0.1s } }";
    let config = Config::new().routes(routes).http2_cluster("silent", &silent);
    let portreeve = config.cluster_with("gone", gone, super::support::portreeve::HTTP2).start().await;
    let mut client = portreeve.http2().await;
    for (path, code) in [("/none/Call", "12"), ("/gone/Call", "14"), ("/slow/Call", "14")] {
        let answer = client.send(call(path, b"")).await;
        assert_eq!((answer.status, answer.grpc_status()), (200, Some(code)), "for {path}");
    }
}

#[tokio::test]
async fn grpc_web_passes_untouched() {
    let reply = Reply::from("\0\0\0\0\u{1}a\u{1}").header("content-type", "application/grpc-web+proto");
    let upstream = upstream::http2().route("/", reply).start().await;
    let portreeve = Config::new().http2_cluster("upstream", &upstream).start().await;
    let request =
        Request::new(Method::POST, "/pkg.Service/Method").header("content-type", "application/grpc-web+proto");
    let answer = portreeve.http1().await.send(Request { body: grpc_frame(b"q"), ..request }).await;
    assert_eq!((answer.status, answer.body.len()), (200, 7));
    assert_eq!(answer.headers["content-type"], "application/grpc-web+proto");
    assert_eq!(upstream.last().body, grpc_frame(b"q"));
}
