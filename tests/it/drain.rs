//! SIGTERM: running requests finish, new ones go elsewhere, the process ends.

use tokio::net::TcpStream;

use super::support::{
    message::{get, value},
    portreeve::Config,
    upstream::{self, Reply},
    within,
};

#[tokio::test]
async fn running_requests_finish_before_the_process_ends() {
    let (release, upstream) = upstream::gated().await;
    let config = Config::new().cluster_with("upstream", upstream.address, super::support::portreeve::HTTP2);
    let mut portreeve = config.argument("--drain-time-s").argument("30").start().await;
    let (mut http1, mut http2) = (portreeve.http1().await, portreeve.http2().await);
    let first = http1.send(get("/"));
    let second = http2.send(get("/"));
    let both = async { tokio::join!(first, second) };
    let terminate = async {
        portreeve.until("cluster.upstream.upstream_rq_active", 2).await;
        portreeve.terminate();
        portreeve.log("drain").await;
        release.send(true).unwrap();
    };
    let ((first, second), ()) = tokio::join!(both, terminate);
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(value(&first.headers, "connection"), "close");
    http2.closed().await;
    let address = portreeve.address();
    assert!(portreeve.ended().await.success());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_drain_time_ends_what_does_not_finish() {
    let upstream = upstream::http1().route("/", Reply::Silence).start().await;
    let portreeve = Config::to(&upstream).argument("--drain-time-s").argument("1").start().await;
    let client = portreeve.http2().await;
    let (answer, _body) = client.open(get("/")).await;
    portreeve.until("cluster.upstream.upstream_rq_active", 1).await;
    portreeve.terminate();
    assert!(within("the end of the stream", answer).await.is_err());
    assert!(portreeve.ended().await.success());
}

#[tokio::test]
async fn an_idle_process_ends_at_once() {
    let upstream = upstream::http1().route("/", "hello").start().await;
    let portreeve = Config::to(&upstream).start().await;
    let mut client = portreeve.http1().await;
    assert_eq!(client.send(get("/")).await.text(), "hello");
    portreeve.terminate();
    client.closed().await;
    assert!(portreeve.ended().await.success());
}
