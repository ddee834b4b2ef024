// SPDX-License-Identifier: GPL-2.0

//! Telling user space what became of a device.
//!
//! C header: [`include/linux/kobject.h`](srctree/include/linux/kobject.h)

use super::{
    driver::{
        Adapter,
        Driver, //
    },
    Device, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::Arc, //
};

impl<T: Driver> Adapter<T> {
    /// Tells user space (udev) that the device has changed, and how, if it is bound to this driver and `wanted` says
    /// so of the driver's data: an event `change` with `variable`, which is of the form `NAME=value`.
    ///
    /// Nobody may wait for the caller in [`Driver::remove`], [`Driver::reset_prepare`] or [`Driver::reset_done`].
    ///
    /// # Context
    ///
    /// May sleep. It takes the device's lock.
    ///
    /// # Errors
    ///
    /// - `ENODEV` if the device is not bound to this driver.
    /// - `EAGAIN` if it is not wanted.
    /// - `ENOMEM`: no memory, or `variable` is too long for an event.
    pub(crate) fn tell_change(
        dev: &Device,
        wanted: impl FnOnce(&Arc<T::Data>) -> bool,
        variable: &CStr,
    ) -> Result {
        let mut variables = [variable.as_char_ptr().cast_mut(), core::ptr::null_mut()];
        // SAFETY: By the type invariants of `Device`, it is valid.
        unsafe {
            Self::locked(dev.as_raw(), |dev, data| {
                if !wanted(data) {
                    return Err(EAGAIN);
                }
                // SAFETY:
                // - The device is bound, and stays so while it is locked: it is registered, as are all that it
                //   belongs to.
                // - The variables are C strings, of which C changes none, and the last is null.
                to_result(bindings::kobject_uevent_env(
                    (&raw mut (*dev.as_raw()).dev.kobj).cast(),
                    bindings::kobject_action_KOBJ_CHANGE,
                    variables.as_mut_ptr(),
                ))
            })
        }
    }
}
