// SPDX-License-Identifier: GPL-2.0

//! The module's own workqueues.

use core::marker::PhantomData;
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        rcu, //
    },
    ModuleMetadata, //
};

/// Where a work item runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Where {
    /// In softirq context, on the CPU that queued it. It must not sleep, which goes for the destructor
    /// of its object too, if its reference is the last one.
    Bh,
    /// As [`Bh`](Self::Bh), before other tasklets and softirqs.
    BhHighpri,
    /// In process context, on any CPU. It may sleep.
    Unbound,
    /// In process context, on the CPU that queued it. It may sleep.
    Percpu,
}

/// What the four are called after the module, as `printf` wants it, and their flags.
const QUEUES: [(&CStr, u32); 4] = [
    (
        c"%s_bh",
        bindings::wq_flags_WQ_BH | bindings::wq_flags_WQ_PERCPU,
    ),
    (
        c"%s_bh_highpri",
        bindings::wq_flags_WQ_BH | bindings::wq_flags_WQ_PERCPU | bindings::wq_flags_WQ_HIGHPRI,
    ),
    (
        c"%s_unbound",
        bindings::wq_flags_WQ_UNBOUND | bindings::wq_flags_WQ_MEM_RECLAIM,
    ),
    (
        c"%s_percpu",
        bindings::wq_flags_WQ_PERCPU | bindings::wq_flags_WQ_MEM_RECLAIM,
    ),
];

/// The module's workqueues. Each is null, or valid for a grace period after it became null here.
static WORKQUEUES: [Atomic<*mut bindings::workqueue_struct>; 4] =
    [const { Atomic::new(core::ptr::null_mut()) }; 4];

/// Whether a [`Workqueues`] exists.
static EXISTS: Atomic<i32> = Atomic::new(0);

/// How many delayed work items wait for their timer, or have not begun to run after it.
pub(super) static WAITING: Atomic<isize> = Atomic::new(0);

/// Makes the module's workqueues exist.
///
/// There is one per module, held where the module's exit drops it, after everything that queues
/// work (fields drop in the order of their declaration). As with a
/// [`driver::Registration`](kernel::driver::Registration), one that is leaked
/// ([`core::mem::forget`]) leaves code running that is not there any more.
///
/// # Invariants
///
/// While an instance exists, all of [`WORKQUEUES`] are valid, and there is no other instance.
pub(crate) struct Workqueues(PhantomData<*mut ()>);

// SAFETY: The workqueues may be destroyed by any thread.
unsafe impl Send for Workqueues {}

// SAFETY: `&Workqueues` allows nothing.
unsafe impl Sync for Workqueues {}

impl Workqueues {
    /// Creates the workqueues, which are called after the module `M`.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `EBUSY` if they exist already.
    /// - `ENOMEM` if one cannot be allocated.
    pub(crate) fn new<M: ModuleMetadata>() -> Result<Self> {
        if EXISTS.cmpxchg(0, 1, Full).is_err() {
            return Err(EBUSY);
        }
        // INVARIANT: `EXISTS` makes sure that it is the only one. On an early return, `drop` puts
        // back what was allocated.
        let this = Self(PhantomData);
        for (slot, (name, flags)) in WORKQUEUES.iter().zip(QUEUES) {
            // SAFETY: `name` takes one string, which is null-terminated and copied: the module's
            // name. The other arguments have no requirements; a `max_active` of zero
            // is the default.
            let wq = unsafe {
                bindings::alloc_workqueue_noprof(
                    name.as_char_ptr(),
                    flags,
                    0,
                    M::NAME.as_char_ptr(),
                )
            };
            if wq.is_null() {
                return Err(ENOMEM);
            }
            slot.store(wq, Release);
        }
        Ok(this)
    }
}

impl Drop for Workqueues {
    /// Waits for delayed work that nobody cancelled, for all work that runs, and ends the queues.
    ///
    /// It sleeps. A driver that ends soon cancels its delayed work before.
    fn drop(&mut self) {
        let mut old = [core::ptr::null_mut(); 4];
        for (slot, old) in WORKQUEUES.iter().zip(old.iter_mut()) {
            *old = slot.xchg(core::ptr::null_mut(), Full);
        }
        // Nobody finds a queue any more; those who found one are done with it after this.
        // SAFETY: It must not be called in an RCU read-side section, nor anywhere else where one may not
        // sleep, as this destructor may not.
        unsafe { bindings::synchronize_rcu() };
        // A timer that goes off queues on the workqueue that it was armed for.
        while WAITING.load(Acquire) > 0 {
            // SAFETY: An FFI call with no additional requirements.
            unsafe { bindings::msleep(10) };
        }
        for wq in old {
            if !wq.is_null() {
                // SAFETY:
                // - `wq` comes from `alloc_workqueue_noprof`, and is destroyed once, since `xchg`
                //   took it out.
                // - Nothing is queued on it from now on, as shown above; what is queued or runs is
                //   waited for.
                unsafe { bindings::destroy_workqueue(wq) };
            }
        }
        EXISTS.store(0, Release);
    }
}

/// Calls `queue` with the workqueue `on`, which stays valid until it returns, unless there is none.
pub(super) fn with_queue(
    on: Where,
    queue: impl FnOnce(*mut bindings::workqueue_struct) -> bool,
) -> bool {
    let _rcu = rcu::read_lock();
    match WORKQUEUES.get(on as usize) {
        Some(slot) => {
            let wq = slot.load(Acquire);
            !wq.is_null() && queue(wq)
        }
        None => false,
    }
}
