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
            if !all && skb.len() == 0 {
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
