// SPDX-License-Identifier: GPL-2.0

//! Buffers of received bytes: what is in them, and how a reader takes it out.
//!
//! In a stream bytes simply follow each other. Parts of messages are buffers of their own, or share one,
//! each behind two bytes that say how long it is and whether it ends a message.

use crate::{
    ext::net::{
        msg::Msg,
        skbuff::{
            ControlBlock,
            DropReason,
            Iter,
            SkBuff,
            SkBuffMut,
            SkBuffQueue, //
        }, //
    },
    proto::Mark,
    wire::SeqFlags, //
};
use kernel::prelude::*;

/// How the bytes in a buffer are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
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
    pub(super) consumed: usize,
    pub(super) form: Form,
    /// Bytes of its pages that are no payload, if there was no memory to do better.
    pub(super) unused: usize,
}

impl ControlBlock for Unread {
    fn drop_reason(&self) -> DropReason {
        // Nobody will read it.
        DropReason::SOCKET_CLOSE
    }
}

/// Buffers in their order.
pub(super) struct Queue {
    buffers: SkBuffQueue<Unread>,
    /// The sum of what is [unused](Unread::unused) in them.
    unused: usize,
}

impl Queue {
    /// None.
    pub(super) const fn new() -> Self {
        Self {
            buffers: SkBuffQueue::new(),
            unused: 0,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Bytes of pages that are no payload, as there was no memory to do better.
    pub(super) fn unused(&self) -> usize {
        self.unused
    }

    /// Appends one.
    pub(super) fn push_back(&mut self, skb: SkBuff<Unread>) {
        self.unused = self.unused.saturating_add(skb.control().unused);
        self.buffers.push_back(skb);
    }

    /// Puts one first.
    pub(super) fn push_front(&mut self, skb: SkBuff<Unread>) {
        self.unused = self.unused.saturating_add(skb.control().unused);
        self.buffers.push_front(skb);
    }

    /// Takes the first out.
    pub(super) fn pop_front(&mut self) -> Option<SkBuff<Unread>> {
        let skb = self.buffers.pop_front()?;
        self.unused = self.unused.saturating_sub(skb.control().unused);
        Some(skb)
    }

    /// Puts all of `first` before them.
    pub(super) fn prepend(&mut self, first: Queue) {
        self.unused = self.unused.saturating_add(first.unused);
        self.buffers.prepend(first.buffers);
    }

    /// The last, to be extended.
    pub(super) fn back_mut(&mut self) -> Option<SkBuffMut<'_, Unread>> {
        self.buffers.back_mut()
    }

    fn iter(&self) -> Iter<'_, Unread> {
        self.buffers.iter()
    }
}

/// A message that was read, or looked at.
pub(super) struct Message {
    /// Its length, also if less was wanted.
    pub(super) len: usize,
    /// It was sent with `MSG_EOR`.
    pub(super) eor: bool,
    /// How many of its parts were empty.
    pub(super) empties: u32,
    /// Its last part was among them.
    pub(super) whole: bool,
}

/// A part of a message, where it lies in a buffer.
pub(super) struct Part {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) flags: SeqFlags,
}

impl Part {
    /// Where it ends.
    pub(super) fn end(&self) -> usize {
        self.start.saturating_add(self.len)
    }
}

/// Copies the first `len` bytes of a stream to the user; `copied` counts them.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EFAULT`: the user's memory cannot be written.
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
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EFAULT`: the user's memory cannot be written; what could not be copied is still there.
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
pub(super) fn part_at(skb: &SkBuff<Unread>, at: usize) -> Option<Part> {
    match skb.control().form {
        Form::Bundle => {
            let mut bytes = [0; Mark::LEN];
            skb.read(at, &mut bytes).ok()?;
            let mark = Mark::parse(bytes);
            Some(Part {
                start: at.saturating_add(Mark::LEN),
                len: mark.len(),
                flags: mark.flags(),
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
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EFAULT`: the user's memory cannot be written.
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
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EFAULT`: the user's memory cannot be written.
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

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_unread)]
mod tests {
    use super::*;

    const EOR: SeqFlags = SeqFlags::EOM.union(SeqFlags::EOR);

    fn buffer(form: Form, bytes: &[&[u8]]) -> Result<SkBuff<Unread>> {
        let control = Unread {
            consumed: 0,
            form,
            unused: 0,
        };
        let mut skb = SkBuff::alloc(100, GFP_KERNEL, control)?;
        for bytes in bytes {
            skb.put_slice(bytes)?;
        }
        Ok(skb)
    }

    /// Parts of messages that share a buffer.
    fn bundle(parts: &[(&[u8], SeqFlags)]) -> Result<SkBuff<Unread>> {
        let mut skb = buffer(Form::Bundle, &[])?;
        for (bytes, flags) in parts {
            let mark = Mark::new(bytes.len(), *flags).ok_or(EINVAL)?;
            skb.put_slice(&mark.to_bytes())?;
            skb.put_slice(bytes)?;
        }
        Ok(skb)
    }

    /// A stream.
    fn stream(buffers: &[&[u8]]) -> Result<Queue> {
        let mut queue = Queue::new();
        for bytes in buffers {
            queue.push_back(buffer(Form::Bytes, &[bytes])?);
        }
        Ok(queue)
    }

    /// Whether a reader who wants `len` bytes gets `expected`.
    fn takes(queue: &mut Queue, len: usize, expected: &[u8]) -> bool {
        let (mut memory, mut copied) = ([0; 16], 0);
        let result = Msg::with_memory(&mut memory, |msg| take_bytes(queue, msg, len, &mut copied));
        result.is_ok() && memory.get(..copied) == Some(expected)
    }

    /// Whether a reader who looks at `len` bytes sees `expected`.
    fn shows(queue: &Queue, len: usize, expected: &[u8]) -> bool {
        let (mut memory, mut copied) = ([0; 16], 0);
        let result = Msg::with_memory(&mut memory, |msg| copy_bytes(queue, msg, len, &mut copied));
        result.is_ok() && memory.get(..copied) == Some(expected)
    }

    /// What a reader with memory for `room` bytes makes of the next message, and whether that memory then
    /// begins with `expected`, and nothing else is in it.
    fn next(queue: &mut Queue, take: bool, room: usize, expected: &[u8]) -> (Message, bool) {
        let mut memory = [0; 16];
        let (message, result) = Msg::with_memory(memory.split_at_mut(room).0, |msg| {
            if take {
                take_message(queue, msg)
            } else {
                copy_message(queue, msg)
            }
        });
        let (begin, rest) = memory.split_at(expected.len());
        let is_so = result.is_ok() && begin == expected && rest.iter().all(|byte| *byte == 0);
        (message, is_so)
    }

    #[test]
    fn a_stream_goes_on_where_the_last_read_ended() -> Result {
        let mut queue = stream(&[b"abc", b"defg"])?;
        assert!(takes(&mut queue, 1, b"a"));
        assert!(takes(&mut queue, 1, b"b"));
        assert!(takes(&mut queue, 3, b"cde"));
        assert!(!queue.is_empty());
        assert!(takes(&mut queue, 10, b"fg"));
        assert!(queue.is_empty());
        assert!(takes(&mut queue, 10, b""));
        Ok(())
    }

    #[test]
    fn whoever_looks_at_a_stream_takes_nothing() -> Result {
        let mut queue = stream(&[b"abc", b"defg"])?;
        assert!(shows(&queue, 5, b"abcde"));
        assert!(shows(&queue, 16, b"abcdefg"));
        assert!(takes(&mut queue, 1, b"a"));
        assert!(shows(&queue, 5, b"bcdef"));
        assert!(takes(&mut queue, 16, b"bcdefg"));
        Ok(())
    }

    #[test]
    fn bytes_that_could_not_be_copied_stay() -> Result {
        let mut queue = stream(&[b"abc", b"defg"])?;
        assert!(takes(&mut queue, 2, b"ab"));
        let mut copied = 0;
        let result = Msg::with_bad_memory(16, |msg| take_bytes(&mut queue, msg, 5, &mut copied));
        assert_eq!((result, copied), (Err(EFAULT), 0));
        let result = Msg::with_bad_memory(16, |msg| copy_bytes(&queue, msg, 5, &mut copied));
        assert_eq!((result, copied), (Err(EFAULT), 0));
        assert!(takes(&mut queue, 16, b"cdefg"));
        Ok(())
    }

    #[test]
    fn s2_a_message_that_could_not_be_copied_is_gone() -> Result {
        let mut queue = Queue::new();
        queue.push_back(bundle(&[(b"ab", SeqFlags::NONE)])?);
        queue.push_back(bundle(&[(b"cd", SeqFlags::EOM), (b"x", SeqFlags::EOM)])?);
        let (message, result) = Msg::with_bad_memory(16, |msg| copy_message(&queue, msg));
        assert_eq!((message.len, result), (4, Err(EFAULT)));
        let (message, result) = Msg::with_bad_memory(16, |msg| take_message(&mut queue, msg));
        assert_eq!((message.len, result), (4, Err(EFAULT)));
        assert!(message.whole);
        let (_, is_so) = next(&mut queue, true, 16, b"x");
        assert!(is_so);
        Ok(())
    }

    #[test]
    fn s1_messages_that_share_a_buffer_are_read_one_by_one() -> Result {
        let mut queue = Queue::new();
        queue.push_back(bundle(&[(b"ab", SeqFlags::EOM), (b"cde", EOR)])?);
        let (message, is_so) = next(&mut queue, true, 16, b"ab");
        assert!(is_so && message.whole && !message.eor);
        assert_eq!((message.len, message.empties), (2, 0));
        let (message, is_so) = next(&mut queue, true, 16, b"cde");
        assert!(is_so && message.whole && message.eor);
        assert_eq!(message.len, 3);
        assert!(queue.is_empty());
        Ok(())
    }

    #[test]
    fn s1_a_message_is_put_together_from_its_parts() -> Result {
        for take in [false, true] {
            let mut queue = Queue::new();
            queue.push_back(bundle(&[(b"y", SeqFlags::EOM), (b"ab", SeqFlags::NONE)])?);
            queue.push_back(buffer(Form::Part(SeqFlags::NONE), &[b"cde"])?);
            queue.push_back(bundle(&[(b"", SeqFlags::NONE), (b"f", EOR), (b"x", EOR)])?);
            let (_, is_so) = next(&mut queue, true, 16, b"y");
            assert!(is_so);
            let (message, is_so) = next(&mut queue, take, 16, b"abcdef");
            assert!(is_so && message.whole && message.eor);
            assert_eq!((message.len, message.empties), (6, 1));
            let (_, is_so) = next(&mut queue, true, 16, if take { b"x" } else { b"abcdef" });
            assert!(is_so);
            assert_eq!(queue.is_empty(), take);
        }
        Ok(())
    }

    #[test]
    fn s2_a_message_that_does_not_fit_is_cut_and_gone() -> Result {
        for parts in [false, true] {
            let mut queue = Queue::new();
            if parts {
                queue.push_back(buffer(Form::Part(SeqFlags::NONE), &[b"abc"])?);
                queue.push_back(buffer(Form::Part(SeqFlags::NONE), &[b"de"])?);
                queue.push_back(buffer(Form::Part(SeqFlags::EOM), &[b"f"])?);
            } else {
                queue.push_back(bundle(&[(b"abcdef", SeqFlags::EOM)])?);
            }
            queue.push_back(bundle(&[(b"x", SeqFlags::EOM)])?);
            for take in [false, true] {
                let (message, is_so) = next(&mut queue, take, 4, b"abcd");
                assert!(is_so && message.whole);
                assert_eq!(message.len, 6);
            }
            let (message, is_so) = next(&mut queue, true, 4, b"x");
            assert!(is_so);
            assert_eq!(message.len, 1);
            assert!(queue.is_empty());
        }
        Ok(())
    }

    #[test]
    fn pages_that_are_no_payload_are_counted() -> Result {
        let wasteful = |unused| -> Result<SkBuff<Unread>> {
            let mut skb = buffer(Form::Bytes, &[b"a"])?;
            skb.control_mut().unused = unused;
            Ok(skb)
        };
        let (mut queue, mut first) = (Queue::new(), Queue::new());
        queue.push_back(wasteful(2)?);
        queue.push_front(wasteful(3)?);
        first.push_back(wasteful(5)?);
        queue.prepend(first);
        for unused in [10, 5, 2, 0] {
            assert_eq!(queue.unused(), unused);
            let _ = queue.pop_front();
        }
        Ok(())
    }
}
