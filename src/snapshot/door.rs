//! How sources of configuration on the main thread reach the `ConfigManager`, which the control loop owns.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Change, Snapshot};

/// Takes changes in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door(mpsc::UnboundedSender<Knock>);

/// A change at the door.
#[derive(Debug)]
pub struct Knock {
    /// What shall change.
    pub change: Change<'static>,
    /// Told when every worker works with the new snapshot.
    pub published: oneshot::Sender<Arc<Snapshot>>,
}

impl Door {
    /// A door, and where changes arrive.
    #[must_use]
    pub fn new() -> (Door, mpsc::UnboundedReceiver<Knock>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Door(sender), receiver)
    }

    /// Applies a change; resolves when every worker works with it: the next request on any thread sees it. `None` if the change was not
    /// applied because the process is ending.
    pub async fn apply(&self, change: Change<'static>) -> Option<Arc<Snapshot>> {
        self.knock(change).await.ok()
    }

    /// Hands a change in without waiting for what becomes of it.
    pub fn post(&self, change: Change<'static>) {
        drop(self.knock(change));
    }

    fn knock(&self, change: Change<'static>) -> oneshot::Receiver<Arc<Snapshot>> {
        let (published, done) = oneshot::channel();
        // If nobody opens, the receiver says so.
        let _ = self.0.send(Knock { change, published });
        done
    }
}
