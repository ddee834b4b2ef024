// SPDX-License-Identifier: GPL-2.0

//! Copies of packets for vsockmon devices; they always have the header of 44 bytes.
//!
//! Source: include/uapi/linux/vsockmon.h.

use super::{
    packet::Packet,
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
        Header,
        Op,
        HEADER_LEN, //
    }, //
};
use kernel::prelude::*;

/// `struct af_vsockmon_hdr`, in bytes.
const MONITOR_HEADER_LEN: usize = 32;

/// `AF_VSOCK_TRANSPORT_VIRTIO`.
const TRANSPORT_VIRTIO: u16 = 2;

/// What monitors know a packet as, `AF_VSOCK_OP_*`.
fn monitor_op(header: &Header) -> u16 {
    match header.operation() {
        Ok(Op::Request | Op::Response) => 1,
        Ok(Op::Rst | Op::Shutdown) => 2,
        Ok(Op::CreditUpdate | Op::CreditRequest) => 3,
        Ok(Op::Rw) => 4,
        Err(_) => 0,
    }
}

/// A copy with `payload` appended by `append`.
fn copy(
    header: &Header,
    payload: usize,
    append: impl FnOnce(&mut SkBuff) -> Result,
) -> Option<SkBuff> {
    let capacity = payload.checked_add(MONITOR_HEADER_LEN + HEADER_LEN)?;
    let mut skb = SkBuff::alloc(capacity, GFP_ATOMIC, ()).ok()?;
    let fields: [&[u8]; 8] = [
        &header.src_cid.to_le_bytes(),
        &header.dst_cid.to_le_bytes(),
        &header.src_port.to_le_bytes(),
        &header.dst_port.to_le_bytes(),
        &monitor_op(header).to_le_bytes(),
        &TRANSPORT_VIRTIO.to_le_bytes(),
        // The length of the transport's header, and two reserved bytes.
        &[HEADER_LEN as u8, 0, 0, 0],
        &header.to_bytes(),
    ];
    for field in fields {
        skb.put_slice(field).ok()?;
    }
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

/// A packet was received.
pub(super) fn received(header: &Header, payload: &Payload) {
    deliver(&Received { header, payload });
}

impl Tapped for Packet {
    fn copy(&self) -> Option<SkBuff> {
        let mut bytes = [0; HEADER_LEN];
        self.read(0, &mut bytes).ok()?;
        let header_len = self.control().header_len();
        let payload = self.len().checked_sub(header_len)?;
        copy(&Header::parse(&bytes), payload, |skb| {
            skb.put_skb(self, header_len, payload)
        })
    }
}

/// A packet is about to be sent.
pub(super) fn sent(packet: &mut Packet) {
    if !packet.control_mut().tap() {
        deliver(packet);
    }
}
