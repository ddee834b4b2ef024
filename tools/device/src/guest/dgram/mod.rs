// SPDX-License-Identifier: GPL-2.0

//! Datagrams: which port of the guest's is which unix datagram socket on the host, and what waits.

mod receive;
mod shared;
mod transmit;

use std::{
    collections::{HashMap, VecDeque},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    host::Host,
    packet::{Header, Packet},
};

/// Ports of host programs whose sockets have no port in their names.
const FIRST_PORT: u32 = 1 << 31;
/// Programs on the host that have such a port at a time; the oldest loses it to a new one.
const MAX_PEERS: usize = 4096;
/// Resets that wait for datagram rx.
const MAX_RESETS: usize = 256;
/// So long a datagram waits for buffers that it fits: longer than a busy host has a guest stand still.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// A datagram that waits for buffers, and until when; none does where they share the streams' queues.
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

    pub fn has_something(&self) -> bool {
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
