// SPDX-License-Identifier: GPL-2.0

//! After the waiting it is another proof, as the socket was let go.

use crate::ext::net::{
    msg::Msg,
    skbuff::SkBuff,
    vsock::Sending, //
};
use kernel::prelude::*;

fn enqueue(sk: Sending<'_>, msg: &mut Msg) -> Result<SkBuff> {
    let waited = sk.wait_until(msg, || true)?;
    let skb = waited.datagram(0, 1, |_| [0; 4], msg, 1, ());
    let skb = sk.datagram(0, 1, |_| [0; 4], msg, 1, ()); //~ E0382 use of moved value: `sk`
    skb
}
