// SPDX-License-Identifier: GPL-2.0

//! One guest: what its thread works on, and in which order.
//!
//! The thread is the one that `vhost_user_backend` has for the queues. It wakes for kicks, and for what an epoll of
//! our own reports: unix sockets, a timer, other guests. Whatever woke it, it goes round all queues, each with a
//! budget, until there is nothing left to do or it runs into an empty ring.

mod commands;
mod dgram;
mod gate;
mod hostile;
mod receive;
mod streams;
mod transmit;
mod wakeups;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::Instant,
};

use log::info;
use slab::Slab;
use vmm_sys_util::{epoll::Epoll, timerfd::TimerFd};

use self::{dgram::Dgrams, gate::Gate, hostile::Pending};
use crate::{
    connection::{Connection, Key},
    counters::Counters,
    fault::{Fault, Queue},
    features::{DGRAM, MRG_RXBUF, NO_IMPLIED_STREAM, SEQPACKET, SHARED_DGRAM, STREAM},
    habits::Habits,
    host::Host,
    options::{Options, Profile, RING_PACKED},
    packet::{kind, Header, HEADER, HEADER_MRG, HOST_CID},
    ring::{memory, Memory, Ring, Room, Space, Vring},
    switch::{Shared, Switch},
};

pub const RX: usize = 0;
pub const TX: usize = 1;
pub const DGRAM_RX: usize = 2;
pub const DGRAM_TX: usize = 3;

/// Packets that a queue may bring in its turn.
pub const BUDGET: usize = 64;
/// Turns before the thread looks after kicks again.
const TURNS: usize = 32;

/// The parameters that all guests share.
#[derive(Clone)]
pub struct Limits {
    pub profile: Profile,
    pub habits: Arc<Habits>,
    pub memory: usize,
    pub connections: usize,
    pub dgram_ports: usize,
}

impl Limits {
    pub fn new(options: &Options, profile: Profile, habits: Habits) -> Self {
        Self {
            profile,
            habits: Arc::new(habits),
            memory: options.memory << 20,
            connections: options.connections,
            dgram_ports: usize::from(options.dgram_ports),
        }
    }
}

/// A packet without payload that waits for rx.
pub struct Reply {
    pub header: Header,
    /// The connection whose credit it carries.
    pub of: Option<Key>,
}

pub struct Guest {
    pub shared: Arc<Shared>,
    pub switch: Arc<Switch>,
    pub host: Arc<Host>,
    pub limits: Limits,
    space: Space,
    epoll: Epoll,
    timer: TimerFd,
    /// When which connection's patience ends; [`usize::MAX`] stands for the listeners' rest.
    deadlines: BTreeSet<(Instant, usize)>,
    pub connections: Slab<Connection>,
    pub keys: HashMap<Key, usize>,
    /// Connections that have something for the guest.
    pub ready: VecDeque<usize>,
    pub replies: VecDeque<Reply>,
    /// The next packet on rx comes from another guest, if there is one.
    pub others_first: bool,
    /// The next packet on rx is a datagram, if there is one and they share it.
    pub dgrams_first: bool,
    /// What of a packet from another guest did not fit.
    pub rest: Option<crate::packet::Packet>,
    /// Packets from tx wait for something that rx must do first.
    pub tx_stalled: bool,
    pub dgrams: Dgrams,
    /// One packet's payload.
    pub data: Vec<u8>,
    pub room: Room,
    /// The memory that connections hold.
    pub held: usize,
    pub next_port: u32,
    /// `TRANSPORT_RESET`s that the driver has not heard of.
    pub events: u32,
    /// Holds packets to the guest back after a reset.
    pub gate: Gate,
    /// Buffers that are to go back as packets that nobody wrote.
    pub stale: usize,
    /// By [`Queue`].
    faults: [Fault; 5],
    pub injections: Vec<Pending>,
}

impl Guest {
    pub fn new(
        shared: Arc<Shared>,
        switch: Arc<Switch>,
        host: Arc<Host>,
        limits: Limits,
        space: Space,
    ) -> io::Result<Self> {
        let timer = TimerFd::new()?;
        let epoll = wakeups::epoll(&shared, &host, &timer)?;
        let dgrams = Dgrams::new(limits.dgram_ports);
        let gate = Gate::new(limits.habits.reset_ack);
        let room = Room::new(limits.habits.rx_pieces);
        Ok(Self {
            shared,
            switch,
            host,
            limits,
            space,
            epoll,
            timer,
            deadlines: BTreeSet::new(),
            connections: Slab::new(),
            keys: HashMap::new(),
            ready: VecDeque::new(),
            replies: VecDeque::new(),
            others_first: false,
            dgrams_first: false,
            rest: None,
            tx_stalled: false,
            dgrams,
            data: Vec::new(),
            room,
            held: 0,
            next_port: 0,
            events: 0,
            gate,
            stale: 0,
            faults: Default::default(),
            injections: Vec::new(),
        })
    }

    pub fn epoll_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    pub fn mergeable(&self) -> bool {
        self.limits.profile.mergeable && self.shared.features() & MRG_RXBUF != 0
    }

    pub fn header_size(&self) -> usize {
        if self.mergeable() {
            HEADER_MRG
        } else {
            HEADER
        }
    }

    /// Whether the driver has agreed to this type of packet.
    pub fn negotiated(&self, kind: u16) -> bool {
        let (features, profile) = (self.shared.features(), &self.limits.profile);
        match kind {
            // Implied, unless there is a bit that takes that back.
            kind::STREAM => {
                features & STREAM != 0
                    || profile.has_dgram_queues()
                    || features & NO_IMPLIED_STREAM == 0
            }
            kind::SEQPACKET => features & SEQPACKET != 0,
            kind::DGRAM => self.has_dgram_rings() || self.shares_dgrams(),
            _ => false,
        }
    }

    /// Whether the driver has queues for datagrams.
    pub fn has_dgram_rings(&self) -> bool {
        self.limits.profile.has_dgram_queues() && self.shared.features() & DGRAM != 0
    }

    /// Whether datagrams share the streams' queues.
    pub fn shares_dgrams(&self) -> bool {
        self.limits.profile.shared_dgram && self.shared.features() & SHARED_DGRAM != 0
    }

    /// Behind the datagrams' queues, if the driver knows of these.
    pub fn event_queue(&self) -> usize {
        if self.has_dgram_rings() {
            4
        } else {
            2
        }
    }

    /// A queue, if the driver has set it up.
    pub fn ring<'a>(&self, vrings: &'a [Vring], index: usize, mem: &'a Memory) -> Option<Ring<'a>> {
        let is_packed = self.shared.features() & RING_PACKED != 0;
        Ring::open(vrings.get(index)?, mem, is_packed)
    }

    /// Goes round the queues until nothing is left to do.
    pub fn run(&mut self, vrings: &[Vring]) {
        let mem = memory(&self.space.clone());
        self.look_for_start(vrings, &mem);
        for _ in 0..TURNS {
            self.poll();
            let mut more = self.tx(vrings, &mem);
            more |= self.dgram_tx(vrings, &mem);
            more |= self.rx(vrings, &mem);
            more |= self.dgram_rx(vrings, &mem);
            self.event(vrings, &mem);
            self.inject(vrings, &mem);
            if !more {
                self.arm();
                return;
            }
        }
        self.arm();
        self.shared.wake();
    }

    /// Notices that a driver has set its queues up anew: what its predecessor had is gone.
    fn look_for_start(&mut self, vrings: &[Vring], mem: &Memory) {
        if self.shared.running() {
            return;
        }
        let up = [RX, TX].map(|i| self.ring(vrings, i, mem));
        let [Some(rx), Some(tx)] = up else { return };
        if rx.is_new() && tx.is_new() {
            self.forget_all();
        }
        info!(
            "{}: a driver is there, with features {:#x}",
            self.shared.name,
            self.shared.features()
        );
        self.shared.set_running(true);
    }

    /// Drops all that there is between guest and host, without a word to the guest.
    pub fn forget_all(&mut self) {
        self.connections.clear();
        self.keys.clear();
        self.ready.clear();
        self.replies.clear();
        self.deadlines.clear();
        self.rest = None;
        self.held = 0;
        self.stale = 0;
        self.gate.open();
        self.dgrams.forget();
        for fault in &mut self.faults {
            fault.forget();
        }
    }

    pub fn fault(&mut self, queue: Queue) -> &mut Fault {
        &mut self.faults[queue as usize]
    }

    /// The packet that says that the guest sent one to nobody.
    pub fn reset(&mut self, header: &Header) {
        if header.op == crate::packet::op::RST {
            return;
        }
        self.counters().resets_sent.count();
        self.replies.push_back(Reply {
            header: header.reset(),
            of: None,
        });
    }

    /// A packet to the guest on this connection, with neither payload nor credit yet.
    pub fn header_of(&self, key: Key, op: u16) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.shared.cid(),
            src_port: key.host_port,
            dst_port: key.guest_port,
            kind: key.kind,
            op,
            ..Header::default()
        }
    }
}
