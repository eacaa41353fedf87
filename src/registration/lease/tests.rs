//! The store, without sleeping: time is an argument.

use super::*;
use crate::{
    config::{Field, Report},
    proto::registration::{self as wire, route::Match},
};

const LEASE: Duration = Duration::from_secs(30);

fn caller(name: &str) -> Arc<Caller> {
    Arc::new(Caller::for_tests(name))
}

fn worker(id: &str, routes: &[&str]) -> Arc<Worker> {
    made(id, routes, |_| ())
}

fn made(id: &str, routes: &[&str], change: impl FnOnce(&mut wire::RegisterRequest)) -> Arc<Worker> {
    let route = |prefix: &&str| wire::Route {
        r#match: Some(Match::PathPrefix((*prefix).to_owned())),
        ..wire::Route::default()
    };
    let mut request = wire::RegisterRequest {
        worker_id: id.to_owned(),
        service: "query".to_owned(),
        addresses: vec![wire::Address { host: "10.0.0.1".to_owned(), port: 80, ..wire::Address::default() }],
        routes: routes.iter().map(route).collect(),
        ..wire::RegisterRequest::default()
    };
    change(&mut request);
    Arc::new(Worker::from_proto(&request, Field::root(&Report::new())).unwrap())
}

fn claim(worker: Arc<Worker>, lease_time: Duration) -> Claim {
    Claim { worker, targets: Vec::new(), lease_time }
}

struct World {
    store: Store,
    now: Instant,
}

impl World {
    fn new() -> World {
        World { store: Store::new("t".to_owned()), now: Instant::now() }
    }

    fn register(&mut self, worker: &Arc<Worker>, caller: &Arc<Caller>) -> Result<String, Refusal> {
        let registration = self.store.register(claim(Arc::clone(worker), LEASE), caller, self.now)?;
        Ok(registration.lease.id.clone())
    }

    fn after(&mut self, seconds: u64) -> Vec<String> {
        self.now += Duration::from_secs(seconds);
        self.store
            .advance(self.now)
            .into_iter()
            .map(|ended| match ended {
                Ended::Expired(registration) => format!("{} expired", registration.worker.id),
                Ended::Forgotten(registration) => format!("{} forgotten", registration.worker.id),
            })
            .collect()
    }

    fn holders(&self, prefix: &str) -> Vec<&str> {
        self.store.holders(&RouteKey::Prefix(prefix.into())).map(|held| &*held.worker.id).collect()
    }

    fn state(&self, id: &str) -> Option<State> {
        self.store.get(id).map(|registration| registration.state)
    }
}

fn code(outcome: &Result<String, Refusal>) -> tonic::Code {
    outcome.as_ref().map_or_else(Refusal::code, |_| tonic::Code::Ok)
}

#[test]
fn a_lease_ends_and_is_forgotten_after_one_more() {
    let mut world = World::new();
    world.register(&worker("a", &["/a"]), &caller("x")).unwrap();
    assert!(world.after(29).is_empty());
    assert_eq!(world.after(1), ["a expired"]);
    assert_eq!((world.state("a"), world.holders("/a")), (Some(State::Expired), vec!["a"]));
    assert!(world.after(29).is_empty());
    assert_eq!(world.after(1), ["a forgotten"]);
    assert_eq!((world.state("a"), world.holders("/a")), (None, vec![]));
    assert_eq!(world.store.next_deadline(), None);
}

#[test]
fn both_happen_when_nobody_looked_for_long() {
    let mut world = World::new();
    world.register(&worker("a", &[]), &caller("x")).unwrap();
    assert_eq!(world.after(3600), ["a expired", "a forgotten"]);
}

#[test]
fn the_time_of_grace_is_ten_seconds_to_five_minutes() {
    for (lease, grace) in [(1, 10), (60, 60), (3600, 300)] {
        let mut store = Store::new(String::new());
        let (start, lease) = (Instant::now(), Duration::from_secs(lease));
        store.register(claim(worker("a", &[]), lease), &caller("x"), start).unwrap();
        store.advance(start + lease);
        assert_eq!(store.next_deadline(), Some(start + lease + Duration::from_secs(grace)));
    }
}

#[test]
fn renewing_moves_the_end() {
    let mut world = World::new();
    world.register(&worker("a", &[]), &caller("x")).unwrap();
    world.after(20);
    world.store.renew("a", None, &caller("x"), world.now).unwrap();
    assert!(world.after(29).is_empty());
    world.store.renew("a", Some(Duration::from_secs(5)), &caller("x"), world.now).unwrap();
    assert_eq!(world.after(5), ["a expired"]);
    let late = world.store.renew("a", None, &caller("x"), world.now).unwrap_err();
    assert_eq!(late.to_string(), "the lease of worker \"a\" has ended: register it again");
    assert_eq!(late.code(), tonic::Code::NotFound);
}

#[test]
fn registering_again_updates_in_place() {
    let mut world = World::new();
    let first = world.register(&worker("a", &["/a", "/b"]), &caller("x")).unwrap();
    let made_at = world.store.get("a").unwrap().registered_at;
    world.after(10);
    let second = world.register(&worker("a", &["/b", "/c"]), &caller("x")).unwrap();
    assert_ne!(first, second);
    assert_eq!(world.store.live(), 1);
    assert_eq!(world.store.get("a").unwrap().registered_at, made_at);
    assert_eq!([world.holders("/a"), world.holders("/b"), world.holders("/c")], [vec![], vec!["a"], vec!["a"]]);
    assert!(world.after(29).is_empty(), "the new lease counts");
    assert_eq!(world.after(1), ["a expired"]);
}

#[test]
fn two_owners_never_hold_one_route() {
    let mut world = World::new();
    world.register(&worker("a", &["/a", "/b"]), &caller("x")).unwrap();
    let refused = world.register(&worker("b", &["/new", "/b", "/a"]), &caller("y"));
    assert_eq!(code(&refused), tonic::Code::AlreadyExists);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "routes[1]: is held by worker \"a\" of caller \"x\"; routes[2]: is held by worker \"a\" of caller \"x\""
    );
    assert!(world.holders("/new").is_empty(), "a refused registration leaves nothing behind");

    let refused = world.register(&worker("a", &[]), &caller("y"));
    assert_eq!(refused.unwrap_err().to_string(), "worker_id: is held by worker \"a\" of caller \"x\"");
}

#[test]
fn workers_of_one_service_and_owner_share_a_route() {
    let mut world = World::new();
    world.register(&worker("a", &["/api"]), &caller("x")).unwrap();
    world.register(&worker("b", &["/api/"]), &caller("x")).unwrap();
    assert_eq!(world.holders("/api"), ["a", "b"]);

    let elsewhere = made("c", &["/api"], |request| request.service = "other".to_owned());
    assert_eq!(code(&world.register(&elsewhere, &caller("x"))), tonic::Code::AlreadyExists);
    let rewritten = made("c", &["/api"], |request| request.routes[0].prefix_rewrite = Some("/v2".to_owned()));
    assert_eq!(code(&world.register(&rewritten, &caller("x"))), tonic::Code::AlreadyExists);
}

#[test]
fn an_expired_registration_loses_its_routes_to_whoever_asks() {
    let mut world = World::new();
    world.register(&worker("a", &["/a", "/b"]), &caller("x")).unwrap();
    world.after(30);
    world.register(&worker("b", &["/a"]), &caller("y")).unwrap();
    assert_eq!([world.holders("/a"), world.holders("/b")], [vec!["b"], vec!["a"]]);
    assert_eq!(code(&world.register(&worker("a", &["/a"]), &caller("x"))), tonic::Code::AlreadyExists);
    world.register(&worker("a", &["/b"]), &caller("x")).unwrap();
    assert_eq!(world.state("a"), Some(State::Active));
}

#[test]
fn an_expired_id_is_free_for_other_callers() {
    let mut world = World::new();
    world.register(&worker("a", &["/a"]), &caller("x")).unwrap();
    world.after(30);
    world.register(&worker("a", &["/a"]), &caller("y")).unwrap();
    assert_eq!(&*world.store.get("a").unwrap().owner, "y");
    assert_eq!(world.after(30), ["a expired"]);
}

#[test]
fn only_the_owner_and_admins_change_a_registration() {
    let mut world = World::new();
    world.register(&worker("a", &[]), &caller("x")).unwrap();
    let now = world.now;
    let other = caller("y");
    let refusals = [
        world.store.renew("a", None, &other, now).map(|_| ()).unwrap_err(),
        world.store.drain("a", "", &other).map(|_| ()).unwrap_err(),
        world.store.check_withdrawal("a", "", &other).map(|_| ()).unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
        assert_eq!(refusal.to_string(), "worker \"a\" belongs to caller \"x\"");
    }
    let mut admin = Caller::for_tests("root");
    admin.admin = true;
    let admin = Arc::new(admin);
    world.store.renew("a", None, &admin, now).unwrap();
    world.register(&worker("a", &["/a"]), &admin).unwrap();
    assert_eq!(&*world.store.get("a").unwrap().owner, "x", "an admin changes it for its owner");
}

#[test]
fn draining_keeps_the_lease_and_ends_by_registering_again() {
    let mut world = World::new();
    let old = world.register(&worker("a", &["/a"]), &caller("x")).unwrap();
    world.store.drain("a", &old, &caller("x")).unwrap();
    assert_eq!(world.state("a"), Some(State::Draining));
    world.store.renew("a", None, &caller("x"), world.now).unwrap();
    assert_eq!(world.state("a"), Some(State::Draining));
    world.register(&worker("a", &["/a"]), &caller("x")).unwrap();
    assert_eq!(world.state("a"), Some(State::Active));
    let stale = world.store.drain("a", &old, &caller("x")).map(|_| ()).unwrap_err();
    assert_eq!(stale.code(), tonic::Code::FailedPrecondition);
}

#[test]
fn a_withdrawal_does_not_hit_the_successor() {
    let mut world = World::new();
    let old = world.register(&worker("a", &["/a"]), &caller("x")).unwrap();
    let new = world.register(&worker("a", &["/a"]), &caller("x")).unwrap();
    assert!(world.store.withdraw("a", &old).is_none());
    assert!(world.store.withdraw("a", &new).is_some());
    assert_eq!((world.store.live(), world.store.next_deadline()), (0, None));
    assert!(world.holders("/a").is_empty());
}

#[test]
fn a_service_has_one_transport() {
    let mut world = World::new();
    let h2c = |request: &mut wire::RegisterRequest| request.set_protocol(wire::Protocol::H2c);
    world.register(&worker("a", &[]), &caller("x")).unwrap();
    world.register(&made("a", &[], h2c), &caller("x")).expect("alone in its service");
    let refused = world.register(&worker("b", &[]), &caller("x"));
    assert_eq!(code(&refused), tonic::Code::FailedPrecondition);
    world.after(30);
    world.register(&worker("b", &[]), &caller("x")).expect("the other one has expired");
    assert_eq!(code(&world.register(&made("a", &[], h2c), &caller("x"))), tonic::Code::FailedPrecondition);
}

#[test]
fn what_was_touched_is_told_once() {
    let mut world = World::new();
    world.register(&worker("a", &["/a"]), &caller("x")).unwrap();
    let touched = world.store.take_touched();
    assert_eq!(touched.routes.len() + touched.services.len(), 2);
    world.store.renew("a", None, &caller("x"), world.now).unwrap();
    let touched = world.store.take_touched();
    assert_eq!(touched.routes.len() + touched.services.len(), 0, "a renewal changes no route");
    world.after(30);
    assert_eq!(world.store.take_touched().routes.len(), 1);
}

#[test]
fn the_list_goes_on_after_an_id() {
    let mut world = World::new();
    for id in ["b", "a", "c"] {
        world.register(&worker(id, &[]), &caller("x")).unwrap();
    }
    let ids = |after: &str| world.store.after(after).map(|held| held.worker.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(""), ["a", "b", "c"]);
    assert_eq!(ids("a"), ["b", "c"]);
}

#[test]
fn restored_routes_are_those_that_were_held() {
    let mut old = World::new();
    old.register(&worker("a", &["/r"]), &caller("x")).unwrap();
    old.after(31);
    old.register(&worker("b", &["/r"]), &caller("y")).unwrap();
    let mut new = World { now: old.now, ..World::new() };
    for id in ["a", "b"] {
        new.store.restore(old.store.get(id).unwrap().clone()).unwrap();
    }
    assert_eq!((new.holders("/r"), new.store.live()), (vec!["b"], 1));
    let taken = new.store.restore(Registration { owner: "z".into(), ..old.store.get("b").unwrap().clone() });
    assert!(taken.is_ok(), "of the same id");
    assert_eq!(new.after(30), ["a forgotten", "b expired"]);
}

#[test]
fn a_pause_lengthens_every_lease() {
    let mut world = World::new();
    world.register(&worker("a", &[]), &caller("x")).unwrap();
    world.store.postpone(Duration::from_secs(100));
    assert!(world.after(129).is_empty());
    assert_eq!(world.after(1), ["a expired"]);
}
