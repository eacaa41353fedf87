//! Reload: another process takes over, and nobody outside notices.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::process::{Signal, kill_process};

use super::support::{
    message::{get, value},
    portreeve::Config,
    upstream,
};

/// Every request is answered with this text.
fn saying(text: &str) -> Config {
    Config::new().routes(&format!(
        "{{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: {text} }} }} }}"
    ))
}

#[tokio::test]
async fn the_next_process_serves_with_the_changed_configuration() {
    let mut portreeve = saying("before").start().await;
    let first = portreeve.serving_pid().await;
    assert_eq!(portreeve.get("/").await.text(), "before");
    portreeve.configure(&saying("after"));
    let (status, said) = portreeve.reload().await;
    assert!(status.success(), "{said}");
    assert_eq!(portreeve.get("/").await.text(), "after");
    assert_ne!(portreeve.serving_pid().await, first);
    assert_eq!(portreeve.admin("/ready").await.status, 200);
    portreeve.terminate();
    assert!(portreeve.ended().await.success());
}

#[tokio::test]
async fn sighup_reloads_as_well() {
    let mut portreeve = saying("before").start().await;
    portreeve.configure(&saying("after"));
    portreeve.signal(Signal::HUP);
    portreeve.log("the next process serves").await;
    assert_eq!(portreeve.get("/").await.text(), "after");
    let (status, said) = portreeve.reload().await;
    assert!(status.success(), "{said}");
}

#[tokio::test]
async fn what_has_begun_finishes_in_the_process_before() {
    let (release, upstream) = upstream::gated().await;
    let config = Config::new().cluster_with("upstream", upstream.address, super::support::portreeve::HTTP2);
    let mut portreeve = config.start().await;
    let (mut http1, mut http2) = (portreeve.http1().await, portreeve.http2().await);
    let both = async { tokio::join!(http1.send(get("/")), http2.send(get("/"))) };
    let reload = async {
        portreeve.until("cluster.upstream.upstream_rq_active", 2).await;
        let (status, said) = portreeve.reload().await;
        assert!(status.success(), "{said}");
        portreeve.until("cluster.upstream.upstream_rq_active", 0).await;
        release.send(true).unwrap();
    };
    let ((first, second), ()) = tokio::join!(both, reload);
    assert_eq!((first.status, second.status), (200, 200));
}

#[tokio::test]
async fn a_configuration_with_an_error_changes_nothing() {
    let mut portreeve = saying("before").start().await;
    let first = portreeve.serving_pid().await;
    std::fs::write(portreeve.file("envoy3.yaml"), "static_resource: {}\n").unwrap();
    let (status, said) = portreeve.reload().await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("envoy3.yaml:1:1: error") && said.contains("did you mean"), "{said}");
    assert_eq!(portreeve.get("/").await.text(), "before");
    assert_eq!(portreeve.serving_pid().await, first);
    portreeve.configure(&saying("after"));
    assert!(portreeve.reload().await.0.success(), "one that failed is no obstacle to the next");
    assert_eq!(portreeve.get("/").await.text(), "after");
}

#[tokio::test]
async fn an_address_that_cannot_be_had_changes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let more = |name: &str, port: u16| {
        let manager = super::support::portreeve::connection_manager(
            &super::support::portreeve::virtual_host("{ match: { prefix: / }, direct_response: { status: 204 } }"),
            "",
        );
        format!(
            "{{ name: {name}, address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }},
               filter_chains: [ {{ filters: [ {manager} ] }} ] }}"
        )
    };
    let mut portreeve = saying("before").start().await;
    portreeve.configure(&saying("after").listener(&more("taken", port)));
    let (status, said) = portreeve.reload().await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("listener \"taken\"") && said.contains("in use"), "{said}");
    assert_eq!(portreeve.get("/").await.text(), "before");

    drop(taken);
    assert!(portreeve.reload().await.0.success(), "a listener may come");
    let answer = super::support::client::exchange(
        ([127, 0, 0, 1], port).into(),
        "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.await.starts_with("HTTP/1.1 204"));
    portreeve.configure(&saying("alone"));
    assert!(portreeve.reload().await.0.success(), "and go");
    assert_eq!(portreeve.get("/").await.text(), "alone");
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn no_request_fails_while_processes_change() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let mut portreeve = Config::to(&upstream).argument("--drain-time-s").argument("2").start().await;
    let address = portreeve.address();
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for keep in [true, false] {
        let done = Arc::clone(&done);
        clients.spawn(async move {
            let mut served = 0;
            while !done.load(Relaxed) {
                let mut client = super::support::client::http1(super::support::client::connect(address).await).await;
                loop {
                    let answer = client.send(get("/")).await;
                    assert_eq!((answer.status, answer.text()), (200, "hello"));
                    served += 1;
                    let last =
                        answer.headers.contains_key("connection") && value(&answer.headers, "connection") == "close";
                    if last || !keep || done.load(Relaxed) {
                        break;
                    }
                }
            }
            served
        });
    }
    for _ in 0..5 {
        let (status, said) = portreeve.reload().await;
        assert!(status.success(), "{said}");
    }
    done.store(true, Relaxed);
    for served in clients.join_all().await {
        assert!(served > 5, "{served} requests");
    }
}

#[tokio::test]
async fn a_supervised_process_that_is_killed_is_replaced_while_clients_wait() {
    let mut portreeve = saying("hello").argument("--supervise").start().await;
    let first = portreeve.serving_pid().await;
    kill_process(first, Signal::KILL).unwrap();
    assert_eq!(portreeve.get("/").await.text(), "hello");
    portreeve.configure(&saying("after"));
    portreeve.signal(Signal::HUP);
    portreeve.log("the next process serves").await;
    assert_eq!(portreeve.get("/").await.text(), "after");
    assert_ne!(portreeve.serving_pid().await, first);
    portreeve.terminate();
    assert!(portreeve.ended().await.success());
}

#[tokio::test]
async fn a_supervised_process_that_cannot_start_is_not_started_again() {
    let (status, said) =
        saying("hello").argument("--supervise").argument("--config-yaml").argument("{a: 1}").fail().await;
    assert_eq!(status.code(), Some(1));
    assert_eq!(said.matches("no field \"a\"").count(), 1, "{said}");
}
