//! The store: who has registered what, and until when.
//!
//! Pure state on the main thread. Time is an argument, nothing here waits or talks to anyone: the registrar calls
//! [`Store::advance`] before anything else, applies what was asked, and then publishes what [`Store::take_touched`] names.
//! Invariants: every registration has exactly one deadline; a route's holders are all of one owner and one service, except
//! that an expired one never stands in the way of a claim.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    mem,
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    refusal::{Conflict, Refusal},
    resolve::Target,
    worker::Worker,
};
use crate::{http_filters::registration::Caller, route::RouteKey};

/// How many registrations one ingress takes.
pub const CAPACITY: usize = 65_536;

/// The shortest and the longest time for which the routes of an expired registration are answered 503.
const GRACE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(5));

/// What a caller asks for: a worker, where its addresses lead, and for how long.
#[derive(Debug)]
pub struct Claim {
    /// What is to be registered.
    pub worker: Arc<Worker>,
    /// Where its addresses lead; the caller may reach all of these.
    pub targets: Vec<Target>,
    /// How long the lease is to be.
    pub lease_time: Duration,
}

/// A worker process that announced itself.
#[derive(Clone, Debug)]
pub struct Registration {
    /// What was asked for.
    pub worker: Arc<Worker>,
    /// The name of the caller to whom it belongs.
    pub owner: Arc<str>,
    /// What becomes of requests.
    pub state: State,
    /// The right to it, and its end.
    pub lease: Lease,
    /// Where its addresses lead.
    pub targets: Vec<Target>,
    /// Who made it last: what that caller may reach bounds where its names may lead later.
    pub registrant: Arc<Caller>,
    /// When it was first made.
    pub registered_at: Instant,
}

/// The right to a registration for some time.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// New with every Register.
    pub id: String,
    /// What was granted last.
    pub duration: Duration,
    /// When it ends, or ended.
    pub expires_at: Instant,
}

/// What becomes of the requests for a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They go to the worker.
    Active,
    /// New ones are answered 503.
    Draining,
    /// The lease has ended; new ones are answered 503 until the registration is forgotten.
    Expired,
}

/// What time has done to a registration.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Its lease is over.
    Expired(Registration),
    /// Its routes match no more.
    Forgotten(Registration),
}

/// What has changed since it was last published.
#[derive(Debug, Default)]
pub struct Touched {
    /// Routes that came, went, or changed hands.
    pub routes: HashSet<RouteKey>,
    /// Services with a member that came, went, or changed.
    pub services: HashSet<Arc<str>>,
}

impl Touched {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.services.is_empty()
    }
}

/// All registrations.
#[derive(Debug)]
pub struct Store {
    registrations: BTreeMap<Arc<str>, Registration>,
    deadlines: BTreeSet<(Instant, Arc<str>)>,
    /// Who holds a route, by worker id; never empty.
    routes: HashMap<RouteKey, BTreeSet<Arc<str>>>,
    services: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    touched: Touched,
    expired: usize,
    lease_prefix: String,
    leases: u64,
}

impl PartialEq for Registration {
    fn eq(&self, other: &Registration) -> bool {
        self.lease == other.lease && self.state == other.state && Arc::ptr_eq(&self.worker, &other.worker)
    }
}

impl Registration {
    /// When the next thing happens to it by itself.
    fn deadline(&self) -> Instant {
        match self.state {
            State::Active | State::Draining => self.lease.expires_at,
            State::Expired => self.lease.expires_at + self.lease.duration.clamp(GRACE.0, GRACE.1),
        }
    }
}

impl Store {
    /// An empty store. `lease_prefix` tells its lease ids from those of earlier processes.
    pub fn new(lease_prefix: String) -> Store {
        Store {
            registrations: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            routes: HashMap::new(),
            services: HashMap::new(),
            touched: Touched::default(),
            expired: 0,
            lease_prefix,
            leases: 0,
        }
    }

    /// Makes a registration, or replaces one of the same worker id.
    pub fn register(&mut self, claim: Claim, caller: &Arc<Caller>, now: Instant) -> Result<&Registration, Refusal> {
        let Claim { worker, targets, lease_time } = claim;
        let (owner, registered_at) = match self.registrations.get(&worker.id) {
            Some(held) if held.owner == caller.name || caller.admin => (Arc::clone(&held.owner), held.registered_at),
            Some(held) if held.state == State::Expired => (Arc::clone(&caller.name), now),
            Some(held) => return Err(Refusal::Held(vec![Conflict::of_worker_id(held)])),
            None if self.registrations.len() >= CAPACITY => return Err(Refusal::Full),
            None => (Arc::clone(&caller.name), now),
        };
        self.check_service(&worker)?;
        self.check_routes(&worker, &owner)?;
        self.leases += 1;
        let lease = Lease {
            id: format!("{}-{}", self.lease_prefix, self.leases),
            duration: lease_time,
            expires_at: now + lease_time,
        };
        let registrant = Arc::clone(caller);
        let state = State::Active;
        Ok(self.insert(Registration { worker, owner, state, lease, targets, registrant, registered_at }))
    }

    /// Takes in a registration that another process has made, with its lease. Expired ones come first: they hold no route
    /// against a later one.
    pub fn restore(&mut self, registration: Registration) -> Result<(), Refusal> {
        if self.registrations.len() >= CAPACITY {
            return Err(Refusal::Full);
        }
        if registration.state != State::Expired {
            self.check_service(&registration.worker)?;
            self.check_routes(&registration.worker, &registration.owner)?;
        }
        self.insert(registration);
        Ok(())
    }

    /// Puts a registration in place of the one of the same worker id.
    fn insert(&mut self, registration: Registration) -> &Registration {
        let worker = Arc::clone(&registration.worker);
        let id = Arc::clone(&worker.id);
        self.remove(&id);
        for key in worker.route_keys() {
            let holders = self.routes.entry(key.clone()).or_default();
            // Whoever is left here and does not share the route is expired, and loses it.
            let registrations = &self.registrations;
            holders.retain(|holder| registrations[holder].shares(key, &worker, &registration.owner));
            holders.insert(Arc::clone(&id));
        }
        self.services.entry(Arc::clone(&worker.service)).or_default().insert(Arc::clone(&id));
        self.touch(&worker);
        self.expired += usize::from(registration.state == State::Expired);
        self.deadlines.insert((registration.deadline(), Arc::clone(&id)));
        self.registrations.entry(id).insert_entry(registration).into_mut()
    }

    /// A service is one cluster, and a cluster speaks one protocol.
    fn check_service(&self, worker: &Worker) -> Result<(), Refusal> {
        let members = self.services.get(&worker.service).into_iter().flatten();
        let differs = |other: &&Registration| {
            other.worker.id != worker.id && other.state != State::Expired && !other.worker.same_transport(worker)
        };
        match members.map(|id| &self.registrations[id]).find(differs) {
            Some(other) => Err(Refusal::TransportDiffers { other: Arc::clone(&other.worker.id) }),
            None => Ok(()),
        }
    }

    /// Every route of `worker` that somebody holds who neither shares it nor has lost it by expiry.
    fn check_routes(&self, worker: &Worker, owner: &str) -> Result<(), Refusal> {
        let mut conflicts = Vec::new();
        for (index, key) in worker.route_keys().enumerate() {
            let holders = self.routes.get(key).into_iter().flatten().filter(|id| **id != worker.id);
            let in_the_way = |held: &&Registration| held.state != State::Expired && !held.shares(key, worker, owner);
            if let Some(held) = holders.map(|id| &self.registrations[id]).find(in_the_way) {
                conflicts.push(Conflict::of_route(index, held));
            }
        }
        if conflicts.is_empty() { Ok(()) } else { Err(Refusal::Held(conflicts)) }
    }

    /// Lengthens a lease. None: by the time that was granted last.
    pub fn renew(
        &mut self,
        id: &str,
        lease_time: Option<Duration>,
        caller: &Caller,
        now: Instant,
    ) -> Result<&Registration, Refusal> {
        let registration = self.living(id, None, caller)?;
        let worker_id = Arc::clone(&registration.worker.id);
        let before = registration.deadline();
        registration.lease.duration = lease_time.unwrap_or(registration.lease.duration);
        registration.lease.expires_at = now + registration.lease.duration;
        let after = registration.deadline();
        self.deadlines.remove(&(before, Arc::clone(&worker_id)));
        self.deadlines.insert((after, Arc::clone(&worker_id)));
        Ok(&self.registrations[&worker_id])
    }

    /// Where the names of a registration lead now.
    pub fn relocate(&mut self, id: &str, lease_id: &str, targets: Vec<Target>) {
        let found = self.registrations.get_mut(id).filter(|held| held.lease.id == lease_id && held.targets != targets);
        if let Some(registration) = found {
            registration.targets = targets;
            self.touched.services.insert(Arc::clone(&registration.worker.service));
        }
    }

    /// Ends the stream of new requests.
    pub fn drain(&mut self, id: &str, lease_id: &str, caller: &Caller) -> Result<&Registration, Refusal> {
        let registration = self.living(id, Some(lease_id), caller)?;
        registration.state = State::Draining;
        let worker = Arc::clone(&registration.worker);
        self.touch(&worker);
        Ok(&self.registrations[&worker.id])
    }

    /// Whether `caller` may deregister; an expired registration may be as well.
    pub fn check_withdrawal(&self, id: &str, lease_id: &str, caller: &Caller) -> Result<&Registration, Refusal> {
        self.owned(id, Some(lease_id), caller)
    }

    /// Forgets a registration, unless it has a newer lease.
    pub fn withdraw(&mut self, id: &str, lease_id: &str) -> Option<Registration> {
        self.registrations.get(id).filter(|held| held.lease.id == lease_id)?;
        self.remove(id)
    }

    /// Ends the leases that are over at `now`, and forgets registrations whose time of grace is.
    pub fn advance(&mut self, now: Instant) -> Vec<Ended> {
        let mut ended = Vec::new();
        while let Some((deadline, id)) = self.deadlines.first().cloned().filter(|(deadline, _)| *deadline <= now) {
            self.deadlines.remove(&(deadline, Arc::clone(&id)));
            let registration =
                self.registrations.get_mut(&id).expect("invariant: a deadline is that of a registration");
            if registration.state == State::Expired {
                ended.extend(self.remove(&id).map(Ended::Forgotten));
                continue;
            }
            registration.state = State::Expired;
            self.expired += 1;
            self.deadlines.insert((registration.deadline(), id));
            ended.push(Ended::Expired(registration.clone()));
            let worker = Arc::clone(&registration.worker);
            self.touch(&worker);
        }
        ended
    }

    /// Time has stood still for this long: every lease runs as much longer.
    pub fn postpone(&mut self, pause: Duration) {
        for registration in self.registrations.values_mut() {
            registration.lease.expires_at += pause;
        }
        let deadline = |held: &Registration| (held.deadline(), Arc::clone(&held.worker.id));
        self.deadlines = self.registrations.values().map(deadline).collect();
    }

    /// When [`Store::advance`] next has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// What has changed since the last call.
    pub fn take_touched(&mut self) -> Touched {
        mem::take(&mut self.touched)
    }

    /// One registration.
    pub fn get(&self, id: &str) -> Option<&Registration> {
        self.registrations.get(id)
    }

    /// How many have a lease that has not ended.
    pub fn live(&self) -> usize {
        self.registrations.len() - self.expired
    }

    /// Registrations in the order of their ids, those after `id` only.
    pub fn after(&self, id: &str) -> impl Iterator<Item = &Registration> {
        let bounds = (Bound::Excluded(id), Bound::Unbounded);
        self.registrations.range::<str, _>(bounds).map(|(_, registration)| registration)
    }

    /// The members of a service in the order of their ids; none if there is no such service.
    pub fn members(&self, service: &str) -> impl Iterator<Item = &Registration> {
        self.services.get(service).into_iter().flatten().map(|id| &self.registrations[id])
    }

    /// Who holds a route, in the order of their ids; nobody if it is not registered.
    pub fn holders(&self, key: &RouteKey) -> impl Iterator<Item = &Registration> {
        self.routes.get(key).into_iter().flatten().map(|id| &self.registrations[id])
    }

    fn touch(&mut self, worker: &Worker) {
        self.touched.services.insert(Arc::clone(&worker.service));
        self.touched.routes.extend(worker.route_keys().cloned());
    }

    /// The registration that `caller` may change, whatever its state.
    fn owned(&self, id: &str, lease_id: Option<&str>, caller: &Caller) -> Result<&Registration, Refusal> {
        let registration = self.registrations.get(id).ok_or_else(|| Refusal::Unknown { id: id.to_owned() })?;
        if registration.owner != caller.name && !caller.admin {
            return Err(Refusal::NotOwner { id: id.to_owned(), owner: Arc::clone(&registration.owner) });
        }
        match lease_id {
            None | Some("") => Ok(registration),
            Some(lease_id) if lease_id == registration.lease.id => Ok(registration),
            Some(_) => Err(Refusal::StaleLease { id: id.to_owned() }),
        }
    }

    /// The same, if its lease has not ended.
    fn living(&mut self, id: &str, lease_id: Option<&str>, caller: &Caller) -> Result<&mut Registration, Refusal> {
        if self.owned(id, lease_id, caller)?.state == State::Expired {
            return Err(Refusal::LeaseEnded { id: id.to_owned() });
        }
        self.registrations.get_mut(id).ok_or_else(|| Refusal::Unknown { id: id.to_owned() })
    }

    fn remove(&mut self, id: &str) -> Option<Registration> {
        let registration = self.registrations.remove(id)?;
        let worker = Arc::clone(&registration.worker);
        self.expired -= usize::from(registration.state == State::Expired);
        self.deadlines.remove(&(registration.deadline(), Arc::clone(&worker.id)));
        for key in worker.route_keys() {
            leave(&mut self.routes, key, id);
        }
        leave(&mut self.services, &worker.service, id);
        self.touch(&worker);
        Some(registration)
    }
}

impl Registration {
    /// Whether this and a registration of `worker` by `owner` may both hold `key`.
    fn shares(&self, key: &RouteKey, worker: &Worker, owner: &str) -> bool {
        let same_rewrite = self.worker.prefix_rewrite(key) == worker.prefix_rewrite(key);
        *self.owner == *owner && self.worker.service == worker.service && same_rewrite
    }
}

/// Removes a member from a set, and a set that is empty then.
fn leave<K: Eq + Hash>(sets: &mut HashMap<K, BTreeSet<Arc<str>>>, key: &K, id: &str) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(id);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
