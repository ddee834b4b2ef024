// SPDX-License-Identifier: GPL-2.0

//! A receive queue, and the works that serve it: written once, and there twice, for connections and for
//! datagrams, so that neither waits for the other (D7).

use super::Vsock;
use crate::{
    driver::queue::{
        BufferLayout,
        Outcome,
        Payload,
        Routed,
        Rx, //
    },
    ext::{
        virtio::{
            Queue,
            Virtqueue, //
        },
        work::{
            DelayedWork,
            Where,
            Work, //
        }, //
    },
    wire::Header, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::msecs_to_jiffies, //
};

/// When buffers are tried again, in milliseconds.
const RETRY_INTERVAL: u32 = 10;

/// A receive queue, and what works on it.
#[pin_data]
pub(super) struct Receiver {
    pub(super) rx: Arc<Rx>,
    #[pin]
    pub(super) rx_work: Work<Vsock>,
    #[pin]
    pub(super) refill_work: DelayedWork<Vsock>,
}

/// Makes a [`Receiver`] initialiser; what the works do is for the receiver in this field.
macro_rules! new_receiver {
    ($field:ident, $rx:expr, $has_room:expr, $route:expr) => {
        pin_init!($crate::driver::device::receiver::Receiver {
            rx: $rx,
            rx_work <- new_work!(
                |device: Arc<Vsock>| device.$field.receive(&device, $has_room, $route),
                "Receiver::rx_work"
            ),
            refill_work <- new_delayed_work!(
                |device: Arc<Vsock>| device.$field.refill(&device),
                "Receiver::refill_work"
            ),
        })
    };
}
pub(super) use new_receiver;

impl Receiver {
    /// Receives packets while `has_room`, and has `route` find whom they are for.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Rx::inner`. A bottom half.
    pub(super) fn receive(
        &self,
        device: &Arc<Vsock>,
        has_room: fn(&Vsock) -> bool,
        route: fn(&Arc<Vsock>, &Header, &mut Payload) -> Routed,
    ) {
        let outcome = self.rx.poll(
            || has_room(device),
            |header, payload| route(device, header, payload),
        );
        match outcome {
            Outcome::Nothing => {}
            Outcome::More => self.schedule(device),
            Outcome::Refill => {
                self.refill_work.queue_in(device, 0);
            }
            Outcome::Reset => device.restart_later(),
        }
    }

    /// Has packets received soon: there are, or may be, some.
    ///
    /// # Context
    ///
    /// Any, hard interrupts included.
    pub(super) fn schedule(&self, device: &Arc<Vsock>) {
        self.rx_work.queue(device, Where::Bh);
    }

    /// Finds memory for buffers, and for a packet that waits for it.
    ///
    /// # Context
    ///
    /// Sleeps; takes `Rx::inner`.
    pub(super) fn refill(&self, device: &Arc<Vsock>) {
        let enough = self.rx.refill(GFP_KERNEL);
        let helped = self.rx.help_held();
        if helped == Ok(true) {
            self.schedule(device);
        }
        if !enough || helped.is_err() {
            self.refill_work
                .queue_in(device, msecs_to_jiffies(RETRY_INTERVAL));
        }
    }

    /// Receives through `queue` from now on, into buffers of `layout`.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn start(&self, queue: Queue, layout: BufferLayout) -> Result {
        self.rx.start(Virtqueue::new(queue), layout)
    }

    /// Stops: the queue is no more.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(super) fn stop(&self) {
        self.rx.stop();
        // What queues a bottom half is cancelled before it: a bottom half must not drop the last reference to the
        // device.
        self.refill_work.cancel_sync();
        self.rx_work.cancel_sync();
        self.refill_work.cancel_sync();
    }
}
