// SPDX-License-Identifier: GPL-2.0

//! To begin a notification may sleep.

use crate::ext::net::{
    msg::Msg,
    vsock::{
        OwnedSock,
        UserOwned, //
    },
    zerocopy::ZeroCopy, //
};
use kernel::prelude::*;

fn enqueue(sk: &UserOwned<'_>, msg: &Msg) {
    let _ = ZeroCopy::begin(sk, msg, 1);
}

fn in_a_softirq(sk: &OwnedSock<'_>, msg: &Msg) {
    let _ = ZeroCopy::begin(sk, msg, 1); //~ E0308 mismatched types
}
