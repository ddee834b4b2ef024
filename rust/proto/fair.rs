// SPDX-License-Identifier: GPL-2.0

//! Fairness: which of the packets that wait is next, and how much the device has at once (K8).
//!
//! A queue that is first in, first out gives most to who has most in it, and who asks for little waits for all of
//! that. So connections take turns, by deficit round robin: in its turn a connection sends as much as any other, and
//! its own packets stay in their order.
//!
//! What has nothing of its connection before it goes before all turns: the next packet of a connection whose peer has
//! answered the last one, a request, an answer. A connection has one such packet at a time, so that it cannot take the
//! others' share by that; and after a few of them one goes whose turn it is.
//!
//! Turns are of use only while packets wait here: in the device's queue, they are in order. So the device has as
//! much as keeps it busy, and no more; but for what a single connection sends, which nobody waits behind.
//!
//! Source: M. Shreedhar and G. Varghese, "Efficient Fair Queuing using Deficit Round Robin", SIGCOMM 1995;
//! `net/sched/sch_fq_codel.c` for what goes first, and `include/linux/dynamic_queue_limits.h` for what a device has.

/// What a connection may send in its turn, in bytes: a few large packets, so that a peer who is woken has something to do.
const QUANTUM: i64 = 128 * 1024;

/// What a packet costs beside its bytes, in bytes: a host that copies so many more does as much for them.
const PACKET_COST: usize = 1024;

/// So many packets may go before turns, until one goes whose turn it is.
const FAVOURS_MAX: u32 = 8;

/// With so much payload the device has enough, in bytes: what a connection of a default buffer may send without an answer.
const ENOUGH: usize = 256 * 1024;

/// Where more connections than four wait for turns, it has so much of each, but no more than [`ENOUGH_MAX`].
const ENOUGH_EACH: usize = 64 * 1024;

/// So much is enough for all.
const ENOUGH_MAX: usize = 1024 * 1024;

/// Where a packet waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before all turns.
    First,
    /// For its connection's turn.
    Turn,
}

/// What a packet of `len` bytes costs, in bytes.
pub const fn cost(len: usize) -> usize {
    len.saturating_add(PACKET_COST)
}

/// What a connection may still send in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// In bytes; below zero if it has sent more, as a packet goes whole.
    left: i64,
}

impl Default for Share {
    fn default() -> Self {
        Self::new()
    }
}

impl Share {
    /// That of a connection of which nothing has waited.
    pub const fn new() -> Self {
        Self { left: QUANTUM }
    }

    /// Whether the connection, whose turn it is, may send a packet; if not, its turn is over, and in the next one it
    /// may send more.
    pub fn may_send(&mut self) -> bool {
        let may = self.left > 0;
        if !may {
            self.left = self.left.saturating_add(QUANTUM);
        }
        may
    }

    /// It has sent a packet that costs `cost` bytes.
    pub fn spend(&mut self, cost: usize) {
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        self.left = self.left.saturating_sub(cost);
    }
}

/// What a transmit queue knows of turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fair {
    /// What the device has of payload, in bytes.
    given: usize,
    /// What it was given last of one connection, with none of others between, in bytes.
    run: usize,
    /// Which connection that is.
    whose: usize,
    /// Packets that went first since one went whose turn it was, while there was one.
    favours: u32,
}

impl Default for Fair {
    fn default() -> Self {
        Self::new()
    }
}

impl Fair {
    /// The device has nothing.
    pub const fn new() -> Self {
        Self {
            given: 0,
            run: 0,
            whose: 0,
            favours: 0,
        }
    }

    /// The device was given a packet of payload that costs `cost` bytes, of the connection with the number `whose`.
    pub fn give(&mut self, cost: usize, whose: usize) {
        if whose != self.whose {
            self.whose = whose;
            self.run = 0;
        }
        self.run = self.run.saturating_add(cost);
        self.given = self.given.saturating_add(cost);
    }

    /// One was taken back; `left`: so many packets are with the device.
    pub fn take(&mut self, cost: usize, left: u64) {
        self.given = match left {
            0 => 0,
            _ => self.given.saturating_sub(cost),
        };
    }

    /// Whether the device may be given what waits its turn; `turns` connections do.
    pub fn has_room(&self, turns: usize) -> bool {
        let enough = turns.saturating_mul(ENOUGH_EACH).clamp(ENOUGH, ENOUGH_MAX);
        self.given < enough || self.run >= self.given
    }

    /// From where the next packet is to be taken. `first`: some wait there; `turns` connections wait for theirs.
    pub fn next(&mut self, first: bool, turns: usize) -> Option<Place> {
        let turn = turns > 0 && self.has_room(turns);
        if first && !(turn && self.favours >= FAVOURS_MAX) {
            self.favours = match turns {
                0 => 0,
                _ => self.favours.saturating_add(1),
            };
            return Some(Place::First);
        }
        if !turn {
            return None;
        }
        self.favours = 0;
        Some(Place::Turn)
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_fair))]
mod tests {
    use super::*;

    /// How many packets of `len` bytes go in a turn.
    fn in_a_turn(share: &mut Share, len: usize) -> usize {
        let mut sent = 0;
        while share.may_send() {
            share.spend(cost(len));
            sent += 1;
        }
        sent
    }

    #[test]
    fn a_turn_is_of_so_many_bytes() {
        let mut share = Share::new();
        assert_eq!(in_a_turn(&mut share, 32 * 1024), 4);
        // The last went whole, and is paid for in the next turn.
        share.spend(cost(QUANTUM as usize));
        assert!(!share.may_send());
        assert_eq!(in_a_turn(&mut share, 32 * 1024), 4);
    }

    #[test]
    fn small_packets_share_a_turn() {
        assert_eq!(in_a_turn(&mut Share::new(), 64), 121);
    }

    #[test]
    fn what_goes_first_does_not_go_always() {
        let mut fair = Fair::new();
        for _ in 0..3 {
            for _ in 0..FAVOURS_MAX {
                assert_eq!(fair.next(true, 1), Some(Place::First));
            }
            assert_eq!(fair.next(true, 1), Some(Place::Turn));
        }
        // With nobody to wait, it does.
        for _ in 0..2 * FAVOURS_MAX {
            assert_eq!(fair.next(true, 0), Some(Place::First));
        }
        assert_eq!(fair.next(true, 1), Some(Place::First));
        assert_eq!(fair.next(false, 1), Some(Place::Turn));
        assert_eq!(fair.next(false, 0), None);
    }

    #[test]
    fn the_device_has_enough_with_so_much() {
        let mut fair = Fair::new();
        fair.give(1, 7);
        fair.give(ENOUGH - 2, 8);
        assert_eq!(fair.next(false, 1), Some(Place::Turn));
        fair.give(1, 8);
        assert!(!fair.has_room(4));
        assert_eq!(fair.next(false, 4), None);
        for _ in 0..2 * FAVOURS_MAX {
            assert_eq!(fair.next(true, 4), Some(Place::First));
        }
        // It is more where more wait.
        assert_eq!(fair.next(true, 5), Some(Place::Turn));
        fair.give(ENOUGH_MAX, 9);
        fair.give(1, 8);
        assert!(!fair.has_room(usize::MAX));
        // Whatever was counted, a device that has nothing has room.
        fair.give(usize::MAX, 9);
        fair.take(1, 0);
        assert!(fair.has_room(1));
    }

    #[test]
    fn a_single_connection_fills_the_queue() {
        let mut fair = Fair::new();
        for _ in 0..100 {
            assert!(fair.has_room(1));
            fair.give(ENOUGH, 7);
        }
        // Until there is another.
        fair.give(1, 8);
        assert!(!fair.has_room(1));
        fair.give(1, 7);
        assert!(!fair.has_room(1));
        fair.take(98 * ENOUGH, 3);
        assert!(!fair.has_room(1));
        fair.take(2 * ENOUGH, 2);
        assert!(fair.has_room(1));
    }

    #[test]
    fn h3_absurd_numbers_give_an_answer() {
        let mut share = Share::new();
        share.spend(usize::MAX);
        share.spend(usize::MAX);
        assert!(!share.may_send());
        assert_eq!(cost(usize::MAX), usize::MAX);
        let mut fair = Fair::new();
        fair.take(usize::MAX, 7);
        assert!(fair.has_room(usize::MAX));
    }
}
