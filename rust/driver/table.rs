// SPDX-License-Identifier: GPL-2.0

//! All connections, those that are being made included, by their addresses.
//!
//! af_vsock's own tables find listeners, and are what user space sees; but they do not hold
//! connections that are being made, and belong to all transports.

use super::conn::Conn;
use crate::ext::{
    error::NetError,
    net::vsock::Addr,
    sync::{
        new_spinlock_bh,
        SpinLockBh, //
    },
    work::{
        new_delayed_work,
        DelayedWork, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::msecs_to_jiffies, //
};

/// How many lists the connections are spread over: some thousands leave a few in each.
const BUCKETS: usize = 512;

/// How often a connection whose close takes long is looked at, in milliseconds.
const CLOSING_INTERVAL: u32 = 1000;

/// When to try again to tell af_vsock what memory was lacking for, in milliseconds.
const TELL_INTERVAL: u32 = 20;

/// What tells a connection from others; the other half of our own address is the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Who the peer is.
    pub(super) peer: Addr,
    /// Our own port.
    pub(super) local_port: u32,
}

impl Key {
    fn bucket(&self) -> usize {
        // Ports are mostly given out one by one: multiplying by a large odd number spreads them.
        let mixed = self
            .peer
            .port
            .wrapping_mul(0x9e37_79b1)
            .wrapping_add(self.local_port)
            .wrapping_mul(0x85eb_ca6b)
            .wrapping_add(self.peer.cid);
        (mixed >> 16) as usize % BUCKETS
    }
}

type Bucket = KVec<(Key, Arc<Conn>)>;

/// The connections of all sockets that this driver serves.
#[pin_data]
pub(crate) struct Connections {
    #[pin]
    buckets: [SpinLockBh<Bucket>; BUCKETS],
    /// How many released sockets wait for their peers.
    closing: Atomic<i32>,
    /// A list of connections that could not tell af_vsock what is new.
    #[pin]
    untold: SpinLockBh<Option<Arc<Conn>>>,
    #[pin]
    tick: DelayedWork<Connections>,
}

impl Connections {
    /// No connections. May sleep.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                buckets <- pin_init::pin_init_array_from_fn(|_| {
                    new_spinlock_bh!(KVec::new(), "Connections::buckets")
                }),
                closing: Atomic::new(0),
                untold <- new_spinlock_bh!(None, "Connections::untold"),
                tick <- new_delayed_work!(Self::tick, "Connections::tick"),
            }),
            GFP_KERNEL,
        )
    }

    fn bucket(&self, key: &Key) -> Option<&SpinLockBh<Bucket>> {
        self.buckets.get(key.bucket())
    }

    /// Enters `conn` under `key`.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: there is a connection between these addresses.
    /// - `ENOMEM`: no memory.
    pub(super) fn insert(&self, key: Key, conn: &Arc<Conn>) -> Result {
        let mut bucket = self.bucket(&key).ok_or(EINVAL)?.lock();
        if bucket.iter().any(|(other, _)| *other == key) {
            return Err(NetError::AddrInUse.into());
        }
        bucket.push((key, conn.clone()), GFP_ATOMIC)?;
        Ok(())
    }

    /// Takes `conn` out from under `key`.
    pub(super) fn remove(&self, key: Key, conn: &Arc<Conn>) {
        let Some(bucket) = self.bucket(&key) else {
            return;
        };
        let mut bucket = bucket.lock();
        let found = bucket
            .iter()
            .position(|(other, entry)| *other == key && Arc::ptr_eq(entry, conn));
        if let Some(index) = found {
            // The caller has a reference, so that nothing but the entry ends here.
            let _ = bucket.remove(index);
        }
    }

    /// The connection between these addresses.
    pub(super) fn find(&self, key: Key) -> Option<Arc<Conn>> {
        let bucket = self.bucket(&key)?.lock();
        bucket
            .iter()
            .find(|(other, _)| *other == key)
            .map(|(_, conn)| conn.clone())
    }

    /// Calls `f` with each connection; not with one that comes meanwhile, perhaps, and perhaps twice
    /// with one.
    pub(super) fn for_each(&self, mut f: impl FnMut(&Arc<Conn>)) {
        for bucket in &self.buckets {
            // Backwards: when others go, the rest moves to the front, and none is passed over.
            let mut index = bucket.lock().len();
            while index > 0 {
                index -= 1;
                let conn = bucket.lock().get(index).map(|(_, conn)| conn.clone());
                if let Some(conn) = conn {
                    f(&conn);
                }
            }
        }
    }

    /// A released socket waits for its peer.
    pub(super) fn one_more_closing(self: &Arc<Self>) {
        self.closing.add(1, Relaxed);
        self.tick.queue_in(self, msecs_to_jiffies(CLOSING_INTERVAL));
    }

    /// It waits no longer.
    pub(super) fn one_less_closing(&self) {
        self.closing.add(-1, Relaxed);
    }

    /// Tries again soon to have `conn` tell af_vsock what is new. It may have left the table.
    pub(super) fn tell_later(self: &Arc<Self>, conn: &Arc<Conn>) {
        conn.enlist(&mut self.untold.lock());
        self.tick.requeue_in(self, msecs_to_jiffies(TELL_INTERVAL));
    }

    fn tick(self: Arc<Self>) {
        let mut untold = self.untold.lock().take();
        while let Some(conn) = untold {
            untold = conn.delist();
            conn.tell();
        }
        self.for_each(|conn| conn.tick());
        if self.closing.load(Relaxed) > 0 {
            self.tick
                .queue_in(&self, msecs_to_jiffies(CLOSING_INTERVAL));
        }
    }
}
