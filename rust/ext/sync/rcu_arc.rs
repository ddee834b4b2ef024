// SPDX-License-Identifier: GPL-2.0

//! A slot for an optional [`Arc`] that RCU readers look into.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use core::marker::PhantomData;
use kernel::{
    bindings,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full, //
        },
        rcu,
        Arc,
        ArcBorrow, //
    },
    task::might_sleep, //
};

/// A slot that holds an [`Arc<T>`] or nothing, and that any context may look into.
///
/// It is the place at which code that C calls at any time (a socket operation, for instance) finds
/// the one object that may go away at any time (the device). Looking takes no lock; what was found
/// stays valid for the reader even while the slot is emptied.
///
/// # Invariants
///
/// `slot` is null, or a pointer that [`Arc::into_raw`] returned and whose reference the slot owns.
/// Once a pointer was taken out of the slot, its reference is dropped or handed on only after an
/// RCU grace period.
///
/// # Examples
///
/// ```ignore
/// static THE_DEVICE: RcuArc<Device> = RcuArc::new();
///
/// let before = THE_DEVICE.replace(Some(device));        // in probe
/// let cid = THE_DEVICE.with(|device| device.cid());     // in a socket operation
/// drop(THE_DEVICE.replace(None));                       // in remove
/// ```
pub(crate) struct RcuArc<T: Send + Sync + 'static> {
    slot: Atomic<*mut T>,
    _owned: PhantomData<Arc<T>>,
}

// SAFETY: The slot gives out `&T` and `Arc<T>` on any thread, and a reference may be dropped on any
// thread; `T: Send + Sync` allows all of it.
unsafe impl<T: Send + Sync + 'static> Send for RcuArc<T> {}

// SAFETY: As for `Send`; the slot itself is atomic.
unsafe impl<T: Send + Sync + 'static> Sync for RcuArc<T> {}

impl<T: Send + Sync + 'static> RcuArc<T> {
    /// An empty slot.
    pub(crate) const fn new() -> Self {
        // INVARIANT: `slot` is null.
        Self {
            slot: Atomic::new(core::ptr::null_mut()),
            _owned: PhantomData,
        }
    }

    /// Calls `look` with what the slot holds, if anything, inside an RCU read-side section.
    ///
    /// # Context
    ///
    /// Any. `look` must not sleep.
    #[inline]
    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.borrow(|found| look(&found))
    }

    /// A reference to what the slot holds, if anything.
    ///
    /// # Context
    ///
    /// Any. Whoever drops the last reference runs `T`'s destructor, so a caller that may not sleep
    /// wants [`with`](Self::with), or a `T` whose destructor does not sleep.
    #[inline]
    pub(crate) fn load(&self) -> Option<Arc<T>> {
        self.borrow(|found| found.into())
    }

    fn borrow<R>(&self, look: impl FnOnce(ArcBorrow<'_, T>) -> R) -> Option<R> {
        let _rcu = rcu::read_lock();
        // Acquire: the pointee's initialisation is seen, as it happened before `replace`.
        let ptr = self.slot.load(Acquire);
        if ptr.is_null() {
            return None;
        }
        // SAFETY:
        // - By the type invariant the pointer comes from `Arc::into_raw`.
        // - It was in the slot within this read-side section, which lasts until this function
        //   returns; by the type invariant the slot's reference lives for a grace period longer.
        // - `replace` and `drop` recreate the `Arc` only after that grace period, so no
        //   `UniqueArc` can exist before.
        Some(look(unsafe { ArcBorrow::from_raw(ptr) }))
    }

    /// Whether the slot holds nothing at this moment.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.slot.load(Acquire).is_null()
    }

    /// Puts `new` into the slot, and returns what it held before.
    ///
    /// No reader looks at the old value through the slot any more when this returns: every
    /// [`with`](Self::with) that found it is over. References from [`load`](Self::load) may remain.
    ///
    /// # Context
    ///
    /// May sleep, for an RCU grace period: so it must not be called inside [`with`](Self::with). Concurrent calls are fine: each gets a different value.
    pub(crate) fn replace(&self, new: Option<Arc<T>>) -> Option<Arc<T>> {
        let new = match new {
            Some(arc) => Arc::into_raw(arc).cast_mut(),
            None => core::ptr::null_mut(),
        };
        // INVARIANT: The slot owns the reference that `into_raw` gave up; that of the old pointer
        // passes to this function.
        let old = self.slot.xchg(new, Full);
        if old.is_null() {
            return None;
        }
        // Says so under lockdep, if this is inside `with`.
        might_sleep();
        // SAFETY: It must not be called in an RCU read-side section, nor anywhere else where one may not
        // sleep, as this function may not.
        unsafe { bindings::synchronize_rcu() };
        // SAFETY: By the type invariant, `old` comes from `Arc::into_raw`, and since `xchg` took it
        // out, nobody else recreates it. INVARIANT: a grace period has passed.
        Some(unsafe { Arc::from_raw(old) })
    }
}

impl<T: Send + Sync + 'static> RcuArc<T> {
    /// Puts `new` into the slot, for as long as what is returned is kept.
    ///
    /// # Context
    ///
    /// May sleep, as [`replace`](Self::replace); so may dropping what is returned.
    pub(crate) fn keep(&'static self, new: Arc<T>) -> Kept<T> {
        drop(self.replace(Some(new)));
        Kept(self)
    }
}

/// Empties a slot when it is dropped: see [`RcuArc::keep`].
pub(crate) struct Kept<T: Send + Sync + 'static>(&'static RcuArc<T>);

impl<T: Send + Sync + 'static> Drop for Kept<T> {
    fn drop(&mut self) {
        drop(self.0.replace(None));
    }
}

impl<T: Send + Sync + 'static> Default for RcuArc<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + Sync + 'static> Drop for RcuArc<T> {
    fn drop(&mut self) {
        let ptr = *self.slot.get_mut();
        if !ptr.is_null() {
            // SAFETY: By the type invariant, `ptr` comes from `Arc::into_raw`. `&mut self` means that
            // no reader is inside `with`, so there is no grace period to wait for.
            drop(unsafe { Arc::from_raw(ptr) });
        }
    }
}
