// SPDX-License-Identifier: GPL-2.0

//! A token has one turn at a time: whoever takes it has the token to itself.

use crate::ext::net::device::{
    NetDevice,
    Registration,
    Token,
    Turn, //
};

fn is_sync<T: Sync>(_: &T) {}

fn all(device: &NetDevice, registration: &Registration, token: &Token, turn: &Turn) {
    is_sync(device);
    is_sync(registration);
    is_sync(turn);
    is_sync(token); //~ E0277 cannot be shared between threads safely
}
