// SPDX-License-Identifier: GPL-2.0

//! Transmission: from packets to the device, and back to memory.
//!
//! The device's interrupts stay off while there is room: packets that it has taken are reclaimed by
//! whoever sends next, or by a timer if nobody does. They are asked for when somebody waits.

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
use crate::ext::{
    net::skbuff::SkBuffQueue,
    sync::{
        new_spinlock_bh,
        SpinLockBh, //
    },
    virtio::Virtqueue, //
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
    /// How many packets the device has.
    in_flight: usize,
    /// The length of the header of each packet in bytes.
    header_len: usize,
    /// Somebody waits until all that the device has is taken back.
    awaited: bool,
    /// The timer runs that reclaims what nobody else does.
    timer: bool,
}

/// What the sender is to do once no lock is held.
pub(super) struct Afterwards {
    /// Start the timer that calls [`Tx::reclaim`].
    pub(super) start_timer: bool,
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
                    in_flight: 0,
                    header_len: 0,
                    awaited: false,
                    timer: false,
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
        inner.in_flight = 0;
        inner.header_len = header_len;
        inner.awaited = false;
        inner.timer = false;
    }

    /// Takes back all packets; the device must not use them any more, or is reset by this.
    pub(super) fn stop(&self) {
        let (queue, waiting) = {
            let mut inner = self.inner.lock();
            inner.replies = 0;
            inner.in_flight = 0;
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
                if !inner.waiting.is_empty() {
                    inner.ask_for_interrupt(&mut done);
                    inner.send_waiting(&mut done);
                }
                inner.kick();
                Ok(())
            };
            let afterwards = inner.afterwards();
            result.map(|()| afterwards)
        };
        drop(done);
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
        if dropped.is_some() {
            STATS.count(Counter::ReplyDropped);
        }
        afterwards
    }

    /// Takes back what the device has taken, and gives it what waits. Does not sleep.
    pub(super) fn reclaim(&self, timer: bool) -> Afterwards {
        let mut done = SkBuffQueue::new();
        let afterwards = {
            let mut inner = self.inner.lock();
            if let Some(queue) = &mut inner.queue {
                queue.disable_cb();
            }
            inner.timer &= !timer;
            inner.reclaim(&mut done);
            inner.send_waiting(&mut done);
            inner.kick();
            inner.awaited &= inner.in_flight > 0;
            // The timer finds what the device is slow to take: it shall say so itself.
            if (timer && inner.in_flight > 0) || inner.awaited {
                inner.ask_for_interrupt(&mut done);
            }
            if inner.in_flight == 0 {
                inner.afterwards()
            } else {
                Afterwards { start_timer: false }
            }
        };
        drop(done);
        afterwards
    }

    /// Somebody waits for packets to be taken: has the device say so, until it has none.
    pub(super) fn want_interrupt(&self) {
        let mut done = SkBuffQueue::new();
        {
            let mut inner = self.inner.lock();
            inner.reclaim(&mut done);
            inner.awaited = inner.in_flight > 0;
            if inner.awaited {
                inner.ask_for_interrupt(&mut done);
            }
        }
        drop(done);
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
                inner.send_waiting(&mut done);
                inner.kick();
                let broken = inner.queue.as_ref().is_none_or(Virtqueue::is_broken);
                broken || (inner.in_flight == 0 && inner.waiting.is_empty())
            };
            drop(done);
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
}

impl Inner {
    /// The timer runs while the device has packets, and while packets wait for memory.
    fn afterwards(&mut self) -> Afterwards {
        let start_timer = (self.in_flight > 0 || !self.waiting.is_empty()) && !self.timer;
        self.timer |= start_timer;
        Afterwards { start_timer }
    }

    /// Moves what the device has taken to `done`.
    fn reclaim(&mut self, done: &mut SkBuffQueue<Sent>) {
        let Some(queue) = &mut self.queue else {
            return;
        };
        while let Some((packet, _)) = queue.get_used() {
            self.in_flight = self.in_flight.saturating_sub(1);
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
                self.in_flight = self.in_flight.saturating_add(1);
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

    fn send_waiting(&mut self, done: &mut SkBuffQueue<Sent>) {
        while let Some(packet) = self.waiting.pop_front() {
            let kind = packet.control().kind();
            match self.add(packet) {
                Err(Some(packet)) => {
                    self.waiting.push_front(packet);
                    self.ask_for_interrupt(done);
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

    /// Has the device say when it has taken packets. Takes back those that it took meanwhile.
    fn ask_for_interrupt(&mut self, done: &mut SkBuffQueue<Sent>) {
        while let Some(queue) = &mut self.queue {
            if queue.enable_cb() {
                return;
            }
            let before = done.len();
            self.reclaim(done);
            if done.len() == before {
                return;
            }
        }
    }

    fn kick(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.kick();
        }
    }
}
