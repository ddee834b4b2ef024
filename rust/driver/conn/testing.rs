// SPDX-License-Identifier: GPL-2.0

//! For tests: a connection without a socket.

use super::*;

impl Conn {
    /// A stream of nobody's, with a buffer of 1000 bytes, in no table.
    pub(super) fn of_nobody() -> Result<Arc<Self>> {
        Self::new(
            WeakSock::to_nothing()?,
            SocketType::Stream,
            1000,
            Connections::new()?,
        )
    }
}
