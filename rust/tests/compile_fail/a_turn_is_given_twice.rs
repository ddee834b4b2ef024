// SPDX-License-Identifier: GPL-2.0

//! What was given to the scheduler is the scheduler's.

use crate::ext::net::device::{
    NetDevice,
    Token,
    Turn, //
};

fn twice(device: &NetDevice, turn: Turn) {
    device.submit(turn);
    device.submit(turn); //~ E0382 use of moved value: `turn`
}

fn and_looked_at(device: &NetDevice, token: &Token, turn: Turn) {
    device.submit(turn);
    let _ = token.matches(&turn); //~ E0382 borrow of moved value: `turn`
}
