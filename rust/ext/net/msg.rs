// SPDX-License-Identifier: GPL-2.0

//! Messages between a socket call and user memory.
//!
//! C header: [`include/linux/socket.h`](srctree/include/linux/socket.h)

use crate::ext::bindings;
use kernel::{
    prelude::*,
    types::Opaque, //
};

/// A `struct msghdr`: what `sendmsg()` or `recvmsg()` was given.
///
/// # Invariants
///
/// Valid for as long as it is borrowed, and used by the borrower alone.
#[repr(transparent)]
pub(crate) struct Msg(Opaque<bindings::msghdr>);

impl Msg {
    /// Wraps what a socket call was given.
    ///
    /// # Safety
    ///
    /// `msg` is valid for `'a`, with a valid `msg_iter`, and nobody else uses it meanwhile.
    pub(super) unsafe fn from_raw<'a>(msg: *mut bindings::msghdr) -> &'a mut Msg {
        // SAFETY: `Msg` is transparent to `struct msghdr`; the rest is required of the caller.
        unsafe { &mut *msg.cast() }
    }

    /// The number of bytes of the user's memory that are left.
    pub(crate) fn left(&self) -> usize {
        // SAFETY: By the type invariant the message is valid.
        unsafe { bindings::rvsock_helper_msg_data_left(self.0.get()) }
    }

    /// The flags, `MSG_*`.
    pub(crate) fn flags(&self) -> u32 {
        // SAFETY: By the type invariant the message is valid.
        unsafe { (*self.0.get()).msg_flags }
    }

    /// Whether the sender ends a record with it, `MSG_EOR`.
    pub(crate) fn ends_record(&self) -> bool {
        self.flags() & bindings::MSG_EOR != 0
    }

    /// Whether the sender asks that its memory be used where it lies, `MSG_ZEROCOPY`.
    pub(crate) fn asks_for_zerocopy(&self) -> bool {
        self.flags() & bindings::MSG_ZEROCOPY != 0
    }

    /// Whether the sender says that more follows, `MSG_MORE`.
    pub(crate) fn more_follows(&self) -> bool {
        self.flags() & bindings::MSG_MORE != 0
    }

    /// Has the receiver see `MSG_EOR`.
    pub(crate) fn set_end_of_record(&mut self) {
        // SAFETY: By the type invariant the message is valid and ours.
        unsafe { (*self.0.get()).msg_flags |= bindings::MSG_EOR };
    }

    /// Has the receiver see `MSG_TRUNC`.
    pub(super) fn set_truncated(&mut self) {
        // SAFETY: By the type invariant the message is valid and ours.
        unsafe { (*self.0.get()).msg_flags |= bindings::MSG_TRUNC };
    }

    /// The notification that the sender brings along, or null.
    pub(super) fn ubuf(&self) -> *mut bindings::ubuf_info {
        // SAFETY: By the type invariant the message is valid.
        unsafe { (*self.0.get()).msg_ubuf }
    }

    /// Whether what is left, up to `most` pages of it, can be pinned whole: it begins where a piece
    /// of the user's memory begins.
    pub(crate) fn can_be_pinned(&self, most: usize) -> bool {
        // SAFETY: By the type invariant the message is valid.
        let pages = unsafe { bindings::rvsock_helper_msg_pages(self.0.get()) };
        pages > 0 && usize::try_from(pages).is_ok_and(|pages| pages <= most)
    }

    /// Copies `len` bytes from the user to `to`, and moves on by as much. May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the user's memory cannot be read, or ends before; the message has then not moved.
    ///
    /// # Safety
    ///
    /// `to` must be valid for writes of `len` bytes.
    pub(super) unsafe fn read(&mut self, to: *mut u8, len: usize) -> Result {
        // SAFETY: By the type invariant the message is valid and ours; the rest is required of the
        // caller.
        let read = unsafe { bindings::rvsock_helper_msg_read(self.0.get(), to.cast(), len) };
        read.then_some(()).ok_or(EFAULT)
    }

    /// Calls `f`; if it fails, the message stands where it stood before, however far `f` had come.
    ///
    /// # Errors
    ///
    /// What `f` says.
    pub(crate) fn unmoved_on_error<R>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<R>,
    ) -> Result<R> {
        // SAFETY: By the type invariant the iterator is valid; it says where the memory is, and owns none.
        let start = unsafe { self.iter().read() };
        let result = f(self);
        if result.is_err() {
            // SAFETY: As above. The memory that it goes over is there as long as the message is.
            unsafe { self.iter().write(start) };
        }
        result
    }

    /// The message, as C knows it.
    pub(super) fn raw(&mut self) -> *mut bindings::msghdr {
        self.0.get()
    }

    /// What is left of the user's memory.
    pub(super) fn iter(&mut self) -> *mut bindings::iov_iter {
        // SAFETY: By the type invariant the message is valid.
        unsafe { &raw mut (*self.0.get()).msg_iter }
    }
}

#[cfg(CONFIG_KUNIT = "y")]
impl Msg {
    /// Calls `f` with a message whose user has `memory` to receive to. For tests.
    pub(crate) fn with_memory<R>(memory: &mut [u8], f: impl FnOnce(&mut Msg) -> R) -> R {
        // SAFETY: The slice is valid for writes, and borrowed until this returns.
        unsafe { Self::over(memory.as_mut_ptr(), memory.len(), true, f) }
    }

    /// Calls `f` with a message whose user sends `data`. For tests.
    pub(crate) fn with_data<R>(data: &[u8], f: impl FnOnce(&mut Msg) -> R) -> R {
        // SAFETY: The slice is valid for reads, and borrowed until this returns.
        unsafe { Self::over(data.as_ptr().cast_mut(), data.len(), false, f) }
    }

    /// Calls `f` with a message whose user has no memory where `len` bytes are to be. For tests.
    pub(crate) fn with_bad_memory<R>(len: usize, f: impl FnOnce(&mut Msg) -> R) -> R {
        let mut msg = core::mem::MaybeUninit::<bindings::msghdr>::zeroed();
        // SAFETY: As in `over()`; addresses that no user's are fail to be written, and that is all.
        unsafe {
            bindings::rvsock_helper_msg_over_nothing(msg.as_mut_ptr(), len);
            f(Msg::from_raw(msg.as_mut_ptr()))
        }
    }

    /// # Safety
    ///
    /// `len` bytes from `memory` on must be valid until this returns, for writes if they are
    /// `to_be_written`, else for reads, and nobody else may use them otherwise meanwhile.
    unsafe fn over<R>(
        memory: *mut u8,
        len: usize,
        to_be_written: bool,
        f: impl FnOnce(&mut Msg) -> R,
    ) -> R {
        let mut memory = bindings::kvec {
            iov_base: memory.cast(),
            iov_len: len,
        };
        let mut msg = core::mem::MaybeUninit::<bindings::msghdr>::zeroed();
        // SAFETY:
        // - A message of zeroes is valid but for its iterator, which is made here.
        // - The memory that it goes over is valid by the safety requirement, and `memory` says where it
        //   is until after `f`.
        // - `f` alone uses the message, and cannot keep it.
        unsafe {
            bindings::rvsock_helper_msg_over(msg.as_mut_ptr(), &mut memory, to_be_written);
            f(Msg::from_raw(msg.as_mut_ptr()))
        }
    }
}
