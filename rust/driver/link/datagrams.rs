// SPDX-License-Identifier: GPL-2.0

//! The way out for datagrams: by a queue of their own, or by that of connections.

use super::{
    Link,
    Outbox, //
};
use crate::{
    driver::{
        queue::{
            Packet,
            Packets,
            Whose, //
        },
        stats::{
            Counter,
            STATS, //
        }, //
    },
    wire::Header, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

impl Link {
    /// Sends the datagram `packet`.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the queue does not run.
    pub(in crate::driver) fn send_datagram(self: &Arc<Self>, mut packet: Packet) -> Result {
        if let Some(crowd) = &self.crowd {
            packet.control_mut().join(crowd.clone());
        }
        self.outbox_of_datagrams().send(self, Packets::from(packet))
    }

    /// Where datagrams leave by.
    fn outbox_of_datagrams(&self) -> &Outbox {
        if self.profile.shares_queues() {
            &self.streams
        } else {
            &self.datagrams
        }
    }

    /// Whether so many datagrams wait to be sent that more have to wait for them.
    ///
    /// # Context
    ///
    /// Any.
    pub(in crate::driver) fn is_full_of_datagrams(&self) -> bool {
        self.outbox_of_datagrams().tx.is_full(Whose::Datagrams)
    }

    /// The same, for a writer who waits to be told of room.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn is_full_of_datagrams_still(&self) -> bool {
        self.outbox_of_datagrams()
            .tx
            .is_full_still(Whose::Datagrams)
    }

    /// Asks the device to say when it has taken all datagrams that were sent so far, as a caller waits for that.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn ask_for_datagrams(self: &Arc<Self>) {
        self.outbox_of_datagrams().ask_for_completion(self);
    }

    /// Answers a datagram by RST, if there is room to (D6); not where they share the streams' queues, of which no host
    /// expects that (G7): it is dropped.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn refuse_datagram(self: &Arc<Self>, header: &Header) {
        if self.profile.shares_queues() {
            STATS.count(Counter::DgramDropped);
            return;
        }
        if let Some(packet) = self.refusal(header) {
            let afterwards = self.datagrams.tx.send_if_room(packet);
            self.datagrams.follow(self, afterwards);
        }
    }
}
