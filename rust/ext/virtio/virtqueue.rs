// SPDX-License-Identifier: GPL-2.0

//! Virtqueues that own their buffers.
//!
//! C header: [`include/linux/virtio.h`](srctree/include/linux/virtio.h)

use super::{
    buffer::{
        Buffer,
        Segments,
        MAX_SEGMENTS, //
    },
    queues::{
        ConfigSpace,
        Queue,
        QueueSet, //
    }, //
};
use crate::ext::bindings as ext_bindings;
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::Arc, //
};

/// A buffer that was not added to a queue, and why.
pub(crate) struct AddError<T> {
    /// See [`Virtqueue::add`].
    pub(crate) error: Error,
    /// The buffer.
    pub(crate) buffer: T,
}

impl<T> From<AddError<T>> for Error {
    /// Drops the buffer.
    fn from(e: AddError<T>) -> Error {
        e.error
    }
}

/// A queue of buffers of type `T` between the driver and the device.
///
/// A buffer moves in with [`add`](Self::add), and out with [`get_used`](Self::get_used) when the device
/// has used it. What is left when the queue ends (see [the module](super)) is dropped then; from there
/// on the queue is dead, which is no error of its user: operations say `EIO`, `None`, 0.
///
/// No operation sleeps. None allocates, but for a buffer of several segments the C side takes a table
/// of descriptors from the allocator, if the device allows, and does without if there is none.
///
/// # Invariants
///
/// - While `queue.set` is alive, all tokens in the C queue come from [`Buffer::into_token`] of `T`, and
///   no value has been made of them again.
/// - `size` is the size of the ring.
pub(crate) struct Virtqueue<T: Buffer> {
    queue: Queue,
    size: usize,
    /// Buffers were added of which the device was not told. A device without `VIRTIO_RING_F_EVENT_IDX` seems to want to
    /// know of nothing, too.
    untold: bool,
    _buffers: PhantomData<fn(T) -> T>,
}

impl<T: Buffer> Virtqueue<T> {
    /// Makes `queue` one of buffers of type `T`.
    pub(crate) fn new(queue: Queue) -> Self {
        const {
            assert!(
                T::MAX_SEGMENTS >= 1 && T::MAX_SEGMENTS <= MAX_SEGMENTS,
                "a buffer has from 1 to `MAX_SEGMENTS` segments"
            )
        };
        // SAFETY: From here on only values of `T` are added, which `drain::<T>` can take.
        unsafe { queue.register_drain(drain::<T>) };

        let size = match queue.set.enter() {
            // SAFETY: The queue is valid, as the set is alive.
            Some(_live) => unsafe { ext_bindings::virtqueue_get_vring_size(queue.vq.as_ptr()) },
            None => 0,
        };
        // INVARIANT: There is no other `Queue` for it, so that nothing was added yet. If the set is
        // dead, nothing ever will be.
        Self {
            queue,
            size: size as usize,
            untold: false,
            _buffers: PhantomData,
        }
    }

    /// The number of the queue on its device.
    #[inline]
    pub(crate) fn index(&self) -> usize {
        self.queue.index()
    }

    /// The number of descriptors in the ring.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The configuration space of the device, for as long as its queues live.
    pub(crate) fn config(&self) -> ConfigSpace {
        self.queue.config()
    }

    /// The number of descriptors that are free. Where the device takes tables of descriptors
    /// (`VIRTIO_RING_F_INDIRECT_DESC`), any buffer needs one; else each segment does.
    #[inline]
    pub(crate) fn num_free(&self) -> usize {
        match self.queue.set.enter() {
            // SAFETY: The queue is valid, as the set is alive. `&self` keeps away those that change
            // the field.
            Some(_live) => unsafe { (*self.vq()).num_free as usize },
            None => 0,
        }
    }

    /// Whether the queue is of no more use: dead, or broken by a device that went away or misbehaved.
    #[inline]
    pub(crate) fn is_broken(&self) -> bool {
        match self.queue.set.enter() {
            // SAFETY: The queue is valid, as the set is alive.
            Some(_live) => unsafe { ext_bindings::virtqueue_is_broken(self.vq()) },
            None => true,
        }
    }

    /// Gives `buffer` to the device, which learns of it by the next [`kick`](Self::kick).
    ///
    /// # Context
    ///
    /// Any.
    ///
    /// # Errors
    ///
    /// The buffer comes back with
    ///
    /// - `ENOSPC` if there are not enough free descriptors.
    /// - `ENOMEM` if it cannot be mapped for the device.
    /// - `EIO` if the queue is broken or dead.
    /// - `E2BIG` if it has more segments than the queue has descriptors.
    /// - `EINVAL` if it has no segments, or more than it says.
    pub(crate) fn add(&mut self, buffer: T) -> Result<(), AddError<T>> {
        let Some(_live) = self.queue.set.enter() else {
            return Err(AddError { error: EIO, buffer });
        };

        let mut table = [const { MaybeUninit::uninit() }; MAX_SEGMENTS];
        let mut segments = Segments::new(table.get_mut(..T::MAX_SEGMENTS).unwrap_or_default());
        buffer.segments(&mut segments);
        let (mut lists, readable, writable, count) = match segments.finish() {
            Ok(segments) => segments,
            Err(error) => return Err(AddError { error, buffer }),
        };
        if count > self.size {
            return Err(AddError {
                error: E2BIG,
                buffer,
            });
        }

        let token = buffer.into_token();
        // SAFETY:
        // - The queue is valid, as the set is alive, and `&mut self` serialises its use.
        // - `lists` has `readable + writable` lists of initialised segments, each ending in a mark, by
        //   the type invariants of `Segments`. None is empty.
        // - The memory stays valid and left alone while the queue owns the buffer, as `Buffer` demands.
        //
        // INVARIANT: On success, the token is one of `T` that only the queue has.
        let added = to_result(unsafe {
            ext_bindings::virtqueue_add_sgs(
                self.vq(),
                lists.as_mut_ptr(),
                readable,
                writable,
                token.as_ptr(),
                bindings::GFP_ATOMIC | bindings::__GFP_NOWARN,
            )
        });
        self.untold |= added.is_ok();
        added.map_err(|error| AddError {
            // Of memory that cannot be mapped a packed ring says what others say of broken queues.
            //
            // SAFETY: The queue is valid, as the set is alive.
            error: if error == EIO && !unsafe { ext_bindings::virtqueue_is_broken(self.vq()) } {
                ENOMEM
            } else {
                error
            },
            // SAFETY: The token comes from `into_token` above, and the queue did not take it.
            buffer: unsafe { T::from_token(token) },
        })
    }

    /// Takes back a buffer that the device has used, and how many bytes it says to have written.
    ///
    /// The number is at most the buffer's writable length. That so many bytes were really written is
    /// the device's word.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub(crate) fn get_used(&mut self) -> Option<(T, usize)> {
        let _live = self.queue.set.enter()?;

        let mut len = 0;
        // SAFETY: The queue is valid, as the set is alive, and `&mut self` serialises its use.
        let token = unsafe { ext_bindings::virtqueue_get_buf(self.vq(), &mut len) };
        // SAFETY: By the type invariants it is the token of a `T`, and the queue, which looks up its
        // own memory for it and not the device's, does not have it any more.
        let mut buffer = unsafe { T::from_token(NonNull::new(token)?) };
        buffer.set_used();
        let len = buffer.writable_len().min(len as usize);
        Some((buffer, len))
    }

    /// Finds out whether there is something new of which the device wants to be told, to tell it later.
    ///
    /// The notification is what costs, and can be given without the lock that guards the queue.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    #[must_use = "without `notify`, the device may never look at what was added"]
    pub(crate) fn kick_prepare(&mut self) -> Option<Notify> {
        if !core::mem::take(&mut self.untold) {
            return None;
        }
        let _live = self.queue.set.enter()?;
        // SAFETY: The queue is valid, as the set is alive, and `&mut self` serialises its use.
        let wanted = unsafe { ext_bindings::virtqueue_kick_prepare(self.vq()) };
        wanted.then(|| Notify {
            set: self.queue.set.clone(),
            vq: self.queue.vq,
        })
    }

    /// Tells the device of what was added, if there is something new and it wants to know.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub(crate) fn kick(&mut self) {
        if !core::mem::take(&mut self.untold) {
            return;
        }
        if let Some(_live) = self.queue.set.enter() {
            // SAFETY: The queue is valid, as the set is alive, and `&mut self` serialises its use.
            unsafe { ext_bindings::virtqueue_kick(self.vq()) };
        }
    }

    /// Tells the device to look at the queue, whether or not it wants to know.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub(crate) fn notify(&mut self) {
        if let Some(_live) = self.queue.set.enter() {
            // SAFETY: The queue is valid, as the set is alive.
            unsafe { ext_bindings::virtqueue_notify(self.vq()) };
        }
    }

    /// Asks the device not to interrupt. It may do so still.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub(crate) fn disable_cb(&mut self) {
        if let Some(_live) = self.queue.set.enter() {
            // SAFETY: The queue is valid, as the set is alive, and `&mut self` serialises its use.
            unsafe { ext_bindings::virtqueue_disable_cb(self.vq()) };
        }
    }

    /// Asks the device to interrupt for the next buffer that it uses.
    ///
    /// Returns false if it has used more meanwhile, for which it may not interrupt: the caller looks
    /// again.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub(crate) fn enable_cb(&mut self) -> bool {
        match self.queue.set.enter() {
            // SAFETY: The queue is valid, as the set is alive, and `&mut self` serialises its use.
            Some(_live) => unsafe { ext_bindings::virtqueue_enable_cb(self.vq()) },
            None => true,
        }
    }

    /// As [`enable_cb`](Self::enable_cb), for when most of the buffers have been used.
    ///
    /// Returns false if that is so already.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub(crate) fn enable_cb_delayed(&mut self) -> bool {
        match self.queue.set.enter() {
            // SAFETY: The queue is valid, as the set is alive, and `&mut self` serialises its use.
            Some(_live) => unsafe { ext_bindings::virtqueue_enable_cb_delayed(self.vq()) },
            None => true,
        }
    }

    #[inline]
    fn vq(&self) -> *mut ext_bindings::virtqueue {
        self.queue.vq.as_ptr()
    }
}

/// Drops the buffers that are left in a queue of `T`.
///
/// # Safety
///
/// As [`Drain`](super::queues::Drain) demands; the queue must be one of a [`Virtqueue<T>`].
unsafe fn drain<T: Buffer>(vq: NonNull<ext_bindings::virtqueue>) {
    loop {
        // SAFETY: By the safety requirements, the queue is valid and nobody else uses it.
        let token = unsafe { ext_bindings::virtqueue_detach_unused_buf(vq.as_ptr()) };
        let Some(token) = NonNull::new(token) else {
            return;
        };
        // SAFETY: By the type invariants of `Virtqueue<T>` it is the token of a `T`, and the queue does
        // not have it any more.
        drop(unsafe { T::from_token(token) });
    }
}

/// A notification that the device wants.
///
/// It can be given at any time; if the queue has ended, nothing happens.
///
/// # Invariants
///
/// `vq` is a queue of `set`.
#[must_use = "without `notify`, the device may never look at what was added"]
pub(crate) struct Notify {
    set: Arc<QueueSet>,
    vq: NonNull<ext_bindings::virtqueue>,
}

// SAFETY: Notifications need not be serialised, and `QueueSet` guards the access to `vq`.
unsafe impl Send for Notify {}

// SAFETY: As above.
unsafe impl Sync for Notify {}

impl Notify {
    /// Tells the device that there is something new in the queue.
    ///
    /// # Context
    ///
    /// Any.
    #[inline]
    pub(crate) fn notify(self) {
        if let Some(_live) = self.set.enter() {
            // SAFETY: The queue is valid, as the set is alive.
            unsafe { ext_bindings::virtqueue_notify(self.vq.as_ptr()) };
        }
    }
}
