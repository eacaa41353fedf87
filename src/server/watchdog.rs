//! The watchdog: the service manager hears from us for as long as the main thread and every worker answer.
//!
//! A thread that hangs ends the pings, and the manager (`WatchdogSec=`) ends and restarts the service. Only the main process may ping: one
//! that hands over drops its [`Watchdog`].

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::sys::systemd::Heartbeat;

use super::worker::Workers;

/// Pings for as long as it lives.
#[derive(Debug)]
#[must_use = "dropping it ends the pings, and so the service"]
pub struct Watchdog(JoinHandle<()>);

/// Begins to ping, if the service manager asks for that.
pub fn start_watchdog(workers: &Workers) -> Option<Watchdog> {
    let heart = Heartbeat::new()?;
    tracing::debug!(limit_s = heart.limit.as_secs_f64(), "the service manager watches");
    let pulses = workers.pings().map(Pulse::new).collect();
    Some(Watchdog(spawn_local(watch(heart.limit / 3, pulses, move || heart.beat()))))
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Calls `alive` whenever all have answered since the last time.
async fn watch<P: Fn() -> Answer>(every: Duration, mut pulses: Vec<Pulse<P>>, alive: impl Fn()) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mut all = true;
        for (index, pulse) in pulses.iter_mut().enumerate() {
            all &= pulse.beats(index + 1);
        }
        if all {
            alive();
        }
    }
}

/// Comes when the worker does.
type Answer = oneshot::Receiver<()>;

/// What is known of one worker. Nothing is asked anew before it has answered, so that nothing piles up in front of it.
struct Pulse<P> {
    ask: P,
    asked: Option<Answer>,
    /// Since when there is no answer, once that is worth a word.
    silent: Option<Instant>,
}

impl<P: Fn() -> Answer> Pulse<P> {
    fn new(ask: P) -> Pulse<P> {
        Pulse { ask, asked: None, silent: None }
    }

    /// Whether the worker has answered since the last time. One that has ended owes no answer.
    fn beats(&mut self, worker: usize) -> bool {
        if let Some(answer) = &mut self.asked
            && answer.try_recv() == Err(oneshot::error::TryRecvError::Empty)
        {
            if self.silent.is_none() {
                tracing::error!(name: "worker_silent", worker, "the worker does not answer: the service manager is not told that all is well");
                self.silent = Some(Instant::now());
            }
            return false;
        }
        if let Some(since) = self.silent.take() {
            tracing::warn!(worker, after_s = since.elapsed().as_secs_f64(), "the worker answers again");
        }
        self.asked = Some((self.ask)());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use tokio::task::LocalSet;
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn one_silent_worker_ends_the_pings_until_it_answers() {
        let asked: [Rc<RefCell<Option<oneshot::Sender<()>>>>; 2] = Default::default();
        let pulses = asked.iter().cloned().map(|asked| {
            Pulse::new(move || {
                let (sender, answer) = oneshot::channel();
                *asked.borrow_mut() = Some(sender);
                answer
            })
        });
        let pings = Rc::new(Cell::new(0));
        let count = Rc::clone(&pings);
        let answer = |worker: usize| {
            if let Some(sender) = asked[worker].borrow_mut().take() {
                sender.send(()).unwrap();
            }
        };
        let test = async {
            let _watch = spawn_local(watch(SECOND, pulses.collect(), move || count.set(count.get() + 1)));
            for expected in 1..4 {
                sleep(SECOND).await;
                answer(0);
                answer(1);
                assert_eq!(pings.get(), expected);
            }
            for _ in 0..3 {
                sleep(SECOND).await;
                answer(0);
            }
            assert_eq!(pings.get(), 4, "the question after the last answer is still open");
            answer(1);
            sleep(SECOND).await;
            assert_eq!(pings.get(), 5);
            asked[1].borrow_mut().take();
            answer(0);
            sleep(SECOND).await;
            assert_eq!(pings.get(), 6, "a worker that has ended owes no answer");
        };
        LocalSet::new().run_until(test).await;
    }
}
