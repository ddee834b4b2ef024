// SPDX-License-Identifier: GPL-2.0

//! Credit: how much either end of a connection may send. All counters run freely.
//!
//! This repeats what the driver's `rust/proto` decides, on purpose: the device is an independent witness, and reckons by
//! code of its own what the guest may do.

use crate::{habits::Updates, packet::Header};

#[derive(Debug)]
pub struct Credit {
    /// What we hold for the host at most.
    buf_alloc: u32,
    updates: Updates,
    /// All that the guest has sent.
    received: u32,
    /// All of it that the host has.
    forwarded: u32,
    /// As much of `forwarded` as the guest knows.
    told: u32,
    /// All that we have sent to the guest.
    sent: u32,
    peer_alloc: u32,
    peer_forwarded: u32,
}

impl Credit {
    pub fn new(buf_alloc: u32, updates: Updates) -> Self {
        Self {
            buf_alloc,
            updates,
            received: 0,
            forwarded: 0,
            told: 0,
            sent: 0,
            peer_alloc: 0,
            peer_forwarded: 0,
        }
    }

    /// Writes our side of it into a packet to the guest.
    pub fn stamp(&mut self, header: &mut Header) {
        header.buf_alloc = self.buf_alloc;
        header.fwd_cnt = self.forwarded;
        self.told = self.forwarded;
    }

    /// Reads the guest's side out of a packet. A count that runs backwards or ahead of what was sent is not believed.
    pub fn hear(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc;
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        if self.sent.wrapping_sub(header.fwd_cnt) <= in_flight {
            self.peer_forwarded = header.fwd_cnt;
        }
    }

    /// What the guest has room for.
    pub fn peer_free(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_alloc.saturating_sub(in_flight) as usize
    }

    /// What the guest has room for when it is empty: a message that is longer can never arrive.
    pub fn peer_alloc(&self) -> usize {
        self.peer_alloc as usize
    }

    pub fn send(&mut self, n: usize) {
        self.sent = self.sent.wrapping_add(n as u32);
    }

    /// Counts what came from the guest; false if that was more than it may send.
    #[must_use]
    pub fn receive(&mut self, n: usize) -> bool {
        let held = self.received.wrapping_sub(self.forwarded) as usize;
        if held.saturating_add(n) > self.buf_alloc as usize {
            return false;
        }
        self.received = self.received.wrapping_add(n as u32);
        true
    }

    /// Counts what went on to the host.
    pub fn forward(&mut self, n: usize) {
        self.forwarded = self.forwarded.wrapping_add(n as u32);
    }

    /// True when the guest is to hear of the room that it has.
    pub fn update_due(&self) -> bool {
        let news = self.forwarded.wrapping_sub(self.told);
        let due = match self.updates {
            Updates::Below(room) => self.buf_alloc.saturating_sub(news) < room,
            Updates::HalfOfGuests => news >= self.peer_alloc / 2,
        };
        news > 0 && due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(buf_alloc: u32, fwd_cnt: u32) -> Header {
        Header {
            buf_alloc,
            fwd_cnt,
            ..Header::default()
        }
    }

    #[test]
    fn the_guest_may_fill_the_buffer_and_no_more() {
        let mut credit = Credit::new(100, Updates::Below(76));
        assert!(credit.receive(60) && credit.receive(40));
        assert!(!credit.receive(1));
        credit.forward(24);
        assert!(!credit.update_due());
        credit.forward(1);
        assert!(credit.update_due());
        let mut packet = Header::default();
        credit.stamp(&mut packet);
        assert_eq!((packet.buf_alloc, packet.fwd_cnt), (100, 25));
        assert!(!credit.update_due());
        assert!(credit.receive(25) && !credit.receive(1));
    }

    #[test]
    fn counters_wrap() {
        let mut credit = Credit::new(0, Updates::Below(0));
        credit.hear(&header(u32::MAX, 0));
        credit.send(u32::MAX as usize - 10);
        credit.hear(&header(1000, u32::MAX - 10));
        assert_eq!(credit.peer_free(), 1000);
        credit.send(100);
        assert_eq!(credit.peer_free(), 900);
        credit.hear(&header(1000, 89));
        assert_eq!(credit.peer_free(), 1000);
    }

    #[test]
    fn a_buffer_that_shrinks_leaves_nothing() {
        let mut credit = Credit::new(0, Updates::Below(0));
        credit.hear(&header(1000, 0));
        credit.send(800);
        credit.hear(&header(500, 0));
        assert_eq!(credit.peer_free(), 0);
    }

    #[test]
    fn a_count_that_lies_is_not_believed() {
        let mut credit = Credit::new(0, Updates::Below(0));
        credit.hear(&header(1000, 0));
        credit.send(800);
        credit.hear(&header(1000, 801));
        assert_eq!(credit.peer_free(), 200);
        credit.hear(&header(1000, 800));
        credit.hear(&header(1000, 700));
        assert_eq!(credit.peer_free(), 1000);
    }

    #[test]
    fn a_host_that_tells_late_says_nothing_before() {
        let mut credit = Credit::new(2 << 20, Updates::Below(64 << 10));
        assert!(credit.receive(2 << 20));
        credit.forward((2 << 20) - (64 << 10));
        assert!(!credit.update_due());
        credit.forward(1);
        assert!(credit.update_due());
    }

    #[test]
    fn a_host_that_looks_at_the_guests_buffer() {
        let mut credit = Credit::new(8 << 20, Updates::HalfOfGuests);
        credit.hear(&header(256 << 10, 0));
        assert!(credit.receive(256 << 10) && !credit.update_due());
        credit.forward((128 << 10) - 1);
        assert!(!credit.update_due());
        credit.forward(1);
        assert!(credit.update_due());
    }
}
