// SPDX-License-Identifier: GPL-2.0

//! Cork: small writes of a stream wait for one another while the device is behind.
//!
//! A write costs what a packet costs, on both sides, however few its bytes are. While the device has not yet
//! taken what a connection sent before, a write can wait without loss: it stays in an open packet, and the
//! writes that follow are added to it. That packet goes
//!
//! - when the device has taken all payload that went before it, which interrupts are asked for;
//! - when it is full, or anything follows that is no small write;
//! - when the connection's user waits for its peer, who may wait for these bytes.
//!
//! What finds nothing before it goes at once: a lone write waits for nothing, and a slow device gets
//! few large packets where a fast one gets many small ones. No timer has a part in it, but for `MSG_MORE`, by
//! which a user asks for the open packet where nothing is before it.
//!
//! It bounds the memory of small writes too (K5): an open packet has room for many, and each one that fills is
//! followed by one of twice the room.

/// The room of the first open packet, in bytes of payload.
const ROOM_MIN: usize = 1024;

/// The greatest room: of a packet that every host takes.
const ROOM_MAX: usize = 32 * 1024;

/// Greater writes are packets by themselves: two of them would not fit.
const JOINED_MAX: usize = ROOM_MAX / 2;

/// What of a connection's payload is before its next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cork {
    /// Packets with payload that wait to be given to the device, or that it has.
    ahead: usize,
    /// The room of the next open packet.
    room: usize,
}

impl Default for Cork {
    fn default() -> Self {
        Self::new()
    }
}

impl Cork {
    /// Nothing.
    pub const fn new() -> Self {
        Self {
            ahead: 0,
            room: ROOM_MIN,
        }
    }

    /// A packet with payload is sent, and not open any more.
    pub fn send(&mut self) {
        self.ahead = self.ahead.saturating_add(1);
    }

    /// The device has taken one, or it was dropped. Returns whether nothing is before the open packet, if there is
    /// one: it is to be sent.
    pub fn take(&mut self) -> bool {
        self.ahead = self.ahead.saturating_sub(1);
        self.ahead == 0
    }

    /// The room for payload of an open packet that a write of `len` bytes is to begin; none if it is a packet by
    /// itself. `more`: the user says that more follows.
    pub fn begin(&mut self, len: usize, more: bool) -> Option<usize> {
        if self.ahead == 0 {
            self.room = ROOM_MIN;
        }
        (self.waits(more) && len <= JOINED_MAX)
            .then(|| self.room.max(len.saturating_mul(2)).min(ROOM_MAX))
    }

    /// Whether a packet with room for more waits for it. `more` as in [`begin`](Self::begin).
    pub const fn waits(&self, more: bool) -> bool {
        self.ahead > 0 || more
    }

    /// Whether any of them is before the last.
    pub const fn has_before_last(&self) -> bool {
        self.ahead > 1
    }

    /// An open packet is full: the next one is to have more room.
    pub fn fill(&mut self) {
        self.room = self.room.saturating_mul(2).min(ROOM_MAX);
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_cork))]
mod tests {
    use super::*;

    #[test]
    fn a_lone_write_waits_for_nothing() {
        let mut cork = Cork::new();
        assert_eq!(cork.begin(1, false), None);
        cork.send();
        assert!(cork.waits(false));
        assert!(cork.take());
        assert!(!cork.waits(false));
        assert_eq!(cork.begin(1, false), None);
    }

    #[test]
    fn what_follows_waits_for_all_that_is_before() {
        let mut cork = Cork::new();
        cork.send();
        cork.send();
        assert!(cork.begin(1, false).is_some());
        assert!(cork.has_before_last());
        assert!(!cork.take());
        assert!(cork.waits(false) && !cork.has_before_last());
        assert!(cork.take());
        // One more is nobody's.
        assert!(cork.take());
    }

    #[test]
    fn more_waits_where_nothing_is_before() {
        let mut cork = Cork::new();
        assert!(cork.waits(true));
        assert!(cork.begin(1, true).is_some());
        assert_eq!(cork.begin(JOINED_MAX + 1, true), None);
    }

    #[test]
    fn room_grows_while_packets_fill() {
        let mut cork = Cork::new();
        cork.send();
        assert_eq!(cork.begin(1, false), Some(ROOM_MIN));
        cork.fill();
        assert_eq!(cork.begin(1, false), Some(2 * ROOM_MIN));
        for _ in 0..64 {
            cork.fill();
        }
        assert_eq!(cork.begin(1, false), Some(ROOM_MAX));
        // The device keeps up: there is little to wait for.
        assert!(cork.take());
        assert_eq!(cork.begin(1, false), None);
        cork.send();
        assert_eq!(cork.begin(1, false), Some(ROOM_MIN));
    }

    #[test]
    fn a_write_and_one_more_fit() {
        for len in [1, 1000, 4096, 10_000, JOINED_MAX] {
            let mut cork = Cork::new();
            cork.send();
            let room = cork.begin(len, false).unwrap_or(0);
            assert!(room >= 2 * len && room <= ROOM_MAX);
        }
    }
}
