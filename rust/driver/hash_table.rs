// SPDX-License-Identifier: GPL-2.0

//! A table of what is found by its address: connections by both ends, datagram sockets by their port.

use crate::ext::{
    error::NetError,
    net::vsock::random,
    sync::{
        new_spinlock_bh,
        SpinLockBh, //
    },
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    prelude::*,
    sync::Arc, //
};

/// How many lists the entries are spread over: some thousands leave a few in each.
const BUCKETS: usize = 512;

/// What an entry is found by.
pub(super) trait Key: Copy + PartialEq + Send + 'static {
    /// A number that tells most keys apart, and which of them it does not nobody knows who does not know `seed`.
    fn mixed(&self, seed: u64) -> u64;
}

type Bucket<K, V> = KVec<(K, Arc<V>)>;

/// A table; each list in it has a lock of its own.
#[pin_data]
pub(super) struct HashTable<K: Key, V: Send + Sync + 'static> {
    /// So that nobody can choose addresses that meet in one list.
    seed: u64,
    #[pin]
    buckets: [SpinLockBh<Bucket<K, V>>; BUCKETS],
}

impl<K: Key, V: Send + Sync + 'static> HashTable<K, V> {
    /// No entries.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            seed: u64::from(random()) << 32 | u64::from(random()),
            buckets <- pin_init::pin_init_array_from_fn(|_| {
                new_spinlock_bh!(KVec::new(), "HashTable::buckets")
            }),
        })
    }

    fn bucket(&self, key: &K) -> Option<&SpinLockBh<Bucket<K, V>>> {
        self.buckets
            .get((key.mixed(self.seed) >> 48) as usize % BUCKETS)
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
        bucket.push((key, value.clone()), GFP_ATOMIC | __GFP_NOWARN)?;
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

    /// The first value at `position` or after it, and where that is: for whoever comes again for the next one, at
    /// the position behind it, which is one more. As of [`for_each`](Self::for_each), some may be missed that come
    /// meanwhile, and none that stays.
    ///
    /// # Context
    ///
    /// Does not sleep; takes a bucket's lock.
    pub(super) fn find_from(&self, position: u64) -> Option<(u64, Arc<V>)> {
        let (first, mut from_top) = (position >> 32, position as u32);
        for (number, bucket) in (0..).zip(&self.buckets).skip(usize::try_from(first).ok()?) {
            let bucket = bucket.lock();
            // Backwards, as `for_each()`: a position counts down from the highest index.
            let below = u64::from(u32::MAX - from_top).saturating_add(1);
            let left = bucket
                .len()
                .min(usize::try_from(below).unwrap_or(usize::MAX));
            let last = left
                .checked_sub(1)
                .and_then(|index| Some((index, bucket.get(index)?)));
            if let Some((index, (_, value))) = last {
                let from_top = u32::MAX - u32::try_from(index).ok()?;
                return Some((number << 32 | u64::from(from_top), value.clone()));
            }
            from_top = 0;
        }
        None
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

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_hash_table)]
mod tests {
    use super::*;

    impl Key for u32 {
        fn mixed(&self, _seed: u64) -> u64 {
            u64::from(*self) << 32
        }
    }

    /// Keys that differ in this are in different lists.
    const NEXT_LIST: u32 = 1 << 16;

    fn table() -> Result<Arc<HashTable<u32, u32>>> {
        Arc::pin_init(HashTable::new(), GFP_KERNEL)
    }

    fn value(number: u32) -> Result<Arc<u32>> {
        Ok(Arc::new(number, GFP_KERNEL)?)
    }

    /// What is under `key`.
    fn number(table: &HashTable<u32, u32>, key: u32) -> Option<u32> {
        table.find(key).map(|value| *value)
    }

    #[test]
    fn a_value_is_found_by_its_own_key() -> Result {
        let table = table()?;
        for key in [1, 2, NEXT_LIST + 1] {
            table.insert(key, &value(10 * key)?)?;
        }
        for key in [1, 2, NEXT_LIST + 1] {
            assert_eq!(number(&table, key), Some(10 * key));
        }
        for key in [0, 3, NEXT_LIST, 2 * NEXT_LIST + 1, u32::MAX] {
            assert_eq!(number(&table, key), None);
        }
        Ok(())
    }

    #[test]
    fn a_key_is_given_once() -> Result {
        let table = table()?;
        let (first, second) = (value(1)?, value(2)?);
        let in_use = Err(NetError::AddrInUse.into());
        table.insert(7, &first)?;
        assert_eq!(table.insert(7, &second), in_use);
        assert_eq!(table.insert(7, &first), in_use);
        assert_eq!(number(&table, 7), Some(1));
        table.remove(7, &first);
        assert_eq!(number(&table, 7), None);
        assert_eq!(table.insert(7, &second), Ok(()));
        assert_eq!(number(&table, 7), Some(2));
        Ok(())
    }

    #[test]
    fn only_a_values_own_entry_is_removed() -> Result {
        let table = table()?;
        // Equal, and yet not the same.
        let (own, other) = (value(1)?, value(1)?);
        table.insert(7, &own)?;
        table.insert(8, &own)?;
        table.remove(7, &other);
        table.remove(9, &own);
        assert!(table.find(7).is_some_and(|found| Arc::ptr_eq(&found, &own)));
        table.remove(8, &own);
        assert_eq!(number(&table, 8), None);
        assert!(table.find(7).is_some_and(|found| Arc::ptr_eq(&found, &own)));
        Ok(())
    }

    #[test]
    fn an_entry_keeps_its_value_until_it_is_removed() -> Result {
        let table = table()?;
        let (kept, removed) = (value(1)?, value(2)?);
        table.insert(1, &kept)?;
        table.insert(2, &removed)?;
        table.remove(2, &removed);
        assert!(Arc::into_unique_or_drop(removed).is_some());
        assert!(Arc::into_unique_or_drop(kept).is_none());
        assert_eq!(number(&table, 1), Some(1));
        Ok(())
    }

    /// The numbers that are found one after the other; `meanwhile` is called after each.
    fn found_from(
        table: &HashTable<u32, u32>,
        mut meanwhile: impl FnMut(u32),
    ) -> Result<KVec<u32>> {
        let (mut numbers, mut position) = (KVec::new(), 0);
        while let Some((at, value)) = table.find_from(position) {
            assert!(at >= position);
            numbers.push(*value, GFP_KERNEL)?;
            meanwhile(*value);
            position = at + 1;
        }
        Ok(numbers)
    }

    #[test]
    fn values_are_found_one_after_the_other() -> Result {
        let table = table()?;
        assert!(table.find_from(0).is_none());
        // In the first list, the next and the last.
        let last = (BUCKETS as u32 - 1) * NEXT_LIST;
        for key in [1, 2, 3, NEXT_LIST, last, last + 1] {
            table.insert(key, &value(key)?)?;
        }
        let all = found_from(&table, |_| {})?;
        assert_eq!(all.as_slice(), [3, 2, 1, NEXT_LIST, last + 1, last]);
        // Where one was found, it is found again.
        let (at, first) = table.find_from(0).ok_or(EINVAL)?;
        let (again, same) = table.find_from(at).ok_or(EINVAL)?;
        assert!(again == at && Arc::ptr_eq(&first, &same));
        assert!(table.find_from(u64::from(u32::MAX)).is_some());
        assert!(table.find_from((BUCKETS as u64) << 32).is_none());
        assert!(table.find_from(u64::MAX).is_none());
        Ok(())
    }

    #[test]
    fn one_after_the_other_none_is_missed_that_stays() -> Result {
        const MANY: u32 = 6;
        for at in 0..MANY {
            for goes in 0..MANY {
                let table = table()?;
                for key in 0..MANY {
                    table.insert(key, &value(key)?)?;
                }
                table.insert(NEXT_LIST, &value(MANY)?)?;
                let seen = found_from(&table, |number| {
                    if number == at {
                        if let Some(gone) = table.find(goes) {
                            table.remove(goes, &gone);
                        }
                    }
                })?;
                for key in 0..=MANY {
                    assert!(key == goes || seen.contains(&key));
                }
                assert!(seen.len() <= MANY as usize + 2);
            }
        }
        Ok(())
    }

    #[test]
    fn all_that_stay_are_seen_while_others_go_and_come() -> Result {
        const MANY: u32 = 8;
        // Whoever sees number `at` has `goes` go.
        for at in 0..MANY {
            for goes in 0..MANY {
                let table = table()?;
                for key in 0..MANY {
                    table.insert(key, &value(key)?)?;
                }
                table.insert(NEXT_LIST, &value(MANY)?)?;
                let late = value(MANY + 1)?;
                let mut seen = [0; MANY as usize + 2];
                table.for_each(|value| {
                    if let Some(times) = seen.get_mut(**value as usize) {
                        *times += 1;
                    }
                    if **value == at && number(&table, goes).is_some() {
                        if let Some(gone) = table.find(goes) {
                            table.remove(goes, &gone);
                        }
                        // Into either list.
                        let _ = table.insert(MANY + goes % 2 * NEXT_LIST, &late);
                    }
                });
                for key in 0..=MANY {
                    assert!(key == goes || matches!(seen.get(key as usize), Some(1 | 2)));
                }
                assert!(seen.iter().sum::<u32>() <= MANY + 3);
            }
        }
        Ok(())
    }
}
