// SPDX-License-Identifier: GPL-2.0

//! Copies of packets for vsockmon devices; they always have the header of 44 bytes.
//!
//! Source: include/uapi/linux/vsockmon.h.

use super::{
    packet::{
        header_of,
        Packet, //
    },
    payload::Payload, //
};
use crate::{
    ext::net::{
        skbuff::{
            ControlBlock,
            SkBuff, //
        },
        vsock::{
            deliver,
            Tapped, //
        }, //
    },
    wire::{
        monitor_header,
        Header,
        MONITOR_LEN, //
    }, //
};
use kernel::prelude::*;

/// Makes a copy with `payload` bytes of payload, which `append` appends; none without memory.
///
/// # Context
///
/// Does not sleep.
fn copy(
    header: &Header,
    payload: usize,
    append: impl FnOnce(&mut SkBuff) -> Result,
) -> Option<SkBuff> {
    let capacity = payload.checked_add(MONITOR_LEN)?;
    let mut skb = SkBuff::alloc(capacity, GFP_ATOMIC, ()).ok()?;
    skb.put_slice(&monitor_header(header)).ok()?;
    append(&mut skb).ok()?;
    Some(skb)
}

struct Received<'a> {
    header: &'a Header,
    payload: &'a Payload,
}

impl Tapped for Received<'_> {
    fn copy(&self) -> Option<SkBuff> {
        copy(self.header, self.payload.len(), |skb| {
            self.payload
                .try_for_each(|block, at, len| skb.put_block(block, at, len))
        })
    }
}

/// Shows monitors a packet that was received.
///
/// # Context
///
/// Does not sleep.
pub(super) fn show_received(header: &Header, payload: &Payload) {
    deliver(&Received { header, payload });
}

impl Tapped for Packet {
    fn copy(&self) -> Option<SkBuff> {
        let header = header_of(self)?;
        let header_len = self.control().header_len();
        let payload = self.len().checked_sub(header_len)?;
        copy(&header, payload, |skb| {
            skb.put_skb(self, header_len, payload)
        })
    }
}

/// Shows monitors a packet that is about to be sent, once.
///
/// # Context
///
/// Does not sleep.
pub(super) fn show_sent(packet: &mut Packet) {
    if !packet.control_mut().mark_tapped() {
        deliver(packet);
    }
}
