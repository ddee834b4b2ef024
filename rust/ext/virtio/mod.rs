// SPDX-License-Identifier: GPL-2.0

//! Abstractions for the virtio bus.
//!
//! C headers: [`include/linux/virtio.h`](srctree/include/linux/virtio.h),
//! [`include/linux/virtio_config.h`](srctree/include/linux/virtio_config.h)
//!
//! A [`Driver`] is bound to a [`Device`], negotiates features with it, and finds its queues
//! ([`Device::find_vqs`]). A [`Virtqueue`] owns the buffers that it was given until the device has
//! used them, or until the queues end.
//!
//! # When queues end
//!
//! Queues are deleted by [`Device::delete_vqs`], and at the latest when the callback returns that ends
//! the device's operation: `remove`, `freeze`, `reset_prepare`, a `probe` or `restore` or `reset_done`
//! that failed. The steps are always the same:
//!
//! 1. The set of queues is marked dead. Each operation on a queue looks at the mark inside an RCU
//!    read-side section, and after a grace period none is under way any more.
//! 2. The device is reset. It does not touch memory any more, and its interrupts are over.
//! 3. The buffers that are left come out of each queue, as what they are, and are dropped.
//! 4. The queues are deleted, and the handler of their interrupts is let go.
//!
//! So a [`Virtqueue`] that a driver holds on to for longer is a dead one: it gives `EIO` and `None`,
//! and cannot do harm. Dropping one never sleeps, and does not end the queue.

mod buffer;
mod config;
mod device;
mod driver;
mod features;
mod queues;
mod restart;
mod uevent;
mod virtqueue;

pub(crate) use buffer::{
    Buffer,
    Segments,
    MAX_SEGMENTS, //
};
pub(crate) use device::virtio_device_table;
pub(crate) use device::{
    Device,
    DeviceId,
    IdTable, //
};
pub(crate) use driver::{
    Adapter,
    Driver, //
};
pub(crate) use features::Features;
pub(crate) use queues::{
    ConfigSpace,
    Handler,
    Queue,
    VqSpec, //
};
pub(crate) use virtqueue::{
    AddError,
    Notify,
    Virtqueue, //
};
