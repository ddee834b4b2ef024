// SPDX-License-Identifier: GPL-2.0

//! All connections, those that are being made included, by their addresses.
//!
//! af_vsock's own tables find listeners, and are what user space sees; but they do not hold
//! connections that are being made, and belong to all transports.

use super::Conn;
use crate::{
    driver::hash_table::{
        self,
        HashTable, //
    },
    ext::{
        net::vsock::Addr,
        sync::{
            new_spinlock_bh,
            Kept,
            RcuArc,
            SpinLockBh, //
        },
        work::{
            new_delayed_work,
            DelayedWork, //
        }, //
    },
    proto::mix, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::msecs_to_jiffies, //
};

/// How often the connections are looked at, while there are some whose time may be over, in milliseconds.
const LOOK_INTERVAL: u32 = 1000;

/// When to try again to tell af_vsock what memory was lacking for, in milliseconds.
const RETRY_INTERVAL: u32 = 20;

/// What tells a connection from others; the other half of our own address is the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) struct Key {
    /// Who the peer is.
    pub(in crate::driver) peer: Addr,
    /// Our own port.
    pub(in crate::driver) local_port: u32,
}

impl hash_table::Key for Key {
    fn mixed(&self, seed: u64) -> u64 {
        let ports = u64::from(self.peer.port) << 32 | u64::from(self.local_port);
        mix(mix(seed ^ ports) ^ u64::from(self.peer.cid))
    }
}

/// The connections, while the module is loaded.
static ALL: RcuArc<Connections> = RcuArc::new();

/// The connections; none when the module is being unloaded.
pub(in crate::driver) fn all() -> Option<Arc<Connections>> {
    ALL.load()
}

/// Tells writers of room that had to wait, as too much waited of all.
///
/// # Context
///
/// Does not sleep; may let a socket go.
pub(in crate::driver) fn tell_of_room() {
    if let Some(table) = all() {
        table.for_each(|conn| conn.tell_of_room());
    }
}

/// The connections of all sockets that this driver serves.
#[pin_data]
pub(in crate::driver) struct Connections {
    #[pin]
    by_address: HashTable<Key, Conn>,
    /// A list of connections that could not tell af_vsock what is new.
    #[pin]
    unsettled: SpinLockBh<Option<Arc<Conn>>>,
    #[pin]
    tick: DelayedWork<Connections>,
}

impl Connections {
    /// Makes [`all`] find a table without connections, for as long as what is returned is kept.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(in crate::driver) fn keep() -> Result<Kept<Self>> {
        Ok(ALL.keep(Self::new()?))
    }

    /// A table without connections. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                by_address <- HashTable::new(),
                unsettled <- new_spinlock_bh!(None, "Connections::unsettled"),
                tick <- new_delayed_work!(Self::tick, "Connections::tick"),
            }),
            GFP_KERNEL,
        )
    }

    /// Enters `conn` under `key`.
    ///
    /// # Context
    ///
    /// Does not sleep; takes a bucket's lock.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: there is a connection between these addresses.
    /// - `ENOMEM`: no memory.
    pub(super) fn insert(&self, key: Key, conn: &Arc<Conn>) -> Result {
        self.by_address.insert(key, conn)
    }

    /// Takes `conn` out from under `key`.
    ///
    /// # Context
    ///
    /// Does not sleep; takes a bucket's lock.
    pub(super) fn remove(&self, key: Key, conn: &Arc<Conn>) {
        self.by_address.remove(key, conn);
    }

    /// The connection between these addresses.
    ///
    /// # Context
    ///
    /// Does not sleep; takes a bucket's lock.
    pub(in crate::driver) fn find(&self, key: Key) -> Option<Arc<Conn>> {
        self.by_address.find(key)
    }

    /// Calls `f` with each connection, as [`HashTable::for_each`] does.
    ///
    /// # Context
    ///
    /// Sleeps if `f` does; no lock of the table is held meanwhile.
    pub(in crate::driver) fn for_each(&self, f: impl FnMut(&Arc<Conn>)) {
        self.by_address.for_each(f);
    }

    /// The first connection at `position` or after it, and where that is, as [`HashTable::find_from`] does.
    ///
    /// # Context
    ///
    /// Does not sleep; takes a bucket's lock.
    pub(in crate::driver) fn find_from(&self, position: u64) -> Option<(u64, Arc<Conn>)> {
        self.by_address.find_from(position)
    }

    /// Looks at the connections in a while: there is one whose time will be over, as it is closing, or
    /// abandoned.
    ///
    /// # Context
    ///
    /// Does not sleep.
    pub(super) fn look_again(self: &Arc<Self>) {
        self.tick.queue_in(self, msecs_to_jiffies(LOOK_INTERVAL));
    }

    /// Has `conn` tried again soon with what it could not tell af_vsock, sockmap or the peer. It may have left
    /// the table.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Connections::unsettled`.
    pub(super) fn try_later(self: &Arc<Self>, conn: &Arc<Conn>) {
        // The first starts the timer; the others, if they did, would put it off.
        if conn.enlist(&mut self.unsettled.lock()) {
            self.tick.requeue_in(self, msecs_to_jiffies(RETRY_INTERVAL));
        }
    }

    /// Does what the timer is for.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the spinlock of the socket's lock.
    fn tick(self: Arc<Self>) {
        let mut unsettled = self.unsettled.lock().take();
        while let Some(conn) = unsettled {
            unsettled = conn.delist();
            conn.catch_up();
        }
        self.for_each(|conn| conn.tick());
    }
}
