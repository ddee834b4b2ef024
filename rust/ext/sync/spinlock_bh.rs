// SPDX-License-Identifier: GPL-2.0

//! A kernel spinlock that keeps bottom halves away while it is held.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use crate::ext::bindings as ext_bindings;
use kernel::{
    bindings,
    sync::lock::{
        Backend,
        Guard,
        Lock, //
    }, //
};

/// Creates a [`SpinLockBh`] initialiser with the given name and a newly-created lock class.
///
/// It uses the name if one is given, otherwise it generates one based on the file name and line
/// number.
macro_rules! new_spinlock_bh {
    ($inner:expr $(, $name:literal)? $(,)?) => {
        $crate::ext::sync::SpinLockBh::new(
            $inner, ::kernel::optional_name!($($name)?), ::kernel::static_lock_class!())
    };
}
pub(crate) use new_spinlock_bh;

/// A spinlock for data that process context and bottom halves share.
///
/// Exposes the kernel's [`spinlock_t`], taken with `spin_lock_bh`. While it is held, no softirq
/// (hence no tasklet, timer, NAPI poll or work of a BH workqueue) runs on this CPU, so that one of
/// them cannot spin for ever on the lock that the code under it holds.
///
/// # Context
///
/// Process context and softirqs. It must not be taken in hard interrupt context or with interrupts
/// disabled: releasing it runs pending softirqs. A guard must be dropped before those of locks that
/// were taken earlier, for the same reason. Nothing may sleep while it is held.
///
/// # Examples
///
/// ```ignore
/// #[pin_data]
/// struct Example {
///     #[pin]
///     queue: SpinLockBh<KVec<u32>>,
/// }
///
/// let example = KBox::pin_init(
///     pin_init!(Example { queue <- new_spinlock_bh!(KVec::new(), "Example::queue") }),
///     GFP_KERNEL,
/// )?;
/// example.queue.lock().push(1, GFP_ATOMIC)?;
/// ```
///
/// [`spinlock_t`]: srctree/include/linux/spinlock.h
pub(crate) type SpinLockBh<T> = Lock<T, SpinLockBhBackend>;

/// A kernel `spinlock_t` lock backend that disables bottom halves.
pub(crate) struct SpinLockBhBackend;

/// A [`Guard`] acquired from locking a [`SpinLockBh`].
pub(crate) type SpinLockBhGuard<'a, T> = Guard<'a, T, SpinLockBhBackend>;

// SAFETY:
// - The underlying kernel `spinlock_t` object ensures mutual exclusion between `lock` (or a
//   successful `try_lock`) and `unlock`, which pair `spin_lock_bh` with `spin_unlock_bh`.
// - `relock` uses the default implementation that always calls the same locking method.
unsafe impl Backend for SpinLockBhBackend {
    type State = bindings::spinlock_t;
    type GuardState = ();

    #[inline]
    unsafe fn init(
        ptr: *mut Self::State,
        name: *const kernel::ffi::c_char,
        key: *mut bindings::lock_class_key,
    ) {
        // SAFETY: The safety requirements ensure that `ptr` is valid for writes, and `name` and
        // `key` are valid for read indefinitely.
        unsafe { bindings::__spin_lock_init(ptr, name, key) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: The safety requirements of this function ensure that `ptr` points to valid
        // memory, and that it has been initialised before.
        unsafe { ext_bindings::rvsock_helper_spin_lock_bh(ptr.cast()) }
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, _guard_state: &Self::GuardState) {
        // SAFETY: The safety requirements of this function ensure that `ptr` is valid and that the
        // caller is the owner of the spinlock.
        unsafe { ext_bindings::rvsock_helper_spin_unlock_bh(ptr.cast()) }
    }

    #[inline]
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        // SAFETY: The `ptr` pointer is guaranteed to be valid and initialized before use.
        let taken = unsafe { ext_bindings::rvsock_helper_spin_trylock_bh(ptr.cast()) };

        (taken != 0).then_some(())
    }

    #[inline]
    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: The `ptr` pointer is guaranteed to be valid and initialized before use.
        unsafe { bindings::spin_assert_is_held(ptr) }
    }
}
