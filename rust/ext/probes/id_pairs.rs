// SPDX-License-Identifier: GPL-2.0

//! Compiles where a device's identifier comes in a pair with its data, as up to Linux 7.2.

use kernel::device_id::{IdArray, RawDeviceId};

/// An array of one identifier, without data.
pub fn array<T: RawDeviceId>(id: T) -> IdArray<T, (), 1> {
    IdArray::new_without_index([(id, ())])
}
