// SPDX-License-Identifier: GPL-2.0

//! Events of the device: it has lost all connections (C5).

use super::stats::{
    Counter,
    STATS, //
};
use crate::{
    ext::{
        net::net_ratelimit,
        sync::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        virtio::{
            ConfigSpace,
            Virtqueue, //
        }, //
    },
    wire::{
        Config,
        Event, //
    }, //
};
use kernel::prelude::*;

/// How many events the device can report at once.
const BUFFERS: usize = 8;

/// Bytes between which no cache line is shared, on any machine with a bus that does not look into caches.
const APART: usize = 128;

/// A buffer for an event. The allocator aligns sizes that are powers of two to themselves, so that each
/// has cache lines of its own: nothing that a processor writes beside one is lost when a device writes to it.
type Buffer = KBox<[u8; APART]>;

/// The event queue.
#[pin_data]
pub(super) struct Events {
    #[pin]
    queue: SpinLockBh<Option<Inner>>,
}

struct Inner {
    queue: Virtqueue<Buffer>,
    /// The buffers of events that are being handled; there is room for all.
    taken: KVec<Buffer>,
}

/// What [`Events::take`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// The device has lost its connections.
    pub(super) reset: bool,
    /// There is, or may be, more.
    pub(super) more: bool,
}

impl Events {
    /// Not running.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- new_spinlock_bh!(None, "Events::queue"),
        })
    }

    /// Takes events through `queue` from now on. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn start(&self, mut queue: Virtqueue<Buffer>) -> Result {
        for _ in 0..BUFFERS.min(queue.size()) {
            let buffer = KBox::new([0; APART], GFP_KERNEL)?;
            if queue.add(buffer).is_err() {
                break;
            }
        }
        let taken = KVec::with_capacity(BUFFERS, GFP_KERNEL)?;
        *self.queue.lock() = Some(Inner { queue, taken });
        Ok(())
    }

    /// The device may report events.
    pub(super) fn kick(&self) {
        if let Some(inner) = &mut *self.queue.lock() {
            inner.queue.kick();
        }
    }

    /// Lets the queue go.
    pub(super) fn stop(&self) {
        let queue = self.queue.lock().take();
        drop(queue);
    }

    /// Takes the events that there are, but not more than the device has buffers for. Does not sleep.
    ///
    /// The device gets the buffers back by [`give_back`](Self::give_back), when the events are handled:
    /// some hosts take that as the word that they are, and let new connections in.
    pub(super) fn take(&self) -> Taken {
        let mut found = Taken::default();
        let mut slot = self.queue.lock();
        let Some(Inner { queue, taken }) = &mut *slot else {
            return found;
        };
        queue.disable_cb();
        while taken.len() < BUFFERS {
            let Some((buffer, len)) = queue.get_used() else {
                found.more = !queue.enable_cb() && !queue.is_broken();
                return found;
            };
            STATS.count(Counter::Events);
            let bytes = buffer.first_chunk().filter(|_| len == Event::LEN);
            match bytes.map(Event::parse) {
                Some(Ok(Event::TransportReset)) => found.reset = true,
                Some(Err(_)) | None => STATS.count(Counter::BadOp),
            }
            // There is room: see the loop.
            let _ = taken.push_within_capacity(buffer);
        }
        found.more = true;
        found
    }

    /// Lets the device report events in the buffers of those that were taken. Does not sleep.
    pub(super) fn give_back(&self) {
        let mut slot = self.queue.lock();
        let Some(Inner { queue, taken }) = &mut *slot else {
            return;
        };
        while let Some(buffer) = taken.pop() {
            // A broken device needs no buffers.
            let _ = queue.add(buffer);
        }
        queue.kick();
    }
}

/// Our own CID, as the device says now. May sleep.
///
/// # Errors
///
/// `EINVAL` if it is one that no machine can have; `EIO` and others if it cannot be read.
pub(super) fn read_guest_cid(config: &ConfigSpace) -> Result<u32> {
    let guest_cid = config.read_u64(0)?;
    Config { guest_cid }.cid().map_err(|cid| {
        if net_ratelimit() {
            pr_err!("the device gives this machine CID {cid}, which is reserved\n");
        }
        EINVAL
    })
}
