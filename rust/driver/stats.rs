// SPDX-License-Identifier: GPL-2.0

//! Counters of what went wrong, since the module was loaded. Each is a number by itself, so that nothing is
//! ordered with it.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $file:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug)]
        pub(super) enum Counter {
            $($(#[$doc])* $name,)*
        }

        impl Counter {
            /// All of them, with the names under which they are shown.
            pub(super) const ALL: &'static [(Counter, &'static str)] =
                &[$((Counter::$name, $file),)*];

            /// The names alone.
            pub(super) const NAMES: &'static [&'static str] = &[$($file,)*];
        }
    };
}

counters! {
    /// Packets that were received.
    RxPackets = "rx_packets",
    /// Bytes of payload that were received.
    RxBytes = "rx_bytes",
    /// Packets that were sent.
    TxPackets = "tx_packets",
    /// Writes that were added to a packet that waited.
    TxJoined = "tx_joined",
    /// Packets that had to wait for room with the device, or for their connection's turn.
    TxWaited = "tx_waited",
    /// Times that the device was told of receive buffers.
    RxKicks = "rx_kicks",
    /// Times that the device was told of packets.
    TxKicks = "tx_kicks",
    /// Turns of receiving that were over with packets left, so that others have theirs.
    RxTurns = "rx_turns",
    /// Packets that had to wait for memory to be stored.
    RxHeld = "rx_held",
    /// Used receive buffers that were shorter than a header (H2).
    RxShort = "rx_short",
    /// Used receive buffers in which there was no header.
    RxUnwritten = "rx_unwritten",
    /// Packets of which bytes were lost: their connections were reset, as datagrams they were dropped (M2).
    RxDamaged = "rx_damaged",
    /// Resets of the device, as it had lost count: the next packet may begin anywhere (M2).
    FramingLost = "rx_framing_lost",
    /// Datagrams that were dropped, as their socket had no room for them or did not want them (D4), or as they were for
    /// nobody, who cannot refuse them (G7).
    DgramDropped = "rx_dgram_dropped",
    /// Packets with addresses that are none, or not ours.
    BadAddress = "rx_bad_address",
    /// Packets of an unknown kind, or that make no sense where the connection stands (H4).
    BadOp = "rx_bad_op",
    /// Packets that were answered by RST (C2, C3).
    Refused = "rx_refused",
    /// Connections that were reset, as their peers sent more than allowed or memory was lacking.
    Overrun = "rx_overrun",
    /// Replies that were dropped, as the host takes no packets (C6).
    ReplyDropped = "tx_reply_dropped",
    /// Turns that the scheduler of the network interface has dropped: those of connections are asked for again (N3).
    TurnsLost = "tx_turns_lost",
    /// Datagrams that were dropped, as their turns were (N3).
    TurnLost = "tx_dgram_dropped",
    /// Packets in more pieces than the transmit queue has descriptors: their connections were reset, as
    /// datagrams they were lost.
    TooLong = "tx_too_long",
    /// Events of the device.
    Events = "events",
}

/// The counters, each by itself.
pub(super) struct Stats([Atomic<u64>; Counter::ALL.len()]);

/// The driver's counters.
pub(super) static STATS: Stats = Stats([const { Atomic::new(0) }; Counter::ALL.len()]);

impl Stats {
    /// Counts one.
    pub(super) fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n`.
    pub(super) fn add(&self, counter: Counter, n: u32) {
        if let Some(cell) = self.0.get(counter as usize) {
            cell.add(u64::from(n), Relaxed);
        }
    }

    /// The count so far.
    pub(super) fn get(&self, counter: Counter) -> u64 {
        self.0
            .get(counter as usize)
            .map_or(0, |cell| cell.load(Relaxed))
    }
}
