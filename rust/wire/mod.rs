// SPDX-License-Identifier: GPL-2.0

//! The wire: what the bytes of packets, events and the configuration space mean.
//!
//! Source: virtio 1.3, section "Socket Device", and for the 46-byte header the draft of 2022. C header: [`include/uapi/linux/virtio_vsock.h`].
//!
//! This room is pure: only `core`, no `unsafe`, no panic on any input, nothing that waits. The very
//! same files compile into the module and, with their tests, on the host (`tools/hosttest`). Values
//! come out in host byte order; a value outside its enumeration comes out as the raw number.
//!
//! [`include/uapi/linux/virtio_vsock.h`]: srctree/include/uapi/linux/virtio_vsock.h

#![deny(unsafe_code)]

mod bytes;
mod event;
mod header;
mod monitor;
mod types;

pub use self::event::{
    is_reserved_cid,
    Config,
    Event, //
};
pub use self::header::{
    Address,
    Header,
    HeaderMrg,
    HEADER_LEN,
    HEADER_LEN_MRG, //
};
pub use self::monitor::{
    monitor_header,
    MONITOR_LEN, //
};
pub use self::types::{
    Op,
    SeqFlags,
    ShutdownFlags,
    SocketType, //
};

/// The CID of the host.
pub const CID_HOST: u32 = 2;
