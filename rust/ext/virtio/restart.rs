// SPDX-License-Identifier: GPL-2.0

//! Resetting a device at its driver's own wish.

use super::{
    driver::{
        Adapter,
        Driver, //
    },
    queues::Queues,
    Device, //
};
use crate::ext::bindings as ext_bindings;
use core::{
    any::TypeId,
    ffi::c_void, //
};
use kernel::{
    device::CoreInternal,
    prelude::*,
    sync::Arc, //
};

impl<T: Driver> Adapter<T> {
    /// Resets the device and starts it again, as its bus would do it, if it is bound to this driver
    /// and `wanted` says so of the driver's data.
    ///
    /// [`Driver::reset_prepare`] and [`Driver::reset_done`] are called, and the same features are
    /// negotiated between them. Nobody may wait for the caller in those, nor in
    /// [`Driver::remove`].
    ///
    /// # Context
    ///
    /// May sleep. It takes the device's lock.
    ///
    /// # Errors
    ///
    /// - `ENODEV` if the device is not bound to this driver.
    /// - `EAGAIN` if it is not wanted.
    /// - What the callbacks return, or [`Device::renegotiate`]. The device is out of use then, but
    ///   bound still.
    pub(crate) fn restart(dev: &Device, wanted: impl FnOnce(&Arc<T::Data>) -> bool) -> Result {
        let restart = |dev: &Device<CoreInternal<'_>>, data: &Arc<T::Data>| {
            if !wanted(data) {
                return Err(EAGAIN);
            }
            T::reset_prepare(dev, data)?;
            dev.delete_vqs();
            dev.renegotiate(dev.features())?;
            T::reset_done(dev, data).inspect_err(|_| {
                dev.delete_vqs();
            })?;
            // As the bus does it. A driver that has reset the device wants it to do nothing.
            let _ = dev.ready();
            Ok(())
        };
        // SAFETY: By the type invariants of `Device`, it is valid.
        unsafe { Self::locked(dev.as_raw(), restart) }
    }

    /// Whether the device, whose lock is held, is bound to this driver.
    ///
    /// # Safety
    ///
    /// `vdev` must be valid.
    pub(super) unsafe fn is_ours(vdev: *mut ext_bindings::virtio_device) -> bool {
        // SAFETY: By the safety requirement, and the lock keeps the driver.
        let driver = unsafe { (*vdev).dev.driver };
        // SAFETY: A driver that devices are bound to is valid.
        if driver.is_null() || !core::ptr::eq(unsafe { (*driver).dev_groups }.cast(), mark()) {
            return false;
        }
        // SAFETY: The driver is one of an `Adapter`: so `priv` is null, or points to a `Bound`, which
        // begins with its `Queues` and lives until the device is unbound.
        let queues = unsafe { (*vdev).priv_.cast::<Queues>().as_ref() };
        queues.is_some_and(|queues| queues.driver() == TypeId::of::<T>())
    }
}

/// An empty list of sysfs groups: no other driver has this one.
struct NoGroups([*const c_void; 1]);

// SAFETY: Nothing in it ever changes.
unsafe impl Sync for NoGroups {}

static NO_GROUPS: NoGroups = NoGroups([core::ptr::null()]);

/// What marks a driver as one of an [`Adapter`]: its `dev_groups`.
///
/// Its `owner` does not: that is null for whatever is built into the kernel.
pub(super) fn mark() -> *const *const c_void {
    (&raw const NO_GROUPS.0).cast()
}
