// SPDX-License-Identifier: GPL-2.0

//! The data of a socket are those of the transport that its table is of.

use crate::ext::net::vsock::{
    Addr,
    Listener,
    Table,
    Transport, //
};
use kernel::prelude::*;

fn admit<A: Transport, B: Transport>(
    listener: &Listener,
    here: Addr,
    peer: Addr,
    a: &'static Table<A>,
    b: &'static Table<B>,
) {
    let _ = listener.create_child::<A>(here, peer, a, |_, _| Ok(()));
    let _ = listener.create_child::<A>(here, peer, b, |_, _| Ok(())); //~ E0308 mismatched types
}
