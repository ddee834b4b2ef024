// SPDX-License-Identifier: GPL-2.0

//! The set of queues of a device: how they are found, who may use them, and how they end.
//!
//! Everything that keeps [`Virtqueue`](super::Virtqueue) sound is in this file; the order in which
//! queues end is told in [the module](super).

use super::{
    config,
    device::reset, //
};
use crate::ext::bindings as ext_bindings;
use core::{
    any::TypeId,
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            AtomicFlag,
            Relaxed,
            Release, //
        },
        rcu,
        Arc,
        ArcBorrow,
        Mutex, //
    }, //
};

/// What the interrupts of a device's queues call.
pub(crate) trait Handler: Send + Sync + 'static {
    /// The device has used buffers of the queue `index`.
    ///
    /// It may be called before [`Device::find_vqs`](super::Device::find_vqs) returns, by a device that
    /// does not keep to the rules.
    ///
    /// # Context
    ///
    /// Hard interrupt. It must not sleep, nor take a lock that is taken with interrupts enabled. It
    /// should not drop the last reference to anything.
    fn used(self: ArcBorrow<'_, Self>, index: usize);
}

/// What a driver wants of a queue.
#[derive(Clone, Copy)]
pub(crate) struct VqSpec {
    /// A name for the queue, which `/proc/interrupts` shows.
    pub(crate) name: &'static CStr,
    /// Whether the device is to interrupt when it has used a buffer, and [`Handler::used`] be called.
    pub(crate) callback: bool,
}

/// Takes what is left in a queue of known type, and drops it.
///
/// # Safety
///
/// - The queue must be the one for which the function was registered.
/// - The device must not access the queue any more, nor anybody else.
pub(super) type Drain = unsafe fn(NonNull<ext_bindings::virtqueue>);

/// One queue of a set.
struct Entry {
    vq: NonNull<ext_bindings::virtqueue>,
    drain: UnsafeCell<Option<Drain>>,
}

/// The queues that one [`Queues::find`] found.
///
/// # Invariants
///
/// - While `live` is true, or an RCU read-side section that saw it true lasts, `vdev` and the queues
///   in `entries` are valid, and their number and order is that of the device.
/// - `entries` is filled before the set is shared, and not changed after.
/// - Whoever owns the [`Queue`] of an entry (there is one) may write the entry's `drain` inside an
///   RCU read-side section that saw `live` true. Whoever set `live` to false may read it after a
///   grace period.
/// - While `*config` is true, `vdev` is valid and bound. `config_len` is at most what
///   [`config::config_len`] returned for it.
#[pin_data]
pub(super) struct QueueSet {
    vdev: *mut ext_bindings::virtio_device,
    live: AtomicFlag,
    entries: UnsafeCell<KVec<Entry>>,
    /// Written before the device can interrupt, and taken after it cannot any more.
    handler: UnsafeCell<Option<Arc<dyn Handler>>>,
    #[pin]
    config: Mutex<bool>,
    config_len: u32,
}

// SAFETY: The pointers are valid on any thread; the type invariants say who may use them when. What
// `handler` holds is `Send` and `Sync`.
unsafe impl Send for QueueSet {}

// SAFETY: As above.
unsafe impl Sync for QueueSet {}

impl QueueSet {
    /// Enters an RCU read-side section in which the queues stay valid, if they are alive.
    #[inline]
    pub(super) fn enter(&self) -> Option<rcu::Guard> {
        let guard = rcu::read_lock();
        // Relaxed: either this section began before the grace period that follows the store of false,
        // which then waits for it, or after, and then it sees the store. Whoever has a queue to ask for got
        // it from `find()`, and with it all that was written there.
        self.live.load(Relaxed).then_some(guard)
    }
}

/// A queue that has no use yet: [`Virtqueue::new`](super::Virtqueue::new) makes it one of buffers of
/// some type.
///
/// # Invariants
///
/// `vq` is that of entry `index` in `set`, and this is the only `Queue` for it.
pub(crate) struct Queue {
    pub(super) set: Arc<QueueSet>,
    pub(super) vq: NonNull<ext_bindings::virtqueue>,
    index: usize,
}

// SAFETY: By the type invariants of `QueueSet`, which guards all access to `vq`.
unsafe impl Send for Queue {}

// SAFETY: As above.
unsafe impl Sync for Queue {}

impl Queue {
    /// The number of the queue on its device.
    #[inline]
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The configuration space of the device, for as long as its queues live.
    pub(crate) fn config(&self) -> ConfigSpace {
        ConfigSpace(self.set.clone())
    }

    /// Registers how the queue's buffers are dropped, if it lives; `false` if it does not.
    ///
    /// # Safety
    ///
    /// `drain` must be able to take whatever is going to be added to the queue.
    pub(super) unsafe fn register_drain(&self, drain: Drain) -> bool {
        let Some(_live) = self.set.enter() else {
            return false;
        };
        // SAFETY: By the type invariant of `QueueSet`, entries do not change any more.
        let entries = unsafe { &*self.set.entries.get() };
        let Some(entry) = entries.get(self.index) else {
            return false;
        };
        // SAFETY: By the type invariant we are the one who may write, being inside a section that saw
        // the set alive.
        unsafe { *entry.drain.get() = Some(drain) };
        true
    }
}

/// The configuration space of a device, as long as its queues live.
///
/// This is for code outside the bus's callbacks, which has no `Device<Core>`.
#[derive(Clone)]
pub(crate) struct ConfigSpace(Arc<QueueSet>);

impl ConfigSpace {
    /// Reads the little-endian `u32` at `offset`. See [`read_u64`](Self::read_u64).
    pub(crate) fn read_u32(&self, offset: u32) -> Result<u32> {
        self.read(offset).map(u32::from_le_bytes)
    }

    /// Reads the little-endian `u64` at `offset`.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `EIO` if the queues have ended.
    /// - As [`Device::config_u8`](super::Device::config_u8).
    pub(crate) fn read_u64(&self, offset: u32) -> Result<u64> {
        self.read(offset).map(u64::from_le_bytes)
    }

    fn read<const N: usize>(&self, offset: u32) -> Result<[u8; N]> {
        let alive = self.0.config.lock();
        if !*alive {
            return Err(EIO);
        }
        // SAFETY: By the type invariant of `QueueSet` the device is valid and bound while `alive` is
        // true, which it is while we hold the lock, and so many bytes can be read.
        unsafe { config::read(self.0.vdev, self.0.config_len, offset) }
    }
}

/// Where a bound device keeps its queues. Its `priv` points here.
///
/// # Invariants
///
/// - `current` is null, or points to a [`QueueSet`] to which `set`, or a function that holds its
///   lock, has a reference. It is set before the device can interrupt, and null again after it cannot
///   any more.
/// - `set` holds the set that is alive, or none.
/// - `negotiated` is true only while the device has the features that its `features` say.
/// - `config_len` is at most what [`config::config_len`] returned for the device.
/// - `driver` is the type of the driver that the device is bound to.
#[pin_data]
pub(super) struct Queues {
    current: Atomic<*mut QueueSet>,
    #[pin]
    set: Mutex<Option<Arc<QueueSet>>>,
    negotiated: AtomicFlag,
    config_len: u32,
    driver: TypeId,
}

impl Queues {
    /// For a device that is about to be probed by `driver`, which can read so much of its configuration
    /// space.
    ///
    /// # Safety
    ///
    /// As the type invariants say of `config_len` and `driver`. The features must be negotiated.
    pub(super) unsafe fn new(driver: TypeId, config_len: u32) -> impl PinInit<Self> {
        // INVARIANT: By the safety requirements; there are no queues.
        pin_init!(Self {
            current: Atomic::new(core::ptr::null_mut()),
            set <- new_mutex!(None, "virtio::Queues"),
            negotiated: AtomicFlag::new(true),
            config_len,
            driver,
        })
    }

    /// How many bytes of the configuration space can be read.
    pub(super) fn config_len(&self) -> u32 {
        self.config_len
    }

    /// The driver that the device is bound to.
    pub(super) fn driver(&self) -> TypeId {
        self.driver
    }

    /// Whether the device has features, so that its queues can be found.
    pub(super) fn is_negotiated(&self) -> bool {
        // Relaxed, as in `set_negotiated()`: the device's lock, or that of `set`, is held around both.
        self.negotiated.load(Relaxed)
    }

    /// The device has features, or has lost them. For the bus's callbacks, one at a time.
    pub(super) fn set_negotiated(&self, negotiated: bool) {
        self.negotiated.store(negotiated, Relaxed);
    }

    /// Finds the queues of `vdev`. See [`Device::find_vqs`](super::Device::find_vqs).
    ///
    /// # Safety
    ///
    /// `vdev` must be valid and bound, and its `priv` be `self`. It must stay bound until
    /// [`revoke`](Self::revoke) is called.
    pub(super) unsafe fn find<H: Handler, const N: usize>(
        &self,
        vdev: *mut ext_bindings::virtio_device,
        handler: Arc<H>,
        specs: [VqSpec; N],
    ) -> Result<[Queue; N]> {
        const { assert!(N > 0) };

        let mut slot = self.set.lock();
        if slot.is_some() {
            return Err(EBUSY);
        }
        // The rings' layout follows from the features, and the device must know the same ones.
        if !self.is_negotiated() {
            return Err(EIO);
        }
        // SAFETY: By the safety requirement, the device and its operations are valid.
        let find_vqs = unsafe { (*(*vdev).config).find_vqs }.ok_or(ENODEV)?;

        let handler: Arc<dyn Handler> = handler;
        let mut entries = KVec::with_capacity(N, GFP_KERNEL)?;
        // INVARIANT: It is not alive.
        let set = Arc::pin_init(
            pin_init!(QueueSet {
                vdev,
                live: AtomicFlag::new(false),
                entries: UnsafeCell::new(KVec::new()),
                handler: UnsafeCell::new(Some(handler)),
                config <- new_mutex!(false, "virtio::ConfigSpace"),
                config_len: self.config_len,
            }),
            GFP_KERNEL,
        )?;
        let mut infos = specs.map(|spec| ext_bindings::virtqueue_info {
            name: spec.name.as_char_ptr(),
            callback: if spec.callback {
                Some(used_callback)
            } else {
                None
            },
            ctx: false,
        });
        let mut vqs = [core::ptr::null_mut(); N];

        // INVARIANT: `set` is a reference, and we hold the lock. The device cannot interrupt yet.
        self.current.store(Arc::as_ptr(&set).cast_mut(), Release);
        // SAFETY:
        // - By the safety requirement, the device is valid.
        // - Both arrays have `N` elements; what `infos` points to is static.
        // CAST: A device has fewer than 65536 queues; the transport says so if `N` is more.
        let found = to_result(unsafe {
            find_vqs(
                vdev,
                N as u32,
                vqs.as_mut_ptr(),
                infos.as_mut_ptr(),
                core::ptr::null_mut(),
            )
        });
        if let Err(e) = found {
            // The transport has deleted what it had made: the device cannot interrupt.
            self.current.store(core::ptr::null_mut(), Release);
            return Err(e);
        }

        let mut complete = true;
        for &vq in &vqs {
            match NonNull::new(vq) {
                Some(vq) => {
                    let drain = UnsafeCell::new(None);
                    complete &= entries.push_within_capacity(Entry { vq, drain }).is_ok();
                }
                // Transports leave out only queues without a name.
                None => complete = false,
            }
        }
        // SAFETY: Only interrupts know the set so far, and they do not look at its entries.
        unsafe { *set.entries.get() = entries };
        // INVARIANT: The queues were found, in this order, and stay until `revoke`, which ends this
        // first.
        *set.config.lock() = true;
        set.live.store(true, Release);
        *slot = Some(set.clone());
        drop(slot);

        if !complete {
            // SAFETY: By the safety requirement.
            unsafe { self.revoke(vdev) };
            return Err(EIO);
        }
        // INVARIANT: One for each entry, as they are in it.
        let mut index = 0;
        Ok(vqs.map(|vq| {
            let queue = Queue {
                set: set.clone(),
                // SAFETY: It was checked above that it is not null.
                vq: unsafe { NonNull::new_unchecked(vq) },
                index,
            };
            // OVERFLOW: At most `N`.
            index += 1;
            queue
        }))
    }

    /// Ends the queues, if there are any, and returns whether there were. See [the module](super).
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Safety
    ///
    /// `vdev` must be valid and bound, and its `priv` be `self`.
    pub(super) unsafe fn revoke(&self, vdev: *mut ext_bindings::virtio_device) -> bool {
        let mut slot = self.set.lock();
        let Some(set) = slot.take() else {
            return false;
        };

        // INVARIANT: Nobody is reading the configuration space when we have the lock.
        *set.config.lock() = false;
        // INVARIANT: Nothing ends before the grace period is over, and after it no section that saw
        // the set alive lasts.
        set.live.store(false, Relaxed);
        // SAFETY: It must not be called in an RCU read-side section, nor anywhere else where one may not
        // sleep, as this function may not.
        unsafe { bindings::synchronize_rcu() };

        self.set_negotiated(false);
        // SAFETY: By the safety requirement, the device is valid and bound. Operations on the queues,
        // notifications among them, are over and do not start again.
        unsafe { reset(vdev) };

        // SAFETY: By the type invariant of `QueueSet`, entries do not change any more.
        for entry in unsafe { &*set.entries.get() } {
            // SAFETY: By the type invariant of `QueueSet`: we have set `live` to false, and waited.
            if let Some(drain) = unsafe { *entry.drain.get() } {
                // SAFETY:
                // - It was registered for this queue.
                // - The device was reset, and operations of others are over.
                unsafe { drain(entry.vq) };
            }
        }

        // SAFETY: By the safety requirement, the device and its operations are valid.
        if let Some(del_vqs) = unsafe { (*(*vdev).config).del_vqs } {
            // SAFETY: The queues were found, and not deleted yet, since the set was in the slot.
            unsafe { del_vqs(vdev) };
        }
        // INVARIANT: The queues' interrupts are gone with them.
        self.current.store(core::ptr::null_mut(), Release);
        // SAFETY: Interrupts, the only ones who look at it, are gone. We have the lock.
        let handler = unsafe { (*set.handler.get()).take() };
        drop(slot);
        drop(handler);
        true
    }
}

/// What the transport calls when a queue has used buffers.
///
/// # Safety
///
/// `vq` must be a queue that [`Queues::find`] found, or is about to.
unsafe extern "C" fn used_callback(vq: *mut ext_bindings::virtqueue) {
    // SAFETY: By the safety requirement, the queue and its device are valid. Its `priv` is the
    // `Queues` that found it, which outlive it.
    let (queues, index) = unsafe { (&*(*(*vq).vdev).priv_.cast::<Queues>(), (*vq).index) };
    let set = queues.current.load(Acquire);
    // SAFETY: By the type invariants of `Queues`, it is null or valid while the device can interrupt.
    let Some(set) = (unsafe { set.as_ref() }) else {
        return;
    };
    // SAFETY: `handler` is not written while the device can interrupt.
    if let Some(handler) = unsafe { &*set.handler.get() } {
        // CAST: From `u32`.
        handler.as_arc_borrow().used(index as usize);
    }
}
