//! The deadlines of one stream, watched by one timer.
//!
//! Activity only stores a time. The one timer fires at the earliest deadline as it was when it was set, and is set again if that
//! has moved: a request that is answered soon costs no timer beyond one registration.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Which deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// The route's `timeout`.
    Route,
    /// `stream_idle_timeout` or the route's `idle_timeout`.
    Idle,
    /// `max_stream_duration`.
    MaxDuration,
    /// `request_timeout`: the request did not end in time.
    Request,
    /// `per_try_timeout`: the attempt brought no response in time.
    Try,
    /// `per_try_idle_timeout`: nothing moved in the attempt.
    TryIdle,
    /// The cluster's `max_stream_duration`, or the request's own, for the attempt.
    TryDuration,
}

/// The deadlines of one attempt at a request; they begin to run when it has been sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct TryTimeouts {
    /// From the end of the request to the head of the response.
    pub response: Option<Duration>,
    /// The longest time in which nothing moves.
    pub idle: Option<Duration>,
    /// The longest life of the upstream's stream.
    pub duration: Option<Duration>,
}

impl TryTimeouts {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.response.is_none() && self.idle.is_none() && self.duration.is_none()
    }
}

/// The deadlines of one stream.
#[derive(Debug)]
pub struct StreamTimer {
    start: Instant,
    last_activity: Cell<Instant>,
    idle_timeout: Cell<Option<Duration>>,
    max_duration: Cell<Option<Duration>>,
    request_timeout: Cell<Option<Duration>>,
    route_timeout: Cell<Option<Duration>>,
    request_end: Cell<Option<Instant>>,
    attempt: Cell<TryTimeouts>,
    attempt_start: Cell<Option<Instant>>,
    waiting: RefCell<Option<Waker>>,
}

impl StreamTimer {
    /// No deadline yet.
    pub fn new(start: Instant) -> StreamTimer {
        StreamTimer {
            start,
            last_activity: Cell::new(start),
            idle_timeout: Cell::new(None),
            max_duration: Cell::new(None),
            request_timeout: Cell::new(None),
            route_timeout: Cell::new(None),
            request_end: Cell::new(None),
            attempt: Cell::default(),
            attempt_start: Cell::new(None),
            waiting: RefCell::new(None),
        }
    }

    /// Something moved.
    pub fn touch(&self, now: Instant) {
        self.last_activity.set(now);
    }

    /// The request has been read to its end: the route's timeout begins to run.
    pub fn end_request(&self, now: Instant) {
        if self.request_end.get().is_none() {
            self.request_end.set(Some(now));
            self.wake();
        }
    }

    /// Whether the request has been read to its end.
    pub fn is_request_complete(&self) -> bool {
        self.request_end.get().is_some()
    }

    /// When the request had been read to its end.
    pub fn request_end(&self) -> Option<Instant> {
        self.request_end.get()
    }

    /// An attempt begins; its deadlines run once it has been sent.
    pub fn begin_attempt(&self, timeouts: TryTimeouts) {
        self.attempt.set(timeouts);
        self.attempt_start.set(None);
    }

    /// The attempt was sent at `at`. To be called as often as one likes.
    pub fn start_attempt(&self, at: Instant) {
        if self.attempt_start.get().is_none() {
            self.attempt_start.set(Some(at));
            self.touch(at.max(self.last_activity.get()));
        }
    }

    /// The head of the response has come: the attempt is the last one.
    pub fn settle_attempt(&self) {
        self.attempt.set(TryTimeouts { response: None, ..self.attempt.get() });
    }

    /// The longest time in which nothing moves; `None`: for ever.
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.idle_timeout.set(timeout);
        self.wake();
    }

    /// The longest life of the stream; `None`: for ever.
    pub fn set_max_duration(&self, timeout: Option<Duration>) {
        self.max_duration.set(timeout);
        self.wake();
    }

    /// The longest time until the request has been read; `None`: for ever.
    pub fn set_request_timeout(&self, timeout: Option<Duration>) {
        self.request_timeout.set(timeout);
        self.wake();
    }

    /// The longest time from the end of the request to the end of the response; `None`: for ever.
    pub fn set_route_timeout(&self, timeout: Option<Duration>) {
        self.route_timeout.set(timeout);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The earliest deadline as things stand.
    fn next(&self) -> Option<(Instant, Expired)> {
        let of_stream = self.next_of_stream();
        let Some(start) = self.attempt_start.get() else { return of_stream };
        let TryTimeouts { response, idle, duration } = self.attempt.get();
        let complete = self.request_end.get().map(|end| end.max(start));
        [
            of_stream,
            within(complete, response, Expired::Try),
            within(Some(self.last_activity.get()), idle, Expired::TryIdle),
            within(Some(start), duration, Expired::TryDuration),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    fn next_of_stream(&self) -> Option<(Instant, Expired)> {
        let request_open = self.request_end.get().is_none().then_some(self.start);
        [
            within(self.request_end.get(), self.route_timeout.get(), Expired::Route),
            within(Some(self.start), self.max_duration.get(), Expired::MaxDuration),
            within(request_open, self.request_timeout.get(), Expired::Request),
            within(Some(self.last_activity.get()), self.idle_timeout.get(), Expired::Idle),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// The deadline that has passed by now.
    pub fn overdue(&self) -> Option<Expired> {
        let (at, expired) = self.next()?;
        (at <= Instant::now()).then_some(expired)
    }

    /// A timer for `poll_expired`, set to the earliest deadline as things stand.
    pub fn sleep(&self) -> Sleep {
        match self.next() {
            Some((at, _)) => sleep_until(at),
            None => tokio::time::sleep(Duration::MAX),
        }
    }

    /// Ready when a deadline has passed. `sleep` is set again as deadlines move, but only when it fires or fires too late.
    pub fn poll_expired(&self, mut sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Expired> {
        while let Some((at, expired)) = self.next() {
            if sleep.deadline() > at {
                sleep.as_mut().reset(at);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                break;
            }
            if sleep.deadline() >= at {
                return Poll::Ready(expired);
            }
            sleep.as_mut().reset(at);
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Resolves when a deadline has passed.
    pub async fn expired(&self) -> Expired {
        let mut sleep = pin!(self.sleep());
        poll_fn(|cx| self.poll_expired(sleep.as_mut(), cx)).await
    }
}

/// A deadline beyond the clock's range is none.
fn within(from: Option<Instant>, timeout: Option<Duration>, expired: Expired) -> Option<(Instant, Expired)> {
    Some((from?.checked_add(timeout?)?, expired))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn route_timeout_runs_from_the_end_of_the_request() {
        let start = Instant::now();
        let timer = Rc::new(StreamTimer::new(start));
        timer.set_route_timeout(Some(15 * SECOND));
        let ending = async {
            tokio::time::sleep(20 * SECOND).await;
            timer.end_request(Instant::now());
            std::future::pending::<()>().await;
        };
        let expired = tokio::select! { expired = timer.expired() => expired, () = ending => unreachable!() };
        assert_eq!(expired, Expired::Route);
        assert_eq!(start.elapsed(), 35 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn activity_moves_the_idle_deadline() {
        let start = Instant::now();
        let timer = StreamTimer::new(start);
        timer.set_idle_timeout(Some(10 * SECOND));
        let activity = async {
            for _ in 0..3 {
                tokio::time::sleep(6 * SECOND).await;
                timer.touch(Instant::now());
            }
            std::future::pending::<()>().await;
        };
        let expired = tokio::select! { expired = timer.expired() => expired, () = activity => unreachable!() };
        assert_eq!(expired, Expired::Idle);
        assert_eq!(start.elapsed(), 28 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_wins() {
        let timer = StreamTimer::new(Instant::now());
        timer.set_idle_timeout(Some(300 * SECOND));
        timer.set_max_duration(Some(60 * SECOND));
        timer.set_request_timeout(Some(30 * SECOND));
        assert_eq!(timer.expired().await, Expired::Request);
        timer.end_request(Instant::now());
        assert_eq!(timer.expired().await, Expired::MaxDuration);
    }
}
