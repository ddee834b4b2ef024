// SPDX-License-Identifier: GPL-2.0

//! Socket buffers and the user's memory.

use super::{
    ControlBlock,
    SkBuff, //
};
use crate::ext::{
    bindings,
    error::NetError,
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
    /// - `EFAULT` if the user's memory cannot be read; neither the message nor the buffer has
    ///   changed then.
    pub(crate) fn put_msg(&mut self, msg: &mut Msg, len: usize) -> Result {
        let to = self.tail(len)?;
        // SAFETY: `tail()` has returned where `len` bytes of our own are, and the message copies as
        // many there.
        unsafe {
            msg.read(to, len)?;
            self.extend(len);
        }
        Ok(())
    }

    /// Takes up to `len` bytes of the user's memory as fragments, without a copy. Returns how many.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `EINVAL` unless the buffer is charged to a socket, and a notification attached to it that
    ///   keeps the pages: that of the same call, if its sender brought it along.
    /// - `EFAULT` and others if the memory cannot be pinned.
    pub(crate) fn add_user_pages(&mut self, msg: &mut Msg, len: usize) -> Result<usize> {
        let before = self.len();
        // SAFETY: Both are valid and ours. That the buffer is charged, and who keeps the pages, is what the
        // function looks at itself.
        let result = to_result(unsafe {
            bindings::rvsock_helper_zerocopy_from_msg(self.raw(), msg.raw(), len)
        });
        match result {
            // What found no fragment any more, as the memory is in many pieces, stays in `msg`.
            Err(error) if error != NetError::MsgSize.into() => Err(error),
            _ => Ok(self.len().saturating_sub(before)),
        }
    }
}
