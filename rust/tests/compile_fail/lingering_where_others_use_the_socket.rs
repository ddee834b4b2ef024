// SPDX-License-Identifier: GPL-2.0

//! It lets the socket go: another call may have it served by another transport meanwhile.

use crate::ext::net::vsock::{
    NewSock,
    OwnedSock,
    Releasing,
    UserOwned, //
};
use kernel::prelude::*;

fn release(sk: Releasing<'_>) {
    sk.linger().disconnect(false);
}

fn init(sk: &NewSock<'_>) {
    sk.linger(); //~ E0599 no method named `linger`
}

fn connect(sk: &UserOwned<'_>) {
    sk.linger(); //~ E0599 no method named `linger`
}

fn in_a_softirq(sk: &OwnedSock<'_>) {
    sk.linger(); //~ E0599 no method named `linger`
}
