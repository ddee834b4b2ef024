// SPDX-License-Identifier: GPL-2.0

//! Sockets of any family, as far as socket buffers have to do with them.
//!
//! C header: [`include/net/sock.h`](srctree/include/net/sock.h)

use crate::ext::bindings;
use kernel::types::Opaque;

/// A `struct sock`.
///
/// A reference to one shows that it is alive. What else may be done with it, the type of its family
/// knows, which leads here by [`Deref`](core::ops::Deref).
///
/// # Invariants
///
/// Valid for as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct Sock(Opaque<bindings::sock>);

impl Sock {
    /// Wraps a raw socket.
    ///
    /// # Safety
    ///
    /// `sk` must be valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(sk: *mut bindings::sock) -> &'a Self {
        // SAFETY: `Sock` is transparent to `struct sock`.
        //
        // INVARIANT: Valid by the safety requirements.
        unsafe { &*sk.cast() }
    }

    /// The socket, as C knows it.
    pub(super) fn as_ptr(&self) -> *mut bindings::sock {
        self.0.get()
    }
}
