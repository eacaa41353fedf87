//! The whole service in process: generated client, registrar, the one door; only the filter and the threads are missing.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::{LocalSet, spawn_local},
};
use tonic::Code;

mod handoff;

use super::*;
use crate::{
    access_log::Mode,
    config::{self, Report, Source},
    filter::{Services, service::InternalService},
    http_filters::registration::{Caller, Callers, Session, Settings},
    proto::{
        self,
        registration::{self as wire, State, route::Match, worker_registry_client::WorkerRegistryClient},
    },
    registration::field_violations,
    route::RouteKey,
    snapshot::{Change, ConfigManager, Knock},
};

/// A client's end: puts the session into each request, as the filter does.
#[derive(Clone)]
struct Connection {
    service: InternalService,
    session: Session,
}

impl tower_service::Service<http::Request<TonicBody>> for Connection {
    type Response = http::Response<SendBody>;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<TonicBody>) -> Self::Future {
        let service = self.service.clone();
        let mut request = request.map(|body| body.map_err(|status| broken(&status)).boxed_unsync());
        request.extensions_mut().insert(self.session.clone());
        Box::pin(async move {
            match service.call(request).await {
                Some(response) if Refused::is_in(&response) => Err("refused"),
                Some(response) => Ok(response),
                None => Err("stopped"),
            }
        })
    }
}

/// What the main thread holds.
struct World {
    service: InternalService,
    manager: Rc<RefCell<ConfigManager>>,
    stats: Arc<stats::Registry>,
    control: Control,
}

/// Runs `test` beside a service whose door applies changes at once.
async fn with_service<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    LocalSet::new().run_until(async { test(World::start("{}")).await }).await;
}

impl World {
    /// A process with this configuration.
    fn start(configuration: &str) -> World {
        let stats = stats::Registry::new(1);
        let mut manager = ConfigManager::new(Arc::clone(&stats), Mode::Check, Services::default());
        let report = Report::new();
        let document = config::load(&Source::new("test", configuration), &report).unwrap();
        manager.apply(Change::Bootstrap(Box::new(document), &report)).unwrap();
        let snapshot = Arc::clone(manager.snapshot());
        let manager = Rc::new(RefCell::new(manager));
        let (door, mut knocks) = Door::new();
        let (service, requests) = InternalService::new(8);
        let (control, served) = serve(requests, door, snapshot, &stats);
        let world = World { service, manager: Rc::clone(&manager), stats, control };
        spawn_local(async move {
            while let Some(Knock { change, published }) = knocks.recv().await {
                let snapshot = manager.borrow_mut().apply(change).unwrap();
                published.send(snapshot).unwrap();
            }
        });
        spawn_local(served);
        world
    }

    fn client(&self, caller: &str) -> WorkerRegistryClient<Connection> {
        let settings = Settings {
            callers: Callers::default(),
            default_lease_time: Duration::from_secs(30),
            max_lease_time: Duration::from_mins(1),
            public_urls: vec!["https://ingress.example".to_owned()],
        };
        let session =
            Session { caller: Arc::new(Caller::for_tests(caller)), settings: Arc::new(settings), origin: None };
        WorkerRegistryClient::new(Connection { service: self.service.clone(), session })
    }

    /// Route → (cluster, its hosts that take requests), as published.
    fn route(&self, prefix: &str) -> Option<(String, Vec<String>)> {
        let snapshot = Arc::clone(self.manager.borrow().snapshot());
        let route = snapshot.registered.get(&RouteKey::Prefix(prefix.into()))?.clone();
        let hosts = self.hosts(&route.cluster).unwrap();
        assert_eq!(route.available, !hosts.is_empty());
        Some((route.cluster.to_string(), hosts))
    }

    fn hosts(&self, cluster: &str) -> Option<Vec<String>> {
        let snapshot = Arc::clone(self.manager.borrow().snapshot());
        let hosts = snapshot.clusters.get(cluster)?.hosts.hosts().to_vec();
        let taking = hosts.iter().filter(|host| host.endpoint.health == crate::upstream::Health::Healthy);
        Some(taking.map(|host| host.endpoint.address.to_string()).collect())
    }

    fn stat(&self, name: &str) -> u64 {
        self.stats.scope("registration").counter(name).value()
    }
}

fn request(id: &str, port: u32, routes: &[&str]) -> wire::RegisterRequest {
    let route = |prefix: &&str| wire::Route {
        r#match: Some(Match::PathPrefix((*prefix).to_owned())),
        ..wire::Route::default()
    };
    wire::RegisterRequest {
        worker_id: id.to_owned(),
        service: "query".to_owned(),
        addresses: vec![wire::Address { host: "10.0.0.1".to_owned(), port, ..wire::Address::default() }],
        routes: routes.iter().map(route).collect(),
        ..wire::RegisterRequest::default()
    }
}

fn named(cluster: &str, hosts: &[&str]) -> Option<(String, Vec<String>)> {
    Some((cluster.to_owned(), hosts.iter().map(ToString::to_string).collect()))
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_routed_when_register_answers() {
    with_service(async |world| {
        let mut client = world.client("x");
        let answer = client.register(request("a", 80, &["/worker/a"])).await.unwrap().into_inner();
        assert_eq!(world.route("/worker/a"), named("query/a", &["10.0.0.1:80"]));
        assert_eq!(answer.public_urls[0].url, "https://ingress.example/worker/a/");
        assert_eq!(answer.lease.unwrap().duration.unwrap().seconds, 30);

        let held = client.get(wire::GetRequest { worker_id: "a".to_owned() }).await.unwrap().into_inner();
        let held = held.registration.unwrap();
        assert_eq!((held.owner.as_str(), held.state()), ("x", State::Active));
        assert_eq!(held.worker.unwrap().weight, 1);
        assert_eq!((world.stat("granted"), world.stat("refused")), (1, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn workers_share_a_service_and_routes() {
    with_service(async |world| {
        let mut client = world.client("x");
        client.register(request("a", 1, &["/a", "/both"])).await.unwrap();
        client.register(request("b", 2, &["/b", "/both"])).await.unwrap();
        assert_eq!(world.route("/a"), named("query/a", &["10.0.0.1:1"]));
        assert_eq!(world.route("/both"), named("query+/both", &["10.0.0.1:1", "10.0.0.1:2"]));
        assert_eq!(world.hosts("query").unwrap(), ["10.0.0.1:1", "10.0.0.1:2"]);

        client.drain(wire::DrainRequest { worker_id: "a".to_owned(), ..wire::DrainRequest::default() }).await.unwrap();
        assert_eq!(world.route("/a"), named("query/a", &[]));
        assert_eq!(world.route("/both"), named("query+/both", &["10.0.0.1:2"]));

        let gone = wire::DeregisterRequest { worker_id: "a".to_owned(), ..wire::DeregisterRequest::default() };
        client.deregister(gone).await.unwrap();
        assert_eq!(world.route("/a"), None);
        assert_eq!(world.hosts("query/a"), None);
        assert_eq!(world.route("/both"), named("query/b", &["10.0.0.1:2"]));
        assert_eq!(world.hosts("query+/both"), None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_ended_lease_answers_for_a_while_and_then_nothing() {
    with_service(async |world| {
        let mut client = world.client("x");
        let mut short = request("a", 1, &["/a"]);
        short.lease_time = Some(proto::Duration { seconds: 1, nanos: 0 });
        client.register(short).await.unwrap();
        let before = Arc::clone(world.manager.borrow().snapshot());
        client.renew(wire::RenewRequest { worker_ids: vec!["a".to_owned()], lease_time: None }).await.unwrap();
        assert!(Arc::ptr_eq(&before, world.manager.borrow().snapshot()), "a renewal publishes nothing");
        tokio::time::sleep(Duration::from_millis(1001)).await;
        assert_eq!(world.route("/a"), named("query/a", &[]));
        let late = client.renew(wire::RenewRequest { worker_ids: vec!["a".to_owned()], lease_time: None }).await;
        assert_eq!(late.unwrap_err().code(), Code::NotFound);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(world.route("/a"), None);
        assert_eq!((world.stat("expired"), world.stat("refused")), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn wrong_fields_are_told_in_the_message_and_as_bad_request() {
    with_service(async |world| {
        let mut wrong = request("a", 0, &["/ok", "no-slash"]);
        wrong.tls = Some(wire::UpstreamTls { ca_certificates: "nonsense".to_owned(), ..wire::UpstreamTls::default() });
        let refused = world.client("x").register(wrong.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(
            refused.message(),
            "addresses[0].port: must be 1 to 65535, is 0; routes[1].path_prefix: must start with \"/\""
        );
        let violations = field_violations(&refused);
        let fields: BTreeMap<_, _> =
            violations.iter().map(|wrong| (wrong.field.as_str(), wrong.description.as_str())).collect();
        assert_eq!(fields["routes[1].path_prefix"], "must start with \"/\"");
        assert_eq!(fields.len(), 2);

        wrong.addresses[0].port = 1;
        wrong.routes.clear();
        let refused = world.client("x").register(wrong).await.unwrap_err();
        assert!(refused.message().starts_with("tls.ca_certificates: "), "{}", refused.message());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refusals_have_their_codes() {
    with_service(async |world| {
        let (mut owner, mut other) = (world.client("x"), world.client("y"));
        owner.register(request("a", 1, &["/a"])).await.unwrap();
        let taken = other.register(request("b", 1, &["/a/"])).await.unwrap_err();
        assert_eq!(taken.code(), Code::AlreadyExists);
        assert_eq!(taken.message(), "routes[0]: is held by worker \"a\" of caller \"x\"");
        let theirs = other.drain(wire::DrainRequest { worker_id: "a".to_owned(), ..wire::DrainRequest::default() });
        assert_eq!(theirs.await.unwrap_err().code(), Code::PermissionDenied);
        let unknown = owner.get(wire::GetRequest { worker_id: "c".to_owned() });
        assert_eq!(unknown.await.unwrap_err().code(), Code::NotFound);
        let mut loopback = request("c", 1, &[]);
        loopback.addresses[0].host = "127.0.0.1".to_owned();
        assert_eq!(owner.register(loopback).await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(world.stat("refused"), 4);

        let ids = ["a", "nobody"].map(ToOwned::to_owned).to_vec();
        let renewals = owner.renew(wire::RenewRequest { worker_ids: ids, lease_time: None }).await.unwrap();
        let renewals = renewals.into_inner().renewals;
        assert!(matches!(renewals[0].result, Some(wire::renewal::Result::Lease(_))));
        assert!(matches!(&renewals[1].result, Some(wire::renewal::Result::Refusal(no)) if no.code == 5));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_list_comes_in_pages() {
    with_service(async |world| {
        let mut client = world.client("x");
        for id in ["a", "b", "c"] {
            client.register(request(id, 1, &[])).await.unwrap();
        }
        let mut ids = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = wire::ListRequest { page_size: 2, page_token, ..wire::ListRequest::default() };
            let page = client.list(page).await.unwrap().into_inner();
            ids.push(page.registrations.into_iter().map(|held| held.worker.unwrap().worker_id).collect::<Vec<_>>());
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(ids, [vec!["a", "b"], vec!["c"]]);
        let nonsense = wire::ListRequest { page_token: "/".to_owned(), ..wire::ListRequest::default() };
        assert_eq!(client.list(nonsense).await.unwrap_err().code(), Code::InvalidArgument);
        let others = wire::ListRequest { owner: "y".to_owned(), ..wire::ListRequest::default() };
        assert!(client.list(others).await.unwrap().into_inner().registrations.is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn deregister_waits_for_the_limit_and_goes_on_without_its_caller() {
    with_service(async |world| {
        let mut client = world.client("x");
        client.register(request("a", 1, &["/a"])).await.unwrap();
        let snapshot = Arc::clone(world.manager.borrow().snapshot());
        let host = Arc::clone(&snapshot.clusters["query/a"].hosts.hosts()[0]);
        host.stats.rq_active.inc();
        let gone = wire::DeregisterRequest {
            worker_id: "a".to_owned(),
            drain_time: Some(proto::Duration { seconds: 5, nanos: 0 }),
            ..wire::DeregisterRequest::default()
        };
        let (sender, called) = oneshot::channel();
        let call = async {
            let answer = client.deregister(gone);
            sender.send(()).unwrap();
            tokio::time::timeout(Duration::from_secs(1), answer).await
        };
        assert!(call.await.is_err());
        called.await.unwrap();
        assert_eq!(world.route("/a"), named("query/a", &[]), "draining");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(world.route("/a").is_some());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(world.route("/a").is_none());
        assert_eq!(world.stat("withdrawn"), 1);
    })
    .await;
}
