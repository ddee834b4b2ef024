// SPDX-License-Identifier: GPL-2.0

//! Why socket buffers are dropped, for those who look for lost packets.
//!
//! The kernel's own reasons: a subsystem that registers others needs a number in its table.
//!
//! C header: [`include/net/dropreason-core.h`](srctree/include/net/dropreason-core.h)

use crate::ext::bindings;

/// Why a socket buffer is dropped: `enum skb_drop_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DropReason(bindings::skb_drop_reason);

/// Makes a constant of each reason.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $raw:ident,)*) => {
        impl DropReason {
            $($(#[$doc])* pub(crate) const $name: Self = Self(bindings::$raw);)*
        }
    };
}

reasons! {
    /// Nobody has said it.
    NOT_SPECIFIED = skb_drop_reason_SKB_DROP_REASON_NOT_SPECIFIED,
    /// Its socket is closed.
    SOCKET_CLOSE = skb_drop_reason_SKB_DROP_REASON_SOCKET_CLOSE,
    /// The device is not ready.
    DEV_READY = skb_drop_reason_SKB_DROP_REASON_DEV_READY,
    /// The device's ring is full.
    FULL_RING = skb_drop_reason_SKB_DROP_REASON_FULL_RING,
    /// It is too big.
    PKT_TOO_BIG = skb_drop_reason_SKB_DROP_REASON_PKT_TOO_BIG,
    /// A scheduler has dropped it.
    QDISC_DROP = skb_drop_reason_SKB_DROP_REASON_QDISC_DROP,
    /// The queue that it was in was purged.
    QUEUE_PURGE = skb_drop_reason_SKB_DROP_REASON_QUEUE_PURGE,
}

impl DropReason {
    /// Not dropped: the buffer has reached its end.
    pub(in crate::ext) const CONSUMED: Self = Self(bindings::skb_drop_reason_SKB_CONSUMED);

    /// As C has it.
    pub(in crate::ext) fn as_raw(self) -> bindings::skb_drop_reason {
        self.0
    }
}
