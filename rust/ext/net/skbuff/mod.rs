// SPDX-License-Identifier: GPL-2.0

//! Socket buffers: packets that are owned, typed and never copied behind one's back.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

mod queue;
mod user;

pub(crate) use self::queue::SkBuffQueue;
use crate::ext::{
    alloc::gfp_as_raw,
    bindings,
    mm::PageBlock,
    net::vsock::VsockSock,
    virtio::{
        Buffer,
        Segments, //
    }, //
};
use core::{
    ffi::c_void,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    alloc::Flags,
    error::to_result,
    page::PAGE_SIZE,
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
}

impl ControlBlock for () {}

/// An owned `struct sk_buff` whose control block holds a `C`.
///
/// The data is a linear part, followed by any number of page fragments.
///
/// # Invariants
///
/// - `ptr` is a valid `struct sk_buff` that nobody else refers to.
/// - Its `cb` holds an initialised `C`.
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

    /// Allocates a buffer of `len` bytes of whatever was in that memory, most of them in pages.
    ///
    /// Sleeps if `flags` allow it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOBUFS`: there is no memory.
    pub(crate) fn alloc_paged(len: usize, flags: Flags, control: C) -> Result<Self> {
        let () = Self::CONTROL_BLOCK_FITS;
        /// Single pages do, but fewer pieces are better.
        const ORDER: i32 = 3;
        let linear = len.min(PAGE_SIZE / 2);
        let mut error = 0;
        // SAFETY: No requirements.
        let skb = unsafe {
            bindings::alloc_skb_with_frags(
                linear,
                len.saturating_sub(linear),
                ORDER,
                &mut error,
                gfp_as_raw(flags)? | kernel::bindings::__GFP_NOWARN,
            )
        };
        let Some(skb) = NonNull::new(skb) else {
            to_result(error)?;
            return Err(ENOMEM);
        };
        // SAFETY: The buffer is new and ours alone.
        let mut skb = unsafe { Self::from_raw(skb, control) };
        skb.put(linear)?;
        skb.extend_into_pages(len.saturating_sub(linear))?;
        Ok(skb)
    }

    /// Overwrites the data from `offset` on, wherever it lies, with `len` bytes of `block` from `from`
    /// on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not all within the block; `EFAULT` if the data ends before.
    pub(crate) fn write_block(
        &mut self,
        offset: usize,
        block: &PageBlock,
        from: usize,
        len: usize,
    ) -> Result {
        let from = block.range(from, len)?;
        let offset = i32::try_from(offset).map_err(|_| EFAULT)?;
        let len = i32::try_from(len).map_err(|_| EFAULT)?;
        // SAFETY: By the type invariant the buffer is valid and ours; the source has `len` bytes, and
        // `skb_store_bits()` checks offset and length against the data.
        to_result(unsafe {
            bindings::skb_store_bits(self.raw(), offset, from.as_ptr().cast(), len)
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
        if self.len() > 0 || len > self.tailroom() {
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

    /// Extends the linear part by `len` bytes and returns where they begin.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if they do not fit.
    fn put(&mut self, len: usize) -> Result<*mut u8> {
        if len > self.tailroom() {
            return Err(ENOSPC);
        }
        // SAFETY: By the type invariant the buffer is valid and ours; `len` fits its tail, so
        // that `skb_put()` cannot run over it, and an `int`, since a tail does.
        Ok(unsafe { bindings::skb_put(self.raw(), len as u32).cast() })
    }

    /// Appends a copy of `data`.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if it does not fit the linear part.
    pub(crate) fn put_slice(&mut self, data: &[u8]) -> Result {
        let to = self.put(data.len())?;
        // SAFETY: `put()` has returned `data.len()` bytes of our own.
        unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    /// Appends a copy of `len` bytes of `block` from `offset` on.
    ///
    /// # Errors
    ///
    /// - `ENOSPC` if they do not fit the linear part.
    /// - `EINVAL` if they are not all within the block.
    pub(crate) fn put_block(&mut self, block: &PageBlock, offset: usize, len: usize) -> Result {
        let from = block.range(offset, len)?;
        let to = self.put(len)?;
        // SAFETY: The source is within the block, and the target is `len` bytes of our own. A
        // device that still writes to the block changes what is copied, not how much.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, len) };
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
        let to = self.put(len)?;
        // SAFETY: By the type invariant `other` is valid; the target is `len` bytes of our own, and
        // `skb_copy_bits()` checks offset and length against the data.
        to_result(unsafe { bindings::skb_copy_bits(other.raw(), from, to.cast(), bytes) })
    }

    /// Takes `len` bytes of `block` from `offset` on as a fragment, without a copy.
    ///
    /// # Errors
    ///
    /// `EINVAL` and the block back if they are not all within it, or if there is no room for one
    /// more fragment.
    pub(crate) fn add_block(
        &mut self,
        block: PageBlock,
        offset: usize,
        len: usize,
    ) -> Result<(), (Error, PageBlock)> {
        let size = block.len();
        let within = offset.checked_add(len).is_some_and(|end| end <= size);
        // SAFETY: By the type invariant the buffer is valid.
        let frags = unsafe { bindings::rvsock_helper_skb_nr_frags(self.raw()) };
        if !within || frags >= bindings::MAX_SKB_FRAGS {
            return Err((EINVAL, block));
        }
        let page = block.into_page().as_ptr().cast();
        // SAFETY: By the type invariant the buffer is valid and ours; it has room for a fragment;
        // the page's reference moves into it; offset, length and size fit an `int`, as no block
        // is that large.
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

    /// Has the pages that the buffer was allocated with, `len` bytes in all, be part of its data.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are others than that.
    fn extend_into_pages(&mut self, len: usize) -> Result {
        let mut pages: usize = 0;
        // SAFETY: By the type invariant the buffer is valid.
        for i in 0..unsafe { bindings::rvsock_helper_skb_nr_frags(self.raw()) } {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: There are more than `i` fragments.
            unsafe { bindings::rvsock_helper_skb_frag(self.raw(), i, &mut offset, &mut size) };
            pages = pages.saturating_add(size as usize);
        }
        // SAFETY: By the type invariant the buffer is valid and ours. Its pages have so many bytes,
        // which fit a `u32`, and none of them is part of the data yet.
        unsafe {
            if pages != len || (*self.raw()).data_len != 0 {
                return Err(EINVAL);
            }
            (*self.raw()).data_len = len as u32;
            (*self.raw()).len += len as u32;
        }
        Ok(())
    }

    /// Charges the buffer's memory to `socket` until the buffer is dropped.
    ///
    /// The charge keeps the socket's memory, though not its reference count.
    pub(crate) fn charge_to(&mut self, socket: &VsockSock) {
        // SAFETY: By the type invariant the buffer is valid and ours; the socket is alive, since
        // there is a reference to it.
        unsafe { bindings::skb_set_owner_w(self.raw(), socket.sock()) };
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
    /// `ptr` is a valid socket buffer that nobody else refers to.
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
}

impl<C: ControlBlock> Drop for SkBuff<C> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant `cb` holds a `C` and the buffer is ours alone; neither is
        // used after this.
        unsafe {
            (&raw mut (*self.raw()).cb).cast::<C>().drop_in_place();
            bindings::consume_skb(self.raw());
        }
    }
}

// SAFETY: The linear part and the fragments neither move nor go away while the buffer is owned,
// and `into_token()`/`from_token()` are each other's inverse.
unsafe impl<C: ControlBlock> Buffer for SkBuff<C> {
    const MAX_SEGMENTS: usize = bindings::MAX_SKB_FRAGS as usize + 2;

    fn segments(&self, segments: &mut Segments<'_>) {
        let headlen = self.headlen();
        let header = self.control().header_len().min(headlen);
        // SAFETY: By the type invariant the buffer is valid.
        let data = unsafe { (*self.raw()).data };
        for (offset, len) in [(0, header), (header, headlen - header)] {
            if len > 0 {
                // SAFETY: Within the linear part, which is `headlen` bytes long.
                unsafe { segments.readable(data.add(offset).cast(), len) };
            }
        }
        // SAFETY: By the type invariant the buffer is valid.
        for i in 0..unsafe { bindings::rvsock_helper_skb_nr_frags(self.raw()) } {
            let (mut offset, mut len) = (0, 0);
            // SAFETY: There are more than `i` fragments.
            let page =
                unsafe { bindings::rvsock_helper_skb_frag(self.raw(), i, &mut offset, &mut len) };
            // SAFETY: The buffer holds a reference to the fragment's page.
            unsafe { segments.readable_page(page.cast(), offset as usize, len as usize) };
        }
    }

    fn into_token(self) -> NonNull<c_void> {
        ManuallyDrop::new(self).ptr.cast()
    }

    unsafe fn from_token(token: NonNull<c_void>) -> Self {
        // INVARIANT: By the safety requirements `token` comes from `into_token()`, so that the
        // buffer is valid, ours, and its control block has stayed as it was.
        Self {
            ptr: token.cast(),
            _control: PhantomData,
        }
    }
}
