//! The router filter, `envoy.filters.http.router`: the last of every chain, the one that answers.
//!
//! It turns the route into an answer: a redirect, a direct response, or the answer of a host. What is decided once for a request is
//! here (cluster, deadlines, headers); its attempts are in `upstream_request.rs`, and what may follow one in `retry.rs`. What fails
//! in the end becomes a [`LocalReply`] by the table in `failure.rs`.

mod failure;
mod hedge;
mod internal_redirect;
mod kept_body;
mod mirror;
mod orders;
mod response_time;
mod retry;
mod timeouts;
mod upstream_request;

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use http_body::Body as _;

use crate::{
    config::field::Field,
    filter::http::Stream,
    http::{Request, Response, body::Body, grpc, local_reply::LocalReply, upgrade::Upgrade},
    proto,
    route::{Action, Forward, InternalRedirectPolicy, Originals, Redirect, RouteRef},
    stats,
    upstream::{ClusterState, Origin},
};
use failure::OVERLOADED;
use kept_body::KeptBody;
use orders::{Orders, StrictHeader};
use retry::RetryState;
use timeouts::Timeouts;
use upstream_request::{ATTEMPT_COUNT, UpstreamRequest};

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
        /// Redirects not followed because they named no URL of HTTP.
        passthrough_internal_redirect_bad_location: Counter,
        /// Redirects not followed because they led from HTTP to HTTPS or back.
        passthrough_internal_redirect_unsafe_scheme: Counter,
        /// Redirects not followed because there had been enough.
        passthrough_internal_redirect_too_many_redirects: Counter,
        /// Redirects not followed because they led to no route.
        passthrough_internal_redirect_no_route: Counter,
        /// Redirects not followed because of where they led.
        passthrough_internal_redirect_predicate: Counter,
        /// Requests that came as far as the router.
        rq_total: Counter,
    }
}

/// A checked `Router`.
#[derive(Debug)]
pub struct Router {
    stats: RouterStats,
    suppress_envoy_headers: bool,
    respect_expected_rq_timeout: bool,
    strict_check_headers: Vec<StrictHeader>,
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
        field.ignored(
            "suppress_grpc_request_failure_code_stats",
            suppress_grpc_request_failure_code_stats,
            "gRPC failure codes are not counted yet",
        );
        field.unsupported("upstream_http_filters", upstream_http_filters);
        field.ignored(
            "reject_connect_request_early_data",
            reject_connect_request_early_data,
            "what a client sends before the answer to CONNECT is passed on",
        );
        Router {
            stats: RouterStats::new(scope),
            suppress_envoy_headers: *suppress_envoy_headers,
            respect_expected_rq_timeout: *respect_expected_rq_timeout,
            strict_check_headers: strict_check_headers.iter().filter_map(|name| StrictHeader::named(name)).collect(),
        }
    }

    /// The answer to a request: from a host, or our own.
    ///
    /// # Errors
    /// The reply that stands for the failure.
    pub async fn route(&self, request: &mut Request, stream: &mut Stream) -> Result<Response, LocalReply> {
        self.stats.rq_total.inc();
        let Some(route) = stream.route.clone() else {
            self.stats.no_route.inc();
            stream.capture_request(request);
            return Err(LocalReply::route_not_found());
        };
        match &route.action {
            Action::Redirect(redirect) => {
                self.stats.rq_direct_response.inc();
                stream.capture_request(request);
                stream.show_request(request);
                Err(finalized(redirect_reply(redirect, request, stream)?, &route, stream))
            }
            Action::DirectResponse(direct) => {
                self.stats.rq_direct_response.inc();
                stream.capture_request(request);
                stream.show_request(request);
                Err(finalized(direct.reply(request, &stream.info), &route, stream))
            }
            Action::NonForwarding => {
                self.stats.no_cluster.inc();
                stream.capture_request(request);
                Err(LocalReply::cluster_not_found(StatusCode::SERVICE_UNAVAILABLE))
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
                return Err(finalized(reply, route, stream));
            }
        };
        stream.cluster = Some(Rc::clone(&cluster));
        if let Some(wrong) = self.strict_check_headers.iter().find(|header| !header.is_right(request.headers())) {
            stream.info.upstream_cluster = Some(Arc::clone(&cluster.cluster().name));
            stream.capture_request(request);
            return Err(wrong.reply(request.headers()));
        }
        let origin = Origin::of(request.headers());
        let orders = Orders::take(request.headers_mut());
        let timeouts = self.set_timeouts(route, forward, &orders, request, stream);
        if route.attempt_headers().count_in_request {
            request.headers_mut().insert(ATTEMPT_COUNT, HeaderValue::from(1));
        }
        let counted_by = route.counted_by(request);
        let metadata_match = route.metadata_match(&stream.info);
        stream.info.virtual_cluster = counted_by.virtual_cluster.map(|counted| Arc::clone(counted.name()));
        route.finalize_request(request, &mut stream.info, &cluster.cluster().name, self.originals());
        let timeout_status =
            if orders.timeout_by_no_content { StatusCode::NO_CONTENT } else { StatusCode::GATEWAY_TIMEOUT };
        let retry = RetryState::new(route.retry_policy(), orders, request, &cluster, forward.priority);
        let redirects = forward.internal_redirect.as_ref();
        // An attempt that takes too long is not given up, and nothing follows it.
        let timeouts = if timeouts.is_hedged && retry.is_none() { timeouts.without_tries() } else { timeouts };
        if !route.mirror_policies().is_empty() {
            let abandoned = &cluster.cluster().stats.retry_or_shadow_abandoned;
            mirror::mirror(route, request, stream, timeouts.response, abandoned);
        }
        let keeps_head = retry.is_some() || redirects.is_some();
        let kept = if keeps_head { keep_body(request, route, &cluster) } else { None };
        let mut upstream = UpstreamRequest {
            cluster: &cluster,
            route,
            counted_by,
            originals: self.originals(),
            origin,
            priority: forward.priority,
            timeouts,
            timeout_status,
            is_hedged: timeouts.is_hedged && retry.is_some(),
            retry,
            metadata_match,
            keeps_head,
            kept,
        };
        let websocket = request.extensions().get::<Upgrade>().is_some_and(Upgrade::is_websocket);
        let answer = upstream.send(request, stream).await;
        if websocket && answer.as_ref().is_ok_and(is_handshake_unsuccessful) {
            let answer = self.respond(route, answer.map(without_body), stream);
            stream.info.response_code_details = "websocket_handshake_unsuccessful".into();
            return answer;
        }
        if let Ok(response) = &answer {
            if let Some(policy) = redirects.filter(|policy| policy.follows(response.status()))
                && self.redirect(policy, &upstream, request, response, stream)
            {
                return answer;
            }
            // As in Envoy, a health check is none of the cluster's answers.
            if !stream.info.is_health_check {
                upstream.count(response);
            }
            upstream.kept.as_ref().map(KeptBody::forget);
        }
        let answer = answer.map(|response| response_time::recorded(response, counted_by, stream.timer.request_end()));
        self.respond(route, answer, stream)
    }

    /// Whether the redirect is followed: by the request that stands in `stream` then.
    fn redirect(
        &self,
        policy: &InternalRedirectPolicy,
        upstream: &UpstreamRequest<'_>,
        sent: &Request,
        response: &Response,
        stream: &mut Stream,
    ) -> bool {
        let body = upstream.kept.as_ref().map_or_else(|| Some(Body::empty()), KeptBody::whole);
        // Only what has been read to its end can be sent again.
        if let Some(body) = body.filter(|_| stream.timer.is_request_complete()) {
            let next = internal_redirect::follow(policy, upstream.route, sent, response, stream, &self.stats);
            stream.redirected = next.map(|mut next| {
                if next.method() == sent.method() {
                    *next.body_mut() = body;
                }
                next
            });
        }
        let followed = stream.redirected.is_some();
        let stats = &upstream.cluster.cluster().stats;
        if followed {
            stats.upstream_internal_redirect_succeeded_total.inc();
        } else {
            stats.upstream_internal_redirect_failed_total.inc();
        }
        followed
    }

    /// The answer with the headers that the router and the route give it.
    fn respond(
        &self,
        route: &RouteRef,
        mut answer: Result<Response, LocalReply>,
        stream: &mut Stream,
    ) -> Result<Response, LocalReply> {
        if route.attempt_headers().count_in_response {
            let count = HeaderValue::from(stream.info.attempt_count);
            match &mut answer {
                Ok(response) => response.headers_mut().insert(ATTEMPT_COUNT, count),
                Err(reply) => reply.headers.insert(ATTEMPT_COUNT, count),
            };
        }
        let mut response = answer.map_err(|reply| finalized(self.without_envoy_headers(reply), route, stream))?;
        stream.info.response_code = Some(response.status().as_u16());
        // Of a response that came before the end of the request there is no time to tell.
        if let Some(end) = stream.timer.request_end()
            && !self.suppress_envoy_headers
        {
            let elapsed = u64::try_from(end.elapsed().as_millis()).unwrap_or(u64::MAX);
            response.headers_mut().insert(SERVICE_TIME, HeaderValue::from(elapsed));
        }
        stream.info.response_code_details = "via_upstream".into();
        route.finalize_response(response.headers_mut(), &stream.info);
        Ok(response)
    }

    fn without_envoy_headers(&self, mut reply: LocalReply) -> LocalReply {
        if self.suppress_envoy_headers {
            reply.headers.remove(OVERLOADED);
        }
        reply
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
        let cluster = route.cluster(request).and_then(|name| stream.worker.clusters.get(name));
        if !route.is_available() {
            stream.info.upstream_cluster = cluster.map(|cluster| Arc::clone(&cluster.cluster().name));
            return Err(LocalReply::no_healthy_upstream());
        }
        cluster.ok_or_else(|| {
            self.stats.no_cluster.inc();
            LocalReply::cluster_not_found(forward.cluster_not_found_status)
        })
    }

    /// The route's timeouts, or what the client asked for; the host is told of them.
    fn set_timeouts(
        &self,
        route: &RouteRef,
        forward: &Forward,
        orders: &Orders,
        request: &mut Request,
        stream: &Stream,
    ) -> Timeouts {
        let headers = request.headers_mut();
        let grpc_timeout = stream.is_grpc.then(|| grpc::timeout(headers));
        let respect = self.respect_expected_rq_timeout;
        let mut timeouts = Timeouts::of_request(forward, route.retry_policy(), orders, grpc_timeout, respect);
        timeouts.is_hedged = orders.hedge_on_per_try_timeout.unwrap_or_else(|| route.hedges_on_per_try_timeout());
        stream.timer.set_route_timeout(timeouts.response);
        if let Some(limits) = &forward.max_stream_duration
            && let Some(limit) = limits.limit(grpc_timeout.flatten())
        {
            stream.timer.set_max_duration((!limit.is_zero()).then_some(limit));
        }
        let by_envoy_header = !self.suppress_envoy_headers && !(respect && orders.expected_timeout.is_some());
        timeouts.tell(headers, Duration::ZERO, by_envoy_header);
        timeouts
    }
}

/// Whether a host that was asked for a WebSocket gave an answer that is neither one nor an error. There is no body to it then.
fn is_handshake_unsuccessful(response: &Response) -> bool {
    let status = response.status();
    response.version() != Version::HTTP_2 && status != StatusCode::SWITCHING_PROTOCOLS && status.as_u16() < 400
}

/// The head of a response alone.
fn without_body(response: Response) -> Response {
    let mut response = response.map(|_| Body::empty());
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response
}

/// Keeps the body of a request that may have to be sent again.
fn keep_body(request: &mut Request, route: &RouteRef, cluster: &ClusterState) -> Option<KeptBody> {
    if request.body().is_end_stream() {
        return None;
    }
    let body = std::mem::take(request.body_mut());
    Some(KeptBody::new(body, route.buffer_limit(), &cluster.cluster().stats.retry_or_shadow_abandoned))
}

fn redirect_reply(redirect: &Redirect, request: &Request, stream: &Stream) -> Result<LocalReply, LocalReply> {
    let location = HeaderValue::from_str(&redirect.location(request, &stream.info))
        .map_err(|_| LocalReply::new(StatusCode::BAD_REQUEST, "path_normalization_failed"))?;
    let mut reply = LocalReply::direct_response(redirect.status, Bytes::new());
    reply.headers.insert(header::LOCATION, location);
    Ok(reply)
}

/// A reply of ours with the headers that the route gives every response.
fn finalized(mut reply: LocalReply, route: &RouteRef, stream: &mut Stream) -> LocalReply {
    stream.info.response_code_details.clone_from(&reply.details);
    route.finalize_response(&mut reply.headers, &stream.info);
    reply
}
