// SPDX-License-Identifier: GPL-2.0

//! Whoever lets the socket go does not hold on to the proof of owning it.

use crate::ext::net::vsock::Releasing;
use kernel::prelude::*;

fn release(sk: Releasing<'_>) {
    let owned = sk.linger();
    owned.disconnect(false);
    sk.disconnect(false); //~ E0382 borrow of moved value: `sk`
}
