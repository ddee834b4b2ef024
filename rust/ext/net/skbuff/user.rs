// SPDX-License-Identifier: GPL-2.0

//! Socket buffers and the user's memory.

use super::{
    ControlBlock,
    SkBuff, //
};
use crate::ext::{
    bindings,
    mm::PageBlock,
    net::msg::Msg, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

impl<C: ControlBlock> SkBuff<C> {
    /// Copies `len` bytes from `offset` on to the user and moves the message on by as much.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the user's memory cannot be written; the message has then not moved.
    pub(crate) fn copy_to(&self, offset: usize, msg: &mut Msg, len: usize) -> Result {
        let offset = i32::try_from(offset).map_err(|_| EFAULT)?;
        let len = i32::try_from(len).map_err(|_| EFAULT)?;
        // SAFETY: By the type invariant the buffer is valid, and so is the message's iterator; the
        // function checks offset and length against the data.
        to_result(unsafe { bindings::skb_copy_datagram_iter(self.raw(), offset, msg.iter(), len) })
    }

    /// Appends `len` bytes from the user to the linear part.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `ENOSPC` if they do not fit.
    /// - `EFAULT` if the user's memory cannot be read; the message has then not moved.
    pub(crate) fn put_msg(&mut self, msg: &mut Msg, len: usize) -> Result {
        let offset = self.headlen();
        self.put(len)?;
        self.fill(offset, msg, len)
    }

    /// Takes `len` bytes from the user into a new fragment that lies in one piece.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if `block` is shorter than `len`.
    /// - `EFAULT` if the user's memory cannot be read; the message has then not moved.
    pub(crate) fn add_msg(&mut self, block: PageBlock, msg: &mut Msg, len: usize) -> Result {
        let offset = self.len();
        self.add_block(block, 0, len).map_err(|(error, _)| error)?;
        self.fill(offset, msg, len)
    }

    /// Appends `len` bytes from the user: `linear` of them to the linear part, the others to the
    /// pages that the buffer was allocated with, all of which they fill.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// As [`put_msg`](Self::put_msg); `EINVAL` if the pages are others than that.
    pub(in crate::ext) fn put_msg_paged(
        &mut self,
        msg: &mut Msg,
        linear: usize,
        len: usize,
    ) -> Result {
        let offset = self.headlen();
        self.put(linear)?;
        self.extend_into_pages(len.saturating_sub(linear))?;
        self.fill(offset, msg, len)
    }

    fn fill(&mut self, offset: usize, msg: &mut Msg, len: usize) -> Result {
        let offset = i32::try_from(offset).map_err(|_| EFAULT)?;
        let len = i32::try_from(len).map_err(|_| EFAULT)?;
        // SAFETY: By the type invariant the buffer is valid and ours, and so is the message's
        // iterator; the function checks offset and length against the data.
        to_result(unsafe {
            bindings::skb_copy_datagram_from_iter_full(self.raw(), offset, msg.iter(), len)
        })
    }
}
