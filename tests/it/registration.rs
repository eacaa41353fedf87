//! Workers that register themselves: routed by the very next request on every thread, until they drain, leave or expire.

use std::time::Duration;

use portreeve::proto::registration::{
    Address, DeregisterRequest, DrainRequest, GetRequest, HeaderMatch, ListRequest, Protocol, RegisterRequest,
    RenewRequest, Route, State, renewal::Result as Renewed, route::Match, worker_registry_client::WorkerRegistryClient,
};
use tonic::{Code, Request, transport::Channel};

use super::support::{
    message::get,
    portreeve::{Config, Portreeve, ROUTER},
    upstream::{self, Upstream},
    within,
};

const TOKEN: &str = "a-token-of-the-dispatcher";
const OTHER: &str = "a-token-of-somebody-else";

/// The API and the registered routes on the public port, before a route of the configuration.
fn config() -> Config {
    let routes = r#"
        { match: { prefix: / }, route: { inline_cluster_specifier_plugin: { extension: { name: registered,
            typed_config: { "@type": type.googleapis.com/portreeve.registration.v1.RegisteredRoutes } } } } },
        { match: { prefix: / }, direct_response: { status: 404, body: { inline_string: nobody } } }"#;
    let filter = format!(
        r#"http_filters: [ {{ name: registration, typed_config: {{
             "@type": type.googleapis.com/portreeve.registration.v1.RegistrationFilter, callers: [
               {{ name: dispatcher, bearer_token: {{ inline_string: {TOKEN} }},
                  allowed_networks: [ {{ address_prefix: 127.0.0.0, prefix_len: 8 }} ] }},
               {{ name: other, bearer_token: {{ inline_string: {OTHER} }} }} ] }} }}, {ROUTER} ]"#
    );
    Config::new().routes(routes).manager(&filter)
}

/// Who calls, and by which token.
struct Caller {
    client: WorkerRegistryClient<Channel>,
    token: &'static str,
}

impl Caller {
    async fn new(portreeve: &Portreeve, token: &'static str) -> Caller {
        let channel = Channel::from_shared(format!("http://{}", portreeve.address())).unwrap();
        Caller { client: WorkerRegistryClient::new(within("connecting", channel.connect()).await.unwrap()), token }
    }

    /// A message with the caller's credentials.
    fn with_token<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    async fn register(&mut self, request: RegisterRequest) -> Result<String, tonic::Status> {
        let request = self.with_token(request);
        let answer = within("Register", self.client.register(request)).await?;
        Ok(answer.into_inner().lease.unwrap().id)
    }

    async fn state(&mut self, worker: &str) -> Result<State, tonic::Status> {
        let request = self.with_token(GetRequest { worker_id: worker.to_owned() });
        let answer = within("Get", self.client.get(request)).await?;
        Ok(answer.into_inner().registration.unwrap().state())
    }
}

/// A worker on an upstream, reached by the path `/w/ID` and by the header `envoy-prefix: ID`.
fn worker(id: &str, upstream: &Upstream) -> RegisterRequest {
    let header = HeaderMatch { name: "envoy-prefix".to_owned(), value: id.to_owned() };
    let route = |matches| Route { r#match: Some(matches), prefix_rewrite: None };
    RegisterRequest {
        worker_id: id.to_owned(),
        service: format!("{id}-service"),
        addresses: vec![Address {
            host: upstream.address.ip().to_string(),
            port: upstream.address.port().into(),
            unix_socket: String::new(),
        }],
        protocol: Protocol::Http1.into(),
        routes: vec![route(Match::PathPrefix(format!("/w/{id}"))), route(Match::Header(header))],
        ..RegisterRequest::default()
    }
}

fn lease(time: Duration) -> Option<portreeve::proto::Duration> {
    Some(portreeve::proto::Duration { seconds: i64::try_from(time.as_secs()).unwrap(), nanos: 0 })
}

#[tokio::test]
async fn the_very_next_request_on_every_thread_reaches_the_worker() {
    let upstream = upstream::http1().route("/", "worker").start().await;
    let portreeve = config().start().await;
    let mut caller = Caller::new(&portreeve, TOKEN).await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(portreeve.http1().await);
    }
    for client in &mut clients {
        assert_eq!(client.send(get("/w/a/page")).await.text(), "nobody");
    }
    caller.register(worker("a", &upstream)).await.unwrap();
    for client in &mut clients {
        assert_eq!(client.send(get("/w/a/page?q=1")).await.text(), "worker");
        assert_eq!(upstream.last().uri, "/page?q=1");
        assert_eq!(client.send(get("/any").header("envoy-prefix", "a")).await.text(), "worker");
        assert_eq!(client.send(get("/any").header("envoy-prefix", "")).await.text(), "nobody");
        assert_eq!(client.send(get("/w/ab")).await.text(), "nobody");
    }
    let request = caller.with_token(DeregisterRequest { worker_id: "a".to_owned(), ..DeregisterRequest::default() });
    within("Deregister", caller.client.deregister(request)).await.unwrap();
    for client in &mut clients {
        assert_eq!(client.send(get("/w/a/page")).await.text(), "nobody");
    }
}

#[tokio::test]
async fn callers_are_known_by_their_token() {
    let portreeve = config().start().await;
    for token in ["", "wrong", "a-token-of-the-dispatchex"] {
        let mut caller = Caller::new(&portreeve, token).await;
        let request = caller.with_token(ListRequest::default());
        let refused = within("List", caller.client.list(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "for {token:?}");
    }
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let upstream = upstream::http1().start().await;
    let portreeve = config().start().await;
    let mut caller = Caller::new(&portreeve, TOKEN).await;
    let mut wrong = worker("a", &upstream);
    wrong.service = String::new();
    wrong.addresses[0].port = 70_000;
    wrong.routes[0].r#match = Some(Match::PathPrefix("no-slash".to_owned()));
    let refused = caller.register(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for field in ["service", "addresses[0].port", "routes[0].path_prefix"] {
        assert!(refused.message().contains(field), "{}", refused.message());
    }
}

#[tokio::test]
async fn what_one_owns_another_cannot_take() {
    let upstream = upstream::http1().route("/", "worker").start().await;
    let portreeve = config().start().await;
    let mut owner = Caller::new(&portreeve, TOKEN).await;
    let mut other = Caller::new(&portreeve, OTHER).await;
    let refused = other.register(worker("b", &upstream)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "loopback without permission: {refused}");

    owner.register(worker("a", &upstream)).await.unwrap();
    let mut thief = worker("a", &upstream);
    "192.0.2.1".clone_into(&mut thief.addresses[0].host);
    assert_eq!(other.register(thief.clone()).await.unwrap_err().code(), Code::AlreadyExists);
    "thief".clone_into(&mut thief.worker_id);
    "thief-service".clone_into(&mut thief.service);
    let refused = other.register(thief).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("dispatcher") || refused.message().contains("\"a\""), "{}", refused.message());
    let request = other.with_token(DrainRequest { worker_id: "a".to_owned(), lease_id: String::new() });
    let refused = within("Drain", other.client.drain(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_draining_worker_gets_no_new_requests() {
    let upstream = upstream::http1().route("/", "worker").start().await;
    let portreeve = config().start().await;
    let mut caller = Caller::new(&portreeve, TOKEN).await;
    let lease = caller.register(worker("a", &upstream)).await.unwrap();
    let mut client = portreeve.http1().await;
    let stale = caller.with_token(DrainRequest { worker_id: "a".to_owned(), lease_id: "stale".to_owned() });
    let refused = within("Drain", caller.client.drain(stale)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let request = caller.with_token(DrainRequest { worker_id: "a".to_owned(), lease_id: lease });
    within("Drain", caller.client.drain(request)).await.unwrap();
    assert_eq!(caller.state("a").await.unwrap(), State::Draining);
    assert_eq!(client.send(get("/w/a")).await.status, 503);
    caller.register(worker("a", &upstream)).await.unwrap();
    assert_eq!(client.send(get("/w/a")).await.text(), "worker");
}

#[tokio::test]
async fn a_lease_ends_unless_it_is_renewed() {
    let upstream = upstream::http1().route("/", "worker").start().await;
    let portreeve = config().start().await;
    let mut caller = Caller::new(&portreeve, TOKEN).await;
    let second = lease(Duration::from_secs(1));
    caller.register(RegisterRequest { lease_time: second, ..worker("short", &upstream) }).await.unwrap();
    caller.register(RegisterRequest { lease_time: second, ..worker("kept", &upstream) }).await.unwrap();
    let renew = RenewRequest {
        worker_ids: vec!["kept".to_owned(), "unknown".to_owned()],
        lease_time: lease(Duration::from_mins(1)),
    };
    let request = caller.with_token(renew);
    let renewals = within("Renew", caller.client.renew(request)).await.unwrap().into_inner().renewals;
    assert!(matches!(renewals[0].result, Some(Renewed::Lease(_))));
    assert!(matches!(&renewals[1].result, Some(Renewed::Refusal(refusal)) if refusal.code == 5));
    let expired = async { while caller.state("short").await.unwrap() != State::Expired {} };
    within("the end of the lease", expired).await;
    assert_eq!(portreeve.get("/w/short").await.status, 503);
    assert_eq!(portreeve.get("/w/kept").await.text(), "worker");
}

#[tokio::test]
async fn list_goes_page_by_page() {
    let upstream = upstream::http1().start().await;
    let portreeve = config().start().await;
    let mut caller = Caller::new(&portreeve, TOKEN).await;
    for id in ["c", "a", "b"] {
        caller.register(worker(id, &upstream)).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = caller.with_token(ListRequest { page_size: 2, page_token, ..ListRequest::default() });
        let page = within("List", caller.client.list(request)).await.unwrap().into_inner();
        seen.extend(page.registrations.into_iter().map(|registration| registration.worker.unwrap().worker_id));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    assert_eq!(seen, ["a", "b", "c"]);
}

#[tokio::test]
async fn registrations_outlive_a_reload() {
    let upstream = upstream::http1().route("/", "worker").start().await;
    let mut portreeve = config().start().await;
    let mut caller = Caller::new(&portreeve, TOKEN).await;
    let lease_id = caller.register(worker("a", &upstream)).await.unwrap();
    let drained = caller.register(worker("b", &upstream)).await.unwrap();
    let drain = DrainRequest { worker_id: "b".to_owned(), lease_id: drained };
    let drain = caller.with_token(drain);
    within("Drain", caller.client.drain(drain)).await.unwrap();

    for generation in 1..=2 {
        let (status, said) = portreeve.reload().await;
        assert!(status.success(), "{said}");
        assert_eq!(portreeve.get("/w/a/page").await.text(), "worker");
        assert_eq!(portreeve.get("/w/b/page").await.status, 503);
        assert_eq!(portreeve.stat("server.hot_restart_generation").await, generation);
        assert_eq!(portreeve.stat("registration.granted").await, 2, "counters go on");
        // By the connection to the process before, which refuses unprocessed and says GOAWAY. Other gRPC clients than tonic try
        // again by themselves.
        assert_eq!(caller.state("a").await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(caller.state("a").await.unwrap(), State::Active);
        assert_eq!(caller.state("b").await.unwrap(), State::Draining);
    }
    let leave = DeregisterRequest { worker_id: "a".to_owned(), lease_id, ..DeregisterRequest::default() };
    let leave = caller.with_token(leave);
    within("Deregister", caller.client.deregister(leave)).await.unwrap();
    assert_eq!(portreeve.get("/w/a/page").await.text(), "nobody");
}
