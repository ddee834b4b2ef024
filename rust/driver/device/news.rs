// SPDX-License-Identifier: GPL-2.0

//! What user space is told of a device: events that udev gets, of what ends connections without a word of the peer's.

use super::{
    Driver,
    Vsock, //
};
use crate::ext::{
    time::monotonic_ms,
    virtio,
    work::{
        new_delayed_work,
        DelayedWork, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::msecs_to_jiffies, //
};

/// How far events of resets are apart at least, in milliseconds: the host decides how many resets there are.
const INTERVAL: u64 = 1000;

/// The device has lost count of its receive buffers, and was reset (M2).
const FRAMING_LOST: &CStr = c"RVSOCK=FRAMING_LOST";

/// The host has reset its connections (C5).
const TRANSPORT_RESET: &CStr = c"RVSOCK=TRANSPORT_RESET";

/// What is to be told.
#[pin_data]
pub(super) struct News {
    /// When a reset was last told, in milliseconds since some time; zero if none was.
    told: Atomic<u64>,
    #[pin]
    work: DelayedWork<Vsock>,
}

impl News {
    /// Nothing.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            told: Atomic::new(0),
            work <- new_delayed_work!(Vsock::tell_reset, "News::work"),
        })
    }

    /// Nothing is to be told any more.
    ///
    /// # Context
    ///
    /// Does not sleep. Not waited for: it takes the device's lock.
    pub(super) fn stop(&self) {
        self.work.cancel();
    }
}

impl Vsock {
    /// Has user space told that the host has reset its connections: soon, and once of many.
    ///
    /// # Context
    ///
    /// Does not sleep.
    pub(super) fn tell_reset_soon(self: &Arc<Self>) {
        // Relaxed, here and below: a number by itself.
        let told = self.news.told.load(Relaxed);
        let since = monotonic_ms().saturating_sub(told);
        let wait = if told == 0 {
            0
        } else {
            INTERVAL.saturating_sub(since)
        };
        let wait = u32::try_from(wait).unwrap_or(u32::MAX);
        self.news.work.queue_in(self, msecs_to_jiffies(wait));
    }

    /// Tells user space that the host has reset its connections.
    ///
    /// # Context
    ///
    /// Sleeps; takes the device's lock.
    fn tell_reset(self: Arc<Self>) {
        self.news.told.store(monotonic_ms(), Relaxed);
        self.tell(TRANSPORT_RESET);
    }

    /// Tells user space that the device had lost count, and was reset, or is out of use.
    ///
    /// # Context
    ///
    /// Sleeps; takes the device's lock.
    pub(super) fn tell_framing_lost(&self) {
        self.tell(FRAMING_LOST);
    }

    /// Tells user space of a change of the device, if it is bound still.
    ///
    /// # Context
    ///
    /// Sleeps; takes the device's lock.
    fn tell(&self, change: &CStr) {
        let is_this = |bound: &Arc<Self>| core::ptr::eq(&raw const **bound, &raw const *self);
        // Whoever unbinds it is told of that; and without memory the log and the counters have it.
        let _ = virtio::Adapter::<Driver>::tell_change(&self.dev, is_this, change);
    }
}
