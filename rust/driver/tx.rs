// SPDX-License-Identifier: GPL-2.0

//! Transmission: from packets to the device, and back to memory.
//!
//! The device's interrupts stay off while there is room: packets that it has taken are reclaimed by
//! whoever sends next, or by a timer if nobody does. They are asked for when somebody waits, or the
//! device is slow; [`Underway`] says when.

use super::{
    packet::{
        self,
        Kind,
        Packet,
        Sent, //
    },
    stats::{
        Counter,
        STATS, //
    },
    tap, //
};
use crate::{
    ext::{
        net::skbuff::SkBuffQueue,
        sync::{
            new_spinlock_bh,
            SpinLockBh, //
        },
        virtio::Virtqueue, //
    },
    proto::{
        Start,
        Underway, //
    }, //
};
use kernel::{
    prelude::*,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// How many replies wait for room at most (C6): more are dropped, and their peers have time-outs.
const REPLIES_MAX: usize = 1024;

/// The transmit queue.
#[pin_data]
pub(super) struct Tx {
    #[pin]
    inner: SpinLockBh<Inner>,
}

struct Inner {
    /// None while the device does not run.
    queue: Option<Virtqueue<Packet>>,
    /// Packets that found no room, in their order.
    waiting: SkBuffQueue<Sent>,
    /// How many of them are replies.
    replies: usize,
    /// The packets that the device has.
    underway: Underway,
    /// The length of the header of each packet in bytes.
    header_len: usize,
}

/// What is to be done once no lock is held.
#[derive(Default)]
pub(super) struct Afterwards {
    /// Start the timer that calls [`Tx::reclaim`].
    pub(super) start_timer: Option<Start>,
}

/// How many packets there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gauge {
    /// With the device.
    pub(super) in_flight: u64,
    /// Waiting for room.
    pub(super) waiting: usize,
}

impl Tx {
    /// Not running.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock_bh!(
                Inner {
                    queue: None,
                    waiting: SkBuffQueue::new(),
                    replies: 0,
                    underway: Underway::new(),
                    header_len: 0,
                },
                "Tx::inner"
            ),
        })
    }

    /// Sends through `queue` from now on, with headers of `header_len` bytes.
    pub(super) fn start(&self, mut queue: Virtqueue<Packet>, header_len: usize) {
        queue.disable_cb();
        let mut inner = self.inner.lock();
        inner.queue = Some(queue);
        inner.underway = Underway::new();
        inner.header_len = header_len;
    }

    /// Takes back all packets; the device must not use them any more, or is reset by this.
    pub(super) fn stop(&self) {
        let (queue, waiting) = {
            let mut inner = self.inner.lock();
            inner.replies = 0;
            inner.underway = Underway::new();
            let waiting = core::mem::replace(&mut inner.waiting, SkBuffQueue::new());
            (inner.queue.take(), waiting)
        };
        drop(queue);
        drop(waiting);
    }

    /// Sends `packet`, now or when there is room. Does not sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` if there is no device (any more).
    pub(super) fn send(&self, packet: Packet) -> Result<Afterwards> {
        let mut done = SkBuffQueue::new();
        let dropped;
        let result = {
            let mut inner = self.inner.lock();
            inner.reclaim(&mut done);
            let result = if inner.queue.is_none() {
                dropped = Some(packet);
                Err(ENODEV)
            } else {
                dropped = inner.add_or_wait(packet);
                inner.settle(&mut done);
                Ok(())
            };
            let afterwards = inner.afterwards();
            result.map(|()| afterwards)
        };
        done.consume();
        drop(dropped);
        result
    }

    /// Sends `packet` if there is room at once; it is dropped if not, and counted. Does not sleep.
    pub(super) fn send_if_room(&self, packet: Packet) -> Afterwards {
        let mut done = SkBuffQueue::new();
        let (dropped, afterwards) = {
            let mut inner = self.inner.lock();
            inner.reclaim(&mut done);
            let dropped = if inner.waiting.is_empty() {
                inner.add(packet).err().flatten()
            } else {
                Some(packet)
            };
            inner.kick();
            (dropped, inner.afterwards())
        };
        done.consume();
        if dropped.is_some() {
            STATS.count(Counter::ReplyDropped);
        }
        afterwards
    }

    /// Takes back what the device has taken, and gives it what waits; `timer` if that is why. Does not
    /// sleep.
    pub(super) fn reclaim(&self, timer: bool) -> Afterwards {
        let mut done = SkBuffQueue::new();
        let afterwards = {
            let mut inner = self.inner.lock();
            if let Some(queue) = &mut inner.queue {
                queue.disable_cb();
            }
            inner.reclaim(&mut done);
            if timer {
                let _ = inner.underway.timer_fired();
            }
            inner.settle(&mut done);
            inner.afterwards()
        };
        done.consume();
        afterwards
    }

    /// Somebody waits until all that was sent so far is taken: has the device say so. Does not sleep.
    pub(super) fn want_interrupt(&self) {
        let mut done = SkBuffQueue::new();
        {
            let mut inner = self.inner.lock();
            inner.reclaim(&mut done);
            let waiting = inner.waiting.len();
            inner.underway.wait_for_all(waiting);
            // A timer runs already, if the device has anything.
            inner.settle(&mut done);
        }
        done.consume();
    }

    /// Drops the waiting packets for which `unwanted` says so; returns whether there were any.
    pub(super) fn purge(&self, unwanted: impl Fn(&Sent) -> bool) -> bool {
        let purged = {
            let mut inner = self.inner.lock();
            let purged = inner.waiting.extract(|packet| unwanted(packet.control()));
            for packet in purged.iter() {
                inner.leaves_waiting(packet.control());
            }
            purged
        };
        // Freed without the lock.
        !purged.is_empty()
    }

    /// Waits until the device has taken all packets, `limit` at most. Sleeps.
    pub(super) fn drain(&self, limit: Delta) {
        let since = Instant::<Monotonic>::now();
        loop {
            let mut done = SkBuffQueue::new();
            let idle = {
                let mut inner = self.inner.lock();
                inner.reclaim(&mut done);
                inner.settle(&mut done);
                let broken = inner.queue.as_ref().is_none_or(Virtqueue::is_broken);
                broken || (inner.underway.in_flight() == 0 && inner.waiting.is_empty())
            };
            done.consume();
            if idle || since.elapsed() >= limit {
                return;
            }
            fsleep(Delta::from_micros(500));
        }
    }

    /// The device's name for how many packets it can have at once.
    pub(super) fn size(&self) -> usize {
        self.inner.lock().queue.as_ref().map_or(0, Virtqueue::size)
    }

    /// How many packets there are just now.
    pub(super) fn gauge(&self) -> Gauge {
        let inner = self.inner.lock();
        Gauge {
            in_flight: inner.underway.in_flight(),
            waiting: inner.waiting.len(),
        }
    }
}

impl Inner {
    /// A timer runs while the device has packets, and while packets wait for memory.
    fn afterwards(&mut self) -> Afterwards {
        Afterwards {
            start_timer: self.underway.start_timer(!self.waiting.is_empty()),
        }
    }

    /// Gives the device what waits, and has it say when it has taken packets, if that is wanted.
    fn settle(&mut self, done: &mut SkBuffQueue<Sent>) {
        loop {
            self.send_waiting();
            let wanted = self.underway.wants_interrupt(!self.waiting.is_empty());
            if !wanted || !self.ask_for_interrupt(done) {
                break;
            }
        }
        self.kick();
    }

    /// Moves what the device has taken to `done`.
    fn reclaim(&mut self, done: &mut SkBuffQueue<Sent>) {
        let Some(queue) = &mut self.queue else {
            return;
        };
        while let Some((packet, _)) = queue.get_used() {
            self.underway.take();
            done.push_back(packet);
        }
    }

    /// Gives `packet` to the device, or returns it if there is no room.
    fn add(&mut self, mut packet: Packet) -> Result<(), Option<Packet>> {
        let Some(queue) = &mut self.queue else {
            return Err(None);
        };
        if queue.num_free() == 0 {
            return Err(Some(packet));
        }
        // Before its fields are filled in: what is read after that is for the next update.
        packet.control().waits_no_longer();
        if packet::stamp(&mut packet).is_err()
            || packet::fit_header(&mut packet, self.header_len).is_err()
        {
            return Err(None);
        }
        tap::sent(&mut packet);
        match queue.add(packet) {
            Ok(()) => {
                STATS.count(Counter::TxPackets);
                self.underway.give();
                Ok(())
            }
            // No room; or, for now, nothing to map it with.
            Err(error) if error.error == ENOSPC || error.error == ENOMEM => Err(Some(error.buffer)),
            // The device is broken: nothing will ever be taken.
            Err(_) => Err(None),
        }
    }

    /// Gives `packet` to the device, or has it wait; returns it if it may not even wait.
    fn add_or_wait(&mut self, packet: Packet) -> Option<Packet> {
        let packet = if self.waiting.is_empty() {
            match self.add(packet) {
                Ok(()) | Err(None) => return None,
                Err(Some(packet)) => packet,
            }
        } else {
            packet
        };
        if packet.control().kind() == Kind::Reply {
            if self.replies >= REPLIES_MAX {
                STATS.count(Counter::ReplyDropped);
                return Some(packet);
            }
            self.replies += 1;
        }
        self.waiting.push_back(packet);
        None
    }

    fn leaves_waiting(&mut self, sent: &Sent) {
        if sent.kind() == Kind::Reply {
            self.replies = self.replies.saturating_sub(1);
        }
    }

    /// Gives the device what waits, as there is room.
    fn send_waiting(&mut self) {
        while let Some(packet) = self.waiting.pop_front() {
            let kind = packet.control().kind();
            match self.add(packet) {
                Err(Some(packet)) => {
                    self.waiting.push_front(packet);
                    return;
                }
                Ok(()) | Err(None) => {
                    if kind == Kind::Reply {
                        self.replies = self.replies.saturating_sub(1);
                    }
                }
            }
        }
    }

    /// Has the device say when it has taken packets. Returns whether it has taken some meanwhile, which
    /// are taken back.
    fn ask_for_interrupt(&mut self, done: &mut SkBuffQueue<Sent>) -> bool {
        let Some(queue) = &mut self.queue else {
            return false;
        };
        if queue.enable_cb() {
            return false;
        }
        let before = done.len();
        self.reclaim(done);
        done.len() > before
    }

    fn kick(&mut self) {
        if let Some(notify) = self.queue.as_mut().and_then(Virtqueue::kick_prepare) {
            STATS.count(Counter::TxKicks);
            notify.notify();
        }
    }
}
