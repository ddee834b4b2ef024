// SPDX-License-Identifier: GPL-2.0

//! The network interface, by whose scheduler Linux orders what is sent (Documentation/scheduling.rst).
//!
//! It is there if the administrator has asked for it, and down at first; then nothing changes. What is received
//! does not come by it.

use super::{
    link::Link,
    stats::{
        Counter,
        STATS, //
    },
};
use crate::{
    ext::net::device::{
        self,
        NetDevice,
        Registration,
        Statistics,
        Turn, //
    },
    wire::HEADER_LEN_MRG, //
};
use kernel::{
    device::Device,
    prelude::*,
    sync::Arc, //
};

/// What the scheduler sees as the queue of connections, and that of datagrams, where these have one of their own.
const STREAMS: u16 = 0;
const DATAGRAMS: u16 = 1;

/// The network interface of a device.
pub(super) struct Interface {
    link: Arc<Link>,
}

impl Interface {
    /// Makes an interface through which packets of `link` can be scheduled, for as long as what is returned is kept. It is a
    /// child of `parent`.
    ///
    /// # Context
    ///
    /// Sleeps, and takes RTNL.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: no memory.
    /// - Others as of [`Registration::new`].
    pub(super) fn register(link: &Arc<Link>, parent: &Device) -> Result<Registration> {
        let device = NetDevice::new()?;
        link.streams.tx().attach(device.clone(), STREAMS);
        link.datagrams.tx().attach(device.clone(), DATAGRAMS);
        let interface = Arc::new(Self { link: link.clone() }, GFP_KERNEL)?;
        Registration::new(&device, interface, Some(parent))
    }

    fn set_up(&self, up: bool) {
        self.link.streams.set_up(&self.link, up);
        self.link.datagrams.set_up(&self.link, up);
    }
}

impl device::Interface for Interface {
    const NAME: &'static CStr = c"vsock%d";
    const TX_QUEUES: u16 = 2;
    /// A stream's greatest packet, unless its payload stays in the user's pages; datagrams may be longer.
    const MTU: u32 = (32 * 1024 + HEADER_LEN_MRG) as u32;
    const COUNTERS: &'static [&'static str] = Counter::NAMES;

    fn open(&self) {
        self.set_up(true);
    }

    fn stop(&self) {
        self.set_up(false);
    }

    fn transmit(&self, queue: u16, turn: Turn, more: bool) {
        let [own, other] = match queue {
            DATAGRAMS => [&self.link.datagrams, &self.link.streams],
            _ => [&self.link.streams, &self.link.datagrams],
        };
        // A filter may have moved it to the other queue. One that is nobody's any more has done its part: its packet went
        // when the interface was set down, or with its connection.
        if !own.spend(&self.link, &turn, more) {
            other.spend(&self.link, &turn, false);
        }
    }

    fn flush(&self, queue: u16) {
        match queue {
            DATAGRAMS => self.link.datagrams.flush(&self.link),
            _ => self.link.streams.flush(&self.link),
        }
    }

    fn statistics(&self) -> Statistics {
        let streams = self.link.streams.tx().counts();
        let datagrams = self.link.datagrams.tx().counts();
        Statistics {
            rx_packets: STATS.get(Counter::RxPackets),
            rx_bytes: STATS.get(Counter::RxBytes),
            tx_packets: streams.packets.saturating_add(datagrams.packets),
            tx_bytes: streams.bytes.saturating_add(datagrams.bytes),
            rx_dropped: 0,
            tx_dropped: streams.lost.saturating_add(datagrams.lost),
        }
    }

    fn counter(&self, index: usize) -> u64 {
        let counter = Counter::ALL.get(index);
        counter.map_or(0, |(counter, _)| STATS.get(*counter))
    }
}
