// SPDX-License-Identifier: GPL-2.0

//! What can be put into a virtqueue.

use crate::ext::{
    bindings as ext_bindings,
    mm::PageBlock, //
};
use core::{
    ffi::c_void,
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*, //
};

/// The most segments that a buffer may have: a header, the linear part of an skb, and its fragments.
///
/// They are collected on the stack, 32 bytes each.
pub(crate) const MAX_SEGMENTS: usize = ext_bindings::MAX_SKB_FRAGS as usize + 2;

/// Something that a [`Virtqueue`](super::Virtqueue) can own while the device uses it.
///
/// # Safety
///
/// - The segments that `segments` adds must be memory of the kernel's linear mapping that is valid
///   until the value is dropped or changed, no matter where the value itself is moved to. Those that
///   the device writes to must not be read or written by anybody else while the value is in a queue,
///   and any bytes must be valid in them.
/// - `segments` must add the same ones each time, as long as the value is not changed. `writable_len`
///   must return the sum of those that the device writes to.
/// - `from_token(into_token(x))` must be `x`, on any thread.
pub(crate) unsafe trait Buffer: Send + Sized + 'static {
    /// The most segments that `segments` adds, from 1 to [`MAX_SEGMENTS`].
    const MAX_SEGMENTS: usize;

    /// Adds the segments: those that the device reads, then those that it writes.
    ///
    /// # Context
    ///
    /// Any. It must not sleep.
    fn segments(&self, segments: &mut Segments<'_>);

    /// How many bytes the device may write.
    fn writable_len(&self) -> usize {
        let mut segments = Segments::counting();
        self.segments(&mut segments);
        segments.writable_len
    }

    /// The device has used the value, and may have written to all that it may write to.
    fn set_used(&mut self) {}

    /// Turns the value into a pointer that stands for it, and owns it.
    fn into_token(self) -> NonNull<c_void>;

    /// Turns the pointer back into the value.
    ///
    /// # Safety
    ///
    /// `token` must come from [`into_token`](Self::into_token) of this type, and be turned back once.
    unsafe fn from_token(token: NonNull<c_void>) -> Self;
}

/// Collects the segments of a buffer.
///
/// # Invariants
///
/// The first `readable + writable` elements of `table` are initialised. The last of those that the
/// device reads, and the last of those that it writes, are marked as ends.
pub(crate) struct Segments<'a> {
    table: Option<&'a mut [MaybeUninit<ext_bindings::scatterlist>]>,
    readable: usize,
    writable: usize,
    writable_len: usize,
    len: usize,
    fits: bool,
}

impl<'a> Segments<'a> {
    /// Collects into `table`.
    pub(super) fn new(table: &'a mut [MaybeUninit<ext_bindings::scatterlist>]) -> Self {
        Self {
            table: Some(table),
            readable: 0,
            writable: 0,
            writable_len: 0,
            len: 0,
            fits: true,
        }
    }

    /// Only counts.
    fn counting() -> Segments<'static> {
        Segments {
            table: None,
            readable: 0,
            writable: 0,
            writable_len: 0,
            len: 0,
            fits: true,
        }
    }

    /// Adds `len` bytes at `address` for the device to read. None are added if `len` is 0.
    ///
    /// # Safety
    ///
    /// They must be memory as [`Buffer`] wants it, `kmalloc`ed for instance.
    pub(crate) unsafe fn readable(&mut self, address: *const u8, len: usize) {
        // SAFETY: By the safety requirement it is an address of the linear mapping.
        let (page, offset) = unsafe { page_of(address) };
        // SAFETY: By the safety requirement.
        unsafe { self.readable_page(page, offset, len) }
    }

    /// Adds `len` bytes from `offset` of `page` on for the device to read. None if `len` is 0.
    ///
    /// # Safety
    ///
    /// They must be memory as [`Buffer`] wants it.
    pub(crate) unsafe fn readable_page(
        &mut self,
        page: *mut bindings::page,
        offset: usize,
        len: usize,
    ) {
        // The device reads first, then it writes.
        self.fits &= self.writable == 0;
        if self.push(page, offset, len, self.readable) {
            // OVERFLOW: At most the length of the table.
            self.readable += 1;
        }
    }

    /// Adds `len` bytes at `address` for the device to write. None are added if `len` is 0.
    ///
    /// # Safety
    ///
    /// They must be memory as [`Buffer`] wants it, `kmalloc`ed for instance.
    pub(crate) unsafe fn writable(&mut self, address: *mut u8, len: usize) {
        // SAFETY: By the safety requirement it is an address of the linear mapping.
        let (page, offset) = unsafe { page_of(address) };
        // SAFETY: By the safety requirement.
        unsafe { self.writable_page(page, offset, len) }
    }

    /// Adds `len` bytes from `offset` of `page` on for the device to write. None if `len` is 0.
    ///
    /// # Safety
    ///
    /// They must be memory as [`Buffer`] wants it.
    pub(crate) unsafe fn writable_page(
        &mut self,
        page: *mut bindings::page,
        offset: usize,
        len: usize,
    ) {
        if self.push(page, offset, len, self.writable) {
            // OVERFLOW: At most the length of the table.
            self.writable += 1;
            // OVERFLOW: At most `len`, which `push` bounds.
            self.writable_len += len;
        }
    }

    /// Writes the next element, the one after `before` of its kind. `false` if there is nothing to do.
    fn push(
        &mut self,
        page: *mut bindings::page,
        offset: usize,
        len: usize,
        before: usize,
    ) -> bool {
        /// `SG_END` of `include/linux/scatterlist.h`
        const END: kernel::ffi::c_ulong = 2;

        // A chain is shorter than 4 GiB, as its used length is a `u32`.
        let total = self.len.saturating_add(len);
        let (Ok(_), Ok(offset), Ok(length)) = (
            u32::try_from(total),
            u32::try_from(offset),
            u32::try_from(len),
        ) else {
            self.fits = false;
            return false;
        };
        if !self.fits || len == 0 {
            return false;
        }
        // OVERFLOW: Both are at most the length of the table, or the number of calls if there is none.
        let at = self.readable + self.writable;
        if let Some(table) = &mut self.table {
            let Some(element) = table.get_mut(at) else {
                self.fits = false;
                return false;
            };
            // INVARIANT: It is initialised, and marked as an end.
            element.write(ext_bindings::scatterlist {
                page_link: page as kernel::ffi::c_ulong | END,
                offset,
                length,
                ..Default::default()
            });
            // INVARIANT: The one before is not an end any more.
            if let Some(previous) = at.checked_sub(1).filter(|_| before > 0) {
                if let Some(previous) = table.get_mut(previous) {
                    // SAFETY: By the type invariants, it is initialised.
                    unsafe { previous.assume_init_mut() }.page_link &= !END;
                }
            }
        }
        self.len = total;
        true
    }

    /// The lists for `virtqueue_add_sgs`, and how many of them there are to read and to write.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there are no segments, or more than `Buffer::MAX_SEGMENTS`, or their order is wrong.
    #[allow(clippy::type_complexity)]
    pub(super) fn finish(
        &mut self,
    ) -> Result<([*mut ext_bindings::scatterlist; 2], u32, u32, usize)> {
        // OVERFLOW: Both are at most the length of the table.
        let count = self.readable + self.writable;
        let Some(table) = self.table.as_mut().filter(|_| self.fits && count > 0) else {
            return Err(EINVAL);
        };
        let first = table.as_mut_ptr().cast::<ext_bindings::scatterlist>();
        // SAFETY: `readable` is at most the length of the table.
        let second = unsafe { first.add(self.readable) };
        let lists = if self.readable == 0 {
            [second, core::ptr::null_mut()]
        } else {
            [first, second]
        };
        let (out, in_) = (self.readable.min(1), self.writable.min(1));
        // CAST: 0 or 1.
        Ok((lists, out as u32, in_ as u32, count))
    }
}

/// The page that `address` lies in, and where.
///
/// # Safety
///
/// `address` must be one of the linear mapping.
unsafe fn page_of(address: *const u8) -> (*mut bindings::page, usize) {
    // SAFETY: By the safety requirement.
    let page = unsafe { ext_bindings::rvsock_helper_virt_to_page(address.cast()) };
    (page.cast(), address as usize & (PAGE_SIZE - 1))
}

// SAFETY:
// - The one segment is the block, which is valid as long as the value; nobody else has access to its
//   bytes, by its type invariants, and any bytes are valid in it.
// - It is the same each time, and `len` is its length.
// - The token is the page, from which the same block is made.
unsafe impl Buffer for PageBlock {
    const MAX_SEGMENTS: usize = 1;

    #[inline]
    fn segments(&self, segments: &mut Segments<'_>) {
        // SAFETY: As said above.
        unsafe { segments.writable_page(self.page().as_ptr(), 0, self.len()) }
    }

    #[inline]
    fn writable_len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn set_used(&mut self) {
        self.set_written_by_device();
    }

    #[inline]
    fn into_token(self) -> NonNull<c_void> {
        self.into_page().cast()
    }

    #[inline]
    unsafe fn from_token(token: NonNull<c_void>) -> Self {
        let page = token.cast();
        // SAFETY: By the safety requirement, `token` comes from `into_page` of a block of this order,
        // and nobody else has it.
        unsafe { Self::from_page(page, Self::order_of(page)) }
    }
}

// SAFETY:
// - The one segment is the allocation of the box, which is `kmalloc`ed, stays where it is when the box
//   moves, and belongs to the box alone. Any bytes are valid in it.
// - It is the same each time, and `N` is its length.
// - The token is the pointer of the box.
unsafe impl<const N: usize> Buffer for KBox<[u8; N]> {
    const MAX_SEGMENTS: usize = 1;

    #[inline]
    fn segments(&self, segments: &mut Segments<'_>) {
        // Without bytes there is no allocation, and no segment: `Virtqueue::add` says `EINVAL`.
        if N > 0 {
            // SAFETY: As said above.
            unsafe { segments.writable(self.as_ptr().cast_mut(), N) }
        }
    }

    #[inline]
    fn writable_len(&self) -> usize {
        N
    }

    #[inline]
    fn into_token(self) -> NonNull<c_void> {
        // SAFETY: The pointer of a box is not null.
        unsafe { NonNull::new_unchecked(KBox::into_raw(self).cast()) }
    }

    #[inline]
    unsafe fn from_token(token: NonNull<c_void>) -> Self {
        // SAFETY: By the safety requirement, `token` comes from `KBox::into_raw`, once.
        unsafe { KBox::from_raw(token.as_ptr().cast()) }
    }
}
