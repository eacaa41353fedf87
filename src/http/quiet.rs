//! A future that costs nothing while it does not stir.
//!
//! A connection waits for many things at once, most of which come once in its life or never: a drain, an idle timeout. Polled with the
//! rest, each would be looked at for every request; so it is polled only when it has asked for it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use pin_project_lite::pin_project;

pin_project! {
    /// Polls the future within only when that has been woken.
    pub struct Quiet<F> {
        #[pin]
        future: F,
        alarm: Option<(Arc<Alarm>, Waker)>,
    }
}

/// Remembers that the future was woken, and wakes its task.
struct Alarm {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F> Quiet<F> {
    /// Nothing happens before the first poll.
    pub fn new(future: F) -> Quiet<F> {
        Quiet { future, alarm: None }
    }
}

impl<F: Future> Future for Quiet<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let Some((alarm, waker)) = this.alarm
            && alarm.task.will_wake(cx.waker())
        {
            if !alarm.rung.swap(false, Ordering::AcqRel) {
                return Poll::Pending;
            }
            return this.future.poll(&mut Context::from_waker(waker));
        }
        let alarm = Arc::new(Alarm { rung: AtomicBool::new(false), task: cx.waker().clone() });
        let (_, waker) = this.alarm.insert((Arc::clone(&alarm), Waker::from(alarm)));
        this.future.poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, pin::pin};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn is_polled_only_when_woken() {
        let (polls, notify) = (Cell::new(0), Notify::new());
        let mut notified = pin!(notify.notified());
        let mut quiet = pin!(Quiet::new(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            notified.as_mut().poll(cx)
        })));
        for _ in 0..3 {
            let polled = poll_fn(|cx| Poll::Ready(quiet.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(polls.get(), 1);
        notify.notify_one();
        quiet.await;
        assert_eq!(polls.get(), 2);
    }
}
