// SPDX-License-Identifier: GPL-2.0

//! Packets that wait for room in a transmit queue, whose turn it is, and how much memory they hold.

mod schedule;

use super::{
    backlog,
    bound::{
        Bound,
        Whose, //
    },
    packet::{
        Cause,
        Packet,
        Sender,
        Sent, //
    },
    scheduled::{
        Ended,
        Scheduled, //
    },
};
use crate::{
    driver::{
        stats::{
            Counter,
            STATS, //
        },
        trace::Why, //
    },
    ext::net::skbuff::SkBuffQueue,
    proto::{
        cost,
        Fair,
        Place, //
    }, //
};
use kernel::sync::Arc;

/// How many replies wait at most (C6): more are dropped, and their peers have time-outs.
const REPLIES_MAX: usize = 1024;

/// Packets that wait.
///
/// Of each sender one packet is in one of the lists, and the rest in its [`Backlog`](super::Backlog); what has no order
/// among its sender's is there alone.
///
/// # Context
///
/// `Tx::inner` guards it: nothing of it sleeps.
pub(super) struct Waiting {
    /// Those whose turn has come by an interface's scheduler: they go before all others.
    ready: SkBuffQueue<Sent>,
    /// Those that an interface's scheduler orders, while it does.
    pub(super) scheduled: Scheduled,
    /// Those that go before all turns.
    first: SkBuffQueue<Sent>,
    /// Those that wait for a turn: their senders' is next in this order.
    turns: SkBuffQueue<Sent>,
    fair: Fair,
    /// How many there are.
    len: usize,
    /// How many of them are replies.
    replies: usize,
    /// The memory of connections' packets.
    connections: Bound,
    /// That of datagrams.
    datagrams: Bound,
    /// For packets of connections, of which small writes are put together before they wait here; their memory counts
    /// too. Datagrams may share the queue.
    streams: bool,
}

/// A packet that has left.
pub(super) struct Popped {
    pub(super) packet: Packet,
    pub(super) next: Next,
}

/// What the device has of a packet.
pub(super) struct Load {
    cost: usize,
    whose: usize,
}

/// Who follows a packet that has left.
pub(super) struct Next {
    /// From where it was taken; none if it was ready.
    place: Option<Place>,
    /// Whose next packet is listed in its stead.
    sender: Option<Arc<dyn Sender>>,
    cost: usize,
}

/// The memory that a packet counts for.
fn weight(packet: &Packet) -> usize {
    if packet.control().cause().has_bytes() {
        packet.truesize()
    } else {
        0
    }
}

/// Among whose packets `packet` keeps its order. A credit update may overtake payload.
pub(super) fn ordered(packet: &Packet) -> Option<&Arc<dyn Sender>> {
    let sent = packet.control();
    match sent.cause() {
        Cause::CreditUpdate => None,
        Cause::Call | Cause::Payload | Cause::Datagram | Cause::Reply | Cause::Last => {
            sent.sender()
        }
    }
}

/// Where `packet` waits that keeps its order among nobody's.
fn place(packet: &Packet) -> Place {
    if packet.control().cause().has_bytes() {
        Place::Turn
    } else {
        Place::First
    }
}

impl Waiting {
    /// None. `streams`: for packets of connections; if not, for datagrams alone, which are in flight as the queue has
    /// room.
    pub(super) const fn new(streams: bool) -> Self {
        Self {
            ready: SkBuffQueue::new(),
            scheduled: Scheduled::new(),
            first: SkBuffQueue::new(),
            turns: SkBuffQueue::new(),
            fair: Fair::new(),
            len: 0,
            replies: 0,
            connections: Bound::new(),
            datagrams: Bound::new(),
            streams,
        }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many wait; those that are open do not count.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The memory of those with payload, open ones included, in bytes.
    pub(super) fn memory(&self) -> usize {
        let datagrams = self.datagrams.memory();
        let connections = self.connections.memory().saturating_add(datagrams);
        connections.saturating_add(self.open_memory())
    }

    /// The memory of connections' open packets, in bytes.
    fn open_memory(&self) -> usize {
        if self.streams {
            backlog::open_memory()
        } else {
            0
        }
    }

    /// Whether `whose` writers have to wait.
    pub(super) fn is_full(&mut self, whose: Whose) -> bool {
        match whose {
            Whose::Connections => self.connections.is_full(self.open_memory()),
            Whose::Datagrams => self.datagrams.is_full(0),
        }
    }

    /// Whether any writers that had to wait may go on; said once.
    pub(super) fn has_room_again(&mut self) -> bool {
        let open = self.open_memory();
        self.connections.has_room_again(open) | self.datagrams.has_room_again(0)
    }

    /// What the memory of `packet` counts for.
    fn bound_of(&mut self, packet: &Packet) -> &mut Bound {
        match packet.control().cause() {
            Cause::Datagram => &mut self.datagrams,
            Cause::Call | Cause::Payload | Cause::CreditUpdate | Cause::Reply | Cause::Last => {
                &mut self.connections
            }
        }
    }

    /// Whether some have had their turns, and wait for room all the same.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether none waits for room; those that wait for an interface's scheduler do not count.
    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.first.is_empty() && self.turns.is_empty()
    }

    /// Whether `packet` need not wait, as none does, and the device may be given it.
    pub(super) fn lets_pass(&self, packet: &Packet) -> bool {
        self.is_idle()
            && !self.scheduled.keeps(packet)
            && (self.fair.has_room(0)
                || match ordered(packet) {
                    Some(sender) => sender.backlog().place(packet),
                    None => place(packet),
                } == Place::First)
    }

    /// Has `packet` wait; returns it if it may not, as there are too many replies.
    pub(super) fn push(&mut self, mut packet: Packet) -> Option<Packet> {
        let cause = packet.control().cause();
        if cause == Cause::Reply && self.replies >= REPLIES_MAX {
            packet.control_mut().lose(Why::ReplyDropped);
            return Some(packet);
        }
        STATS.count(Counter::TxWaited);
        self.count_in(&packet);
        self.list(packet);
        None
    }

    /// Has `packet`, which counts already, wait for a turn of whichever kind.
    fn list(&mut self, packet: Packet) {
        let Some(packet) = self.scheduled.hold(packet) else {
            return;
        };
        let listed = match ordered(&packet).cloned() {
            Some(sender) => sender.backlog().list(packet),
            None => {
                let place = place(&packet);
                Some((packet, place))
            }
        };
        if let Some((packet, place)) = listed {
            self.push_to(packet, place);
        }
    }

    fn list_all(&mut self, mut packets: SkBuffQueue<Sent>) {
        while let Some(packet) = packets.pop_front() {
            self.list(packet);
        }
    }

    /// Has `packet` wait at `place`, behind all that do.
    fn push_to(&mut self, packet: Packet, place: Place) {
        match place {
            Place::First => self.first.push_back(packet),
            Place::Turn => self.turns.push_back(packet),
        }
    }

    /// Takes the packet out that is next, if the device may be given one. It is put back by [`unpop`](Self::unpop), or
    /// [`advance`](Self::advance) is called.
    pub(super) fn pop(&mut self) -> Option<Popped> {
        if let Some(packet) = self.ready.pop_front() {
            self.count_out(&packet);
            let next = Next {
                place: None,
                sender: None,
                cost: 0,
            };
            return Some(Popped { packet, next });
        }
        let place = self.fair.next(!self.first.is_empty(), self.turns.len())?;
        let packet = match place {
            Place::First => self.first.pop_front()?,
            Place::Turn => self.next_turn()?,
        };
        self.count_out(&packet);
        let next = Next {
            place: Some(place),
            sender: ordered(&packet).cloned(),
            cost: cost(packet.len()),
        };
        Some(Popped { packet, next })
    }

    /// Takes the packet out whose sender's turn it is.
    fn next_turn(&mut self) -> Option<Packet> {
        loop {
            let packet = self.turns.pop_front()?;
            if ordered(&packet).is_none_or(|sender| sender.backlog().may_send()) {
                return Some(packet);
            }
            self.turns.push_back(packet);
        }
    }

    /// Puts the packet that [`pop`](Self::pop) has given back to where it was.
    pub(super) fn unpop(&mut self, packet: Packet, next: Next) {
        self.count_in(&packet);
        match next.place {
            None => self.ready.push_front(packet),
            Some(Place::First) => self.first.push_front(packet),
            Some(Place::Turn) => self.turns.push_front(packet),
        }
    }

    /// Has the next packet of the sender wait where the one did that [`pop`](Self::pop) has given.
    pub(super) fn advance(&mut self, next: Next) {
        let (Some(sender), Some(place)) = (next.sender, next.place) else {
            return;
        };
        match (sender.backlog().advance(place, next.cost), place) {
            (Some(packet), _) if self.scheduled.is_on() => {
                let rest = sender.backlog().unlist();
                self.list(packet);
                self.list_all(rest);
            }
            // Payload behind one that went first has something before it.
            (Some(packet), Place::First) => {
                let place = self::place(&packet);
                self.push_to(packet, place);
            }
            (Some(packet), Place::Turn) => self.turns.push_front(packet),
            (None, _) => {}
        }
    }

    /// What of `packet` counts for what the device has.
    pub(super) fn load_of(&self, packet: &Packet) -> Option<Load> {
        if !self.streams || place(packet) == Place::First {
            return None;
        }
        let sender = ordered(packet)?;
        Some(Load {
            cost: cost(packet.len()),
            whose: Arc::as_ptr(sender).cast::<()>().addr(),
        })
    }

    /// The device was given a packet of that much.
    pub(super) fn give(&mut self, load: Option<Load>) {
        if let Some(Load { cost, whose }) = load {
            self.fair.give(cost, whose);
        }
    }

    /// `packet` was taken back; `left`: so many are with the device.
    pub(super) fn take(&mut self, packet: &Packet, left: u64) {
        if let Some(Load { cost, .. }) = self.load_of(packet) {
            self.fair.take(cost, left);
        }
    }

    /// Takes those of `sender` out. They are to be freed with nothing locked.
    pub(super) fn extract_of(&mut self, sender: &dyn Sender) -> SkBuffQueue<Sent> {
        let is_its = |packet: &Packet| {
            let other = packet.control().sender();
            other.is_some_and(|other| core::ptr::addr_eq(Arc::as_ptr(other), sender))
        };
        let mut gone = self.first.extract(is_its);
        gone.append(self.turns.extract(is_its));
        gone.append(self.ready.extract(is_its));
        gone.append(sender.backlog().unlist());
        self.count_all_out(&gone);
        gone
    }

    /// Takes all out. They are to be freed with nothing locked. Writers that had to wait are to be told of the room, as
    /// [`has_room_again`](Self::has_room_again) will say.
    pub(super) fn take_all(&mut self) -> (SkBuffQueue<Sent>, Ended) {
        let mut gone = core::mem::take(&mut self.ready);
        let mut taken = self.scheduled.take_all();
        taken.for_each(|given| {
            if let Some(packet) = given.take_datagram() {
                gone.push_back(packet);
            } else if let Some(sender) = given.sender() {
                gone.append(sender.backlog().unhold());
            }
        });
        for mut list in [
            core::mem::take(&mut self.first),
            core::mem::take(&mut self.turns),
        ] {
            while let Some(packet) = list.pop_front() {
                let rest = ordered(&packet).map(|sender| sender.backlog().unlist());
                gone.push_back(packet);
                if let Some(rest) = rest {
                    gone.append(rest);
                }
            }
        }
        self.count_all_out(&gone);
        (gone, taken)
    }

    /// The same for a device that is no more: it has nothing, and nobody has to wait any more.
    pub(super) fn end(&mut self) -> (SkBuffQueue<Sent>, Ended) {
        self.scheduled.stop();
        self.connections.end();
        self.datagrams.end();
        self.fair = Fair::new();
        self.take_all()
    }

    fn count_all_out(&mut self, gone: &SkBuffQueue<Sent>) {
        for packet in gone.iter() {
            self.count_out(&packet);
        }
    }

    /// Counts `packet`, which is about to wait.
    fn count_in(&mut self, packet: &Packet) {
        self.len = self.len.saturating_add(1);
        if packet.control().cause() == Cause::Reply {
            self.replies = self.replies.saturating_add(1);
        }
        let weight = weight(packet);
        self.bound_of(packet).add(weight);
        if let Some(sender) = packet.control().sender() {
            sender.backlog().count_in(weight);
        }
    }

    /// Counts `packet` out, which waits no longer.
    fn count_out(&mut self, packet: &Packet) {
        self.len = self.len.saturating_sub(1);
        if packet.control().cause() == Cause::Reply {
            self.replies = self.replies.saturating_sub(1);
        }
        let weight = weight(packet);
        self.bound_of(packet).subtract(weight);
        if let Some(sender) = packet.control().sender() {
            sender.backlog().count_out(weight);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // What is in a backlog holds its sender, which holds the backlog.
        drop(self.end());
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_waiting)]
mod tests {
    use super::{
        super::{
            bound::{
                MEMORY_LOW,
                MEMORY_MAX, //
            },
            crowd::Crowd,
            packet::{
                testing::{
                    datagram,
                    number_of,
                    TestSender, //
                },
                Sender, //
            },
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
        numbers.iter().all(|number| next(waiting) == *number) && next(waiting) == 0
    }

    /// Takes the next packet; returns which it is, zero if there is none.
    fn next(waiting: &mut Waiting) -> u32 {
        waiting.pop().map_or(0, |Popped { packet, next }| {
            waiting.advance(next);
            number_of(Some(&packet))
        })
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

    /// Has `packet` wait with much memory.
    fn push_large_one(waiting: &mut Waiting, mut packet: Packet) -> Result {
        let mut block = PageBlock::alloc(order_of(32 * 1024), GFP_KERNEL)?;
        block.copy_to(0, &[0])?;
        packet.add_block(block, 0, 1).map_err(|(error, _)| error)?;
        waiting.push(packet).map_or(Ok(()), |_| Err(EIO))
    }

    /// Has a packet wait that takes much memory.
    fn push_large(waiting: &mut Waiting, sender: &Arc<TestSender>) -> Result {
        push_large_one(waiting, sender.data(1, 0)?)
    }

    /// A datagram of `crowd`.
    fn datagram_of(crowd: &Arc<Crowd>, number: u32) -> Result<Packet> {
        let mut packet = datagram(number, 5)?;
        packet.control_mut().join(crowd.clone());
        packet.control_mut().close();
        Ok(packet)
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
            let Popped { packet, next } = waiting.pop().ok_or(EIO)?;
            waiting.unpop(packet, next);
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
        next(&mut waiting);
        assert!(waiting.push(sender.packet(1, Cause::Reply)?).is_none());
        assert!(waiting.push(sender.packet(2, Cause::Reply)?).is_some());
        let (gone, _) = waiting.end();
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
        waiting.push(sender.packet(4, Cause::CreditUpdate)?);
        waiting.push(sender.data(5, 5)?);
        let mut gone = waiting.extract_of(&*sender);
        let numbers = [(); 4].map(|()| number_of(gone.pop_front().as_ref()));
        assert_eq!(numbers, [2, 4, 5, 0]);
        assert_eq!((waiting.len(), waiting.memory()), (2, memory));
        assert!(are(&mut waiting, &[1, 3]));
        // Nothing is left of it that the next one would wait behind.
        waiting.push(sender.data(6, 5)?);
        assert!(are(&mut waiting, &[6]));
        assert!(is_at_zero(&waiting, &sender) && is_at_zero(&waiting, &other));
        Ok(())
    }

    #[test]
    fn k5_writers_wait_with_too_much_and_go_on_with_much_less() -> Result {
        let (sender, mut waiting) = (TestSender::new(BUF_ALLOC)?, Waiting::new(true));
        while waiting.memory() < MEMORY_MAX {
            assert!(!waiting.is_full(Whose::Connections));
            push_large(&mut waiting, &sender)?;
        }
        assert!(waiting.is_full(Whose::Connections));
        while waiting.memory() > MEMORY_LOW {
            assert!(!waiting.has_room_again());
            assert!(waiting.is_full(Whose::Connections));
            next(&mut waiting);
        }
        assert!(waiting.is_full(Whose::Connections));
        // Said once.
        assert!(waiting.has_room_again());
        assert!(!waiting.has_room_again());
        assert!(!waiting.is_full(Whose::Connections));
        // Whoever had to wait is told as well when all was thrown away.
        while !waiting.is_full(Whose::Connections) {
            push_large(&mut waiting, &sender)?;
        }
        drop(waiting.take_all());
        assert!(waiting.has_room_again());
        drop(waiting.end());
        assert!(is_at_zero(&waiting, &sender));
        Ok(())
    }

    /// Has payload wait as the queue does.
    fn push_data(waiting: &mut Waiting, sender: &Arc<TestSender>, number: u32) -> Result {
        let mut packet = sender.data(number, 5)?;
        packet.control_mut().close();
        waiting.push(packet).map_or(Ok(()), |_| Err(EIO))
    }

    #[test]
    fn k8_a_connection_keeps_its_order_and_a_credit_update_none() -> Result {
        let (sender, mut waiting) = (TestSender::new(BUF_ALLOC)?, Waiting::new(true));
        for number in 1..=3 {
            push_data(&mut waiting, &sender, number)?;
        }
        waiting.push(sender.packet(4, Cause::Last)?);
        waiting.push(sender.packet(5, Cause::CreditUpdate)?);
        assert!(are(&mut waiting, &[1, 5, 2, 3, 4]));
        assert!(is_at_zero(&waiting, &sender));
        Ok(())
    }

    #[test]
    fn k8_what_has_nothing_before_it_goes_before_turns() -> Result {
        let mut waiting = Waiting::new(true);
        let (bulk, lone) = (TestSender::new(BUF_ALLOC)?, TestSender::new(BUF_ALLOC)?);
        for number in 1..=4 {
            push_data(&mut waiting, &bulk, number)?;
        }
        assert_eq!(next(&mut waiting), 1);
        push_data(&mut waiting, &lone, 10)?;
        assert_eq!(next(&mut waiting), 10);
        // Answered, and once more.
        push_data(&mut waiting, &lone, 11)?;
        waiting.push(lone.packet(12, Cause::Call)?);
        assert!(are(&mut waiting, &[11, 12, 2, 3, 4]));
        assert!(is_at_zero(&waiting, &bulk) && is_at_zero(&waiting, &lone));
        Ok(())
    }

    #[test]
    fn k8_connections_take_turns() -> Result {
        let mut waiting = Waiting::new(true);
        let senders = [TestSender::new(BUF_ALLOC)?, TestSender::new(BUF_ALLOC)?];
        for (sender, base) in senders.iter().zip([0, 1000]) {
            for number in 1..=300 {
                push_data(&mut waiting, sender, base + number)?;
            }
        }
        // What one has sent, less what the other has, in packets: a turn at the most.
        let (mut ahead, mut last) = (0i32, [0, 1000]);
        for _ in 0..600 {
            let number = next(&mut waiting);
            let of = usize::from(number > 1000);
            assert_eq!(number, last[of] + 1);
            last[of] = number;
            ahead += if of == 0 { 1 } else { -1 };
            assert!(ahead.abs() <= 124);
        }
        assert_eq!(last, [300, 1300]);
        assert!(waiting.is_empty());
        Ok(())
    }

    #[test]
    fn k8_the_device_has_no_more_than_keeps_it_busy() -> Result {
        let (sender, mut waiting) = (TestSender::new(BUF_ALLOC)?, Waiting::new(true));
        let lone = TestSender::new(BUF_ALLOC)?;
        let mut packet = sender.data(1, 5)?;
        packet.control_mut().close();
        // That of one fills the queue; then comes another's.
        for _ in 0..1000 {
            waiting.give(waiting.load_of(&packet));
        }
        assert!(waiting.lets_pass(&packet));
        waiting.give(waiting.load_of(&lone.data(2, 5)?));
        // Nothing is before it.
        assert!(waiting.lets_pass(&packet));
        let mut second = sender.data(2, 5)?;
        second.control_mut().close();
        assert!(!waiting.lets_pass(&second));
        waiting.push(second);
        assert_eq!(next(&mut waiting), 0);
        push_data(&mut waiting, &lone, 3)?;
        assert_eq!(next(&mut waiting), 3);
        assert_eq!(next(&mut waiting), 0);
        waiting.take(&packet, 0);
        assert_eq!(next(&mut waiting), 2);
        // What a device had that is no more is forgotten.
        for sent in [&packet, &sender.data(4, 5)?, &lone.data(5, 5)?] {
            (0..1000).for_each(|_| waiting.give(waiting.load_of(sent)));
        }
        assert!(!waiting.fair.has_room(1));
        drop(waiting.end());
        assert!(waiting.fair.has_room(1));
        assert!(is_at_zero(&waiting, &sender));
        Ok(())
    }

    #[test]
    fn g8_datagrams_of_all_sockets_have_the_share_of_one_connection() -> Result {
        let mut waiting = Waiting::new(true);
        let (sender, crowd) = (TestSender::new(BUF_ALLOC)?, Crowd::new()?);
        for number in 1..=900 {
            waiting.push(datagram_of(&crowd, 1000 + number)?);
        }
        for number in 1..=300 {
            push_data(&mut waiting, &sender, number)?;
        }
        // What the connection has sent, less what the datagrams have, in packets: a turn at the most. All keep their order.
        let (mut ahead, mut last) = (0i32, [0, 1000]);
        for _ in 0..600 {
            let number = next(&mut waiting);
            let of = usize::from(number > 1000);
            assert_eq!(number, last[of] + 1);
            last[of] = number;
            ahead += if of == 0 { 1 } else { -1 };
            assert!(ahead.abs() <= 124);
        }
        drop(waiting.end());
        assert!(is_at_zero(&waiting, &sender));
        assert!(!crowd.backlog().has_packets());
        Ok(())
    }

    #[test]
    fn g8_what_has_few_datagrams_before_it_goes_before_turns() -> Result {
        let mut waiting = Waiting::new(true);
        let (bulk, crowd) = (TestSender::new(BUF_ALLOC)?, Crowd::new()?);
        for number in 1..=4 {
            push_data(&mut waiting, &bulk, number)?;
        }
        assert_eq!(next(&mut waiting), 1);
        waiting.push(datagram_of(&crowd, 10)?);
        assert!(are(&mut waiting, &[10, 2, 3, 4]));
        Ok(())
    }

    #[test]
    fn g8_neither_waits_for_memory_that_the_others_take() -> Result {
        let mut waiting = Waiting::new(true);
        let (sender, crowd) = (TestSender::new(BUF_ALLOC)?, Crowd::new()?);
        while !waiting.is_full(Whose::Datagrams) {
            push_large_one(&mut waiting, datagram_of(&crowd, 1)?)?;
        }
        assert!(!waiting.is_full(Whose::Connections));
        while !waiting.is_full(Whose::Connections) {
            push_large(&mut waiting, &sender)?;
        }
        assert!(waiting.memory() >= 2 * MEMORY_MAX);
        // Each is told by itself.
        while !waiting.has_room_again() {
            next(&mut waiting);
        }
        let other = [Whose::Connections, Whose::Datagrams].map(|whose| waiting.is_full(whose));
        assert!(other[0] != other[1]);
        while !waiting.has_room_again() {
            next(&mut waiting);
        }
        drop(waiting.take_all());
        assert!(is_at_zero(&waiting, &sender));
        Ok(())
    }
}
