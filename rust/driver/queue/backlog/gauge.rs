// SPDX-License-Identifier: GPL-2.0

//! How much of a connection waits, for those who look at it.

use super::Backlog;

impl Backlog {
    /// How many packets of the connection wait, and the memory of those with payload in bytes; the open one is
    /// included.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Backlog::inner`.
    pub(in crate::driver) fn waiting(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        let open = usize::from(inner.open.is_some());
        (inner.packets.saturating_add(open), inner.memory)
    }
}
