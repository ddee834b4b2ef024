// SPDX-License-Identifier: GPL-2.0

//! The configuration space of a virtio device.
//!
//! C header: [`include/linux/virtio_config.h`](srctree/include/linux/virtio_config.h)
//!
//! A transport takes a read beyond the end as a bug of the driver: some stop the kernel, others read
//! or write beyond what is theirs. So a read is held against what the driver says that it knows
//! ([`Driver::CONFIG_LEN`](super::Driver::CONFIG_LEN)), and what the device says that it has.

use super::device::Device;
use crate::ext::bindings as ext_bindings;
use kernel::{
    device,
    prelude::*, //
};

impl Device<device::Core<'_>> {
    /// Whether the device has a configuration space.
    pub(crate) fn has_config(&self) -> bool {
        // SAFETY: By the type invariants, it is a valid device, and so are its operations.
        unsafe { (*(*self.as_raw()).config).get.is_some() }
    }

    /// Reads the byte at `offset` of the configuration space.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `ENODEV` if the device has no configuration space.
    /// - `EINVAL` if the field is not within
    ///   [`Driver::CONFIG_LEN`](super::Driver::CONFIG_LEN) and what the device has, or not aligned
    ///   (to four bytes, if it is longer).
    /// - `EAGAIN` if the device changes it again and again while it is being read.
    pub(crate) fn config_u8(&self, offset: u32) -> Result<u8> {
        self.read(offset).map(u8::from_le_bytes)
    }

    /// Reads the little-endian `u16` at `offset`. See [`config_u8`](Self::config_u8).
    pub(crate) fn config_u16(&self, offset: u32) -> Result<u16> {
        self.read(offset).map(u16::from_le_bytes)
    }

    /// Reads the little-endian `u32` at `offset`. See [`config_u8`](Self::config_u8).
    pub(crate) fn config_u32(&self, offset: u32) -> Result<u32> {
        self.read(offset).map(u32::from_le_bytes)
    }

    /// Reads the little-endian `u64` at `offset`. See [`config_u8`](Self::config_u8).
    pub(crate) fn config_u64(&self, offset: u32) -> Result<u64> {
        self.read(offset).map(u64::from_le_bytes)
    }

    fn read<const N: usize>(&self, offset: u32) -> Result<[u8; N]> {
        let len = self.queues().map_or(0, |queues| queues.config_len());
        // SAFETY: By the type invariants, it is a valid device, and `len` is what it was when it was
        // bound.
        unsafe { read(self.as_raw(), len, offset) }
    }
}

/// How many bytes of the configuration space can be read by a driver that knows the first `known` of
/// them.
///
/// # Context
///
/// May sleep.
///
/// # Safety
///
/// `vdev` must be valid, and its transport, too.
pub(super) unsafe fn config_len(vdev: *mut ext_bindings::virtio_device, known: usize) -> u32 {
    // SAFETY: By the safety requirement.
    let len = unsafe { ext_bindings::rvsock_helper_virtio_config_len(vdev) };
    u32::try_from(known).map_or(len, |known| known.min(len))
}

/// Reads `N` bytes (1, 2, 4 or 8) of the configuration space, all of the same generation.
///
/// # Context
///
/// May sleep.
///
/// # Safety
///
/// - `vdev` must be valid. Its transport must be, too, which it is while a driver is bound.
/// - `config_len` must be at most what [`config_len`] returned for it.
pub(super) unsafe fn read<const N: usize>(
    vdev: *mut ext_bindings::virtio_device,
    config_len: u32,
    offset: u32,
) -> Result<[u8; N]> {
    const { assert!(matches!(N, 1 | 2 | 4 | 8)) };
    /// A device changes its configuration seldom. More is malice, and not waited for.
    const ATTEMPTS: usize = 16;
    // CAST: It is at most 8.
    let len = const { N as u32 };

    // SAFETY: By the safety requirement, the device and its operations are valid.
    let config = unsafe { &*(*vdev).config };
    let get = config.get.ok_or(ENODEV)?;
    let end = offset.checked_add(len).ok_or(EINVAL)?;
    if end > config_len || offset % len.min(4) != 0 {
        return Err(EINVAL);
    }
    let generation = || match config.generation {
        // SAFETY: By the safety requirement, the device is valid.
        Some(generation) => unsafe { generation(vdev) },
        None => 0,
    };

    let mut before = generation();
    for _ in 0..ATTEMPTS {
        let mut bytes = [0u8; N];
        // SAFETY:
        // - By the safety requirement, the device is valid.
        // - The field is aligned, and within the configuration space, by the safety requirement.
        // - `bytes` is as long as the length says, a length that all transports know.
        unsafe { get(vdev, offset, bytes.as_mut_ptr().cast(), len) };
        let after = generation();
        if before == after {
            return Ok(bytes);
        }
        before = after;
    }
    Err(EAGAIN)
}
