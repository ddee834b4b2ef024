// SPDX-License-Identifier: GPL-2.0

//! Lists of socket buffers, linked through the buffers themselves.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::{
    ControlBlock,
    SkBuff, //
};
use crate::ext::{
    bindings,
    mm::PageBlock, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// A first-in first-out list of socket buffers, linked through the buffers themselves.
///
/// # Invariants
///
/// Each buffer from `head` along `next` is one that the queue owns; `tail` is the last of them,
/// and its `next` is null.
pub(crate) struct SkBuffQueue<C: ControlBlock = ()> {
    head: *mut bindings::sk_buff,
    tail: *mut bindings::sk_buff,
    len: usize,
    _buffers: PhantomData<SkBuff<C>>,
}

// SAFETY: The queue owns its buffers, which are `Send`.
unsafe impl<C: ControlBlock> Send for SkBuffQueue<C> {}

impl<C: ControlBlock> Default for SkBuffQueue<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: ControlBlock> From<SkBuff<C>> for SkBuffQueue<C> {
    fn from(skb: SkBuff<C>) -> Self {
        let mut queue = Self::new();
        queue.push_back(skb);
        queue
    }
}

impl<C: ControlBlock> SkBuffQueue<C> {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        Self {
            head: core::ptr::null_mut(),
            tail: core::ptr::null_mut(),
            len: 0,
            _buffers: PhantomData,
        }
    }

    /// Whether there is no buffer in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// The number of buffers.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where the link of a buffer lies.
    ///
    /// # Safety
    ///
    /// `skb` is valid and owned by this queue.
    unsafe fn next(skb: *mut bindings::sk_buff) -> *mut *mut bindings::sk_buff {
        // SAFETY: By the safety requirements. `next` is the first member.
        unsafe { (&raw mut (*skb).__bindgen_anon_1).cast() }
    }

    /// Appends `skb`.
    pub(crate) fn push_back(&mut self, skb: SkBuff<C>) {
        let raw = ManuallyDrop::new(skb).raw();
        // SAFETY: The buffer is ours now; the tail is, if there is one, by the type invariant.
        unsafe {
            *Self::next(raw) = core::ptr::null_mut();
            if self.tail.is_null() {
                self.head = raw;
            } else {
                *Self::next(self.tail) = raw;
            }
        }
        self.tail = raw;
        self.len += 1;
    }

    /// Puts `skb` before all others.
    pub(crate) fn push_front(&mut self, skb: SkBuff<C>) {
        let raw = ManuallyDrop::new(skb).raw();
        // SAFETY: The buffer is ours now.
        unsafe { *Self::next(raw) = self.head };
        if self.tail.is_null() {
            self.tail = raw;
        }
        self.head = raw;
        self.len += 1;
    }

    /// Takes the first buffer out.
    pub(crate) fn pop_front(&mut self) -> Option<SkBuff<C>> {
        let raw = NonNull::new(self.head)?;
        // SAFETY: By the type invariant the head is valid and ours. Its link is cleared, since
        // other code takes a buffer with a link for a list of them.
        unsafe {
            let next = Self::next(raw.as_ptr());
            self.head = *next;
            *next = core::ptr::null_mut();
        }
        if self.head.is_null() {
            self.tail = core::ptr::null_mut();
        }
        self.len -= 1;
        // INVARIANT: The buffer was the queue's alone and has left it.
        Some(SkBuff {
            ptr: raw,
            _control: PhantomData,
        })
    }

    /// Puts all of `first` before what is in the queue.
    pub(crate) fn prepend(&mut self, mut first: SkBuffQueue<C>) {
        if first.is_empty() {
            return;
        }
        core::mem::swap(self, &mut first);
        self.append(first);
    }

    /// Appends all of `more`.
    pub(crate) fn append(&mut self, more: SkBuffQueue<C>) {
        let more = ManuallyDrop::new(more);
        if more.head.is_null() {
            return;
        }
        if self.tail.is_null() {
            self.head = more.head;
        } else {
            // SAFETY: By the type invariant the tail is valid and ours.
            unsafe { *Self::next(self.tail) = more.head };
        }
        self.tail = more.tail;
        self.len += more.len;
    }

    /// All buffers have [reached their end](SkBuff::consume).
    pub(crate) fn consume(mut self) {
        while let Some(skb) = self.pop_front() {
            skb.consume();
        }
    }

    /// The last buffer, to be extended.
    pub(crate) fn back_mut(&mut self) -> Option<SkBuffMut<'_, C>> {
        Some(SkBuffMut {
            // INVARIANT: Valid and initialised by the queue's invariant; it is used only while
            // the queue is borrowed mutably, and not dropped.
            skb: ManuallyDrop::new(SkBuff {
                ptr: NonNull::new(self.tail)?,
                _control: PhantomData,
            }),
            _queue: PhantomData,
        })
    }

    /// The buffers, first to last.
    pub(crate) fn iter(&self) -> Iter<'_, C> {
        Iter {
            next: self.head,
            _queue: PhantomData,
        }
    }

    /// Takes out the buffers for which `wanted` says so, in their order.
    pub(crate) fn extract(&mut self, mut wanted: impl FnMut(&SkBuff<C>) -> bool) -> Self {
        let (mut kept, mut taken) = (Self::new(), Self::new());
        while let Some(skb) = self.pop_front() {
            if wanted(&skb) {
                taken.push_back(skb);
            } else {
                kept.push_back(skb);
            }
        }
        *self = kept;
        taken
    }
}

impl<C: ControlBlock> Drop for SkBuffQueue<C> {
    /// Drops all buffers; as [`SkBuff`]'s.
    fn drop(&mut self) {
        while self.pop_front().is_some() {}
    }
}

/// The last buffer of a queue, borrowed from it.
///
/// # Invariants
///
/// `skb` is in the queue, which owns it, and nobody else refers to it meanwhile.
pub(crate) struct SkBuffMut<'a, C: ControlBlock> {
    skb: ManuallyDrop<SkBuff<C>>,
    _queue: PhantomData<&'a mut SkBuffQueue<C>>,
}

impl<C: ControlBlock> SkBuffMut<'_, C> {
    /// As [`SkBuff::put_block`].
    pub(crate) fn put_block(&mut self, block: &PageBlock, offset: usize, len: usize) -> Result {
        self.skb.put_block(block, offset, len)
    }

    /// As [`SkBuff::put_slice`].
    pub(crate) fn put_slice(&mut self, data: &[u8]) -> Result {
        self.skb.put_slice(data)
    }

    /// As [`SkBuff::put_skb`].
    pub(crate) fn put_skb(&mut self, other: &SkBuff<C>, offset: usize, len: usize) -> Result {
        self.skb.put_skb(other, offset, len)
    }

    /// As [`SkBuff::control_mut`].
    pub(crate) fn control_mut(&mut self) -> &mut C {
        self.skb.control_mut()
    }
}

impl<C: ControlBlock> Deref for SkBuffMut<'_, C> {
    type Target = SkBuff<C>;

    fn deref(&self) -> &SkBuff<C> {
        &self.skb
    }
}

/// A buffer of a queue, borrowed from it.
///
/// # Invariants
///
/// `skb` is in the queue, which owns it.
pub(crate) struct SkBuffRef<'a, C: ControlBlock> {
    skb: ManuallyDrop<SkBuff<C>>,
    _queue: PhantomData<&'a SkBuffQueue<C>>,
}

impl<C: ControlBlock> Deref for SkBuffRef<'_, C> {
    type Target = SkBuff<C>;

    fn deref(&self) -> &SkBuff<C> {
        &self.skb
    }
}

/// Iterates over a queue's buffers, first to last.
pub(crate) struct Iter<'a, C: ControlBlock> {
    next: *mut bindings::sk_buff,
    _queue: PhantomData<&'a SkBuffQueue<C>>,
}

impl<'a, C: ControlBlock> Iterator for Iter<'a, C> {
    type Item = SkBuffRef<'a, C>;

    fn next(&mut self) -> Option<Self::Item> {
        let ptr = NonNull::new(self.next)?;
        // SAFETY: By the queue's invariant the buffer is valid, and the queue is borrowed.
        self.next = unsafe { *SkBuffQueue::<C>::next(ptr.as_ptr()) };
        Some(SkBuffRef {
            // INVARIANT: Valid and initialised by the queue's invariant; shared, and not dropped.
            skb: ManuallyDrop::new(SkBuff {
                ptr,
                _control: PhantomData,
            }),
            _queue: PhantomData,
        })
    }
}
