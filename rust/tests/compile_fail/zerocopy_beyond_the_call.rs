// SPDX-License-Identifier: GPL-2.0

//! The sender keeps the notification that it brings for as long as it sends.

use crate::ext::net::{
    msg::Msg,
    vsock::UserOwned,
    zerocopy::ZeroCopy, //
};
use kernel::prelude::*;

fn enqueue(sk: UserOwned<'_>, msg: &Msg) -> Result {
    let notification = ZeroCopy::begin(&sk, msg, 1)?;
    drop(sk); //~ E0505 cannot move out of `sk` because it is borrowed
    drop(notification);
    Ok(())
}
