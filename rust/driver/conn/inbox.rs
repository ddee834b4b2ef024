// SPDX-License-Identifier: GPL-2.0

//! What a connection has received and its user has not read: bytes, or messages.
//!
//! Small payloads are copied together, so that neither many of them nor the large buffers that they
//! came in hold much memory (K3). In a stream they simply follow each other. Messages keep their
//! boundaries. What is in the buffers, and how it is read, is in [`unread`](super::unread).

pub(super) use super::unread::{
    copy_bytes,
    copy_message,
    take_bytes,
    take_message,
    Message,
    Queue, //
};
use super::{
    unread::{part_at, Form, Part, Unread}, //
};
use crate::{
    driver::queue::Payload,
    ext::net::skbuff::SkBuff,
    proto::{
        self,
        Arrival,
        Empties,
        Mark,
        SockError,
        Store, //
    },
    wire::SeqFlags, //
};
use kernel::prelude::*;

/// Received and unread.
///
/// # Context
///
/// `Conn::inner` guards it: nothing of it sleeps.
pub(super) struct Inbox {
    queue: Queue,
    /// Parts without bytes, which credit does not bound.
    empties: Empties,
    /// A reader has taken the buffers out, to put back what it does not read.
    taken: bool,
    /// Meanwhile sockmap wanted to read.
    missed: bool,
    /// A call hands over what there is to sockmap, one by one.
    handing_over: bool,
    /// Meanwhile another call wanted to.
    more: bool,
}

impl Inbox {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self {
            queue: Queue::new(),
            empties: Empties::new(),
            taken: false,
            missed: false,
            handing_over: false,
            more: false,
        }
    }

    /// Takes the buffers out, to be read while nothing is locked.
    pub(super) fn take(&mut self) -> Queue {
        self.taken = true;
        core::mem::replace(&mut self.queue, Queue::new())
    }

    /// Puts back what was not read, before what has come meanwhile.
    ///
    /// What came first began a buffer of its own, as the last one was away; with many readers that
    /// only look, such buffers would add up. It moves into the last one where it fits.
    ///
    /// Returns whether [`read_skb`](Self::read_skb) was called meanwhile, and there is something now.
    pub(super) fn put_back(&mut self, mut queue: Queue) -> bool {
        while let Some(mut last) = queue.back_mut() {
            let Some(next) = self.queue.pop_front() else {
                break;
            };
            let (form, len) = (next.control().form, next.len());
            let joins = form == last.control().form && !matches!(form, Form::Part(_));
            if !joins || len > last.tailroom() || last.put_skb(&next, 0, len).is_err() {
                self.queue.push_front(next);
                break;
            }
            next.consume();
        }
        self.queue.prepend(queue);
        self.taken = false;
        core::mem::replace(&mut self.missed, false) && !self.queue.is_empty()
    }

    /// Begins to hand over what there is; false if another caller does so already, who then goes on.
    pub(super) fn begin_handing_over(&mut self) -> bool {
        self.more = self.handing_over;
        !core::mem::replace(&mut self.handing_over, true)
    }

    /// Ends that, unless there is more to do, which the answer tells.
    pub(super) fn end_handing_over(&mut self) -> bool {
        self.handing_over = core::mem::replace(&mut self.more, false);
        self.handing_over
    }

    /// Takes the next bytes, or the next part of a message, as a buffer of their own.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: there is nothing, or a reader has it.
    /// - `ENOMEM`: no memory; it stays.
    pub(super) fn read_skb(&mut self) -> Result<(SkBuff, Option<Message>)> {
        if self.taken {
            self.missed = true;
            return Err(EAGAIN);
        }
        let mut skb = self.queue.pop_front().ok_or(EAGAIN)?;
        let consumed = skb.control().consumed;
        let part = part_at(&skb, consumed).unwrap_or(Part {
            start: consumed,
            len: skb.len().saturating_sub(consumed),
            flags: SeqFlags::NONE,
        });
        let message = (skb.control().form != Form::Bytes).then(|| Message {
            len: part.len,
            eor: part.flags.contains(SeqFlags::EOR),
            empties: u32::from(part.len == 0),
            whole: part.flags.contains(SeqFlags::EOM),
        });
        if part.start == 0 && part.end() >= skb.len() {
            // The buffer goes as it is, without its control block.
            return Ok((skb.with_control(()), message));
        }
        let copy = SkBuff::alloc(part.len, GFP_ATOMIC, ())
            .and_then(|mut copy| copy.put_skb(&skb, part.start, part.len).map(|()| copy));
        let copy = match copy {
            Ok(copy) => copy,
            Err(error) => {
                self.queue.push_front(skb);
                return Err(error);
            }
        };
        if part.end() < skb.len() {
            skb.control_mut().consumed = part.end();
            self.queue.push_front(skb);
        } else {
            skb.consume();
        }
        Ok((copy, message))
    }

    /// Notes that `message` was taken out of the buffers for good.
    pub(super) fn forget(&mut self, message: &Message) {
        for _ in 0..message.empties {
            self.empties.read();
        }
    }

    /// Finds the memory that it takes to [`store`](Self::store) `payload` in a connection with a buffer of
    /// `buf_alloc` bytes. If that answers false, the packet has to wait, and is to come again.
    pub(super) fn prepare(
        &mut self,
        payload: &mut Payload,
        unread: u32,
        message: Option<SeqFlags>,
        buf_alloc: u32,
    ) -> bool {
        let arrival = self.arrival(payload, unread, form(payload, message));
        let Store::Compact { capacity } = proto::store(&arrival) else {
            return true;
        };
        payload.find_room(arrival.payload, capacity)
            || proto::may_take_pages(&arrival, self.queue.unused(), buf_alloc as usize)
            || payload.ask_for_room()
    }

    /// Stores `payload`; `message` says what part of a message it is, if it is one. `unread` bytes are
    /// there already.
    ///
    /// The payload's buffers stay unless their pages were taken.
    ///
    /// # Errors
    ///
    /// - `NoBufs`: there are too many empty parts.
    /// - `NoMem`: it cannot be stored as a whole.
    pub(super) fn store(
        &mut self,
        payload: &mut Payload,
        unread: u32,
        message: Option<SeqFlags>,
    ) -> Result<(), SockError> {
        if payload.len() == 0 {
            match message {
                None => return Ok(()),
                Some(_) if !self.empties.store() => return Err(SockError::NoBufs),
                Some(_) => {}
            }
        }
        self.store_as(payload, unread, form(payload, message), message)
            .map_err(|_| SockError::NoMem)
    }

    /// What `payload` is to the rule that says where to store it.
    fn arrival(&mut self, payload: &Payload, unread: u32, form: Form) -> Arrival {
        let tail_room = match self.queue.back_mut() {
            // A part that is a buffer of its own takes nothing in.
            Some(tail) if tail.control().form == form && !matches!(form, Form::Part(_)) => {
                tail.tailroom()
            }
            _ => 0,
        };
        let mark = if form == Form::Bundle { Mark::LEN } else { 0 };
        Arrival {
            payload: payload.len().saturating_add(mark),
            buffer: payload.memory(),
            tail_room,
            unread: unread as usize,
        }
    }

    /// Stores `payload` in the given form, where the rules say.
    ///
    /// # Errors
    ///
    /// `ENOMEM` and others: it cannot be stored as a whole.
    fn store_as(
        &mut self,
        payload: &mut Payload,
        unread: u32,
        form: Form,
        message: Option<SeqFlags>,
    ) -> Result {
        let marked;
        let mark: &[u8] = match (form, message) {
            (Form::Bundle, Some(flags)) => {
                marked = Mark::new(payload.len(), flags).ok_or(EINVAL)?.to_bytes();
                &marked
            }
            _ => &[],
        };
        let arrival = self.arrival(payload, unread, form);
        let mut unused = 0;
        match proto::store(&arrival) {
            Store::Append => {
                if let Some(mut tail) = self.queue.back_mut() {
                    tail.put_slice(mark)?;
                    payload.try_for_each(|block, at, len| tail.put_block(block, at, len))?;
                }
                return Ok(());
            }
            Store::Compact { .. } => {
                if let Some(room) = payload.take_room(arrival.payload) {
                    let mut skb = room.with_control(Unread {
                        consumed: 0,
                        form,
                        unused: 0,
                    });
                    skb.put_slice(mark)?;
                    payload.try_for_each(|block, at, len| skb.put_block(block, at, len))?;
                    self.queue.push_back(skb);
                    return Ok(());
                }
                unused = arrival.buffer.saturating_sub(payload.len());
            }
            Store::TakePages => {}
        }
        loop {
            // A part in several buffers ends with the last of them.
            let fresh = Unread {
                consumed: 0,
                form: message.map_or(Form::Bytes, |_| Form::Part(SeqFlags::NONE)),
                unused: core::mem::take(&mut unused),
            };
            let mut skb = payload.take_spare_skb()?.with_control(fresh);
            let all = payload.move_to(&mut skb);
            if let (true, Some(flags)) = (all, message) {
                skb.control_mut().form = Form::Part(flags);
            }
            if !all && skb.is_empty() {
                return Err(EINVAL);
            }
            self.queue.push_back(skb);
            if all {
                return Ok(());
            }
        }
    }
}

/// How `payload` is stored, if it is copied.
fn form(payload: &Payload, message: Option<SeqFlags>) -> Form {
    match message {
        None => Form::Bytes,
        Some(_) if payload.len() <= Mark::GREATEST => Form::Bundle,
        Some(flags) => Form::Part(flags),
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_inbox)]
mod tests {
    use super::*;
    use crate::ext::{
        mm::{
            order_of,
            PageBlock, //
        },
        net::msg::Msg, //
    };
    use kernel::page::PAGE_SIZE;

    const EOM: Option<SeqFlags> = Some(SeqFlags::EOM);
    const PART: Option<SeqFlags> = Some(SeqFlags::NONE);
    const BUF_ALLOC: u32 = 1 << 18;

    /// A packet of `bytes`, in a buffer of `PAGE_SIZE << order` bytes.
    fn packet(bytes: &[u8], order: u32) -> Result<Payload> {
        let mut payload = Payload::with_capacity(1, GFP_KERNEL)?;
        let mut block = PageBlock::alloc(order, GFP_KERNEL)?;
        block.copy_to(0, bytes)?;
        payload.add(block, 0, bytes.len());
        payload.complete(Some(bytes.len()));
        payload.add_spare_skb(SkBuff::alloc(0, GFP_KERNEL, ())?);
        Ok(payload)
    }

    /// Stores a packet; `unread` bytes are there already.
    fn store(
        inbox: &mut Inbox,
        mut payload: Payload,
        unread: u32,
        message: Option<SeqFlags>,
    ) -> bool {
        inbox.prepare(&mut payload, unread, message, BUF_ALLOC)
            && inbox.store(&mut payload, unread, message).is_ok()
    }

    /// An inbox that has received these small packets.
    fn inbox(packets: &[(&[u8], Option<SeqFlags>)]) -> Result<Inbox> {
        let mut inbox = Inbox::new();
        receive(&mut inbox, packets)?;
        Ok(inbox)
    }

    fn receive(inbox: &mut Inbox, packets: &[(&[u8], Option<SeqFlags>)]) -> Result {
        for (bytes, message) in packets {
            if !store(inbox, packet(bytes, 3)?, 1, *message) {
                return Err(EIO);
            }
        }
        Ok(())
    }

    /// Whether the stream's next bytes are `expected`; they are taken.
    fn reads(inbox: &mut Inbox, expected: &[u8]) -> bool {
        let (mut memory, mut copied, mut queue) = ([0; 32], 0, inbox.take());
        let result = Msg::with_memory(&mut memory, |msg| {
            take_bytes(&mut queue, msg, expected.len(), &mut copied)
        });
        inbox.put_back(queue);
        result.is_ok() && memory.get(..copied) == Some(expected)
    }

    /// Whether the next message is `expected`; it is taken.
    fn reads_message(inbox: &mut Inbox, expected: &[u8]) -> bool {
        let (mut memory, mut queue) = ([0; 32], inbox.take());
        let (message, result) = Msg::with_memory(&mut memory, |msg| take_message(&mut queue, msg));
        inbox.put_back(queue);
        inbox.forget(&message);
        result.is_ok() && message.whole && memory.get(..message.len) == Some(expected)
    }

    /// The lengths of the buffers that there are.
    fn lengths(inbox: &mut Inbox) -> Result<KVec<usize>> {
        let (mut lengths, mut queue, mut all) = (KVec::new(), inbox.take(), Queue::new());
        while let Some(skb) = queue.pop_front() {
            lengths.push(skb.len(), GFP_KERNEL)?;
            all.push_back(skb);
        }
        inbox.put_back(all);
        Ok(lengths)
    }

    /// What sockmap is handed next, if it is `expected`.
    fn hands_over(inbox: &mut Inbox, expected: &[u8]) -> Result<Option<Message>> {
        let (skb, message) = inbox.read_skb()?;
        let mut bytes = [0; 32];
        let bytes = bytes.split_at_mut(skb.len()).0;
        skb.read(0, bytes)?;
        (bytes == expected).then_some(message).ok_or(EIO)
    }

    #[test]
    fn k3_small_bytes_share_a_buffer() -> Result {
        let mut inbox = inbox(&[(b"ab", None), (b"", None), (b"cde", None)])?;
        assert_eq!(lengths(&mut inbox)?.as_slice(), [5]);
        assert!(reads(&mut inbox, b"abc"));
        receive(&mut inbox, &[(b"fg", None)])?;
        assert_eq!(lengths(&mut inbox)?.as_slice(), [7]);
        assert!(reads(&mut inbox, b"defg"));
        assert!(lengths(&mut inbox)?.is_empty());
        Ok(())
    }

    #[test]
    fn k3_small_messages_share_a_buffer_behind_marks() -> Result {
        let mut inbox = inbox(&[(b"ab", EOM), (b"c", PART), (b"", EOM), (b"de", EOM)])?;
        assert_eq!(lengths(&mut inbox)?.as_slice(), [5 + 4 * Mark::LEN]);
        for message in [b"ab".as_slice(), b"c", b"de"] {
            assert!(reads_message(&mut inbox, message));
        }
        assert!(lengths(&mut inbox)?.is_empty());
        Ok(())
    }

    #[test]
    fn k3_a_message_for_whose_mark_there_is_no_room_begins_a_buffer() -> Result {
        for (more, buffers) in [(0, 1), (1, 2)] {
            let mut inbox = inbox(&[(b"ab", EOM)])?;
            let room = inbox.queue.back_mut().map_or(0, |last| last.tailroom());
            let message = KVec::from_elem(7, room - Mark::LEN + more, GFP_KERNEL)?;
            receive(&mut inbox, &[(&message, EOM)])?;
            assert_eq!(lengths(&mut inbox)?.len(), buffers);
        }
        Ok(())
    }

    #[test]
    fn k3_a_small_payload_leaves_its_buffer_a_large_one_takes_it() -> Result {
        let mut inbox = Inbox::new();
        let large = KVec::from_elem(7, PAGE_SIZE, GFP_KERNEL)?;
        for (bytes, stays) in [(b"ab".as_slice(), true), (&large, false), (b"cd", true)] {
            let mut payload = packet(bytes, 0)?;
            assert!(inbox.prepare(&mut payload, 1, None, BUF_ALLOC));
            assert!(inbox.store(&mut payload, 1, None).is_ok());
            assert_eq!(payload.reclaim().is_some(), stays);
        }
        // Nothing is put behind pages.
        assert_eq!(lengths(&mut inbox)?.as_slice(), [2, PAGE_SIZE, 2]);
        assert!(reads(&mut inbox, b"ab\x07"));
        Ok(())
    }

    #[test]
    fn s1_a_long_part_is_a_buffer_of_its_own() -> Result {
        let long = KVec::from_elem(7, Mark::GREATEST + 1, GFP_KERNEL)?;
        // Copied, and with its pages.
        for order in [PageBlock::MAX_ORDER, order_of(long.len())] {
            let mut inbox = Inbox::new();
            receive(&mut inbox, &[(b"ab", EOM)])?;
            assert!(store(&mut inbox, packet(&long, order)?, 1, PART));
            receive(&mut inbox, &[(b"cd", EOM)])?;
            let lengths = lengths(&mut inbox)?;
            assert_eq!(
                lengths.as_slice(),
                [2 + Mark::LEN, long.len(), 2 + Mark::LEN]
            );
            assert!(reads_message(&mut inbox, b"ab"));
            let mut queue = inbox.take();
            let (message, _) = Msg::with_memory(&mut [0; 8], |msg| take_message(&mut queue, msg));
            assert!(message.whole && queue.is_empty());
            assert_eq!(message.len, long.len() + 2);
        }
        Ok(())
    }

    #[test]
    fn s1_a_part_in_several_buffers_ends_with_the_last() -> Result {
        let pages = SkBuff::<()>::MAX_PAGES + 3;
        let page = KVec::from_elem(7, PAGE_SIZE, GFP_KERNEL)?;
        let mut payload = Payload::with_capacity(pages, GFP_KERNEL)?;
        for _ in 0..pages {
            let mut block = PageBlock::alloc(0, GFP_KERNEL)?;
            block.copy_to(0, &page)?;
            payload.add(block, 0, PAGE_SIZE);
        }
        payload.complete(Some(pages * PAGE_SIZE));
        for _ in 0..2 {
            payload.add_spare_skb(SkBuff::alloc(0, GFP_KERNEL, ())?);
        }
        let mut inbox = Inbox::new();
        assert!(store(&mut inbox, payload, 0, EOM));
        let mut queue = inbox.take();
        for form in [Form::Part(SeqFlags::NONE), Form::Part(SeqFlags::EOM)] {
            assert!(queue
                .pop_front()
                .is_some_and(|skb| skb.control().form == form));
        }
        assert!(queue.is_empty());
        Ok(())
    }

    #[test]
    fn k3_pages_taken_for_want_of_memory_are_counted() -> Result {
        let mut inbox = Inbox::new();
        // No room was found for it.
        assert!(inbox.store(&mut packet(b"ab", 0)?, 0, None).is_ok());
        assert_eq!(inbox.queue.unused(), PAGE_SIZE - 2);
        assert!(reads(&mut inbox, b"a"));
        assert_eq!(inbox.queue.unused(), PAGE_SIZE - 2);
        assert!(reads(&mut inbox, b"b"));
        assert_eq!(inbox.queue.unused(), 0);
        Ok(())
    }

    #[test]
    fn k3_empty_messages_are_bounded_and_count_until_they_are_read() -> Result {
        let mut inbox = Inbox::new();
        for _ in 0..Empties::MAX {
            receive(&mut inbox, &[(b"", EOM)])?;
        }
        let refused = inbox.store(&mut packet(b"", 0)?, 0, EOM);
        assert_eq!(refused, Err(SockError::NoBufs));
        // What has bytes is bounded by credit, and a stream has no messages.
        receive(&mut inbox, &[(b"a", EOM), (b"", None)])?;
        // One by each way out.
        assert!(reads_message(&mut inbox, b""));
        let message = hands_over(&mut inbox, b"")?.ok_or(EIO)?;
        inbox.forget(&message);
        for _ in 0..2 {
            receive(&mut inbox, &[(b"", EOM)])?;
        }
        let refused = inbox.store(&mut packet(b"", 0)?, 0, EOM);
        assert_eq!(refused, Err(SockError::NoBufs));
        Ok(())
    }

    #[test]
    fn what_was_not_read_goes_back_before_what_has_come_and_is_joined() -> Result {
        for message in [None, EOM] {
            let mark = if message.is_some() { Mark::LEN } else { 0 };
            let mut inbox = inbox(&[(b"ab", message)])?;
            let queue = inbox.take();
            receive(&mut inbox, &[(b"cd", message)])?;
            inbox.put_back(queue);
            assert_eq!(lengths(&mut inbox)?.as_slice(), [4 + 2 * mark]);
            for expected in [b"ab", b"cd"] {
                assert!(match message {
                    None => reads(&mut inbox, expected),
                    Some(_) => reads_message(&mut inbox, expected),
                });
            }
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_the_last_is_not_joined() -> Result {
        let mut inbox = inbox(&[(b"ab", None)])?;
        let room = inbox.queue.back_mut().map_or(0, |last| last.tailroom());
        let long = KVec::from_elem(7, room + 1, GFP_KERNEL)?;
        let queue = inbox.take();
        assert!(store(&mut inbox, packet(&long, 3)?, 0, None));
        receive(&mut inbox, &[(b"cd", None)])?;
        inbox.put_back(queue);
        assert_eq!(lengths(&mut inbox)?.as_slice(), [2, room + 3]);
        assert!(reads(&mut inbox, b"ab\x07"));

        // Nor are parts that are buffers of their own: two of them would be one.
        let part = || -> Result<SkBuff<Unread>> {
            let control = Unread {
                consumed: 0,
                form: Form::Part(SeqFlags::EOM),
                unused: 0,
            };
            let mut skb = SkBuff::alloc(100, GFP_KERNEL, control)?;
            skb.put_slice(b"ab")?;
            Ok(skb)
        };
        let mut inbox = Inbox::new();
        inbox.queue.push_back(part()?);
        let queue = inbox.take();
        inbox.queue.push_back(part()?);
        inbox.put_back(queue);
        assert_eq!(lengths(&mut inbox)?.as_slice(), [2, 2]);
        Ok(())
    }

    #[test]
    fn sockmap_gets_bytes_from_where_the_reader_has_come_to() -> Result {
        let mut inbox = inbox(&[(b"abc", None)])?;
        let large = KVec::from_elem(7, PAGE_SIZE, GFP_KERNEL)?;
        assert!(store(&mut inbox, packet(&large, 0)?, 1, None));
        receive(&mut inbox, &[(b"de", None)])?;
        assert!(reads(&mut inbox, b"a"));
        assert!(hands_over(&mut inbox, b"bc")?.is_none());
        assert_eq!(inbox.read_skb()?.0.len(), PAGE_SIZE);
        assert!(hands_over(&mut inbox, b"de")?.is_none());
        assert_eq!(inbox.read_skb().err(), Some(EAGAIN));
        Ok(())
    }

    #[test]
    fn sockmap_gets_messages_part_by_part() -> Result {
        let mut inbox = inbox(&[
            (b"ab", EOM),
            (b"", EOM),
            (b"cde", PART),
            (b"f", Some(SeqFlags::EOM.union(SeqFlags::EOR))),
        ])?;
        for (bytes, empties, whole, eor) in [
            (b"ab".as_slice(), 0, true, false),
            (b"", 1, true, false),
            (b"cde", 0, false, false),
            (b"f", 0, true, true),
        ] {
            let message = hands_over(&mut inbox, bytes)?.ok_or(EIO)?;
            assert_eq!((message.len, message.empties), (bytes.len(), empties));
            assert_eq!((message.whole, message.eor), (whole, eor));
        }
        assert_eq!(inbox.read_skb().err(), Some(EAGAIN));
        Ok(())
    }

    #[test]
    fn sockmap_is_told_of_what_a_reader_kept_from_it() -> Result {
        let mut inbox = inbox(&[(b"ab", None)])?;
        let queue = inbox.take();
        receive(&mut inbox, &[(b"cd", None)])?;
        // What has come meanwhile is not to overtake what the reader has.
        assert_eq!(inbox.read_skb().err(), Some(EAGAIN));
        assert!(inbox.put_back(queue));
        assert!(hands_over(&mut inbox, b"abcd")?.is_none());
        // It was told.
        receive(&mut inbox, &[(b"ef", None)])?;
        let queue = inbox.take();
        assert!(!inbox.put_back(queue));
        // And if all was read, there is nothing to be told of.
        let _read = inbox.take();
        assert_eq!(inbox.read_skb().err(), Some(EAGAIN));
        assert!(!inbox.put_back(Queue::new()));
        Ok(())
    }

    #[test]
    fn one_at_a_time_hands_over_and_does_the_others_share() {
        let mut inbox = Inbox::new();
        assert!(inbox.begin_handing_over());
        assert!(!inbox.begin_handing_over());
        assert!(!inbox.begin_handing_over());
        assert!(inbox.end_handing_over());
        assert!(!inbox.end_handing_over());
        assert!(inbox.begin_handing_over());
        assert!(!inbox.end_handing_over());
    }
}
