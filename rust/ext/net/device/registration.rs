// SPDX-License-Identifier: GPL-2.0

//! Interfaces that are registered.

use super::{
    callbacks,
    Interface,
    NetDevice, //
};
use crate::ext::bindings;
use core::{
    ffi::c_void,
    ptr::NonNull, //
};
use kernel::{
    device::Device,
    error::to_result,
    prelude::*,
    str::{
        CStr,
        CStrExt as _, //
    },
    sync::Arc, //
};

/// An interface that is registered. It is down at first.
///
/// Dropping it unregisters it: what is in its qdisc is lost, and when that is over nothing of the driver is called any
/// more.
///
/// As with a [`driver::Registration`](kernel::driver::Registration), the module's end must drop it: a registration that
/// is leaked ([`core::mem::forget`]) outlives the code that it refers to.
///
/// # Invariants
///
/// `dev` is registered; `device` leads to it, and nobody but us withdraws it. It was allocated with what
/// [`Arc::into_raw`] has made of a driver's [`Interface`], which `release` gives back.
pub(crate) struct Registration {
    dev: NonNull<bindings::net_device>,
    device: Arc<NetDevice>,
    release: unsafe fn(*mut c_void),
    name: [u8; NAME_SIZE],
}

/// `IFNAMSIZ`.
const NAME_SIZE: usize = bindings::IFNAMSIZ as usize;

// SAFETY: A device may be unregistered by any thread, and what its driver does for it is `Send`.
unsafe impl Send for Registration {}

// SAFETY: Through a shared reference only its name can be read.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers an interface, which `device` leads to from now on. `parent` is the device that it belongs to.
    ///
    /// # Context
    ///
    /// May sleep; takes RTNL, which neither the caller may hold nor anybody who waits for it.
    ///
    /// # Errors
    ///
    /// - `EBUSY`: `device` leads to one.
    /// - `EEXIST`, `EINVAL`, `ENFILE`: the name is taken, or none that an interface can have.
    /// - `ENOMEM`: no memory.
    /// - Others, where somebody who is told of it refuses.
    pub(crate) fn new<T: Interface>(
        device: &Arc<NetDevice>,
        interface: Arc<T>,
        parent: Option<&Device>,
    ) -> Result<Self> {
        const {
            assert!(T::NAME.to_bytes().len() < NAME_SIZE);
            assert!(T::TX_QUEUES > 0 && T::MTU > 0 && T::MTU <= i32::MAX as u32);
        }
        // CAST: `Device` is transparent to `struct device`.
        let parent = parent
            .map_or(core::ptr::null(), core::ptr::from_ref)
            .cast_mut();
        let interface = Arc::into_raw(interface).cast_mut().cast::<c_void>();
        // SAFETY: The name is a C string that fits, and is not empty of queues; the tables are static, and all their
        // functions those of `T`; the parent is valid, if there is one, and the device will hold it while it is
        // registered.
        let dev = unsafe {
            bindings::rvsock_helper_net_device_alloc(
                T::NAME.as_char_ptr(),
                T::TX_QUEUES.into(),
                T::MTU,
                callbacks::net_device_ops::<T>(),
                callbacks::ethtool_ops::<T>(),
                parent.cast(),
                interface,
                callbacks::transmit::<T>(),
            )
        };
        let Some(dev) = NonNull::new(dev) else {
            // SAFETY: It comes from `Arc::into_raw()`, and nobody has got it.
            unsafe { release::<T>(interface) };
            return Err(ENOMEM);
        };
        match Self::register(dev, device) {
            // INVARIANT: Just registered and published, with an interface that is a `T`.
            Ok(name) => Ok(Self {
                dev,
                device: device.clone(),
                release: release::<T>,
                name,
            }),
            Err(error) => {
                // SAFETY: It is not registered, and nobody else has it; its interface comes from `Arc::into_raw()`.
                unsafe {
                    bindings::free_netdev(dev.as_ptr());
                    release::<T>(interface);
                }
                Err(error)
            }
        }
    }

    /// Registers and publishes the device, so that it is found here before anybody can open it. Returns its name.
    ///
    /// On an error it is not registered.
    fn register(dev: NonNull<bindings::net_device>, device: &NetDevice) -> Result<[u8; NAME_SIZE]> {
        let _rtnl = Rtnl::lock();
        // SAFETY: It is new, and set up; RTNL is held.
        to_result(unsafe { bindings::register_netdevice(dev.as_ptr()) })?;
        // SAFETY: It is registered; what takes it out of `device` and unregisters it is below, or our `drop()`.
        if let Err(error) = unsafe { device.publish(dev.as_ptr()) } {
            // SAFETY: It is registered, and not published; RTNL is held.
            unsafe { bindings::unregister_netdevice_queue(dev.as_ptr(), core::ptr::null_mut()) };
            // When RTNL is given back, that comes to its end.
            return Err(error);
        }
        let mut name = [0; NAME_SIZE];
        // SAFETY: The device is valid, and nobody changes its name, which is a C string, while RTNL is held.
        let given =
            unsafe { CStr::from_char_ptr(bindings::rvsock_helper_net_device_name(dev.as_ptr())) };
        for (to, from) in name.iter_mut().zip(given.to_bytes()) {
            *to = *from;
        }
        Ok(name)
    }

    /// The name that it was registered with. Others may have given it another since.
    pub(crate) fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.name).unwrap_or(c"")
    }
}

impl Drop for Registration {
    /// # Context
    ///
    /// May sleep; takes RTNL, which neither the caller may hold nor anybody who waits for it.
    fn drop(&mut self) {
        self.device.withdraw();
        // SAFETY:
        // - By the type invariant it is registered, and nobody else unregisters it.
        // - To unregister it takes a grace period at least, and nobody finds it in `device` any more: nobody who found
        //   it there uses it when it is freed.
        // - It was allocated with the interface, which nobody refers to once it is unregistered: no callback runs, and
        //   none will.
        unsafe {
            let interface = bindings::rvsock_helper_net_device_interface(self.dev.as_ptr());
            bindings::unregister_netdev(self.dev.as_ptr());
            bindings::free_netdev(self.dev.as_ptr());
            (self.release)(interface);
        }
    }
}

/// Drops an interface.
///
/// # Safety
///
/// It must come from `Arc::<T>::into_raw()`, and nobody may use it after this.
unsafe fn release<T>(interface: *mut c_void) {
    // SAFETY: By the safety requirements.
    drop(unsafe { Arc::from_raw(interface.cast::<T>()) });
}

/// RTNL, held until this is dropped.
struct Rtnl(());

impl Rtnl {
    fn lock() -> Self {
        // SAFETY: It may sleep, as the caller may.
        unsafe { bindings::rtnl_lock() };
        Self(())
    }
}

impl Drop for Rtnl {
    fn drop(&mut self) {
        // SAFETY: It is held.
        unsafe { bindings::rtnl_unlock() };
    }
}
