//! Attempts side by side (`hedge_on_per_try_timeout`): an attempt that takes too long is not given up but followed by another one, and
//! the first good response is the answer.
//!
//! An attempt that has been followed calls for no further one. A bad response, or none, is the answer only when nothing else is left
//! that may bring a better one.

use std::{future::poll_fn, pin::Pin, pin::pin, rc::Rc, task::Poll, time::Duration};

use tokio::time::{Instant, Sleep, sleep};

use super::{
    failure,
    retry::Verdict,
    upstream_request::{Outcome, UpstreamRequest, note_timing},
};
use crate::{
    filter::{
        http::Stream,
        timer::{Expired, StreamTimer, TryTimeouts},
    },
    http::{Request, Response, local_reply::LocalReply},
    upstream::{HostRef, UpstreamAttempt, UpstreamFailure},
};

/// One of several attempts.
struct Running {
    host: HostRef,
    attempt: Rc<UpstreamAttempt>,
    begun: Instant,
    sending: Pin<Box<dyn Future<Output = Result<Response, UpstreamFailure>>>>,
    /// It has taken too long.
    is_slow: bool,
    /// Another one has been asked for since.
    followed: bool,
}

/// The attempts at one request.
struct Attempts {
    running: Vec<Running>,
    /// Until the next one begins, where one is due.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Until the first one that is not slow yet takes too long.
    slow: Pin<Box<Sleep>>,
    deadlines: TryTimeouts,
}

/// What happens next.
enum Event {
    Ended(Running, Result<Response, UpstreamFailure>),
    /// An attempt takes too long, by its place.
    Slow(usize),
    /// The wait for another attempt is over.
    Due,
    Expired(Expired),
}

impl UpstreamRequest<'_> {
    /// Sends the request, again where that is due or where an attempt takes too long, until there is an answer.
    pub(super) async fn send_hedged(
        &mut self,
        request: &mut Request,
        stream: &mut Stream,
    ) -> Result<Response, LocalReply> {
        let mut attempts = Attempts {
            running: vec![self.run(request, stream)?],
            waiting: None,
            slow: Box::pin(sleep(Duration::MAX)),
            deadlines: self.timeouts.of_attempt(self.cluster.cluster()),
        };
        loop {
            match attempts.next(&stream.timer).await {
                Event::Ended(ended, outcome) => {
                    if let Some(answer) = self.ended(ended, outcome, &mut attempts, stream) {
                        return answer;
                    }
                }
                Event::Slow(place) => {
                    attempts.running[place].is_slow = true;
                    if let Verdict::Again(wait) = self.judge_slow(stream) {
                        attempts.running[place].followed = true;
                        attempts.waiting = Some(Box::pin(sleep(wait)));
                    }
                }
                Event::Due => {
                    attempts.waiting = None;
                    let after_timeout = attempts.running.last().is_some_and(|attempt| attempt.followed);
                    self.prepare_retry(request, stream, after_timeout);
                    match self.run(request, stream) {
                        Ok(next) => attempts.running.push(next),
                        Err(reply) if attempts.running.is_empty() => return Err(reply),
                        Err(_) => {}
                    }
                }
                Event::Expired(expired) => {
                    let mut outcome = Err(self.timeout_reply(expired, stream));
                    for attempt in &attempts.running {
                        outcome = self.expire(expired, &attempt.host, stream);
                    }
                    return self.finish(outcome?, stream);
                }
            }
        }
    }

    fn run(&mut self, request: &mut Request, stream: &mut Stream) -> Result<Running, LocalReply> {
        let host = self.start(request, stream)?;
        let mut copy = self.copy(request);
        self.finalize_host(&host, &mut copy, stream);
        let client = stream.tells_client.then(|| Rc::clone(&stream.info.connection));
        let attempt =
            UpstreamAttempt { priority: self.priority, origin: self.origin, client, ..UpstreamAttempt::default() };
        let attempt = Rc::new(attempt);
        let (cluster, to, told) = (Rc::clone(self.cluster), host.clone(), Rc::clone(&attempt));
        let sending = Box::pin(async move { cluster.send(&to, &mut copy, &told).await });
        Ok(Running { host, attempt, begun: Instant::now(), sending, is_slow: false, followed: false })
    }

    /// What becomes of the request after an attempt; None if it goes on.
    fn ended(
        &mut self,
        ended: Running,
        outcome: Result<Response, UpstreamFailure>,
        attempts: &mut Attempts,
        stream: &mut Stream,
    ) -> Option<Result<Response, LocalReply>> {
        let sent = ended.attempt.first_byte_sent.get();
        let outcome = match outcome {
            Ok(response) => Outcome::Response(response),
            Err(failure) => Outcome::Failure { failure, sent: sent.is_some() },
        };
        let verdict = if ended.followed { self.would_judge(&outcome) } else { self.judge(&outcome, stream) };
        if let Verdict::Again(wait) = verdict {
            self.count_retried(&outcome, &ended.host);
            attempts.waiting = Some(Box::pin(sleep(wait)));
            return None;
        }
        let is_good = matches!(&outcome, Outcome::Response(_)) && verdict == Verdict::Final;
        if !is_good && (!attempts.running.is_empty() || attempts.waiting.is_some()) {
            match outcome {
                Outcome::Failure { failure, .. } => drop(self.charge(failure::reply(failure, true, &mut stream.info))),
                Outcome::Response(_) | Outcome::TimedOut(_) => ended.host.stats.rq_error.inc(),
            }
            return None;
        }
        note_timing(&ended.attempt, ended.begun, stream);
        stream.info.upstream = Some(Rc::clone(ended.host.info()));
        stream.timer.begin_attempt(TryTimeouts { response: None, ..attempts.deadlines });
        if let Some(sent) = sent {
            stream.timer.start_attempt(sent);
        }
        Some(self.finish(outcome, stream))
    }
}

impl Attempts {
    async fn next(&mut self, timer: &StreamTimer) -> Event {
        let mut expired = pin!(timer.expired());
        poll_fn(|cx| {
            for place in 0..self.running.len() {
                if let Poll::Ready(outcome) = self.running[place].sending.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(self.running.remove(place), outcome));
                }
            }
            if let Some(waiting) = &mut self.waiting
                && waiting.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Event::Due);
            }
            if let Some((at, place)) = self.first_slow(timer) {
                if self.slow.deadline() != at {
                    self.slow.as_mut().reset(at);
                }
                if self.slow.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Slow(place));
                }
            }
            expired.as_mut().poll(cx).map(Event::Expired)
        })
        .await
    }

    /// Which attempt takes too long first, and when: the time runs from when it and the whole of the request have been sent.
    fn first_slow(&self, timer: &StreamTimer) -> Option<(Instant, usize)> {
        let limit = [self.deadlines.response, self.deadlines.idle].into_iter().flatten().min()?;
        let end = timer.request_end()?;
        let places = self.running.iter().enumerate().filter(|(_, attempt)| !attempt.is_slow);
        let at = |attempt: &Running| attempt.attempt.first_byte_sent.get().map(|sent| sent.max(end) + limit);
        places.filter_map(|(place, attempt)| Some((at(attempt)?, place))).min()
    }
}
