// SPDX-License-Identifier: GPL-2.0

//! What of a sender waits for turns of a network interface's scheduler (N2, N3).

use super::{
    Backlog,
    Inner,
    Packet,
    Sent, //
};
use crate::ext::net::skbuff::SkBuffQueue;

impl Backlog {
    /// Whether packets of the connection wait for turns of an interface's scheduler.
    pub(in crate::driver::queue) fn is_held(&self) -> bool {
        self.inner.lock().held
    }

    /// Has `packet` wait for a turn of the scheduler, which was `asked` for one, or for the one before it; returns it if
    /// there is neither.
    pub(in crate::driver::queue) fn hold(&self, packet: Packet, asked: bool) -> Option<Packet> {
        let mut inner = self.inner.lock();
        if asked {
            inner.asked = inner.asked.saturating_add(1);
            inner.held = true;
        }
        if !inner.held {
            return Some(packet);
        }
        inner.rest.push_back(packet);
        None
    }

    /// A turn of the connection has come. Returns its next packet, and what is behind it and waits for no turn.
    pub(in crate::driver::queue) fn release(&self) -> SkBuffQueue<Sent> {
        let mut inner = self.inner.lock();
        inner.asked = inner.asked.saturating_sub(1);
        if !inner.held {
            return SkBuffQueue::new();
        }
        if inner.asked == 0 {
            inner.held = false;
            return core::mem::take(&mut inner.rest);
        }
        let mut released = inner
            .rest
            .pop_front()
            .map_or_else(SkBuffQueue::new, SkBuffQueue::from);
        while inner.next_is_control() {
            released.append(
                inner
                    .rest
                    .pop_front()
                    .map_or_else(SkBuffQueue::new, SkBuffQueue::from),
            );
        }
        inner.held = !inner.rest.is_empty();
        released
    }

    /// Nothing waits for turns any more; returns what did.
    pub(in crate::driver::queue) fn unhold(&self) -> SkBuffQueue<Sent> {
        let mut inner = self.inner.lock();
        inner.asked = 0;
        if core::mem::replace(&mut inner.held, false) {
            core::mem::take(&mut inner.rest)
        } else {
            SkBuffQueue::new()
        }
    }

    /// A turn that the scheduler was asked for will not come.
    pub(in crate::driver::queue) fn forget_turn(&self) {
        let mut inner = self.inner.lock();
        inner.asked = inner.asked.saturating_sub(1);
    }

    /// Calls `look` with the next of the packets that wait for turns, if there is one.
    ///
    /// # Context
    ///
    /// Calls `look` under `Backlog::inner`.
    pub(in crate::driver::queue) fn with_first<R>(
        &self,
        look: impl FnOnce(&Packet) -> R,
    ) -> Option<R> {
        let inner = self.inner.lock();
        let first = inner.rest.iter().next().filter(|_| inner.held)?;
        Some(look(&first))
    }
}

impl Inner {
    /// Whether a control packet is next behind the one that waits.
    fn next_is_control(&self) -> bool {
        let next = self.rest.iter().next();
        next.is_some_and(|next| !next.control().cause().has_bytes())
    }
}
