// SPDX-License-Identifier: GPL-2.0

//! Open packets that nothing is before any more, and that linger until a worker has its turn (K7).

use super::packet::{
    self,
    Packet,
    Packets,
    Sender, //
};
use crate::{
    driver::trace::Why,
    proto::After, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    prelude::*,
    sync::Arc, //
};

/// Who has an open packet that lingers, or had.
///
/// # Context
///
/// `Tx::inner` guards it; nothing of it sleeps.
pub(super) struct Lingering(KVec<Arc<dyn Sender>>);

impl Lingering {
    /// Nobody.
    pub(super) const fn new() -> Self {
        Self(KVec::new())
    }

    /// Whether nobody has.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them; there is none after this. They are to be dropped with nothing locked.
    pub(super) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }

    /// The open packet of `packet`'s sender, of which this is `after` that was taken, if it goes. If it lingers, the sender
    /// is one of these.
    pub(super) fn open_that_goes(&mut self, packet: &Packet, after: After) -> Option<Packet> {
        let sender = packet.control().sender()?;
        match after {
            After::Waits => None,
            After::Lingers
                if self
                    .0
                    .push(sender.clone(), GFP_ATOMIC | __GFP_NOWARN)
                    .is_ok() =>
            {
                None
            }
            After::Lingers | After::Goes => sender.backlog().take_open(),
        }
    }

    /// The packets, of those that have not gone.
    pub(super) fn packets(&self) -> impl Iterator<Item = Packet> + '_ {
        let senders = self.0.iter();
        senders.filter_map(|sender| sender.backlog().take_lingering())
    }

    /// Drops the packets.
    ///
    /// # Context
    ///
    /// Does not sleep, and may let sockets go.
    pub(super) fn drop_all(self, why: Why) {
        for open in self.packets() {
            packet::drop_all(Packets::from(open), why);
        }
    }
}
