// SPDX-License-Identifier: GPL-2.0

//! Events of the device: it has lost all connections (C5).

use super::stats::{
    Counter,
    STATS, //
};
use crate::{
    ext::{
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

type Buffer = KBox<[u8; Event::LEN]>;

/// The event queue.
#[pin_data]
pub(super) struct Events {
    #[pin]
    queue: SpinLockBh<Option<Virtqueue<Buffer>>>,
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
            let buffer = KBox::new([0; Event::LEN], GFP_KERNEL)?;
            if queue.add(buffer).is_err() {
                break;
            }
        }
        *self.queue.lock() = Some(queue);
        Ok(())
    }

    /// The device may report events.
    pub(super) fn kick(&self) {
        if let Some(queue) = &mut *self.queue.lock() {
            queue.kick();
        }
    }

    /// Lets the queue go.
    pub(super) fn stop(&self) {
        let queue = self.queue.lock().take();
        drop(queue);
    }

    /// Takes the events that there are, but not more than the device has buffers for: it gets them
    /// back meanwhile. Does not sleep.
    pub(super) fn take(&self) -> Taken {
        let mut taken = Taken::default();
        let mut slot = self.queue.lock();
        let Some(queue) = &mut *slot else {
            return taken;
        };
        queue.disable_cb();
        for _ in 0..BUFFERS {
            let Some((buffer, len)) = queue.get_used() else {
                taken.more = !queue.enable_cb() && !queue.is_broken();
                return taken;
            };
            STATS.count(Counter::Events);
            match (len == Event::LEN).then(|| Event::parse(&buffer)) {
                Some(Ok(Event::TransportReset)) => taken.reset = true,
                Some(Err(_)) | None => STATS.count(Counter::BadOp),
            }
            // A broken device needs no buffers.
            let _ = queue.add(buffer);
            queue.kick();
        }
        taken.more = true;
        taken
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
        pr_err!("the device gives this machine CID {cid}, which is reserved\n");
        EINVAL
    })
}
