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
            SkBuff,
            SkBuffQueue, //
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
use core::cell::{
    Cell,
    RefCell, //
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

/// Copies of packets that were sent, which monitors have not been shown yet.
///
/// They are made where a packet is sent, under `Tx::inner`, and shown with nothing locked: a monitor is an interface, whose
/// scheduler may have filters that send through ours.
pub(super) struct Unshown(SkBuffQueue<()>);

/// Makes a copy of a packet, if there are monitors, and shows none.
struct Copying<'a> {
    packet: &'a Packet,
    to: RefCell<&'a mut Unshown>,
}

impl Tapped for Copying<'_> {
    fn copy(&self) -> Option<SkBuff> {
        if let (Some(copy), Ok(mut to)) = (self.packet.copy(), self.to.try_borrow_mut()) {
            to.0.push_back(copy);
        }
        None
    }
}

/// A copy to be shown.
impl Tapped for Cell<Option<SkBuff>> {
    fn copy(&self) -> Option<SkBuff> {
        self.take()
    }
}

impl Unshown {
    /// None.
    pub(super) const fn new() -> Self {
        Self(SkBuffQueue::new())
    }

    /// Adds a packet that is about to be sent, once, if there are monitors.
    pub(super) fn add(&mut self, packet: &mut Packet) {
        if !packet.control_mut().mark_tapped() {
            deliver(&Copying {
                packet,
                to: RefCell::new(self),
            });
        }
    }

    /// Takes all out.
    pub(super) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }

    /// Shows monitors all.
    ///
    /// # Context
    ///
    /// Does not sleep. To be called with nothing locked.
    pub(super) fn show(mut self) {
        while let Some(copy) = self.0.pop_front() {
            deliver(&Cell::new(Some(copy)));
        }
    }
}
