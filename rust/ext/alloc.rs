// SPDX-License-Identifier: GPL-2.0

//! Allocation flags for C functions that the `kernel` crate does not wrap.

use kernel::{
    alloc::{
        flags::{
            GFP_ATOMIC,
            GFP_KERNEL,
            GFP_KERNEL_ACCOUNT,
            GFP_NOWAIT, //
        },
        Flags,
    },
    bindings,
    prelude::*, //
};

/// The raw value of one of the four common flags.
///
/// `Flags::as_raw` is private to the `kernel` crate; there this function would be that one.
///
/// # Errors
///
/// `EINVAL` for any other combination.
pub(super) fn gfp_as_raw(flags: Flags) -> Result<bindings::gfp_t> {
    if flags == GFP_ATOMIC {
        Ok(bindings::GFP_ATOMIC)
    } else if flags == GFP_KERNEL {
        Ok(bindings::GFP_KERNEL)
    } else if flags == GFP_NOWAIT {
        Ok(bindings::GFP_NOWAIT)
    } else if flags == GFP_KERNEL_ACCOUNT {
        Ok(bindings::GFP_KERNEL_ACCOUNT)
    } else {
        Err(EINVAL)
    }
}
