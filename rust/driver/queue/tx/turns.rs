// SPDX-License-Identifier: GPL-2.0

//! A transmit queue whose packets have turns of a network interface's scheduler, while that is up (N1 to N3).

use super::{
    Afterwards,
    Inner,
    Tx, //
};
use crate::{
    driver::{
        queue::{
            packet,
            scheduled::Counts, //
        },
        trace::Why, //
    },
    ext::net::device::{
        NetDevice,
        Turn, //
    }, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

impl Tx {
    /// The interface is `device`, of which this is the queue number `queue`.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn attach(&self, device: Arc<NetDevice>, queue: u16) {
        self.inner.lock().waiting.scheduled.attach(device, queue);
    }

    /// The interface is up from now on: what waits for its turn has it from the scheduler.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn set_up(&self) -> Afterwards {
        let afterwards = self.change(|inner, _| {
            inner.waiting.scheduled.set_up(true);
            if inner.queue.is_some() {
                inner.waiting.begin_schedule();
            }
            Ok(())
        });
        afterwards.unwrap_or_default()
    }

    /// The interface is down from now on: what waits for a turn has it here.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn set_down(&self) -> Afterwards {
        self.end_schedule(|inner| inner.waiting.scheduled.set_up(false))
    }

    /// The scheduler gives no turns from now on, whether or not the interface is up, until the queue starts again.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn bypass(&self) -> Afterwards {
        self.end_schedule(|inner| inner.waiting.scheduled.set_bypassed(true))
    }

    fn end_schedule(&self, what: impl FnOnce(&mut Inner)) -> Afterwards {
        let mut taken = None;
        let afterwards = self.change(|inner, _| {
            what(inner);
            taken = Some(inner.waiting.end_schedule());
            Ok(())
        });
        // The lock is released by now.
        drop(taken);
        afterwards.unwrap_or_default()
    }

    /// A turn has come back from the scheduler: what it was for is sent. `more`: others follow at once, and the device is
    /// told then. Returns false if it is none of this queue's.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn spend(&self, turn: &Turn, more: bool) -> (bool, Afterwards) {
        let mut given = None;
        let afterwards = self.change_and_kick(
            // Where there is no room none follows.
            |inner| !more || inner.waiting.has_ready(),
            |inner, _| {
                given = inner.waiting.spend(turn);
                Ok(())
            },
        );
        // The lock is released by now.
        (given.is_some(), afterwards.unwrap_or_default())
    }

    /// Tells the device of what it has, as nothing follows what was sent [before](Self::spend).
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn flush(&self) -> Afterwards {
        self.change(|_, _| Ok(())).unwrap_or_default()
    }

    /// Looks for turns that the scheduler has dropped: datagrams are lost with theirs, others are asked for again.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn look(&self) -> Afterwards {
        let mut over = KVec::new();
        let afterwards = self.change(|inner, _| {
            over = inner.waiting.look();
            Ok(())
        });
        // The lock is released by now.
        for mut given in over {
            if let Some(packet) = given.take_datagram() {
                packet::drop_all(packet.into(), Why::TurnLost);
            }
        }
        afterwards.unwrap_or_default()
    }

    /// The turns that the scheduler is to be given, with nothing locked, and its interface. While that has none, they wait for
    /// [`look`](Self::look).
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn take_due(&self) -> Option<(Arc<NetDevice>, KVec<Turn>)> {
        let scheduled = &mut self.inner.lock().waiting.scheduled;
        scheduled.is_ready().then(|| scheduled.take_due()).flatten()
    }

    /// What was sent by turns.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn counts(&self) -> Counts {
        self.inner.lock().waiting.scheduled.counts()
    }
}
