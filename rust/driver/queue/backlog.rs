// SPDX-License-Identifier: GPL-2.0

//! What of a connection waits for room in the transmit queue, how much memory that may be (K5), and how its
//! writer comes to room (K6).
//!
//! Small writes would each be a packet, of a kilobyte for a byte: while the device has not yet taken what went
//! before, they are put together in one that stays here, open, as [`Cork`] says.

mod gauge;
mod held;

use super::packet::{
    self,
    Open,
    Packet,
    Sent, //
};
use crate::{
    ext::{
        compat::smp_mb,
        net::skbuff::SkBuffQueue,
        sync::{
            new_spinlock_bh,
            SpinLockBh, //
        }, //
    },
    proto::{
        After,
        Cork,
        Place,
        Share, //
    }, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        AtomicFlag,
        Relaxed, //
    }, //
};

/// The memory of the open packets of all connections, in bytes.
static OPEN_MEMORY: Atomic<i64> = Atomic::new(0);

/// The memory of the open packets of all connections, in bytes.
pub(super) fn open_memory() -> usize {
    // Relaxed: a number by itself.
    usize::try_from(OPEN_MEMORY.load(Relaxed)).unwrap_or(0)
}

/// What of a connection waits.
///
/// There is an open packet only while payload of the connection is before it, or a worker is to send it, or its user
/// has said that more follows: so whoever takes the last of that takes the open one too, or has the worker do it.
///
/// # Context
///
/// Nothing of it sleeps. It takes `Backlog::inner`, and no lock within.
#[pin_data]
pub(in crate::driver) struct Backlog {
    /// Bytes of the user's that the device has not yet taken.
    unsent: Atomic<i64>,
    /// There is an open packet; said under the lock as well.
    has_open: AtomicFlag,
    #[pin]
    inner: SpinLockBh<Inner>,
}

struct Inner {
    /// Packets that wait in their order; the open one is not among them.
    packets: usize,
    /// One of them is in a list of all, and the rest is behind it.
    listed: bool,
    /// They wait for turns of an interface's scheduler, which was asked for so many.
    held: bool,
    asked: usize,
    rest: SkBuffQueue<Sent>,
    share: Share,
    /// The memory of those with payload, the open one included, in bytes.
    memory: usize,
    /// With so much, the writer has to wait.
    limit: usize,
    open: Option<Open>,
    cork: Cork,
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
            has_open: AtomicFlag::new(false),
            inner <- new_spinlock_bh!(
                Inner {
                    packets: 0,
                    listed: false,
                    held: false,
                    asked: 0,
                    rest: SkBuffQueue::new(),
                    share: Share::new(),
                    memory: 0,
                    limit: limit(buf_alloc),
                    open: None,
                    cork: Cork::new(),
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

    /// Whether packets of the connection wait, the open one included.
    pub(super) fn has_packets(&self) -> bool {
        let inner = self.inner.lock();
        inner.packets > 0 || inner.open.is_some()
    }

    /// Counts a packet with payload that is not open, and is before the next one from now on.
    pub(super) fn send(&self) {
        self.inner.lock().cork.send();
    }

    /// Counts one that the device has taken, or that was dropped; says what becomes of the open one. If that goes, the
    /// caller takes it out.
    pub(super) fn take(&self) -> After {
        let mut inner = self.inner.lock();
        let open = inner.open.as_ref().map(|open| open.len());
        inner.cork.take(open)
    }

    /// The room of an open packet that a write of `len` bytes is to begin, as [`Cork::begin`].
    pub(in crate::driver) fn begin(&self, len: usize, more: bool) -> Option<usize> {
        self.inner.lock().cork.begin(len, more)
    }

    /// Counts a packet of the connection that enters the list, of `memory` bytes if it has payload.
    pub(super) fn count_in(&self, memory: usize) {
        let mut inner = self.inner.lock();
        inner.packets = inner.packets.saturating_add(1);
        inner.memory = inner.memory.saturating_add(memory);
    }

    /// Counts a packet of the connection that has left the list.
    pub(super) fn count_out(&self, memory: usize) {
        let mut inner = self.inner.lock();
        inner.packets = inner.packets.saturating_sub(1);
        inner.memory = inner.memory.saturating_sub(memory);
    }

    /// Where `packet` would wait, if none of the connection does.
    pub(super) fn place(&self, packet: &Packet) -> Place {
        self.inner.lock().place(packet)
    }

    /// Has `packet` wait behind what does of the connection; if nothing does, returns it, and where it is to wait for
    /// all.
    pub(super) fn list(&self, packet: Packet) -> Option<(Packet, Place)> {
        let mut inner = self.inner.lock();
        if inner.listed {
            inner.rest.push_back(packet);
            return None;
        }
        inner.listed = true;
        inner.share = Share::new();
        let place = inner.place(&packet);
        Some((packet, place))
    }

    /// Whether the connection, whose turn it is, may send a packet in it.
    pub(super) fn may_send(&self) -> bool {
        self.inner.lock().share.may_send()
    }

    /// The packet of the connection that waited for all has left from `place`, at `cost`; returns the one behind it, which
    /// is to wait there now.
    pub(super) fn advance(&self, place: Place, cost: usize) -> Option<Packet> {
        let mut inner = self.inner.lock();
        if place == Place::Turn {
            inner.share.spend(cost);
        }
        let next = inner.rest.pop_front();
        inner.listed = next.is_some();
        next
    }

    /// None of the connection waits for all any more, or for turns; returns what was behind it, or did.
    pub(super) fn unlist(&self) -> SkBuffQueue<Sent> {
        let mut inner = self.inner.lock();
        inner.listed = false;
        inner.held = false;
        core::mem::take(&mut inner.rest)
    }

    /// Whether one of the connection is in a list of all.
    pub(super) fn is_listed(&self) -> bool {
        self.inner.lock().listed
    }

    /// Keeps `packet` open, behind what is before it; returns it if it has nothing to wait for, or is full, or there
    /// is one already.
    pub(super) fn park(&self, packet: Open) -> Option<Packet> {
        let mut inner = self.inner.lock();
        if !inner.waits(&packet) || inner.open.is_some() {
            return Some(packet.close());
        }
        let memory = packet.truesize();
        inner.memory = inner.memory.saturating_add(memory);
        OPEN_MEMORY.add(memory as i64, Relaxed);
        inner.open = Some(packet);
        self.has_open.store(true, Relaxed);
        None
    }

    /// Has `add` add to the open packet, if there is one, and returns what it says; and the packet, if nothing is
    /// before it any more, or it is full: it is to be sent. One thread at a time: the socket's owner.
    ///
    /// # Context
    ///
    /// Nothing is locked while `add` runs, which may sleep.
    pub(in crate::driver) fn add_to_open<R>(
        &self,
        add: impl FnOnce(&mut Open) -> R,
    ) -> Option<(R, Option<Packet>)> {
        // It counts meanwhile.
        let mut open = self.inner.lock().open.take()?;
        let added = add(&mut open);
        let mut inner = self.inner.lock();
        if inner.waits(&open) {
            inner.open = Some(open);
            return Some((added, None));
        }
        inner.open = Some(open);
        Some((added, self.take_out(&mut inner)))
    }

    /// Takes the open packet out, to be sent, or to be dropped.
    pub(in crate::driver) fn take_open(&self) -> Option<Packet> {
        self.take_out(&mut self.inner.lock())
    }

    /// Takes the open packet out if it lingers, to be sent. If it is just being added to, whoever does that finds that
    /// it does not linger any more.
    pub(super) fn take_lingering(&self) -> Option<Packet> {
        let mut inner = self.inner.lock();
        if inner.cork.lingers() {
            self.take_out(&mut inner)
        } else {
            None
        }
    }

    fn take_out(&self, inner: &mut Inner) -> Option<Packet> {
        inner.cork.go();
        let open = inner.open.take()?;
        self.has_open.store(false, Relaxed);
        let memory = open.truesize();
        inner.memory = inner.memory.saturating_sub(memory);
        OPEN_MEMORY.add(-(memory as i64), Relaxed);
        Some(open.close())
    }

    /// Whether there is an open packet.
    pub(in crate::driver) fn has_open(&self) -> bool {
        // Relaxed: who parks it is the socket's owner, as is who asks; for others it is a hint.
        self.has_open.load(Relaxed)
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
    /// Where `packet` waits, if none of the connection does: payload goes first with none before it.
    fn place(&self, packet: &Packet) -> Place {
        if packet.control().cause().has_bytes() && self.cork.has_before_last() {
            Place::Turn
        } else {
            Place::First
        }
    }

    /// Whether an open packet stays open: not if it is full, or waits for nothing.
    fn waits(&mut self, open: &Open) -> bool {
        let full = open.room() == 0;
        if full {
            self.cork.fill();
        }
        !full && self.cork.waits(packet::more_follows(open))
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
    use crate::ext::net::msg::Msg;

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
        backlog.count_out(1);
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
        backlog.count_out(3000);
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

    /// Adds `len` bytes to the open packet; returns which packet is to be sent, zero if none, or none if there is no
    /// open one.
    fn add(sender: &TestSender, len: usize) -> Option<u32> {
        let (added, packet) = sender
            .backlog()
            .add_to_open(|open| Msg::with_data(&[0; 4096], |msg| packet::extend(open, msg, len)))?;
        added.ok()?;
        Some(number_of(packet.as_ref()))
    }

    #[test]
    fn a_packet_stays_open_only_behind_payload() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.count_in(10);
        let refused = backlog.park(sender.open(1, 5)?);
        assert_eq!(number_of(refused.as_ref()), 1);
        assert!(!backlog.has_open());
        assert_eq!(counts(&sender), (1, 10));
        backlog.count_out(10);
        assert!(add(&sender, 1).is_none());
        Ok(())
    }

    #[test]
    fn the_open_packet_leaves_with_the_last_before_it() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.send();
        backlog.send();
        let open = sender.open(1, 5)?;
        let memory = open.truesize();
        let before = open_memory();
        assert!(backlog.park(open).is_none());
        assert!(backlog.has_open() && backlog.has_packets());
        assert_eq!(counts(&sender), (0, memory));
        assert_eq!(open_memory(), before + memory);
        // There is one at a time.
        let second = backlog.park(sender.open(2, 5)?);
        assert_eq!(number_of(second.as_ref()), 2);
        assert_eq!(backlog.take(), After::Waits);
        assert!(backlog.take_lingering().is_none());
        assert_eq!(backlog.take(), After::Lingers);
        assert!(backlog.has_open());
        let open = backlog.take_lingering();
        assert_eq!(number_of(open.as_ref()), 1);
        assert!(!backlog.has_packets() && !backlog.has_open());
        assert_eq!(counts(&sender), (0, 0));
        assert_eq!(open_memory(), before);
        Ok(())
    }

    #[test]
    fn the_open_packet_is_added_to_until_it_is_full() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.send();
        assert!(backlog.park(sender.open(1, 5)?).is_none());
        let memory = counts(&sender);
        assert_eq!(add(&sender, 100), Some(0));
        assert_eq!(counts(&sender), memory);
        assert_eq!(add(&sender, 4096), Some(1));
        assert!(!backlog.has_open());
        assert_eq!(counts(&sender), (0, 0));
        assert_eq!(backlog.take(), After::Waits);
        Ok(())
    }

    #[test]
    fn what_is_added_to_goes_when_its_turn_has_come_meanwhile() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.send();
        assert!(backlog.park(sender.open(1, 5)?).is_none());
        let added = backlog.add_to_open(|_| backlog.take());
        let Some((After::Waits, Some(open))) = added else {
            return Err(EIO);
        };
        assert_eq!(number_of(Some(&open)), 1);
        assert_eq!(counts(&sender), (0, 0));
        Ok(())
    }

    #[test]
    fn k7_what_lingers_while_it_is_added_to_goes_then() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        backlog.send();
        assert!(backlog.park(sender.open(1, 5)?).is_none());
        assert_eq!(backlog.take(), After::Lingers);
        assert_eq!(add(&sender, 1), Some(0));
        let added = backlog.add_to_open(|_| backlog.take_lingering().is_some());
        let Some((false, Some(open))) = added else {
            return Err(EIO);
        };
        assert_eq!(number_of(Some(&open)), 1);
        assert!(!backlog.has_open());
        Ok(())
    }

    #[test]
    fn a_packet_that_is_before_another_is_so_until_it_has_gone() -> Result {
        let sender = TestSender::new(1000)?;
        let backlog = sender.backlog();
        let mut first = sender.data(1, 5)?;
        first.control_mut().close();
        first.control_mut().close();
        assert!(backlog.park(sender.open(2, 5)?).is_none());
        // It was not the device that took it: what was to follow it goes, too.
        drop(first);
        assert!(!backlog.has_open());
        assert_eq!(sender.taken(), 2);
        // Control packets are before nothing.
        let mut request = sender.packet(3, Cause::Call)?;
        request.control_mut().close();
        let refused = backlog.park(sender.open(4, 5)?);
        assert_eq!(number_of(refused.as_ref()), 4);
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
