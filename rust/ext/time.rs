// SPDX-License-Identifier: GPL-2.0

//! The time as a number, which [`kernel::time::Instant`] does not tell.
//!
//! C header: [`include/linux/timekeeping.h`](srctree/include/linux/timekeeping.h)

use kernel::bindings;

/// Milliseconds of CLOCK_MONOTONIC, which only goes forward, and stands still while the machine is suspended.
///
/// # Context
///
/// Any.
pub(crate) fn monotonic_ms() -> u64 {
    // SAFETY: It may be called anywhere.
    let nanos = unsafe { bindings::ktime_get() };
    u64::try_from(nanos).unwrap_or(0) / 1_000_000
}
