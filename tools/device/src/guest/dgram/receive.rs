// SPDX-License-Identifier: GPL-2.0

//! Datagrams to the guest: from programs on the host and from other guests.

use std::{io::ErrorKind, path::Path, time::Instant};

use super::PATIENCE;
use crate::{
    fault::{Fate, Queue},
    guest::{Guest, BUDGET, DGRAM_RX},
    host::wanted_port,
    packet::{kind, op, Header, Packet, HOST_CID, MAX_PAYLOAD},
    ring::{Memory, Ring, Vring},
};

impl Guest {
    /// Fills datagram rx; true if there may be more.
    pub fn dgram_rx(&mut self, vrings: &[Vring], mem: &Memory) -> bool {
        let something = self.dgrams.has_something()
            || self.shared.has_packets(true)
            || self.fault(Queue::DgramRx).has_due();
        if !self.has_dgram_rings() || self.fault(Queue::DgramRx).paused || !something {
            return false;
        }
        let Some(mut ring) = self.ring(vrings, DGRAM_RX, mem) else {
            return false;
        };
        ring.quiet();
        let mut budget = BUDGET;
        let more = loop {
            if budget == 0 {
                break true;
            }
            budget -= 1;
            let waited = self.dgrams.waiting.take();
            let since = waited.as_ref().map(|w| w.1);
            let Some(packet) = waited.map(|w| w.0).or_else(|| self.next_datagram()) else {
                let something = self.dgrams.has_something() || self.shared.has_packets(true);
                if something && !self.fault(Queue::DgramRx).full() {
                    continue;
                }
                break false;
            };
            if let Some(packet) = self.put_datagram(&mut ring, packet) {
                let until = since.unwrap_or_else(|| Instant::now() + PATIENCE);
                if until <= Instant::now() {
                    self.counters().dgram_rx_no_buffers.count();
                    continue;
                }
                self.dgrams.waiting = Some((packet, until));
                if ring.wait_for_more() {
                    ring.quiet();
                    continue;
                }
                break false;
            }
        };
        if ring.finish() {
            self.counters().interrupts.count();
        }
        more
    }

    /// Puts a datagram on rx, or gives it back if there are no buffers for it yet.
    fn put_datagram(&mut self, ring: &mut Ring, packet: Packet) -> Option<Packet> {
        let (size, mergeable) = (self.header_size(), self.mergeable());
        let bad = ring.reserve(&mut self.room, size + packet.data.len(), mergeable);
        if bad > 0 {
            self.counters().rx_bad_buffers.add(bad.into());
        }
        if self.room.is_empty() {
            return Some(packet);
        }
        if self.room.payload(size) < packet.data.len() {
            ring.release(&mut self.room);
            if mergeable {
                return Some(packet);
            }
            self.counters().dgram_rx_too_big.count();
            return None;
        }
        let mut header = packet.header;
        header.len = packet.data.len() as u32;
        let buffers = Ring::buffers_for(&self.room, size + packet.data.len());
        let bytes = header.bytes(buffers);
        ring.fill(
            &mut self.room,
            bytes.get(..size).unwrap_or(&bytes),
            &packet.data,
        );
        let counters = self.counters();
        counters.dgram_rx_packets.count();
        counters.dgram_rx_bytes.add(packet.data.len() as u64);
        counters.dgram_rx_buffers.add(buffers.into());
        // The next one's payload goes there.
        if self.data.capacity() < packet.data.capacity() {
            self.data = packet.data;
        }
        None
    }

    /// The next datagram for the guest: resets first, then other guests and the host's programs in turn.
    fn next_datagram(&mut self) -> Option<Packet> {
        if let Some(packet) = self.fault(Queue::DgramRx).due() {
            return Some(packet);
        }
        if self.fault(Queue::DgramRx).full() {
            return None;
        }
        let packet = self.new_datagram()?;
        match self.fault(Queue::DgramRx).fate() {
            Fate::Pass => return Some(packet),
            Fate::Drop => self.counters().dropped_on_command.count(),
            Fate::Hold => self
                .fault(Queue::DgramRx)
                .hold(&packet.header, &packet.data),
        }
        None
    }

    /// The same, whatever is done to their queue.
    pub fn new_datagram(&mut self) -> Option<Packet> {
        if let Some(header) = self.dgrams.resets.pop_front() {
            return Some(Packet {
                header,
                data: Vec::new(),
            });
        }
        self.dgrams.others_first = !self.dgrams.others_first;
        if self.dgrams.others_first {
            self.shared.take(true).or_else(|| self.datagram_of_host())
        } else {
            self.datagram_of_host().or_else(|| self.shared.take(true))
        }
    }

    /// The next datagram of a program on the host.
    fn datagram_of_host(&mut self) -> Option<Packet> {
        let of = self.dgrams.ready.pop_front()?;
        let host = self.host.clone();
        let socket = match of {
            None => host.dgram.as_ref()?,
            Some(port) => &self.dgrams.ports.get(&port)?.socket,
        };
        let mut data = std::mem::take(&mut self.data);
        data.resize(MAX_PAYLOAD + 1, 0);
        let (len, from) = match socket.recv_from(&mut data) {
            Ok(got) => got,
            Err(e) => {
                self.data = data;
                if e.kind() == ErrorKind::Interrupted {
                    self.dgrams.ready.push_front(of);
                } else {
                    match of {
                        None => self.dgrams.own_readable = false,
                        Some(port) => {
                            if let Some(port) = self.dgrams.ports.get_mut(&port) {
                                port.readable = false;
                            }
                        }
                    }
                }
                return None;
            }
        };
        // There may be more behind it.
        self.dgrams.ready.push_back(of);
        let path = from.as_pathname();
        let known = path.and_then(|p| self.dgrams.peers.get(p));
        let guest_port = match (of, known.and_then(|p| p.guest_port)) {
            (Some(port), _) => port,
            (None, Some(port)) => port,
            (None, None) => {
                self.dgram_greeting(data.get(..len).unwrap_or_default(), path);
                self.data = data;
                return None;
            }
        };
        if len > MAX_PAYLOAD {
            self.counters().dgram_from_host_too_long.count();
            self.data = data;
            return None;
        }
        let host_port = self.dgrams.port_of(&host, path);
        let header = Header {
            src_cid: HOST_CID,
            dst_cid: self.shared.cid(),
            src_port: host_port,
            dst_port: guest_port,
            len: len as u32,
            kind: kind::DGRAM,
            op: op::RW,
            ..Header::default()
        };
        let packet = Packet {
            header,
            data: data.get(..len).unwrap_or_default().to_vec(),
        };
        self.data = data;
        Some(packet)
    }

    /// A program says to which port of the guest's its datagrams go.
    fn dgram_greeting(&mut self, data: &[u8], path: Option<&Path>) {
        let (Some(path), Some(guest_port)) = (path, wanted_port(data)) else {
            return self.counters().dgram_bad_greetings.count();
        };
        let host = self.host.clone();
        let host_port = self.dgrams.port_of(&host, Some(path));
        self.dgrams.route(path, guest_port, host_port);
        let answer = format!("OK {host_port}\n");
        if let Some(socket) = &host.dgram {
            let _ = socket.send_to(answer.as_bytes(), path);
        }
    }
}
