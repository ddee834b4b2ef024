// SPDX-License-Identifier: GPL-2.0

//! Socket buffers that grow by what a user sends, in memory that the buffers of a thread share.
//!
//! Memory is not asked for buffer by buffer: a thread has a block of pages (`current->task_frag`, where TCP keeps its
//! data too) that is filled from its beginning to its end, and used anew when nobody refers to it any more. So no
//! more of it is cleared than is used, on kernels that clear all that is allocated.

use super::{
    ControlBlock,
    SkBuff, //
};
use crate::ext::{
    alloc::gfp_as_raw,
    bindings,
    net::{
        msg::Msg,
        sock::Sock, //
    }, //
};
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    prelude::*, //
};

/// A socket buffer whose last fragment has room for more.
///
/// # Invariants
///
/// `skb` has a fragment; the last one ends at `end`, and is followed there by `room` bytes of the same pages, which
/// nobody else uses.
pub(crate) struct Growing<C: ControlBlock> {
    skb: SkBuff<C>,
    end: NonNull<u8>,
    room: usize,
}

// SAFETY: The memory is not tied to a thread once it was taken, and the buffer is `Send`.
unsafe impl<C: ControlBlock> Send for Growing<C> {}

// SAFETY: Through a shared reference the buffer can only be read, as `SkBuff` says.
unsafe impl<C: ControlBlock + Sync> Sync for Growing<C> {}

impl<C: ControlBlock> Growing<C> {
    /// Gives `skb` one more fragment, empty, with room for `room` bytes, or fewer where memory is in pieces.
    ///
    /// The buffer holds so much memory from now on, whatever is put there. It counts for the thread's memory cgroup.
    ///
    /// # Context
    ///
    /// A thread; may sleep.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: no memory.
    /// - `EINVAL`: `room` is zero, or there is no room for one more fragment, or the buffer is
    ///   [charged](SkBuff::charge_to), or no thread calls.
    pub(crate) fn new(skb: SkBuff<C>, room: usize) -> Result<Self> {
        let room = u32::try_from(room).map_err(|_| EINVAL)?;
        if room == 0 || !skb.takes_block() {
            return Err(EINVAL);
        }
        // SAFETY: No requirements.
        let block = NonNull::new(unsafe { bindings::rvsock_helper_task_frag() }).ok_or(EINVAL)?;
        // SAFETY: It is this thread's own, and no interrupt asks for it: only this thread uses it, and nothing sleeps
        // between its use and the end of that but the function, which looks at it anew. Where it has no room, the
        // function gets it another page; it refers to that as long as it has it.
        let (page, start, room) = unsafe {
            let gfp = gfp_as_raw(GFP_KERNEL_ACCOUNT)? | kernel::bindings::__GFP_NOWARN;
            if !bindings::skb_page_frag_refill(room, block.as_ptr(), gfp) {
                return Err(ENOMEM);
            }
            let block = &mut *block.as_ptr();
            let start = block.offset;
            let room = room.min(block.size.saturating_sub(start));
            block.offset = start.saturating_add(room);
            bindings::rvsock_helper_get_page(block.page);
            (block.page, start, room)
        };
        // SAFETY: By the type invariant the buffer is valid and ours, and it has room for a fragment, as was just seen;
        // the reference to the page moves into it, and no byte of it is data yet.
        let base = unsafe {
            bindings::rvsock_helper_skb_add_page(skb.raw(), page, start, 0, room);
            bindings::rvsock_helper_page_address(page).cast::<u8>()
        };
        let base = NonNull::new(base).ok_or(EINVAL)?;
        // INVARIANT: Of the block so many bytes from `start` on were free, and it counts them as used now.
        Ok(Self {
            skb,
            // SAFETY: The block has more than `start` bytes, mapped at `base`: its pages are none of high memory.
            end: unsafe { base.add(start as usize) },
            room: room as usize,
        })
    }

    /// For how many bytes there is room.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// Appends `len` bytes from the user.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// Neither the message nor the buffer has changed then.
    ///
    /// - `ENOSPC`: they do not fit.
    /// - `EFAULT`: the user's memory cannot be read.
    pub(crate) fn add_msg(&mut self, msg: &mut Msg, len: usize) -> Result {
        let room = self.room.checked_sub(len).ok_or(ENOSPC)?;
        let bytes = u32::try_from(len).map_err(|_| ENOSPC)?;
        // SAFETY: By the type invariant so many bytes are there, and ours; then they are initialised, and become
        // part of the last fragment, which ends before them.
        unsafe {
            msg.read(self.end.as_ptr(), len)?;
            bindings::rvsock_helper_skb_grow_frag(self.skb.raw(), bytes);
            self.end = self.end.add(len);
        }
        // INVARIANT: The fragment ends behind them, and they are no room any more.
        self.room = room;
        Ok(())
    }

    /// As [`SkBuff::charge_to`].
    pub(crate) fn charge_to(&mut self, socket: &Sock) {
        self.skb.charge_to(socket);
    }

    /// As [`SkBuff::overwrite`].
    pub(crate) fn overwrite(&mut self, offset: usize, data: &[u8]) -> Result {
        self.skb.overwrite(offset, data)
    }

    /// As [`SkBuff::control_mut`].
    pub(crate) fn control_mut(&mut self) -> &mut C {
        self.skb.control_mut()
    }

    /// The buffer, which grows no more.
    pub(crate) fn close(self) -> SkBuff<C> {
        self.skb
    }
}

impl<C: ControlBlock> Deref for Growing<C> {
    type Target = SkBuff<C>;

    fn deref(&self) -> &SkBuff<C> {
        &self.skb
    }
}
