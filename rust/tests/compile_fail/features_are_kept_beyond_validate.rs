// SPDX-License-Identifier: GPL-2.0

//! Afterwards the device has been told.

use crate::ext::virtio::Features;
use kernel::prelude::*;

fn is_send<T: Send>(_: &T) {}

fn validate(features: &mut Features<'_>) {
    let _ = features.bits();
    is_send(features); //~ E0277 cannot be sent between threads safely
}
