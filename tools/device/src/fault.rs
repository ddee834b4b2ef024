// SPDX-License-Identifier: GPL-2.0

//! What the control socket can do to a queue: stop it, and lose or hold back packets.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::packet::{Header, Packet};

/// Packets that are held back at most; then the queue waits.
const MAX_HELD: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Rx,
    Tx,
    DgramRx,
    DgramTx,
    Event,
}

impl Queue {
    pub const ALL: [(&'static str, Queue); 5] = [
        ("rx", Queue::Rx),
        ("tx", Queue::Tx),
        ("dgram-rx", Queue::DgramRx),
        ("dgram-tx", Queue::DgramTx),
        ("event", Queue::Event),
    ];
}

#[derive(Default)]
pub struct Fault {
    pub paused: bool,
    /// So many packets more are lost.
    pub drop: u64,
    pub delay: Duration,
    /// Nothing is looked at before the driver kicks, of whom no kick is asked for.
    pub deaf: bool,
    /// The driver is not told that it need not kick.
    pub loud: bool,
    /// One packet is taken in so much time, and given back by itself.
    pub pace: Duration,
    /// When the next one may be taken.
    next: Option<Instant>,
    held: VecDeque<(Instant, Packet)>,
}

/// What is to become of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
    Hold,
}

impl Fault {
    pub fn fate(&mut self) -> Fate {
        if self.drop > 0 {
            self.drop -= 1;
            Fate::Drop
        } else if self.delay.is_zero() && self.held.is_empty() {
            Fate::Pass
        } else {
            Fate::Hold
        }
    }

    /// Nothing may be held back in addition.
    pub fn full(&self) -> bool {
        self.held.len() >= MAX_HELD
    }

    /// Holds a packet back, behind those that are held back already.
    pub fn hold(&mut self, header: &Header, data: &[u8]) {
        let packet = Packet {
            header: *header,
            data: data.to_vec(),
        };
        let last = self.held.back().map(|h| h.0);
        let due = Instant::now() + self.delay;
        self.held
            .push_back((last.map_or(due, |l| l.max(due)), packet));
    }

    /// A packet whose time has come could not go on.
    pub fn put_back(&mut self, packet: Packet) {
        self.held.push_front((Instant::now(), packet));
    }

    pub fn due(&mut self) -> Option<Packet> {
        if self.paused || self.held.front()?.0 > Instant::now() {
            return None;
        }
        self.held.pop_front().map(|h| h.1)
    }

    pub fn has_due(&self) -> bool {
        let now = Instant::now();
        !self.paused && self.held.front().is_some_and(|h| h.0 <= now)
    }

    /// Whether it is too early for the next packet.
    pub fn rests(&self) -> bool {
        self.next.is_some_and(|at| at > Instant::now())
    }

    /// A packet was taken; true if the next one must wait.
    pub fn took(&mut self) -> bool {
        self.next = (!self.pace.is_zero()).then(|| Instant::now() + self.pace);
        self.next.is_some()
    }

    /// When the next packet's time comes; one whose time has come waits for something else.
    pub fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let held = self.held.front().map(|held| held.0);
        [held, self.next]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    pub fn forget(&mut self) {
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_lost_then_held_then_pass() {
        let mut fault = Fault {
            drop: 1,
            delay: Duration::from_millis(20),
            ..Fault::default()
        };
        assert_eq!(fault.fate(), Fate::Drop);
        assert_eq!(fault.fate(), Fate::Hold);
        fault.hold(&Header::default(), &[]);
        assert!(fault.due().is_none() && fault.deadline().is_some());
        // No packet overtakes one that is held back.
        fault.delay = Duration::ZERO;
        assert_eq!(fault.fate(), Fate::Hold);
        fault.hold(&Header::default(), &[]);
        std::thread::sleep(Duration::from_millis(25));
        assert!(fault.due().is_some() && fault.due().is_some());
        assert_eq!(fault.fate(), Fate::Pass);
    }

    #[test]
    fn packets_are_taken_one_in_its_time() {
        let mut fault = Fault::default();
        assert!(!fault.took() && !fault.rests());
        fault.pace = Duration::from_millis(20);
        assert!(fault.took() && fault.rests() && fault.deadline().is_some());
        std::thread::sleep(Duration::from_millis(25));
        assert!(!fault.rests() && fault.deadline().is_none());
    }
}
