// SPDX-License-Identifier: GPL-2.0

//! The driver: what happens between AF_VSOCK's calls, the rules of [`proto`](crate::proto), and the
//! device's queues.
//!
//! # Rooms
//!
//! Sending is below the connections, receiving is above them: what sends needs a queue and an address; what
//! receives must know all connections. Each room knows those below it, and none above:
//!
//! - [`debugfs`]: what debugfs shows;
//! - [`device`]: a virtio socket device: its bus, its life, what it receives and whom that is for, its events;
//! - [`accept`]: requests for connections, until a listener has them;
//! - [`transport`]: what AF_VSOCK calls;
//! - [`conn`]: a connection, and the table of all; [`dgram`]: datagram sockets, and their ports;
//! - [`interface`]: the network interface, whose scheduler orders what is sent, if there is one;
//! - [`link`]: the way out: CID, profile, transmit queues; socket calls find it by RCU;
//! - [`queue`]: virtqueues and what is on them;
//! - [`trace`]: what becomes of packets, for those who trace them, and why they are dropped;
//! - [`stats`], [`hash_table`], [`parameters`]: counters, a table, the administrator's word.
//!
//! A packet on its way in goes device, queue, device, conn, and its answer link; on its way out transport, conn,
//! link, queue. tools/hosttest/tests/arrows fails where a room looks up, or two look at each other.
//!
//! # Locks
//!
//! Those on a packet's way are spinlocks that keep bottom halves away; none is held while memory of the
//! user is touched, and nothing in here waits for `lock_sock()`. From the outermost to the innermost:
//!
//! 0. The kernel's locks of a network interface's transmit queue, and of its scheduler: ours is called by
//!    `Outbox::ask_work` alone, which holds none of those below; a monitor's, whose filters may call ours, where packets
//!    are shown to it, with 1 at the most.
//! 1. `Rx::inner`: the receive queue and the buffers in it. Nothing that the scheduler calls takes it.
//! 2. The spinlock of a socket's lock ([`WeakSock::own_or_defer`]).
//! 3. `Tx::inner`: the transmit queue and the packets that wait for room in it.
//! 4. `Connections::unsettled`: the list of connections that could not publish what is new.
//! 5. `Conn::inner`: the state of one connection, its credit, what it has received; `Ports::next`: where to look
//!    for a port.
//! 6. One of `HashTable::buckets`, of connections or of ports; `Backlog::inner`: what of one sender waits for
//!    room.
//!
//! Nothing else is locked within these: `Requests::waiting` (requests that wait to be handled), `Events::queue`,
//! `WeakSock::sk` (whether there is a socket), and af_vsock's own table lock.
//!
//! Mutexes come before all of them, and none within another: `Vsock::config` (the configuration space, held
//! while events are handled), `Slot::registration` and `Vsock::registration` (with af_vsock), `Vsock::interface`
//! (with RTNL, in which an interface is set up and down), `Requests::held_up` (connections that wait for their listeners).
//!
//! Packets, sockets and received pages are freed with none of the locks 3 to 6 held, since the last reference
//! to a socket may go with them, and since there may be many.
//!
//! The `# Context` of a function says whether it may sleep, and names the outermost lock that it takes: the caller
//! may hold those that come before, and no other. One that sleeps, or may, is called with none of these spinlocks
//! held; one that may let a socket go, with none of 3 to 6.
//!
//! # Who runs what
//!
//! Receiving and reclaiming sent packets are bottom halves. Requests for connections and events are
//! handled in process context, as they allocate and take af_vsock's mutex. Sending happens in the
//! call that sends.
//!
//! [`WeakSock::own_or_defer`]: crate::ext::net::vsock::WeakSock::own_or_defer

#![deny(unsafe_code)]

mod accept;
mod conn;
mod debugfs;
mod device;
mod dgram;
mod hash_table;
mod interface;
mod link;
mod parameters;
mod queue;
mod stats;
mod trace;
mod transport;

pub(crate) use self::{
    debugfs::show,
    device::Driver, //
};

use crate::ext::sync::Kept;
use kernel::prelude::*;

/// What sockets are served by while the module is loaded. Its parts end in the order of the fields.
pub(crate) struct Shared {
    _slot: Kept<transport::Slot>,
    _connections: Kept<conn::Connections>,
    _ports: Kept<dgram::Ports>,
}

impl Shared {
    /// No sockets yet.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            _slot: transport::Slot::keep()?,
            _connections: conn::Connections::keep()?,
            _ports: dgram::Ports::keep()?,
        })
    }
}
