// SPDX-License-Identifier: GPL-2.0

//! A receive and a transmit queue, and the works that serve them: written once, and there twice, for
//! connections and for datagrams, so that neither waits for the other (D7).

use super::{
    device::Vsock,
    queue::{
        Afterwards,
        BufferLayout,
        Outcome,
        Packet,
        Payload,
        Routed,
        Rx,
        Tx, //
    }, //
};
use crate::{
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
    proto::{
        Start,
        Timer, //
    },
    wire::Header, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::msecs_to_jiffies, //
};

/// When sent packets are reclaimed that nobody else reclaims, in milliseconds.
const RECLAIM_INTERVAL: u32 = 20;

/// How often a device is looked at that is to interrupt for what it takes, in milliseconds.
const SLOW_INTERVAL: u32 = 1000;

/// When buffers are tried again, in milliseconds.
const RETRY_INTERVAL: u32 = 10;

/// A pair of queues, and what works on them: there is one for connections, and one for datagrams.
#[pin_data]
pub(super) struct Pair {
    #[pin]
    pub(super) rx: Rx,
    #[pin]
    pub(super) tx: Tx,
    #[pin]
    pub(super) rx_work: Work<Vsock>,
    #[pin]
    pub(super) tx_work: Work<Vsock>,
    #[pin]
    pub(super) refill_work: DelayedWork<Vsock>,
    #[pin]
    pub(super) reclaim_work: DelayedWork<Vsock>,
    /// Tells writers of room that had to wait, as too much waited to be sent.
    pub(super) tell_of_room: fn(&Vsock),
}

/// Makes a [`Pair`] initialiser; what the works do is for the pair in this field.
macro_rules! new_pair {
    ($field:ident, $has_room:expr, $route:path, $tell_of_room:path) => {
        pin_init!($crate::driver::pair::Pair {
            rx <- $crate::driver::queue::Rx::new(),
            tx <- $crate::driver::queue::Tx::new(),
            rx_work <- new_work!(
                |device: Arc<Vsock>| device.$field.receive(&device, $has_room, $route),
                "Vsock::rx_work"
            ),
            tx_work <- new_work!(
                |device: Arc<Vsock>| device.$field.sent(&device, false),
                "Vsock::tx_work"
            ),
            refill_work <- new_delayed_work!(
                |device: Arc<Vsock>| device.$field.refill(&device),
                "Vsock::refill_work"
            ),
            reclaim_work <- new_delayed_work!(
                |device: Arc<Vsock>| device.$field.sent(&device, true),
                "Vsock::reclaim_work"
            ),
            tell_of_room: $tell_of_room,
        })
    };
}
pub(super) use new_pair;

impl Pair {
    /// Receives packets while `has_room`, and has `route` find whom they are for. Does not sleep.
    pub(super) fn receive(
        &self,
        device: &Arc<Vsock>,
        has_room: fn(&Vsock) -> bool,
        route: fn(&Arc<Vsock>, &Header, &mut Payload) -> Routed,
    ) {
        match self.rx.poll(
            || has_room(device),
            |header, payload| route(device, header, payload),
        ) {
            Outcome::Nothing => {}
            Outcome::More => {
                self.rx_work.queue(device, Where::Bh);
            }
            Outcome::Refill => {
                self.refill_work.queue_in(device, 0);
            }
            Outcome::Reset => device.restart_later(),
        }
    }

    /// Finds memory for buffers, and for a packet that waits for it. Sleeps.
    pub(super) fn refill(&self, device: &Arc<Vsock>) {
        let enough = self.rx.refill(GFP_KERNEL);
        let helped = self.rx.help_held();
        if helped == Ok(true) {
            self.rx_work.queue(device, Where::Bh);
        }
        if !enough || helped.is_err() {
            self.refill_work
                .queue_in(device, msecs_to_jiffies(RETRY_INTERVAL));
        }
    }

    /// Takes back what was sent; `timer` if that is why. Does not sleep.
    pub(super) fn sent(&self, device: &Arc<Vsock>, timer: bool) {
        let afterwards = self.tx.reclaim(timer);
        self.follow(device, afterwards);
    }

    /// Sends `packet`. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the queue does not run.
    pub(super) fn send(&self, device: &Arc<Vsock>, packet: Packet) -> Result {
        let afterwards = self.tx.send(packet)?;
        self.follow(device, afterwards);
        Ok(())
    }

    /// Does what is left to do after something was sent.
    pub(super) fn follow(&self, device: &Arc<Vsock>, afterwards: Afterwards) {
        if afterwards.stuck {
            // It may as well sleep for want of buffers that are there.
            self.rx.notify();
        }
        if afterwards.tell_of_room {
            (self.tell_of_room)(device);
        }
        let Some(Start { timer, instead }) = afterwards.start_timer else {
            return;
        };
        let delay = msecs_to_jiffies(match timer {
            Timer::Late => SLOW_INTERVAL,
            Timer::Idle | Timer::Soon => RECLAIM_INTERVAL,
        });
        if instead {
            self.reclaim_work.requeue_in(device, delay);
        } else {
            self.reclaim_work.queue_in(device, delay);
        }
    }

    /// Uses these queues from now on. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(super) fn start(&self, rx: Queue, tx: Queue, layout: BufferLayout) -> Result {
        self.tx.start(Virtqueue::new(tx), layout.header_len);
        self.rx.start(Virtqueue::new(rx), layout)
    }

    /// The queues are no more. Sleeps.
    pub(super) fn stop(&self, device: &Vsock) {
        self.rx.stop();
        self.tx.stop();
        // Who waits for room finds that there is no device.
        (self.tell_of_room)(device);
        // What queues a bottom half ends before it: that must not be the last to let go of the device.
        self.refill_work.cancel_sync();
        self.rx_work.cancel_sync();
        self.refill_work.cancel_sync();
        self.tx_work.cancel_sync();
        self.reclaim_work.cancel_sync();
    }
}
