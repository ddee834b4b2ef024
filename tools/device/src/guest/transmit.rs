// SPDX-License-Identifier: GPL-2.0

//! What comes from the guest: packets are taken from tx, checked, and handed on.

use log::debug;

use super::{Guest, Reply, BUDGET, TX};
use crate::{
    connection::{Key, State, Write},
    fault::{Fate, Queue},
    packet::{
        kind, op, Header, Packet, HEADER, HEADER_MRG, HOST_CID, SEQ_EOM, SHUTDOWN_BOTH,
        SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
    },
    ring::{Chain, Memory, Ring, Vring},
    switch::Delivery,
};

/// Answers that wait for rx: beyond that the guest must take some before it may send more.
pub const MAX_REPLIES: usize = 1024;

impl Guest {
    /// Takes packets from tx; true if there may be more.
    pub fn tx(&mut self, vrings: &[Vring], mem: &Memory) -> bool {
        let fault = self.fault(Queue::Tx);
        if fault.deaf {
            if let Some(mut ring) = self.ring(vrings, TX, mem) {
                ring.forget();
            }
            return false;
        }
        if fault.paused || fault.rests() || self.tx_stalled {
            return false;
        }
        while let Some(packet) = self.fault(Queue::Tx).due() {
            if !self.packet(&packet.header, &packet.data) {
                self.fault(Queue::Tx).put_back(packet);
                self.tx_stalled = true;
                return false;
            }
        }
        let Some(mut ring) = self.ring(vrings, TX, mem) else {
            return false;
        };
        ring.quiet();
        let mut budget = BUDGET;
        let more = loop {
            if self.replies.len() >= MAX_REPLIES {
                self.tx_stalled = true;
                break false;
            }
            if self.fault(Queue::Tx).full() {
                break false;
            }
            if budget == 0 {
                break true;
            }
            let Some(chain) = ring.pop() else {
                if ring.wait() {
                    ring.quiet();
                    continue;
                }
                break false;
            };
            let head = chain.head();
            let Some((header, len)) = self.parse(&ring, chain, self.limits.habits.buffer as usize)
            else {
                ring.used(head, 0);
                continue;
            };
            let data = std::mem::take(&mut self.data);
            let payload = data.get(..len).unwrap_or_default();
            let taken = match self.fault(Queue::Tx).fate() {
                Fate::Pass => self.packet(&header, payload),
                Fate::Drop => {
                    self.counters().dropped_on_command.count();
                    true
                }
                Fate::Hold => {
                    self.fault(Queue::Tx).hold(&header, payload);
                    true
                }
            };
            self.data = data;
            if !taken {
                ring.unpop();
                self.tx_stalled = true;
                self.counters().switch_waits.count();
                break false;
            }
            ring.used(head, 0);
            let counters = self.counters();
            counters.tx_packets.count();
            counters.tx_bytes.add(len as u64);
            budget -= 1;
            if self.fault(Queue::Tx).took() {
                break false;
            }
        };
        if ring.finish() {
            self.counters().interrupts.count();
        }
        more
    }

    /// Copies a packet out of guest memory, its payload to `self.data`, and checks what holds for all packets.
    pub fn parse<'a>(
        &mut self,
        ring: &Ring<'a>,
        chain: Chain<'a>,
        max: usize,
    ) -> Option<(Header, usize)> {
        let size = self.header_size();
        let mut bytes = [0; HEADER_MRG];
        let header_of = |b: &[u8]| {
            let mut first = [0; HEADER];
            first.copy_from_slice(b.get(..HEADER).unwrap_or(&[0; HEADER]));
            Header::parse(&first)
        };
        let read = ring.read(
            chain,
            bytes.get_mut(..size).unwrap_or_default(),
            max,
            |b| header_of(b).len as usize,
            &mut self.data,
        );
        let header = header_of(&bytes);
        let most = match self.limits.habits.contiguous {
            Some(most) if header.kind != kind::DGRAM || self.shares_dgrams() => most,
            _ => usize::MAX,
        };
        let fits =
            |(len, pieces): &(usize, usize)| most == usize::MAX || *len <= most && *pieces <= 1;
        let Some((len, _)) = read.ok().filter(fits) else {
            debug!("{}: a malformed packet: {header:?}", self.shared.name);
            self.counters().tx_malformed.count();
            // What it was part of has lost something.
            if header.src_cid == self.shared.cid() && header.dst_cid == HOST_CID {
                let key = key_of(&header);
                if let Some(index) = self.keys.get(&key) {
                    self.violation(*index);
                }
            }
            return None;
        };
        if header.src_cid != self.shared.cid() {
            self.counters().tx_wrong_source.count();
            return None;
        }
        Some((header, len))
    }

    /// Handles a packet from tx; false if it must wait.
    fn packet(&mut self, header: &Header, data: &[u8]) -> bool {
        if header.kind == kind::DGRAM && self.shares_dgrams() {
            self.shared_datagram(header, data);
            return true;
        }
        if header.kind == kind::DGRAM || !self.negotiated(header.kind) {
            self.counters().tx_wrong_kind.count();
            if header.kind != kind::DGRAM {
                self.reset(header);
            }
            return true;
        }
        if header.dst_cid != HOST_CID {
            return self.switch_packet(header, data);
        }
        if header.op == op::RST {
            self.counters().resets_received.count();
        }
        let key = key_of(header);
        match self.keys.get(&key).copied() {
            Some(index) => self.connection_packet(index, header, data),
            None if header.op == op::REQUEST => self.connect(header),
            None => self.reset(header),
        }
        true
    }

    fn switch_packet(&mut self, header: &Header, data: &[u8]) -> bool {
        let packet = Packet {
            header: *header,
            data: data.to_vec(),
        };
        match self.switch.deliver(packet, &self.shared) {
            Delivery::Done => self.counters().switched_out.count(),
            Delivery::Full => return false,
            Delivery::Nobody(packet) => self.reset(&packet.header),
        }
        true
    }

    fn connection_packet(&mut self, index: usize, header: &Header, data: &[u8]) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.credit.hear(header);
        connection.heard();
        let state = connection.state;
        match header.op {
            op::REQUEST => {
                // It has forgotten the connection: so must we, and it may try again.
                self.reset(header);
                self.remove(index);
                return;
            }
            op::RESPONSE if state == State::Requested => self.established(index),
            op::RST => {
                self.left(index);
                return;
            }
            op::SHUTDOWN => {
                connection.guest_done |= header.flags & SHUTDOWN_BOTH;
                self.settle(index);
            }
            op::RW if state == State::Established && connection.guest_done & SHUTDOWN_SEND == 0 => {
                self.receive(index, header, data);
            }
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST if self.limits.habits.answers_requests => self.update(index),
            op::CREDIT_REQUEST => {}
            op::RESPONSE | op::RW => {
                self.violation(index);
                return;
            }
            _ => self.counters().tx_unknown_op.count(),
        }
        self.make_ready(index);
    }

    /// Data for the host.
    fn receive(&mut self, index: usize, header: &Header, data: &[u8]) {
        let before = self.held;
        let ends = header.flags & SEQ_EOM != 0;
        let Some(outcome) = self.touch(index, |c| c.write(data, ends)) else {
            return;
        };
        match outcome {
            Write::Done if self.held > self.limits.memory.max(before) => self.violation(index),
            Write::Done => {}
            Write::Deaf => self.host_deaf(index),
            Write::Refused => self.violation(index),
        }
        self.update_if_due(index);
    }

    /// The host's program will not read any more: the guest is told so.
    pub fn host_deaf(&mut self, index: usize) {
        self.tell_done(index, SHUTDOWN_RECEIVE);
    }

    /// The guest did what it must not do, or something that cannot be sent on.
    pub fn violation(&mut self, index: usize) {
        self.counters().tx_violations.count();
        self.reset_connection(index);
    }

    /// Tells the guest of its credit.
    pub fn update(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.updating {
            return;
        }
        connection.updating = true;
        let key = connection.key;
        self.reply(key, op::CREDIT_UPDATE, 0);
    }

    pub fn update_if_due(&mut self, index: usize) {
        let due = self
            .connections
            .get(index)
            .is_some_and(|c| c.state == State::Established && c.credit.update_due());
        if due {
            self.update(index);
        }
    }

    /// A packet without payload on a connection.
    pub fn reply(&mut self, key: Key, op: u16, flags: u32) {
        let mut header = self.header_of(key, op);
        header.flags = flags;
        if op == op::RST {
            self.counters().resets_sent.count();
        }
        self.replies.push_back(Reply {
            header,
            of: (op != op::RST).then_some(key),
        });
    }
}

/// The connection that a packet to the host belongs to.
pub fn key_of(header: &Header) -> Key {
    Key {
        kind: header.kind,
        host_port: header.dst_port,
        guest_port: header.src_port,
    }
}
