// SPDX-License-Identifier: GPL-2.0

//! Blocks of contiguous pages that a device writes into.
//!
//! C header: [`include/linux/gfp.h`](srctree/include/linux/gfp.h)

use crate::ext::{
    alloc::gfp_as_raw,
    bindings as ext_bindings, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::{
    alloc::Flags,
    bindings,
    page::PAGE_SIZE,
    prelude::*, //
};

/// A compound page of `PAGE_SIZE << order` bytes, owned whole and alone.
///
/// It is made for receive buffers: a device may be writing into it, so that no reference to its
/// bytes is ever given out, only copies. It moves into a [`Virtqueue`] as a buffer, and into an skb
/// as a fragment.
///
/// The memory is not cleared. What nobody has written since the allocation cannot be read: the block
/// knows how far it was written from its beginning. A device that has used it counts as having
/// written all of it, as nobody can say otherwise.
///
/// # Invariants
///
/// - `page` is the head of a page block of `order`, compound if `order > 0`, in the kernel's linear
///   mapping. `self` owns one reference to it, and nobody else has one that gives access to its bytes.
/// - The first `written` bytes are initialised, and there are as many.
///
/// [`Virtqueue`]: crate::ext::virtio::Virtqueue
pub(crate) struct PageBlock {
    page: NonNull<bindings::page>,
    order: u32,
    written: usize,
}

// SAFETY: Pages are not tied to a thread, and may be freed on any.
unsafe impl Send for PageBlock {}

// SAFETY: `&PageBlock` only allows copying out of it.
unsafe impl Sync for PageBlock {}

impl PageBlock {
    /// The largest order, of a block of 128 KiB where pages are no larger than that.
    pub(crate) const MAX_ORDER: u32 = super::order_of(128 * 1024);

    /// Allocates a block of `PAGE_SIZE << order` bytes.
    ///
    /// A block of more than one page is not fought for: it fails soon and silently, so that the
    /// caller can do with a smaller one.
    ///
    /// # Context
    ///
    /// As `flags` say: any with `GFP_ATOMIC`, may sleep with `GFP_KERNEL`.
    ///
    /// # Errors
    ///
    /// - `ENOMEM` if there is no such block.
    /// - `EINVAL` if `order` is above [`MAX_ORDER`](Self::MAX_ORDER), or `flags` are none of
    ///   `GFP_KERNEL`, `GFP_KERNEL_ACCOUNT`, `GFP_ATOMIC`, `GFP_NOWAIT`.
    pub(crate) fn alloc(order: u32, flags: Flags) -> Result<Self> {
        if order > Self::MAX_ORDER {
            return Err(EINVAL);
        }
        let mut gfp = gfp_as_raw(flags)? | bindings::__GFP_NOWARN;
        if order > 0 {
            gfp |= (1 << bindings::___GFP_COMP_BIT) | (1 << bindings::___GFP_NORETRY_BIT);
        }
        // SAFETY: Depending on the flags it may sleep, which is up to the caller. No other
        // requirements. `__GFP_HIGHMEM` is in none of the flags, so the page is mapped.
        let page = unsafe { bindings::alloc_pages(gfp, order) };
        // INVARIANT: The page was just allocated with `__GFP_COMP` and its only reference is ours.
        // Nothing was written.
        Ok(Self {
            page: NonNull::new(page).ok_or(ENOMEM)?,
            order,
            written: 0,
        })
    }

    /// The size in bytes, never zero.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub(crate) fn len(&self) -> usize {
        // OVERFLOW: `alloc` bounds the order by `MAX_ORDER`.
        PAGE_SIZE << self.order
    }

    /// The order that it was allocated with.
    #[inline]
    pub(crate) fn order(&self) -> u32 {
        self.order
    }

    /// Copies `dst.len()` bytes from `offset` on.
    ///
    /// # Context
    ///
    /// Any.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range does not lie inside the block, or nobody has written to all of it;
    /// nothing is copied then.
    pub(crate) fn copy_from(&self, offset: usize, dst: &mut [u8]) -> Result {
        // SAFETY: `dst` is valid for writes of its length, and does not overlap: nobody has a reference
        // to the block's bytes.
        unsafe { self.read(offset, dst.as_mut_ptr(), dst.len()) }
    }

    /// Copies `src` into the block, from `offset` on. What is before that and was not written becomes
    /// zeroes.
    ///
    /// # Context
    ///
    /// Any.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range does not lie inside the block; nothing is copied then.
    pub(crate) fn copy_to(&mut self, offset: usize, src: &[u8]) -> Result {
        let dst = self.range(offset, src.len())?;
        let gap = self.range(self.written, offset.saturating_sub(self.written))?;
        // SAFETY:
        // - `range` checked that both lie inside the block, which is mapped and valid for writes by the
        //   type invariants; `&mut self` keeps other copies away.
        // - `src` does not overlap: nobody has a reference to the block's bytes.
        unsafe {
            gap.write_bytes(0, offset.saturating_sub(self.written));
            core::ptr::copy_nonoverlapping(src.as_ptr(), dst.as_ptr(), src.len());
        }
        // INVARIANT: Written, up to the end of `src`, which lies inside.
        self.written = self.written.max(offset.saturating_add(src.len()));
        Ok(())
    }

    /// Copies `len` bytes from `offset` on to `dst`.
    ///
    /// A device that the block was given to may be writing to it still, if it is one that does not keep
    /// to the rules: that changes what is copied, and no more. It is the C side that copies, which the
    /// compiler takes as such.
    ///
    /// # Safety
    ///
    /// `dst` must be valid for writes of `len` bytes, and not overlap with the block.
    pub(in crate::ext) unsafe fn read(&self, offset: usize, dst: *mut u8, len: usize) -> Result {
        let src = self.written_range(offset, len)?;
        // SAFETY: `written_range` checked that `len` bytes from `src` on lie inside the block, and are
        // initialised; the rest is required of the caller.
        unsafe { ext_bindings::rvsock_helper_copy(dst.cast(), src.as_ptr().cast(), len) };
        Ok(())
    }

    /// A device has used the block: all of it may be read.
    pub(in crate::ext) fn set_written_by_device(&mut self) {
        // INVARIANT: The device may have written all of it. Of what it did not, only it can say so.
        self.written = self.len();
    }

    /// Gives the block away whole, with its reference.
    ///
    /// For a fragment of an skb, which frees it with `put_page`.
    pub(in crate::ext) fn into_page(self) -> NonNull<bindings::page> {
        ManuallyDrop::new(self).page
    }

    /// Takes a block back that [`into_page`](Self::into_page) gave away.
    ///
    /// # Safety
    ///
    /// - `page` must come from [`into_page`](Self::into_page) of a block of `order`, and its
    ///   reference must pass to this function.
    /// - Nobody else may have access to its bytes.
    pub(in crate::ext) unsafe fn from_page(page: NonNull<bindings::page>, order: u32) -> Self {
        // INVARIANT: By the safety requirements. What was written to it is not known here.
        Self {
            page,
            order,
            written: 0,
        }
    }

    /// The page, for whoever maps it for a device. The reference stays here.
    pub(in crate::ext) fn page(&self) -> NonNull<bindings::page> {
        self.page
    }

    /// The order of the compound page that `page` heads.
    ///
    /// # Safety
    ///
    /// `page` must be the head of a page block that [`PageBlock`] allocated.
    pub(in crate::ext) unsafe fn order_of(page: NonNull<bindings::page>) -> u32 {
        // SAFETY: By the safety requirement the page is valid.
        unsafe { ext_bindings::rvsock_helper_compound_order(page.as_ptr().cast()) }
    }

    /// The address of `len` bytes from `offset` on, if they lie inside the block and are initialised.
    pub(in crate::ext) fn written_range(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        if offset.checked_add(len).ok_or(EINVAL)? > self.written {
            return Err(EINVAL);
        }
        self.range(offset, len)
    }

    /// The address of `len` bytes from `offset` on, if they lie inside the block.
    pub(in crate::ext) fn range(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        if offset.checked_add(len).ok_or(EINVAL)? > self.len() {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants, the page is valid.
        let base = unsafe { ext_bindings::rvsock_helper_page_address(self.page.as_ptr().cast()) };
        let base = NonNull::new(base.cast::<u8>()).ok_or(EINVAL)?;
        // SAFETY: By the type invariants `len()` bytes are mapped at `base`, and `offset` is at most
        // that.
        Ok(unsafe { base.add(offset) })
    }
}

impl Drop for PageBlock {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, we own a reference, which ends here.
        unsafe { ext_bindings::rvsock_helper_put_page(self.page.as_ptr().cast()) };
    }
}
