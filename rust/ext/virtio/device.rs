// SPDX-License-Identifier: GPL-2.0

//! The virtio device, its features and its configuration space.

use super::queues::{
    Handler,
    Queue,
    Queues,
    VqSpec, //
};
use crate::ext::bindings as ext_bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    device,
    device_id::RawDeviceId,
    prelude::*,
    sync::{
        aref::AlwaysRefCounted,
        Arc, //
    },
    types::Opaque, //
};

/// Abstraction for the virtio device ID structure (`struct virtio_device_id`).
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct DeviceId(ext_bindings::virtio_device_id);

impl DeviceId {
    /// Devices of the type `device`, as the virtio specification numbers them, of any vendor.
    #[inline]
    pub(crate) const fn new(device: u32) -> Self {
        Self(ext_bindings::virtio_device_id {
            device,
            vendor: ext_bindings::VIRTIO_DEV_ANY_ID,
        })
    }

    /// Devices of the type `device` of one vendor.
    #[inline]
    pub(crate) const fn with_vendor(device: u32, vendor: u32) -> Self {
        Self(ext_bindings::virtio_device_id { device, vendor })
    }
}

// SAFETY: `DeviceId` is a `#[repr(transparent)]` wrapper of `virtio_device_id` and does not add
// additional invariants, so it's safe to transmute to `RawType`.
unsafe impl RawDeviceId for DeviceId {
    type RawType = ext_bindings::virtio_device_id;
}

/// `IdTable` type for virtio.
pub(crate) type IdTable = &'static dyn kernel::device_id::IdTable<DeviceId, ()>;

/// Create a virtio `IdTable` with its alias for modpost, by which udev finds the module.
///
/// ```ignore
/// virtio_device_table!(ID_TABLE, MODULE_ID_TABLE, [virtio::DeviceId::new(19)]);
/// ```
macro_rules! virtio_device_table {
    ($table_name:ident, $module_table_name:ident, [$($id:expr),+ $(,)?]) => {
        const $table_name: ::kernel::device_id::IdArray<
            $crate::ext::virtio::DeviceId,
            (),
            { [$($id),+].len() },
        > = $crate::ext::compat::id_array!($($id),+);

        // As `kernel::module_device_table!`, which cannot say that its `unsafe` is allowed.
        #[allow(unsafe_code)]
        #[rustfmt::skip]
        #[export_name =
            concat!("__mod_device_table__", line!(),
                    "__kmod_", module_path!(),
                    "__virtio",
                    "__", stringify!($table_name))
        ]
        static $module_table_name:
            [::core::mem::MaybeUninit<u8>; ::core::mem::size_of_val(&$table_name)] =
            // SAFETY: The source is as large as the target, and any byte is a valid `MaybeUninit`. It
            // begins with the identifiers, and there is nothing else in it, as `()` takes no room.
            unsafe { ::core::mem::transmute_copy(&$table_name) };
    };
}
pub(crate) use virtio_device_table;

/// The virtio device representation.
///
/// This structure represents the Rust abstraction for a C `struct virtio_device`. The
/// implementation abstracts the usage of an already existing C `struct virtio_device` within Rust
/// code that we get passed from the C side.
///
/// # Invariants
///
/// - A [`Device`] instance represents a valid `struct virtio_device` created by the C portion of the
///   kernel.
/// - In the context [`Core`](device::Core) or above, it is bound to a driver of
///   [`Adapter`](super::Adapter), and its `priv` points to the [`Queues`] of that, or is null.
#[repr(transparent)]
pub(crate) struct Device<Ctx: device::DeviceContext = device::Normal>(
    Opaque<ext_bindings::virtio_device>,
    PhantomData<Ctx>,
);

impl<Ctx: device::DeviceContext> Device<Ctx> {
    #[inline]
    pub(super) fn as_raw(&self) -> *mut ext_bindings::virtio_device {
        self.0.get()
    }

    /// The number of the device on the bus: this is `virtioN`.
    #[inline]
    pub(crate) fn index(&self) -> u32 {
        // SAFETY: By the type invariants, it is a valid device; the index is set when it is made.
        unsafe { (*self.as_raw()).index }.unsigned_abs()
    }
}

impl Device<device::Core<'_>> {
    /// Finds the device's first `N` queues, and makes `handler` the one that their interrupts call.
    ///
    /// The device must not be told about buffers ([`Notify`](super::Notify)) before
    /// [`ready`](Self::ready), but the queues can be filled. `handler` may be called before this
    /// returns; it lives until the queues end.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `EBUSY` if the device's queues have been found already.
    /// - `EIO` if no features are negotiated: the device was reset by
    ///   [`delete_vqs`](Self::delete_vqs), and [`renegotiate`](Self::renegotiate) is what it takes.
    /// - `ENOMEM`.
    /// - What the transport returns, if the device has fewer queues for instance: `EINVAL` from modern
    ///   PCI, `ENOENT` from MMIO and legacy PCI.
    pub(crate) fn find_vqs<H: Handler, const N: usize>(
        &self,
        handler: Arc<H>,
        specs: [VqSpec; N],
    ) -> Result<[Queue; N]> {
        let queues = self.queues().ok_or(EINVAL)?;
        // SAFETY: By the type invariants, the device is valid and bound, and `queues` are its own. That
        // its features are negotiated is what `find` looks at itself. Whatever unbinds it calls
        // `revoke`, through `delete_vqs`.
        unsafe { queues.find(self.as_raw(), handler, specs) }
    }

    /// Resets the device and ends its queues, if it has any; see [the module](super).
    ///
    /// It has no features then: queues can be found again after
    /// [`renegotiate`](Self::renegotiate) alone. Returns whether it had queues. All buffers in them have been dropped when this returns.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn delete_vqs(&self) -> bool {
        match self.queues() {
            // SAFETY: By the type invariants, the device is valid and bound, and `queues` are its
            // own.
            Some(queues) => unsafe { queues.revoke(self.as_raw()) },
            None => false,
        }
    }

    /// Tells the device that the driver is ready, if it was not told: the queues are alive from now.
    ///
    /// The bus does it after `probe`, `restore` and `reset_done` for a driver that did not.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `EIO` if no features are negotiated: the device was reset.
    pub(crate) fn ready(&self) -> Result {
        if !self.queues().is_some_and(Queues::is_negotiated) {
            return Err(EIO);
        }
        if self.status() & ext_bindings::VIRTIO_CONFIG_S_DRIVER_OK == 0 {
            // SAFETY: By the type invariants, it is a valid device.
            unsafe { ext_bindings::rvsock_helper_virtio_device_ready(self.as_raw()) };
        }
        Ok(())
    }

    /// The driver's queues, once `probe` has begun.
    pub(super) fn queues(&self) -> Option<&Queues> {
        // SAFETY: By the type invariants, `priv` is null or points to the `Queues` of the driver that
        // the device is bound to, which live until it is unbound: longer than `self` in this context.
        unsafe { (*self.as_raw()).priv_.cast::<Queues>().as_ref() }
    }

    /// The device has features, or has lost them. For the bus's callbacks.
    pub(super) fn set_negotiated(&self, negotiated: bool) {
        if let Some(queues) = self.queues() {
            queues.set_negotiated(negotiated);
        }
    }

    pub(super) fn status(&self) -> u32 {
        // SAFETY: By the type invariants, the device and its operations are valid.
        unsafe { get_status(self.as_raw()) }
    }

    pub(super) fn add_status(&self, status: u32) {
        // SAFETY: By the type invariants, it is a valid device; the callback may sleep.
        unsafe { ext_bindings::virtio_add_status(self.as_raw(), status) };
    }
}

/// Reads the device's status.
///
/// # Safety
///
/// `vdev` must be valid, and bound.
pub(super) unsafe fn get_status(vdev: *mut ext_bindings::virtio_device) -> u32 {
    // SAFETY: By the safety requirement, the device and its operations are valid.
    match unsafe { (*(*vdev).config).get_status } {
        // SAFETY: As above.
        Some(get_status) => unsafe { get_status(vdev) }.into(),
        None => 0,
    }
}

/// Resets the device: it stops to access memory and to interrupt, and nobody runs its callbacks.
///
/// # Context
///
/// May sleep.
///
/// # Safety
///
/// - `vdev` must be valid, and bound.
/// - Nobody may notify the device until this returns.
pub(super) unsafe fn reset(vdev: *mut ext_bindings::virtio_device) {
    // No device that is there has this status: two of its bits are reserved. One that was pulled out
    // reads as all ones for ever, and the PCI transport would wait for ever for its reset.
    //
    // SAFETY: By the safety requirement, the device is valid and bound.
    let is_lost = unsafe { get_status(vdev) } == 0xff;

    // SAFETY: By the safety requirement, the device is valid. As in `virtio_device_shutdown`:
    // interrupts that are on their way find broken queues, and those that found sound ones are over.
    unsafe {
        ext_bindings::virtio_break_device(vdev);
        ext_bindings::rvsock_helper_virtio_synchronize_cbs(vdev);
    }
    // One that reads so though it is there may not touch memory any more: its bus sees to that.
    // Other transports do not wait for their resets.
    //
    // SAFETY: By the safety requirements, the device is valid and nobody notifies it.
    unsafe {
        if !(is_lost && ext_bindings::rvsock_helper_virtio_cut_off(vdev)) {
            ext_bindings::virtio_reset_device(vdev);
        }
    }
}

// SAFETY: `virtio::Device` is a transparent wrapper of `struct virtio_device`.
// The offset is guaranteed to point to a valid device field inside `virtio::Device`.
unsafe impl<Ctx: device::DeviceContext> device::AsBusDevice<Ctx> for Device<Ctx> {
    const OFFSET: usize = core::mem::offset_of!(ext_bindings::virtio_device, dev);
}

// SAFETY: `Device` is a transparent wrapper of a type that doesn't depend on `Device`'s generic
// argument.
kernel::impl_device_context_deref!(unsafe { Device });
kernel::impl_device_context_into_aref!(Device);

// SAFETY: Instances of `Device` are always reference-counted.
unsafe impl AlwaysRefCounted for Device {
    fn inc_ref(&self) {
        // SAFETY: The existence of a shared reference guarantees that the refcount is non-zero.
        unsafe { bindings::get_device((&raw mut (*self.as_raw()).dev).cast()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // CAST: `Self` is a transparent wrapper of `struct virtio_device`.
        let vdev: *mut ext_bindings::virtio_device = obj.cast().as_ptr();
        // SAFETY: The safety requirements guarantee that the refcount is non-zero, hence that the
        // device is valid.
        unsafe { bindings::put_device((&raw mut (*vdev).dev).cast()) }
    }
}

impl<Ctx: device::DeviceContext> AsRef<device::Device<Ctx>> for Device<Ctx> {
    fn as_ref(&self) -> &device::Device<Ctx> {
        // SAFETY: By the type invariant of `Self`, `self.as_raw()` is a pointer to a valid
        // `struct virtio_device`.
        let dev = unsafe { &raw mut (*self.as_raw()).dev };

        // SAFETY: `dev` points to a valid `struct device`, which is the same type in the bindings of
        // the `kernel` crate.
        unsafe { device::Device::from_raw(dev.cast()) }
    }
}

// SAFETY: A `Device` is always reference-counted and can be released from any thread.
unsafe impl Send for Device {}

// SAFETY: `Device` can be shared among threads because all methods of `Device`
// (i.e. `Device<Normal>) are thread safe.
unsafe impl Sync for Device {}

// SAFETY: Same as `Device<Normal>` -- the underlying `struct virtio_device` is the same;
// `Bound` is a zero-sized type-state marker that does not affect thread safety.
unsafe impl Sync for Device<device::Bound> {}
