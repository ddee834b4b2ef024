// SPDX-License-Identifier: GPL-2.0

//! Datagrams from the guest: to programs on the host, to other guests, or nowhere.

use std::{io::ErrorKind, os::fd::AsRawFd};

use log::debug;

use super::{Port, MAX_RESETS};
use crate::{
    fault::{Fate, Queue},
    guest::{wakeups::TOKEN_DGRAM_PORT, Guest, BUDGET, DGRAM_TX},
    packet::{kind, op, Header, Packet, HOST_CID, MAX_PAYLOAD},
    ring::{Memory, Vring},
    switch::Delivery,
};

impl Guest {
    /// Takes datagrams from their tx; true if there may be more.
    pub fn dgram_tx(&mut self, vrings: &[Vring], mem: &Memory) -> bool {
        if !self.has_dgram_rings() || self.fault(Queue::DgramTx).paused {
            return false;
        }
        while let Some(packet) = self.fault(Queue::DgramTx).due() {
            self.datagram(&packet.header, &packet.data);
        }
        let Some(mut ring) = self.ring(vrings, DGRAM_TX, mem) else {
            return false;
        };
        ring.quiet();
        let mut budget = BUDGET;
        let more = loop {
            if budget == 0 {
                break true;
            }
            budget -= 1;
            if self.fault(Queue::DgramTx).full() {
                break false;
            }
            let Some(chain) = ring.pop() else {
                if ring.wait() {
                    ring.quiet();
                    continue;
                }
                break false;
            };
            let head = chain.head();
            if let Some((header, len)) = self.parse(&ring, chain, MAX_PAYLOAD) {
                let data = std::mem::take(&mut self.data);
                let payload = data.get(..len).unwrap_or_default();
                match self.fault(Queue::DgramTx).fate() {
                    Fate::Pass => self.datagram(&header, payload),
                    Fate::Drop => self.counters().dropped_on_command.count(),
                    Fate::Hold => self.fault(Queue::DgramTx).hold(&header, payload),
                }
                self.data = data;
            }
            ring.used(head, 0);
        };
        if ring.finish() {
            self.counters().interrupts.count();
        }
        more
    }

    /// One datagram from the guest.
    pub fn datagram(&mut self, header: &Header, data: &[u8]) {
        let counters = self.counters();
        counters.dgram_tx_packets.count();
        counters.dgram_tx_bytes.add(data.len() as u64);
        if header.kind != kind::DGRAM {
            return counters.tx_wrong_kind.count();
        }
        match header.op {
            op::RW => {}
            op::RST => counters.dgram_resets_received.count(),
            _ => return counters.tx_unknown_op.count(),
        }
        if header.dst_cid != HOST_CID {
            let packet = Packet {
                header: *header,
                data: data.to_vec(),
            };
            match self.switch.deliver(packet, &self.shared) {
                Delivery::Done => self.counters().switched_out.count(),
                Delivery::Full => self.counters().dgram_to_guest_full.count(),
                Delivery::Nobody(packet) if packet.header.op != op::RST => {
                    self.counters().dgram_to_guest_nobody.count();
                    self.dgram_reset(&packet.header);
                }
                Delivery::Nobody(_) => {}
            }
            return;
        }
        if header.op == op::RW {
            self.datagram_to_host(header, data);
        }
    }

    fn datagram_to_host(&mut self, header: &Header, data: &[u8]) {
        let path = self.dgrams.path_of(&self.host, header.dst_port);
        if let Err(e) = self.open_port(header.src_port) {
            debug!("{}: port {}: {e:#}", self.shared.name, header.src_port);
            return self.counters().dgram_to_host_failed.count();
        }
        let used = self.dgrams.tick();
        let Some(port) = self.dgrams.ports.get_mut(&header.src_port) else {
            return;
        };
        port.used = used;
        let Err(e) = port.socket.send_to(data, &path) else {
            return self.counters().dgram_to_host.count();
        };
        match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::InvalidInput => {
                self.counters().dgram_to_host_nobody.count();
                self.dgram_reset(header);
            }
            ErrorKind::WouldBlock => self.counters().dgram_to_host_full.count(),
            _ => {
                debug!("{}: {}: {e}", self.shared.name, path.display());
                self.counters().dgram_to_host_failed.count();
            }
        }
    }

    /// Makes sure that a port of the guest's has its socket.
    fn open_port(&mut self, port: u32) -> anyhow::Result<()> {
        if self.dgrams.ports.contains_key(&port) {
            return Ok(());
        }
        if self.dgrams.ports.len() >= self.dgrams.max_ports {
            let oldest = self.dgrams.ports.iter().min_by_key(|(_, p)| p.used);
            if let Some(oldest) = oldest.map(|(port, _)| *port) {
                self.dgrams.ports.remove(&oldest);
            }
        }
        let (socket, path) = self.host.dgram_port(port)?;
        self.watch_token(socket.as_raw_fd(), TOKEN_DGRAM_PORT + u64::from(port))?;
        let used = self.dgrams.tick();
        let entry = Port {
            socket,
            path,
            host: self.host.clone(),
            used,
            readable: false,
        };
        self.dgrams.ports.insert(port, entry);
        Ok(())
    }

    /// Tells the guest that nobody got its datagram.
    fn dgram_reset(&mut self, header: &Header) {
        if header.op == op::RST || !self.limits.habits.refuses_dgrams {
            return;
        }
        if self.dgrams.resets.len() >= MAX_RESETS {
            return self.counters().dgram_resets_dropped.count();
        }
        self.dgrams.resets.push_back(header.reset());
    }
}
