// SPDX-License-Identifier: GPL-2.0

//! How much memory of packets may wait to be sent before those who write more have to wait (K5).

/// With payload of so much memory, in bytes, all writers have to wait (K5).
pub(super) const MEMORY_MAX: usize = 16 << 20;

/// Down to this it must come before they go on, so that they are not woken for each packet.
pub(super) const MEMORY_LOW: usize = MEMORY_MAX / 4 * 3;

/// Whose packets are bounded together. Neither waits for room that the others take, though they may share a queue
/// (D7, G8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Whose {
    /// Those of connections.
    Connections,
    /// Datagrams, of all sockets.
    Datagrams,
}

/// What waits of them.
pub(super) struct Bound {
    /// The memory of those with payload, in bytes.
    memory: usize,
    /// There was too much, and has been since.
    full: bool,
}

impl Bound {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self {
            memory: 0,
            full: false,
        }
    }

    /// The memory of those with payload, in bytes.
    pub(super) const fn memory(&self) -> usize {
        self.memory
    }

    /// A packet of so much memory is about to wait.
    pub(super) fn add(&mut self, memory: usize) {
        self.memory = self.memory.saturating_add(memory);
    }

    /// One waits no longer.
    pub(super) fn subtract(&mut self, memory: usize) {
        self.memory = self.memory.saturating_sub(memory);
    }

    /// Whether writers have to wait; `besides`: so much memory counts that does not wait here.
    pub(super) fn is_full(&mut self, besides: usize) -> bool {
        self.full |= self.memory.saturating_add(besides) >= MEMORY_MAX;
        self.full
    }

    /// Whether writers that had to wait may go on; said once. `besides` as in [`is_full`](Self::is_full).
    pub(super) fn has_room_again(&mut self, besides: usize) -> bool {
        let room = self.full && self.memory.saturating_add(besides) <= MEMORY_LOW;
        self.full &= !room;
        room
    }

    /// Nobody has to wait any more.
    pub(super) fn end(&mut self) {
        self.full = false;
    }
}
