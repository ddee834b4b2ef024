// SPDX-License-Identifier: GPL-2.0

//! Events of the device: it has lost all connections (C5).

use crate::{
    driver::stats::{
        Counter,
        STATS, //
    },
    ext::{
        sync::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        virtio::Virtqueue, //
    },
    wire::Event, //
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
pub(in crate::driver) struct Events {
    #[pin]
    queue: SpinLockBh<Option<Inner>>,
}

struct Inner {
    queue: Virtqueue<Buffer>,
    /// The buffers that the device does not have: those of events that are being handled, and those that could not be
    /// mapped for it. There is room for all.
    taken: KVec<Buffer>,
}

impl Inner {
    /// Gives the device the buffers that it does not have; returns whether it has all now.
    fn post(&mut self) -> bool {
        while let Some(buffer) = self.taken.pop() {
            match self.queue.add(buffer) {
                Err(error) if error.error == ENOMEM => {
                    // There is room: it was just taken out.
                    let _ = self.taken.push_within_capacity(error.buffer);
                    return false;
                }
                // A broken device needs no buffers.
                Ok(()) | Err(_) => {}
            }
        }
        true
    }
}

/// What [`Events::take`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::driver) struct Taken {
    /// The device has lost its connections.
    pub(in crate::driver) reset: bool,
    /// There is, or may be, more.
    pub(in crate::driver) more: bool,
}

impl Events {
    /// Not running.
    pub(in crate::driver) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- new_spinlock_bh!(None, "Events::queue"),
        })
    }

    /// Takes events through `queue` from now on.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(in crate::driver) fn start(&self, queue: Virtqueue<Buffer>) -> Result {
        let mut taken = KVec::with_capacity(BUFFERS, GFP_KERNEL)?;
        for _ in 0..BUFFERS.min(queue.size()) {
            taken.push(KBox::new([0; APART], GFP_KERNEL)?, GFP_KERNEL)?;
        }
        let mut inner = Inner { queue, taken };
        // What cannot be mapped just now is given later, by `give_back`.
        inner.post();
        *self.queue.lock() = Some(inner);
        Ok(())
    }

    /// Tells the device of the buffers: it may report events.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Events::queue`.
    pub(in crate::driver) fn kick(&self) {
        if let Some(inner) = &mut *self.queue.lock() {
            inner.queue.kick();
        }
    }

    /// Lets the queue go.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(in crate::driver) fn stop(&self) {
        let queue = self.queue.lock().take();
        drop(queue);
    }

    /// Takes the events that there are, but not more than the device has buffers for.
    ///
    /// The device gets the buffers back by [`give_back`](Self::give_back), when the events are handled:
    /// some hosts take that as the word that they are, and let new connections in. Those that could not be
    /// given back wait for the next [`give_back`](Self::give_back).
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Events::queue`.
    pub(in crate::driver) fn take(&self) -> Taken {
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

    /// Lets the device report events in the buffers of those that were taken.
    ///
    /// Returns whether it has all of them; if not, they are to be given again when there is something to map them with.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Events::queue`.
    pub(in crate::driver) fn give_back(&self) -> bool {
        let mut slot = self.queue.lock();
        let Some(inner) = &mut *slot else {
            return true;
        };
        let has_all = inner.post();
        inner.queue.kick();
        has_all
    }
}
