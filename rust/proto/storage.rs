// SPDX-License-Identifier: GPL-2.0

//! Storage: how a received payload is kept until it is read, so that memory stays near payload (K3).
//!
//! Credit bounds the payload that a peer can make us hold; this bounds the memory behind it. Receive
//! buffers are large, so a large payload takes the pages of its buffer along, without a copy. A
//! small one would pin a big buffer: it is copied, behind the last one if it has room, else into a
//! new buffer that has room for what follows.
//!
//! # The bound
//!
//! A stored buffer is *closed* when another follows it. Room that is lost by closing is less than
//! the payload that did not fit ([`Store::Compact`]), or is paid for by pages that are used well
//! enough ([`Store::TakePages`]): in both cases by the payload that follows. So the bytes of all
//! buffers are at most twice the payload in them, plus the room in the last. Compact buffers grow
//! with what is unread, so small ones are few. [`held_at_most`] says it in numbers; the tests count.
//!
//! Without memory for a buffer that has room for what follows, one of less room is made
//! ([`smaller`]). Only where there is none even for the payload alone are its pages taken, and only so
//! many that what is in them beside payload is no more than the connection's own buffer
//! ([`may_take_pages`]): then the packet has to wait for memory.

/// What is allocated along with the bytes of a linear sk_buff: headroom and `skb_shared_info`.
///
/// The kernel's allocator has buckets of powers of two. A capacity that is a power of two less this
/// fills its bucket, where a round one would take a bucket of twice the size.
const LINEAR_OVERHEAD: usize = 384;

/// An sk_buff, its shared info, and the allocator's rounding of both: generously.
// For tests.
#[allow(dead_code)]
const SKB_OVERHEAD: usize = 1024;

/// The smallest bucket of a compact buffer that is stored behind another.
const ALLOC_MIN: usize = 1024;

/// The greatest bucket of a compact buffer for small payloads.
const ALLOC_MAX: usize = 16 * 1024;

/// The greatest bucket for payloads over an eighth of the above, of which fewer would fit exactly.
const ALLOC_MAX_LARGE: usize = 2 * ALLOC_MAX;

/// A payload that has arrived, and what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes of payload.
    pub payload: usize,
    /// Bytes of memory of the receive buffer that it came in.
    pub buffer: usize,
    /// Bytes that can be appended to the last stored buffer: zero if there is none, if its bytes
    /// are pages, or if the payload begins another message than the last one belongs to.
    pub tail_room: usize,
    /// Bytes stored and unread.
    pub unread: usize,
}

/// Where a payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Copied behind the last stored buffer's bytes, where there is room.
    Append,
    /// Copied into a new linear buffer with room for `capacity` bytes, not less than the payload.
    Compact {
        /// Bytes of payload that the buffer must have room for, headroom not included.
        capacity: usize,
    },
    /// Stored as the receive buffer's own pages.
    TakePages,
}

/// Where to store a payload (K3).
pub fn store(arrival: &Arrival) -> Store {
    if arrival.payload <= arrival.tail_room {
        return Store::Append;
    }
    // Half of what is spent, the room lost behind the last buffer included, must be payload.
    if arrival.payload.saturating_mul(2) >= arrival.buffer.saturating_add(arrival.tail_room) {
        return Store::TakePages;
    }
    Store::Compact {
        capacity: capacity(arrival.payload, arrival.unread),
    }
}

/// Room for `payload`; with payload waiting already, for as much again as is waiting, in bounds.
fn capacity(payload: usize, unread: usize) -> usize {
    let ahead = match unread {
        // Nobody is behind: the reader keeps up, and the next one will find it gone.
        0 => 0,
        _ if payload > ALLOC_MAX / 8 => unread.clamp(ALLOC_MIN, ALLOC_MAX_LARGE),
        _ => unread.clamp(ALLOC_MIN, ALLOC_MAX),
    };
    payload
        .saturating_add(LINEAR_OVERHEAD)
        .max(ahead)
        .checked_next_power_of_two()
        .map_or(payload, |bucket| bucket.saturating_sub(LINEAR_OVERHEAD))
        .max(payload)
}

/// The room of a compact buffer for `payload`, where there is no memory for one of `capacity`: half as
/// large a bucket. None if the payload does not fit that.
pub fn smaller(capacity: usize, payload: usize) -> Option<usize> {
    let bucket = capacity.checked_add(LINEAR_OVERHEAD)?;
    let half = (bucket / 2).checked_sub(LINEAR_OVERHEAD)?;
    (half >= payload && half > 0).then_some(half)
}

/// Whether a payload that there is no memory to copy may take the pages that it came in, when `unused`
/// bytes of such pages are held already, and the connection's buffer is of `buf_alloc` bytes.
pub fn may_take_pages(arrival: &Arrival, unused: usize, buf_alloc: usize) -> bool {
    unused.saturating_add(arrival.buffer.saturating_sub(arrival.payload)) <= buf_alloc
}

/// The greatest memory, in bytes, that stored payload can hold, when `unread` bytes of it are unread,
/// and it came in receive buffers of `buffer` bytes.
///
/// Twice the payload; the overhead of sk_buffs that are half full at the least; the first buffer,
/// which may be read almost to its end; the last, which may be almost empty; and the few small ones.
///
/// What [`may_take_pages`] allows comes on top of that.
// For tests.
#[allow(dead_code)]
pub const fn held_at_most(unread: usize, buffer: usize) -> usize {
    let greatest = if buffer > ALLOC_MAX_LARGE {
        buffer
    } else {
        ALLOC_MAX_LARGE
    };
    let step = if buffer < ALLOC_MAX {
        buffer
    } else {
        ALLOC_MAX
    };
    // In two buffers that follow each other, both big ones, there is more payload than a step.
    let pairs = match unread.checked_div(step) {
        Some(pairs) => pairs,
        None => unread,
    };
    let buffers = pairs.saturating_mul(2).saturating_add(24);
    unread
        .saturating_mul(2)
        .saturating_add(buffers.saturating_mul(SKB_OVERHEAD))
        .saturating_add(greatest.saturating_mul(3))
}

/// Counts stored messages without payload: they cost no credit, so their number is bounded (K3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Empties {
    stored: u32,
}

impl Empties {
    /// How many may be stored.
    pub const MAX: u32 = 1024;

    /// None stored.
    pub const fn new() -> Self {
        Self { stored: 0 }
    }

    /// Counts one more; false if there are too many, and the connection is to be reset.
    #[must_use]
    pub fn store(&mut self) -> bool {
        let room = self.stored < Self::MAX;
        if room {
            // OVERFLOW: below `MAX`.
            self.stored = self.stored.saturating_add(1);
        }
        room
    }

    /// Counts one less: it was read.
    pub fn read(&mut self) {
        self.stored = self.stored.saturating_sub(1);
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_storage))]
mod tests {
    use super::*;

    const BUFFER: usize = 32 * 1024;

    const fn arrival(payload: usize, tail_room: usize, unread: usize) -> Arrival {
        Arrival {
            payload,
            buffer: BUFFER,
            tail_room,
            unread,
        }
    }

    /// The capacity of a compact buffer, zero for the other outcomes.
    fn compact(arrival: &Arrival) -> usize {
        match store(arrival) {
            Store::Compact { capacity } => capacity,
            Store::Append | Store::TakePages => 0,
        }
    }

    #[test]
    fn k3_appended_while_there_is_room() {
        assert_eq!(store(&arrival(100, 100, 500)), Store::Append);
        assert!(store(&arrival(101, 100, 500)) != Store::Append);
        assert_eq!(store(&arrival(1, 1, 1)), Store::Append);
        // A payload that would take its pages is copied when the room is there already.
        assert_eq!(store(&arrival(BUFFER, BUFFER, 1)), Store::Append);
        assert_eq!(store(&arrival(0, 0, 0)), Store::Append);
    }

    #[test]
    fn k3_pages_are_taken_from_half_a_buffer_on() {
        assert_eq!(store(&arrival(BUFFER / 2, 0, 0)), Store::TakePages);
        assert!(compact(&arrival(BUFFER / 2 - 1, 0, 0)) >= BUFFER / 2 - 1);
        assert_eq!(store(&arrival(BUFFER, 0, 0)), Store::TakePages);
    }

    #[test]
    fn k3_lost_room_is_paid_for_by_the_pages_that_follow() {
        let room = 1000;
        assert_eq!(
            store(&arrival((BUFFER + room) / 2, room, 9)),
            Store::TakePages
        );
        assert!(compact(&arrival((BUFFER + room) / 2 - 1, room, 9)) > 0);
    }

    #[test]
    fn k3_first_buffer_just_fits_its_bucket() {
        assert_eq!(compact(&arrival(1, 0, 0)), 512 - LINEAR_OVERHEAD);
        assert_eq!(compact(&arrival(128, 0, 0)), 128);
        assert_eq!(compact(&arrival(129, 0, 0)), 1024 - LINEAR_OVERHEAD);
        assert_eq!(
            compact(&arrival(ALLOC_MAX - LINEAR_OVERHEAD, 0, 0)),
            ALLOC_MAX - LINEAR_OVERHEAD
        );
    }

    #[test]
    fn k3_later_buffers_grow_with_what_is_unread() {
        assert_eq!(compact(&arrival(1, 0, 1)), 1024 - LINEAR_OVERHEAD);
        assert_eq!(compact(&arrival(1, 0, 1024)), 1024 - LINEAR_OVERHEAD);
        assert_eq!(compact(&arrival(1, 0, 1025)), 2048 - LINEAR_OVERHEAD);
        assert_eq!(
            compact(&arrival(1, 0, ALLOC_MAX)),
            ALLOC_MAX - LINEAR_OVERHEAD
        );
        assert_eq!(
            compact(&arrival(1, 0, usize::MAX)),
            ALLOC_MAX - LINEAR_OVERHEAD
        );
        assert_eq!(
            compact(&arrival(2048, 0, usize::MAX)),
            ALLOC_MAX - LINEAR_OVERHEAD
        );
        assert_eq!(
            compact(&arrival(2049, 0, usize::MAX)),
            ALLOC_MAX_LARGE - LINEAR_OVERHEAD
        );
        // Never less than the payload.
        assert_eq!(compact(&arrival(3000, 0, 1)), 4096 - LINEAR_OVERHEAD);
    }

    #[test]
    fn k3_less_room_without_memory() {
        let mut capacity = compact(&arrival(1, 0, usize::MAX));
        let mut tries = 0;
        while let Some(less) = smaller(capacity, 1) {
            assert!(less < capacity && less >= 1);
            capacity = less;
            tries += 1;
        }
        assert_eq!((capacity, tries), (512 - LINEAR_OVERHEAD, 5));
        assert_eq!(smaller(8192 - LINEAR_OVERHEAD, 3712), Some(3712));
        assert_eq!(smaller(8192 - LINEAR_OVERHEAD, 3713), None);
        assert_eq!(smaller(0, 0), None);
        assert_eq!(smaller(usize::MAX, 0), None);
    }

    #[test]
    fn k3_pages_without_memory_up_to_the_buffer() {
        let small = arrival(1, 0, 0);
        assert!(may_take_pages(&small, 0, BUFFER - 1));
        assert!(!may_take_pages(&small, 0, BUFFER - 2));
        assert!(may_take_pages(&small, BUFFER, 2 * BUFFER - 1));
        assert!(!may_take_pages(&small, BUFFER, 2 * BUFFER - 2));
        assert!(!may_take_pages(&small, usize::MAX, BUFFER));
    }

    #[test]
    fn h3_absurd_numbers_give_an_answer() {
        let absurd = Arrival {
            payload: usize::MAX,
            buffer: usize::MAX,
            tail_room: 0,
            unread: usize::MAX,
        };
        assert_eq!(store(&absurd), Store::TakePages);
        assert_eq!(capacity(usize::MAX, usize::MAX), usize::MAX);
        assert_eq!(capacity(usize::MAX / 2 + 1, 0), usize::MAX / 2 + 1);
        assert_eq!(held_at_most(usize::MAX, 0), usize::MAX);
        assert_eq!(held_at_most(usize::MAX, usize::MAX), usize::MAX);
    }

    #[test]
    fn k3_empty_messages_are_bounded_by_number() {
        let mut empties = Empties::new();
        // Reading what was never stored changes nothing.
        empties.read();
        for _ in 0..Empties::MAX {
            assert!(empties.store());
        }
        assert!(!empties.store());
        empties.read();
        assert!(empties.store());
        assert!(!empties.store());
    }
}
