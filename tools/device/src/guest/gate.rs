// SPDX-License-Identifier: GPL-2.0

//! The driver is told of a reset of the transport; and what holds back all that goes to the guest after it, until the
//! driver shows that it is done.

use super::{Guest, TX};
use crate::{
    fault::{Fate, Queue},
    habits::ResetAck,
    ring::{Memory, Vring},
};

#[derive(Debug)]
pub struct Gate {
    ack: ResetAck,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The driver has not been told of the reset.
    Untold,
    /// It has, and had read the configuration so often by then.
    Told(u64),
}

impl Gate {
    pub fn new(ack: ResetAck) -> Self {
        let state = State::Open;
        Self { ack, state }
    }

    /// The transport was reset.
    pub fn close(&mut self) {
        if self.ack != ResetAck::None {
            self.state = State::Untold;
        }
    }

    /// The event is with the driver, which has read the configuration `reads` times so far.
    pub fn told(&mut self, reads: u64) {
        if self.state == State::Untold {
            self.state = State::Told(reads);
        }
    }

    /// The driver has kicked the event queue.
    pub fn kicked(&mut self) {
        if self.ack == ResetAck::Event && matches!(self.state, State::Told(_)) {
            self.state = State::Open;
        }
    }

    /// A driver that starts has nothing to acknowledge, nor has one that will never hear of the reset.
    pub fn open(&mut self) {
        self.state = State::Open;
    }

    /// Whether packets go to the guest, once the driver has read the configuration so often.
    pub fn is_open(&mut self, reads: u64) -> bool {
        if let (ResetAck::Config, State::Told(before)) = (self.ack, self.state) {
            if reads != before {
                self.state = State::Open;
            }
        }
        self.state == State::Open
    }
}

impl Guest {
    /// Whether packets may go to the guest.
    pub fn lets_in(&mut self) -> bool {
        self.gate.is_open(self.shared.config_reads())
    }

    /// The driver has kicked a queue.
    pub fn kicked(&mut self, queue: usize) {
        self.shared.counters.kicks.count();
        if queue == self.event_queue() {
            self.gate.kicked();
        } else if queue == TX {
            self.fault(Queue::Tx).deaf = false;
        }
    }

    /// Tells the driver of resets of the transport.
    pub fn event(&mut self, vrings: &[Vring], mem: &Memory) {
        if self.events == 0 || self.fault(Queue::Event).paused {
            return;
        }
        let Some(mut ring) = self.ring(vrings, self.event_queue(), mem) else {
            return;
        };
        while self.events > 0 {
            if self.fault(Queue::Event).fate() == Fate::Drop {
                self.events -= 1;
                self.gate.open();
                self.counters().dropped_on_command.count();
                continue;
            }
            let Some(chain) = ring.pop() else {
                if ring.wait() {
                    continue;
                }
                break;
            };
            let head = chain.head();
            // The number of this event is 0.
            let len = ring.write_chain(chain, &[0; 4]);
            ring.used(head, len);
            self.events -= 1;
            self.counters().events.count();
            // Before the driver can see the event: what it does about it comes after this.
            self.gate.told(self.shared.config_reads());
            if self.limits.habits.reset_ack == ResetAck::Event {
                // It must kick when the buffer comes back, though it has given more than this one.
                ring.wait_for_more();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_after_the_event_opens_it() {
        let mut gate = Gate::new(ResetAck::Event);
        assert!(gate.is_open(0));
        gate.close();
        gate.kicked();
        assert!(!gate.is_open(0));
        gate.told(0);
        assert!(!gate.is_open(1));
        gate.kicked();
        assert!(gate.is_open(1));
    }

    #[test]
    fn a_read_of_the_configuration_opens_it() {
        let mut gate = Gate::new(ResetAck::Config);
        gate.close();
        assert!(!gate.is_open(3));
        gate.told(4);
        gate.kicked();
        assert!(!gate.is_open(4));
        assert!(gate.is_open(5));
    }

    #[test]
    fn without_the_habit_nothing_is_held_back() {
        let mut gate = Gate::new(ResetAck::None);
        gate.close();
        assert!(gate.is_open(0));
    }
}
