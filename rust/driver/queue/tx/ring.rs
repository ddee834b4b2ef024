// SPDX-License-Identifier: GPL-2.0

//! What the device is given, and what is taken back from it.

use super::{
    Inner,
    Sent, //
};
use crate::{
    driver::{
        queue::{
            packet::{
                self,
                Cause,
                Open,
                Packet, //
            },
            waiting::Popped, //
        },
        stats::{
            Counter,
            STATS, //
        },
        trace::{
            self,
            Why, //
        }, //
    },
    ext::net::skbuff::SkBuffQueue, //
};
use kernel::prelude::*;

/// Why a packet was not given to the device. It is to be freed with nothing locked: the last reference to
/// a socket may go with it.
pub(super) enum NotAdded {
    /// There is no room.
    ForNow(Packet),
    /// It can never be sent.
    Never(Packet),
}

impl Inner {
    /// Gives the device what waits, and has it say when it has taken packets, if that is wanted.
    pub(super) fn settle(&mut self, done: &mut SkBuffQueue<Sent>) {
        loop {
            self.send_waiting(done);
            let wanted = self.underway.wants_interrupt(!self.waiting.is_empty());
            if !wanted || !self.ask_for_interrupt(done) {
                break;
            }
        }
    }

    /// Moves what the device has taken to `done`. Open packets that have waited for it wait for their turn, or for a
    /// worker.
    pub(super) fn reclaim(&mut self, done: &mut SkBuffQueue<Sent>) {
        let Some(queue) = &mut self.queue else {
            return;
        };
        let mut scheduled = (0u32, 0u32);
        while let Some((mut packet, _)) = queue.get_used() {
            if packet.control().has_had_turn() {
                // OVERFLOW: No ring has so many packets, or so long ones.
                scheduled = (scheduled.0 + 1, scheduled.1 + packet.len() as u32);
            }
            packet.control_mut().come_back();
            self.underway.take();
            self.waiting.take(&packet, self.underway.in_flight());
            let after = packet.control_mut().take_back();
            if let Some(mut open) = self.lingering.open_that_goes(&packet, after) {
                open.control_mut().close();
                if let Some(open) = self.waiting.push(open) {
                    done.push_back(open);
                }
            }
            done.push_back(packet);
        }
        self.waiting.scheduled.complete(scheduled);
    }

    /// Tells an interface's scheduler that there is no room, as what has had its turn waits for some; or that there is
    /// again, in a part of the queue that is worth it.
    pub(super) fn follow_room(&mut self) {
        let Some(queue) = &self.queue else {
            return;
        };
        let worth_it = queue.num_free() >= queue.size() / 4;
        let waiting = &mut self.waiting;
        if waiting.has_ready() {
            waiting.scheduled.follow_room(false);
        } else if worth_it {
            waiting.scheduled.follow_room(true);
        }
    }

    /// Has `packet` stay open behind what its sender has sent, or gives it to the device.
    pub(super) fn park_or_add(&mut self, packet: Open, done: &mut SkBuffQueue<Sent>) {
        let closed = match packet.control().sender().cloned() {
            Some(sender) => sender.backlog().park(packet),
            None => Some(packet.close()),
        };
        match closed {
            Some(packet) => self.add_or_wait(packet, done),
            // It waits for what the device has, and what goes before.
            None => self.underway.wait_for_all(self.waiting.len()),
        }
    }

    /// Gives the device `packet`, or has it wait, after what its sender has open.
    pub(super) fn close_and_add(&mut self, packet: Packet, done: &mut SkBuffQueue<Sent>) {
        let control = packet.control();
        // A credit update may overtake payload; nothing else.
        if control.cause() != Cause::CreditUpdate {
            let open = control.sender().and_then(|s| s.backlog().take_open());
            if let Some(open) = open {
                self.add_or_wait(open, done);
            }
        }
        self.add_or_wait(packet, done);
    }

    /// Gives `packet` to the device.
    ///
    /// # Errors
    ///
    /// Gives the packet back, and says whether to try again.
    pub(super) fn add(&mut self, mut packet: Packet) -> Result<(), NotAdded> {
        let Some(queue) = &mut self.queue else {
            packet.control_mut().lose(Why::NoDevice);
            return Err(NotAdded::Never(packet));
        };
        if queue.num_free() == 0 {
            return Err(NotAdded::ForNow(packet));
        }
        // Before its fields are filled in: what is read after that is for the next update.
        packet.control().report_update_left();
        if packet::stamp(&mut packet).is_err()
            || packet::fit_header(&mut packet, self.header_len).is_err()
        {
            packet.control_mut().lose(Why::Over);
            return Err(NotAdded::Never(packet));
        }
        self.unshown.add(&mut packet);
        let header = trace::before_sent(|| packet::header_of(&packet));
        let load = self.waiting.load_of(&packet);
        let scheduled = packet.control().has_had_turn().then_some(packet.len());
        packet.control_mut().give();
        match queue.add(packet) {
            Ok(()) => {
                STATS.count(Counter::TxPackets);
                trace::sent(header.as_ref());
                self.underway.give();
                self.waiting.give(load);
                if let Some(bytes) = scheduled {
                    self.waiting.scheduled.give(bytes);
                }
                Ok(())
            }
            // No room; or, for now, nothing to map it with.
            Err(mut error) if error.error == ENOSPC || error.error == ENOMEM => {
                error.buffer.control_mut().come_back();
                Err(NotAdded::ForNow(error.buffer))
            }
            Err(mut error) if error.error == E2BIG => {
                let control = error.buffer.control_mut();
                control.come_back();
                control.lose(Why::TooLong);
                if let Some(sender) = control.sender() {
                    sender.begin_gap();
                }
                Err(NotAdded::Never(error.buffer))
            }
            // The device is broken, and will never take anything.
            Err(error) => Err(NotAdded::Never(error.buffer)),
        }
    }

    /// Gives `packet` to the device, or has it wait; what may not even wait goes to `done`.
    pub(super) fn add_or_wait(&mut self, mut packet: Packet, done: &mut SkBuffQueue<Sent>) {
        packet.control_mut().close();
        let packet = if self.waiting.lets_pass(&packet) {
            match self.add(packet) {
                Ok(()) => return,
                Err(NotAdded::Never(packet)) => {
                    done.push_back(packet);
                    return;
                }
                Err(NotAdded::ForNow(packet)) => packet,
            }
        } else {
            packet
        };
        if let Some(packet) = self.waiting.push(packet) {
            done.push_back(packet);
        }
    }

    /// Gives the device what waits, as there is room.
    fn send_waiting(&mut self, done: &mut SkBuffQueue<Sent>) {
        while let Some(Popped { packet, next }) = self.waiting.pop() {
            match self.add(packet) {
                Ok(()) => {}
                Err(NotAdded::Never(packet)) => done.push_back(packet),
                Err(NotAdded::ForNow(packet)) => {
                    self.waiting.unpop(packet, next);
                    return;
                }
            }
            self.waiting.advance(next);
        }
    }

    /// Has the device say when it has taken packets. Returns whether it has taken some meanwhile; they are
    /// taken back.
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
}
