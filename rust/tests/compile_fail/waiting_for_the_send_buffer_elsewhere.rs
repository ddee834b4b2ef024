// SPDX-License-Identifier: GPL-2.0

//! It lets the socket go: only the call that sends a datagram may.

use crate::ext::net::{
    msg::Msg,
    skbuff::SkBuff,
    vsock::{
        OwnedSock,
        Sending,
        UserOwned, //
    }, //
};
use kernel::prelude::*;

fn enqueue(sk: Sending<'_>, msg: &mut Msg) -> Result<SkBuff> {
    sk.datagram(0, 1, |_| [0; 4], msg, 1, ())
}

fn bind(sk: &UserOwned<'_>, msg: &mut Msg) {
    let _: Result<SkBuff> = sk.datagram(0, 1, |_| [0; 4], msg, 1, ()); //~ E0599 no method named `datagram`
}

fn in_a_softirq(sk: &OwnedSock<'_>, msg: &mut Msg) {
    let _: Result<SkBuff> = sk.datagram(0, 1, |_| [0; 4], msg, 1, ()); //~ E0599 no method named `datagram`
}
