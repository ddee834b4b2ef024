// SPDX-License-Identifier: GPL-2.0

//! What waits, and is wanted no more.

use super::{
    Afterwards,
    Tx, //
};
use crate::{
    driver::{
        queue::packet::{
            self,
            Sender, //
        },
        trace::Why, //
    },
    ext::net::skbuff::SkBuffQueue, //
};

impl Tx {
    /// Drops all waiting packets.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn purge(&self) -> Afterwards {
        let ((purged, turns), lingering) = {
            let mut inner = self.inner.lock();
            (inner.waiting.take_all(), inner.lingering.take())
        };
        drop(turns);
        packet::drop_all(purged, Why::Reset);
        lingering.drop_all(Why::Reset);
        self.look_for_room()
    }

    /// Drops the waiting packets of `sender`, its open one included; returns whether there were any.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn withdraw(&self, sender: &dyn Sender) -> (bool, Afterwards) {
        // The search takes the longer the more senders wait.
        if !sender.backlog().has_packets() {
            return (false, Afterwards::default());
        }
        let open = sender.backlog().take_open();
        let mut withdrawn = self.inner.lock().waiting.extract_of(sender);
        withdrawn.append(open.map_or_else(SkBuffQueue::new, SkBuffQueue::from));
        if withdrawn.is_empty() {
            return (false, Afterwards::default());
        }
        packet::drop_all(withdrawn, Why::Over);
        (true, self.look_for_room())
    }

    /// Looks whether there is room again: what was open went with the others, and counted as well.
    fn look_for_room(&self) -> Afterwards {
        self.change(|_, _| Ok(())).unwrap_or_default()
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_withdraw)]
mod tests {
    use super::*;
    use crate::driver::queue::{
        bound::Whose,
        packet::testing::TestSender, //
    };
    use kernel::{
        prelude::*,
        sync::Arc, //
    };

    /// Where nothing has been given to the device, it takes nothing back that writers could be told by.
    #[test]
    fn k5_writers_are_told_of_the_room_of_open_packets_that_are_given_up() -> Result {
        let tx = Arc::pin_init(Tx::new(true), GFP_KERNEL)?;
        let mut senders = KVec::new();
        while !tx.is_full_still(Whose::Connections) {
            let sender = TestSender::new(1000)?;
            sender.backlog().send();
            assert!(sender.backlog().park(sender.open(1, 5)?).is_none());
            senders.push(sender, GFP_KERNEL)?;
        }
        let mut told = 0;
        for sender in &senders {
            let (some, afterwards) = tx.withdraw(&**sender);
            assert!(some);
            told += u32::from(afterwards.tell_of_room);
        }
        assert_eq!(told, 1);
        Ok(())
    }
}
