// SPDX-License-Identifier: GPL-2.0

//! The bus writes them as it restores the device, or as another driver probes it.

use crate::ext::virtio::Device;
use kernel::{
    device::Core,
    prelude::*,
    sync::aref::ARef, //
};

fn probe(dev: &Device<Core<'_>>) -> u64 {
    dev.features()
}

fn later(dev: &ARef<Device>) {
    let _ = dev.index();
    let _ = dev.features(); //~ E0599 no method named `features`
}
