// SPDX-License-Identifier: GPL-2.0

//! Work items that live inside an [`Arc`], and the workqueues that run them.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)
//!
//! A module's code must be gone from every queue before it is unloaded, and work on a system queue
//! cannot promise that. So work items run on four workqueues of the module's own, [`Where`] names
//! which; they exist while a [`Workqueues`] does, and dropping it waits until nothing of them runs
//! any more. Nothing can be queued without it.

use super::workqueues::{
    with_queue,
    WAITING, //
};
pub(crate) use super::workqueues::{
    Where,
    Workqueues, //
};
use core::{
    marker::PhantomPinned,
    mem::size_of, //
};
use kernel::{
    bindings,
    pr_warn_once,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        ArcBorrow,
        LockClassKey, //
    },
    types::Opaque, //
};

/// Creates a [`Work`] initialiser for the given function, with a lock class of its own.
macro_rules! new_work {
    ($run:expr $(, $name:literal)? $(,)?) => {
        $crate::ext::work::Work::new(
            $run, ::kernel::optional_name!($($name)?), ::kernel::static_lock_class!())
    };
}
pub(crate) use new_work;

/// Creates a [`DelayedWork`] initialiser for the given function, with lock classes of its own.
macro_rules! new_delayed_work {
    ($run:expr $(, $name:literal)? $(,)?) => {
        $crate::ext::work::DelayedWork::new(
            $run, ::kernel::optional_name!($($name)?),
            ::kernel::static_lock_class!(), ::kernel::static_lock_class!())
    };
}
pub(crate) use new_delayed_work;

/// A reference to an [`Arc<T>`], or an [`ArcBorrow`] of one.
pub(crate) trait AsArc<T> {
    /// The borrowed `Arc`.
    fn borrow_arc(&self) -> ArcBorrow<'_, T>;
}

impl<T> AsArc<T> for Arc<T> {
    fn borrow_arc(&self) -> ArcBorrow<'_, T> {
        self.as_arc_borrow()
    }
}

impl<T> AsArc<T> for ArcBorrow<'_, T> {
    fn borrow_arc(&self) -> ArcBorrow<'_, T> {
        *self
    }
}

/// Whether the object at `inner` lies inside what `outer` refers to.
fn contains<T, W>(outer: ArcBorrow<'_, T>, inner: &W) -> bool {
    let outer = core::ptr::from_ref(&*outer) as usize;
    let inner = core::ptr::from_ref(inner) as usize;
    // OVERFLOW: Both are objects in memory, whose ends are addresses.
    inner >= outer && inner + size_of::<W>() <= outer + size_of::<T>()
}

/// A work item of a `T` that lives in an [`Arc<T>`]: a function to call with the `Arc`, later.
///
/// It is a field of `T`; a `T` may have several. While it is queued it owns a reference to the `T`,
/// which passes to the function. It is queued once at most, but it can be queued again from the
/// moment at which the function begins, and then runs again.
///
/// # Invariants
///
/// - `work` is an initialised `work_struct`, and the first field, whose function is
///   [`Work::run_raw`].
/// - Each time that `work` is pending, a reference to the `Arc<T>` in whose allocation `self` lies
///   belongs to it, and `owner` is the pointer to its contents.
///
/// # Examples
///
/// ```ignore
/// #[pin_data]
/// struct Device {
///     #[pin]
///     rx: Work<Device>,
///     #[pin]
///     tx: Work<Device>,
/// }
///
/// impl Device {
///     fn new() -> Result<Arc<Self>> {
///         Arc::pin_init(
///             pin_init!(Self {
///                 rx <- new_work!(Self::receive, "Device::rx"),
///                 tx <- new_work!(Self::send, "Device::tx"),
///             }),
///             GFP_KERNEL,
///         )
///     }
///
///     fn receive(self: Arc<Self>) { /* ... */ }
///     fn send(self: Arc<Self>) { /* ... */ }
/// }
///
/// device.rx.queue(&device, Where::Bh);
/// ```
#[pin_data]
#[repr(C)]
pub(crate) struct Work<T: Send + Sync + 'static> {
    #[pin]
    work: Opaque<bindings::work_struct>,
    run: fn(Arc<T>),
    owner: Atomic<*mut T>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: Work items are usable from any thread, and so is `T`.
unsafe impl<T: Send + Sync + 'static> Send for Work<T> {}

// SAFETY: As for `Send`.
unsafe impl<T: Send + Sync + 'static> Sync for Work<T> {}

impl<T: Send + Sync + 'static> Work<T> {
    /// An initialiser of a work item that calls `run`. See [`new_work!`].
    pub(crate) fn new(
        run: fn(Arc<T>),
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        // INVARIANT: It is initialised, and not pending.
        pin_init!(Self {
            work <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and the name and the key are static.
                unsafe {
                    bindings::init_work_with_key(
                        slot,
                        Some(Self::run_raw),
                        false,
                        name.as_char_ptr(),
                        key.as_ptr(),
                    )
                }
            }),
            run,
            owner: Atomic::new(core::ptr::null_mut()),
            _pin: PhantomPinned,
        })
    }

    /// Queues the work item to run `on` a workqueue, with a new reference to `this`.
    ///
    /// `this` must be the `Arc` inside which the work item lies. Returns whether it was queued: not
    /// if it waits already, if it is just being cancelled, if [`Workqueues`] does not exist (any
    /// more), or if `this` is another object (said so in the log).
    ///
    /// # Context
    ///
    /// Any, hard interrupts included.
    pub(crate) fn queue(&self, this: &impl AsArc<T>, on: Where) -> bool {
        let this = this.borrow_arc();
        if !contains(this, self) {
            pr_warn_once!("work item does not lie inside the object that it is to run for\n");
            return false;
        }
        with_queue(on, |wq| {
            self.give_reference(this);
            // SAFETY:
            // - `wq` is valid during this closure, and afterwards until it has run its items.
            // - `self.work` is initialised, and stays valid until its function is called: by
            //   `contains` it lies in `this`, to which it now owns a reference.
            let queued = unsafe {
                bindings::queue_work_on(
                    bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                    wq,
                    self.work.get(),
                )
            };
            if !queued {
                // SAFETY: The reference was given just above and nobody took it.
                drop(unsafe { self.take_reference() });
            }
            queued
        })
    }

    /// Takes the work item off its queue, or waits until it has run.
    ///
    /// Returns whether it was queued, and now will not run. Nothing keeps others from queueing it
    /// again. It must not be called from the work item itself, which would wait for itself.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn cancel_sync(&self) -> bool {
        // SAFETY: By the type invariants, `work` is initialised; `&self` keeps it valid.
        let was_pending = unsafe { bindings::cancel_work_sync(self.work.get()) };
        if was_pending {
            // SAFETY: By the type invariants a reference belonged to the pending item, and its
            // function will not be called for it.
            drop(unsafe { self.take_reference() });
        }
        was_pending
    }

    /// Makes the work item own one more reference to `this`, in whose allocation it must lie.
    fn give_reference(&self, this: ArcBorrow<'_, T>) {
        // Always the same value, since only one `Arc` can contain this item. Relaxed: to queue it, and to find
        // it in a queue, orders the rest, as it does what the caller has written.
        self.owner
            .store(Arc::into_raw(this.into()).cast_mut(), Relaxed);
    }

    /// Takes a reference back.
    ///
    /// # Safety
    ///
    /// It must have been given with [`give_reference`](Self::give_reference), and not been taken.
    unsafe fn take_reference(&self) -> Arc<T> {
        // SAFETY: By the safety requirement, `owner` comes from `Arc::into_raw`, and a reference that
        // this call may take belongs to it.
        unsafe { Arc::from_raw(self.owner.load(Relaxed)) }
    }

    /// What the workqueue calls.
    ///
    /// # Safety
    ///
    /// `work` must be that of a [`Work<T>`] that was queued with success.
    unsafe extern "C" fn run_raw(work: *mut bindings::work_struct) {
        // SAFETY: By the type invariants `work` is the first field of a `repr(C)` type, and a
        // reference to the `Arc` that contains it belongs to this call.
        let this = unsafe { &*work.cast::<Self>() };
        let run = this.run;
        // SAFETY: That reference was given when the item was queued, and passes to `run`. From here
        // on `this` may be gone at any time.
        run(unsafe { this.take_reference() });
    }
}

/// A [`Work`] that waits for a timer first.
///
/// # Invariants
///
/// - `work` is an initialised `delayed_work`, and the first field, whose function is
///   [`DelayedWork::run_raw`].
/// - Each time that `work` is pending, the timer included, a reference to the `Arc<T>` in whose
///   allocation `self` lies belongs to it, `owner` is the pointer to its contents, and it is counted
///   in [`WAITING`].
#[pin_data]
#[repr(C)]
pub(crate) struct DelayedWork<T: Send + Sync + 'static> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    run: fn(Arc<T>),
    owner: Atomic<*mut T>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: Work items are usable from any thread, and so is `T`.
unsafe impl<T: Send + Sync + 'static> Send for DelayedWork<T> {}

// SAFETY: As for `Send`.
unsafe impl<T: Send + Sync + 'static> Sync for DelayedWork<T> {}

impl<T: Send + Sync + 'static> DelayedWork<T> {
    /// An initialiser of a work item that calls `run`. See [`new_delayed_work!`].
    pub(crate) fn new(
        run: fn(Arc<T>),
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
        timer_key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        // INVARIANT: It is initialised, and not pending.
        pin_init!(Self {
            work <- Opaque::ffi_init(|slot: *mut bindings::delayed_work| {
                // SAFETY: `slot` is valid for writes, and the name and the key are static.
                unsafe {
                    bindings::init_work_with_key(
                        &raw mut (*slot).work,
                        Some(Self::run_raw),
                        false,
                        name.as_char_ptr(),
                        key.as_ptr(),
                    )
                }
                // SAFETY: As above. The timer is that of a `delayed_work`, as its function wants.
                unsafe {
                    bindings::timer_init_key(
                        &raw mut (*slot).timer,
                        Some(bindings::delayed_work_timer_fn),
                        bindings::TIMER_IRQSAFE,
                        name.as_char_ptr(),
                        timer_key.as_ptr(),
                    )
                }
            }),
            run,
            owner: Atomic::new(core::ptr::null_mut()),
            _pin: PhantomPinned,
        })
    }

    /// Queues the work item in `delay` jiffies, unless it waits already.
    ///
    /// It runs in process context. Returns whether it was queued now; see [`Work::queue`].
    ///
    /// # Context
    ///
    /// Any, hard interrupts included.
    pub(crate) fn queue_in(&self, this: &impl AsArc<T>, delay: usize) -> bool {
        self.arm(this.borrow_arc(), |wq, work| {
            // SAFETY: As `arm` guarantees.
            unsafe {
                bindings::queue_delayed_work_on(
                    bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                    wq,
                    work,
                    delay,
                )
            }
        })
    }

    /// Queues the work item in `delay` jiffies from now, also if it waits already.
    ///
    /// It runs in process context. Returns whether it was idle before; see [`Work::queue`].
    ///
    /// # Context
    ///
    /// Any, hard interrupts included.
    pub(crate) fn requeue_in(&self, this: &impl AsArc<T>, delay: usize) -> bool {
        // Not `mod_delayed_work_on()`: if the item is just being cancelled, it says that the item was
        // idle, and not that it was not queued.
        let was_pending = self.cancel();
        let mut queued = self.queue_in(this, delay);
        for _ in 0..3 {
            // Somebody else has queued it meanwhile, perhaps for later; or it is being cancelled.
            if queued || !self.cancel() {
                break;
            }
            queued = self.queue_in(this, delay);
        }
        queued && !was_pending
    }

    /// Stops the timer, takes the item off its queue, or waits until it has run.
    ///
    /// As [`Work::cancel_sync`].
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn cancel_sync(&self) -> bool {
        // SAFETY: By the type invariants, `work` is initialised; `&self` keeps it valid.
        let was_pending = unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
        if was_pending {
            // SAFETY: By the type invariants a reference belonged to the pending item, and its
            // function will not be called for it.
            drop(unsafe { self.take_reference() });
        }
        was_pending
    }

    /// As [`cancel_sync`](Self::cancel_sync), but does not wait for an item that runs.
    ///
    /// # Context
    ///
    /// Any that may drop a reference to `T`.
    pub(crate) fn cancel(&self) -> bool {
        // SAFETY: As in `cancel_sync`.
        let was_pending = unsafe { bindings::cancel_delayed_work(self.work.get()) };
        if was_pending {
            // SAFETY: As in `cancel_sync`.
            drop(unsafe { self.take_reference() });
        }
        was_pending
    }

    /// Calls `queue` with the unbound workqueue and the item.
    ///
    /// Both are valid during the call and, if it returns that the item is newly pending, until the
    /// item's function was called: the item then owns a reference to `this`, and is counted in
    /// `WAITING`, which keeps the workqueue.
    fn arm(
        &self,
        this: ArcBorrow<'_, T>,
        queue: impl FnOnce(*mut bindings::workqueue_struct, *mut bindings::delayed_work) -> bool,
    ) -> bool {
        if !contains(this, self) {
            pr_warn_once!("work item does not lie inside the object that it is to run for\n");
            return false;
        }
        with_queue(Where::Unbound, |wq| {
            WAITING.fetch_add(1isize, Full);
            // As in `Work::give_reference()`.
            self.owner
                .store(Arc::into_raw(this.into()).cast_mut(), Relaxed);
            let newly = queue(wq, self.work.get());
            if !newly {
                // SAFETY: The reference was given just above, and nobody took it; if the item was
                // pending, it has another.
                drop(unsafe { self.take_reference() });
            }
            newly
        })
    }

    /// Takes a reference back, and one off `WAITING`.
    ///
    /// # Safety
    ///
    /// It must have been given in [`arm`](Self::arm), and not been taken.
    unsafe fn take_reference(&self) -> Arc<T> {
        WAITING.fetch_sub(1isize, Full);
        // SAFETY: By the safety requirement, `owner` comes from `Arc::into_raw`, and a reference that
        // this call may take belongs to it.
        unsafe { Arc::from_raw(self.owner.load(Relaxed)) }
    }

    /// What the workqueue calls.
    ///
    /// # Safety
    ///
    /// `work` must be that of a [`DelayedWork<T>`] that was queued with success.
    unsafe extern "C" fn run_raw(work: *mut bindings::work_struct) {
        // SAFETY: `work` is a field of a `delayed_work`, as `new` set it up.
        let work = unsafe { kernel::container_of!(work, bindings::delayed_work, work) };
        // SAFETY: By the type invariants `work` is the first field of a `repr(C)` type, and a
        // reference to the `Arc` that contains it belongs to this call.
        let this = unsafe { &*work.cast::<Self>() };
        let run = this.run;
        // SAFETY: That reference was given when the item was queued, and passes to `run`. From here
        // on `this` may be gone at any time. The workqueue lives on without `WAITING`, since its end
        // waits for what runs on it.
        run(unsafe { this.take_reference() });
    }
}
