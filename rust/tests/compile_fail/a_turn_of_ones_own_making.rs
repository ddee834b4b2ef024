// SPDX-License-Identifier: GPL-2.0

//! Turns come from tokens, and from the scheduler.

use crate::ext::net::{
    device::Turn,
    skbuff::SkBuff, //
};

fn from_a_packet(packet: SkBuff) {
    let _ = Turn::from(packet); //~ E0308 mismatched types
}

fn another(turn: Turn) {
    let _ = turn.clone(); //~ E0599 no method named `clone`
}
