// SPDX-License-Identifier: GPL-2.0

//! The features of a virtio device.
//!
//! C header: [`include/linux/virtio_config.h`](srctree/include/linux/virtio_config.h)

use super::device::{
    reset,
    Device, //
};
use crate::ext::bindings as ext_bindings;
use kernel::{
    device,
    error::to_result,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::NotThreadSafe, //
};

/// The bits that belong to the transport and the rings, 28 to 41.
const TRANSPORT: u64 = (u64::MAX << ext_bindings::VIRTIO_TRANSPORT_F_START)
    & !(u64::MAX << ext_bindings::VIRTIO_TRANSPORT_F_END);

/// The first 64 features of a device, while only a callback of its driver can look at them.
///
/// # Safety
///
/// - `vdev` must be valid for `'a`.
/// - It must be in a callback of its driver, which the device's lock serialises.
unsafe fn word<'a>(vdev: *mut ext_bindings::virtio_device) -> &'a Atomic<u64> {
    // SAFETY: By the safety requirements, it is a valid device, and any value is valid in each field of
    // the union. The bus writes them before it calls back, and not meanwhile.
    unsafe { Atomic::from_ptr(&raw mut (*vdev).__bindgen_anon_1.features) }
}

fn has(features: u64, bit: u32) -> bool {
    features.checked_shr(bit).unwrap_or(0) & 1 != 0
}

/// The features that both the driver and the device support, while the driver may take some back: in
/// [`Driver::validate`](super::Driver::validate), before the device is told.
///
/// # Invariants
///
/// `dev` is in the `validate` callback of its driver.
pub(crate) struct Features<'a> {
    dev: &'a Device,
    _not_send: NotThreadSafe,
}

impl<'a> Features<'a> {
    /// The features of a device.
    ///
    /// # Safety
    ///
    /// As the type invariant says, for `'a`.
    pub(super) unsafe fn new(dev: &'a Device) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            dev,
            _not_send: NotThreadSafe,
        }
    }

    /// The device, which has no queues yet.
    pub(crate) fn device(&self) -> &Device {
        self.dev
    }

    /// The first 64 feature bits. A bit that the driver does not list in
    /// [`Driver::FEATURES`](super::Driver::FEATURES) is never among them, save those of the transport
    /// (28 to 41).
    pub(crate) fn bits(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { word(self.dev.as_raw()) }.load(Relaxed)
    }

    /// Whether `bit` (below 64) is among them.
    pub(crate) fn has(&self, bit: u32) -> bool {
        has(self.bits(), bit)
    }

    /// Takes `bit` back: the device is told that the driver does not support it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for the bits of the transport (28 to 41), which are not the driver's, and from 64 on.
    pub(crate) fn clear(&mut self, bit: u32) -> Result {
        let mask = 1u64.checked_shl(bit).ok_or(EINVAL)?;
        if mask & TRANSPORT != 0 {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariant.
        let word = unsafe { word(self.dev.as_raw()) };
        word.store(word.load(Relaxed) & !mask, Relaxed);
        Ok(())
    }
}

impl Device<device::Core<'_>> {
    fn feature_word(&self) -> &Atomic<u64> {
        // SAFETY: By the type invariants, it is a valid device, in a callback of its driver.
        unsafe { word(self.as_raw()) }
    }

    /// The first 64 feature bits that both the driver and the device support.
    ///
    /// A bit that the driver does not list in [`Driver::FEATURES`](super::Driver::FEATURES) is never
    /// among them, save those of the transport (28 to 41).
    #[inline]
    pub(crate) fn features(&self) -> u64 {
        self.feature_word().load(Relaxed)
    }

    /// Whether feature `bit` (below 64) was negotiated. Never for a bit that the driver does not list.
    #[inline]
    pub(crate) fn has_feature(&self, bit: u32) -> bool {
        has(self.features(), bit)
    }

    /// Negotiates features anew, keeping only those of the first 64 that are in `keep`.
    ///
    /// For a driver that learns from the device, by the number of its queues for instance, that a bit
    /// does not mean what it seemed to. Bits of the transport (28 to 41) are kept in any case, and none
    /// comes in that was not negotiated before. The device is reset, and its queues end.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// Any: the device has to be given up then, since queues can be found only of one that has accepted.
    ///
    /// - `ENODEV` if the device does not accept what is left.
    /// - `EINVAL` if the driver is not bound to it.
    /// - What the transport returns.
    pub(crate) fn renegotiate(&self, keep: u64) -> Result {
        let queues = self.queues().ok_or(EINVAL)?;
        if !self.delete_vqs() {
            queues.set_negotiated(false);
            // SAFETY: By the type invariants, it is a valid device. It has no queues, so that nobody
            // notifies it.
            unsafe { reset(self.as_raw()) };
        }
        self.add_status(ext_bindings::VIRTIO_CONFIG_S_ACKNOWLEDGE);
        self.add_status(ext_bindings::VIRTIO_CONFIG_S_DRIVER);
        let word = self.feature_word();
        word.store(word.load(Relaxed) & (keep | TRANSPORT), Relaxed);
        // SAFETY: By the type invariants, the device and its operations are valid.
        let finalize = unsafe { (*(*self.as_raw()).config).finalize_features }.ok_or(ENODEV)?;
        // SAFETY: As above; it was reset, and the transport bits were accepted before.
        to_result(unsafe { finalize(self.as_raw()) })?;

        if self.has_feature(ext_bindings::VIRTIO_F_VERSION_1) {
            self.add_status(ext_bindings::VIRTIO_CONFIG_S_FEATURES_OK);
            if self.status() & ext_bindings::VIRTIO_CONFIG_S_FEATURES_OK == 0 {
                return Err(ENODEV);
            }
        }
        queues.set_negotiated(true);
        Ok(())
    }
}
