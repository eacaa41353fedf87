//! Drain: how a worker tells the connections of its listeners to finish.
//!
//! Phases only advance. A [`DrainMode::Stop`] asks every peer to go at once (HTTP/2 GOAWAY, `Connection: close`); a
//! [`DrainMode::HandOff`] asks one connection after the other, as Envoy's gradual strategy does, and closes none under a request that may be
//! on its way. At the deadline what is left is cut. While nothing drains, a connection has no timer and no wake-up for it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No drain.
    Running,
    /// Accept nothing new; ask every peer to go when its moment has come.
    HandingOff,
    /// Accept nothing new; ask all peers to go, and close connections without requests.
    Stopping,
    /// The drain time is over: close.
    Deadline,
}

/// How connections are asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainMode {
    /// Nobody serves the address any more: all at once.
    Stop,
    /// Another process serves the same sockets: one after the other, so that clients do not all reconnect at once.
    HandOff {
        /// The time over which the moments of the connections are spread.
        spread: Duration,
    },
}

/// The trigger. Dropping it counts as the deadline: nobody is left who could wait for the connections.
#[derive(Debug)]
pub struct Drain {
    state: watch::Sender<State>,
    /// The share of the spread after which the next connection has its moment, in 2⁻³² of it.
    next: Rc<Cell<u32>>,
}

/// What a connection or a listener watches. Clones are of the same connection.
#[derive(Clone, Debug)]
pub struct Watcher {
    state: watch::Receiver<State>,
    next: Rc<Cell<u32>>,
    share: u32,
}

#[derive(Clone, Copy, Debug)]
struct State {
    phase: Phase,
    begun: Instant,
    spread: Duration,
}

impl Drain {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> Drain {
        let state = State { phase: Phase::Running, begun: Instant::now(), spread: Duration::ZERO };
        Drain { state: watch::Sender::new(state), next: Rc::default() }
    }

    /// A view for a listener, which has no moment of its own: its connections have, see [`Watcher::of_connection`].
    #[must_use]
    pub fn watch(&self) -> Watcher {
        Watcher { state: self.state.subscribe(), next: Rc::clone(&self.next), share: 0 }
    }

    /// Begins to drain gracefully. A stop may follow upon a hand-off; the reverse changes nothing.
    pub fn start(&self, mode: DrainMode) {
        match mode {
            DrainMode::Stop => self.advance(Phase::Stopping, Duration::ZERO),
            DrainMode::HandOff { spread } => self.advance(Phase::HandingOff, spread),
        }
    }

    /// Ends what is left.
    pub fn deadline(&self) {
        self.advance(Phase::Deadline, Duration::ZERO);
    }

    /// Resolves when the last watcher is gone, which is when the last connection has ended.
    pub async fn finished(&self) {
        self.state.closed().await;
    }

    fn advance(&self, phase: Phase, spread: Duration) {
        self.state.send_if_modified(|state| {
            let forward = phase > state.phase;
            if forward {
                *state = State { phase, begun: Instant::now(), spread };
            }
            forward
        });
    }
}

impl Default for Drain {
    fn default() -> Drain {
        Drain::new()
    }
}

impl Watcher {
    /// A view for one more connection, with a moment of its own in a hand-off. Steps by the golden ratio spread any number of connections
    /// evenly, those that are left of them too.
    #[must_use]
    pub fn of_connection(&self) -> Watcher {
        const GOLDEN_RATIO: u32 = 0x9e37_79b9;
        let share = self.next.get().wrapping_add(GOLDEN_RATIO);
        self.next.set(share);
        Watcher { share, ..self.clone() }
    }

    /// How far the drain has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.state.has_changed().is_err() {
            return Phase::Deadline;
        }
        self.state.borrow().phase
    }

    /// Resolves when a drain of any kind begins; at once if it has begun.
    pub async fn draining(&mut self) {
        self.reached(Phase::HandingOff).await;
    }

    /// Resolves when the peer is to be asked to go.
    pub async fn moment(&mut self) {
        let Some(state) = self.reached(Phase::HandingOff).await else { return };
        if state.phase == Phase::HandingOff {
            let after = state.spread.mul_f64(f64::from(self.share) / f64::from(u32::MAX));
            match state.begun.checked_add(after) {
                None => self.stopping().await,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.stopping() => {}
                },
            }
        }
    }

    /// Resolves when a connection without requests is to be closed.
    pub async fn stopping(&mut self) {
        self.reached(Phase::Stopping).await;
    }

    /// Resolves when time is up.
    pub async fn deadline(&mut self) {
        self.reached(Phase::Deadline).await;
    }

    /// `None` says that the trigger is gone, which is the deadline.
    async fn reached(&mut self, phase: Phase) -> Option<State> {
        self.state.wait_for(|state| state.phase >= phase).await.ok().map(|state| *state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn phases_only_advance() {
        let drain = Drain::new();
        let mut watcher = drain.watch();
        assert_eq!(watcher.phase(), Phase::Running);
        drain.start(DrainMode::HandOff { spread: MINUTE });
        watcher.draining().await;
        assert_eq!(watcher.phase(), Phase::HandingOff);
        drain.start(DrainMode::Stop);
        watcher.stopping().await;
        drain.start(DrainMode::HandOff { spread: MINUTE });
        assert_eq!(watcher.phase(), Phase::Stopping);
        drain.deadline();
        drain.start(DrainMode::Stop);
        watcher.deadline().await;
        assert_eq!(watcher.phase(), Phase::Deadline);
        assert_eq!(drain.watch().phase(), Phase::Deadline, "late watchers see where the drain is");
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_hand_off_connections_have_their_moments_one_after_the_other() {
        let drain = Drain::new();
        let listener = drain.watch();
        let mut connections: Vec<_> = (0..60).map(|_| listener.of_connection()).collect();
        let start = Instant::now();
        drain.start(DrainMode::HandOff { spread: MINUTE });
        drain.start(DrainMode::HandOff { spread: 10 * MINUTE });
        let mut moments = Vec::new();
        for connection in &mut connections {
            // Each is asked from the start, as if they all waited at once.
            let state = connection.reached(Phase::HandingOff).await.unwrap();
            assert_eq!(state.begun, start);
            moments.push(f64::from(connection.share) / f64::from(u32::MAX) * state.spread.as_secs_f64());
        }
        moments.sort_by(f64::total_cmp);
        let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.fold(0.0, f64::max) < 3.0, "{moments:?}");
        let mut last = connections.pop().unwrap();
        last.clone().moment().await;
        let waited = start.elapsed();
        assert!(waited > Duration::ZERO && waited <= MINUTE, "{waited:?}");
        last.moment().await;
        assert_eq!(start.elapsed(), waited, "the moment of a connection is the same for all who wait for it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_in_a_hand_off_is_the_moment_of_all() {
        let drain = Drain::new();
        let mut connection = drain.watch().of_connection();
        drain.start(DrainMode::HandOff { spread: MINUTE });
        let start = Instant::now();
        let stop = async {
            tokio::task::yield_now().await;
            drain.start(DrainMode::Stop);
        };
        tokio::join!(connection.moment(), stop);
        assert_eq!(start.elapsed(), Duration::ZERO);
        connection.stopping().await;
    }

    #[tokio::test]
    async fn finishes_with_the_last_watcher() {
        let drain = Drain::new();
        let (first, second) = (drain.watch(), drain.watch());
        drop(first);
        tokio::select! {
            biased;
            () = drain.finished() => panic!("one connection is still there"),
            () = tokio::task::yield_now() => {}
        }
        drop(second);
        drain.finished().await;
    }

    #[tokio::test]
    async fn a_lost_trigger_is_the_deadline() {
        let drain = Drain::new();
        let mut watcher = drain.watch();
        drop(drain);
        watcher.deadline().await;
        assert_eq!(watcher.phase(), Phase::Deadline);
    }
}
