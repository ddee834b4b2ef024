// SPDX-License-Identifier: GPL-2.0

//! Sending datagrams: charged to the send buffer, with what room there is.
//!
//! C header: [`include/net/sock.h`](srctree/include/net/sock.h)

use super::UserOwned;
use crate::ext::{
    bindings,
    error::NetError,
    mm::order_of,
    net::{
        msg::Msg,
        skbuff::{
            ControlBlock,
            SkBuff, //
        }, //
    },
};
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    ffi::c_void,
    prelude::*, //
};

/// A socket that is to send a datagram, in [`Datagrams::enqueue`](super::Datagrams::enqueue).
pub(crate) struct Sending<'a>(UserOwned<'a>);

impl<'a> Sending<'a> {
    /// Wraps what the callback was called with.
    pub(super) fn new(sk: UserOwned<'a>) -> Self {
        Self(sk)
    }
}

impl<'a> Deref for Sending<'a> {
    type Target = UserOwned<'a>;

    fn deref(&self) -> &UserOwned<'a> {
        &self.0
    }
}

impl Sending<'_> {
    /// Waits until `ready` says so, which is called again after each
    /// [`write_space`](super::VsockSock::write_space), in any context that does not sleep.
    ///
    /// Meanwhile it lets the socket go. Also returns when [`datagram`](Self::datagram) would fail at once.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: one may not (`MSG_DONTWAIT`) or no longer (`SO_SNDTIMEO`) wait.
    /// - `EINTR` and its like: a signal came.
    pub(crate) fn wait_until<F: FnMut() -> bool>(self, msg: &Msg, mut ready: F) -> Result<Self> {
        /// Calls a `F`.
        ///
        /// # Safety
        ///
        /// `data` must point to one that nobody else uses.
        unsafe extern "C" fn call<F: FnMut() -> bool>(data: *mut c_void) -> bool {
            // SAFETY: By the safety requirement.
            unsafe { (*data.cast::<F>())() }
        }
        let noblock = msg.flags() & bindings::MSG_DONTWAIT != 0;
        // SAFETY: As in `datagram()`: the proof of owning the socket is this value, which nobody holds on to
        // meanwhile. `ready` outlives the call, which alone uses it.
        to_result(unsafe {
            bindings::rvsock_helper_sk_wait_until(
                self.sock(),
                noblock,
                Some(call::<F>),
                (&raw mut ready).cast(),
            )
        })?;
        Ok(self)
    }

    /// Makes a packet of a header and `len` bytes from the user, charged to the send buffer; before
    /// the header, `headroom` bytes stay free. The first `linear` bytes lie behind the header, in one piece with it,
    /// if there is memory for that; what is left lies in pages, in pieces of up to 32 KiB.
    ///
    /// Waits for room in the send buffer, unless the message says `MSG_DONTWAIT`; meanwhile it lets
    /// the socket go. `header` is called when the waiting is over.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: there is no room, and one may not or no longer (`SO_SNDTIMEO`) wait.
    /// - `EINTR` and its like: a signal came.
    /// - `EPIPE`: `shutdown()` has ended sending.
    /// - `ENOBUFS`, `ENOMEM`: no memory.
    /// - `EFAULT`: the user's memory cannot be read.
    /// - What [`report_error`](super::VsockSock::report_error) was told.
    pub(crate) fn datagram<C: ControlBlock, const N: usize>(
        mut self,
        headroom: usize,
        linear: usize,
        header: impl FnOnce(&UserOwned<'_>) -> [u8; N],
        msg: &mut Msg,
        len: usize,
        control: C,
    ) -> Result<SkBuff<C>> {
        /// There is memory for so much in one piece.
        const LINEAR_SURE: usize = 4096;

        let front = headroom.checked_add(N).ok_or(EINVAL)?;
        let noblock = msg.flags() & bindings::MSG_DONTWAIT != 0;
        let mut linear = linear.min(len);
        let mut skb = self.alloc(front, linear, len, noblock);
        if linear > LINEAR_SURE && skb == Err(NetError::NoBufs.into()) {
            linear = LINEAR_SURE;
            skb = self.alloc(front, linear, len, noblock);
        }
        // SAFETY: The buffer is new and ours alone, and has no data yet.
        let mut skb = unsafe { SkBuff::from_raw(skb?, control) };
        skb.reserve(headroom)?;
        skb.put_slice(&header(&self.0))?;
        skb.with_msg_paged(msg, linear, len)
    }

    /// Allocates a buffer for `front` bytes and `len` behind them, of which `linear` are in one piece with them, as
    /// [`datagram`](Self::datagram) does.
    ///
    /// # Errors
    ///
    /// As of [`datagram`](Self::datagram), but for `EFAULT`.
    fn alloc(
        &mut self,
        front: usize,
        linear: usize,
        len: usize,
        noblock: bool,
    ) -> Result<NonNull<bindings::sk_buff>> {
        /// What lies in pages is in pieces of up to 32 KiB.
        const ORDER: i32 = order_of(32 * 1024) as i32;

        let front = front.checked_add(linear).ok_or(EINVAL)?;
        let mut error = 0;
        // SAFETY: The socket is alive and owned by the call that we run in, which holds a reference
        // to it, and owns it again when this is over. Nobody holds on to the proof of that, which is this
        // value, borrowed for us alone; `with_kept()` keeps the socket's data meanwhile.
        let skb = unsafe {
            bindings::release_sock(self.sock());
            let skb = bindings::sock_alloc_send_pskb(
                self.sock(),
                front,
                len.saturating_sub(linear),
                i32::from(noblock),
                &mut error,
                ORDER,
            );
            bindings::lock_sock_nested(self.sock(), 0);
            skb
        };
        let Some(skb) = NonNull::new(skb) else {
            to_result(error)?;
            return Err(ENOMEM);
        };
        Ok(skb)
    }
}
