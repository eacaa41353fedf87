//! What callers are told: registrations, leases and URLs as messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::{
    lease::{Lease, Registration, State},
    refusal::Refusal,
    worker::Worker,
};
use crate::{
    http_filters::registration::Session,
    proto::{self, Timestamp, registration as wire},
    route::RouteKey,
};

/// A registration as the caller of `session` sees it.
pub fn registration(session: &Session, held: &Registration, requests_active: u64) -> wire::Registration {
    let asked = held.worker.lease_time.map(proto::duration);
    wire::Registration {
        worker: Some(wire::RegisterRequest { lease_time: asked, ..held.worker.proto.clone() }),
        owner: held.owner.to_string(),
        state: state(held.state).into(),
        lease: Some(lease(&held.lease)),
        public_urls: public_urls(session, &held.worker),
        requests_active,
        registered_at: Some(timestamp(held.registered_at)),
    }
}

/// What becomes of requests.
pub fn state(state: State) -> wire::State {
    match state {
        State::Active => wire::State::Active,
        State::Draining => wire::State::Draining,
        State::Expired => wire::State::Expired,
    }
}

/// A lease, with its end by the clock.
pub fn lease(lease: &Lease) -> wire::Lease {
    wire::Lease {
        id: lease.id.clone(),
        duration: Some(proto::duration(lease.duration)),
        expires_at: Some(timestamp(lease.expires_at)),
    }
}

/// Why one part of a call was refused.
pub fn refusal(refusal: &Refusal) -> wire::Refusal {
    wire::Refusal { code: refusal.code().into(), message: refusal.to_string() }
}

/// Where clients reach a worker: each of its routes on each public URL.
pub fn public_urls(session: &Session, worker: &Worker) -> Vec<wire::PublicUrl> {
    let bases = session.public_urls();
    let url = |base: &str, key: &RouteKey| match key {
        RouteKey::Prefix(prefix) => {
            wire::PublicUrl { url: format!("{base}{}/", prefix.trim_end_matches('/')), header: None }
        }
        RouteKey::Header(name, value) => {
            let header = wire::HeaderMatch { name: name.to_string(), value: value.to_string() };
            wire::PublicUrl { url: format!("{base}/"), header: Some(header) }
        }
    };
    bases.iter().flat_map(|base| worker.route_keys().map(move |key| url(base, key))).collect()
}

fn timestamp(instant: Instant) -> Timestamp {
    let (now, clock) = (Instant::now(), SystemTime::now());
    let time = if instant >= now { clock + (instant - now) } else { clock - (now - instant) };
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let wire = proto::duration(since);
    Timestamp { seconds: wire.seconds, nanos: wire.nanos }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::{Field, Report},
        http_filters::registration::{Caller, Callers, Settings},
    };

    fn session(public_urls: &[&str]) -> Session {
        let settings = Settings {
            callers: Callers::default(),
            default_lease_time: Duration::from_secs(30),
            max_lease_time: Duration::from_mins(1),
            public_urls: public_urls.iter().map(ToString::to_string).collect(),
        };
        let origin = Some("https://asked.example:8443".to_owned());
        Session { caller: Arc::new(Caller::for_tests("x")), settings: Arc::new(settings), origin }
    }

    fn urls(public_urls: &[&str]) -> Vec<String> {
        let prefix = |prefix: &str| wire::Route {
            r#match: Some(wire::route::Match::PathPrefix(prefix.to_owned())),
            ..wire::Route::default()
        };
        let header = wire::HeaderMatch { name: "envoy-prefix".to_owned(), value: "a".to_owned() };
        let header = wire::Route { r#match: Some(wire::route::Match::Header(header)), ..wire::Route::default() };
        let request = wire::RegisterRequest {
            worker_id: "a".to_owned(),
            service: "s".to_owned(),
            addresses: vec![wire::Address { host: "10.0.0.1".to_owned(), port: 1, ..wire::Address::default() }],
            routes: vec![prefix("/worker/a"), header, prefix("/")],
            ..wire::RegisterRequest::default()
        };
        let worker = Worker::from_proto(&request, Field::root(&Report::new())).unwrap();
        let urls = super::public_urls(&session(public_urls), &worker);
        urls.into_iter()
            .map(|public| match public.header {
                None => public.url,
                Some(header) => format!("{} {}: {}", public.url, header.name, header.value),
            })
            .collect()
    }

    #[test]
    fn every_route_has_its_urls() {
        assert_eq!(
            urls(&["https://a.example", "https://b.example:8000"]),
            [
                "https://a.example/worker/a/",
                "https://a.example/ envoy-prefix: a",
                "https://a.example/",
                "https://b.example:8000/worker/a/",
                "https://b.example:8000/ envoy-prefix: a",
                "https://b.example:8000/",
            ]
        );
        assert_eq!(urls(&[])[0], "https://asked.example:8443/worker/a/");
    }

    #[test]
    fn lease_times_are_cut() {
        let seconds = |asked: Option<u64>| session(&[]).lease_time(asked.map(Duration::from_secs)).as_secs();
        assert_eq!((seconds(None), seconds(Some(5)), seconds(Some(600))), (30, 5, 60));
    }
}
