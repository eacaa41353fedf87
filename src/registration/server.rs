//! The gRPC server behind the filter: the registry, reflection and health, on the main thread.
//!
//! It has no socket of its own. Requests come from the workers' filters as `InternalRequest`s; each is served by a task that
//! ends when its client has gone.

use std::{convert::Infallible, pin::pin, sync::Arc};

use http_body_util::BodyExt;
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Status, body::Body as TonicBody, server::NamedService};
use tower_service::Service as _;

use super::{handoff::Control, refusal::is_unprocessed, registrar::Registrar, service::Service};
use crate::{
    filter::service::{InternalRequest, SendBody},
    http::{Refused, body::BodyError},
    proto::{SERVICE_DESCRIPTORS, registration::worker_registry_server::WorkerRegistryServer},
    snapshot::{Door, Snapshot},
    stats,
};

/// The API, and what serves it until nobody can send requests any more: to be run in a `LocalSet`, or another place that allows
/// local tasks.
pub fn serve(
    requests: mpsc::Receiver<InternalRequest>,
    door: Door,
    snapshot: Arc<Snapshot>,
    registry: &Arc<stats::Registry>,
) -> (Control, impl Future<Output = ()> + use<>) {
    let (handle, registrar) = Registrar::open(door, snapshot, Arc::clone(registry));
    let control = Control::new(handle.clone());
    let registry = WorkerRegistryServer::new(Service::new(handle, registry));
    let served = async {
        let mut calls = pin!(answer_all(requests, registry));
        tokio::select! {
            () = &mut calls => return,
            () = registrar => {}
        }
        // Whoever calls now is told to call again elsewhere.
        calls.await;
    };
    (control, served)
}

async fn answer_all(mut requests: mpsc::Receiver<InternalRequest>, registry: WorkerRegistryServer<Service>) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<WorkerRegistryServer<Service>>().await;
    let reflection_alpha = reflection().build_v1alpha().expect("invariant: build.rs wrote these descriptors");
    let reflection = reflection().build_v1().expect("invariant: build.rs wrote these descriptors");
    let mut calls = JoinSet::new();
    loop {
        let InternalRequest { request, answer } = tokio::select! {
            request = requests.recv() => match request {
                Some(request) => request,
                None => return,
            },
            Some(_) = calls.join_next() => continue,
        };
        let (mut registry, mut health) = (registry.clone(), health.clone());
        let (mut reflection, mut reflection_alpha) = (reflection.clone(), reflection_alpha.clone());
        calls.spawn_local(async move {
            let response = async {
                match service_name(request.uri().path()) {
                    "grpc.health.v1.Health" => health.call(request).await,
                    "grpc.reflection.v1.ServerReflection" => reflection.call(request).await,
                    "grpc.reflection.v1alpha.ServerReflection" => reflection_alpha.call(request).await,
                    _ => registry.call(request).await,
                }
            };
            answer_one(response, answer).await;
        });
    }
}

/// Gives the answer, or gives up when the client has gone.
async fn answer_one(
    response: impl Future<Output = Result<http::Response<TonicBody>, Infallible>>,
    mut answer: tokio::sync::oneshot::Sender<http::Response<SendBody>>,
) {
    tokio::select! {
        Ok(mut response) = response => {
            if response.extensions().get().is_some_and(is_unprocessed) {
                response.extensions_mut().insert(Refused);
            }
            // Refused only when the client has gone meanwhile.
            let _ = answer.send(response.map(|body| body.map_err(|status| broken(&status)).boxed_unsync()));
        }
        () = answer.closed() => {}
    }
}

/// A body that tonic cannot go on with.
fn broken(status: &Status) -> BodyError {
    BodyError::Protocol(status.to_string())
}

fn service_name(path: &str) -> &str {
    path.split('/').nth(1).unwrap_or_default()
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(SERVICE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(<WorkerRegistryServer<Service> as NamedService>::NAME)
        .with_service_name("grpc.health.v1.Health")
}

#[cfg(test)]
mod tests;
