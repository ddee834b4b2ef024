// SPDX-License-Identifier: GPL-2.0

//! Large socket buffers, whose data lie in pages that they are allocated with.
//!
//! Such a buffer is there for others to see only once it is filled.

use super::{
    ControlBlock,
    SkBuff, //
};
use crate::ext::{
    alloc::gfp_as_raw,
    bindings,
    mm::{
        order_of,
        PageBlock, //
    },
    net::msg::Msg, //
};
use core::ptr::NonNull;
use kernel::{
    alloc::Flags,
    error::to_result,
    prelude::*, //
};

/// A buffer that is being filled, from its beginning to its end.
///
/// # Invariants
///
/// `skb` has `len` bytes of data, which are all its own, and of which the first `filled` are
/// initialised. Nobody else uses it meanwhile.
pub(crate) struct Filling<C: ControlBlock> {
    skb: SkBuff<C>,
    filled: usize,
}

impl<C: ControlBlock> Filling<C> {
    /// Appends a copy of `len` bytes of `block` from `offset` on.
    ///
    /// # Errors
    ///
    /// - `ENOSPC` if the buffer has not so much room left.
    /// - `EINVAL` if they are not all within the block, or nobody has written to all of them.
    pub(crate) fn put_block(&mut self, block: &PageBlock, offset: usize, len: usize) -> Result {
        let from = block.written_range(offset, len)?;
        let end = self.filled.checked_add(len).ok_or(ENOSPC)?;
        if end > self.skb.len() {
            return Err(ENOSPC);
        }
        let at = i32::try_from(self.filled).map_err(|_| ENOSPC)?;
        let bytes = i32::try_from(len).map_err(|_| ENOSPC)?;
        // SAFETY: By the type invariant the buffer is valid, and its data are its own, so that nobody
        // minds if they are written; the source has `len` bytes that are initialised.
        to_result(unsafe {
            bindings::skb_store_bits(self.skb.raw(), at, from.as_ptr().cast(), bytes)
        })?;
        // INVARIANT: They were written just now.
        self.filled = end;
        Ok(())
    }
}

impl<C: ControlBlock> SkBuff<C> {
    /// Allocates a buffer of `len` bytes, most of them in pages, which `fill` fills.
    ///
    /// Sleeps if `flags` allow it.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`, `ENOBUFS`: there is no memory.
    /// - `EINVAL` if `fill` leaves something out.
    /// - What `fill` returns.
    pub(crate) fn alloc_paged(
        len: usize,
        flags: Flags,
        control: C,
        fill: impl FnOnce(&mut Filling<C>) -> Result,
    ) -> Result<Self> {
        /// Single pages do, but fewer pieces are better.
        const ORDER: i32 = order_of(32 * 1024) as i32;
        /// With what is allocated along it is no more than the smallest page.
        const LINEAR_MAX: usize = 2048;
        let linear = len.min(LINEAR_MAX);
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
        // SAFETY: The buffer is new and ours alone, and has no data yet.
        let mut skb = unsafe { Self::from_raw(skb, control) };
        // SAFETY: What is not filled is not shown to anybody, as `filled` says below.
        unsafe { skb.extend_into_pages(linear, len)? };
        // INVARIANT: Nothing is filled yet; all memory was allocated with the buffer.
        let mut filling = Filling { skb, filled: 0 };
        fill(&mut filling)?;
        // `fill` may have put another in its place.
        if filling.filled < filling.skb.len() {
            return Err(EINVAL);
        }
        // INVARIANT: All data are initialised.
        Ok(filling.skb)
    }

    /// Appends `len` bytes from the user: `linear` of them to the linear part, the others to the
    /// pages that the buffer was allocated with, all of which they fill.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// The buffer is gone then.
    ///
    /// - `ENOSPC` if they do not fit.
    /// - `EINVAL` if the pages are others than that.
    /// - `EFAULT` if the user's memory cannot be read; the message has then not moved.
    pub(in crate::ext) fn with_msg_paged(
        mut self,
        msg: &mut Msg,
        linear: usize,
        len: usize,
    ) -> Result<Self> {
        let offset = i32::try_from(self.headlen()).map_err(|_| EFAULT)?;
        let bytes = i32::try_from(len).map_err(|_| EFAULT)?;
        // SAFETY: They are initialised below, or nobody sees them.
        unsafe { self.extend_into_pages(linear, len)? };
        // SAFETY: By the type invariant the buffer is valid and ours, and so is the message's
        // iterator; the function checks offset and length against the data.
        to_result(unsafe {
            bindings::skb_copy_datagram_from_iter_full(self.raw(), offset, msg.iter(), bytes)
        })?;
        Ok(self)
    }

    /// Extends the data by `len` bytes: by `linear` in the linear part, and by the pages that the
    /// buffer was allocated with, which are the others.
    ///
    /// # Errors
    ///
    /// - `ENOSPC` if the linear part has not the room.
    /// - `EINVAL` if the pages are others than that.
    ///
    /// # Safety
    ///
    /// Nobody may read the bytes before they are initialised.
    unsafe fn extend_into_pages(&mut self, linear: usize, len: usize) -> Result {
        let paged = len.checked_sub(linear).ok_or(EINVAL)?;
        self.tail(linear)?;
        // SAFETY: There is room; by the safety requirement.
        unsafe { self.extend(linear) };
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
            if pages != paged || (*self.raw()).data_len != 0 {
                return Err(EINVAL);
            }
            (*self.raw()).data_len = paged as u32;
            (*self.raw()).len += paged as u32;
        }
        Ok(())
    }
}
