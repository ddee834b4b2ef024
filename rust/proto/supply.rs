// SPDX-License-Identifier: GPL-2.0

//! Receive buffers that the device has, and when it must be told of new ones.
//!
//! To tell costs, on most machines an exit of the guest. A device that has buffers finds new ones by
//! itself; one that had too few for its next packet sleeps until it is told. Nobody says when that
//! is so, but it cannot be before the device has used nearly all that it had when it was told last,
//! and what it uses comes back and is counted.

use super::DGRAM_MAX;
use crate::wire::HEADER_LEN_MRG;

/// The buffers of a receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// How many the device is to have.
    target: usize,
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
    /// None, of `target`, where a packet may take `need`.
    pub const fn new(target: usize, need: usize) -> Self {
        Self {
            target,
            need,
            posted: 0,
            untold: 0,
            left: 0,
        }
    }

    /// None yet, of as many buffers of `buffer` bytes as fit `memory`, in a queue for `queue` of them.
    ///
    /// Where they `merge`, there are as many at the least as the greatest packet takes: a device that waits for
    /// more than there will be waits for ever. No packet is greater than a datagram.
    pub fn divide(memory: usize, buffer: usize, merge: bool, queue: usize) -> Self {
        let need = if merge {
            DGRAM_MAX
                .saturating_add(HEADER_LEN_MRG)
                .div_ceil(buffer.max(1))
        } else {
            1
        };
        let fit = memory.checked_div(buffer).unwrap_or(0);
        Self::new(fit.max(need).min(queue.max(1)), need)
    }

    /// How many the device is to have.
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
    }

    /// Whether the device must be told of what it was given: it may sleep for want of it, or is halfway
    /// there.
    pub fn must_tell(&self) -> bool {
        self.untold > 0 && self.left <= self.need.max(self.target / 2)
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
        let mut supply = Supply::new(target, need);
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
        let supply = Supply::divide(memory, buffer, merge, queue);
        (supply.target, supply.need)
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

    #[test]
    fn told_for_half_of_the_buffers_at_once() {
        assert_eq!(told(full(32, 1), 160), 10);
        assert_eq!(told(full(256, 17), 1280), 10);
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
        let mut none = Supply::new(1, 1);
        none.take();
        assert_eq!(none.posted(), 0);
    }
}
