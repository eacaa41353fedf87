//! Connections in a drain, over real sockets; requests are in `tests/it`.

use std::{collections::HashSet, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
    time::Instant,
};

use super::{FACTORY, HttpConnectionManager};
use crate::{
    access_log,
    config::{self, Field, Report, Source},
    drain::{Drain, DrainMode},
    filter::{
        DEFAULT_BUFFER_LIMIT, FactoryContext, Random, Services, WorkerContext,
        network::NetworkFilter,
        service::{InternalRequest, InternalService, SendBody},
    },
    http::Refused,
    http_filters,
    net::{ConnectionLimits, Io},
    proto::hcm,
    stats::Registry,
    stream_info::ConnectionInfo,
    tls::Secrets,
    upstream::ClusterManager,
};

const HAND_OFF: DrainMode = DrainMode::HandOff { spread: Duration::from_millis(20) };

const MANAGER: &str = "
stat_prefix: test
route_config: { virtual_hosts: [ { name: all, domains: ['*'], routes: [ { match: { prefix: / },
  direct_response: { status: 200, body: { inline_string: hello } } } ] } ] }
http_filters: [ { name: registration, typed_config: {
  '@type': type.googleapis.com/portreeve.registration.v1.RegistrationFilter } }, { name: router, typed_config: {
  '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } } ]
";

fn manager(registry: &Arc<Registry>) -> Arc<HttpConnectionManager> {
    manager_with(registry, &Services::default())
}

fn manager_with(registry: &Arc<Registry>, services: &Services) -> Arc<HttpConnectionManager> {
    let report = Report::new();
    let proto: hcm::HttpConnectionManager = config::load(&Source::new("test", MANAGER), &report).unwrap();
    let cx = FactoryContext {
        listener_stats: None,
        stats: registry,
        network_filters: &[FACTORY],
        http_filters: http_filters::FACTORIES,
        filter_settings: http_filters::SETTINGS,
        http_stats: None,
        services,
        secrets: &Secrets::default(),
        cluster_names: &HashSet::new(),
        connection_limits: &ConnectionLimits::default(),
        access_logs: &access_log::Sinks::new(access_log::Mode::Check, &registry.scope("")),
        service_cluster: "",
        service_node: "",
        buffer_limit: DEFAULT_BUFFER_LIMIT,
    };
    Arc::new(HttpConnectionManager::from_proto(&proto, Field::root(&report), &cx).unwrap())
}

/// A client's end of a connection in service, and what drains it.
async fn connect() -> (TcpStream, Drain) {
    connect_to(&manager(&Registry::new(1))).await
}

async fn connect_to(manager: &Arc<HttpConnectionManager>) -> (TcpStream, Drain) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let io = Io::tcp(listener.accept().await.unwrap().0).unwrap();
    let info = Rc::new(ConnectionInfo {
        id: 1,
        start: Instant::now(),
        remote: io.peer_address().clone(),
        direct_remote: io.peer_address().clone(),
        local: io.local_address().clone(),
        direct_local: io.local_address().clone(),
        server_name: None,
        upstream_cluster: None,
        proxy_protocol: None,
        listener: "test".into(),
        filter_chain: "".into(),
        tls: None,
        fingerprints: None,
        peer_credentials: None,
    });
    let drain = Drain::new();
    let worker = Rc::new(WorkerContext::new(1, ClusterManager::new(1), Random::new(1)));
    spawn_local(Arc::clone(manager).serve(io, info, worker, drain.watch().of_connection()));
    (client, drain)
}

/// One request on an HTTP/1.1 connection, and the head of its answer.
async fn exchange(client: &mut TcpStream) -> String {
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        answer.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap().to_lowercase()
}

async fn is_closed_within(client: &mut TcpStream, limit: Duration) -> bool {
    tokio::time::timeout(limit, client.read(&mut [0])).await.is_ok_and(|read| read.map_or(true, |count| count == 0))
}

const A_WHILE: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_hand_off_closes_an_http1_connection_after_a_response_that_says_so() {
    let test = async {
        let (mut client, drain) = connect().await;
        assert!(!exchange(&mut client).await.contains("connection: close"));
        drain.start(HAND_OFF);
        assert!(!is_closed_within(&mut client, A_WHILE).await, "a request may be on its way");
        assert!(exchange(&mut client).await.contains("connection: close"));
        assert!(is_closed_within(&mut client, LONG).await);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_connection_without_a_first_byte_is_kept_in_a_hand_off_too() {
    let test = async {
        let (mut client, drain) = connect().await;
        drain.start(HAND_OFF);
        assert!(!is_closed_within(&mut client, A_WHILE).await);
        assert!(exchange(&mut client).await.contains("connection: close"));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_stop_in_a_hand_off_closes_idle_connections() {
    let test = async {
        let (mut client, drain) = connect().await;
        exchange(&mut client).await;
        drain.start(HAND_OFF);
        assert!(!is_closed_within(&mut client, A_WHILE).await);
        drain.start(DrainMode::Stop);
        assert!(is_closed_within(&mut client, LONG).await);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn the_deadline_of_a_hand_off_closes_what_is_left() {
    let test = async {
        let (mut client, drain) = connect().await;
        exchange(&mut client).await;
        drain.start(HAND_OFF);
        drain.deadline();
        assert!(is_closed_within(&mut client, LONG).await);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_http2_client_is_told_in_a_hand_off_and_its_last_requests_are_served() {
    let test = async {
        let registry = Registry::new(1);
        let manager = manager(&registry);
        let (client, drain) = connect_to(&manager).await;
        let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
        let connection = spawn_local(connection);
        let request = || http::Request::get("http://a/").body(()).unwrap();
        sender = sender.ready().await.unwrap();
        drain.start(HAND_OFF);
        // Requests go out until the client has heard of the end. Each of them is answered, or was not begun: the client may repeat it.
        let mut served = 0;
        while let Ok(ready) = sender.clone().ready().await {
            sender = ready;
            let Ok((response, _)) = sender.send_request(request(), true) else { break };
            let response = match response.await {
                Ok(response) => response,
                Err(error) => {
                    assert!(error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR), "{error}");
                    break;
                }
            };
            let mut body = response.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), Bytes::from_static(b"hello"));
            served += 1;
        }
        assert!(served > 0);
        assert_eq!(registry.scope("http.test").counter("downstream_rq_total").value(), served);
        tokio::time::timeout(LONG, connection).await.unwrap().unwrap().unwrap();
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_is_refused_is_told_to_go_first() {
    let test = async {
        let registry = Registry::new(1);
        let (service, mut calls) = InternalService::new(1);
        spawn_local(async move {
            while let Some(InternalRequest { answer, .. }) = calls.recv().await {
                let mut response = http::Response::new(SendBody::default());
                response.extensions_mut().insert(Refused);
                answer.send(response).unwrap();
            }
        });
        let manager = manager_with(&registry, &Services { registration: Some(service), ..Services::default() });
        let (client, _drain) = connect_to(&manager).await;
        let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
        let connection = spawn_local(connection);
        let request = http::Request::post("http://a/grpc.health.v1.Health/Check").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let error = response.await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM));
        tokio::time::timeout(LONG, connection).await.unwrap().unwrap().unwrap();
        let count = |name: &str| registry.scope("http.test").counter(name).value();
        assert_eq!((count("downstream_rq_tx_reset"), count("downstream_rq_5xx")), (1, 0));

        let (mut client, _drain) = connect_to(&manager).await;
        client.write_all(b"GET /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(LONG, client.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    };
    LocalSet::new().run_until(test).await;
}
