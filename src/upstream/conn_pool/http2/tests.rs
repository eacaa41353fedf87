//! How streams are shared out, refused, retried and given up.

use std::{cell::Cell, rc::Rc, time::Duration};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http_body_util::BodyExt;
use tokio::task::{spawn_local, yield_now};

use super::super::tests::{
    DATA, END_STREAM, Frames, GOAWAY, HEADERS, HTTP2, Peer, channel, cluster, eventually, get, post, run, run_paused,
    send, send_to, text, try_send,
};
use crate::{
    http::body::{Body, BodyError},
    upstream::{FailureKind, LoadBalancerContext},
};

fn ok() -> http::Response<()> {
    http::Response::new(())
}

#[test]
fn requests_share_a_connection() {
    run(async {
        let peer = Peer::http2(100, |request, mut respond| async move {
            assert_eq!(request.uri(), "http://test/x");
            assert!(!request.headers().contains_key("host"));
            respond.send_response(ok(), false).unwrap().send_data("ok".into(), true).unwrap();
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let first = send(&cluster, get("/x")).await.unwrap();
        let second = send(&cluster, get("/x")).await.unwrap();
        assert_eq!(text(first).await + &text(second).await, "okok");
        assert_eq!(peer.connections(), 1);
        let stats = &cluster.cluster().stats;
        assert_eq!((stats.upstream_rq_total.value(), stats.upstream_rq_active.value()), (2, 0));
        assert_eq!(stats.upstream_cx_http2_total.value(), 1);
    });
}

#[test]
fn the_stream_beyond_the_hosts_limit_opens_another_connection() {
    run(async {
        let peer = Peer::http2(128, |_, mut respond| async move {
            let _never_ended = respond.send_response(ok(), false).unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let host = cluster.choose_host(&LoadBalancerContext::default()).unwrap();
        let mut running = Vec::new();
        for count in 1..=300 {
            running.push(send_to(&cluster, &host, get("/")).await.unwrap());
            assert_eq!(peer.connections(), usize::div_ceil(count, 128), "{count} streams");
        }
        // What ends makes room.
        running.truncate(100);
        running.push(send_to(&cluster, &host, get("/")).await.unwrap());
        assert_eq!(peer.connections(), 3);
    });
}

#[test]
fn many_requests_at_once_wait_for_what_the_host_allows() {
    run(async {
        let peer = Peer::http2(10, |_, mut respond| async move {
            yield_now().await;
            respond.send_response(ok(), true).unwrap();
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let tasks: Vec<_> = (0..200)
            .map(|_| {
                let cluster = Rc::clone(&cluster);
                spawn_local(async move { send(&cluster, get("/")).await.unwrap().status() })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), 200);
        }
        assert!(peer.connections() <= 20, "{} connections", peer.connections());
        assert_eq!(cluster.cluster().stats.upstream_rq_pending_active.value(), 0);
    });
}

#[test]
fn a_request_that_meets_a_goaway_is_handed_back_whole() {
    run(async {
        let peer = Peer::new(|number, stream| async move {
            let mut frames = Frames::begin(stream).await;
            let (_, id) = frames.read(HEADERS).await.unwrap();
            if number == 1 {
                frames.read(DATA).await.unwrap();
                // NO_ERROR, and stream 0 was the last one looked at
                frames.write(GOAWAY, 0, 0, &[0; 8]).await;
                frames.read(GOAWAY).await;
            } else {
                while frames.read(DATA).await.unwrap() != (END_STREAM, id) {}
                frames.answer(id).await;
                frames.read(GOAWAY).await;
            }
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let (sender, body) = channel();
        sender.try_send("first ".into()).unwrap();
        let mut request = post(body);
        let failure = try_send(&cluster, &mut request).await.unwrap_err();
        assert_eq!((failure.kind, failure.unprocessed), (FailureKind::GoAway, true));
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/"));
        sender.try_send("second".into()).unwrap();
        drop(sender);
        let body = std::mem::take(request.body_mut()).collect().await.unwrap().to_bytes();
        assert_eq!(body, "first second");
        *request.body_mut() = Body::full(body);
        assert_eq!(send(&cluster, request).await.unwrap().status(), 200);
        assert_eq!(peer.connections(), 2);
    });
}

#[test]
fn a_request_finishes_on_a_connection_that_goes_away() {
    run(async {
        let peer = Peer::new(|_, stream| async move {
            let mut frames = Frames::begin(stream).await;
            let (_, id) = frames.read(HEADERS).await.unwrap();
            frames.write(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            frames.answer(id).await;
            frames.read(GOAWAY).await;
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        for connections in 1..3 {
            assert_eq!(send(&cluster, get("/")).await.unwrap().status(), 200);
            assert_eq!(peer.connections(), connections);
        }
    });
}

#[test]
fn a_refused_stream_is_handed_back_and_a_reset_one_is_not() {
    run(async {
        let peer = Peer::http2(100, |request, mut respond| async move {
            let reason =
                if request.uri().path() == "/refuse" { Reason::REFUSED_STREAM } else { Reason::INTERNAL_ERROR };
            respond.send_reset(reason);
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let failure = send(&cluster, get("/refuse")).await.unwrap_err();
        assert_eq!((failure.kind, failure.unprocessed), (FailureKind::RefusedStream, true));
        let failure = send(&cluster, get("/")).await.unwrap_err();
        assert_eq!((failure.kind, failure.unprocessed), (FailureKind::Reset(Reason::INTERNAL_ERROR), false));
        assert_eq!(cluster.cluster().stats.upstream_rq_rx_reset.value(), 2);
    });
}

/// The host ends the response before the client has ended the request, and says by `NO_ERROR` that it wants no more. All that
/// it sent must reach a reader, however slow.
#[test]
fn a_response_that_ends_before_its_request_is_delivered_whole() {
    for reset in [true, false] {
        run(half_close(reset));
    }
}

async fn half_close(reset: bool) {
    const MESSAGES: usize = 400;
    let peer = Peer::http2(100, move |request, mut respond| async move {
        let mut stream = respond.send_response(ok(), false).unwrap();
        for _ in 0..MESSAGES {
            stream.send_data(vec![b'x'; 1000].into(), false).unwrap();
        }
        stream.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])).unwrap();
        if reset {
            // Dropping the request's body now makes the server say NO_ERROR.
            drop(request);
        } else {
            let mut body = request.into_body();
            while body.data().await.is_some() {}
        }
    })
    .await;
    let cluster = cluster(peer.address, HTTP2);
    let (sender, body) = channel();
    sender.try_send("begin".into()).unwrap();
    let mut response = send(&cluster, post(body)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut received = 0;
    let mut trailers = None;
    while let Some(frame) = response.body_mut().frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => received += data.len(),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if received % 50_000 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(received, MESSAGES * 1000);
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    assert_eq!(sender.is_closed(), reset, "the upload stops when the host wants no more of it, and not before");
    drop(sender);
    let stats = &cluster.cluster().stats;
    assert_eq!(stats.upstream_rq_active.value(), 0);
    assert_eq!((stats.upstream_rq_rx_reset.value(), stats.upstream_rq_tx_reset.value()), (0, 0));
}

#[test]
fn a_response_cut_off_by_a_reset_is_an_error() {
    run(async {
        let peer = Peer::http2(100, |_, mut respond| async move {
            let mut stream = respond.send_response(ok(), false).unwrap();
            stream.send_data("part".into(), false).unwrap();
            yield_now().await;
            stream.send_reset(Reason::NO_ERROR);
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let response = send(&cluster, get("/")).await.unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        assert!(matches!(error, BodyError::Reset(Reason::NO_ERROR)), "{error}");
    });
}

#[test]
fn an_upload_goes_on_after_the_response_has_ended() {
    run(async {
        let received = Rc::new(Cell::new(0));
        let count = Rc::clone(&received);
        let peer = Peer::http2(100, move |request, mut respond| {
            let count = Rc::clone(&count);
            async move {
                respond.send_response(ok(), true).unwrap();
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    count.set(count.get() + data.len());
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                count.set(count.get() + 1000);
            }
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let (sender, body) = channel();
        let response = send(&cluster, post(body)).await.unwrap();
        assert_eq!(text(response).await, "");
        for _ in 0..5 {
            sender.send("x".into()).await.unwrap();
        }
        drop(sender);
        eventually(|| received.get() == 1005).await;
    });
}

#[test]
fn a_response_given_up_is_cancelled_and_so_is_its_upload() {
    run(async {
        let reason = Rc::new(Cell::new(None));
        let seen = Rc::clone(&reason);
        let peer = Peer::http2(100, move |_request, mut respond| {
            let seen = Rc::clone(&seen);
            async move {
                let mut stream = respond.send_response(ok(), false).unwrap();
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                seen.set(reset.ok());
            }
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let (sender, body) = channel();
        drop(send(&cluster, post(body)).await.unwrap());
        eventually(|| reason.get() == Some(Reason::CANCEL) && sender.is_closed()).await;
        assert_eq!(cluster.cluster().stats.upstream_rq_tx_reset.value(), 1);
        // The connection lives on.
        send(&cluster, get("/")).await.unwrap();
        assert_eq!(peer.connections(), 1);
    });
}

#[test]
fn a_reader_that_stops_costs_bounded_memory() {
    run(async {
        let sent = Rc::new(Cell::new(0));
        let count = Rc::clone(&sent);
        let peer = Peer::http2(100, move |_, mut respond| {
            let count = Rc::clone(&count);
            async move {
                let mut stream = respond.send_response(ok(), false).unwrap();
                loop {
                    stream.reserve_capacity(16_384);
                    match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                        Some(Ok(room)) => {
                            stream.send_data(vec![0; room].into(), false).unwrap();
                            count.set(count.get() + room);
                        }
                        _ => return,
                    }
                }
            }
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let mut response = send(&cluster, get("/")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!((1 << 20..=(1 << 20) + 16_384).contains(&sent.get()), "{} bytes", sent.get());
        // Reading opens the window again.
        let mut read = 0;
        while read < 4 << 20 {
            read += response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
    });
}

#[test]
fn a_host_that_stops_reading_stops_the_upload() {
    run(async {
        let peer = Peer::http2(100, |request, _respond| async move {
            let _unread = request;
            std::future::pending::<()>().await;
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        let (sender, body) = channel();
        let request = spawn_local(async move { send(&cluster, post(body)).await.map(drop) });
        let mut sent = 0;
        let chunk = Bytes::from(vec![0; 10_000]);
        while tokio::time::timeout(Duration::from_millis(200), sender.send(chunk.clone())).await.is_ok() {
            sent += 10_000;
            assert!(sent < 500_000);
        }
        request.abort();
    });
}

#[test]
fn a_request_whose_own_body_breaks_off_is_reset() {
    struct Broken;
    impl http_body::Body for Broken {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
            std::task::Poll::Ready(Some(Err(BodyError::Disconnect)))
        }
    }
    run(async {
        let peer = Peer::http2(100, |_request, _respond| std::future::pending()).await;
        let cluster = cluster(peer.address, HTTP2);
        let failure = send(&cluster, post(Body::boxed(Broken))).await.unwrap_err();
        assert_eq!((failure.kind, failure.unprocessed), (FailureKind::RequestBody, false));
    });
}

#[test]
fn a_connection_without_requests_idles_out_by_goaway() {
    run_paused(async {
        let told = Rc::new(Cell::new(false));
        let tell = Rc::clone(&told);
        let peer = Peer::new(move |_, stream| {
            let tell = Rc::clone(&tell);
            async move {
                let mut frames = Frames::begin(stream).await;
                let (_, id) = frames.read(HEADERS).await.unwrap();
                tokio::time::sleep(Duration::from_secs(100)).await;
                frames.answer(id).await;
                tell.set(frames.read(GOAWAY).await.is_some());
            }
        })
        .await;
        let settings = format!("{HTTP2}    common_http_protocol_options: {{idle_timeout: 30s}}\n");
        let cluster = cluster(peer.address, &settings);
        assert_eq!(send(&cluster, get("/")).await.unwrap().status(), 200);
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert!(!told.get());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(told.get());
        assert_eq!(cluster.cluster().stats.upstream_cx_idle_timeout.value(), 1);
    });
}

#[test]
fn a_connection_whose_host_does_not_answer_pings_is_closed() {
    run_paused(async {
        let peer = Peer::new(|_, stream| async move {
            let mut frames = Frames::begin(stream).await;
            while frames.read(HEADERS).await.is_some() {}
        })
        .await;
        let settings = HTTP2.replace("{}", "{connection_keepalive: {interval: 5s, timeout: 3s}}");
        let cluster = cluster(peer.address, &settings);
        let started = tokio::time::Instant::now();
        let failure = send(&cluster, get("/")).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Disconnect);
        assert_eq!(started.elapsed().as_secs(), 8);
    });
}

#[test]
fn a_request_that_was_never_sent_is_handed_back_whatever_its_method() {
    run(async {
        let peer = Peer::new(|_, stream| async move {
            let mut frames = Frames::begin(stream).await;
            let (_, id) = frames.read(HEADERS).await.unwrap();
            frames.answer(id).await;
        })
        .await;
        let cluster = cluster(peer.address, HTTP2);
        send(&cluster, get("/")).await.unwrap();
        // The peer has closed, which the connection has had no time to see.
        match send(&cluster, post(Body::full("x"))).await {
            Err(failure) => assert!(failure.unprocessed, "{failure:?}"),
            Ok(response) => assert_eq!(response.status(), 200),
        }
    });
}
