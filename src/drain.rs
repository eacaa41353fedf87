//! Drain: how a worker tells the connections of a listener to finish.
//!
//! Three phases, never backwards: connections run, then close at their next good moment (HTTP/2 GOAWAY, `Connection: close`),
//! then are cut. One `Drain` for each listener of each worker, so that a removed listener drains alone.

use tokio::sync::watch;

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No drain.
    Running,
    /// Accept nothing new and ask peers to go: GOAWAY, `Connection: close`.
    Draining,
    /// The drain time is over: close.
    Deadline,
}

/// The trigger. Dropping it counts as the deadline: nobody is left who could wait for the connections.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

/// What every connection watches.
#[derive(Clone, Debug)]
pub struct Watcher {
    phase: watch::Receiver<Phase>,
}

impl Drain {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> Drain {
        Drain { phase: watch::Sender::new(Phase::Running) }
    }

    /// A view for one more connection or listener.
    #[must_use]
    pub fn watch(&self) -> Watcher {
        Watcher { phase: self.phase.subscribe() }
    }

    /// Begins to drain gracefully.
    pub fn start(&self) {
        self.advance(Phase::Draining);
    }

    /// Ends what is left.
    pub fn deadline(&self) {
        self.advance(Phase::Deadline);
    }

    /// Resolves when the last watcher is gone, which is when the last connection has ended.
    pub async fn finished(&self) {
        self.phase.closed().await;
    }

    fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = phase > *current;
            *current = phase.max(*current);
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
    /// How far the drain has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.phase.has_changed().is_err() {
            return Phase::Deadline;
        }
        *self.phase.borrow()
    }

    /// Whether peers should be asked to go.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Resolves when the drain begins; at once if it has begun.
    pub async fn draining(&mut self) {
        self.reached(Phase::Draining).await;
    }

    /// Resolves when time is up.
    pub async fn deadline(&mut self) {
        self.reached(Phase::Deadline).await;
    }

    async fn reached(&mut self, phase: Phase) {
        // An error says that the trigger is gone, which is the deadline.
        let _ = self.phase.wait_for(|current| *current >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_advance() {
        let drain = Drain::new();
        let mut watcher = drain.watch();
        assert_eq!(watcher.phase(), Phase::Running);
        drain.start();
        watcher.draining().await;
        drain.deadline();
        drain.start();
        watcher.deadline().await;
        assert_eq!(watcher.phase(), Phase::Deadline);
        assert_eq!(drain.watch().phase(), Phase::Deadline, "late watchers see where the drain is");
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
