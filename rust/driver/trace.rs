// SPDX-License-Identifier: GPL-2.0

//! What becomes of packets, for those who trace them; packets that are dropped are counted as well.

use super::stats::{
    Counter,
    STATS, //
};
use crate::{
    ext::{
        net::skbuff::DropReason,
        trace::{
            self,
            reason,
            Reason, //
        }, //
    },
    wire::Header, //
};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $reason:ident, $counter:expr, $buffer:ident;)*) => {
        /// Why a packet is dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Why {
            $($(#[$doc])* $name,)*
        }

        impl Why {
            /// What those who trace are told.
            fn reason(self) -> Reason {
                match self {
                    $(Self::$name => reason::$reason,)*
                }
            }

            /// What counts it, if anything does.
            fn counter(self) -> Option<Counter> {
                match self {
                    $(Self::$name => $counter,)*
                }
            }

            /// What is said of its socket buffer, if it has one.
            pub(super) fn of_buffer(self) -> DropReason {
                match self {
                    $(Self::$name => DropReason::$buffer,)*
                }
            }
        }
    };
}

// What was received is in no socket buffer yet.
reasons! {
    /// The receive buffer came back shorter than a header (H2).
    Short = RX_SHORT, Some(Counter::RxShort), NOT_SPECIFIED;
    /// The receive buffer came back without a header.
    Unwritten = RX_UNWRITTEN, Some(Counter::RxUnwritten), NOT_SPECIFIED;
    /// Bytes of it were lost (M2).
    Damaged = RX_DAMAGED, Some(Counter::RxDamaged), NOT_SPECIFIED;
    /// The device has lost count of its buffers (M2).
    FramingLost = RX_FRAMING_LOST, Some(Counter::FramingLost), NOT_SPECIFIED;
    /// Its addresses are none, or not ours.
    BadAddress = RX_BAD_ADDRESS, Some(Counter::BadAddress), NOT_SPECIFIED;
    /// It is of an unknown kind, or makes no sense where the connection stands (H4).
    BadOp = RX_BAD_OP, Some(Counter::BadOp), NOT_SPECIFIED;
    /// It is answered by RST (C2, C3).
    Refused = RX_REFUSED, Some(Counter::Refused), NOT_SPECIFIED;
    /// It is beyond what the peer may send, or memory is lacking: its connection is reset.
    Overrun = RX_OVERRUN, Some(Counter::Overrun), NOT_SPECIFIED;
    /// Its socket has no room for it, or does not want it (D4).
    NoRoom = RX_DGRAM_DROPPED, Some(Counter::DgramDropped), NOT_SPECIFIED;
    /// Its socket was shut down for receiving, and its bytes are given back as credit.
    Unwanted = RX_UNWANTED, None, NOT_SPECIFIED;
    /// An RST for nobody (C2).
    Stray = RX_STRAY, None, NOT_SPECIFIED;
    /// A reply, of which too many wait (C6), or a datagram's, for which there is no room.
    ReplyDropped = TX_REPLY_DROPPED, Some(Counter::ReplyDropped), FULL_RING;
    /// It has more pieces than the transmit queue has descriptors.
    TooLong = TX_TOO_LONG, Some(Counter::TooLong), PKT_TOO_BIG;
    /// Its connection is over.
    Over = TX_OVER, None, SOCKET_CLOSE;
    /// The host has reset its connections (C5).
    Reset = TX_RESET, None, QUEUE_PURGE;
    /// There is no device any more.
    NoDevice = TX_NO_DEVICE, None, DEV_READY;
    /// The scheduler of the network interface has dropped its turn (N3).
    TurnLost = TX_DGRAM_DROPPED, Some(Counter::TurnLost), QDISC_DROP;
}

/// A header, as it is told.
fn packet(header: &Header) -> trace::Packet {
    trace::Packet {
        src_cid: header.src_cid,
        dst_cid: header.dst_cid,
        src_port: header.src_port,
        dst_port: header.dst_port,
        len: header.len,
        type_: header.ty,
        op: header.op,
        flags: header.flags,
        buf_alloc: header.buf_alloc,
        fwd_cnt: header.fwd_cnt,
    }
}

/// A packet to be sent was made.
///
/// # Context
///
/// Any.
pub(super) fn made(header: &Header) {
    if trace::is_alloc_on() {
        trace::alloc(&packet(header));
    }
}

/// A packet is about to be given to the device: what [`sent`] is to be told, if anybody wants to know.
///
/// # Context
///
/// Any.
pub(super) fn before_sent(header: impl FnOnce() -> Option<Header>) -> Option<Header> {
    if trace::is_send_on() {
        header()
    } else {
        None
    }
}

/// The device was given the packet.
///
/// # Context
///
/// Any.
pub(super) fn sent(header: Option<&Header>) {
    if let Some(header) = header {
        trace::send(&packet(header));
    }
}

/// A packet was received.
///
/// # Context
///
/// Any.
pub(super) fn received(header: &Header) {
    if trace::is_recv_on() {
        trace::recv(&packet(header));
    }
}

/// A packet is dropped. Of one whose header nobody knows, it is the default one.
///
/// # Context
///
/// Any.
pub(super) fn dropped(header: &Header, why: Why) {
    dropped_with(|| *header, why);
}

/// The same, where the header is to be found only if anybody wants to know.
///
/// # Context
///
/// Any.
pub(super) fn dropped_with(header: impl FnOnce() -> Header, why: Why) {
    if let Some(counter) = why.counter() {
        STATS.count(counter);
    }
    if trace::is_drop_on() {
        trace::drop(&packet(&header()), why.reason());
    }
}
