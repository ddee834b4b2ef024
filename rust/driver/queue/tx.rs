// SPDX-License-Identifier: GPL-2.0

//! Transmission: from packets to the device, and back to memory.
//!
//! The device's interrupts stay off while there is room: packets that it has taken are reclaimed by
//! the next call that sends, or by a timer if none comes. They are asked for when a caller waits, or the
//! device is slow; [`Underway`] says when.

mod ring;
mod turns;
mod withdraw;

use self::ring::NotAdded;
use super::{
    backlog::Backlog,
    bound::Whose,
    lingering::Lingering,
    packet::{
        self,
        Open,
        Packet,
        Packets,
        Sent, //
    },
    tap::Unshown,
    waiting::Waiting, //
};
use crate::{
    driver::{
        stats::{
            Counter,
            STATS, //
        },
        trace::Why, //
    },
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
    sync::{
        atomic::{
            AtomicFlag,
            Relaxed, //
        }, //
    },
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// The transmit queue.
#[pin_data]
pub(in crate::driver) struct Tx {
    /// So much waits that writers of connections have to wait; said under the lock as well.
    full: AtomicFlag,
    /// The same for datagrams.
    full_of_datagrams: AtomicFlag,
    #[pin]
    inner: SpinLockBh<Inner>,
}

/// What the lock guards: nothing of it sleeps.
struct Inner {
    /// None while the device does not run.
    queue: Option<Virtqueue<Packet>>,
    /// Packets that found no room.
    waiting: Waiting,
    /// The packets that the device has.
    underway: Underway,
    /// The length of the header of each packet in bytes.
    header_len: usize,
    lingering: Lingering,
    unshown: Unshown,
}

/// What is to be done once no lock is held. Some of it is said once.
#[derive(Default)]
#[must_use]
pub(in crate::driver) struct Afterwards {
    /// Start the timer that calls [`Tx::reclaim`].
    pub(in crate::driver) start_timer: Option<Start>,
    /// Tell writers that had to wait, as too much did.
    pub(in crate::driver) tell_of_room: bool,
    /// Have a worker call [`Tx::send_lingering`].
    pub(in crate::driver) lingers: bool,
    /// There are turns that an interface's scheduler is to be given: [`Tx::take_due`].
    pub(in crate::driver) asks: bool,
    /// Have [`Tx::look`] called in a while.
    pub(in crate::driver) watch: bool,
    /// The device has not moved for long: it may not know that there is anything for it.
    pub(in crate::driver) stuck: bool,
}

/// How many packets there are.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::driver) struct Gauge {
    /// With the device.
    pub(in crate::driver) in_flight: u64,
    /// Waiting for room.
    pub(in crate::driver) waiting: usize,
    /// The memory of what waits, in bytes.
    pub(in crate::driver) memory: usize,
}

impl Tx {
    /// Not running. `streams`: for packets of connections; for one queue of all.
    pub(in crate::driver) fn new(streams: bool) -> impl PinInit<Self> {
        pin_init!(Self {
            full: AtomicFlag::new(false),
            full_of_datagrams: AtomicFlag::new(false),
            inner <- new_spinlock_bh!(
                Inner {
                    queue: None,
                    waiting: Waiting::new(streams),
                    underway: Underway::new(),
                    header_len: 0,
                    lingering: Lingering::new(),
                    unshown: Unshown::new(),
                },
                "Tx::inner"
            ),
        })
    }

    /// Sends through `queue` from now on, with headers of `header_len` bytes.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn start(&self, mut queue: Virtqueue<Packet>, header_len: usize) {
        queue.disable_cb();
        let mut inner = self.inner.lock();
        inner.queue = Some(queue);
        inner.underway = Underway::new();
        inner.header_len = header_len;
        inner.waiting.scheduled.set_bypassed(false);
        inner.waiting.begin_schedule();
    }

    /// Takes back all packets; the device must not use them any more, or is reset by this.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(in crate::driver) fn stop(&self) {
        let (queue, (waiting, turns), lingering) = {
            let mut inner = self.inner.lock();
            inner.underway = Underway::new();
            let waiting = inner.waiting.end();
            self.full.store(false, Relaxed);
            self.full_of_datagrams.store(false, Relaxed);
            (inner.queue.take(), waiting, inner.lingering.take())
        };
        drop(queue);
        drop(turns);
        packet::drop_all(waiting, Why::NoDevice);
        lingering.drop_all(Why::NoDevice);
    }

    /// Sends `packets`, now or when there is room. The device is told of them once.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: there is no device (any more).
    pub(in crate::driver) fn send(&self, mut packets: Packets) -> Result<Afterwards> {
        self.change(|inner, done| {
            let gone = inner.queue.is_none();
            while let Some(mut packet) = packets.pop_front() {
                if gone {
                    packet.control_mut().lose(Why::NoDevice);
                    done.push_back(packet);
                } else {
                    inner.close_and_add(packet, done);
                }
            }
            if gone {
                return Err(ENODEV);
            }
            Ok(())
        })
    }

    /// Has `packet` wait for its sender's next writes, or sends it if there is nothing to wait for.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: there is no device (any more).
    pub(in crate::driver) fn join(&self, packet: Open) -> Result<Afterwards> {
        self.change(|inner, done| {
            if inner.queue.is_some() {
                inner.park_or_add(packet, done);
                Ok(())
            } else {
                let mut packet = packet.close();
                packet.control_mut().lose(Why::NoDevice);
                done.push_back(packet);
                Err(ENODEV)
            }
        })
    }

    /// Sends `packet` if there is room at once; it is dropped if not, and counted.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn send_if_room(&self, packet: Packet) -> Afterwards {
        let afterwards = self.change(|inner, done| {
            let added = if inner.waiting.is_idle() {
                inner.add(packet)
            } else {
                Err(NotAdded::ForNow(packet))
            };
            if let Err(NotAdded::ForNow(mut packet) | NotAdded::Never(mut packet)) = added {
                packet.control_mut().lose(Why::ReplyDropped);
                done.push_back(packet);
            }
            Ok(())
        });
        afterwards.unwrap_or_default()
    }

    /// Sends the open packet of `backlog`, if there is one.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn send_open(&self, backlog: &Backlog) -> Afterwards {
        let afterwards = self.change(|inner, done| {
            if let Some(open) = backlog.take_open() {
                inner.add_or_wait(open, done);
            }
            Ok(())
        });
        afterwards.unwrap_or_default()
    }

    /// Sends the open packets that linger.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`. A worker's: its turn is what they linger for.
    pub(in crate::driver) fn send_lingering(&self) -> Afterwards {
        let mut lingering = Lingering::new();
        let afterwards = self.change(|inner, done| {
            lingering = inner.lingering.take();
            for open in lingering.packets() {
                inner.add_or_wait(open, done);
            }
            Ok(())
        });
        // The lock is released by now.
        drop(lingering);
        afterwards.unwrap_or_default()
    }

    /// Takes back what the device has taken, and gives it what waits; `timer` if that is why.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn reclaim(&self, timer: bool) -> Afterwards {
        let mut stuck = false;
        let afterwards = self.change(|inner, _| {
            if let Some(queue) = &mut inner.queue {
                queue.disable_cb();
            }
            stuck = timer && inner.underway.timer_fired();
            Ok(())
        });
        if stuck {
            // One that was restored may have lost count of what it has asked to be told of.
            self.notify();
        }
        Afterwards {
            stuck,
            ..afterwards.unwrap_or_default()
        }
    }

    /// Asks the device to say when it has taken all that was sent so far.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn ask_for_completion(&self) -> Afterwards {
        let afterwards = self.change(|inner, _| {
            let waiting = inner.waiting.len();
            inner.underway.wait_for_all(waiting);
            Ok(())
        });
        afterwards.unwrap_or_default()
    }

    /// Takes back what the device has taken, does `what` is to be done, which may put packets that are to be freed
    /// into the list, and gives the device what waits.
    ///
    /// The device is told, and packets are freed, with nothing locked: the last reference to a socket may go with
    /// them.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`, and calls `what` under it.
    ///
    /// # Errors
    ///
    /// As of `what`.
    fn change(
        &self,
        what: impl FnOnce(&mut Inner, &mut SkBuffQueue<Sent>) -> Result,
    ) -> Result<Afterwards> {
        self.change_and_kick(|_| true, what)
    }

    /// As [`change`](Self::change); the device is told if `kick` says so, which is asked under the lock.
    fn change_and_kick(
        &self,
        kick: impl FnOnce(&Inner) -> bool,
        what: impl FnOnce(&mut Inner, &mut SkBuffQueue<Sent>) -> Result,
    ) -> Result<Afterwards> {
        let mut done = SkBuffQueue::new();
        let (result, notify, unshown) = {
            let mut inner = self.inner.lock();
            inner.reclaim(&mut done);
            let result = what(&mut inner, &mut done);
            inner.settle(&mut done);
            let result = result.map(|()| self.afterwards(&mut inner));
            let notify = if kick(&inner) {
                inner.queue.as_mut().and_then(Virtqueue::kick_prepare)
            } else {
                None
            };
            (result, notify, inner.unshown.take())
        };
        if let Some(notify) = notify {
            STATS.count(Counter::TxKicks);
            notify.notify();
        }
        unshown.show();
        packet::free(done);
        result
    }

    /// Tells the device of packets though it has not asked for that.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    fn notify(&self) {
        if let Some(queue) = &mut self.inner.lock().queue {
            STATS.count(Counter::TxKicks);
            queue.notify();
        }
    }

    /// Whether so much waits that `whose` writers have to wait.
    ///
    /// # Context
    ///
    /// Any.
    pub(in crate::driver) fn is_full(&self, whose: Whose) -> bool {
        // Relaxed: nobody waits for it to change; for that there is `is_full_still()`.
        match whose {
            Whose::Connections => self.full.load(Relaxed),
            Whose::Datagrams => self.full_of_datagrams.load(Relaxed),
        }
    }

    /// The same, in order with [`Afterwards::tell_of_room`]: a writer who is told that it is full, and can be
    /// found as one who waits before asking, is told of room.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn is_full_still(&self, whose: Whose) -> bool {
        self.inner.lock().waiting.is_full(whose)
    }

    /// Waits until the device has taken all packets, `limit` at most; `follow` does what follows from looking.
    ///
    /// # Context
    ///
    /// Sleeps; calls `follow` with nothing locked.
    pub(in crate::driver) fn drain(&self, limit: Delta, mut follow: impl FnMut(Afterwards)) {
        let since = Instant::<Monotonic>::now();
        loop {
            let mut idle = false;
            let afterwards = self.change(|inner, _| {
                let broken = inner.queue.as_ref().is_none_or(Virtqueue::is_broken);
                let sent = inner.waiting.is_empty() && inner.lingering.is_empty();
                idle = broken || (inner.underway.in_flight() == 0 && sent);
                Ok(())
            });
            follow(afterwards.unwrap_or_default());
            if idle || since.elapsed() >= limit {
                return;
            }
            fsleep(Delta::from_micros(500));
        }
    }

    /// How many descriptors the queue has, zero while the device does not run.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn size(&self) -> usize {
        self.inner.lock().queue.as_ref().map_or(0, Virtqueue::size)
    }

    /// How many packets there are just now.
    ///
    /// # Context
    ///
    /// Does not sleep; takes `Tx::inner`.
    pub(in crate::driver) fn gauge(&self) -> Gauge {
        let inner = self.inner.lock();
        Gauge {
            in_flight: inner.underway.in_flight(),
            waiting: inner.waiting.len(),
            memory: inner.waiting.memory(),
        }
    }

    /// What is to be done once the lock is released. A timer runs while the device has packets, and while
    /// packets wait for memory.
    ///
    /// # Context
    ///
    /// Called under `Tx::inner`; does not sleep.
    fn afterwards(&self, inner: &mut Inner) -> Afterwards {
        let tell_of_room = inner.waiting.has_room_again();
        inner.follow_room();
        let waiting = &mut inner.waiting;
        self.full
            .store(waiting.is_full(Whose::Connections), Relaxed);
        self.full_of_datagrams
            .store(waiting.is_full(Whose::Datagrams), Relaxed);
        Afterwards {
            start_timer: inner.underway.start_timer(!inner.waiting.is_empty()),
            tell_of_room,
            lingers: !inner.lingering.is_empty(),
            asks: inner.waiting.scheduled.has_due(),
            watch: inner.waiting.scheduled.wants_look(),
            stuck: false,
        }
    }
}
