// SPDX-License-Identifier: GPL-2.0

//! A table in which what is put gets a number, by which it is found.

use core::mem::size_of;
use kernel::{
    alloc::flags::__GFP_NOWARN,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Each value has a number, which is another's when it is gone. They are in the order in which they were put in.
pub(super) struct Slots<T> {
    /// Pages of [`PER_PAGE`](Self::PER_PAGE) places, all full but for the last: there may be many thousands, and memory in one
    /// piece is soon not to be had.
    pages: KVec<KVec<Place<T>>>,
    /// The last place that was freed.
    free: Option<u32>,
    first: Option<u32>,
    last: Option<u32>,
    /// Where [`extract`](Self::extract) goes on; none for the first.
    cursor: Option<u32>,
    len: usize,
}

enum Place<T> {
    Taken(Taken<T>),
    /// `next`: the one that was freed before it.
    Free {
        next: Option<u32>,
    },
}

struct Taken<T> {
    value: T,
    before: Option<u32>,
    after: Option<u32>,
}

impl<T> Slots<T> {
    const PER_PAGE: usize = {
        let fit = PAGE_SIZE / size_of::<Place<T>>();
        if fit > 0 {
            fit
        } else {
            1
        }
    };

    /// None.
    pub(super) const fn new() -> Self {
        Self {
            pages: KVec::new(),
            free: None,
            first: None,
            last: None,
            cursor: None,
            len: 0,
        }
    }

    /// Whether nothing is there.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts in what `make` makes of its number.
    ///
    /// # Context
    ///
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory. Others as of `make`.
    pub(super) fn insert(&mut self, make: impl FnOnce(u32) -> Result<T>) -> Result {
        let number = match self.free {
            Some(number) => number,
            None => self.add_place()?,
        };
        let taken = Taken {
            value: make(number)?,
            before: self.last,
            after: None,
        };
        let place = self.place_mut(number).ok_or(EINVAL)?;
        if let Place::Free { next } = core::mem::replace(place, Place::Taken(taken)) {
            self.free = next;
        }
        match self.last.and_then(|last| self.taken_mut(last)) {
            Some(last) => last.after = Some(number),
            None => self.first = Some(number),
        }
        self.last = Some(number);
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    /// Makes one more place, which is free; returns its number.
    fn add_place(&mut self) -> Result<u32> {
        if self
            .pages
            .last()
            .is_none_or(|page| page.len() == Self::PER_PAGE)
        {
            let page = KVec::with_capacity(Self::PER_PAGE, GFP_ATOMIC | __GFP_NOWARN)?;
            self.pages.push(page, GFP_ATOMIC | __GFP_NOWARN)?;
        }
        let full = self.pages.len().saturating_sub(1);
        let page = self.pages.last_mut().ok_or(ENOMEM)?;
        let number = full
            .checked_mul(Self::PER_PAGE)
            .and_then(|number| u32::try_from(number.checked_add(page.len())?).ok())
            .ok_or(ENOMEM)?;
        page.push(Place::Free { next: None }, GFP_ATOMIC | __GFP_NOWARN)?;
        self.free = Some(number);
        Ok(number)
    }

    fn place_mut(&mut self, number: u32) -> Option<&mut Place<T>> {
        let (page, place) = Self::at(number);
        self.pages.get_mut(page)?.get_mut(place)
    }

    /// On which page a place is, and where there.
    fn at(number: u32) -> (usize, usize) {
        let number = number as usize;
        (number / Self::PER_PAGE, number % Self::PER_PAGE)
    }

    fn taken(&self, number: u32) -> Option<&Taken<T>> {
        let (page, place) = Self::at(number);
        match self.pages.get(page)?.get(place)? {
            Place::Taken(taken) => Some(taken),
            Place::Free { .. } => None,
        }
    }

    fn taken_mut(&mut self, number: u32) -> Option<&mut Taken<T>> {
        match self.place_mut(number)? {
            Place::Taken(taken) => Some(taken),
            Place::Free { .. } => None,
        }
    }

    /// What has `number`.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        Some(&self.taken(number)?.value)
    }

    /// Takes out what has `number`.
    pub(super) fn take(&mut self, number: u32) -> Option<T> {
        let next = self.free;
        let place = self.place_mut(number)?;
        if matches!(place, Place::Free { .. }) {
            return None;
        }
        let Place::Taken(taken) = core::mem::replace(place, Place::Free { next }) else {
            return None;
        };
        self.free = Some(number);
        if self.cursor == Some(number) {
            self.cursor = taken.after;
        }
        match taken.before.and_then(|before| self.taken_mut(before)) {
            Some(before) => before.after = taken.after,
            None => self.first = taken.after,
        }
        match taken.after.and_then(|after| self.taken_mut(after)) {
            Some(after) => after.before = taken.before,
            None => self.last = taken.before,
        }
        self.len = self.len.saturating_sub(1);
        if self.len == 0 && self.pages.len() > 1 {
            *self = Self::new();
        }
        Some(taken.value)
    }

    /// Calls `f` with all, in their order.
    pub(super) fn for_each(&mut self, mut f: impl FnMut(&mut T)) {
        let mut next = self.first;
        while let Some(taken) = next.and_then(|number| self.taken_mut(number)) {
            f(&mut taken.value);
            next = taken.after;
        }
    }

    /// Takes out those of the next `count` for which `wanted` says so; those for which there is no memory stay. Each call
    /// goes on where the one before has stopped, and after the last begins anew.
    ///
    /// # Context
    ///
    /// Does not sleep.
    pub(super) fn extract(
        &mut self,
        count: usize,
        mut wanted: impl FnMut(&mut T) -> bool,
    ) -> KVec<T> {
        let (mut gone, mut next) = (KVec::new(), self.cursor.take().or(self.first));
        for _ in 0..count {
            let Some((number, taken)) = next.and_then(|n| Some((n, self.taken_mut(n)?))) else {
                break;
            };
            next = taken.after;
            if wanted(&mut taken.value) && gone.reserve(1, GFP_ATOMIC | __GFP_NOWARN).is_ok() {
                if let Some(value) = self.take(number) {
                    let _ = gone.push(value, GFP_ATOMIC | __GFP_NOWARN);
                }
            }
        }
        self.cursor = next;
        gone
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rvsock_slots)]
mod tests {
    use super::*;

    fn insert(slots: &mut Slots<u64>, value: u64) -> Result<u32> {
        let mut number = 0;
        slots.insert(|given| {
            number = given;
            Ok(value)
        })?;
        Ok(number)
    }

    #[test]
    fn what_is_put_in_is_found_by_its_number() -> Result {
        let mut slots = Slots::new();
        let (a, b) = (insert(&mut slots, 10)?, insert(&mut slots, 11)?);
        assert!(a != b);
        assert_eq!(slots.get(a), Some(&10));
        assert_eq!(slots.take(a), Some(10));
        assert!(slots.take(a).is_none() && slots.get(a).is_none());
        assert!(slots.take(77).is_none() && slots.get(u32::MAX).is_none());
        assert_eq!(slots.take(b), Some(11));
        assert!(slots.is_empty());
        Ok(())
    }

    #[test]
    fn places_are_used_again() -> Result {
        let mut slots = Slots::new();
        for value in 0..1000 {
            insert(&mut slots, value)?;
        }
        let freed = [3, 999, 0];
        for number in freed {
            assert_eq!(slots.take(number), Some(u64::from(number)));
        }
        for number in freed.iter().rev() {
            assert_eq!(insert(&mut slots, 7)?, *number);
        }
        assert_eq!(insert(&mut slots, 7)?, 1000);
        Ok(())
    }

    #[test]
    fn one_that_cannot_be_made_leaves_its_place() -> Result {
        let mut slots = Slots::new();
        assert!(slots.insert(|_| Err(ENOSPC)).is_err());
        assert!(slots.is_empty());
        assert_eq!(insert(&mut slots, 1)?, 0);
        Ok(())
    }

    #[test]
    fn those_that_are_wanted_are_taken_out() -> Result {
        let mut slots = Slots::new();
        for value in 0..100 {
            insert(&mut slots, value)?;
        }
        let sum = |values: KVec<u64>| values.iter().sum::<u64>();
        assert_eq!(sum(slots.extract(100, |value| *value >= 98)), 197);
        assert_eq!(sum(slots.extract(100, |_| true)), 4753);
        assert!(slots.is_empty());
        Ok(())
    }

    #[test]
    fn they_are_looked_at_a_part_at_a_time() -> Result {
        let mut slots = Slots::new();
        for value in 0..10 {
            insert(&mut slots, value)?;
        }
        let seen = |slots: &mut Slots<u64>, count| {
            let mut seen = 0;
            slots.extract(count, |value| {
                seen = seen * 10 + *value;
                false
            });
            seen
        };
        assert_eq!(seen(&mut slots, 4), 123);
        assert_eq!(slots.take(4), Some(4));
        assert_eq!(slots.take(0), Some(0));
        assert_eq!(seen(&mut slots, 4), 5678);
        assert_eq!(slots.take(9), Some(9));
        assert_eq!(seen(&mut slots, 4), 1235);
        assert_eq!(seen(&mut slots, 9), 678);
        assert_eq!(seen(&mut slots, 2), 12);
        Ok(())
    }

    #[test]
    fn they_are_in_the_order_in_which_they_were_put_in() -> Result {
        let mut slots = Slots::new();
        for value in 0..10 {
            insert(&mut slots, value)?;
        }
        for number in [5, 0, 9] {
            slots.take(number);
        }
        insert(&mut slots, 10)?;
        assert_eq!(slots.extract(10, |value| *value == 3).len(), 1);
        insert(&mut slots, 11)?;
        let mut left = [1, 2, 4, 6, 7, 8, 10, 11].into_iter();
        slots.for_each(|value| assert_eq!(left.next(), Some(*value)));
        assert_eq!(left.next(), None);
        Ok(())
    }
}
