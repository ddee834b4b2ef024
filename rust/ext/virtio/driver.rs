// SPDX-License-Identifier: GPL-2.0

//! Drivers of the virtio bus.

use super::{
    config,
    device::{
        reset,
        Device,
        IdTable, //
    },
    features::Features,
    queues::Queues,
    restart::mark, //
};
use crate::ext::bindings as ext_bindings;
use core::{
    any::TypeId,
    marker::PhantomData, //
};
use kernel::{
    device::{
        Core,
        CoreInternal, //
    },
    driver,
    error::{
        from_result,
        to_result, //
    },
    ffi::c_int,
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    },
    types::Opaque,
    ThisModule, //
};

/// The virtio driver trait.
///
/// All callbacks but [`config_changed`](Self::config_changed) may sleep, and are serialised by the
/// device's lock. After those that end the device's operation, its queues end too; see
/// [the module](super).
///
/// # Examples
///
/// ```ignore
/// virtio_device_table!(ID_TABLE, MODULE_ID_TABLE, [virtio::DeviceId::new(4)]);
///
/// #[vtable]
/// impl virtio::Driver for Entropy {
///     const ID_TABLE: virtio::IdTable = &ID_TABLE;
///     const FEATURES: &'static [u32] = &[];
///     type Data = Entropy;
///
///     fn probe(dev: &virtio::Device<Core<'_>>) -> Result<Arc<Entropy>> {
///         let this = Entropy::new()?;
///         let [queue] = dev.find_vqs(this.clone(), [VqSpec { name: c"input", callback: true }])?;
///         // ...
///         Ok(this)
///     }
///
///     fn remove(_dev: &virtio::Device<Core<'_>>, this: &Arc<Entropy>) { /* ... */ }
/// }
/// ```
#[vtable]
pub(crate) trait Driver: 'static {
    /// The devices that the driver supports. See `virtio_device_table!`.
    const ID_TABLE: IdTable;

    /// The feature bits that the driver supports, those of the transport (28 to 41) excepted.
    const FEATURES: &'static [u32];

    /// How many bytes of the configuration space the driver knows: the size of the structure that the
    /// specification of the device has. No read goes beyond it.
    const CONFIG_LEN: usize = 0;

    /// What the driver has for each device that it is bound to.
    type Data: Send + Sync + 'static;

    /// Looks at the features that both sides support, and can take some back ([`Features::clear`])
    /// before the device is told.
    ///
    /// # Errors
    ///
    /// Any: the device is not bound.
    fn validate(features: &mut Features<'_>) -> Result {
        let _ = features;
        Ok(())
    }

    /// Binds the driver to the device.
    ///
    /// # Errors
    ///
    /// Any: the device is not bound, and its queues, if it found some, have ended.
    fn probe(dev: &Device<Core<'_>>) -> Result<Arc<Self::Data>>;

    /// The driver is being unbound from the device, which may be gone already.
    ///
    /// It can end the queues at a time of its own choice with [`Device::delete_vqs`]. They end, and the
    /// device is reset, when it returns at the latest.
    fn remove(dev: &Device<Core<'_>>, data: &Arc<Self::Data>);

    /// The system is being shut down, or another kernel booted.
    ///
    /// When it returns, the queues are broken and the device is reset, as the bus does it for a driver
    /// that does not implement this.
    fn shutdown(dev: &Device<Core<'_>>, data: &Arc<Self::Data>) {
        let _ = (dev, data);
        kernel::build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// The system is going to sleep. The queues end when this returns with success.
    ///
    /// # Errors
    ///
    /// Any: the system stays awake, and the device goes on.
    fn freeze(dev: &Device<Core<'_>>, data: &Arc<Self::Data>) -> Result {
        let _ = (dev, data);
        kernel::build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// The system has woken up. The features are negotiated again, the same; the queues are to be found.
    ///
    /// # Errors
    ///
    /// Any: the device is out of use, but bound still. Its queues, if some were found, have ended.
    fn restore(dev: &Device<Core<'_>>, data: &Arc<Self::Data>) -> Result {
        let _ = (dev, data);
        kernel::build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// The device is about to be reset by its bus (a PCI function reset). As [`freeze`](Self::freeze).
    ///
    /// # Errors
    ///
    /// Any. The reset is not stopped by it.
    fn reset_prepare(dev: &Device<Core<'_>>, data: &Arc<Self::Data>) -> Result {
        let _ = (dev, data);
        kernel::build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// The device was reset by its bus. As [`restore`](Self::restore).
    ///
    /// # Errors
    ///
    /// As of [`restore`](Self::restore).
    fn reset_done(dev: &Device<Core<'_>>, data: &Arc<Self::Data>) -> Result {
        let _ = (dev, data);
        kernel::build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }

    /// The device has changed its configuration space.
    ///
    /// # Context
    ///
    /// Hard interrupt, under a lock of the bus. It must not sleep, so it cannot read the configuration
    /// space, but have it read later ([`ConfigSpace`](super::ConfigSpace)).
    fn config_changed(data: &Arc<Self::Data>) {
        let _ = data;
        kernel::build_error!(kernel::error::VTABLE_DEFAULT_ERROR)
    }
}

/// What the bus keeps for a device while the driver is bound to it: the device's private data.
///
/// # Invariants
///
/// The device's `priv` points to `queues` from the beginning of `probe` until it failed, or until
/// `remove` is over. `data` is set when `probe` has succeeded.
#[pin_data]
#[repr(C)]
pub(crate) struct Bound<D> {
    #[pin]
    queues: Queues,
    data: SetOnce<Arc<D>>,
}

/// An adapter for the registration of virtio drivers.
///
/// ```ignore
/// driver::Registration::<virtio::Adapter<MyDriver>>::new(<Self as ModuleMetadata>::NAME, module)
/// ```
pub(crate) struct Adapter<T: Driver>(PhantomData<T>);

// SAFETY:
// - `virtio_driver` is a C type declared as `repr(C)`.
// - `Bound<T::Data>` is the type of the driver's device private data.
// - `struct virtio_driver` embeds a `struct device_driver`.
// - `DEVICE_DRIVER_OFFSET` is the correct byte offset to the embedded `struct device_driver`.
unsafe impl<T: Driver> driver::DriverLayout for Adapter<T> {
    type DriverType = ext_bindings::virtio_driver;
    type DriverData<'bound> = Bound<T::Data>;
    const DEVICE_DRIVER_OFFSET: usize = core::mem::offset_of!(Self::DriverType, driver);
}

// SAFETY: A call to `unregister` for a given instance of `DriverType` is guaranteed to be valid if
// a preceding call to `register` has been successful.
unsafe impl<T: Driver> driver::RegistrationOps for Adapter<T> {
    unsafe fn register(
        vdrv: &Opaque<Self::DriverType>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        // The bus wants bits that it has room for (`VIRTIO_FEATURES_BITS`).
        const {
            let mut i = 0;
            while i < T::FEATURES.len() {
                assert!(T::FEATURES[i] < 128);
                i += 1;
            }
        };

        // SAFETY: It's safe to set the fields of `struct virtio_driver` on initialization.
        let drv = unsafe { &mut *vdrv.get() };
        drv.driver.name = name.as_char_ptr();
        drv.driver.dev_groups = mark().cast();
        drv.id_table = T::ID_TABLE.as_ptr();
        drv.feature_table = T::FEATURES.as_ptr();
        drv.feature_table_size = T::FEATURES.len().try_into()?;
        drv.probe = Some(Self::probe_callback);
        drv.remove = Some(Self::remove_callback);
        if T::HAS_VALIDATE {
            drv.validate = Some(Self::validate_callback);
        }
        if T::HAS_SHUTDOWN {
            drv.shutdown = Some(Self::shutdown_callback);
        }
        if cfg!(CONFIG_PM_SLEEP) && T::HAS_FREEZE && T::HAS_RESTORE {
            drv.freeze = Some(Self::freeze_callback);
            drv.restore = Some(Self::restore_callback);
        }
        if T::HAS_RESET_PREPARE && T::HAS_RESET_DONE {
            drv.reset_prepare = Some(Self::reset_prepare_callback);
            drv.reset_done = Some(Self::reset_done_callback);
        }
        if T::HAS_CONFIG_CHANGED {
            drv.config_changed = Some(Self::config_changed_callback);
        }

        // SAFETY: `vdrv` is guaranteed to be a valid `DriverType`, to which nothing else refers.
        to_result(unsafe {
            ext_bindings::__register_virtio_driver(vdrv.get(), module.as_ptr().cast())
        })
    }

    unsafe fn unregister(vdrv: &Opaque<Self::DriverType>) {
        // SAFETY: `vdrv` is guaranteed to be a valid `DriverType`.
        unsafe { ext_bindings::unregister_virtio_driver(vdrv.get()) }
    }
}

impl<T: Driver> Adapter<T> {
    extern "C" fn validate_callback(vdev: *mut ext_bindings::virtio_device) -> c_int {
        // SAFETY: The virtio bus only ever calls the callback with a valid pointer to a
        // `struct virtio_device`, whose `priv` belongs to the driver from now on: what the one before
        // has left there means nothing.
        unsafe { (*vdev).priv_ = core::ptr::null_mut() };
        // SAFETY: As above.
        //
        // INVARIANT: `vdev` is valid for the duration of `validate_callback()`.
        let dev = unsafe { &*vdev.cast::<Device>() };
        // SAFETY: The device is in this callback.
        let mut features = unsafe { Features::new(dev) };

        from_result(|| T::validate(&mut features).map(|()| 0))
    }

    extern "C" fn probe_callback(vdev: *mut ext_bindings::virtio_device) -> c_int {
        // SAFETY: The virtio bus only ever calls the probe callback with a valid pointer to a
        // `struct virtio_device`.
        //
        // INVARIANT: `vdev` is valid for the duration of `probe_callback()`.
        let dev = unsafe { &*vdev.cast::<Device<CoreInternal<'_>>>() };

        from_result(|| {
            // SAFETY: `vdev` is valid, and `priv` belongs to the driver.
            let config_len = unsafe {
                (*vdev).priv_ = core::ptr::null_mut();
                config::config_len(vdev, T::CONFIG_LEN)
            };
            // SAFETY: The device is being bound to `T`. The bus has negotiated its features.
            let queues = unsafe { Queues::new(TypeId::of::<T>(), config_len) };
            dev.as_ref().set_drvdata(try_pin_init!(Bound::<T::Data> {
                queues <- queues,
                data: SetOnce::new(),
            }))?;
            // SAFETY: It was just set to a `Pin<KBox<Bound<T::Data>>>`.
            let bound = unsafe { dev.as_ref().drvdata_borrow::<Bound<T::Data>>() };
            // SAFETY: `vdev` is valid, and `priv` belongs to the driver.
            //
            // INVARIANT: `queues` lives until `post_unbind_callback`, after `remove_callback` or the
            // end of this function put back null.
            unsafe { (*vdev).priv_ = core::ptr::from_ref(bound.get_ref()).cast_mut().cast() };

            match T::probe(dev) {
                Ok(data) => {
                    bound.get_ref().data.populate(data);
                    Ok(0)
                }
                Err(e) => {
                    dev.delete_vqs();
                    // SAFETY: `vdev` is valid. Without queues, nobody looks at `priv`.
                    unsafe { (*vdev).priv_ = core::ptr::null_mut() };
                    Err(e)
                }
            }
        })
    }

    extern "C" fn remove_callback(vdev: *mut ext_bindings::virtio_device) {
        // SAFETY: The virtio bus only ever calls the remove callback with a valid pointer to a
        // `struct virtio_device`, after `probe_callback` succeeded.
        unsafe {
            Self::with_data(vdev, |dev, data| T::remove(dev, data));
        }

        // SAFETY: As above.
        //
        // INVARIANT: `vdev` is valid for the duration of `remove_callback()`.
        let dev = unsafe { &*vdev.cast::<Device<CoreInternal<'_>>>() };
        if !dev.delete_vqs() {
            // The bus wants it to have been reset.
            //
            // SAFETY: As above. There are no queues, so that nobody notifies the device.
            unsafe { reset(vdev) };
        }
        // SAFETY: `vdev` is valid. Without queues, nobody looks at `priv`.
        unsafe { (*vdev).priv_ = core::ptr::null_mut() };
    }

    extern "C" fn shutdown_callback(vdev: *mut ext_bindings::virtio_device) {
        // SAFETY: The virtio bus only ever calls the callback with a valid pointer to a
        // `struct virtio_device` that is bound, and with the device locked.
        unsafe {
            Self::with_data(vdev, |dev, data| {
                T::shutdown(dev, data);
                dev.set_negotiated(false);
            });
            ext_bindings::virtio_device_shutdown(vdev);
        }
    }

    extern "C" fn freeze_callback(vdev: *mut ext_bindings::virtio_device) -> c_int {
        // SAFETY: The transport calls it with a valid pointer to a `struct virtio_device`.
        unsafe { Self::stop(vdev, T::freeze) }
    }

    extern "C" fn restore_callback(vdev: *mut ext_bindings::virtio_device) -> c_int {
        // SAFETY: As above; it was reset, and its features were negotiated again.
        unsafe { Self::start(vdev, T::restore) }
    }

    extern "C" fn reset_prepare_callback(vdev: *mut ext_bindings::virtio_device) -> c_int {
        // SAFETY: As above.
        unsafe { Self::stop(vdev, T::reset_prepare) }
    }

    extern "C" fn reset_done_callback(vdev: *mut ext_bindings::virtio_device) -> c_int {
        // SAFETY: As of `restore_callback`.
        unsafe { Self::start(vdev, T::reset_done) }
    }

    extern "C" fn config_changed_callback(vdev: *mut ext_bindings::virtio_device) {
        // SAFETY: The virtio bus only ever calls the callback with a valid pointer to a
        // `struct virtio_device`, after `probe` and before `remove`, between which it holds a lock.
        unsafe { Self::with_data(vdev, |_dev, data| T::config_changed(data)) };
    }

    /// Calls `callback` with the device and the driver's data, if the device was probed.
    ///
    /// # Safety
    ///
    /// `vdev` must be valid, and not be unbound before this returns.
    unsafe fn with_data<R>(
        vdev: *mut ext_bindings::virtio_device,
        callback: impl FnOnce(&Device<CoreInternal<'_>>, &Arc<T::Data>) -> R,
    ) -> Option<R> {
        // SAFETY: By the safety requirement, it is valid.
        let bound = unsafe { (*vdev).priv_ }.cast::<Bound<T::Data>>();
        // SAFETY: By the type invariants of `Bound`, `priv` is null, or points to its first field,
        // which lives until the device is unbound.
        let data = unsafe { bound.as_ref() }?.data.as_ref()?;
        // SAFETY: By the safety requirement.
        //
        // INVARIANT: `vdev` is valid for the duration of this function.
        let dev = unsafe { &*vdev.cast::<Device<CoreInternal<'_>>>() };
        Some(callback(dev, data))
    }

    /// Calls a callback that stops the device, and ends its queues.
    ///
    /// Transports call it without the device's lock, which keeps `remove` away; ours is taken inside
    /// that of the transport's device, as when that is removed.
    ///
    /// # Safety
    ///
    /// `vdev` must be valid.
    unsafe fn stop(
        vdev: *mut ext_bindings::virtio_device,
        callback: fn(&Device<Core<'_>>, &Arc<T::Data>) -> Result,
    ) -> c_int {
        // SAFETY: By the safety requirement; the lock keeps the device bound.
        let done = unsafe {
            Self::locked(vdev, |dev, data| {
                callback(dev, data)?;
                dev.delete_vqs();
                dev.set_negotiated(false);
                Ok(())
            })
        };
        from_result(|| done.map(|()| 0))
    }

    /// Calls a callback that starts the device, and ends its queues if it fails.
    ///
    /// # Safety
    ///
    /// `vdev` must be valid, and its features be negotiated, if it is bound to this driver.
    unsafe fn start(
        vdev: *mut ext_bindings::virtio_device,
        callback: fn(&Device<Core<'_>>, &Arc<T::Data>) -> Result,
    ) -> c_int {
        // SAFETY: By the safety requirement; the lock keeps the device bound.
        let done = unsafe {
            Self::locked(vdev, |dev, data| {
                dev.set_negotiated(true);
                callback(dev, data).inspect_err(|_| {
                    dev.delete_vqs();
                })
            })
        };
        from_result(|| done.map(|()| 0))
    }

    /// Calls `callback` with the device locked. `ENODEV` if it is not bound to this driver.
    ///
    /// # Safety
    ///
    /// `vdev` must be valid.
    pub(super) unsafe fn locked(
        vdev: *mut ext_bindings::virtio_device,
        callback: impl FnOnce(&Device<CoreInternal<'_>>, &Arc<T::Data>) -> Result,
    ) -> Result {
        // SAFETY: By the safety requirement, the device is valid. While it is locked, it is not
        // unbound.
        unsafe {
            ext_bindings::rvsock_helper_device_lock(&raw mut (*vdev).dev);
            let done = if Self::is_ours(vdev) {
                Self::with_data(vdev, callback)
            } else {
                None
            };
            ext_bindings::rvsock_helper_device_unlock(&raw mut (*vdev).dev);
            done.unwrap_or(Err(ENODEV))
        }
    }
}
