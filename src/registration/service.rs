//! `portreeve.registration.v1.WorkerRegistry`: decodes and validates calls, and has the registrar do them.
//!
//! Who calls stands in the request's extensions, put there by the HTTP filter. Every refusal becomes a gRPC status, one line of
//! audit (target `registration`) and one count.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};

use super::{
    answer,
    lease::{Claim, Registration},
    refusal::Refusal,
    registrar::{Handle, Registrar},
    resolve::{has_names, resolve},
    worker::{Worker, lease_time_from_proto, name_from_proto},
};
use crate::{
    config::{Field, Report},
    http_filters::registration::{Caller, Session},
    proto::registration::{self as wire, renewal, worker_registry_server::WorkerRegistry},
    stats::{Counter, Registry},
};

/// Most worker ids in one Renew.
const MAX_RENEWALS: usize = 1000;

/// Registrations in one answer of List: unless the caller says, and at most.
const PAGE: (usize, usize) = (500, 1000);

/// How long Deregister waits for requests: unless the caller says, and at most.
const DRAIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_hours(1));

/// The service behind the generated server.
#[derive(Clone)]
pub struct Service {
    registrar: Handle,
    refused: Counter,
}

impl Service {
    /// The service of this registrar.
    pub fn new(registrar: Handle, registry: &Arc<Registry>) -> Service {
        Service { registrar, refused: registry.scope("registration").counter("refused") }
    }

    /// The answer as tonic wants it; a refusal is put on record, but not of what another process will do.
    fn answer<T>(
        &self,
        call: &'static str,
        caller: &Caller,
        worker: &str,
        outcome: Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        outcome.map(Response::new).map_err(|refusal| {
            if !matches!(refusal, Refusal::Stopping) {
                self.record(call, caller, worker, &refusal);
            }
            refusal.into()
        })
    }

    fn record(&self, call: &'static str, caller: &Caller, worker: &str, reason: &Refusal) {
        self.refused.inc();
        tracing::warn!(name: "peer_refused", caller = %caller.name, worker, call, code = ?reason.code(), %reason, "refused");
    }

    async fn register(
        &self,
        session: &Session,
        request: &wire::RegisterRequest,
    ) -> Result<wire::RegisterResponse, Refusal> {
        let worker = valid(|field| Worker::from_proto(request, field))?;
        let targets = resolve(&worker, &session.caller).await?;
        let lease_time = session.lease_time(worker.lease_time);
        let claim = Claim { worker: Arc::new(worker), targets, lease_time };
        let caller = Arc::clone(&session.caller);
        let held = self.registrar.run(move |registrar| registrar.register(claim, &caller)).await??;
        Ok(wire::RegisterResponse {
            lease: Some(answer::lease(&held.lease)),
            public_urls: answer::public_urls(session, &held.worker),
        })
    }

    async fn renew(&self, session: &Session, request: wire::RenewRequest) -> Result<wire::RenewResponse, Refusal> {
        let wire::RenewRequest { worker_ids, lease_time } = request;
        let lease_time = valid(|field| {
            if !(1..=MAX_RENEWALS).contains(&worker_ids.len()) {
                field
                    .key("worker_ids")
                    .error(format!("must have 1 to {MAX_RENEWALS} entries, has {}", worker_ids.len()));
            }
            Some(lease_time_from_proto(&lease_time, field))
        })?;
        let lease_time = lease_time.map(|asked| session.lease_time(Some(asked)));
        let caller = Arc::clone(&session.caller);
        let renew = move |registrar: &mut Registrar| {
            let renewed = |worker_id: String| (registrar.renew(&worker_id, lease_time, &caller), worker_id);
            worker_ids.into_iter().map(renewed).collect::<Vec<_>>()
        };
        let outcomes = self.registrar.run(renew).await?;
        if let Some((Err(first), _)) = outcomes.first()
            && outcomes.iter().all(|(outcome, _)| outcome.is_err())
        {
            return Err(first.clone());
        }
        let mut renewals = Vec::with_capacity(outcomes.len());
        for (outcome, worker_id) in outcomes {
            let result = match outcome {
                Ok(held) => {
                    self.follow_names(&held).await?;
                    renewal::Result::Lease(answer::lease(&held.lease))
                }
                Err(refusal) => {
                    self.record("Renew", &session.caller, &worker_id, &refusal);
                    renewal::Result::Refusal(answer::refusal(&refusal))
                }
            };
            renewals.push(wire::Renewal { worker_id, result: Some(result) });
        }
        Ok(wire::RenewResponse { renewals })
    }

    /// Resolves a registration's names again. While that fails, or leads where they may not lead, the old addresses stay.
    async fn follow_names(&self, held: &Registration) -> Result<(), Refusal> {
        if !has_names(&held.worker) {
            return Ok(());
        }
        match resolve(&held.worker, &held.registrant).await {
            Ok(targets) if targets == held.targets => Ok(()),
            Ok(targets) => {
                let held = held.clone();
                self.registrar.run(move |registrar| registrar.relocate(&held, targets)).await
            }
            Err(reason) => {
                let (caller, worker) = (&held.owner, &held.worker.id);
                tracing::warn!(%caller, %worker, %reason, "the addresses stay as they are");
                Ok(())
            }
        }
    }

    async fn drain(&self, session: &Session, request: wire::DrainRequest) -> Result<wire::DrainResponse, Refusal> {
        let wire::DrainRequest { worker_id, lease_id } = request;
        valid(|field| name_from_proto(&worker_id, field.key("worker_id")))?;
        let caller = Arc::clone(&session.caller);
        let drain = move |registrar: &mut Registrar| {
            registrar.drain(&worker_id, &lease_id, &caller)?;
            registrar.get(&worker_id)
        };
        let (held, requests_active) = self.registrar.run(drain).await??;
        Ok(wire::DrainResponse { registration: Some(answer::registration(session, &held, requests_active)) })
    }

    async fn deregister(
        &self,
        session: &Session,
        request: wire::DeregisterRequest,
    ) -> Result<wire::DeregisterResponse, Refusal> {
        let wire::DeregisterRequest { worker_id, lease_id, drain_time } = request;
        let drain_time = valid(|field| {
            let drain_time = field.duration("drain_time", &drain_time).unwrap_or(DRAIN.0);
            if drain_time > DRAIN.1 {
                field.key("drain_time").error(format!("must be at most {}s", DRAIN.1.as_secs()));
            }
            name_from_proto(&worker_id, field.key("worker_id")).map(|_| drain_time)
        })?;
        let caller = Arc::clone(&session.caller);
        let deregister =
            move |registrar: &mut Registrar| registrar.deregister(&worker_id, &lease_id, drain_time, &caller);
        let done = self.registrar.run(deregister).await??;
        let requests_active = done.await.map_err(|_| Refusal::Stopping)?;
        Ok(wire::DeregisterResponse { requests_active })
    }

    async fn get(&self, session: &Session, request: wire::GetRequest) -> Result<wire::GetResponse, Refusal> {
        let wire::GetRequest { worker_id } = request;
        valid(|field| name_from_proto(&worker_id, field.key("worker_id")))?;
        let (held, requests_active) = self.registrar.run(move |registrar| registrar.get(&worker_id)).await??;
        Ok(wire::GetResponse { registration: Some(answer::registration(session, &held, requests_active)) })
    }

    async fn list(&self, session: &Session, request: wire::ListRequest) -> Result<wire::ListResponse, Refusal> {
        let wire::ListRequest { service, owner, page_size, page_token } = request;
        let size = valid(|field| {
            if !page_token.is_empty() && name_from_proto(&page_token, field).is_none() {
                return None;
            }
            let size = usize::try_from(page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE.0);
            Some(size.min(PAGE.1))
        })
        .map_err(|_| Refusal::bad_page_token())?;
        let list = move |registrar: &mut Registrar| {
            let wanted = |held: &Registration| {
                (service.is_empty() || *service == *held.worker.service) && (owner.is_empty() || *owner == *held.owner)
            };
            registrar.list(&page_token, size + 1, wanted)
        };
        let mut page = self.registrar.run(list).await?;
        let more = page.len() > size;
        page.truncate(size);
        let next_page_token = page.last().filter(|_| more).map(|(held, _)| held.worker.id.to_string());
        let registrations = page.iter().map(|(held, active)| answer::registration(session, held, *active)).collect();
        Ok(wire::ListResponse { registrations, next_page_token: next_page_token.unwrap_or_default() })
    }
}

#[tonic::async_trait]
impl WorkerRegistry for Service {
    async fn register(
        &self,
        request: Request<wire::RegisterRequest>,
    ) -> Result<Response<wire::RegisterResponse>, Status> {
        let (session, request) = opened(request)?;
        let outcome = Service::register(self, &session, &request).await;
        self.answer("Register", &session.caller, &request.worker_id, outcome)
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::RenewResponse>, Status> {
        let (session, request) = opened(request)?;
        let worker_ids = request.worker_ids.join(" ");
        let outcome = Service::renew(self, &session, request).await;
        self.answer("Renew", &session.caller, &worker_ids, outcome)
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::DrainResponse>, Status> {
        let (session, request) = opened(request)?;
        let worker_id = request.worker_id.clone();
        let outcome = Service::drain(self, &session, request).await;
        self.answer("Drain", &session.caller, &worker_id, outcome)
    }

    async fn deregister(
        &self,
        request: Request<wire::DeregisterRequest>,
    ) -> Result<Response<wire::DeregisterResponse>, Status> {
        let (session, request) = opened(request)?;
        let worker_id = request.worker_id.clone();
        let outcome = Service::deregister(self, &session, request).await;
        self.answer("Deregister", &session.caller, &worker_id, outcome)
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        let (session, request) = opened(request)?;
        let worker_id = request.worker_id.clone();
        let outcome = Service::get(self, &session, request).await;
        self.answer("Get", &session.caller, &worker_id, outcome)
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListResponse>, Status> {
        let (session, request) = opened(request)?;
        let outcome = Service::list(self, &session, request).await;
        self.answer("List", &session.caller, "", outcome)
    }
}

/// The call and who makes it. A request that did not come through the filter is nobody's.
fn opened<T>(mut request: Request<T>) -> Result<(Session, T), Status> {
    let session = request.extensions_mut().remove::<Session>();
    let session = session.ok_or_else(|| Status::unauthenticated("the caller is not known"))?;
    Ok((session, request.into_inner()))
}

/// What `convert` makes of a message, or everything that is wrong with it.
pub fn valid<T>(convert: impl FnOnce(Field<'_>) -> Option<T>) -> Result<T, Refusal> {
    let report = Report::new();
    match convert(Field::root(&report)) {
        Some(value) if !report.has_errors() => Ok(value),
        _ => Err(Refusal::Invalid(report.into_problems())),
    }
}
