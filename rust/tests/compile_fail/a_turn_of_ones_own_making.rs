// SPDX-License-Identifier: GPL-2.0

//! Turns come from tokens, and from the scheduler.

use crate::ext::net::{
    device::{
        Token,
        Turn, //
    },
    skbuff::SkBuff, //
};

fn from_a_packet(packet: SkBuff) -> Turn {
    Turn::from(packet) //~ E0308 mismatched types
    loop {} //+
}

fn another(turn: &Turn) -> Turn {
    turn.clone() //~ E0599 no method named `clone`
    loop {} //+
}
