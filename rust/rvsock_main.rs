// SPDX-License-Identifier: GPL-2.0

//! Guest driver for the virtio socket device.
//!
//! The device is a post office between machines: a guest puts packets into its transmit queue, and
//! finds what came for it in the buffers of its receive queue; the host delivers. A packet is a
//! header of 44 bytes, little endian, and up to as much payload as the header says:
//!
//! ```text
//!  0        8        16       20       24    28   30   32      36          40        44
//!  +--------+--------+--------+--------+-----+----+----+-------+-----------+---------+-----
//!  | src_cid| dst_cid|src_port|dst_port| len |type| op | flags | buf_alloc | fwd_cnt | payload
//!  +--------+--------+--------+--------+-----+----+----+-------+-----------+---------+-----
//! ```
//!
//! A machine's number is its CID; the host's is 2. A connection is made by REQUEST and RESPONSE, or
//! refused by RST. RW carries payload. SHUTDOWN says which directions are over; when both are, RST
//! ends it. Each side tells in every packet how large its buffer is (`buf_alloc`) and how many bytes
//! its reader has taken so far (`fwd_cnt`): that is the other side's credit, and nobody sends beyond
//! it. CREDIT_UPDATE tells it without payload, and CREDIT_REQUEST asks for it.
//!
//! The rooms, in the order in which a packet meets them:
//!
//! - [`ext`]: what the `kernel` crate lacks. All `unsafe` code is there.
//! - [`driver`]: the device, its queues, its connections, and what AF_VSOCK calls.
//! - [`wire`]: bytes to values, and back. Pure.
//! - [`proto`]: the rules; what a packet does to a connection, and who may send how much. Pure.
//!
//! Source: virtio 1.3, "Socket Device".

#![deny(unsafe_code)]

use crate::ext::{
    debugfs::Dir,
    module_info::{
        module_softdep,
        module_version, //
    },
    virtio,
    work::Workqueues, //
};
use kernel::{
    driver::Registration,
    prelude::*, //
};

mod driver;
// A library: the driver need not use all of it.
#[allow(dead_code, unreachable_pub, unsafe_code, unused_imports, unused_macros)]
mod ext;
// Their items are public to the tests on the host, which compile the same files.
#[allow(unreachable_pub)]
mod proto;
#[allow(unreachable_pub)]
mod wire;

module! {
    type: Rvsock,
    name: "rvsock",
    authors: ["The rvsock developers"],
    description: "Guest driver for the virtio socket device",
    license: "GPL",
}

// What its numbers promise: Documentation/versions.rst.
module_version!("0.1.0");

// So that programs find their own machine as well, at CID 1.
module_softdep!("post: vsock_loopback");

/// The loaded module. Its parts end in the order of the fields: the devices first, then what their sockets
/// were served by.
#[pin_data]
struct Rvsock {
    _debugfs: Dir,
    #[pin]
    driver: Registration<virtio::Adapter<driver::Driver>>,
    shared: driver::Shared,
    workqueues: Workqueues,
}

impl kernel::InPlaceModule for Rvsock {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let workqueues = Workqueues::new::<Self>()?;
            let shared = driver::Shared::new()?;
            Ok(try_pin_init!(Self {
                workqueues,
                shared,
                _debugfs: driver::show(),
                driver <- Registration::new(c"rvsock", module),
            }? Error))
        })
    }
}
