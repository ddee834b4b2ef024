// SPDX-License-Identifier: GPL-2.0

//! What goes to the guest: answers, packets from other guests, and what the host's programs have written.

use super::{transmit::MAX_REPLIES, Guest, BUDGET, RX};
use crate::{
    connection::Read,
    fault::{Fate, Queue},
    packet::{kind, op, Header, Packet, MAX_PAYLOAD, SEQ_EOM, SEQ_EOR},
    ring::{Memory, Ring, Vring},
};

/// What a try to put something on rx came to.
pub enum Put {
    Done,
    /// There was nothing to put there after all.
    Nothing,
    NoBuffers,
}

impl Guest {
    /// Fills rx; true if there may be more.
    pub fn rx(&mut self, vrings: &[Vring], mem: &Memory) -> bool {
        if self.fault(Queue::Rx).paused || !self.lets_in() || !self.has_something() {
            return false;
        }
        let Some(mut ring) = self.ring(vrings, RX, mem) else {
            return false;
        };
        let loud = self.fault(Queue::Rx).loud;
        ring.hush(loud);
        let mut budget = BUDGET;
        let mut more = loop {
            if budget == 0 {
                break true;
            }
            budget -= 1;
            let put = if let Some(packet) = self.fault(Queue::Rx).due() {
                self.put_held(&mut ring, packet)
            } else if self.fault(Queue::Rx).full() {
                Put::Nothing
            } else if !self.replies.is_empty() {
                self.put_reply(&mut ring)
            } else if self.stale > 0 {
                self.put_stale(&mut ring)
            } else {
                self.put_from_any(&mut ring)
            };
            match put {
                Put::Done => {}
                Put::Nothing if self.has_something() => {}
                Put::Nothing => break false,
                Put::NoBuffers if ring.wait() => ring.hush(loud),
                Put::NoBuffers => break false,
            }
        };
        if ring.finish() {
            self.counters().interrupts.count();
        }
        if self.tx_stalled && self.replies.len() < MAX_REPLIES / 2 {
            self.tx_stalled = false;
            more = true;
        }
        more
    }

    fn has_something(&mut self) -> bool {
        if self.fault(Queue::Rx).has_due() {
            return true;
        }
        if self.fault(Queue::Rx).full() {
            return false;
        }
        !self.replies.is_empty()
            || self.stale > 0
            || !self.ready.is_empty()
            || self.rest.is_some()
            || self.shared.has_packets(false)
            || self.has_shared_datagrams()
    }

    /// From whoever's turn it is, or from another. Datagrams, where they share the queue, have every other turn.
    fn put_from_any(&mut self, ring: &mut Ring) -> Put {
        self.dgrams_first = !self.dgrams_first;
        if self.dgrams_first {
            match self.put_shared_datagram(ring) {
                Put::Nothing => {}
                put => return put,
            }
        }
        self.others_first = !self.others_first;
        let mut put = self.put_from_one(ring, self.others_first);
        if matches!(put, Put::Nothing) {
            put = self.put_from_one(ring, !self.others_first);
        }
        if matches!(put, Put::Nothing) && !self.dgrams_first {
            put = self.put_shared_datagram(ring);
        }
        put
    }

    /// From another guest, or from a connection with the host.
    fn put_from_one(&mut self, ring: &mut Ring, other_guest: bool) -> Put {
        if other_guest {
            match self.rest.take().or_else(|| self.shared.take(false)) {
                Some(packet) => self.put_packet(ring, packet),
                None => Put::Nothing,
            }
        } else {
            self.put_from_connection(ring)
        }
    }

    /// Takes buffers for so much payload; false if there are none.
    pub fn reserve(&mut self, ring: &mut Ring, payload: usize) -> bool {
        let (want, mergeable) = (self.header_size() + payload, self.mergeable());
        let bad = ring.reserve(&mut self.room, want, mergeable);
        if bad > 0 {
            self.counters().rx_bad_buffers.add(bad.into());
        }
        !self.room.is_empty()
    }

    /// Fills the buffers that were taken, unless the packet is to be lost or held back.
    pub fn fill(&mut self, ring: &mut Ring, header: &Header, data: &[u8]) {
        match self.fault(Queue::Rx).fate() {
            Fate::Pass => self.fill_now(ring, header, data),
            Fate::Drop => {
                ring.release(&mut self.room);
                self.counters().dropped_on_command.count();
            }
            Fate::Hold => {
                ring.release(&mut self.room);
                self.fault(Queue::Rx).hold(header, data);
            }
        }
    }

    fn fill_now(&mut self, ring: &mut Ring, header: &Header, data: &[u8]) {
        let size = self.header_size();
        let buffers = Ring::buffers_for(&self.room, size + data.len());
        let bytes = header.bytes(buffers);
        ring.fill(&mut self.room, bytes.get(..size).unwrap_or(&bytes), data);
        let counters = self.counters();
        counters.rx_packets.count();
        counters.rx_bytes.add(data.len() as u64);
        counters.rx_buffers.add(buffers.into());
    }

    fn put_reply(&mut self, ring: &mut Ring) -> Put {
        if !self.reserve(ring, 0) {
            return Put::NoBuffers;
        }
        let Some(mut reply) = self.replies.pop_front() else {
            ring.release(&mut self.room);
            return Put::Nothing;
        };
        let index = reply.of.and_then(|key| self.keys.get(&key).copied());
        if let Some(connection) = index.and_then(|i| self.connections.get_mut(i)) {
            connection.credit.stamp(&mut reply.header);
            if reply.header.op == op::CREDIT_UPDATE {
                connection.updating = false;
            }
        } else if reply.of.is_some() {
            // The connection has gone in the meantime, and the guest knows.
            ring.release(&mut self.room);
            return Put::Done;
        }
        self.fill(ring, &reply.header, &[]);
        Put::Done
    }

    /// A buffer goes back as if it held a header: what the driver finds there is what it held before.
    fn put_stale(&mut self, ring: &mut Ring) -> Put {
        if !self.reserve(ring, 0) {
            return Put::NoBuffers;
        }
        let len = self.header_size();
        ring.fill_with_nothing(&mut self.room, len);
        self.stale -= 1;
        self.counters().rx_stale.count();
        Put::Done
    }

    /// A packet whose time has come.
    fn put_held(&mut self, ring: &mut Ring, packet: Packet) -> Put {
        let room = if self.reserve(ring, packet.data.len()) {
            self.room.payload(self.header_size())
        } else {
            0
        };
        let len = packet.data.len();
        if self.room.is_empty() || (room == 0 && len > 0) {
            ring.release(&mut self.room);
            self.fault(Queue::Rx).put_back(packet);
            return Put::NoBuffers;
        }
        if packet.header.kind == kind::DGRAM && room < len {
            ring.release(&mut self.room);
            self.counters().dgram_rx_too_big.count();
            return Put::Done;
        }
        let (first, rest) = cut(packet, room);
        self.fill_now(ring, &first.header, &first.data);
        if let Some(rest) = rest {
            self.fault(Queue::Rx).put_back(rest);
        }
        Put::Done
    }

    /// A packet from another guest goes as it is, or, if it does not fit, in parts.
    fn put_packet(&mut self, ring: &mut Ring, packet: Packet) -> Put {
        if !self.reserve(ring, packet.data.len()) {
            self.rest = Some(packet);
            return Put::NoBuffers;
        }
        let room = self.room.payload(self.header_size());
        if room == 0 && !packet.data.is_empty() {
            // The buffer holds a header and nothing else: no payload can ever pass.
            ring.release(&mut self.room);
            self.reset(&packet.header.reset());
            return Put::Done;
        }
        let (first, rest) = cut(packet, room);
        self.fill(ring, &first.header, &first.data);
        self.rest = rest;
        if self.rest.is_none() {
            self.counters().switched_in.count();
        }
        Put::Done
    }

    /// The next connection in line puts one packet there.
    fn put_from_connection(&mut self, ring: &mut Ring) -> Put {
        let Some(index) = self.ready.front().copied() else {
            return Put::Nothing;
        };
        let something = self
            .connections
            .get(index)
            .is_some_and(|c| c.queued && c.has_something());
        if !something {
            self.unready();
            return Put::Nothing;
        }
        let header_size = self.header_size();
        let wanted = self.connections.get(index).map_or(0, |c| c.wanted());
        if !self.reserve(ring, wanted) {
            return Put::NoBuffers;
        }
        self.unready();
        let room = self.room.payload(header_size).min(MAX_PAYLOAD);
        let mut data = std::mem::take(&mut self.data);
        let put = match self.connections.get_mut(index) {
            Some(connection) if room > 0 => {
                let read = connection.read(room, &mut data);
                self.put_read(ring, index, read, &data)
            }
            _ => {
                // The buffer holds a header and nothing else: no payload can ever pass.
                ring.release(&mut self.room);
                self.reset_connection(index);
                Put::Done
            }
        };
        self.data = data;
        self.make_ready(index);
        put
    }

    fn put_read(&mut self, ring: &mut Ring, index: usize, read: Read, data: &[u8]) -> Put {
        let Some(connection) = self.connections.get_mut(index) else {
            ring.release(&mut self.room);
            return Put::Nothing;
        };
        let key = connection.key;
        match read {
            Read::Data(len, ends) => {
                let mut header = Header {
                    len: len as u32,
                    flags: if ends { SEQ_EOM } else { 0 },
                    ..Header::default()
                };
                connection.credit.stamp(&mut header);
                let header = Header {
                    buf_alloc: header.buf_alloc,
                    fwd_cnt: header.fwd_cnt,
                    len: header.len,
                    flags: header.flags,
                    ..self.header_of(key, op::RW)
                };
                self.fill(ring, &header, data.get(..len).unwrap_or_default());
                return Put::Done;
            }
            Read::Nothing => ring.release(&mut self.room),
            Read::Starved => {
                ring.release(&mut self.room);
                self.reply(key, op::CREDIT_REQUEST, 0);
            }
            Read::End => {
                ring.release(&mut self.room);
                self.host_done(index);
            }
            Read::Failed | Read::TooLong => {
                ring.release(&mut self.room);
                self.reset_connection(index);
            }
        }
        // What it led to comes first.
        Put::Done
    }

    /// Takes the first connection out of the line.
    fn unready(&mut self) {
        if let Some(index) = self.ready.pop_front() {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.queued = false;
            }
        }
    }
}

/// Cuts a packet of a connection so that its first part's payload has `room` bytes at most.
fn cut(mut packet: Packet, room: usize) -> (Packet, Option<Packet>) {
    if packet.data.len() <= room {
        return (packet, None);
    }
    let rest = Packet {
        data: packet.data.split_off(room),
        header: packet.header,
    };
    let rest = Packet {
        header: Header {
            len: rest.data.len() as u32,
            ..rest.header
        },
        ..rest
    };
    packet.header.len = packet.data.len() as u32;
    if packet.header.kind == kind::SEQPACKET {
        packet.header.flags &= !(SEQ_EOM | SEQ_EOR);
    }
    (packet, Some(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_part_ends_the_message() {
        let packet = Packet {
            header: Header {
                len: 5,
                kind: kind::SEQPACKET,
                flags: SEQ_EOM | SEQ_EOR,
                ..Header::default()
            },
            data: vec![1, 2, 3, 4, 5],
        };
        let (first, rest) = cut(packet, 3);
        let rest = rest.unwrap();
        assert_eq!((first.header.len, first.header.flags), (3, 0));
        assert_eq!((rest.header.len, rest.header.flags), (2, SEQ_EOM | SEQ_EOR));
        assert_eq!(rest.data, [4, 5]);
        assert!(cut(rest, 2).1.is_none());
    }
}
