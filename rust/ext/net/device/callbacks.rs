// SPDX-License-Identifier: GPL-2.0

//! What the kernel calls of an interface, in the form that it wants.

use super::{
    Interface,
    Turn, //
};
use crate::ext::{
    bindings,
    error::NetError, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    ffi::c_int,
    prelude::*, //
};

/// The callbacks of `T`'s interface.
struct Callbacks<T>(PhantomData<T>);

/// `T`'s functions for the core.
pub(super) fn net_device_ops<T: Interface>() -> &'static bindings::net_device_ops {
    const { &Callbacks::<T>::NET_DEVICE }
}

/// What [`net_device_ops`] calls with what is to be sent.
pub(super) fn transmit<T: Interface>(
) -> Option<unsafe extern "C" fn(*mut bindings::sk_buff, *mut bindings::net_device)> {
    Some(Callbacks::<T>::transmit)
}

/// `T`'s functions for ethtool.
pub(super) fn ethtool_ops<T: Interface>() -> &'static bindings::ethtool_ops {
    const { &Callbacks::<T>::ETHTOOL }
}

/// Of a device whose functions are these, the interface, which is a `T`.
///
/// # Safety
///
/// `dev` must be valid for `'a`, allocated with an interface that is a `T`, and not be unregistered in `'a`.
unsafe fn interface<'a, T: Interface>(dev: *mut bindings::net_device) -> &'a T {
    // SAFETY: By the safety requirements, and `Registration` keeps it until it is unregistered.
    unsafe { &*bindings::rvsock_helper_net_device_interface(dev).cast::<T>() }
}

impl<T: Interface> Callbacks<T> {
    const NET_DEVICE: bindings::net_device_ops = bindings::net_device_ops {
        ndo_open: Some(Self::open),
        ndo_stop: Some(Self::stop),
        ndo_start_xmit: Some(bindings::rvsock_helper_net_device_start_xmit),
        ndo_select_queue: Some(Self::select_queue),
        ndo_get_stats64: Some(Self::get_stats64),
        // SAFETY: A table without functions is a valid one.
        ..unsafe { core::mem::zeroed() }
    };

    const ETHTOOL: bindings::ethtool_ops = bindings::ethtool_ops {
        get_drvinfo: Some(bindings::rvsock_helper_net_device_drvinfo),
        get_link: Some(bindings::ethtool_op_get_link),
        get_sset_count: Some(Self::get_sset_count),
        get_strings: Some(Self::get_strings),
        get_ethtool_stats: Some(Self::get_ethtool_stats),
        // SAFETY: A table without functions is a valid one, that knows of no parameters.
        ..unsafe { core::mem::zeroed() }
    };

    extern "C" fn open(dev: *mut bindings::net_device) -> c_int {
        // SAFETY: The device is ours, and registered while this runs.
        unsafe {
            bindings::rvsock_helper_net_device_start(dev);
            interface::<T>(dev).open();
        }
        0
    }

    extern "C" fn stop(dev: *mut bindings::net_device) -> c_int {
        // SAFETY: The device is ours, and not yet unregistered while this runs.
        unsafe { interface::<T>(dev).stop() };
        0
    }

    extern "C" fn transmit(skb: *mut bindings::sk_buff, dev: *mut bindings::net_device) {
        let Some(skb) = NonNull::new(skb) else {
            return;
        };
        // SAFETY: The device is ours, and registered while this runs; the buffer is valid, and given to us.
        unsafe {
            let interface = interface::<T>(dev);
            let queue = bindings::rvsock_helper_skb_queue(skb.as_ptr());
            let more = bindings::rvsock_helper_net_device_xmit_more();
            if Turn::is_one(skb) {
                interface.transmit(queue, Turn::from_raw(skb), more);
            } else {
                bindings::rvsock_helper_net_device_refuse(dev, skb.as_ptr());
                if !more {
                    interface.flush(queue);
                }
            }
        }
    }

    extern "C" fn select_queue(
        _dev: *mut bindings::net_device,
        skb: *mut bindings::sk_buff,
        _sb_dev: *mut bindings::net_device,
    ) -> u16 {
        // SAFETY: The buffer is valid.
        let queue = unsafe { bindings::rvsock_helper_skb_queue(skb) };
        // Else the log says that it is the driver's fault.
        if queue < T::TX_QUEUES {
            queue
        } else {
            0
        }
    }

    extern "C" fn get_stats64(
        dev: *mut bindings::net_device,
        stats: *mut bindings::rtnl_link_stats64,
    ) {
        // SAFETY: The device is ours, and not yet unregistered while this runs.
        let now = unsafe { interface::<T>(dev) }.statistics();
        // SAFETY: The caller's, which has cleared it.
        let stats = unsafe { &mut *stats };
        stats.rx_packets = now.rx_packets;
        stats.rx_bytes = now.rx_bytes;
        stats.tx_packets = now.tx_packets;
        stats.tx_bytes = now.tx_bytes;
        stats.rx_dropped = now.rx_dropped;
        stats.tx_dropped = now.tx_dropped;
    }

    extern "C" fn get_sset_count(_dev: *mut bindings::net_device, set: c_int) -> c_int {
        // CAST: A small number.
        if set == bindings::ethtool_stringset_ETH_SS_STATS as c_int {
            T::COUNTERS.len() as c_int
        } else {
            Error::from(NetError::OpNotSupp).to_errno()
        }
    }

    extern "C" fn get_strings(_dev: *mut bindings::net_device, set: u32, to: *mut u8) {
        const SIZE: usize = bindings::ETH_GSTRING_LEN as usize;
        if set != bindings::ethtool_stringset_ETH_SS_STATS {
            return;
        }
        for (i, name) in T::COUNTERS.iter().enumerate() {
            // The rest is zeroes.
            let len = name.len().min(SIZE - 1);
            // SAFETY: The caller has room for as many names as `get_sset_count()` has said, which it has cleared.
            unsafe {
                core::ptr::copy_nonoverlapping(name.as_ptr(), to.add(i * SIZE), len);
            }
        }
    }

    extern "C" fn get_ethtool_stats(
        dev: *mut bindings::net_device,
        _stats: *mut bindings::ethtool_stats,
        to: *mut u64,
    ) {
        // SAFETY: The device is ours, and not yet unregistered while this runs.
        let interface = unsafe { interface::<T>(dev) };
        for i in 0..T::COUNTERS.len() {
            // SAFETY: The caller has room for as many as `get_sset_count()` has said.
            unsafe { *to.add(i) = interface.counter(i) };
        }
    }
}
