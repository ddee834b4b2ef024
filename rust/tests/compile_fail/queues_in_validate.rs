// SPDX-License-Identifier: GPL-2.0

//! What the driver before has left in `priv` is none of this one's.

use crate::ext::virtio::Features;
use kernel::prelude::*;

fn validate(features: &mut Features<'_>) {
    let _ = features.device().index();
    let _ = features.device().delete_vqs(); //~ E0599 no method named `delete_vqs`
    let _ = features.device().renegotiate(0); //~ E0599 no method named `renegotiate`
}
