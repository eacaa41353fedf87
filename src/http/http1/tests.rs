//! The codec over a stream in memory: what becomes of bytes that come in any pieces.

use std::{cell::RefCell, rc::Rc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// What a request was, as text: method, target, fields, body, trailers.
type Seen = Rc<RefCell<Vec<String>>>;

/// A connection in service that answers every request with `response`, and what it saw.
fn start(
    options: Options,
    response: fn() -> Response,
) -> (DuplexStream, Seen, impl Future<Output = Result<(), Refusal>>) {
    let (client, server) = duplex(64 * 1024);
    let seen = Seen::default();
    let log = Rc::clone(&seen);
    let service = move |request: Request| {
        let log = Rc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            let fields: Vec<_> = head.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
            let body = body.collect().await.map(|body| {
                let trailers = body.trailers().map_or(0, http::HeaderMap::len);
                format!("{:?} {trailers}", body.to_bytes())
            });
            log.borrow_mut().push(format!("{} {} {fields:?} {body:?}", head.method, head.uri));
            response()
        }
    };
    (client, seen, async move { serve(server, &options, &service, std::future::pending()).await })
}

fn hello() -> Response {
    Response::new(Body::full("hello"))
}

async fn exchange(bytes: &[u8], response: fn() -> Response) -> (String, Vec<String>) {
    let (mut client, seen, serving) = start(Options::default(), response);
    let talking = async {
        client.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let (answer, _) = tokio::join!(talking, serving);
    let seen = seen.borrow().clone();
    (answer, seen)
}

const POST: &[u8] =
    b"\r\nPOST /a?b HTTP/1.1\r\nHost: a\r\nX-A:  1 \r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
    5;x\r\nhello\r\n1 \r\n!\r\n0\r\nx-t: 1\r\nhost: b\r\n\r\n";

#[tokio::test]
async fn pieces_of_any_size_are_the_same_request() {
    let (_, whole) = exchange(POST, hello).await;
    assert_eq!(whole.len(), 1);
    assert!(whole[0].ends_with("Ok(\"b\\\"hello!\\\" 1\")"), "{whole:?}");
    for size in [1, 2, 3, 7, 40] {
        let (mut client, seen, serving) = start(Options::default(), hello);
        let talking = async {
            for piece in POST.chunks(size) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.read_to_end(&mut Vec::new()).await.unwrap();
        };
        let ((), served) = tokio::join!(talking, serving);
        assert_eq!(served, Ok(()));
        assert_eq!(*seen.borrow(), whole, "in pieces of {size}");
    }
}

#[tokio::test]
async fn requests_that_come_together_are_answered_in_order() {
    let two = b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (answer, seen) = exchange(two, hello).await;
    assert_eq!(answer.matches("\r\n\r\nhello").count(), 2, "{answer}");
    assert!(seen[0].starts_with("GET /1 ") && seen[1].starts_with("GET /2 "));
    assert_eq!(answer.matches("connection: close").count(), 1);
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_out_in_chunks_however_large() {
    fn streamed() -> Response {
        let frames =
            [Bytes::from(vec![b'x'; 100_000]), Bytes::from_static(b"end")].map(|data| Ok(http_body::Frame::data(data)));
        Response::new(Body::boxed(http_body_util::StreamBody::new(tokio_stream::iter(frames))))
    }
    let (answer, _) = exchange(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", streamed).await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert!(answer.contains("transfer-encoding: chunked") && body.starts_with("186a0\r\nxxx"), "{}", &answer[..200]);
    assert!(body.ends_with("xxx\r\n3\r\nend\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn a_body_that_is_longer_than_its_length_is_cut_with_the_connection() {
    fn longer() -> Response {
        let mut response = Response::new(Body::full("hello, and more"));
        response.headers_mut().insert("content-length", HeaderValue::from(5));
        response
    }
    let (answer, _) = exchange(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", longer).await;
    assert!(!answer.contains("more"), "{answer}");
}

#[tokio::test]
async fn heads_answers_have_lengths_and_no_bodies() {
    let (answer, _) = exchange(b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", hello).await;
    assert!(answer.ends_with("\r\n\r\n") && !answer.contains("hello"), "{answer}");
}

#[tokio::test]
async fn a_refusal_is_the_last_answer() {
    let (answer, seen) =
        exchange(b"GET / HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", hello).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && answer.matches("HTTP/1.1").count() == 1, "{answer}");
    assert!(seen.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_head_has_its_time() {
    let options = Options { header_timeout: Some(Duration::from_secs(1)), ..Options::default() };
    let (mut client, _, serving) = start(options, hello);
    let talking = async {
        tokio::time::sleep(Duration::from_mins(1)).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        drop(client);
        answer
    };
    let (answer, served) = tokio::join!(talking, serving);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(served, Err(Refusal::HeaderTimeout));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request() {
    let (client, server) = duplex(1024);
    let service = |_: Request| std::future::pending::<Response>();
    let options = Options::default();
    let talking = async {
        let mut client = client;
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        tokio::task::yield_now().await;
    };
    let (served, ()) = tokio::join!(serve(server, &options, &service, std::future::pending()), talking);
    assert_eq!(served, Ok(()));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_body() {
    let (mut client, server) = duplex(1024);
    let polls = Rc::new(RefCell::new(0));
    let counter = Rc::clone(&polls);
    let service = move |_: Request| {
        let counter = Rc::clone(&counter);
        let endless = std::iter::repeat_with(move || {
            *counter.borrow_mut() += 1;
            Ok(http_body::Frame::data(Bytes::from_static(&[b'x'; 1024])))
        });
        std::future::ready(Response::new(Body::boxed(http_body_util::StreamBody::new(tokio_stream::iter(endless)))))
    };
    let options = Options::default();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::select! {
        _ = serve(server, &options, &service, std::future::pending()) => panic!("nobody has read"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    assert!(*polls.borrow() < 40, "{} frames for nobody", polls.borrow());
}

#[tokio::test]
async fn an_idle_connection_ends_when_it_is_told_to() {
    let (mut client, server) = duplex(1024);
    let service = |_: Request| std::future::ready(hello());
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let options = Options::default();
    let talking = async {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 1024];
        let count = client.read(&mut answer).await.unwrap();
        assert!(answer[..count].ends_with(b"hello"));
        tell.send(()).unwrap();
        client.read(&mut answer).await.unwrap()
    };
    let graceful = async { told.await.unwrap() };
    let (served, rest) = tokio::join!(serve(server, &options, &service, graceful), talking);
    assert_eq!((served, rest), (Ok(()), 0));
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_until_both_have_ended() {
    let (mut client, server) = duplex(1024);
    let service = |request: Request| async move {
        let mut response = Response::new(request.into_body());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
    };
    let options = Options::default();
    let talking = async {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello")
            .await
            .unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (served, answer) = tokio::join!(serve(server, &options, &service, std::future::pending()), talking);
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert_eq!(served, Ok(()));
}
