// SPDX-License-Identifier: GPL-2.0

//! The rings follow the features that the device was told; those of the transport are not the driver's at all.

use crate::ext::virtio::{
    Device,
    Features, //
};
use kernel::{
    device::Core,
    prelude::*, //
};

fn validate(features: &mut Features<'_>) -> Result {
    features.clear(1)
}

fn probe(dev: &Device<Core<'_>>) {
    dev.clear_feature(1); //~ E0599 no method named `clear_feature`
}
