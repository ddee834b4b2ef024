// SPDX-License-Identifier: GPL-2.0

//! Compiles where a barrier between processors is told of no kind, as up to Linux 7.2.

/// A full one.
pub fn barrier() {
    kernel::sync::barrier::smp_mb();
}
