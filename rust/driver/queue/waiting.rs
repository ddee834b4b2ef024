// SPDX-License-Identifier: GPL-2.0

//! Packets that wait for room in a transmit queue, in their order, and how much memory they hold.

use super::{
    backlog::Backlog,
    packet::{
        self,
        Cause,
        Packet,
        Sent, //
    },
};
use crate::{
    driver::stats::{
        Counter,
        STATS, //
    },
    ext::net::skbuff::SkBuffQueue, //
};

/// How many replies wait at most (C6): more are dropped, and their peers have time-outs.
const REPLIES_MAX: usize = 1024;

/// With payload of so much memory, in bytes, all writers have to wait (K5).
const MEMORY_MAX: usize = 16 << 20;

/// Down to this it must come before they go on, so that they are not woken for each packet.
const MEMORY_LOW: usize = MEMORY_MAX / 4 * 3;

/// Packets that wait.
///
/// # Context
///
/// `Tx::inner` guards it: nothing of it sleeps.
pub(super) struct Waiting {
    packets: SkBuffQueue<Sent>,
    /// How many of them are replies.
    replies: usize,
    /// The memory of those with payload, open ones included, in bytes.
    memory: usize,
    /// There was too much, and has been since.
    full: bool,
}

/// The memory that a packet counts for.
fn weight(packet: &Packet) -> usize {
    match packet.control().cause() {
        Cause::Payload => packet.truesize(),
        Cause::Call | Cause::CreditUpdate | Cause::Reply | Cause::Last => 0,
    }
}

impl Waiting {
    /// None.
    pub(super) const fn new() -> Self {
        Self {
            packets: SkBuffQueue::new(),
            replies: 0,
            memory: 0,
            full: false,
        }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many wait; those that are open do not count.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// The memory of those with payload, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Whether writers have to wait.
    pub(super) fn is_full(&mut self) -> bool {
        self.full |= self.memory >= MEMORY_MAX;
        self.full
    }

    /// Whether writers that had to wait may go on; said once.
    pub(super) fn has_room_again(&mut self) -> bool {
        let room = self.full && self.memory <= MEMORY_LOW;
        self.full &= !room;
        room
    }

    /// Has `packet` wait; returns it if it may not, as there are too many replies.
    pub(super) fn push(&mut self, packet: Packet) -> Option<Packet> {
        let cause = packet.control().cause();
        if cause == Cause::Reply && self.replies >= REPLIES_MAX {
            STATS.count(Counter::ReplyDropped);
            return Some(packet);
        }
        // A credit update may overtake payload; nothing else.
        let sender = packet.control().sender().cloned();
        if let Some(sender) = sender.filter(|_| cause != Cause::CreditUpdate) {
            if let Some(open) = self.take_open(sender.backlog()) {
                self.enter(open);
            }
            if packet::is_open(&packet) {
                let weight = weight(&packet);
                match sender.backlog().park(packet) {
                    None => self.memory = self.memory.saturating_add(weight),
                    Some(packet) => self.enter(packet),
                }
                return None;
            }
        }
        self.enter(packet);
        None
    }

    /// Takes the first packet out.
    pub(super) fn pop(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        if let Some(open) = self.count_out(&packet) {
            self.enter(open);
        }
        Some(packet)
    }

    /// Puts the packet that [`pop`](Self::pop) has given back to the front.
    pub(super) fn unpop(&mut self, packet: Packet) {
        self.count_in(&packet);
        self.packets.push_front(packet);
    }

    /// Takes the packet out of `backlog` that small writes are put together in, if there is one.
    pub(super) fn take_open(&mut self, backlog: &Backlog) -> Option<Packet> {
        let open = backlog.take_open()?;
        self.memory = self.memory.saturating_sub(weight(&open));
        Some(open)
    }

    /// Takes those out for which `unwanted` says so. They are to be freed with nothing locked.
    pub(super) fn extract(&mut self, unwanted: impl Fn(&Sent) -> bool) -> SkBuffQueue<Sent> {
        let mut gone = self.packets.extract(|packet| unwanted(packet.control()));
        let mut open = SkBuffQueue::new();
        for packet in gone.iter() {
            if let Some(last) = self.count_out(&packet) {
                open.push_back(last);
            }
        }
        while let Some(packet) = open.pop_front() {
            if unwanted(packet.control()) {
                gone.push_back(packet);
            } else {
                self.enter(packet);
            }
        }
        gone
    }

    /// Counts `packet`, and puts it last.
    fn enter(&mut self, packet: Packet) {
        self.count_in(&packet);
        self.packets.push_back(packet);
    }

    /// Counts `packet`, which is about to wait.
    fn count_in(&mut self, packet: &Packet) {
        if packet.control().cause() == Cause::Reply {
            self.replies = self.replies.saturating_add(1);
        }
        let weight = weight(packet);
        self.memory = self.memory.saturating_add(weight);
        if let Some(sender) = packet.control().sender() {
            sender.backlog().count_in(weight);
        }
    }

    /// Counts `packet` out, which waits no longer. Returns one that was open behind it, and is counted
    /// nowhere now.
    fn count_out(&mut self, packet: &Packet) -> Option<Packet> {
        if packet.control().cause() == Cause::Reply {
            self.replies = self.replies.saturating_sub(1);
        }
        let weight_of = weight(packet);
        self.memory = self.memory.saturating_sub(weight_of);
        let open = packet.control().sender()?.backlog().count_out(weight_of)?;
        self.memory = self.memory.saturating_sub(weight(&open));
        Some(open)
    }
}
