// SPDX-License-Identifier: GPL-2.0

//! Cork: small writes of a stream wait for one another while the device is behind.
//!
//! A write costs what a packet costs, on both sides, however few its bytes are. While the device has not yet
//! taken what a connection sent before, a write can wait without loss: it stays in an open packet, and the
//! writes that follow are added to it. That packet goes
//!
//! - when the device has taken all payload that went before it, which interrupts are asked for. Then it lingers until a
//!   worker has its turn, so that a user who is at it can add more where the device keeps up: that costs two
//!   processors nothing, and one of them the time for which the user does not give it away;
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

/// With so many bytes, a packet does not linger.
const LINGERS_MAX: usize = ROOM_MAX / 2;

/// What becomes of the open packet when the device has taken one that was before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It waits on, or there is none.
    Waits,
    /// It waits for a worker, which is to send it.
    Lingers,
    /// It is to be sent.
    Goes,
}

/// What of a connection's payload is before its next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cork {
    /// Packets with payload that wait to be given to the device, or that it has.
    ahead: usize,
    /// The room of the next open packet.
    room: usize,
    /// Nothing is before the open packet, and a worker is to send it.
    lingers: bool,
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
            lingers: false,
        }
    }

    /// A packet with payload is sent, and not open any more.
    pub fn send(&mut self) {
        self.ahead = self.ahead.saturating_add(1);
    }

    /// The device has taken one, or it was dropped. Says what becomes of the open packet, which has `open` bytes, if
    /// there is one.
    pub fn take(&mut self, open: Option<usize>) -> After {
        self.ahead = self.ahead.saturating_sub(1);
        match open {
            Some(len) if self.ahead == 0 => {
                self.lingers = len < LINGERS_MAX;
                if self.lingers {
                    After::Lingers
                } else {
                    After::Goes
                }
            }
            _ => After::Waits,
        }
    }

    /// Whether the open packet waits for a worker.
    pub const fn lingers(&self) -> bool {
        self.lingers
    }

    /// The open packet goes.
    pub fn go(&mut self) {
        self.lingers = false;
    }

    /// The room for payload of an open packet that a write of `len` bytes is to begin; none if it is a packet by
    /// itself. `more`: the user says that more follows.
    pub fn begin(&mut self, len: usize, more: bool) -> Option<usize> {
        if self.ahead == 0 {
            // The device keeps up.
            self.room = (self.room / 2).max(ROOM_MIN);
        }
        (self.waits(more) && len <= JOINED_MAX)
            .then(|| self.room.max(len.saturating_mul(2)).min(ROOM_MAX))
    }

    /// Whether a packet with room for more waits for it. `more` as in [`begin`](Self::begin).
    pub const fn waits(&self, more: bool) -> bool {
        self.ahead > 0 || self.lingers || more
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
        assert_eq!(cork.take(None), After::Waits);
        assert!(!cork.waits(false) && !cork.lingers());
        assert_eq!(cork.begin(1, false), None);
    }

    #[test]
    fn what_follows_waits_for_all_that_is_before() {
        let mut cork = Cork::new();
        cork.send();
        cork.send();
        assert!(cork.begin(1, false).is_some());
        assert!(cork.has_before_last());
        assert_eq!(cork.take(Some(1)), After::Waits);
        assert!(cork.waits(false) && !cork.has_before_last());
        assert_eq!(cork.take(Some(LINGERS_MAX)), After::Goes);
        assert!(!cork.waits(false));
        // One more is nobody's.
        assert_eq!(cork.take(None), After::Waits);
    }

    #[test]
    fn k7_a_small_packet_lingers_for_a_worker() {
        let mut cork = Cork::new();
        cork.send();
        assert_eq!(cork.take(Some(LINGERS_MAX - 1)), After::Lingers);
        assert!(cork.waits(false) && cork.lingers());
        cork.go();
        assert!(!cork.waits(false));
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
        assert_eq!(cork.take(None), After::Waits);
        assert_eq!(cork.begin(1, false), None);
        cork.send();
        assert_eq!(cork.begin(1, false), Some(ROOM_MAX / 2));
        assert_eq!(cork.take(None), After::Waits);
        for _ in 0..64 {
            assert_eq!(cork.begin(1, false), None);
        }
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
