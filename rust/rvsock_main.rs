// SPDX-License-Identifier: GPL-2.0

//! Guest driver for the virtio socket device.

use kernel::prelude::*;

mod ext;

module! {
    type: Rvsock,
    name: "rvsock",
    authors: ["The rvsock developers"],
    description: "virtio socket driver",
    license: "GPL",
}

struct Rvsock;

impl kernel::Module for Rvsock {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("{}\n", ext::bindings::AF_VSOCK);
        Ok(Self)
    }
}
