//! What passes from process to process besides the sockets: registrations, counters, and which processes there are.

use std::{os::fd::OwnedFd, time::Duration};

use prost::Message;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, getpid, pidfd_open},
};

use crate::{
    proto::handoff::{Counter, EarlierProcess, Registration, State, TicketKey},
    server::control::Draining,
    stats::Counted,
};

/// How often a draining process tells what it has counted.
pub const TALLY_INTERVAL: Duration = Duration::from_secs(1);

/// The succession of processes, as one of them knows it.
#[derive(Debug, Default)]
pub struct Succession {
    /// How many came before this one.
    pub generation: u32,
    /// Those that may not have ended. The descriptor stands for the process, where a number could be another's by now.
    earlier: Vec<(EarlierProcess, OwnedFd)>,
}

impl Succession {
    /// What a process knows that takes over with this state.
    pub fn after(state: &State) -> Succession {
        let known = state.earlier.iter().filter_map(|earlier| {
            // One that has ended is not known any more.
            let descriptor = pidfd_open(Pid::from_raw(earlier.pid)?, PidfdFlags::empty()).ok()?;
            Some((*earlier, descriptor))
        });
        Succession { generation: state.generation + 1, earlier: known.collect() }
    }

    /// The earlier processes that have not ended.
    pub fn draining(&self) -> Vec<Draining> {
        let running =
            self.running().map(|earlier| Draining { pid: earlier.pid.unsigned_abs(), generation: earlier.generation });
        running.collect()
    }

    fn running(&self) -> impl Iterator<Item = &EarlierProcess> {
        let has_ended = |descriptor| {
            let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
            poll(&mut polled, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0)
        };
        self.earlier.iter().filter(move |(_, descriptor)| !has_ended(descriptor)).map(|(earlier, _)| earlier)
    }

    /// The state that the next process begins with.
    pub fn state(&self, registrations: &[Registration], counted: Vec<Counted>, ticket_keys: Vec<TicketKey>) -> Vec<u8> {
        let own = EarlierProcess { pid: getpid().as_raw_nonzero().get(), generation: self.generation };
        let state = State {
            generation: self.generation,
            registrations: registrations.to_vec(),
            counters: counters(counted),
            earlier: self.running().copied().chain([own]).collect(),
            ticket_keys,
        };
        state.encode_to_vec()
    }
}

/// A state that only says what was counted.
pub fn tally(counted: Vec<Counted>) -> Vec<u8> {
    State { counters: counters(counted), ..State::default() }.encode_to_vec()
}

fn counters(counted: Vec<Counted>) -> Vec<Counter> {
    let counter = |Counted { name, value, unlisted }| Counter { name: String::from(&*name), value, unlisted };
    counted.into_iter().map(counter).collect()
}

/// What another process has counted.
pub fn counted(counters: Vec<Counter>) -> impl Iterator<Item = Counted> {
    counters.into_iter().map(|Counter { name, value, unlisted }| Counted { name: name.into(), value, unlisted })
}
