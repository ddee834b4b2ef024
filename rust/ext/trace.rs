// SPDX-License-Identifier: GPL-2.0

//! The driver's tracepoints: a packet was made, sent, received or dropped.
//!
//! C header: `rvsock_trace.h`. [`kernel::tracepoint`] is for code in the kernel's tree: it asks for a file of the build
//! there. So a tracepoint costs the call of a C function, in which a static key says whether anybody traces.

use crate::ext::bindings;

/// A packet's header, in host byte order.
pub(crate) use bindings::rvsock_trace_pkt as Packet;

/// Why a packet was dropped: the number that the tracepoint shows the name of.
pub(crate) use bindings::rvsock_drop_reason as Reason;

/// The reasons.
pub(crate) mod reason {
    use super::{
        bindings,
        Reason, //
    };

    macro_rules! reasons {
        ($($name:ident = $raw:ident,)*) => {
            $(pub(crate) const $name: Reason = bindings::$raw;)*
        };
    }

    reasons! {
        RX_SHORT = rvsock_drop_reason_RVSOCK_DROP_RX_SHORT,
        RX_UNWRITTEN = rvsock_drop_reason_RVSOCK_DROP_RX_UNWRITTEN,
        RX_DAMAGED = rvsock_drop_reason_RVSOCK_DROP_RX_DAMAGED,
        RX_FRAMING_LOST = rvsock_drop_reason_RVSOCK_DROP_RX_FRAMING_LOST,
        RX_BAD_ADDRESS = rvsock_drop_reason_RVSOCK_DROP_RX_BAD_ADDRESS,
        RX_BAD_OP = rvsock_drop_reason_RVSOCK_DROP_RX_BAD_OP,
        RX_REFUSED = rvsock_drop_reason_RVSOCK_DROP_RX_REFUSED,
        RX_OVERRUN = rvsock_drop_reason_RVSOCK_DROP_RX_OVERRUN,
        RX_DGRAM_DROPPED = rvsock_drop_reason_RVSOCK_DROP_RX_DGRAM_DROPPED,
        RX_UNWANTED = rvsock_drop_reason_RVSOCK_DROP_RX_UNWANTED,
        RX_STRAY = rvsock_drop_reason_RVSOCK_DROP_RX_STRAY,
        TX_REPLY_DROPPED = rvsock_drop_reason_RVSOCK_DROP_TX_REPLY_DROPPED,
        TX_TOO_LONG = rvsock_drop_reason_RVSOCK_DROP_TX_TOO_LONG,
        TX_OVER = rvsock_drop_reason_RVSOCK_DROP_TX_OVER,
        TX_RESET = rvsock_drop_reason_RVSOCK_DROP_TX_RESET,
        TX_NO_DEVICE = rvsock_drop_reason_RVSOCK_DROP_TX_NO_DEVICE,
        TX_DGRAM_DROPPED = rvsock_drop_reason_RVSOCK_DROP_TX_DGRAM_DROPPED,
    }
}

macro_rules! tracepoints {
    ($(
        $(#[$doc:meta])*
        $is_on:ident $tell:ident: $enabled:ident $trace:ident($($more:ident: $type:ty)?);
    )*) => {
        $(
            /// Whether anybody wants to know the same as of the function behind this one. Any context.
            #[inline]
            pub(crate) fn $is_on() -> bool {
                // SAFETY: No requirements.
                unsafe { bindings::$enabled() }
            }

            $(#[$doc])*
            ///
            /// # Context
            ///
            /// Any.
            #[cold]
            pub(crate) fn $tell(packet: &Packet $(, $more: $type)?) {
                // SAFETY: The packet is valid, and read before this returns.
                unsafe { bindings::$trace(packet $(, $more)?) };
            }
        )*
    };
}

tracepoints! {
    /// Tells that a packet was made.
    is_alloc_on alloc: rvsock_helper_trace_alloc_enabled rvsock_helper_trace_alloc();
    /// Tells that the device was given a packet.
    is_send_on send: rvsock_helper_trace_send_enabled rvsock_helper_trace_send();
    /// Tells that a packet was received.
    is_recv_on recv: rvsock_helper_trace_recv_enabled rvsock_helper_trace_recv();
    /// Tells that a packet was dropped, and why.
    is_drop_on drop: rvsock_helper_trace_drop_enabled rvsock_helper_trace_drop(reason: Reason);
}
