// SPDX-License-Identifier: GPL-2.0

//! Packets whose turn a network interface's scheduler gives (N2).
//!
//! While the interface is up, each packet with payload has a turn, which the scheduler orders among the others; the
//! packet waits here, or in its sender's [`Backlog`](super::Backlog), in its order. A turn that comes back has a packet go:
//! its sender's next one, whichever it was given for. Which turns were dropped is found by looking, as the
//! scheduler tells nobody.
//!
//! Where there is no memory for a turn, its packet goes with the one before it, or at once.

use super::{
    packet::{
        self,
        Cause,
        Packet,
        Sender, //
    },
    slots::Slots,
    waiting::ordered, //
};
use crate::{
    driver::stats::{
        Counter,
        STATS, //
    },
    ext::net::device::{
        NetDevice,
        Token,
        Turn, //
    },
    proto::{
        flow,
        Backoff, //
    },
    wire::HEADER_LEN, //
};
use core::mem::{
    replace,
    take, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    prelude::*,
    sync::Arc, //
};

/// So many turns are looked at in one go, as all others wait for that.
const LOOK_MAX: usize = 512;

/// What the scheduler of a network interface orders.
///
/// # Context
///
/// `Tx::inner` guards it; nothing of it sleeps.
pub(super) struct Scheduled {
    /// The interface, and which of its queues this is.
    interface: Option<(Arc<NetDevice>, u16)>,
    /// Somebody has set the interface up.
    up: bool,
    /// What is sent before the device goes has no turns.
    bypassed: bool,
    /// Packets have turns: the interface is up, and the device runs.
    on: bool,
    /// The scheduler was told to give none, as there is no room.
    stopped: bool,
    /// Somebody is to look for turns that were dropped.
    watched: bool,
    turns: Slots<Given>,
    /// Those that the scheduler is to be given once nothing is locked.
    due: KVec<Turn>,
    /// What the device has of what was sent by turns: packets, and bytes.
    in_flight: (u32, u32),
    counts: Counts,
}

/// A turn that the scheduler was given. It is to be dropped with nothing locked: the last reference to a sender may go
/// with it.
pub(super) struct Given {
    token: Token,
    to: Holder,
    backoff: Backoff,
}

/// Turns that will not come. They are to be dropped with nothing locked: the last references to senders and sockets may go
/// with them.
pub(super) struct Ended {
    turns: Slots<Given>,
    _due: KVec<Turn>,
}

impl Ended {
    /// Calls `f` with all, in the order in which they were asked for.
    pub(super) fn for_each(&mut self, f: impl FnMut(&mut Given)) {
        self.turns.for_each(f);
    }
}

/// To whom a turn belongs.
enum Holder {
    /// A sender: its next packet goes. They wait in its backlog.
    Sender(Arc<dyn Sender>),
    /// A datagram, which is lost if its turn is.
    Datagram(Packet),
    /// What it was for has gone.
    Nobody,
}

/// What was sent by turns.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::driver) struct Counts {
    pub(in crate::driver) packets: u64,
    /// Headers included.
    pub(in crate::driver) bytes: u64,
    /// Turns that were dropped.
    pub(in crate::driver) lost: u64,
}

impl Scheduled {
    /// There is no interface.
    pub(super) const fn new() -> Self {
        Self {
            interface: None,
            up: false,
            bypassed: false,
            on: false,
            stopped: false,
            watched: false,
            turns: Slots::new(),
            due: KVec::new(),
            in_flight: (0, 0),
            counts: Counts {
                packets: 0,
                bytes: 0,
                lost: 0,
            },
        }
    }

    /// The interface is `device`, and this its queue number `queue`.
    pub(super) fn attach(&mut self, device: Arc<NetDevice>, queue: u16) {
        self.interface = Some((device, queue));
    }

    /// Whether packets have turns.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Notes whether somebody has set the interface up, whose queues are awake then.
    pub(super) fn set_up(&mut self, up: bool) {
        self.up = up;
        self.stopped = false;
    }

    /// From now on packets have turns, if the interface is up, and they are not to do without.
    pub(super) fn begin(&mut self) {
        self.on = self.up && !self.bypassed && self.interface.is_some();
    }

    /// Notes whether packets do without turns, whoever sets the interface up.
    pub(super) fn set_bypassed(&mut self, bypassed: bool) {
        self.bypassed = bypassed;
    }

    /// None has, from now on.
    pub(super) fn end(&mut self) {
        self.on = false;
    }

    /// The device has nothing any more, and takes nothing; nobody will look.
    pub(super) fn stop(&mut self) {
        self.on = false;
        self.watched = false;
        self.complete(self.in_flight);
        self.follow_room(true);
    }

    /// Takes all turns out that have not come.
    pub(super) fn take_all(&mut self) -> Ended {
        Ended {
            turns: replace(&mut self.turns, Slots::new()),
            _due: take(&mut self.due),
        }
    }

    /// What was sent by turns.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether `packet` is to wait here: it needs a turn, or is behind one that does.
    pub(super) fn keeps(&self, packet: &Packet) -> bool {
        self.on
            && (packet.control().cause().has_bytes()
                || ordered(packet).is_some_and(|sender| sender.backlog().is_held()))
    }

    /// Has `packet` wait for a turn, or for the one before it; returns it if it is to wait otherwise.
    pub(super) fn hold(&mut self, packet: Packet) -> Option<Packet> {
        if !self.keeps(&packet) {
            return Some(packet);
        }
        let cause = packet.control().cause();
        let sender = ordered(&packet).cloned();
        let mut packet = Some(packet);
        let Some(sender) = sender.filter(|_| cause != Cause::Datagram) else {
            let _ = self.ask(&mut packet, |packet| packet.take().map(Holder::Datagram));
            return packet;
        };
        let backlog = sender.backlog();
        if backlog.is_listed() {
            return packet;
        }
        let asked = cause.has_bytes()
            && self
                .ask(&mut packet, |_| Some(Holder::Sender(sender.clone())))
                .is_ok();
        backlog.hold(packet?, asked)
    }

    /// Asks the scheduler for a turn for `packet`, which belongs to what `to` returns.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: no memory.
    /// - `ENODEV`: there is no interface.
    fn ask(
        &mut self,
        packet: &mut Option<Packet>,
        to: impl FnOnce(&mut Option<Packet>) -> Option<Holder>,
    ) -> Result {
        let Some((_, queue)) = self.interface else {
            return Err(ENODEV);
        };
        let due = &mut self.due;
        self.turns.insert(|key| {
            let first = packet.as_ref().ok_or(EINVAL)?;
            let header = packet::header_of(first).ok_or(EINVAL)?;
            let token = Token::new(first, HEADER_LEN, flow(&header), queue, key)?;
            due.push(token.turn(Some(first))?, GFP_ATOMIC | __GFP_NOWARN)?;
            Ok(Given {
                token,
                to: to(packet).ok_or(EINVAL)?,
                backoff: Backoff::new(),
            })
        })
    }

    /// A turn has come: the one that `turn` is, unless it is none of ours.
    pub(super) fn spend(&mut self, turn: &Turn) -> Option<Given> {
        let key = turn.key()?;
        if self.turns.get(key)?.token.matches(turn) {
            self.turns.take(key)
        } else {
            None
        }
    }

    /// Looks for turns that were dropped, at the next [`LOOK_MAX`]. Those that are over are returned: they are not asked for again.
    pub(super) fn look(&mut self) -> KVec<Given> {
        self.watched = false;
        let (due, counts) = (&mut self.due, &mut self.counts);
        let over = self
            .turns
            .extract(LOOK_MAX, |given| given.is_over(due, counts));
        for sender in over.iter().filter_map(Given::sender) {
            sender.backlog().forget_turn();
        }
        over
    }

    /// Whether there are turns for the scheduler.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether the scheduler is there: not when its interface is just going up or down.
    pub(super) fn is_ready(&self) -> bool {
        let interface = self.interface.as_ref();
        interface.is_some_and(|(device, queue)| device.is_ready(*queue))
    }

    /// The turns that the scheduler is to be given, and its interface.
    pub(super) fn take_due(&mut self) -> Option<(Arc<NetDevice>, KVec<Turn>)> {
        let (device, _) = self.interface.as_ref()?;
        (!self.due.is_empty()).then(|| (device.clone(), take(&mut self.due)))
    }

    /// Whether somebody is to look for turns that were dropped; said once for each [`look`](Self::look).
    pub(super) fn wants_look(&mut self) -> bool {
        !self.turns.is_empty() && !replace(&mut self.watched, true)
    }

    /// The device was given a packet of `bytes` bytes that has had its turn.
    pub(super) fn give(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.counts.packets = self.counts.packets.saturating_add(1);
        self.counts.bytes = self.counts.bytes.saturating_add(u64::from(bytes));
        self.in_flight.0 = self.in_flight.0.saturating_add(1);
        self.in_flight.1 = self.in_flight.1.saturating_add(bytes);
        if let Some((device, queue)) = &self.interface {
            device.sent(*queue, bytes);
        }
    }

    /// The device has taken so many packets, and bytes, that have had their turns.
    pub(super) fn complete(&mut self, (packets, bytes): (u32, u32)) {
        if packets == 0 {
            return;
        }
        self.in_flight.0 = self.in_flight.0.saturating_sub(packets);
        self.in_flight.1 = self.in_flight.1.saturating_sub(bytes);
        if let Some((device, queue)) = &self.interface {
            device.completed(*queue, packets, bytes);
        }
    }

    /// Tells the scheduler that there is room, or none.
    pub(super) fn follow_room(&mut self, room: bool) {
        if self.stopped != room {
            return;
        }
        self.stopped = !room;
        if let Some((device, queue)) = &self.interface {
            if room {
                device.wake_queue(*queue);
            } else {
                device.stop_queue(*queue);
            }
        }
    }
}

impl Given {
    /// Whose next packet is to go, if it is a sender's.
    pub(super) fn sender(&self) -> Option<&Arc<dyn Sender>> {
        match &self.to {
            Holder::Sender(sender) => Some(sender),
            Holder::Datagram(_) | Holder::Nobody => None,
        }
    }

    /// The datagram that it is for, if that has not been looked at.
    pub(super) fn datagram(&self) -> Option<&Packet> {
        match &self.to {
            Holder::Datagram(packet) => Some(packet),
            Holder::Sender(_) | Holder::Nobody => None,
        }
    }

    /// Takes out the datagram that it is for.
    pub(super) fn take_datagram(&mut self) -> Option<Packet> {
        match replace(&mut self.to, Holder::Nobody) {
            Holder::Datagram(packet) => Some(packet),
            other => {
                self.to = other;
                None
            }
        }
    }

    /// Whether it was dropped, and is not asked for again. One that is goes to `due` when its time has come.
    fn is_over(&mut self, due: &mut KVec<Turn>, counts: &mut Counts) -> bool {
        if self.token.is_out() {
            return false;
        }
        if !self.backoff.waits() {
            counts.lost = counts.lost.saturating_add(1);
            STATS.count(Counter::TurnsLost);
        }
        let Holder::Sender(sender) = &self.to else {
            return true;
        };
        let waits = sender.backlog().is_held();
        if waits && self.backoff.look() {
            let turn = |packet: &Packet| self.token.turn(Some(packet)).ok();
            let turn = sender.backlog().with_first(turn).flatten();
            // Without memory it counts as dropped again.
            let _ = turn.map(|turn| due.push(turn, GFP_ATOMIC | __GFP_NOWARN));
        }
        !waits
    }
}
