//! Copies of requests for other clusters (`request_mirror_policies`).
//!
//! A copy is sent when its request has been read to the end, with the body that was kept on the way; one that was too large to be
//! kept is not mirrored. Nobody waits for a copy, and nothing that becomes of it is told to anyone but by statistics.

use std::{rc::Rc, time::Duration};

use http::HeaderValue;
use http_body_util::BodyExt;
use tokio::{task::spawn_local, time::timeout};

use super::kept_body::KeptBody;
use crate::{
    filter::http::Stream,
    http::{Request, body::Body, copy_head, headers::X_ENVOY_INTERNAL, upgrade::Upgrade},
    route::RouteRef,
    upstream::{ClusterState, LoadBalancerContext, Origin, UpstreamAttempt},
};

/// Sends the copies that the route asks for. `limit` is how long each may take; `None`: as long as it likes.
pub(super) fn mirror(
    route: &RouteRef,
    request: &Request,
    kept: Option<&KeptBody>,
    stream: &mut Stream,
    limit: Option<Duration>,
) {
    // Whatever goes through an upgrade is no request.
    if request.extensions().get::<Upgrade>().is_some() {
        return;
    }
    stream.show_request(request);
    let worker = &stream.worker;
    for policy in route.mirror_policies() {
        if !policy.holds(&worker.runtime(), worker.random.next_u64()) {
            continue;
        }
        let cluster = policy.cluster(request).and_then(|name| worker.clusters.get(name));
        let Some(cluster) = cluster else { continue };
        let mut copy = copy_head(request);
        // Who sends it is within.
        copy.headers_mut().insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
        policy.finalize(&mut copy, &stream.info);
        let body = kept.map(KeptBody::complete);
        spawn_local(async move {
            match body {
                Some(body) => match body.await {
                    Some(body) => *copy.body_mut() = body,
                    None => return,
                },
                None => *copy.body_mut() = Body::empty(),
            }
            let sending = send(&cluster, &mut copy);
            // What comes of it concerns nobody.
            match limit {
                Some(limit) => drop(timeout(limit, sending).await),
                None => sending.await,
            }
        });
    }
}

async fn send(cluster: &Rc<ClusterState>, copy: &mut Request) {
    let Some(host) = cluster.choose_host(&LoadBalancerContext::default()) else { return };
    let Ok(response) = cluster.send(&host, copy, &UpstreamAttempt::default()).await else { return };
    let status = response.status().as_u16();
    cluster.cluster().responses.count(status, Origin::Internal, response.headers());
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {}
}
