// SPDX-License-Identifier: GPL-2.0

//! What of a connection waits for room in the transmit queue, how much memory that may be (K5), and how its
//! writer comes to room (K6).
//!
//! Small writes would each be a packet, of a kilobyte for a byte: while packets of the connection wait,
//! they are put together in one that stays here, open, until it is full, something else follows, or its
//! turn comes.

use super::packet::Packet;
use crate::ext::{
    compat::smp_mb,
    sync::{
        new_spinlock_bh,
        SpinLockBh, //
    }, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// What of a connection waits.
///
/// There is an open packet only while other packets of the connection wait, whose turn comes first: so
/// whoever takes the last of those takes the open one too.
///
/// # Context
///
/// Nothing of it sleeps. It takes `Backlog::inner`, and no lock within.
#[pin_data]
pub(in crate::driver) struct Backlog {
    /// Bytes of the user's that the device has not yet taken.
    unsent: Atomic<i64>,
    #[pin]
    inner: SpinLockBh<Inner>,
}

struct Inner {
    /// Packets in the list of all that wait; the open one is not among them.
    packets: usize,
    /// The memory of those with payload, the open one included, in bytes.
    memory: usize,
    /// With so much, the writer has to wait.
    limit: usize,
    open: Option<Packet>,
    /// A writer was told that there is no room.
    refused: bool,
}

/// What may wait of a connection with a buffer of `buf_alloc` bytes, in bytes of memory.
const fn limit(buf_alloc: u32) -> usize {
    (buf_alloc as usize).saturating_mul(2)
}

impl Backlog {
    /// Nothing, of a connection with a buffer of `buf_alloc` bytes.
    pub(in crate::driver) fn new(buf_alloc: u32) -> impl PinInit<Self> {
        pin_init!(Self {
            unsent: Atomic::new(0),
            inner <- new_spinlock_bh!(
                Inner {
                    packets: 0,
                    memory: 0,
                    limit: limit(buf_alloc),
                    open: None,
                    refused: false,
                },
                "Backlog::inner"
            ),
        })
    }

    /// Counts a packet that was made, with so many bytes of the user's.
    pub(super) fn add_unsent(&self, bytes: u32) {
        self.unsent.add(i64::from(bytes), Relaxed);
    }

    /// Counts a packet that has gone, with so many bytes: all go, whatever becomes of them.
    pub(super) fn subtract_unsent(&self, bytes: u32) {
        self.unsent.add(-i64::from(bytes), Relaxed);
    }

    /// The number of bytes that the device has not yet taken.
    pub(in crate::driver) fn unsent(&self) -> usize {
        // Whoever waits for it to be zero has put himself where he is woken, and must not look before that is seen:
        // who wakes looks for him after he has counted.
        smp_mb();
        // Relaxed, as is the counting: a number by itself.
        usize::try_from(self.unsent.load(Relaxed)).unwrap_or(0)
    }

    /// Notes the new size of the connection's buffer. Returns whether a writer is to be told of room.
    pub(in crate::driver) fn set_buf_alloc(&self, buf_alloc: u32) -> bool {
        self.inner.lock().limit = limit(buf_alloc);
        self.has_room_again()
    }

    /// Whether packets of the connection wait.
    pub(super) fn has_packets(&self) -> bool {
        self.inner.lock().packets > 0
    }

    /// Counts a packet of the connection that enters the list, of `memory` bytes if it has payload.
    pub(super) fn count_in(&self, memory: usize) {
        let mut inner = self.inner.lock();
        inner.packets = inner.packets.saturating_add(1);
        inner.memory = inner.memory.saturating_add(memory);
    }

    /// Counts a packet of the connection that has left the list. If it was the last one, returns the open
    /// one.
    pub(super) fn count_out(&self, memory: usize) -> Option<Packet> {
        let mut inner = self.inner.lock();
        inner.packets = inner.packets.saturating_sub(1);
        inner.memory = inner.memory.saturating_sub(memory);
        if inner.packets == 0 {
            inner.take_open()
        } else {
            None
        }
    }

    /// Keeps `packet` open behind those that wait; returns it if there are none.
    pub(super) fn park(&self, packet: Packet) -> Option<Packet> {
        let mut inner = self.inner.lock();
        if inner.packets == 0 {
            return Some(packet);
        }
        inner.memory = inner.memory.saturating_add(packet.truesize());
        inner.open.replace(packet)
    }

    /// Takes the open packet out: to be added to, or to be closed.
    pub(super) fn take_open(&self) -> Option<Packet> {
        self.inner.lock().take_open()
    }

    /// Whether there is an open packet.
    pub(in crate::driver) fn has_open(&self) -> bool {
        self.inner.lock().open.is_some()
    }

    /// Whether a writer has to wait for memory; one that does is told when there is room.
    pub(in crate::driver) fn is_full(&self) -> bool {
        let mut inner = self.inner.lock();
        let full = inner.memory >= inner.limit;
        inner.refused |= full;
        full
    }

    /// Notes that a writer is to be told when there is room, for whatever reason there is none.
    pub(in crate::driver) fn note_refusal(&self) {
        self.inner.lock().refused = true;
    }

    /// Whether there is room for a writer who was told that there is none; the caller tells him.
    pub(in crate::driver) fn has_room_again(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.memory < inner.limit && core::mem::replace(&mut inner.refused, false)
    }
}

impl Inner {
    fn take_open(&mut self) -> Option<Packet> {
        let open = self.open.take()?;
        self.memory = self.memory.saturating_sub(open.truesize());
        Some(open)
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_backlog)]
mod tests {
    use super::{
        super::packet::{
            testing::{
                number_of,
                TestSender, //
            },
            Cause,
            Sender, //
        },
        *, //
    };

    /// How many packets of the sender wait, and of what memory.
    fn counts(sender: &TestSender) -> (usize, usize) {
        let inner = sender.backlog().inner.lock();
        (inner.packets, inner.memory)
    }

    #[test]
    fn k5_a_writer_waits_with_twice_its_buffer() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.count_in(1999);
        assert!(!backlog.is_full());
        backlog.count_in(1);
        assert!(backlog.is_full());
        // There is room below the limit, and it is said once.
        assert!(!backlog.has_room_again());
        assert!(backlog.count_out(1).is_none());
        assert!(backlog.has_room_again());
        assert!(!backlog.has_room_again());
        assert!(!backlog.is_full());
        assert!(!backlog.has_room_again());
        Ok(())
    }

    #[test]
    fn k6_a_larger_buffer_is_room_and_a_smaller_one_none() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.count_in(3000);
        assert!(backlog.is_full());
        assert!(!backlog.set_buf_alloc(1500));
        assert!(backlog.set_buf_alloc(1501));
        assert!(!backlog.set_buf_alloc(2000));
        assert!(!backlog.set_buf_alloc(1500));
        assert!(backlog.is_full());
        assert!(backlog.set_buf_alloc(u32::MAX));
        let _ = backlog.count_out(3000);
        Ok(())
    }

    #[test]
    fn k6_whoever_was_refused_for_another_reason_is_told() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        assert!(!backlog.has_room_again());
        backlog.note_refusal();
        backlog.note_refusal();
        assert!(backlog.has_room_again());
        assert!(!backlog.has_room_again());
        Ok(())
    }

    #[test]
    fn a_packet_stays_open_only_behind_others() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        let refused = backlog.park(sender.data(1, 5, true)?);
        assert_eq!(number_of(refused.as_ref()), 1);
        assert!(!backlog.has_open());
        assert_eq!(counts(&sender), (0, 0));
        Ok(())
    }

    #[test]
    fn the_open_packet_leaves_with_the_last_before_it() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.count_in(10);
        backlog.count_in(20);
        let open = sender.data(1, 5, true)?;
        let memory = open.truesize();
        assert!(backlog.park(open).is_none());
        assert!(backlog.has_open());
        assert_eq!(counts(&sender), (2, 30 + memory));
        assert!(backlog.count_out(10).is_none());
        assert!(backlog.has_packets());
        let open = backlog.count_out(20);
        assert_eq!(number_of(open.as_ref()), 1);
        assert!(!backlog.has_packets() && !backlog.has_open());
        assert_eq!(counts(&sender), (0, 0));
        Ok(())
    }

    #[test]
    fn the_open_packet_is_taken_to_be_added_to() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.count_in(10);
        assert!(backlog.take_open().is_none());
        let _ = backlog.park(sender.data(1, 5, true)?);
        let open = backlog.take_open();
        assert_eq!(number_of(open.as_ref()), 1);
        assert!(!backlog.has_open());
        assert_eq!(counts(&sender), (1, 10));
        let _ = backlog.count_out(10);
        Ok(())
    }

    #[test]
    fn bytes_are_unsent_until_their_packet_has_gone() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.add_unsent(u32::MAX);
        backlog.add_unsent(5);
        assert_eq!(backlog.unsent(), u32::MAX as usize + 5);
        backlog.subtract_unsent(u32::MAX);
        drop(sender.packet(1, Cause::Call)?);
        assert_eq!(backlog.unsent(), 5);
        backlog.subtract_unsent(5);
        assert_eq!(backlog.unsent(), 0);
        Ok(())
    }
}
