// SPDX-License-Identifier: GPL-2.0

//! Receive buffers that the device has, and when it must be told of new ones.
//!
//! To tell costs, on most machines an exit of the guest. A device that has buffers finds new ones by
//! itself; one that had too few for its next packet sleeps until it is told. Nobody says when that
//! is so, but it cannot be before the device has used nearly all that it had when it was told last,
//! and what it uses comes back and is counted.
//!
//! How many it is to have follows the load: few at rest, as they are memory that nobody else has, and twice as
//! many, to a limit, whenever a turn of receiving finds as many packets as there are buffers. Many turns with few packets
//! halve them again: those that are used are then not replaced.

use super::DGRAM_MAX;
use crate::wire::HEADER_LEN_MRG;

/// So many turns in a row must use a quarter of the buffers at the most before there are fewer.
const QUIET_TURNS: u32 = 256;

/// The buffers of a receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// How many the device is to have just now, at rest, and at the most.
    target: usize,
    rest: usize,
    most: usize,
    /// How many were taken back in this turn of receiving, and the turns in a row that used few.
    taken: usize,
    quiet: u32,
    /// How many the greatest packet may take.
    need: usize,
    /// How many the device has, used ones that were not taken back included.
    posted: usize,
    /// How many it was not told of.
    untold: usize,
    /// How many it had when it was told last, less those that were taken back since: so many it has
    /// had at any time since.
    left: usize,
}

impl Supply {
    /// None, of `rest` at rest and `most` at the most, where a packet may take `need`.
    pub fn new(rest: usize, most: usize, need: usize) -> Self {
        let rest = rest.min(most);
        Self {
            target: rest,
            rest,
            most,
            taken: 0,
            quiet: 0,
            need,
            posted: 0,
            untold: 0,
            left: 0,
        }
    }

    /// None yet, of as many buffers of `buffer` bytes as fit `memory`, or `at_rest`, in a queue for `queue` of them.
    ///
    /// Where they `merge`, there are as many at the least as the greatest packet takes: a device that waits for
    /// more than there will be waits for ever. No packet is greater than a datagram.
    pub fn divide(memory: usize, at_rest: usize, buffer: usize, merge: bool, queue: usize) -> Self {
        let need = if merge {
            DGRAM_MAX
                .saturating_add(HEADER_LEN_MRG)
                .div_ceil(buffer.max(1))
        } else {
            1
        };
        let fit = |memory: usize| {
            let fit = memory.checked_div(buffer).unwrap_or(0);
            fit.max(need).min(queue.max(1))
        };
        Self::new(fit(at_rest), fit(memory), need)
    }

    /// A turn of receiving begins: what the one before took says how many there are to be.
    pub fn begin_turn(&mut self) {
        let taken = core::mem::take(&mut self.taken);
        if taken >= self.target {
            self.target = self.target.saturating_mul(2).min(self.most);
        }
        if taken.saturating_mul(4) > self.target {
            self.quiet = 0;
            return;
        }
        self.quiet = self.quiet.saturating_add(1);
        if self.quiet >= QUIET_TURNS {
            self.quiet = 0;
            self.target = (self.target / 2).max(self.rest);
        }
    }

    /// How many the device is to have just now.
    pub const fn target(&self) -> usize {
        self.target
    }

    /// How many it has.
    pub const fn posted(&self) -> usize {
        self.posted
    }

    /// Whether it is to have more.
    pub const fn lacks_some(&self) -> bool {
        self.posted < self.target
    }

    /// Whether it has too few to go on for long.
    pub fn lacks_many(&self) -> bool {
        self.posted < self.target.div_ceil(2).max(self.need).min(self.target)
    }

    /// Whether it has just got what its next packet may need.
    pub const fn is_enough_just_now(&self) -> bool {
        self.posted == self.need
    }

    /// The device was given one.
    pub fn post(&mut self) {
        self.posted = self.posted.saturating_add(1);
        self.untold = self.untold.saturating_add(1);
    }

    /// One that it has used was taken back.
    pub fn take(&mut self) {
        self.posted = self.posted.saturating_sub(1);
        self.left = self.left.saturating_sub(1);
        self.taken = self.taken.saturating_add(1);
    }

    /// Whether the device must be told of what it was given: it may sleep for want of it, or is most
    /// of the way there.
    pub fn must_tell(&self) -> bool {
        self.untold > 0 && self.left <= self.need.max(self.target / 4)
    }

    /// The device is told.
    pub fn tell(&mut self) {
        self.untold = 0;
        self.left = self.posted;
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_supply))]
mod tests {
    use super::*;

    fn full(target: usize, need: usize) -> Supply {
        let mut supply = Supply::new(target, target, need);
        while supply.lacks_some() {
            supply.post();
        }
        supply.tell();
        supply
    }

    /// How often the device is told when so many packets of one buffer come one by one.
    fn told(mut supply: Supply, packets: u32) -> u32 {
        let mut count = 0;
        for _ in 0..packets {
            supply.take();
            supply.post();
            if supply.must_tell() {
                supply.tell();
                count += 1;
            }
        }
        count
    }

    /// Of how many buffers, and how many of them the greatest packet may take.
    fn divided(memory: usize, buffer: usize, merge: bool, queue: usize) -> (usize, usize) {
        let supply = Supply::divide(memory, memory, buffer, merge, queue);
        (supply.most, supply.need)
    }

    #[test]
    fn memory_is_divided_into_buffers_of_any_page_size() {
        const K: usize = 1024;
        // Of 32 KiB, or the least that pages of 64 KiB allow.
        assert_eq!(divided(1024 * K, 32 * K, false, 256), (32, 1));
        assert_eq!(divided(1024 * K, 64 * K, false, 256), (16, 1));
        // Of a page of 4, 16, 64 KiB.
        assert_eq!(divided(1024 * K, 4 * K, true, 1024), (256, 17));
        assert_eq!(divided(1024 * K, 16 * K, true, 1024), (64, 5));
        assert_eq!(divided(1024 * K, 64 * K, true, 1024), (16, 2));
        // The queue may be smaller.
        assert_eq!(divided(1024 * K, 4 * K, true, 128), (128, 17));
        assert_eq!(divided(0, 0, false, 0), (1, 1));
    }

    #[test]
    fn m1_the_greatest_packet_fits_whatever_the_memory() {
        const K: usize = 1024;
        assert_eq!(divided(32 * K, 4 * K, true, 256), (17, 17));
        assert_eq!(divided(32 * K, 16 * K, true, 256), (5, 5));
        assert_eq!(divided(32 * K, 64 * K, true, 256), (2, 2));
        assert_eq!(divided(32 * K, 64 * K, false, 256), (1, 1));
        // What the queue has no room for, no memory makes.
        assert_eq!(divided(32 * K, 4 * K, true, 16), (16, 17));
    }

    /// Takes back so many, and begins the next turn.
    fn turn(supply: &mut Supply, taken: usize) {
        (0..taken).for_each(|_| supply.take());
        supply.begin_turn();
    }

    #[test]
    fn few_at_rest_and_many_under_load() {
        const K: usize = 1024;
        let mut supply = Supply::divide(1024 * K, 384 * K, 32 * K, false, 256);
        assert_eq!((supply.target(), supply.most), (12, 32));
        turn(&mut supply, 11);
        assert_eq!(supply.target(), 12);
        turn(&mut supply, 12);
        assert_eq!(supply.target(), 24);
        turn(&mut supply, 24);
        turn(&mut supply, 64);
        assert_eq!(supply.target(), 32);
        // A load that comes again and again keeps them.
        for _ in 0..QUIET_TURNS {
            turn(&mut supply, 1);
            turn(&mut supply, 9);
        }
        assert_eq!(supply.target(), 32);
        for (turns, target) in [(QUIET_TURNS, 16), (QUIET_TURNS, 12), (QUIET_TURNS, 12)] {
            (0..turns).for_each(|_| turn(&mut supply, 2));
            assert_eq!(supply.target(), target);
        }
        // What the greatest packet may take is there at any time.
        let supply = Supply::divide(1024 * K, 384 * K, 64 * K, true, 256);
        assert!(supply.target() >= supply.need);
        let supply = Supply::divide(16 * 1024 * K, 384 * K, 4 * K, true, 1024);
        assert_eq!((supply.target(), supply.most), (96, 1024));
        let supply = Supply::divide(64 * K, 64 * K, 4 * K, true, 1024);
        assert_eq!((supply.target(), supply.most), (17, 17));
    }

    #[test]
    fn told_for_three_quarters_of_the_buffers_at_once() {
        assert_eq!(told(full(32, 1), 240), 10);
        assert_eq!(told(full(256, 17), 1920), 10);
    }

    #[test]
    fn told_each_time_when_there_is_but_one() {
        assert_eq!(told(full(1, 1), 10), 10);
        assert_eq!(told(full(2, 1), 10), 10);
        // A packet may take them all.
        assert_eq!(told(full(16, 17), 10), 10);
    }

    #[test]
    fn nothing_new_is_nothing_to_tell() {
        let mut supply = full(2, 1);
        supply.take();
        supply.take();
        assert!(!supply.must_tell());
        supply.post();
        assert!(supply.must_tell());
    }

    #[test]
    fn more_is_wanted_below_the_target_and_soon_below_half() {
        let mut supply = full(4, 1);
        assert!(!supply.lacks_some());
        supply.take();
        supply.take();
        assert!(supply.lacks_some() && !supply.lacks_many());
        supply.take();
        assert!(supply.lacks_many());
        supply.take();
        assert!(!supply.is_enough_just_now());
        supply.post();
        assert!(supply.is_enough_just_now());
        // One that is used twice is the device's lie.
        let mut none = Supply::new(1, 1, 1);
        none.take();
        assert_eq!(none.posted(), 0);
    }
}
