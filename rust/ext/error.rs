// SPDX-License-Identifier: GPL-2.0

//! Error codes of networking, which `kernel::error::code` does not name.
//!
//! C header: [`include/uapi/asm-generic/errno.h`](srctree/include/uapi/asm-generic/errno.h)

use crate::ext::bindings;
use kernel::error::Error;

/// A networking error code. [`Error`] has a constructor for numbers only, which is not `const`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum NetError {
    /// `EPROTO`: the peer breaks the protocol.
    Proto = bindings::EPROTO,
    /// `EMSGSIZE`: the message is too long.
    MsgSize = bindings::EMSGSIZE,
    /// `EOPNOTSUPP`: not for this kind of socket.
    OpNotSupp = bindings::EOPNOTSUPP,
    /// `EADDRINUSE`: the address is in use.
    AddrInUse = bindings::EADDRINUSE,
    /// `EADDRNOTAVAIL`: the address is not to be had.
    AddrNotAvail = bindings::EADDRNOTAVAIL,
    /// `ECONNRESET`: the peer, or the network, has reset the connection.
    ConnReset = bindings::ECONNRESET,
    /// `ENOBUFS`: there is no room, for what was received or in memory.
    NoBufs = bindings::ENOBUFS,
    /// `ECONNREFUSED`: nobody listens.
    ConnRefused = bindings::ECONNREFUSED,
}

impl From<NetError> for Error {
    fn from(error: NetError) -> Self {
        // CAST: Error codes are small.
        Error::from_errno(-(error as i32))
    }
}
