// SPDX-License-Identifier: GPL-2.0

//! Packets that wait for room in a transmit queue, in their order, and how much memory they hold.

use super::{
    backlog,
    packet::{
        Cause,
        Packet,
        Sent, //
    },
};
use crate::{
    driver::stats::{
        Counter,
        STATS, //
    },
    ext::net::skbuff::SkBuffQueue, //
};

/// How many replies wait at most (C6): more are dropped, and their peers have time-outs.
const REPLIES_MAX: usize = 1024;

/// With payload of so much memory, in bytes, all writers have to wait (K5).
const MEMORY_MAX: usize = 16 << 20;

/// Down to this it must come before they go on, so that they are not woken for each packet.
const MEMORY_LOW: usize = MEMORY_MAX / 4 * 3;

/// Packets that wait.
///
/// # Context
///
/// `Tx::inner` guards it: nothing of it sleeps.
pub(super) struct Waiting {
    packets: SkBuffQueue<Sent>,
    /// How many of them are replies.
    replies: usize,
    /// The memory of those with payload, in bytes.
    memory: usize,
    /// Small writes are put together before they wait here; their memory counts too.
    joins: bool,
    /// There was too much, and has been since.
    full: bool,
}

/// The memory that a packet counts for.
fn weight(packet: &Packet) -> usize {
    match packet.control().cause() {
        Cause::Payload => packet.truesize(),
        Cause::Call | Cause::CreditUpdate | Cause::Reply | Cause::Last => 0,
    }
}

impl Waiting {
    /// None, of a queue for packets that small writes may be put together in, or for others.
    pub(super) const fn new(joins: bool) -> Self {
        Self {
            joins,
            packets: SkBuffQueue::new(),
            replies: 0,
            memory: 0,
            full: false,
        }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many wait; those that are open do not count.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// The memory of those with payload, open ones included, in bytes.
    pub(super) fn memory(&self) -> usize {
        let open = if self.joins {
            backlog::open_memory()
        } else {
            0
        };
        self.memory.saturating_add(open)
    }

    /// Whether writers have to wait.
    pub(super) fn is_full(&mut self) -> bool {
        self.full |= self.memory() >= MEMORY_MAX;
        self.full
    }

    /// Whether writers that had to wait may go on; said once.
    pub(super) fn has_room_again(&mut self) -> bool {
        let room = self.full && self.memory() <= MEMORY_LOW;
        self.full &= !room;
        room
    }

    /// Has `packet` wait; returns it if it may not, as there are too many replies.
    pub(super) fn push(&mut self, packet: Packet) -> Option<Packet> {
        let cause = packet.control().cause();
        if cause == Cause::Reply && self.replies >= REPLIES_MAX {
            STATS.count(Counter::ReplyDropped);
            return Some(packet);
        }
        self.count_in(&packet);
        self.packets.push_back(packet);
        None
    }

    /// Takes the first packet out.
    pub(super) fn pop(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        self.count_out(&packet);
        Some(packet)
    }

    /// Puts the packet that [`pop`](Self::pop) has given back to the front.
    pub(super) fn unpop(&mut self, packet: Packet) {
        self.count_in(&packet);
        self.packets.push_front(packet);
    }

    /// Takes those out for which `unwanted` says so. They are to be freed with nothing locked.
    pub(super) fn extract(&mut self, unwanted: impl Fn(&Sent) -> bool) -> SkBuffQueue<Sent> {
        let gone = self.packets.extract(|packet| unwanted(packet.control()));
        for packet in gone.iter() {
            self.count_out(&packet);
        }
        gone
    }

    /// Takes all out, and nobody has to wait any more.
    pub(super) fn end(&mut self) -> SkBuffQueue<Sent> {
        self.full = false;
        self.extract(|_| true)
    }

    /// Counts `packet`, which is about to wait.
    fn count_in(&mut self, packet: &Packet) {
        if packet.control().cause() == Cause::Reply {
            self.replies = self.replies.saturating_add(1);
        }
        let weight = weight(packet);
        self.memory = self.memory.saturating_add(weight);
        if let Some(sender) = packet.control().sender() {
            sender.backlog().count_in(weight);
        }
    }

    /// Counts `packet` out, which waits no longer.
    fn count_out(&mut self, packet: &Packet) {
        if packet.control().cause() == Cause::Reply {
            self.replies = self.replies.saturating_sub(1);
        }
        let weight = weight(packet);
        self.memory = self.memory.saturating_sub(weight);
        if let Some(sender) = packet.control().sender() {
            sender.backlog().count_out(weight);
        }
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_waiting)]
mod tests {
    use super::{
        super::packet::{
            testing::{
                number_of,
                TestSender, //
            },
            Sender, //
        },
        *, //
    };
    use crate::ext::mm::{
        order_of,
        PageBlock, //
    };
    use kernel::{
        prelude::*,
        sync::Arc, //
    };

    const BUF_ALLOC: u32 = 1 << 18;

    /// Whether the packets that wait are these, first to last. They are taken.
    fn are(waiting: &mut Waiting, numbers: &[u32]) -> bool {
        numbers
            .iter()
            .all(|number| number_of(waiting.pop().as_ref()) == *number)
            && waiting.pop().is_none()
    }

    /// Whether nothing is counted any more of what has waited.
    fn is_at_zero(waiting: &Waiting, sender: &TestSender) -> bool {
        let backlog = sender.backlog();
        // Without a byte there is room for one who was refused, and with one there is not.
        backlog.note_refusal();
        let _ = backlog.set_buf_alloc(0);
        backlog.count_in(0);
        backlog.count_out(0);
        let packets = !backlog.has_packets();
        let memory = backlog.set_buf_alloc(1);
        waiting.is_empty()
            && (waiting.len(), waiting.memory(), waiting.replies) == (0, 0, 0)
            && packets
            && !backlog.has_open()
            && memory
    }

    /// Has a packet wait that takes much memory.
    fn push_large(waiting: &mut Waiting, sender: &Arc<TestSender>) -> Result {
        let mut packet = sender.data(1, 0)?;
        let mut block = PageBlock::alloc(order_of(32 * 1024), GFP_KERNEL)?;
        block.copy_to(0, &[0])?;
        packet.add_block(block, 0, 1).map_err(|(error, _)| error)?;
        waiting.push(packet).map_or(Ok(()), |_| Err(EIO))
    }

    #[test]
    fn packets_leave_in_their_order() -> Result {
        let (sender, mut waiting) = (TestSender::new(BUF_ALLOC)?, Waiting::new(true));
        let data = sender.data(2, 5)?;
        let memory = data.truesize();
        waiting.push(sender.packet(1, Cause::Call)?);
        waiting.push(data);
        waiting.push(sender.packet(3, Cause::Reply)?);
        waiting.push(sender.packet(4, Cause::Last)?);
        assert_eq!((waiting.len(), waiting.memory()), (4, memory));
        assert!(are(&mut waiting, &[1, 2, 3, 4]));
        assert!(is_at_zero(&waiting, &sender));
        Ok(())
    }

    #[test]
    fn a_packet_that_found_no_room_is_first_again() -> Result {
        let (sender, mut waiting) = (TestSender::new(BUF_ALLOC)?, Waiting::new(true));
        waiting.push(sender.data(1, 5)?);
        waiting.push(sender.data(2, 5)?);
        waiting.push(sender.packet(3, Cause::Reply)?);
        let memory = waiting.memory();
        for _ in 0..2 {
            let packet = waiting.pop().ok_or(EIO)?;
            waiting.unpop(packet);
        }
        assert_eq!((waiting.len(), waiting.memory()), (3, memory));
        assert!(are(&mut waiting, &[1, 2, 3]));
        assert!(is_at_zero(&waiting, &sender));
        Ok(())
    }

    #[test]
    fn c6_so_many_replies_wait_and_no_more() -> Result {
        let (sender, mut waiting) = (TestSender::new(BUF_ALLOC)?, Waiting::new(true));
        for number in 0..REPLIES_MAX {
            assert!(waiting
                .push(sender.packet(number as u32, Cause::Reply)?)
                .is_none());
        }
        let refused = waiting.push(sender.packet(7777, Cause::Reply)?);
        assert_eq!(number_of(refused.as_ref()), 7777);
        drop(refused);
        assert_eq!(waiting.len(), REPLIES_MAX);
        // What was asked for by a call, and what carries bytes, is bounded elsewhere.
        assert!(waiting.push(sender.packet(8888, Cause::Call)?).is_none());
        assert!(waiting.push(sender.data(9999, 5)?).is_none());
        // One goes, one comes.
        drop(waiting.pop());
        assert!(waiting.push(sender.packet(1, Cause::Reply)?).is_none());
        assert!(waiting.push(sender.packet(2, Cause::Reply)?).is_some());
        let gone = waiting.extract(|_| true);
        assert_eq!(gone.len(), REPLIES_MAX + 2);
        drop(gone);
        assert!(is_at_zero(&waiting, &sender));
        Ok(())
    }

    #[test]
    fn what_is_unwanted_goes() -> Result {
        let (sender, mut waiting) = (TestSender::new(BUF_ALLOC)?, Waiting::new(true));
        let other = TestSender::new(BUF_ALLOC)?;
        let first = other.data(1, 5)?;
        let memory = first.truesize();
        waiting.push(first);
        waiting.push(sender.data(2, 5)?);
        waiting.push(other.packet(3, Cause::Call)?);
        let mut gone = waiting.extract(|sent| {
            sent.sender()
                .is_some_and(|s| core::ptr::eq(s.backlog(), sender.backlog()))
        });
        assert_eq!(number_of(gone.pop_front().as_ref()), 2);
        assert!(gone.is_empty());
        assert_eq!((waiting.len(), waiting.memory()), (2, memory));
        assert!(are(&mut waiting, &[1, 3]));
        assert!(is_at_zero(&waiting, &sender) && is_at_zero(&waiting, &other));
        Ok(())
    }

    #[test]
    fn k5_writers_wait_with_too_much_and_go_on_with_much_less() -> Result {
        let (sender, mut waiting) = (TestSender::new(BUF_ALLOC)?, Waiting::new(true));
        while waiting.memory() < MEMORY_MAX {
            assert!(!waiting.is_full());
            push_large(&mut waiting, &sender)?;
        }
        assert!(waiting.is_full());
        while waiting.memory() > MEMORY_LOW {
            assert!(!waiting.has_room_again());
            assert!(waiting.is_full());
            drop(waiting.pop());
        }
        assert!(waiting.is_full());
        // Said once.
        assert!(waiting.has_room_again());
        assert!(!waiting.has_room_again());
        assert!(!waiting.is_full());
        drop(waiting.extract(|_| true));
        assert!(is_at_zero(&waiting, &sender));
        Ok(())
    }
}
