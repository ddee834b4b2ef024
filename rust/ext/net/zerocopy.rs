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
    vsock::UserOwned, //
};
use crate::ext::bindings;
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// The notification of one call that sends: it is given when no packet refers to it any more.
///
/// It belongs to the call: it lasts as long as the proof that we run in it. Dropped, the call counts as
/// one that has sent nothing.
///
/// # Invariants
///
/// `uarg` is valid. If `owned`, a reference to it is ours; else the message's sender keeps it, as long as
/// the call lasts.
pub(crate) struct ZeroCopy<'call> {
    uarg: NonNull<bindings::ubuf_info>,
    owned: bool,
    _call: PhantomData<&'call UserOwned<'call>>,
}

impl<'call> ZeroCopy<'call> {
    /// The greatest payload that fits the fragments of a packet, wherever it begins in a page.
    pub(crate) const MAX_PAYLOAD: usize =
        (bindings::MAX_SKB_FRAGS as usize - 1) * kernel::page::PAGE_SIZE;

    /// Begins the notification for a call that asked for it; none if it did not.
    ///
    /// It did if it has `MSG_ZEROCOPY`, and brings a notification along or the socket has `SO_ZEROCOPY`. A
    /// notification without the flag means nothing. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory, or too much of it is pinned already.
    pub(crate) fn begin(sk: &'call UserOwned<'_>, msg: &Msg, len: usize) -> Result<Option<Self>> {
        if !msg.asks_for_zerocopy() {
            return Ok(None);
        }
        if let Some(uarg) = NonNull::new(msg.ubuf()) {
            // INVARIANT: The sender keeps it while it sends.
            return Ok(Some(Self {
                uarg,
                owned: false,
                _call: PhantomData,
            }));
        }
        // SAFETY: The socket is alive.
        let allowed = unsafe {
            bindings::rvsock_helper_sock_flag(sk.sock(), bindings::sock_flags_SOCK_ZEROCOPY)
        };
        if !allowed {
            return Ok(None);
        }
        // SAFETY: The socket is alive and owned.
        let uarg =
            unsafe { bindings::msg_zerocopy_realloc(sk.sock(), len, core::ptr::null_mut(), false) };
        // INVARIANT: It comes with a reference.
        Ok(Some(Self {
            uarg: NonNull::new(uarg).ok_or(ENOMEM)?,
            owned: true,
            _call: PhantomData,
        }))
    }

    /// Has the notification say that the payload was copied after all.
    pub(crate) fn mark_copied(&self) {
        if self.owned {
            // SAFETY: Valid by the invariant, and what `msg_zerocopy_realloc()` makes is of this
            // kind.
            unsafe { bindings::rvsock_helper_zerocopy_is_copied(self.uarg.as_ptr()) };
        }
    }

    /// Has the notification say that the payload of `skb` was copied: one that the sender brought along, as
    /// [`mark_copied`](Self::mark_copied) does not reach it. Ours waits for `skb` too.
    pub(crate) fn attach_copied<C: ControlBlock>(&self, skb: &mut SkBuff<C>) {
        if self.owned {
            return self.attach(skb);
        }
        // SAFETY: Both are valid; the buffer takes a reference, and gives it back.
        unsafe { bindings::rvsock_helper_skb_zcopy_copied(skb.as_ptr(), self.uarg.as_ptr()) };
    }

    /// Has the notification wait for `skb` too.
    pub(crate) fn attach<C: ControlBlock>(&self, skb: &mut SkBuff<C>) {
        // SAFETY: Both are valid; the buffer takes a reference.
        unsafe { bindings::rvsock_helper_skb_zcopy_set(skb.as_ptr(), self.uarg.as_ptr()) };
    }

    /// The call is over. If it sent nothing, there will be no notification.
    pub(crate) fn end(self, sent: bool) {
        // SAFETY: Not used after this.
        unsafe { ManuallyDrop::new(self).put(sent) };
    }

    /// Gives our reference back, if there is one.
    ///
    /// # Safety
    ///
    /// It must not be used after this.
    unsafe fn put(&mut self, sent: bool) {
        if self.owned {
            // SAFETY: By the type invariant it is ours, and goes.
            unsafe { bindings::rvsock_helper_net_zcopy_put(self.uarg.as_ptr(), !sent) };
        }
    }
}

impl Drop for ZeroCopy<'_> {
    fn drop(&mut self) {
        // SAFETY: Not used after this.
        unsafe { self.put(false) };
    }
}
