// SPDX-License-Identifier: GPL-2.0

//! Socket buffers: packets that are owned, typed and never copied behind one's back.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

mod device;
mod growing;
mod paged;
mod queue;
mod reason;
mod user;

pub(crate) use self::growing::Growing;
pub(crate) use self::queue::{
    Iter,
    SkBuffMut,
    SkBuffQueue, //
};
pub(crate) use self::reason::DropReason;
use crate::ext::{
    alloc::gfp_as_raw,
    bindings,
    mm::PageBlock,
    net::sock::Sock, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::{
    alloc::Flags,
    error::to_result,
    prelude::*, //
};

/// What a socket buffer's owner keeps in its control block (`skb->cb`).
pub(crate) trait ControlBlock: Send + 'static {
    /// How many of the leading bytes a device gets in a segment of their own.
    ///
    /// Devices may insist that a packet's header is a segment by itself.
    fn header_len(&self) -> usize {
        0
    }

    /// Why the buffer is dropped, where it is.
    fn drop_reason(&self) -> DropReason {
        DropReason::NOT_SPECIFIED
    }
}

impl ControlBlock for () {}

/// An owned `struct sk_buff` whose control block holds a `C`.
///
/// The data is a linear part, followed by any number of page fragments, all of it written by
/// somebody.
///
/// Whoever drops one says so to those who look for lost packets, with the control block's
/// [reason](ControlBlock::drop_reason); what has reached its end is [consumed](Self::consume).
///
/// # Invariants
///
/// - `ptr` is a valid `struct sk_buff` that nobody else refers to.
/// - Its `cb` holds an initialised `C`.
/// - Its data are initialised.
#[repr(transparent)]
pub(crate) struct SkBuff<C: ControlBlock = ()> {
    ptr: NonNull<bindings::sk_buff>,
    _control: PhantomData<C>,
}

// SAFETY: A socket buffer is not tied to a thread, and `C` is `Send`.
unsafe impl<C: ControlBlock> Send for SkBuff<C> {}

// SAFETY: Through a shared reference the buffer can only be read, and its control block only if it
// is `Sync`.
unsafe impl<C: ControlBlock + Sync> Sync for SkBuff<C> {}

impl<C: ControlBlock> SkBuff<C> {
    const CONTROL_BLOCK_FITS: () = {
        assert!(core::mem::size_of::<C>() <= 48);
        assert!(core::mem::align_of::<C>() <= core::mem::align_of::<*const ()>());
    };

    /// How many blocks of pages a buffer can take.
    pub(crate) const MAX_PAGES: usize = bindings::MAX_SKB_FRAGS as usize;

    /// Allocates an empty buffer whose linear part has room for `capacity` bytes.
    ///
    /// Sleeps if `flags` allow it.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is no memory or `capacity` is beyond what the slab can give.
    pub(crate) fn alloc(capacity: usize, flags: Flags, control: C) -> Result<Self> {
        let () = Self::CONTROL_BLOCK_FITS;
        let capacity = u32::try_from(capacity).map_err(|_| ENOMEM)?;
        // SAFETY: No requirements.
        let skb = unsafe {
            bindings::rvsock_helper_alloc_skb(
                capacity,
                gfp_as_raw(flags)? | kernel::bindings::__GFP_NOWARN,
            )
        };
        let ptr = NonNull::new(skb).ok_or(ENOMEM)?;
        // SAFETY: The buffer is new and ours alone; `CONTROL_BLOCK_FITS` shows that `C` fits `cb`,
        // which is aligned as a pointer is.
        unsafe { (&raw mut (*ptr.as_ptr()).cb).cast::<C>().write(control) };
        // INVARIANT: New, ours alone, and the control block has just been initialised.
        Ok(Self {
            ptr,
            _control: PhantomData,
        })
    }

    fn raw(&self) -> *mut bindings::sk_buff {
        self.ptr.as_ptr()
    }

    /// The number of bytes of data, fragments included.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: By the type invariant the buffer is valid.
        unsafe { (*self.raw()).len as usize }
    }

    /// Whether there are no data.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory that the buffer holds in all, in bytes.
    pub(crate) fn truesize(&self) -> usize {
        // SAFETY: By the type invariant the buffer is valid.
        unsafe { (*self.raw()).truesize as usize }
    }

    fn headlen(&self) -> usize {
        // SAFETY: By the type invariant the buffer is valid.
        unsafe { bindings::rvsock_helper_skb_headlen(self.raw()) as usize }
    }

    /// How many bytes can still be appended to the linear part; none once there are fragments.
    pub(crate) fn tailroom(&self) -> usize {
        // SAFETY: By the type invariant the buffer is valid.
        let room = unsafe { bindings::rvsock_helper_skb_tailroom(self.raw()) };
        usize::try_from(room).unwrap_or(0)
    }

    /// The control block.
    pub(crate) fn control(&self) -> &C {
        // SAFETY: By the type invariant `cb` holds a `C`; the reference borrows `self`.
        unsafe { &*(&raw const (*self.raw()).cb).cast::<C>() }
    }

    /// The control block, to be changed.
    pub(crate) fn control_mut(&mut self) -> &mut C {
        // SAFETY: By the type invariant `cb` holds a `C`; the reference borrows `self` mutably.
        unsafe { &mut *(&raw mut (*self.raw()).cb).cast::<C>() }
    }

    /// Keeps `len` bytes free before the data of an empty buffer, for [`prepend`](Self::prepend).
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is data, or not so much room.
    pub(crate) fn reserve(&mut self, len: usize) -> Result {
        if !self.is_empty() || len > self.tailroom() {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariant the buffer is valid and ours; it is empty and has the room,
        // which fits an `int`.
        unsafe { bindings::rvsock_helper_skb_reserve(self.raw(), len as i32) };
        Ok(())
    }

    /// Puts a copy of `data` before what there is.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there is not so much room.
    pub(crate) fn prepend(&mut self, data: &[u8]) -> Result {
        // SAFETY: By the type invariant the buffer is valid.
        let room = unsafe { bindings::rvsock_helper_skb_headroom(self.raw()) };
        if data.len() > room as usize {
            return Err(ENOSPC);
        }
        // SAFETY: By the type invariant the buffer is valid and ours; there is room before its data,
        // so that `skb_push()` returns as many bytes of our own.
        unsafe {
            let to = bindings::skb_push(self.raw(), data.len() as u32).cast::<u8>();
            core::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
        }
        Ok(())
    }

    /// Where the linear part ends, and `len` more bytes have room.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if they have not.
    fn tail(&self, len: usize) -> Result<*mut u8> {
        if len > self.tailroom() {
            return Err(ENOSPC);
        }
        // SAFETY: By the type invariant the buffer is valid, and its linear part is so long.
        Ok(unsafe { (*self.raw()).data.add(self.headlen()).cast() })
    }

    /// Extends the linear part by `len` bytes.
    ///
    /// # Safety
    ///
    /// [`tail`](Self::tail) must have found room for them, and they must be initialised there.
    unsafe fn extend(&mut self, len: usize) {
        // With fragments there is no room, and `skb_put()` wants none, not even for nothing.
        if len > 0 {
            // SAFETY: By the type invariant the buffer is valid and ours; `len` fits its tail, so
            // that `skb_put()` cannot run over it, and an `int`, since a tail does.
            //
            // INVARIANT: By the safety requirement they are initialised.
            unsafe { bindings::skb_put(self.raw(), len as u32) };
        }
    }

    /// Appends a copy of `data`.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if it does not fit the linear part.
    pub(crate) fn put_slice(&mut self, data: &[u8]) -> Result {
        let to = self.tail(data.len())?;
        // SAFETY: `tail()` has returned where `data.len()` bytes of our own are.
        unsafe {
            core::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
            self.extend(data.len());
        }
        Ok(())
    }

    /// Appends a copy of `len` bytes of `block` from `offset` on.
    ///
    /// # Errors
    ///
    /// - `ENOSPC` if they do not fit the linear part.
    /// - `EINVAL` if they are not all within the block, or nobody has written to all of them.
    pub(crate) fn put_block(&mut self, block: &PageBlock, offset: usize, len: usize) -> Result {
        let to = self.tail(len)?;
        // SAFETY: `tail()` has returned where `len` bytes of our own are.
        unsafe {
            block.read(offset, to, len)?;
            self.extend(len);
        }
        Ok(())
    }

    /// Appends a copy of `len` bytes of `other` from `offset` on.
    ///
    /// # Errors
    ///
    /// - `ENOSPC` if they do not fit the linear part.
    /// - `EFAULT` if `other` ends before.
    pub(crate) fn put_skb<D: ControlBlock>(
        &mut self,
        other: &SkBuff<D>,
        offset: usize,
        len: usize,
    ) -> Result {
        let from = i32::try_from(offset).map_err(|_| EFAULT)?;
        let bytes = i32::try_from(len).map_err(|_| EFAULT)?;
        let to = self.tail(len)?;
        // SAFETY: By the type invariant `other` is valid; `tail()` has returned where `len` bytes of
        // our own are, and `skb_copy_bits()` checks offset and length against the data.
        unsafe {
            to_result(bindings::skb_copy_bits(other.raw(), from, to.cast(), bytes))?;
            self.extend(len);
        }
        Ok(())
    }

    /// Whether there is room for one more fragment, whose memory is added to the buffer's.
    ///
    /// Not once the buffer is charged to a socket: that would be charged with the old size, and
    /// discharged with the new one.
    fn takes_block(&self) -> bool {
        // SAFETY: By the type invariant the buffer is valid.
        unsafe {
            bindings::rvsock_helper_skb_nr_frags(self.raw()) < bindings::MAX_SKB_FRAGS
                && !bindings::rvsock_helper_skb_is_charged(self.raw())
        }
    }

    /// Takes `len` bytes of `block` from `offset` on as a fragment, without a copy.
    ///
    /// # Errors
    ///
    /// `EINVAL` and the block back if they are not all within it, or nobody has written to all of them,
    /// or if there is no room for one more fragment, or the buffer is [charged](Self::charge_to).
    pub(crate) fn add_block(
        &mut self,
        block: PageBlock,
        offset: usize,
        len: usize,
    ) -> Result<(), (Error, PageBlock)> {
        let size = block.len();
        if block.written_range(offset, len).is_err() || !self.takes_block() {
            return Err((EINVAL, block));
        }
        let page = block.into_page().as_ptr().cast();
        // SAFETY: By the type invariant the buffer is valid and ours; it has room for a fragment;
        // the page's reference moves into it; offset, length and size fit an `int`, as no block
        // is that large.
        //
        // INVARIANT: `written_range()` has seen that they are initialised.
        unsafe {
            bindings::rvsock_helper_skb_add_page(
                self.raw(),
                page,
                offset as u32,
                len as u32,
                size as u32,
            )
        };
        Ok(())
    }

    /// Overwrites the linear part from `offset` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if that is not all within it.
    pub(crate) fn overwrite(&mut self, offset: usize, data: &[u8]) -> Result {
        let end = offset.checked_add(data.len()).ok_or(EINVAL)?;
        if end > self.headlen() {
            return Err(EINVAL);
        }
        // SAFETY: The target is within the linear part, as was just seen, and it is ours.
        unsafe {
            let to = (*self.raw()).data.cast::<u8>().add(offset);
            core::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
        }
        Ok(())
    }

    /// Copies from the data, wherever it lies, into `out`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the data ends before `out` is full.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) -> Result {
        let offset = i32::try_from(offset).map_err(|_| EFAULT)?;
        let len = i32::try_from(out.len()).map_err(|_| EFAULT)?;
        // SAFETY: By the type invariant the buffer is valid; `out` has `len` bytes, and
        // `skb_copy_bits()` checks offset and length against the data.
        to_result(unsafe {
            bindings::skb_copy_bits(self.raw(), offset, out.as_mut_ptr().cast(), len)
        })
    }

    /// Charges the buffer's memory to `socket` until the buffer is dropped.
    ///
    /// The charge keeps the socket's memory, though not its reference count. From now on the buffer
    /// takes no blocks, and pages of the user only in a way that charges them, too.
    pub(crate) fn charge_to(&mut self, socket: &Sock) {
        // SAFETY: By the type invariants the buffer is valid and ours, and the socket is valid. What is
        // charged now is what is discharged at the end: the functions that add memory refuse, or charge it.
        unsafe { bindings::skb_set_owner_w(self.raw(), socket.as_ptr()) };
    }

    /// The same buffer, with another control block.
    pub(crate) fn with_control<D: ControlBlock>(self, control: D) -> SkBuff<D> {
        let (ptr, old) = self.into_raw();
        drop(old);
        // SAFETY: The buffer was ours alone until now.
        unsafe { SkBuff::from_raw(ptr, control) }
    }

    /// Gives up ownership; the control block's value comes back, the buffer goes to C.
    pub(super) fn into_raw(self) -> (NonNull<bindings::sk_buff>, C) {
        let this = ManuallyDrop::new(self);
        // SAFETY: By the type invariant `cb` holds a `C`, which nobody reads after this.
        let control = unsafe { (&raw const (*this.raw()).cb).cast::<C>().read() };
        (this.ptr, control)
    }

    /// The other way round.
    ///
    /// # Safety
    ///
    /// `ptr` is a valid socket buffer that nobody else refers to, whose data are initialised.
    pub(super) unsafe fn from_raw(ptr: NonNull<bindings::sk_buff>, control: C) -> Self {
        let () = Self::CONTROL_BLOCK_FITS;
        // SAFETY: As in `alloc()`.
        unsafe { (&raw mut (*ptr.as_ptr()).cb).cast::<C>().write(control) };
        // INVARIANT: By the safety requirements, and the control block was just initialised.
        Self {
            ptr,
            _control: PhantomData,
        }
    }

    /// The raw buffer, for callbacks that read it while it is borrowed.
    pub(super) fn as_ptr(&self) -> *mut bindings::sk_buff {
        self.raw()
    }

    /// The buffer has reached its end: it was delivered, or sent.
    ///
    /// # Context
    ///
    /// As of dropping it.
    pub(crate) fn consume(self) {
        // SAFETY: Ours, and not used after this.
        unsafe { ManuallyDrop::new(self).free(DropReason::CONSUMED) };
    }

    /// Drops the control block, and frees the buffer.
    ///
    /// # Safety
    ///
    /// Neither may be used after this.
    unsafe fn free(&mut self, reason: DropReason) {
        // SAFETY: By the type invariant `cb` holds a `C` and the buffer is ours alone.
        unsafe {
            (&raw mut (*self.raw()).cb).cast::<C>().drop_in_place();
            bindings::rvsock_helper_free_skb(self.raw(), reason.as_raw());
        }
    }
}

impl<C: ControlBlock> Drop for SkBuff<C> {
    /// Drops the packet, as `kfree_skb_reason()` does.
    ///
    /// # Context
    ///
    /// Any, as far as the buffer itself goes: with interrupts off it is freed a little later. The
    /// control block is dropped at once.
    fn drop(&mut self) {
        let reason = self.control().drop_reason();
        // SAFETY: Neither is used after this.
        unsafe { self.free(reason) };
    }
}
