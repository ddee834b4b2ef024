// SPDX-License-Identifier: GPL-2.0

//! A table of what is found by its address: connections by both ends, datagram sockets by their port.

use crate::ext::{
    error::NetError,
    sync::{
        new_spinlock_bh,
        SpinLockBh, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// How many lists the entries are spread over: some thousands leave a few in each.
const BUCKETS: usize = 512;

/// What an entry is found by.
pub(super) trait Key: Copy + PartialEq + Send + 'static {
    /// A number whose upper half tells most keys apart.
    fn mixed(&self) -> u32;
}

type Bucket<K, V> = KVec<(K, Arc<V>)>;

/// A table; each list in it has a lock of its own.
#[pin_data]
pub(super) struct HashTable<K: Key, V: Send + Sync + 'static> {
    #[pin]
    buckets: [SpinLockBh<Bucket<K, V>>; BUCKETS],
}

impl<K: Key, V: Send + Sync + 'static> HashTable<K, V> {
    /// No entries.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            buckets <- pin_init::pin_init_array_from_fn(|_| {
                new_spinlock_bh!(KVec::new(), "HashTable::buckets")
            }),
        })
    }

    fn bucket(&self, key: &K) -> Option<&SpinLockBh<Bucket<K, V>>> {
        self.buckets.get((key.mixed() >> 16) as usize % BUCKETS)
    }

    /// Enters `value` under `key`.
    ///
    /// # Context
    ///
    /// Does not sleep; takes a bucket's lock.
    ///
    /// # Errors
    ///
    /// - `EADDRINUSE`: there is another one.
    /// - `ENOMEM`: no memory.
    pub(super) fn insert(&self, key: K, value: &Arc<V>) -> Result {
        let mut bucket = self.bucket(&key).ok_or(EINVAL)?.lock();
        if bucket.iter().any(|(other, _)| *other == key) {
            return Err(NetError::AddrInUse.into());
        }
        bucket.push((key, value.clone()), GFP_ATOMIC)?;
        Ok(())
    }

    /// Takes `value` out from under `key`.
    ///
    /// # Context
    ///
    /// Does not sleep; takes a bucket's lock.
    pub(super) fn remove(&self, key: K, value: &Arc<V>) {
        let Some(bucket) = self.bucket(&key) else {
            return;
        };
        let mut bucket = bucket.lock();
        let found = bucket
            .iter()
            .position(|(other, entry)| *other == key && Arc::ptr_eq(entry, value));
        if let Some(index) = found {
            // The caller has a reference, so that nothing but the entry ends here.
            let _ = bucket.remove(index);
        }
    }

    /// What is under `key`.
    ///
    /// # Context
    ///
    /// Does not sleep; takes a bucket's lock.
    pub(super) fn find(&self, key: K) -> Option<Arc<V>> {
        let bucket = self.bucket(&key)?.lock();
        bucket
            .iter()
            .find(|(other, _)| *other == key)
            .map(|(_, value)| value.clone())
    }

    /// Calls `f` with each value; perhaps not with one that comes meanwhile, and perhaps twice with one.
    ///
    /// # Context
    ///
    /// Takes a bucket's lock, but not while it calls `f`: sleeps if `f` does.
    pub(super) fn for_each(&self, mut f: impl FnMut(&Arc<V>)) {
        for bucket in &self.buckets {
            // Backwards: when others go, the rest moves to the front, and none is passed over.
            let mut index = bucket.lock().len();
            while index > 0 {
                index -= 1;
                let value = bucket.lock().get(index).map(|(_, value)| value.clone());
                if let Some(value) = value {
                    f(&value);
                }
            }
        }
    }
}
