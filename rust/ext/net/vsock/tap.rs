// SPDX-License-Identifier: GPL-2.0

//! Packets for vsockmon devices.
//!
//! C headers: [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h),
//! [`include/uapi/linux/vsockmon.h`](srctree/include/uapi/linux/vsockmon.h)

use crate::ext::{
    bindings,
    net::skbuff::SkBuff, //
};
use core::ffi::c_void;

/// A packet that a monitor may want a copy of.
pub(crate) trait Tapped {
    /// Makes the copy, in the form of `struct af_vsockmon_hdr` and what follows it.
    ///
    /// Called only if there is a monitor. Must not sleep.
    fn copy(&self) -> Option<SkBuff>;
}

/// Gives a copy of `packet` to each vsockmon device.
///
/// Costs next to nothing when there is none. Does not sleep.
pub(crate) fn deliver<T: Tapped>(packet: &T) {
    extern "C" fn build<T: Tapped>(packet: *mut c_void) -> *mut bindings::sk_buff {
        // SAFETY: The pointer is the one that is passed below, borrowed for as long as
        // `vsock_deliver_tap()` runs.
        let packet = unsafe { &*packet.cast_const().cast::<T>() };
        packet
            .copy()
            .map_or(core::ptr::null_mut(), |skb| skb.into_raw().0.as_ptr())
    }

    let packet = core::ptr::from_ref(packet).cast_mut().cast();
    // SAFETY: `build` fits `packet`, and is not called after the function has returned; the buffer
    // that it makes becomes C's.
    unsafe { bindings::vsock_deliver_tap(Some(build::<T>), packet) };
}
