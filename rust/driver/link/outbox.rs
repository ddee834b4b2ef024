// SPDX-License-Identifier: GPL-2.0

//! A transmit queue, and what works on it.

use super::Link;
use crate::{
    driver::queue::{
        Afterwards,
        Packets,
        Rx,
        Tx, //
    },
    ext::{
        net::device::Turn,
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
        Timer,
        LOOK_INTERVAL, //
    }, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{
        msecs_to_jiffies,
        Delta, //
    }, //
};

/// When the timer reclaims sent packets, if no call that sends does before, in milliseconds.
const RECLAIM_INTERVAL: u32 = 20;

/// How often a device is looked at that is to interrupt for what it takes, in milliseconds.
const SLOW_INTERVAL: u32 = 1000;

/// So often turns are given to a scheduler, all that there are, until others have theirs.
const ROUNDS: u32 = 16;

/// A transmit queue, and what works on it: there is one for connections, and one for datagrams, if the device has such,
/// so that neither waits for the other (D7).
#[pin_data]
pub(in crate::driver) struct Outbox {
    #[pin]
    pub(super) tx: Tx,
    #[pin]
    pub(super) tx_work: Work<Link>,
    #[pin]
    pub(super) reclaim_work: DelayedWork<Link>,
    /// Sends what lingers.
    #[pin]
    pub(super) linger_work: Work<Link>,
    /// Gives an interface's scheduler the turns that it is to order.
    #[pin]
    pub(super) ask_work: Work<Link>,
    /// Looks for turns that it has dropped.
    #[pin]
    pub(super) look_work: DelayedWork<Link>,
    /// The other queue of the pair.
    pub(super) rx: Arc<Rx>,
    /// Tells writers of room that had to wait, as too much waited to be sent.
    pub(super) tell_of_room: fn(),
}

/// Makes an [`Outbox`] initialiser; what the works do is for the outbox in this field.
macro_rules! new_outbox {
    ($field:ident, $streams:expr, $rx:expr, $tell_of_room:expr) => {
        pin_init!($crate::driver::link::outbox::Outbox {
            tx <- $crate::driver::queue::Tx::new($streams),
            tx_work <- new_work!(
                |link: Arc<Link>| link.$field.reclaim(&link, false),
                "Outbox::tx_work"
            ),
            reclaim_work <- new_delayed_work!(
                |link: Arc<Link>| link.$field.reclaim(&link, true),
                "Outbox::reclaim_work"
            ),
            linger_work <- new_work!(
                |link: Arc<Link>| link.$field.send_lingering(&link),
                "Outbox::linger_work"
            ),
            ask_work <- new_work!(
                |link: Arc<Link>| link.$field.ask(&link),
                "Outbox::ask_work"
            ),
            look_work <- new_delayed_work!(
                |link: Arc<Link>| link.$field.look(&link),
                "Outbox::look_work"
            ),
            rx: $rx,
            tell_of_room: $tell_of_room,
        })
    };
}
pub(super) use new_outbox;

impl Outbox {
    /// Has what the device has taken be reclaimed soon.
    ///
    /// # Context
    ///
    /// Any, hard interrupts included.
    pub(in crate::driver) fn schedule_reclaim(&self, link: &Arc<Link>) {
        self.tx_work.queue(link, Where::Bh);
    }

    /// Takes back what was sent; `timer` if that is why.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Rx::inner`. A bottom half, or the timer.
    pub(super) fn reclaim(&self, link: &Arc<Link>, timer: bool) {
        let afterwards = self.tx.reclaim(timer);
        self.follow(link, afterwards);
    }

    /// Sends the open packets that linger.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`. A worker.
    pub(super) fn send_lingering(&self, link: &Arc<Link>) {
        let afterwards = self.tx.send_lingering();
        self.follow(link, afterwards);
    }

    /// Sends `packets`, and does what follows from that.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the queue does not run.
    pub(super) fn send(&self, link: &Arc<Link>, packets: Packets) -> Result {
        let afterwards = self.tx.send(packets)?;
        self.follow(link, afterwards);
        Ok(())
    }

    /// Does what is left to do after something was sent.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Rx::inner` if `afterwards` is of the timer, and may let sockets go.
    pub(super) fn follow(&self, link: &Arc<Link>, afterwards: Afterwards) {
        if afterwards.stuck {
            // The device may as well sleep for want of buffers that are there.
            self.rx.notify();
        }
        if afterwards.tell_of_room {
            (self.tell_of_room)();
        }
        if afterwards.lingers {
            // Of this processor's: where there is but one, the user who writes goes on until it is the worker's turn.
            self.linger_work.queue(link, Where::Percpu);
        }
        if afterwards.asks {
            // A bottom half of its own: whoever sends may hold locks within which no scheduler is to be asked, and may be
            // called by one.
            self.ask_work.queue(link, Where::Bh);
        }
        if afterwards.watch {
            self.look_work
                .queue_in(link, msecs_to_jiffies(LOOK_INTERVAL));
        }
        let Some(Start { timer, instead }) = afterwards.start_timer else {
            return;
        };
        let delay = msecs_to_jiffies(match timer {
            Timer::Late => SLOW_INTERVAL,
            Timer::Idle | Timer::Soon => RECLAIM_INTERVAL,
        });
        if instead {
            self.reclaim_work.requeue_in(link, delay);
        } else {
            self.reclaim_work.queue_in(link, delay);
        }
    }

    /// Gives an interface's scheduler the turns that it is to order.
    ///
    /// # Context
    ///
    /// Does not sleep; takes the scheduler's locks. A bottom half, which runs once at a time, so that turns keep their order.
    pub(super) fn ask(&self, link: &Arc<Link>) {
        for _ in 0..ROUNDS {
            let Some((device, turns)) = self.tx.take_due() else {
                return;
            };
            for turn in turns {
                // One that it does not take is found as one that it has dropped.
                device.submit(turn);
            }
        }
        // Others have their turn.
        self.ask_work.queue(link, Where::Bh);
    }

    /// Looks for turns that the scheduler has dropped.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`. A worker.
    pub(super) fn look(&self, link: &Arc<Link>) {
        let afterwards = self.tx.look();
        self.follow(link, afterwards);
    }

    /// A turn has come back from the scheduler, as [`Tx::spend`]; returns whether it is one of this queue's.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`. The scheduler calls it, under its interface's lock.
    pub(in crate::driver) fn spend(&self, link: &Arc<Link>, turn: &Turn, more: bool) -> bool {
        let (is_ours, afterwards) = self.tx.spend(turn, more);
        self.follow(link, afterwards);
        is_ours
    }

    /// No turn follows those after which [others](Self::spend) were to: the device is told of what it has.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`. As of [`spend`](Self::spend).
    pub(in crate::driver) fn flush(&self, link: &Arc<Link>) {
        let afterwards = self.tx.flush();
        self.follow(link, afterwards);
    }

    /// The interface is up from now on, or down.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn set_up(&self, link: &Arc<Link>, up: bool) {
        let afterwards = if up {
            self.tx.set_up()
        } else {
            self.tx.set_down()
        };
        self.follow(link, afterwards);
    }

    /// The scheduler gives no turns from now on, until the queue starts again.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn bypass(&self, link: &Arc<Link>) {
        let afterwards = self.tx.bypass();
        self.follow(link, afterwards);
    }

    /// Asks the device to say when it has taken all that was sent so far, as a caller waits for that.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn ask_for_completion(&self, link: &Arc<Link>) {
        let afterwards = self.tx.ask_for_completion();
        self.follow(link, afterwards);
    }

    /// What waits, and how large the queue is.
    pub(in crate::driver) fn tx(&self) -> &Tx {
        &self.tx
    }

    /// Sends through `queue` from now on, with headers of `header_len` bytes.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn start(&self, queue: Queue, header_len: usize) {
        self.tx.start(Virtqueue::new(queue), header_len);
    }

    /// Waits until the device has taken all packets, `limit` at most.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(in crate::driver) fn drain(&self, link: &Arc<Link>, limit: Delta) {
        self.tx
            .drain(limit, |afterwards| self.follow(link, afterwards));
    }

    /// Stops: the queue is no more.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(in crate::driver) fn stop(&self) {
        self.tx.stop();
        // Writers that wait for room find that there is no device.
        (self.tell_of_room)();
        self.tx_work.cancel_sync();
        self.reclaim_work.cancel_sync();
        self.linger_work.cancel_sync();
        self.look_work.cancel_sync();
        self.ask_work.cancel_sync();
    }
}
