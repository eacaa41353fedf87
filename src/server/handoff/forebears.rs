//! Earlier processes that have not ended: what they count while they drain counts here.
//!
//! A process may end before its predecessor does. Then it leaves the conversation to its successor, unread messages and all, so that a
//! count reaches the serving process over however many reloads.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use prost::Message;
use tokio::task::JoinSet;

use super::predecessor::{News, Predecessor};
use crate::{proto::handoff::State, stats::Registry};

/// The conversations with earlier processes.
#[derive(Debug)]
pub struct Forebears {
    stats: Arc<Registry>,
    known: RefCell<Vec<Rc<Predecessor>>>,
    listening: RefCell<JoinSet<()>>,
}

impl Forebears {
    /// None yet.
    pub fn new(stats: Arc<Registry>) -> Rc<Forebears> {
        Rc::new(Forebears { stats, known: RefCell::default(), listening: RefCell::default() })
    }

    /// Listens to one more until it has ended.
    pub fn follow(self: &Rc<Forebears>, predecessor: Predecessor) {
        let predecessor = Rc::new(predecessor);
        self.known.borrow_mut().push(Rc::clone(&predecessor));
        let forebears = Rc::downgrade(self);
        self.listening.borrow_mut().spawn_local(async move {
            while let Some(news) = predecessor.news().await {
                let Some(forebears) = forebears.upgrade() else { return };
                match news {
                    News::Counted(state) => forebears.count(&state),
                    News::Bequest(earlier) => earlier.into_iter().for_each(|earlier| forebears.follow(earlier)),
                }
            }
            tracing::info!("an earlier process has ended");
            if let Some(forebears) = forebears.upgrade() {
                forebears.known.borrow_mut().retain(|known| !Rc::ptr_eq(known, &predecessor));
            }
        });
    }

    fn count(&self, state: &[u8]) {
        match State::decode(state) {
            Ok(state) => self.stats.carry(super::counted(state.counters)),
            Err(error) => tracing::warn!(%error, "what an earlier process has counted is not understood"),
        }
    }

    /// Stops listening: another process is to listen to these.
    pub fn leave(&self) -> Vec<Rc<Predecessor>> {
        self.listening.take();
        self.known.take()
    }
}
