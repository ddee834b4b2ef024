// SPDX-License-Identifier: GPL-2.0

//! What ext leads to a socket, it leads away again; nobody else can give it another.

use crate::ext::net::vsock::{
    NewSock,
    Serves,
    VsockSock,
    WeakSock, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

fn keep(way: &WeakSock) -> WeakSock {
    way.clone()
}

fn make(sk: &VsockSock) {
    let _ = WeakSock::new(); //~ E0624 associated function `new` is private
}

fn lead(way: &WeakSock, sk: &VsockSock) {
    way.lead_to(sk, None); //~ E0624 method `lead_to` is private
}
