// SPDX-License-Identifier: GPL-2.0

//! The socket is owned by this call, or its spinlock held by this CPU.

use crate::ext::net::vsock::{
    NewSock,
    OwnedSock,
    Releasing,
    Sending,
    UserOwned,
    VsockSock, //
};
use kernel::prelude::*;

fn is_send<T: Send>(_: &T) {}

fn all(sk: &VsockSock, owned: &OwnedSock<'_>, user: &UserOwned<'_>, new: &NewSock<'_>) {
    is_send(sk);
    is_send(owned); //~ E0277 cannot be sent between threads safely
    is_send(user); //~ E0277 cannot be sent between threads safely
    is_send(new); //~ E0277 cannot be sent between threads safely
}

fn consumed(releasing: Releasing<'_>, sending: Sending<'_>) {
    is_send(&releasing); //~ E0277 cannot be sent between threads safely
    is_send(&sending); //~ E0277 cannot be sent between threads safely
}
