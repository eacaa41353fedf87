//! The registrar: the one task that owns the store, on the main thread.
//!
//! It takes jobs from the service in batches, lets time do its work on leases and withdrawals, publishes what has changed
//! through the one door, and answers the jobs only then. So whoever has an answer can rely on it: every worker thread routes
//! accordingly.
//!
//! It stands still while its registrations are handed over to another process (`handoff.rs`), and when they have been, it waits
//! for the last requests of those that leave, and does nothing else any more.

use std::{
    collections::HashSet,
    future::pending,
    mem, process,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    handoff::{self, Frozen},
    lease::{Claim, Ended, Registration, State, Store},
    publish::{Publisher, cluster_names},
    refusal::Refusal,
    resolve::Target,
    worker::Worker,
};
use crate::{
    config::{Field, Report},
    http_filters::registration::Caller,
    proto::handoff as wire,
    snapshot::{Door, Snapshot},
    stats,
};

/// Jobs that may wait; callers wait to hand in more.
const BACKLOG: usize = 1024;

/// How often a withdrawal looks whether the last request has finished.
const DRAIN_POLL: Duration = Duration::from_millis(10);

stats::declare! {
    /// Of the registration API, under `registration.`
    pub struct RegistrationStats {
        /// Registrations whose lease has not ended.
        active: Gauge,
        /// Leases granted by Register.
        granted: Counter,
        /// Leases lengthened by Renew.
        renewed: Counter,
        /// Leases that ended without renewal.
        expired: Counter,
        /// Registrations that ended by Deregister.
        withdrawn: Counter,
    }
}

/// Owns all registrations.
#[derive(Debug)]
pub struct Registrar {
    store: Store,
    publisher: Publisher,
    door: Door,
    snapshot: Arc<Snapshot>,
    stats: RegistrationStats,
    withdrawals: Vec<Withdrawal>,
    /// Told what there is when nothing changes any more.
    freeze: Option<oneshot::Sender<Frozen>>,
}

/// A registration that ends when its requests have.
#[derive(Debug)]
struct Withdrawal {
    worker_id: Arc<str>,
    lease_id: String,
    caller: Arc<Caller>,
    limit: Instant,
    done: oneshot::Sender<u64>,
}

/// Something to do for a caller, and then its answer, to be given when the change is published.
type Job = Box<dyn FnOnce(&mut Registrar) -> Answer + Send>;
type Answer = Box<dyn FnOnce() + Send>;

/// The way to the registrar, from any thread.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Job>);

impl Handle {
    /// Does `job`; resolves when what it changed is published.
    ///
    /// # Errors
    /// [`Refusal::Stopping`] if the registrar ends before, and then nothing was done.
    pub async fn run<T, F>(&self, job: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Registrar) -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |registrar| {
            let outcome = job(registrar);
            // A caller that has gone needs no answer.
            Box::new(move || _ = sender.send(outcome))
        });
        self.0.send(job).await.map_err(|_| Refusal::Stopping)?;
        receiver.await.map_err(|_| Refusal::Stopping)
    }
}

impl Registrar {
    /// A registrar without registrations: the way to it, and the task that runs it for as long as a way to it exists, or until its
    /// registrations are another's.
    pub fn open(
        door: Door,
        snapshot: Arc<Snapshot>,
        registry: Arc<stats::Registry>,
    ) -> (Handle, impl Future<Output = ()>) {
        let (sender, jobs) = mpsc::channel(BACKLOG);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let registrar = Registrar {
            // Two processes of one moment are told apart by the second number.
            store: Store::new(format!("{:x}-{:x}", started.as_millis(), process::id())),
            stats: RegistrationStats::new(&registry.scope("registration")),
            publisher: Publisher::new(registry),
            door,
            snapshot,
            withdrawals: Vec::new(),
            freeze: None,
        };
        (Handle(sender), registrar.run(jobs))
    }

    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        loop {
            let first = tokio::select! {
                job = jobs.recv() => match job {
                    Some(job) => Some(job),
                    None => return,
                },
                () = until(self.next_event()) => None,
            };
            let mut answers = self.advance(Instant::now());
            let rest = std::iter::from_fn(|| jobs.try_recv().ok()).take(BACKLOG);
            for job in first.into_iter().chain(rest) {
                answers.push(job(&mut self));
            }
            self.stats.active.set(self.store.live() as u64);
            if self.publish().await.is_err() {
                return;
            }
            for answer in answers {
                answer();
            }
            if let Some(freeze) = self.freeze.take()
                && self.stand_still(freeze).await
            {
                // Whoever waits in there is told to ask elsewhere.
                drop(jobs);
                return self.see_off().await;
            }
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let poll = (!self.withdrawals.is_empty()).then(|| Instant::now() + DRAIN_POLL);
        self.store.next_deadline().into_iter().chain(poll).min()
    }

    /// What time does: leases end, registrations are forgotten, withdrawals come to their end.
    fn advance(&mut self, now: Instant) -> Vec<Answer> {
        for ended in self.store.advance(now) {
            match ended {
                Ended::Expired(held) => {
                    self.stats.expired.inc();
                    tracing::warn!(name: "lease_ended", caller = %held.owner, worker = %held.worker.id, "the lease has ended");
                }
                Ended::Forgotten(held) => {
                    tracing::info!(caller = %held.owner, worker = %held.worker.id, "forgotten");
                }
            }
        }
        self.advance_withdrawals(now)
    }

    fn advance_withdrawals(&mut self, now: Instant) -> Vec<Answer> {
        let mut answers: Vec<Answer> = Vec::new();
        for withdrawal in mem::take(&mut self.withdrawals) {
            let held = self.store.get(&withdrawal.worker_id).filter(|held| held.lease.id == withdrawal.lease_id);
            let requests_active = held.map_or(0, |held| self.publisher.requests_active(held));
            if requests_active > 0 && now < withdrawal.limit {
                self.withdrawals.push(withdrawal);
                continue;
            }
            if self.store.withdraw(&withdrawal.worker_id, &withdrawal.lease_id).is_some() {
                self.stats.withdrawn.inc();
                let (caller, worker) = (&withdrawal.caller.name, &withdrawal.worker_id);
                tracing::info!(%caller, %worker, requests_active, "deregistered");
            }
            // A caller that has gone needs no answer.
            answers.push(Box::new(move || _ = withdrawal.done.send(requests_active)));
        }
        answers
    }

    /// Changes nothing until the hand-off has ended, and says whether it has succeeded. If not, time has stood still for leases.
    async fn stand_still(&mut self, freeze: oneshot::Sender<Frozen>) -> bool {
        let since = Instant::now();
        let (frozen, outcome) = Frozen::new(self.export(since));
        // Whoever does not wait for it any more has given the hand-off up.
        drop(freeze.send(frozen));
        let handed_over = outcome.await.is_ok();
        if !handed_over {
            let pause = since.elapsed();
            self.store.postpone(pause);
            for withdrawal in &mut self.withdrawals {
                withdrawal.limit += pause;
            }
        }
        handed_over
    }

    /// What another process needs to know. What is about to leave stays here, where its last requests are.
    fn export(&self, now: Instant) -> Vec<wire::Registration> {
        let leaving: HashSet<&str> = self.withdrawals.iter().map(|withdrawal| &*withdrawal.lease_id).collect();
        let staying = self.store.after("").filter(|held| !leaving.contains(&*held.lease.id));
        staying.map(|held| handoff::to_proto(held, now)).collect()
    }

    /// Answers those that wait for the last requests of registrations.
    async fn see_off(mut self) {
        while !self.withdrawals.is_empty() {
            sleep(DRAIN_POLL).await;
            for answer in self.advance_withdrawals(Instant::now()) {
                answer();
            }
        }
    }

    /// Gives what has changed to every worker thread.
    async fn publish(&mut self) -> Result<(), Refusal> {
        let touched = self.store.take_touched();
        if touched.is_empty() {
            return Ok(());
        }
        let change = self.publisher.update(&self.store, &touched, &self.snapshot);
        self.snapshot = self.door.apply(change).await.ok_or(Refusal::Stopping)?;
        Ok(())
    }

    /// Stands still after what is in hand, and tells what there is.
    pub fn freeze(&mut self, told: oneshot::Sender<Frozen>) {
        self.freeze = Some(told);
    }

    /// Takes over a registration of another process.
    pub fn restore(&mut self, held: Registration) -> Result<(), Refusal> {
        self.check_names(&held.worker)?;
        self.publisher.check(&held.worker, &self.snapshot)?;
        self.store.restore(held)
    }

    /// Makes or changes a registration.
    pub fn register(&mut self, claim: Claim, caller: &Arc<Caller>) -> Result<Registration, Refusal> {
        self.check_names(&claim.worker)?;
        self.publisher.check(&claim.worker, &self.snapshot)?;
        let held = self.store.register(claim, caller, Instant::now())?;
        self.stats.granted.inc();
        let (worker, service, lease) = (&held.worker.id, &held.worker.service, &held.lease.id);
        tracing::info!(caller = %caller.name, %worker, %service, %lease, "registered");
        Ok(held.clone())
    }

    /// Clusters of the configuration keep their names for themselves.
    fn check_names(&self, worker: &Worker) -> Result<(), Refusal> {
        let report = Report::new();
        for name in cluster_names(worker) {
            if self.snapshot.clusters.contains_key(&name) && !self.publisher.publishes(&name) {
                let reason = format!("{name:?} is a cluster of the configuration: choose another name");
                Field::root(&report).key("service").error(reason);
            }
        }
        Refusal::invalid(report)
    }

    /// Lengthens a lease.
    pub fn renew(
        &mut self,
        worker_id: &str,
        lease_time: Option<Duration>,
        caller: &Caller,
    ) -> Result<Registration, Refusal> {
        let held = self.store.renew(worker_id, lease_time, caller, Instant::now())?;
        self.stats.renewed.inc();
        tracing::debug!(caller = %caller.name, worker = %worker_id, "renewed");
        Ok(held.clone())
    }

    /// The names of a registration lead elsewhere now.
    pub fn relocate(&mut self, held: &Registration, targets: Vec<Target>) {
        self.store.relocate(&held.worker.id, &held.lease.id, targets);
    }

    /// Ends the stream of new requests.
    pub fn drain(&mut self, worker_id: &str, lease_id: &str, caller: &Caller) -> Result<Registration, Refusal> {
        let held = self.store.drain(worker_id, lease_id, caller)?.clone();
        tracing::info!(caller = %caller.name, worker = %worker_id, "draining");
        Ok(held)
    }

    /// Drains, and ends the registration when no request is active or after `drain_time`. The receiver is told how many were
    /// active still.
    pub fn deregister(
        &mut self,
        worker_id: &str,
        lease_id: &str,
        drain_time: Duration,
        caller: &Arc<Caller>,
    ) -> Result<oneshot::Receiver<u64>, Refusal> {
        let held = self.store.check_withdrawal(worker_id, lease_id, caller)?.clone();
        if held.state != State::Expired {
            self.store.drain(worker_id, lease_id, caller)?;
        }
        let (done, receiver) = oneshot::channel();
        self.withdrawals.push(Withdrawal {
            worker_id: Arc::clone(&held.worker.id),
            lease_id: held.lease.id,
            caller: Arc::clone(caller),
            limit: Instant::now() + drain_time,
            done,
        });
        Ok(receiver)
    }

    /// One registration, and how many requests its worker is serving.
    pub fn get(&self, worker_id: &str) -> Result<(Registration, u64), Refusal> {
        let held = self.store.get(worker_id).ok_or_else(|| Refusal::Unknown { id: worker_id.to_owned() })?;
        Ok((held.clone(), self.publisher.requests_active(held)))
    }

    /// Up to `limit` of the registrations after this id that pass the filter.
    pub fn list(&self, after: &str, limit: usize, filter: impl Fn(&Registration) -> bool) -> Vec<(Registration, u64)> {
        let held = self.store.after(after).filter(|held| filter(held)).take(limit);
        held.map(|held| (held.clone(), self.publisher.requests_active(held))).collect()
    }
}

async fn until(event: Option<Instant>) {
    match event {
        Some(event) => sleep_until(event).await,
        None => pending().await,
    }
}
