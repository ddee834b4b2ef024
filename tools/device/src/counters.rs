// SPDX-License-Identifier: GPL-2.0

//! What the device counts; `counters` on the control socket prints it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

/// One number.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn count(&self) {
        self.add(1);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A guest's counters.
        #[derive(Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            pub fn json(&self) -> Map<String, Value> {
                let mut map = Map::new();
                $(map.insert(stringify!($name).into(), self.$name.get().into());)*
                map
            }
        }
    };
}

counters! {
    /// Kicks by the driver.
    kicks,
    /// Interrupts to the driver.
    interrupts,
    /// Packets that the device put on rx.
    rx_packets,
    /// Their payload.
    rx_bytes,
    /// The buffers that they took.
    rx_buffers,
    /// Buffers too small for a header, which went back empty; on rx and datagram rx.
    rx_bad_buffers,
    /// Buffers that went back as packets, with nothing written to them, as a habit.
    rx_stale,
    /// Packets that the device took from tx.
    tx_packets,
    /// Their payload.
    tx_bytes,
    /// Chains on tx or datagram tx that were no packet: cut short, too long.
    tx_malformed,
    /// Packets whose source was not the guest's CID.
    tx_wrong_source,
    /// Packets of a type that does not exist, is not negotiated, or is not for their queue.
    tx_wrong_kind,
    /// Packets with an unknown op.
    tx_unknown_op,
    /// Connections reset for what the guest did: sending beyond its credit, or what cannot be sent on.
    tx_violations,
    /// Connections that were established between guest and host.
    connections,
    /// Connections that were refused, by either side.
    refused,
    /// RST packets that the device sent.
    resets_sent,
    /// RST packets that came from the guest.
    resets_received,
    /// Packets that the device took for other guests.
    switched_out,
    /// Packets from other guests that were delivered.
    switched_in,
    /// Times that taking packets from tx waited for another guest.
    switch_waits,
    /// Datagrams put on datagram rx.
    dgram_rx_packets,
    /// Their payload.
    dgram_rx_bytes,
    /// The buffers that they took.
    dgram_rx_buffers,
    /// Datagrams taken from datagram tx.
    dgram_tx_packets,
    /// Their payload.
    dgram_tx_bytes,
    /// Datagrams that are with a program on the host.
    dgram_to_host,
    /// Datagrams for a port of the host's where nobody was; each was answered by RST.
    dgram_to_host_nobody,
    /// Datagrams dropped since the program on the host had not read earlier ones.
    dgram_to_host_full,
    /// Datagrams dropped since the unix socket refused them.
    dgram_to_host_failed,
    /// Datagrams for a CID that no guest has; each was answered by RST.
    dgram_to_guest_nobody,
    /// Datagrams dropped since the other guest had too many that it has not taken.
    dgram_to_guest_full,
    /// Datagrams dropped since they do not fit the driver's buffer, or all of its buffers.
    dgram_rx_too_big,
    /// Datagrams dropped since the driver had no buffers for them, though it had time.
    dgram_rx_no_buffers,
    /// RST on datagram rx that were not sent since too many wait.
    dgram_resets_dropped,
    /// RST that came on datagram tx: the guest had no socket for a datagram.
    dgram_resets_received,
    /// Datagrams from the host that were longer than a packet can be.
    dgram_from_host_too_long,
    /// Greetings on the datagram socket that were none.
    dgram_bad_greetings,
    /// Packets dropped by the command `drop`, on all queues.
    dropped_on_command,
    /// Events put on the event queue.
    events,
}
