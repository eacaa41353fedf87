//! A request on its way to the hosts of a cluster: attempt by attempt, until a response begins or nothing is left to try.

use std::{borrow::Cow, future::poll_fn, pin::pin, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::{Instant, sleep};

use super::{
    failure,
    kept_body::KeptBody,
    retry::{Loss, RetryState, Verdict},
    timeouts::Timeouts,
};
use crate::{
    filter::{
        http::Stream,
        timer::{Expired, StreamTimer, TryTimeouts},
    },
    http::{Request, Response, copy_head, local_reply::LocalReply},
    matcher::MetadataMatch,
    proto::core::RoutingPriority,
    route::{CountedBy, Originals, RouteRef},
    stream_info::ResponseFlags,
    upstream::{ClusterState, FailureKind, HostRef, LoadBalancerContext, Origin, UpstreamAttempt, UpstreamFailure},
};

/// How often a request is sent to hosts that turn out not to have processed it.
const MAX_RACES: u32 = 2;

pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const IS_TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");

/// A request, and all that decides about its attempts.
pub(super) struct UpstreamRequest<'a> {
    pub cluster: &'a Rc<ClusterState>,
    pub route: &'a RouteRef,
    /// What counts the request beside the cluster.
    pub counted_by: CountedBy<'a>,
    pub originals: Originals,
    pub priority: RoutingPriority,
    pub origin: Origin,
    pub timeouts: Timeouts,
    /// The status that tells of a timeout.
    pub timeout_status: StatusCode,
    /// What may follow a failed attempt; `None` if nothing asks for that.
    pub retry: Option<RetryState<'a>>,
    /// What labels the hosts must have.
    pub metadata_match: Option<Cow<'a, MetadataMatch>>,
    /// The body, if it may be needed again.
    pub kept: Option<KeptBody>,
    /// Whether an attempt that takes too long goes on beside the next one.
    pub is_hedged: bool,
    /// Whether the head of the request may be needed again.
    pub keeps_head: bool,
}

/// What an attempt brought.
pub(super) enum Outcome {
    Response(Response),
    Failure {
        failure: UpstreamFailure,
        sent: bool,
    },
    /// One of the deadlines of the attempt passed.
    TimedOut(Expired),
}

impl<'a> UpstreamRequest<'a> {
    /// Sends the request, again where that is due, until a response begins or a deadline passes.
    pub(super) async fn send(&mut self, request: &mut Request, stream: &mut Stream) -> Result<Response, LocalReply> {
        if self.is_hedged {
            // Boxed, so that other requests do not carry its state.
            return Box::pin(self.send_hedged(request, stream)).await;
        }
        let mut races = 0;
        loop {
            let host = self.start(request, stream)?;
            let mut copy;
            let sent = if self.keeps_head {
                copy = self.copy(request);
                &mut copy
            } else {
                &mut *request
            };
            self.finalize_host(&host, sent, stream);
            let outcome = self.attempt(&host, sent, stream).await?;
            let race = matches!(&outcome, Outcome::Failure { failure, .. }
                if failure.unprocessed && failure::is_race(failure.kind))
                && races < MAX_RACES;
            let is_timeout = matches!(outcome, Outcome::TimedOut(_));
            match self.judge(&outcome, stream) {
                Verdict::Again(wait) => {
                    self.count_retried(&outcome, &host);
                    drop(outcome);
                    self.wait(wait, stream).await?;
                    self.prepare_retry(request, stream, is_timeout);
                }
                _ if race => races += 1,
                _ => return self.finish(outcome, stream),
            }
        }
    }

    /// The host of another attempt.
    pub(super) fn start(&mut self, request: &Request, stream: &mut Stream) -> Result<HostRef, LocalReply> {
        stream.info.attempt_count += 1;
        let Some(host) = self.choose_host() else {
            stream.info.upstream_cluster = Some(Arc::clone(&self.cluster.cluster().name));
            stream.capture_request(request);
            return Err(self.charge(LocalReply::no_healthy_upstream()));
        };
        self.counted_by.each().for_each(|counted| counted.stats.upstream_rq_total.inc());
        stream.info.upstream = Some(Rc::clone(host.info()));
        Ok(host)
    }

    /// The request for one attempt; what it was made of stays for another one.
    pub(super) fn copy(&self, request: &mut Request) -> Request {
        let mut copy = copy_head(request);
        *copy.body_mut() = match &self.kept {
            Some(kept) => kept.read(),
            None => std::mem::take(request.body_mut()),
        };
        copy
    }

    /// What is changed in a request once its host is known.
    pub(super) fn finalize_host(&self, host: &HostRef, request: &mut Request, stream: &mut Stream) {
        self.route.finalize_host(request, &host.endpoint.hostname, self.originals);
        stream.capture_request(request);
    }

    fn choose_host(&mut self) -> Option<HostRef> {
        let context =
            LoadBalancerContext { metadata_match: self.metadata_match.as_deref(), ..LoadBalancerContext::default() };
        match &mut self.retry {
            Some(retry) => retry.choose_host(&context),
            None => self.cluster.choose_host(&context),
        }
    }

    /// One attempt, unless a deadline of the stream passes first.
    async fn attempt(&self, host: &HostRef, request: &mut Request, stream: &mut Stream) -> Result<Outcome, LocalReply> {
        let client = stream.tells_client.then(|| Rc::clone(&stream.info.connection));
        let attempt =
            UpstreamAttempt { priority: self.priority, origin: self.origin, client, ..UpstreamAttempt::default() };
        let begun = Instant::now();
        let deadlines = self.timeouts.of_attempt(self.cluster.cluster());
        if !deadlines.is_empty() {
            stream.timer.begin_attempt(deadlines);
        }
        let outcome = tokio::select! {
            biased;
            sent = self.cluster.send(host, request, &attempt) => Ok(sent),
            expired = expired(&stream.timer, &attempt) => Err(expired),
        };
        if !matches!(outcome, Ok(Ok(_))) && !deadlines.is_empty() {
            stream.timer.begin_attempt(TryTimeouts::default());
        }
        note_timing(&attempt, begun, stream);
        match outcome {
            Ok(Ok(response)) => Ok(Outcome::Response(response)),
            Ok(Err(failure)) => Ok(Outcome::Failure { failure, sent: attempt.first_byte_sent.get().is_some() }),
            Err(expired) => self.expire(expired, host, stream),
        }
    }

    /// What a deadline that has passed ends: the attempt or the request.
    pub(super) fn expire(&self, expired: Expired, host: &HostRef, stream: &Stream) -> Result<Outcome, LocalReply> {
        let stats = &self.cluster.cluster().stats;
        match expired {
            Expired::Route => {
                stats.upstream_rq_timeout.inc();
                host.stats.rq_timeout.inc();
                self.counted_by.each().for_each(|counted| counted.stats.upstream_rq_timeout.inc());
                Err(self.charge(self.timeout_reply(expired, stream)))
            }
            Expired::Idle | Expired::MaxDuration | Expired::Request => Err(self.timeout_reply(expired, stream)),
            Expired::Try => {
                stats.upstream_rq_per_try_timeout.inc();
                host.stats.rq_timeout.inc();
                Ok(Outcome::TimedOut(expired))
            }
            Expired::TryIdle => {
                stats.upstream_rq_per_try_idle_timeout.inc();
                host.stats.rq_timeout.inc();
                Ok(Outcome::TimedOut(expired))
            }
            Expired::TryDuration => {
                stats.upstream_rq_max_duration_reached.inc();
                Ok(Outcome::TimedOut(expired))
            }
        }
    }

    /// What becomes of the request after an attempt.
    pub(super) fn judge(&mut self, outcome: &Outcome, stream: &mut Stream) -> Verdict {
        let Some(retry) = self.usable_retry() else { return Verdict::Final };
        let random = &stream.worker.random;
        let verdict = match outcome {
            Outcome::Response(response) => retry.after_response(response, random),
            Outcome::Failure { failure, sent } => {
                retry.after_loss(Loss::Failed { kind: failure.kind, sent: *sent }, random)
            }
            Outcome::TimedOut(_) => retry.after_loss(Loss::TimedOut, random),
        };
        self.note_verdict(verdict, stream);
        verdict
    }

    /// What becomes of it while an attempt takes too long.
    pub(super) fn judge_slow(&mut self, stream: &mut Stream) -> Verdict {
        let Some(retry) = self.usable_retry() else { return Verdict::Final };
        let verdict = retry.while_slow(&stream.worker.random);
        self.note_verdict(verdict, stream);
        verdict
    }

    /// The verdict on an attempt after which there will be no other, whatever it brought.
    pub(super) fn would_judge(&mut self, outcome: &Outcome) -> Verdict {
        let is_bad = match outcome {
            Outcome::Response(response) => self.usable_retry().is_some_and(|retry| retry.is_due_after(response)),
            Outcome::Failure { .. } | Outcome::TimedOut(_) => true,
        };
        if is_bad { Verdict::LimitExceeded } else { Verdict::Final }
    }

    /// What may follow, as long as the request can be sent again.
    fn usable_retry(&mut self) -> Option<&mut RetryState<'a>> {
        if self.kept.as_ref().is_some_and(|kept| !kept.is_whole()) {
            self.retry = None;
        }
        self.retry.as_mut()
    }

    fn note_verdict(&self, verdict: Verdict, stream: &mut Stream) {
        for counted in self.counted_by.each() {
            match verdict {
                Verdict::Again(_) => counted.stats.upstream_rq_retry.inc(),
                Verdict::LimitExceeded => counted.stats.upstream_rq_retry_limit_exceeded.inc(),
                Verdict::Overflow => counted.stats.upstream_rq_retry_overflow.inc(),
                Verdict::Final => {}
            }
        }
        match verdict {
            Verdict::LimitExceeded => stream.info.flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED),
            Verdict::Overflow => stream.info.flags.set(ResponseFlags::UPSTREAM_OVERFLOW),
            Verdict::Again(_) | Verdict::Final => {}
        }
    }

    pub(super) fn count_retried(&self, outcome: &Outcome, host: &HostRef) {
        if let Outcome::Response(response) = outcome {
            self.cluster.cluster().responses.count_retried(response.status().as_u16());
            if !response.status().is_server_error() {
                host.stats.rq_error.inc();
            }
        }
    }

    async fn wait(&self, time: Duration, stream: &Stream) -> Result<(), LocalReply> {
        let expired = tokio::select! {
            () = sleep(time) => return Ok(()),
            expired = stream.timer.expired() => expired,
        };
        Err(self.timeout_reply(expired, stream))
    }

    /// The answer when a deadline of the whole request has passed.
    pub(super) fn timeout_reply(&self, expired: Expired, stream: &Stream) -> LocalReply {
        match expired {
            Expired::Idle => LocalReply::stream_idle_timeout(stream.timer.is_request_complete()),
            Expired::MaxDuration => LocalReply::max_duration_timeout(stream.timer.is_request_complete()),
            Expired::Request => LocalReply::request_timeout(),
            _ => LocalReply::upstream_timeout(self.timeout_status, "response_timeout"),
        }
    }

    /// Tells the host of the next attempt that it is not the first, and how much time is left.
    pub(super) fn prepare_retry(&self, request: &mut Request, stream: &Stream, after_timeout: bool) {
        let told = self.route.attempt_headers();
        let headers = request.headers_mut();
        if told.count_in_request {
            headers.insert(ATTEMPT_COUNT, HeaderValue::from(stream.info.attempt_count + 1));
        }
        if told.timeout_retry {
            let value = if after_timeout { "true" } else { "false" };
            headers.insert(IS_TIMEOUT_RETRY, HeaderValue::from_static(value));
        }
        let elapsed = stream.timer.request_end().map(|end| end.elapsed()).unwrap_or_default();
        self.timeouts.tell(headers, elapsed, self.originals == Originals::Told);
    }

    /// What the last attempt brought, as the answer.
    pub(super) fn finish(&mut self, outcome: Outcome, stream: &mut Stream) -> Result<Response, LocalReply> {
        let retried = stream.info.attempt_count > 1 && self.retry.is_some();
        match outcome {
            Outcome::Response(response) => {
                stream.info.upstream_protocol = Some(response.version());
                stream.timer.settle_attempt();
                Ok(response)
            }
            // The client is to blame, not the cluster.
            Outcome::Failure { failure, .. } if failure.kind == FailureKind::RequestBody => {
                Err(failure::reply(failure, retried, &mut stream.info))
            }
            Outcome::Failure { failure, .. } => Err(self.charge(failure::reply(failure, retried, &mut stream.info))),
            Outcome::TimedOut(Expired::TryDuration) => {
                Err(LocalReply::upstream_max_duration(stream.timer.is_request_complete()))
            }
            Outcome::TimedOut(Expired::TryIdle) => {
                Err(self.charge(LocalReply::upstream_timeout(self.timeout_status, "upstream_per_try_idle_timeout")))
            }
            Outcome::TimedOut(_) => {
                Err(self.charge(LocalReply::upstream_timeout(self.timeout_status, "upstream_per_try_timeout")))
            }
        }
    }

    /// Counts the response as the answer.
    pub(super) fn count(&self, response: &Response) {
        self.cluster.cluster().responses.count(response.status().as_u16(), self.origin, response.headers());
        self.counted_by.each().for_each(|counted| counted.answered(response.status()));
    }

    /// A reply of ours for which the cluster is to blame counts as one of its responses.
    pub(super) fn charge(&self, reply: LocalReply) -> LocalReply {
        let cluster = self.cluster.cluster();
        cluster.responses.count_own(reply.status.as_u16(), self.origin);
        self.counted_by.each().for_each(|counted| counted.answered(reply.status));
        reply
    }
}

/// Writes down when what happened in an attempt that begun then, and on which connection.
pub(super) fn note_timing(attempt: &UpstreamAttempt, begun: Instant, stream: &mut Stream) {
    let info = &mut stream.info;
    let since_start = |at: Option<Instant>| at.map(|at| at - info.start);
    info.timing.connect_begin = since_start(attempt.connect_started.get());
    info.timing.connect_end = since_start(attempt.connected.get());
    info.timing.pool_ready = attempt.first_byte_sent.get().map(|at| at - begun);
    info.upstream_connection = attempt.connection.take();
    info.timing.first_upstream_tx = since_start(attempt.first_byte_sent.get());
    info.timing.first_upstream_rx = since_start(attempt.headers_received.get());
}

/// The deadline that passes first; those of the attempt run from when it has been sent.
async fn expired(timer: &StreamTimer, attempt: &UpstreamAttempt) -> Expired {
    let mut sleep = pin!(timer.sleep());
    poll_fn(|cx| {
        if let Some(at) = attempt.first_byte_sent.get() {
            timer.start_attempt(at);
        }
        timer.poll_expired(sleep.as_mut(), cx)
    })
    .await
}
