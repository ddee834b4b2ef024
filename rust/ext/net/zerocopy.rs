// SPDX-License-Identifier: GPL-2.0

//! `MSG_ZEROCOPY`: payload that stays in the user's pages, and the notification that it is done.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::{
    msg::Msg,
    skbuff::{
        ControlBlock,
        SkBuff, //
    },
    vsock::OwnedSock, //
};
use crate::ext::{
    bindings,
    error::NetError, //
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// The notification of one call that sends: it is given when no packet refers to it any more.
///
/// # Invariants
///
/// `uarg` is valid. If `owned`, a reference to it is ours; else the message's sender keeps it.
pub(crate) struct ZeroCopy {
    uarg: NonNull<bindings::ubuf_info>,
    owned: bool,
}

impl ZeroCopy {
    /// The greatest payload that fits the fragments of a packet, wherever it begins in a page.
    pub(crate) const MAX_PAYLOAD: usize =
        (bindings::MAX_SKB_FRAGS as usize - 1) * kernel::page::PAGE_SIZE;

    /// Begins the notification for a call that asked for it; none if it did not.
    ///
    /// It did if it has `MSG_ZEROCOPY` and the socket `SO_ZEROCOPY`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory, or too much of it is pinned already.
    pub(crate) fn begin(sk: &OwnedSock<'_>, msg: &Msg, len: usize) -> Result<Option<Self>> {
        // SAFETY: The socket is alive.
        let allowed = unsafe {
            bindings::rvsock_helper_sock_flag(sk.sock(), bindings::sock_flags_SOCK_ZEROCOPY)
        };
        if !allowed || msg.flags() & bindings::MSG_ZEROCOPY == 0 {
            return Ok(None);
        }
        if let Some(uarg) = NonNull::new(msg.ubuf()) {
            // INVARIANT: The sender keeps it while it sends.
            return Ok(Some(Self { uarg, owned: false }));
        }
        // SAFETY: The socket is alive and owned.
        let uarg =
            unsafe { bindings::msg_zerocopy_realloc(sk.sock(), len, core::ptr::null_mut(), false) };
        // INVARIANT: It comes with a reference.
        Ok(Some(Self {
            uarg: NonNull::new(uarg).ok_or(ENOMEM)?,
            owned: true,
        }))
    }

    /// Has the notification say that the payload was copied after all.
    pub(crate) fn is_copied(&self) {
        if self.owned {
            // SAFETY: Valid by the invariant, and what `msg_zerocopy_realloc()` makes is of this
            // kind.
            unsafe { bindings::rvsock_helper_zerocopy_is_copied(self.uarg.as_ptr()) };
        }
    }

    /// Has the notification wait for `skb` too.
    pub(crate) fn attach<C: ControlBlock>(&self, skb: &mut SkBuff<C>) {
        // SAFETY: Both are valid; the buffer takes a reference.
        unsafe { bindings::rvsock_helper_skb_zcopy_set(skb.as_ptr(), self.uarg.as_ptr()) };
    }

    /// The call is over. If it sent nothing, there will be no notification.
    pub(crate) fn end(self, sent: bool) {
        if self.owned {
            // SAFETY: Our reference goes.
            unsafe { bindings::rvsock_helper_net_zcopy_put(self.uarg.as_ptr(), !sent) };
        }
    }
}

impl<C: ControlBlock> SkBuff<C> {
    /// Takes up to `len` bytes of the user's memory as fragments, without a copy. Returns how many.
    ///
    /// The buffer must be charged to a socket, and a [`ZeroCopy`] attached to it. May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` and others if the memory cannot be pinned.
    pub(crate) fn add_user_pages(&mut self, msg: &mut Msg, len: usize) -> Result<usize> {
        let before = self.len();
        // SAFETY: Both are valid and ours.
        let result = to_result(unsafe {
            bindings::rvsock_helper_zerocopy_from_msg(self.as_ptr(), msg.raw(), len)
        });
        match result {
            // What found no fragment any more, as the memory is in many pieces, stays in `msg`.
            Err(error) if error != NetError::MsgSize.into() => Err(error),
            _ => Ok(self.len().saturating_sub(before)),
        }
    }
}
