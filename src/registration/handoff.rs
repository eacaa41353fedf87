//! How registrations pass to the process that takes this one's place, with their leases, and what workers notice of it: nothing.
//!
//! The old process *freezes* its registrar: what is in hand is done and answered, then nothing changes and no lease ends, and
//! calls wait. What it holds goes to the new process, which takes over what its own configuration allows. Then the old one has
//! *handed over*: whoever waits, or calls later, is told to call again on a new connection ([`Refused`](crate::http::Refused)),
//! which leads to the new one; its routes stay as they are for the connections that it still has. Or it *thaws*, and has only
//! been slow.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    answer,
    lease::{Lease, Registration, State},
    registrar::Handle,
    resolve::Target,
    service::valid,
    worker::{Worker, WorkerAddress, address_from_proto},
};
use crate::{
    config::Field,
    http_filters::registration::Caller,
    net::Address,
    proto::{self, handoff as wire, registration},
};

/// How long the call in hand may take before the registrar stands still: it waits for the worker threads at most.
const FREEZE_LIMIT: Duration = Duration::from_secs(2);

/// The process's hold on its registrations.
///
/// What changes them needs the control loop, which takes in what knocks at the door: so the loop must not wait for it.
#[derive(Clone)]
pub struct Control(Handle);

/// Registrations that do not change. Dropped, they thaw.
#[derive(Debug)]
pub struct Frozen {
    registrations: Vec<wire::Registration>,
    handed_over: oneshot::Sender<()>,
}

impl Control {
    /// The hold on what this registrar holds.
    pub fn new(registrar: Handle) -> Control {
        Control(registrar)
    }

    /// Lets nothing change any more. `None` if that cannot be had soon, or if the registrations are another's already.
    pub async fn freeze(&self) -> Option<Frozen> {
        let (told, frozen) = oneshot::channel();
        let freeze = async {
            self.0.run(move |registrar| registrar.freeze(told)).await.ok()?;
            frozen.await.ok()
        };
        timeout(FREEZE_LIMIT, freeze).await.ok()?
    }

    /// Takes over what another process held; resolves when every worker thread routes accordingly. What does not go with this
    /// process's configuration is dropped with a warning. To be called before anybody can register.
    pub async fn import(&self, registrations: Vec<wire::Registration>) {
        let now = Instant::now();
        let mut restored = Vec::with_capacity(registrations.len());
        for proto in registrations {
            match valid(|field| from_proto(&proto, field, now)) {
                Ok(held) => restored.push(held),
                Err(reason) => {
                    let worker = proto.worker.unwrap_or_default().worker_id;
                    tracing::warn!(caller = %proto.owner, worker, %reason, "the registration is not taken over");
                }
            }
        }
        restored.sort_by_key(|held| held.state != State::Expired);
        let import = self.0.run(|registrar| {
            let mut count = 0;
            for held in restored {
                let (caller, worker) = (Arc::clone(&held.owner), Arc::clone(&held.worker.id));
                match registrar.restore(held) {
                    Ok(()) => count += 1,
                    Err(reason) => tracing::warn!(%caller, %worker, %reason, "the registration is not taken over"),
                }
            }
            count
        });
        if let Ok(count) = import.await {
            tracing::info!(count, "registrations taken over");
        }
    }
}

impl Frozen {
    /// What there is, and where it is told that it was handed over; an error there says that it was not.
    pub fn new(registrations: Vec<wire::Registration>) -> (Frozen, oneshot::Receiver<()>) {
        let (handed_over, outcome) = oneshot::channel();
        (Frozen { registrations, handed_over }, outcome)
    }

    /// What another process takes over by [`Control::import`].
    pub fn registrations(&self) -> &[wire::Registration] {
        &self.registrations
    }

    /// Goes on as if nothing had been: calls that waited are served, and no lease is shorter.
    pub fn thaw(self) {}

    /// The registrations are another's from now on: all calls are refused so that clients turn there.
    pub fn hand_over(self) {
        // A registrar that has ended refuses them as well.
        let _ = self.handed_over.send(());
    }
}

/// A registration for another process, as it is at `now`.
pub fn to_proto(held: &Registration, now: Instant) -> wire::Registration {
    let Registration { worker, owner, state, lease, targets, registrant, registered_at } = held;
    let has_ended = *state == State::Expired;
    let remaining = proto::duration(lease.expires_at.saturating_duration_since(now));
    let expired_for = proto::duration(now.saturating_duration_since(lease.expires_at));
    wire::Registration {
        worker: Some(worker.proto.clone()),
        owner: owner.to_string(),
        state: answer::state(*state).into(),
        lease_id: lease.id.clone(),
        lease_duration: Some(proto::duration(lease.duration)),
        lease_remaining: (!has_ended).then_some(remaining),
        expired_for: has_ended.then_some(expired_for),
        registered_for: Some(proto::duration(now.saturating_duration_since(*registered_at))),
        targets: targets.iter().map(target_to_proto).collect(),
        registrant: Some(registrant.to_handoff()),
    }
}

/// The registration that another process had, as of `now`.
fn from_proto(proto: &wire::Registration, field: Field<'_>, now: Instant) -> Option<Registration> {
    let wire::Registration {
        worker,
        owner,
        state,
        lease_id,
        lease_duration,
        lease_remaining,
        expired_for,
        registered_for,
        targets,
        registrant,
    } = proto;
    let worker = Worker::from_proto(required(worker.as_ref(), field.key("worker"))?, field.key("worker"));
    let registrant = required(registrant.as_ref(), field.key("registrant"))?;
    let registrant = Caller::from_handoff(registrant, field.key("registrant"));
    let state = state_from_proto(*state, field.key("state"));
    let duration = field.duration("lease_duration", lease_duration);
    let remaining = field.duration("lease_remaining", lease_remaining).unwrap_or_default();
    let expired_for = field.duration("expired_for", expired_for).unwrap_or_default();
    let age = field.duration("registered_for", registered_for).unwrap_or_default();
    let targets = targets.iter().enumerate();
    let targets: Option<_> =
        targets.map(|(index, target)| target_from_proto(target, field.key("targets").index(index))).collect();
    let duration = required(duration.as_ref(), field.key("lease_duration"));
    let expires_at = now.checked_add(remaining)?.checked_sub(expired_for)?;
    Some(Registration {
        worker: worker?.into(),
        owner: owner.as_str().into(),
        state: state?,
        lease: Lease { id: lease_id.clone(), duration: *duration?, expires_at },
        targets: targets?,
        registrant: registrant?.into(),
        registered_at: now.checked_sub(age)?,
    })
}

fn required<'a, T>(value: Option<&'a T>, field: Field<'_>) -> Option<&'a T> {
    if value.is_none() {
        field.error("is required");
    }
    value
}

fn state_from_proto(proto: i32, field: Field<'_>) -> Option<State> {
    match registration::State::try_from(proto) {
        Ok(registration::State::Active) => Some(State::Active),
        Ok(registration::State::Draining) => Some(State::Draining),
        Ok(registration::State::Expired) => Some(State::Expired),
        Ok(registration::State::Unspecified) | Err(_) => {
            field.error(format!("has the unknown value {proto}"));
            None
        }
    }
}

fn target_to_proto(target: &Target) -> wire::Target {
    let address = match &target.address {
        Address::Ip(address) => registration::Address {
            host: address.ip().to_string(),
            port: address.port().into(),
            ..registration::Address::default()
        },
        Address::Pipe(path) => registration::Address {
            unix_socket: path.to_string_lossy().into_owned(),
            ..registration::Address::default()
        },
        // No registrant is within this process.
        Address::Internal { .. } => registration::Address::default(),
    };
    wire::Target { address: Some(address), hostname: target.hostname.clone() }
}

fn target_from_proto(proto: &wire::Target, field: Field<'_>) -> Option<Target> {
    let wire::Target { address, hostname } = proto;
    let field = field.key("address");
    let address = match address_from_proto(required(address.as_ref(), field)?, field)? {
        WorkerAddress::Ip(ip, port) => Address::from(SocketAddr::new(ip, port)),
        WorkerAddress::Socket(path) => Address::Pipe(path),
        WorkerAddress::Name(..) => {
            field.key("host").error("must be an IP address");
            return None;
        }
    };
    Some(Target { address, hostname: hostname.clone() })
}
