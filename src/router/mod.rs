//! The router filter, `envoy.filters.http.router`: the last of every chain, the one that answers.
//!
//! It turns the route into an answer: a redirect, a direct response, or the answer of a host. An attempt that no host can have
//! processed is repeated here; every other failure becomes a [`LocalReply`] by the table in `failure.rs`.

mod failure;

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::time::Instant;

use crate::{
    config::field::Field,
    filter::{http::Stream, timer::Expired},
    http::{Request, Response, body::Body, grpc, headers, local_reply::LocalReply},
    proto,
    route::{Action, Forward, Originals, Redirect, RouteRef},
    stats,
    upstream::{ClusterState, HostRef, UpstreamFailure, UpstreamTiming},
};

/// How often a request is sent to hosts that turn out not to have processed it.
const MAX_ATTEMPTS: u32 = 3;

const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const REQUESTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

stats::declare! {
    /// Of the router of every HTTP connection manager, under `http.<stat_prefix>.`
    pub struct RouterStats {
        /// Requests that no route matched.
        no_route: Counter,
        /// Requests whose route names a cluster that does not exist.
        no_cluster: Counter,
        /// Requests answered by a redirect.
        rq_redirect: Counter,
        /// Requests answered by a route's direct response.
        rq_direct_response: Counter,
        /// Requests that a route matched.
        rq_total: Counter,
    }
}

/// A checked `Router`.
#[derive(Debug)]
pub struct Router {
    stats: RouterStats,
    suppress_envoy_headers: bool,
}

impl Router {
    /// Converts the filter's configuration; `scope` is `http.<stat_prefix>.`
    pub fn from_proto(router: &proto::router_filter::Router, field: Field<'_>, scope: &stats::Scope) -> Router {
        let proto::router_filter::Router {
            dynamic_stats,
            start_child_span,
            upstream_log,
            upstream_log_options,
            suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout,
            suppress_grpc_request_failure_code_stats,
            upstream_http_filters,
            reject_connect_request_early_data,
        } = router;
        field.ignored("dynamic_stats", dynamic_stats, "dynamic statistics are always on");
        field.ignored("start_child_span", start_child_span, "tracing is not implemented yet");
        field.ignored("upstream_log", upstream_log, "upstream logs are not implemented yet");
        field.ignored("upstream_log_options", upstream_log_options, "upstream logs are not implemented yet");
        field.unsupported("strict_check_headers", strict_check_headers);
        field.ignored("respect_expected_rq_timeout", respect_expected_rq_timeout, "the route's timeout counts");
        field.ignored(
            "suppress_grpc_request_failure_code_stats",
            suppress_grpc_request_failure_code_stats,
            "gRPC failure codes are not counted yet",
        );
        field.unsupported("upstream_http_filters", upstream_http_filters);
        field.ignored(
            "reject_connect_request_early_data",
            reject_connect_request_early_data,
            "CONNECT is not proxied yet",
        );
        Router { stats: RouterStats::new(scope), suppress_envoy_headers: *suppress_envoy_headers }
    }

    /// The answer to a request: from a host, or our own.
    ///
    /// # Errors
    /// The reply that stands for the failure.
    pub async fn route(&self, request: &mut Request, stream: &mut Stream) -> Result<Response, LocalReply> {
        let Some(route) = stream.route.clone() else {
            self.stats.no_route.inc();
            stream.capture_request(request);
            return Err(LocalReply::route_not_found());
        };
        self.stats.rq_total.inc();
        match &route.action {
            Action::Redirect(redirect) => {
                self.stats.rq_redirect.inc();
                stream.capture_request(request);
                let mut response = redirect_response(redirect, request)?;
                stream.info.response_code_details = "direct_response".into();
                route.finalize_response(&mut response, &stream.info);
                Ok(response)
            }
            Action::DirectResponse(direct) => {
                self.stats.rq_direct_response.inc();
                stream.capture_request(request);
                let reply = LocalReply::direct_response(direct.status, direct.body.clone());
                let mut response = reply.into_response(stream.is_grpc);
                stream.info.response_code_details = "direct_response".into();
                route.finalize_response(&mut response, &stream.info);
                Ok(response)
            }
            Action::Forward(forward) => self.forward(&route, forward, request, stream).await,
        }
    }

    async fn forward(
        &self,
        route: &RouteRef,
        forward: &Forward,
        request: &mut Request,
        stream: &mut Stream,
    ) -> Result<Response, LocalReply> {
        let cluster = match self.choose_cluster(route, forward, request, stream) {
            Ok(cluster) => cluster,
            Err(reply) => {
                stream.capture_request(request);
                return Err(reply);
            }
        };
        stream.cluster = Some(Rc::clone(&cluster));
        self.set_timeouts(forward, request, stream);
        route.finalize_request(request, &mut stream.info, self.originals());
        let started = Instant::now();
        let mut response = self.attempts(&cluster, route, request, stream).await?;
        if !self.suppress_envoy_headers {
            let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            response.headers_mut().insert(SERVICE_TIME, HeaderValue::from(elapsed));
        }
        stream.info.response_code_details = "via_upstream".into();
        route.finalize_response(&mut response, &stream.info);
        Ok(response)
    }

    fn originals(&self) -> Originals {
        if self.suppress_envoy_headers { Originals::Untold } else { Originals::Told }
    }

    fn choose_cluster(
        &self,
        route: &RouteRef,
        forward: &Forward,
        request: &Request,
        stream: &mut Stream,
    ) -> Result<Rc<ClusterState>, LocalReply> {
        let cluster = route.cluster(request.headers()).and_then(|name| stream.worker.clusters.get(name));
        if !route.is_available() {
            stream.info.upstream_cluster = cluster.map(|cluster| Arc::clone(&cluster.cluster().name));
            return Err(LocalReply::no_healthy_upstream());
        }
        cluster.ok_or_else(|| {
            self.stats.no_cluster.inc();
            LocalReply::cluster_not_found(forward.cluster_not_found_status)
        })
    }

    /// The route's timeout, or what the client asked for within it, counts from the end of the request.
    fn set_timeouts(&self, forward: &Forward, request: &mut Request, stream: &Stream) {
        let headers = request.headers_mut();
        let asked = headers.get(&REQUESTED_TIMEOUT);
        let asked = asked.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let timeout = match asked.map(Duration::from_millis) {
            Some(asked) => (!asked.is_zero()).then_some(asked),
            None => forward.timeout,
        };
        headers::remove_orders(headers);
        stream.timer.set_route_timeout(timeout);
        if let Some(limits) = &forward.max_stream_duration {
            let by_client = if stream.is_grpc { grpc::timeout(headers) } else { None };
            if let Some(limit) = limits.limit(by_client) {
                stream.timer.set_max_duration((!limit.is_zero()).then_some(limit));
            }
        }
        if let Some(timeout) = timeout
            && !self.suppress_envoy_headers
        {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(milliseconds));
        }
    }

    /// Sends the request, again if no host can have processed it, until a response begins or a deadline passes.
    async fn attempts(
        &self,
        cluster: &Rc<ClusterState>,
        route: &RouteRef,
        request: &mut Request,
        stream: &mut Stream,
    ) -> Result<Response, LocalReply> {
        loop {
            let Some(host) = cluster.choose_host() else {
                stream.info.upstream_cluster = Some(Arc::clone(&cluster.cluster().name));
                stream.capture_request(request);
                return Err(charged(cluster, LocalReply::no_healthy_upstream()));
            };
            stream.info.attempt_count += 1;
            stream.info.upstream = Some(Rc::clone(host.info()));
            route.finalize_host(request, &host.endpoint.hostname, self.originals());
            stream.capture_request(request);
            match attempt(cluster, &host, request, stream).await? {
                Ok(response) => return Ok(response),
                Err(UpstreamFailure { kind, unprocessed: true, .. })
                    if failure::is_race(kind) && stream.info.attempt_count < MAX_ATTEMPTS => {}
                Err(failure) => return Err(charged(cluster, failure::reply(failure, &mut stream.info))),
            }
        }
    }
}

/// A reply of ours for which the cluster is to blame counts as one of its responses.
fn charged(cluster: &ClusterState, reply: LocalReply) -> LocalReply {
    let cluster = cluster.cluster();
    cluster.stats.upstream_rq_completed.inc();
    cluster.response_codes.inc(reply.status.as_u16());
    reply
}

/// One attempt, unless a deadline of the stream passes first.
async fn attempt(
    cluster: &Rc<ClusterState>,
    host: &HostRef,
    request: &mut Request,
    stream: &mut Stream,
) -> Result<Result<Response, UpstreamFailure>, LocalReply> {
    let mut timing = UpstreamTiming::default();
    let outcome = tokio::select! {
        biased;
        sent = cluster.send(host, request, &mut timing) => Ok(sent),
        expired = stream.timer.expired() => Err(expired),
    };
    let info = &mut stream.info;
    let since_start = |at: Option<Instant>| at.map(|at| at - info.start);
    info.timing.first_upstream_tx = since_start(timing.first_byte_sent);
    info.timing.first_upstream_rx = since_start(timing.headers_received);
    match outcome {
        Ok(Ok(response)) => {
            info.upstream_protocol = Some(response.version());
            Ok(Ok(response))
        }
        Ok(Err(failure)) => Ok(Err(failure)),
        Err(Expired::Route) => {
            cluster.cluster().stats.upstream_rq_timeout.inc();
            host.stats.rq_timeout.inc();
            Err(charged(cluster, LocalReply::upstream_timeout()))
        }
        Err(Expired::Idle) => Err(LocalReply::stream_idle_timeout(stream.timer.is_request_complete())),
        Err(Expired::MaxDuration) => Err(LocalReply::max_duration_timeout()),
        Err(Expired::Request) => Err(LocalReply::request_timeout()),
    }
}

fn redirect_response(redirect: &Redirect, request: &Request) -> Result<Response, LocalReply> {
    let location = HeaderValue::from_str(&redirect.location(request))
        .map_err(|_| LocalReply::new(StatusCode::BAD_REQUEST, "path_normalization_failed"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
