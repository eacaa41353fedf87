//! Registrations on their way from one process to the next, as their workers see it.

use prost::Message;
use tokio::time::sleep;

use super::*;
use crate::proto::handoff;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn renew(id: &str) -> wire::RenewRequest {
    wire::RenewRequest { worker_ids: vec![id.to_owned()], lease_time: None }
}

/// What the other process reads of what the first one wrote.
fn sent(registrations: &[handoff::Registration]) -> Vec<handoff::Registration> {
    let state = handoff::State { registrations: registrations.to_vec(), ..handoff::State::default() };
    let mut encoded = state.encode_to_vec();
    // Field 1000, of a later version.
    encoded.extend([0xc2, 0x3e, 1, 0]);
    handoff::State::decode(encoded.as_slice()).unwrap().registrations
}

/// The process that takes over, by this configuration.
async fn hand_over(old: &World, configuration: &str) -> World {
    let new = World::start(configuration);
    let frozen = old.control.freeze().await.unwrap();
    new.control.import(sent(frozen.registrations())).await;
    frozen.hand_over();
    new
}

#[tokio::test(start_paused = true)]
async fn leases_go_on_in_the_next_process() {
    with_service(async |old| {
        let mut client = old.client("x");
        let mut short = request("expired", 3, &["/c"]);
        short.lease_time = Some(proto::Duration { seconds: 5, nanos: 0 });
        client.register(short).await.unwrap();
        let granted = client.register(request("a", 1, &["/a"])).await.unwrap().into_inner().lease.unwrap();
        client.register(request("draining", 2, &["/b"])).await.unwrap();
        let drain = wire::DrainRequest { worker_id: "draining".to_owned(), ..wire::DrainRequest::default() };
        client.drain(drain).await.unwrap();
        sleep(seconds(10)).await;

        let before = old.control.freeze().await.unwrap().registrations().to_vec();
        assert_eq!(before.len(), 3);
        let new = hand_over(&old, "{}").await;
        let frozen = new.control.freeze().await.unwrap();
        assert_eq!(frozen.registrations(), before);
        frozen.thaw();
        assert_eq!(new.route("/a"), named("query/a", &["10.0.0.1:1"]));
        assert_eq!(new.route("/b"), named("query/draining", &[]));
        assert_eq!(new.route("/c"), named("query/expired", &[]));

        let mut client = new.client("x");
        sleep(seconds(6)).await;
        assert_eq!(new.route("/c"), None, "the time of grace went on as well");
        sleep(seconds(13)).await;
        assert_eq!(new.route("/a"), named("query/a", &["10.0.0.1:1"]));
        client.renew(renew("a")).await.unwrap();
        sleep(seconds(2)).await;
        assert_eq!(client.renew(renew("draining")).await.unwrap_err().code(), Code::NotFound, "its lease has ended");
        let by_lease = wire::DrainRequest { worker_id: "a".to_owned(), lease_id: granted.id.clone() };
        client.drain(by_lease).await.unwrap();
        let anew = client.register(request("a", 1, &["/a"])).await.unwrap().into_inner().lease.unwrap();
        assert_ne!(anew.id, granted.id);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_has_only_taken_time() {
    with_service(async |world| {
        world.client("x").register(request("a", 1, &["/a"])).await.unwrap();
        let frozen = world.control.freeze().await.unwrap();
        let mut client = world.client("x");
        let mut call = pin!(client.register(request("b", 2, &["/b"])));
        assert!(tokio::time::timeout(seconds(100), &mut call).await.is_err(), "it waits");
        assert_eq!(world.route("/a"), named("query/a", &["10.0.0.1:1"]), "no lease ends meanwhile");
        frozen.thaw();
        call.await.unwrap();
        assert_eq!(world.route("/b"), named("query/b", &["10.0.0.1:2"]));
        sleep(seconds(29)).await;
        assert_eq!(world.route("/a"), named("query/a", &["10.0.0.1:1"]));
        sleep(seconds(2)).await;
        assert_eq!(world.route("/a"), named("query/a", &[]));
        drop(world.control.freeze().await.unwrap());
        world.client("x").register(request("c", 3, &[])).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_calls_the_old_process_is_sent_to_the_new_one() {
    with_service(async |old| {
        old.client("x").register(request("a", 1, &["/a"])).await.unwrap();
        let frozen = old.control.freeze().await.unwrap();
        let mut waiting = old.client("x");
        let mut waiting = pin!(waiting.renew(renew("a")));
        assert!(tokio::time::timeout(seconds(1), &mut waiting).await.is_err());
        frozen.hand_over();
        assert_eq!(waiting.await.unwrap_err().message(), "refused");
        let later = old.client("x").register(request("b", 2, &["/b"])).await;
        assert_eq!(later.unwrap_err().message(), "refused");
        assert_eq!(old.stat("refused"), 0);
        assert!(old.control.freeze().await.is_none());
        sleep(seconds(100)).await;
        assert_eq!(old.route("/a"), named("query/a", &["10.0.0.1:1"]), "for the connections that are still here");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deregister_waits_for_its_requests_where_they_are() {
    with_service(async |old| {
        let mut client = old.client("x");
        client.register(request("a", 1, &["/a"])).await.unwrap();
        let snapshot = Arc::clone(old.manager.borrow().snapshot());
        let active = &snapshot.clusters["query/a"].hosts.hosts()[0].stats.rq_active;
        active.inc();
        let gone = wire::DeregisterRequest { worker_id: "a".to_owned(), ..wire::DeregisterRequest::default() };
        let mut call = pin!(client.deregister(gone));
        assert!(tokio::time::timeout(seconds(1), &mut call).await.is_err());
        let new = hand_over(&old, "{}").await;
        assert_eq!(new.route("/a"), None);
        assert!(tokio::time::timeout(seconds(1), &mut call).await.is_err());
        active.dec();
        assert_eq!(call.await.unwrap().into_inner().requests_active, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_new_configuration_has_the_last_word() {
    with_service(async |old| {
        let mut client = old.client("x");
        client.register(request("a", 1, &["/a"])).await.unwrap();
        let other = wire::RegisterRequest { service: "other".to_owned(), ..request("b", 2, &["/b"]) };
        client.register(other).await.unwrap();
        let cluster = "static_resources: { clusters: [ { name: query, connect_timeout: 1s } ] }";
        let new = hand_over(&old, cluster).await;
        assert_eq!(new.route("/a"), None);
        assert_eq!(new.route("/b"), named("other/b", &["10.0.0.1:2"]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn damage_costs_one_registration() {
    with_service(async |old| {
        let mut client = old.client("x");
        for id in ["a", "b", "c", "d", "e"] {
            client.register(request(id, 1, &[])).await.unwrap();
        }
        let mut registrations = sent(old.control.freeze().await.unwrap().registrations());
        registrations[0].worker = None;
        registrations[1].state = 77;
        registrations[2].registrant = None;
        registrations[3].lease_remaining = Some(proto::Duration { seconds: i64::MAX, nanos: 0 });
        let new = World::start("{}");
        new.control.import(registrations).await;
        let list = new.client("x").list(wire::ListRequest::default()).await.unwrap().into_inner();
        let ids: Vec<_> = list.registrations.into_iter().map(|held| held.worker.unwrap().worker_id).collect();
        assert_eq!(ids, ["e"]);
    })
    .await;
}
