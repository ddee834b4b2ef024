// SPDX-License-Identifier: GPL-2.0

//! What a connection has received and nobody has read: bytes, or messages.
//!
//! Small payloads are copied together, so that neither many of them nor the large buffers that they
//! came in hold much memory (K3). In a stream they simply follow each other. Messages keep their
//! boundaries: several parts share a buffer, each behind two bytes that say how long it is and
//! whether it ends a message.

use super::payload::Payload;
use crate::{
    ext::net::{
        msg::Msg,
        skbuff::{
            ControlBlock,
            SkBuff,
            SkBuffQueue, //
        }, //
    },
    proto::{
        self,
        Arrival,
        Empties,
        SockError,
        Store, //
    },
    wire::SeqFlags, //
};
use kernel::prelude::*;

/// The size of what precedes each part in a bundle.
const MARK_LEN: usize = 2;

/// The greatest part that can be in a bundle: its length has 14 bits.
const MARK_MAX: usize = (1 << 14) - 1;
const MARK_EOM: u16 = 1 << 14;
const MARK_EOR: u16 = 1 << 15;

/// How the bytes in a buffer are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As part of a stream.
    Bytes,
    /// As one part of a message.
    Part(SeqFlags),
    /// As parts of messages, each behind its mark.
    Bundle,
}

/// The control block of a buffer of received bytes.
pub(super) struct Unread {
    /// How many of the bytes were read.
    consumed: usize,
    form: Form,
}

impl ControlBlock for Unread {}

pub(super) type Queue = SkBuffQueue<Unread>;

/// Received and unread.
pub(super) struct Inbox {
    queue: Queue,
    /// How many whole messages there are.
    messages: u32,
    /// Parts without bytes, which credit does not bound.
    empties: Empties,
    /// A reader has taken the buffers out, to put back what it does not read.
    taken: bool,
    /// Meanwhile somebody else wanted to read.
    missed: bool,
    /// Somebody hands over what there is to sockmap, one by one.
    handing_over: bool,
    /// Meanwhile somebody else wanted to.
    more: bool,
}

/// A message that was read, or looked at.
pub(super) struct Message {
    /// Its length, also if less was wanted.
    pub(super) len: usize,
    /// It was sent with `MSG_EOR`.
    pub(super) eor: bool,
    /// How many of its parts were empty.
    empties: u32,
    /// Its last part was among them.
    whole: bool,
}

/// A part of a message, where it lies in a buffer.
struct Part {
    start: usize,
    len: usize,
    flags: SeqFlags,
}

impl Part {
    fn end(&self) -> usize {
        self.start.saturating_add(self.len)
    }
}

impl Inbox {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self {
            queue: Queue::new(),
            messages: 0,
            empties: Empties::new(),
            taken: false,
            missed: false,
            handing_over: false,
            more: false,
        }
    }

    /// How many whole messages there are.
    pub(super) fn messages(&self) -> u32 {
        self.messages
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

    /// Begins to hand over what there is; false if somebody does so already, who then goes on.
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
            // As it is; the control block goes.
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

    /// `message` was taken out of the buffers for good.
    pub(super) fn message_is_read(&mut self, message: &Message) {
        self.messages = self.messages.saturating_sub(u32::from(message.whole));
        for _ in 0..message.empties {
            self.empties.read();
        }
    }

    /// Stores `payload`; `message` says what part of a message it is, if it is one. `unread` bytes are
    /// there already.
    ///
    /// The payload's buffers stay unless their pages were taken.
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
        let form = match message {
            None => Form::Bytes,
            Some(_) if payload.len() <= MARK_MAX => Form::Bundle,
            Some(flags) => Form::Part(flags),
        };
        self.store_as(payload, unread, form, message)
            .map_err(|_| SockError::NoMem)?;
        if message.is_some_and(|flags| flags.contains(SeqFlags::EOM)) {
            self.messages = self.messages.saturating_add(1);
        }
        Ok(())
    }

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
                marked = mark(payload.len(), flags);
                &marked
            }
            _ => &[],
        };
        let tail_room = match self.queue.back_mut() {
            // A part that is a buffer of its own takes nothing in.
            Some(tail) if tail.control().form == form && !matches!(form, Form::Part(_)) => {
                tail.tailroom()
            }
            _ => 0,
        };
        let arrival = Arrival {
            payload: payload.len().saturating_add(mark.len()),
            buffer: payload.memory(),
            tail_room,
            unread: unread as usize,
        };
        match proto::store(&arrival) {
            Store::Append => {
                if let Some(mut tail) = self.queue.back_mut() {
                    tail.put_slice(mark)?;
                    payload.try_for_each(|block, at, len| tail.put_block(block, at, len))?;
                }
                return Ok(());
            }
            Store::Compact { capacity } => {
                let fresh = Unread { consumed: 0, form };
                if let Ok(mut skb) = SkBuff::alloc(capacity, GFP_ATOMIC, fresh) {
                    skb.put_slice(mark)?;
                    payload.try_for_each(|block, at, len| skb.put_block(block, at, len))?;
                    self.queue.push_back(skb);
                    return Ok(());
                }
            }
            Store::TakePages => {}
        }
        loop {
            // A part in several buffers ends with the last of them.
            let fresh = Unread {
                consumed: 0,
                form: message.map_or(Form::Bytes, |_| Form::Part(SeqFlags::NONE)),
            };
            let mut skb = payload.take_head()?.with_control(fresh);
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

/// What precedes a part in a bundle.
fn mark(len: usize, flags: SeqFlags) -> [u8; MARK_LEN] {
    // CAST: The caller has seen that it is at most `MARK_MAX`.
    let mut mark = (len & MARK_MAX) as u16;
    if flags.contains(SeqFlags::EOM) {
        mark |= MARK_EOM;
    }
    if flags.contains(SeqFlags::EOR) {
        mark |= MARK_EOR;
    }
    mark.to_le_bytes()
}

/// Copies the first `len` bytes of a stream to the user; `copied` counts them.
pub(super) fn copy_bytes(queue: &Queue, msg: &mut Msg, len: usize, copied: &mut usize) -> Result {
    for skb in queue.iter() {
        let consumed = skb.control().consumed;
        let bytes = skb
            .len()
            .saturating_sub(consumed)
            .min(len.saturating_sub(*copied));
        if bytes == 0 {
            break;
        }
        skb.copy_to(consumed, msg, bytes)?;
        *copied = copied.saturating_add(bytes);
    }
    Ok(())
}

/// Moves the first `len` bytes of a stream to the user; `copied` counts them.
pub(super) fn take_bytes(
    queue: &mut Queue,
    msg: &mut Msg,
    len: usize,
    copied: &mut usize,
) -> Result {
    while *copied < len {
        let Some(mut skb) = queue.pop_front() else {
            break;
        };
        let consumed = skb.control().consumed;
        let left = skb.len().saturating_sub(consumed);
        let bytes = left.min(len.saturating_sub(*copied));
        let result = skb.copy_to(consumed, msg, bytes);
        if result.is_ok() {
            *copied = copied.saturating_add(bytes);
            skb.control_mut().consumed = consumed.saturating_add(bytes);
        }
        if result.is_err() || bytes < left {
            queue.push_front(skb);
        } else {
            skb.consume();
        }
        result?;
    }
    Ok(())
}

/// The part of a message at `at` in a buffer.
fn part_at(skb: &SkBuff<Unread>, at: usize) -> Option<Part> {
    match skb.control().form {
        Form::Bundle => {
            let mut mark = [0; MARK_LEN];
            skb.read(at, &mut mark).ok()?;
            let mark = u16::from_le_bytes(mark);
            let mut flags = SeqFlags::NONE;
            if mark & MARK_EOM != 0 {
                flags = flags.union(SeqFlags::EOM);
            }
            if mark & MARK_EOR != 0 {
                flags = flags.union(SeqFlags::EOR);
            }
            Some(Part {
                start: at.saturating_add(MARK_LEN),
                len: usize::from(mark) & MARK_MAX,
                flags,
            })
        }
        Form::Part(flags) => Some(Part {
            start: at,
            len: skb.len().saturating_sub(at),
            flags,
        }),
        Form::Bytes => None,
    }
}

/// A message that is being put together from its parts, at the user's end.
struct Assembly {
    message: Message,
    /// How much the user still has room for.
    room: usize,
    result: Result,
}

impl Assembly {
    fn new(msg: &Msg) -> Self {
        Self {
            message: Message {
                len: 0,
                eor: false,
                empties: 0,
                whole: false,
            },
            room: msg.left(),
            result: Ok(()),
        }
    }

    /// Copies `part` of `skb` to the user, as far as there is room; true if it was the last.
    fn add(&mut self, skb: &SkBuff<Unread>, part: &Part, msg: &mut Msg) -> bool {
        let bytes = part.len.min(self.room);
        if bytes > 0 && self.result.is_ok() {
            self.result = skb.copy_to(part.start, msg, bytes);
            self.room = self.room.saturating_sub(bytes);
        }
        self.message.len = self.message.len.saturating_add(part.len);
        self.message.empties = self
            .message
            .empties
            .saturating_add(u32::from(part.len == 0));
        self.message.eor |= part.flags.contains(SeqFlags::EOR);
        self.message.whole |= part.flags.contains(SeqFlags::EOM);
        self.message.whole
    }
}

/// Copies the first message to the user. It must be there as a whole.
pub(super) fn copy_message(queue: &Queue, msg: &mut Msg) -> (Message, Result) {
    let mut assembly = Assembly::new(msg);
    'message: for skb in queue.iter() {
        let mut at = skb.control().consumed;
        loop {
            let Some(part) = part_at(&skb, at) else {
                break;
            };
            if assembly.add(&skb, &part, msg) {
                break 'message;
            }
            at = part.end();
            if at >= skb.len() {
                break;
            }
        }
    }
    (assembly.message, assembly.result)
}

/// Moves the first message to the user. It must be there as a whole, and is gone afterwards, also
/// if the user's memory could not be written.
pub(super) fn take_message(queue: &mut Queue, msg: &mut Msg) -> (Message, Result) {
    let mut assembly = Assembly::new(msg);
    while let Some(mut skb) = queue.pop_front() {
        let Some(part) = part_at(&skb, skb.control().consumed) else {
            continue;
        };
        let whole = assembly.add(&skb, &part, msg);
        skb.control_mut().consumed = part.end();
        if part.end() < skb.len() {
            queue.push_front(skb);
        } else {
            skb.consume();
        }
        if whole {
            break;
        }
    }
    (assembly.message, assembly.result)
}
