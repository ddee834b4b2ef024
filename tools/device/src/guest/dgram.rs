// SPDX-License-Identifier: GPL-2.0

//! Datagrams: between the guest's ports and unix datagram sockets on the host.

use std::{
    collections::{HashMap, VecDeque},
    io::ErrorKind,
    os::{fd::AsRawFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use log::debug;

use super::{wakeups::TOKEN_DGRAM_PORT, Guest, BUDGET, DGRAM_RX, DGRAM_TX};
use crate::{
    fault::{Fate, Queue},
    host::{wanted_port, Host},
    packet::{kind, op, Header, Packet, HOST_CID, MAX_PAYLOAD},
    ring::{Memory, Ring, Vring},
    switch::Delivery,
};

/// Ports of host programs whose sockets have no port in their names.
const FIRST_PORT: u32 = 1 << 31;
/// Programs on the host that have such a port at a time; the oldest loses it to a new one.
const MAX_PEERS: usize = 4096;
/// Resets that wait for datagram rx.
const MAX_RESETS: usize = 256;
/// So long a datagram waits for buffers that it fits.
const PATIENCE: Duration = Duration::from_millis(500);

/// A port of the guest's as the host's programs see it.
struct Port {
    socket: UnixDatagram,
    path: PathBuf,
    host: Arc<Host>,
    /// Counts up: the least is the oldest.
    used: u64,
    readable: bool,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.host.remove(&self.path);
    }
}

/// A socket of the host's that has a port by a table.
struct Peer {
    port: u32,
    /// Where what it sends to the device's own socket goes.
    guest_port: Option<u32>,
    used: u64,
}

pub struct Dgrams {
    ports: HashMap<u32, Port>,
    max_ports: usize,
    peers: HashMap<PathBuf, Peer>,
    paths: HashMap<u32, PathBuf>,
    next_port: u32,
    clock: u64,
    /// Sockets that may have something; `None` is the device's own.
    ready: VecDeque<Option<u32>>,
    own_readable: bool,
    resets: VecDeque<Header>,
    /// A datagram that waits for buffers, and until when.
    waiting: Option<(Packet, Instant)>,
    others_first: bool,
}

impl Dgrams {
    pub fn new(max_ports: usize) -> Self {
        Self {
            ports: HashMap::new(),
            max_ports,
            peers: HashMap::new(),
            paths: HashMap::new(),
            next_port: 0,
            clock: 0,
            ready: VecDeque::new(),
            own_readable: false,
            resets: VecDeque::new(),
            waiting: None,
            others_first: false,
        }
    }

    /// The guest has begun anew.
    pub fn forget(&mut self) {
        self.ports.clear();
        self.ready.retain(Option::is_none);
        self.resets.clear();
        self.waiting = None;
        for peer in self.peers.values_mut() {
            peer.guest_port = None;
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|w| w.1)
    }

    /// A socket has something: a guest port's, or with `None` the device's own.
    pub fn readable(&mut self, port: Option<u32>) {
        let flag = match port {
            None => &mut self.own_readable,
            Some(port) => match self.ports.get_mut(&port) {
                Some(port) => &mut port.readable,
                None => return,
            },
        };
        if !std::mem::replace(flag, true) {
            self.ready.push_back(port);
        }
    }

    fn has_something(&self) -> bool {
        self.waiting.is_some() || !self.resets.is_empty() || !self.ready.is_empty()
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The port of a program on the host, by its socket's name.
    fn port_of(&mut self, host: &Host, path: Option<&Path>) -> u32 {
        // Programs without a name cannot be answered, and share a port.
        let path = path.unwrap_or(Path::new(""));
        if let Some(port) = host.port_of(path) {
            return port;
        }
        let clock = self.tick();
        if let Some(peer) = self.peers.get_mut(path) {
            peer.used = clock;
            return peer.port;
        }
        if self.peers.len() >= MAX_PEERS {
            let oldest = self.peers.iter().min_by_key(|(_, p)| p.used);
            if let Some(path) = oldest.map(|(path, _)| path.clone()) {
                if let Some(peer) = self.peers.remove(&path) {
                    self.paths.remove(&peer.port);
                }
            }
        }
        let port = loop {
            let port = FIRST_PORT + self.next_port % (FIRST_PORT - 2);
            self.next_port = self.next_port.wrapping_add(1);
            if !self.paths.contains_key(&port) {
                break port;
            }
        };
        self.paths.insert(port, path.to_owned());
        let peer = Peer {
            port,
            guest_port: None,
            used: clock,
        };
        self.peers.insert(path.to_owned(), peer);
        port
    }

    /// Where datagrams for this port of the host's go.
    fn path_of(&self, host: &Host, port: u32) -> PathBuf {
        match self.paths.get(&port) {
            Some(path) => path.clone(),
            None => host.path_of(port),
        }
    }

    /// Where a host program's datagrams to the device's own socket go. Programs whose name has a port have an
    /// entry by their name too, once they have said where.
    fn route(&mut self, path: &Path, guest_port: u32, port: u32) {
        let used = self.tick();
        let peer = Peer {
            port,
            guest_port: Some(guest_port),
            used,
        };
        self.peers.insert(path.to_owned(), peer);
    }
}

impl Guest {
    /// Takes datagrams from their tx; true if there may be more.
    pub fn dgram_tx(&mut self, vrings: &[Vring], mem: &Memory) -> bool {
        if !self.negotiated(kind::DGRAM) || self.fault(Queue::DgramTx).paused {
            return false;
        }
        while let Some(packet) = self.fault(Queue::DgramTx).due() {
            self.datagram(&packet.header, &packet.data);
        }
        let Some(mut ring) = vrings.get(DGRAM_TX).and_then(|v| Ring::open(v, mem)) else {
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
            let head = chain.head_index();
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
    fn datagram(&mut self, header: &Header, data: &[u8]) {
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
        if header.op == op::RST {
            return;
        }
        if self.dgrams.resets.len() >= MAX_RESETS {
            return self.counters().dgram_resets_dropped.count();
        }
        self.dgrams.resets.push_back(header.reset());
    }

    /// Fills datagram rx; true if there may be more.
    pub fn dgram_rx(&mut self, vrings: &[Vring], mem: &Memory) -> bool {
        let something = self.dgrams.has_something()
            || self.shared.has_packets(true)
            || self.fault(Queue::DgramRx).has_due();
        if !self.negotiated(kind::DGRAM) || self.fault(Queue::DgramRx).paused || !something {
            return false;
        }
        let Some(mut ring) = vrings.get(DGRAM_RX).and_then(|v| Ring::open(v, mem)) else {
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

    fn new_datagram(&mut self) -> Option<Packet> {
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
