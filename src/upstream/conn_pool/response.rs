//! A response's body on its way out of a pool: whoever reads it, or gives it up, frees the connection.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use super::{attempt::UpstreamAttempt, connect::ConnectError, places::overflow};
use crate::{
    http::body::{Body, BodyError},
    proto::core::RoutingPriority,
    upstream::{HostRef, Origin},
};

/// What a running request holds. Dropped, it ends the request as given up.
pub(super) trait Exchange: Unpin {
    /// The response has been read to its end.
    fn complete(self);
    /// The host ended the response early.
    fn fail(self, error: &BodyError);
    /// Whether trailers of the response are passed on.
    fn passes_trailers(&self) -> bool {
        true
    }
}

/// The body of a response, which its exchange outlives by nothing.
struct ResponseBody<E> {
    body: Body,
    exchange: Option<E>,
}

/// Ties an exchange to the body of its response.
pub(super) fn guarded<E: Exchange + 'static>(body: Body, exchange: E) -> Body {
    if body.is_end_stream() {
        exchange.complete();
        return Body::empty();
    }
    Body::boxed(ResponseBody { body, exchange: Some(exchange) })
}

impl<E: Exchange> http_body::Body for ResponseBody<E> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let is_trailers = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
        // Nothing comes after trailers.
        let going_on = matches!(&frame, Some(Ok(_))) && !is_trailers && !self.body.is_end_stream();
        if !going_on && let Some(exchange) = self.exchange.take() {
            let passed = !is_trailers || exchange.passes_trailers();
            match &frame {
                Some(Err(error)) => exchange.fail(error),
                Some(Ok(_)) | None => exchange.complete(),
            }
            if !passed {
                self.body = Body::empty();
                return Poll::Ready(None);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a request from when it is sent to when its response ends.
pub(super) struct ActiveRequest {
    host: HostRef,
    priority: RoutingPriority,
    origin: Origin,
    resets: Resets,
    started: Instant,
    /// It has ended otherwise than by being given up.
    ended: bool,
}

/// Whether the protocol has resets of single requests, to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resets {
    Counted,
    None,
}

impl ActiveRequest {
    /// One more request on a connection.
    ///
    /// # Errors
    /// If the circuit breaker of its priority is open.
    pub(super) fn begin(
        host: &HostRef,
        attempt: &UpstreamAttempt,
        resets: Resets,
    ) -> Result<ActiveRequest, ConnectError> {
        let &UpstreamAttempt { priority, origin, .. } = attempt;
        let requests = &host.cluster().circuit_breakers.of(priority).requests;
        if !requests.has_room() {
            return Err(overflow(&host.cluster().stats.upstream_rq_active_overflow));
        }
        requests.take();
        let stats = &host.cluster().stats;
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        host.stats.rq_total.inc();
        host.stats.rq_active.inc();
        Ok(ActiveRequest { host: host.clone(), priority, origin, resets, started: Instant::now(), ended: false })
    }

    /// When it was handed to the connection.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// A response has begun.
    pub(super) fn answered(&self, status: StatusCode) {
        if status.is_server_error() { self.host.stats.rq_error.inc() } else { self.host.stats.rq_success.inc() }
    }

    /// There will be no response.
    pub(super) fn unanswered(mut self, reset_by_host: bool) {
        self.ended = true;
        self.host.stats.rq_error.inc();
        if reset_by_host && self.resets == Resets::Counted {
            self.host.cluster().stats.upstream_rq_rx_reset.inc();
        }
    }
}

impl Exchange for ActiveRequest {
    fn complete(mut self) {
        self.ended = true;
        let (cluster, time) = (self.host.cluster(), self.started.elapsed());
        cluster.stats.upstream_rq_time.record_time(time);
        cluster.responses.record_time(time, self.origin);
    }

    fn fail(mut self, error: &BodyError) {
        self.ended = true;
        if matches!(error, BodyError::Reset(_)) && self.resets == Resets::Counted {
            self.host.cluster().stats.upstream_rq_rx_reset.inc();
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let stats = &self.host.cluster().stats;
        if !self.ended && self.resets == Resets::Counted {
            stats.upstream_rq_tx_reset.inc();
        }
        self.host.cluster().circuit_breakers.of(self.priority).requests.give_back();
        stats.upstream_rq_active.dec();
        self.host.stats.rq_active.dec();
    }
}
