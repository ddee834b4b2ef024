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

    /// Takes the next event. Does not sleep.
    fn next(&self) -> Option<Event> {
        let mut slot = self.queue.lock();
        let queue = (*slot).as_mut()?;
        loop {
            queue.disable_cb();
            while let Some((buffer, len)) = queue.get_used() {
                STATS.count(Counter::Events);
                let event = (len == Event::LEN).then(|| Event::parse(&buffer));
                // A broken device needs no buffers.
                let _ = queue.add(buffer);
                queue.kick();
                match event {
                    Some(Ok(event)) => return Some(event),
                    Some(Err(_)) | None => STATS.count(Counter::BadOp),
                }
            }
            if queue.enable_cb() {
                return None;
            }
        }
    }

    /// Whether the device has lost its connections since the last call. Does not sleep.
    pub(super) fn reset_happened(&self) -> bool {
        let mut reset = false;
        while let Some(event) = self.next() {
            match event {
                Event::TransportReset => reset = true,
            }
        }
        reset
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
