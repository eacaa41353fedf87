//! A request in progress and how it ends: the bodies are watched, and whatever happens, the end is counted and logged once.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::connection::Connection;
use crate::{
    filter::{
        http::Stream,
        timer::{Expired, StreamTimer},
    },
    http::{
        Refused, Request, Response,
        body::{Body, BodyError, TimedBody},
        grpc, headers,
        http1::Refusal,
        local_reply::LocalReply,
    },
    stats,
    stream_info::{HeaderCapture, LogType, ResponseFlags, StreamInfo},
};

/// A request in progress. Dropped before its response is complete, it was given up by the client.
pub(super) struct Exchange {
    pub(super) stream: Box<Stream>,
    connection: Rc<Connection>,
    request: Option<Rc<RequestMeter>>,
    request_id: Option<HeaderValue>,
    upgraded: Option<stats::Held>,
    complete: bool,
    /// We broke it off.
    failed: bool,
    /// The connection ends with this response.
    close: bool,
}

/// What is read of a request's body, shared with the body itself.
#[derive(Default)]
struct RequestMeter {
    bytes: Cell<u64>,
    end: Cell<Option<Instant>>,
    /// What was wrong with it: the reason of whatever became of the request.
    refusal: Cell<Option<Refusal>>,
}

impl Exchange {
    /// Counts the request and puts a watch on its body.
    pub(super) fn begin(connection: Rc<Connection>, request: &mut Request) -> Exchange {
        let mut exchange = Exchange::new(connection, request);
        exchange.watch_request(request);
        exchange
    }

    /// Counts what turned out to be no request: it has no method, and no end.
    pub(super) fn begin_refused(connection: Rc<Connection>) -> Exchange {
        let mut exchange = Exchange::new(connection, &Request::default());
        exchange.stream.info.method = None;
        exchange
    }

    fn new(connection: Rc<Connection>, request: &Request) -> Exchange {
        let manager = &connection.manager;
        let stats = &manager.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        if request.version() == Version::HTTP_2 {
            stats.downstream_rq_http2_total.inc();
        } else {
            stats.downstream_rq_http1_total.inc();
        }
        connection.begin_stream();
        let mut info = StreamInfo::begin(Rc::clone(&connection.info), request.version(), request.method().clone());
        info.scheme = if connection.info.tls.is_some() { "https" } else { "http" };
        let timer = Rc::new(StreamTimer::new(info.start));
        timer.set_idle_timeout(manager.timeouts.stream_idle);
        timer.set_max_duration(manager.timeouts.stream_duration);
        timer.set_request_timeout(manager.timeouts.request);
        let is_grpc = grpc::is_grpc(request.headers());
        info.is_grpc = is_grpc;
        let stream = Stream {
            info,
            route: None,
            worker: Rc::clone(&connection.worker),
            timer,
            is_grpc,
            cluster: None,
            capture: connection.capture.clone(),
            redirects: None,
            redirected: None,
            tells_client: manager.tells_client || connection.info.proxy_protocol.is_some(),
        };
        Exchange {
            stream: Box::new(stream),
            connection,
            request: None,
            request_id: None,
            upgraded: None,
            complete: false,
            failed: false,
            close: false,
        }
    }

    fn watch_request(&mut self, request: &mut Request) {
        if request.body().is_end_stream() {
            self.stream.timer.end_request(self.stream.info.start);
            self.stream.info.timing.last_downstream_rx = Some(std::time::Duration::ZERO);
            return;
        }
        let meter = Rc::new(RequestMeter::default());
        self.request = Some(Rc::clone(&meter));
        let timer = Rc::clone(&self.stream.timer);
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::boxed(RequestBody { body, meter, timer });
    }

    pub(super) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Keeps the `x-request-id` where the response is to carry it as well.
    pub(super) fn keep_request_id(&mut self, request: &Request) {
        self.request_id = headers::response_request_id(request.headers(), &self.connection.manager.headers);
    }

    /// What `keep_request_id` kept.
    pub(super) fn take_request_id(&mut self) -> Option<HeaderValue> {
        self.request_id.take()
    }

    /// The stream becomes a WebSocket or another upgrade.
    pub(super) fn upgrade(&mut self) {
        let stats = &self.connection.manager.stats;
        stats.downstream_cx_upgrades_total.inc();
        self.upgraded = Some(stats.downstream_cx_upgrades_active.hold());
    }

    /// A reply of our own, as a response for this client.
    pub(super) fn local_reply(&mut self, mut reply: LocalReply) -> Response {
        if let Some(refusal) = self.request.as_ref().and_then(|request| request.refusal.get()) {
            reply = refusal.into_reply();
        }
        let stats = &self.connection.manager.stats;
        match &*reply.details {
            "stream_idle_timeout" => stats.downstream_rq_idle_timeout.inc(),
            "max_duration_timeout" => stats.downstream_rq_max_duration_reached.inc(),
            "request_overall_timeout" => stats.downstream_rq_timeout.inc(),
            _ => {}
        }
        let manager = &self.connection.manager;
        let info = &mut self.stream.info;
        info.flags.set(reply.flags);
        info.response_code_details.clone_from(&reply.details);
        // What a client says after a message that we did not understand may be the rest of that message.
        let misunderstood = reply.status == StatusCode::BAD_REQUEST && !manager.keeps_after_error;
        self.close = reply.close || misunderstood && info.protocol != Some(Version::HTTP_2);
        manager.local_replies.rewrite(&mut reply, info, &self.connection.worker.runtime());
        reply.into_response(self.stream.is_grpc)
    }

    /// The response, of this status, is a redirect that the request `next` follows. As in Envoy it has its line in the logs, and
    /// `next` counts as a request.
    pub(super) fn follow_redirect(&mut self, status: StatusCode, next: &Request) {
        self.stream.capture_request(next);
        let info = &mut self.stream.info;
        info.response_code = Some(status.as_u16());
        info.response_code_details = "internal_redirect".into();
        info.timing.end = Some(info.start.elapsed());
        self.log();
        let (stats, info) = (&self.connection.manager.stats, &mut self.stream.info);
        stats.downstream_rq_total.inc();
        if info.protocol == Some(Version::HTTP_2) {
            stats.downstream_rq_http2_total.inc();
        } else {
            stats.downstream_rq_http1_total.inc();
        }
        info.response_code = None;
        info.response_code_details = "".into();
        info.flags = ResponseFlags::NONE;
        info.attempt_count = 0;
        info.upstream = None;
        info.upstream_cluster = None;
        info.upstream_connection = None;
    }

    /// An entry besides that of the end.
    pub(super) fn log_also(&mut self, log_type: LogType) {
        self.stream.info.log_type = log_type;
        self.log();
        self.stream.info.log_type = LogType::DownstreamEnd;
    }

    fn log(&self) {
        let worker = &self.connection.worker;
        for log in &self.connection.manager.access_logs {
            log.log(&self.stream.info, &worker.runtime(), &worker.access_logs);
        }
    }

    /// The stream was to become an upgrade, and did not.
    pub(super) fn refuse_upgrade(&mut self) {
        self.upgraded = None;
    }

    /// Whether the stream became a tunnel.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.is_some()
    }

    /// Whether the connection ends with this response: also one that comes before the end of its request, the rest of which nobody
    /// would read.
    pub(super) fn is_last(&mut self) -> bool {
        let early = self.upgraded.is_none() && !self.stream.timer.is_request_complete();
        self.close |= early && self.stream.info.protocol != Some(Version::HTTP_2);
        self.close
    }

    /// Puts a watch on the response's body, which ends the exchange.
    pub(super) fn watch_response(mut self, response: Response) -> Response {
        let info = &mut self.stream.info;
        if Refused::is_in(&response) {
            self.connection.retire();
            if info.protocol == Some(Version::HTTP_2) {
                // A stream that is reset has no response: this is the end of the exchange.
                return response;
            }
        }
        info.response_code = Some(response.status().as_u16());
        if !info.is_health_check {
            for responses in &self.connection.manager.responses {
                responses.count(response.status());
            }
        }
        if !self.stream.timer.is_request_complete() {
            self.connection.manager.stats.downstream_rq_response_before_rq_complete.inc();
        }
        info.timing.first_downstream_tx = Some(info.start.elapsed());
        if let Some(capture) = &self.connection.capture {
            info.response_headers = HeaderCapture::take(&capture.response, response.headers());
            if capture.sizes {
                let status = response.status();
                info.response_headers_bytes = HeaderCapture::size(response.headers(), &[(":status", status.as_str())]);
            }
        }
        info.grpc_status = info.grpc_status.or_else(|| grpc::status(response.headers()));
        if response.body().is_end_stream() {
            self.complete = true;
            return response;
        }
        response.map(|body| Body::timed(ResponseBody { body, exchange: self, sleep: None }))
    }

    /// The response ended before its end by what its body reports.
    fn fail(&mut self, error: &BodyError) {
        let info = &mut self.stream.info;
        let (flag, details) = match error {
            BodyError::Reset(_) => (ResponseFlags::UPSTREAM_REMOTE_RESET, "remote_reset"),
            BodyError::Disconnect => (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, "connection_termination"),
            BodyError::Protocol(_) => (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "protocol_error"),
            // Only requests are refused, and a response is none.
            BodyError::Timeout | BodyError::Refused(_) => return,
        };
        self.failed = true;
        info.flags.set(flag);
        info.response_code_details = format!("upstream_reset_after_response_started{{{details}}}").into();
    }

    /// The response ended before its end by a deadline.
    fn expire(&mut self, expired: Expired) {
        let stats = &self.connection.manager.stats;
        let info = &mut self.stream.info;
        let (flag, details) = match expired {
            Expired::Route => {
                if let Some(cluster) = &self.stream.cluster {
                    cluster.cluster().stats.upstream_rq_timeout.inc();
                }
                (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout")
            }
            Expired::Try | Expired::TryIdle => {
                if let Some(cluster) = &self.stream.cluster {
                    cluster.cluster().stats.upstream_rq_per_try_idle_timeout.inc();
                }
                (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "upstream_per_try_idle_timeout")
            }
            Expired::TryDuration => {
                if let Some(cluster) = &self.stream.cluster {
                    cluster.cluster().stats.upstream_rq_max_duration_reached.inc();
                }
                (ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED, "upstream_max_stream_duration_reached")
            }
            Expired::Idle => {
                stats.downstream_rq_idle_timeout.inc();
                (ResponseFlags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout")
            }
            Expired::MaxDuration => {
                stats.downstream_rq_max_duration_reached.inc();
                (ResponseFlags::NONE, "max_duration_timeout")
            }
            Expired::Request => {
                stats.downstream_rq_timeout.inc();
                (ResponseFlags::NONE, "request_overall_timeout")
            }
        };
        self.failed = true;
        info.flags.set(flag);
        info.response_code_details = details.into();
    }

    /// Counters and logs: the one end of every request.
    fn finish(&mut self) {
        // An HTTP/1 client that does not read is found by its connection, which then drops the response.
        if !self.complete
            && !self.failed
            && self.stream.info.flags.is_empty()
            && let Some(expired) = self.stream.timer.overdue()
        {
            self.expire(expired);
        }
        let manager = &self.connection.manager;
        let stats = &manager.stats;
        let info = &mut self.stream.info;
        info.timing.end = Some(info.start.elapsed());
        if let Some(request) = &self.request {
            info.bytes_received = request.bytes.get();
            info.timing.last_downstream_rx = request.end.get().map(|end| end - info.start);
        }
        // An HTTP/1 client ends a tunnel by hanging up.
        let hung_up = self.upgraded.is_some()
            && info.protocol != Some(Version::HTTP_2)
            && self.complete
            && self.stream.timer.is_request_complete();
        if !self.complete || !self.stream.timer.is_request_complete() || hung_up {
            stats.downstream_rq_rx_reset.inc();
        }
        if hung_up {
            self.connection.leave_active();
            info.flags.set(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            info.response_code_details = "downstream_remote_disconnect".into();
        } else if !self.complete && !self.failed && info.flags.is_empty() {
            let reset = info.protocol == Some(Version::HTTP_2) && !self.connection.is_closed();
            let (flag, details) = if let Some(flood) = self.connection.flood() {
                (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, flood.details())
            } else if reset {
                (ResponseFlags::DOWNSTREAM_REMOTE_RESET, "http2.remote_reset")
            } else {
                (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect")
            };
            info.flags.set(flag);
            info.response_code_details = details.into();
        } else if !self.complete {
            stats.downstream_rq_tx_reset.inc();
        }
        stats.downstream_rq_active.dec();
        stats.downstream_rq_time.record_time(info.timing.end.unwrap_or_default());
        self.log();
        let premature = !self.complete
            && self.stream.info.response_code.is_none()
            && self.stream.info.start.elapsed().as_secs() <= self.connection.premature_reset_seconds();
        self.connection.end_stream(premature);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The request's body on its way upstream.
struct RequestBody {
    body: Body,
    meter: Rc<RequestMeter>,
    timer: Rc<StreamTimer>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            let now = Instant::now();
            self.timer.touch(now);
            if let Some(Ok(frame)) = frame {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.meter.bytes.set(self.meter.bytes.get() + length);
            }
            if let Some(Err(BodyError::Refused(refusal))) = frame {
                self.meter.refusal.set(Some(*refusal));
            }
            if frame.is_none() || self.body.is_end_stream() {
                self.meter.end.set(Some(now));
                self.timer.end_request(now);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The response's body on its way downstream; it owns the exchange, so that the end of one is the end of the other.
struct ResponseBody {
    body: Body,
    exchange: Exchange,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    fn see(&mut self, frame: &Frame<Bytes>) {
        let stream = &mut self.exchange.stream;
        let now = Instant::now();
        stream.timer.touch(now);
        if let Some(data) = frame.data_ref() {
            stream.info.bytes_sent += data.len() as u64;
        }
        if let Some(trailers) = frame.trailers_ref() {
            stream.info.grpc_status = grpc::status(trailers).or(stream.info.grpc_status);
            if let Some(capture) = &self.exchange.connection.capture {
                stream.info.response_trailers = HeaderCapture::take(&capture.trailers, trailers);
                if capture.sizes {
                    stream.info.response_trailers_bytes = HeaderCapture::size(trailers, &[]);
                }
            }
        }
        if frame.is_trailers() || self.body.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        let info = &mut self.exchange.stream.info;
        info.timing.last_upstream_rx = Some(info.start.elapsed());
        self.exchange.complete = true;
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.see(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.exchange.fail(&error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_expired(cx).map(|error| Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl TimedBody for ResponseBody {
    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BodyError> {
        let this = &mut *self;
        let timer = &this.exchange.stream.timer;
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(timer.sleep()));
        timer.poll_expired(sleep.as_mut(), cx).map(|expired| {
            this.exchange.expire(expired);
            BodyError::Timeout
        })
    }
}
