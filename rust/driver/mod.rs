// SPDX-License-Identifier: GPL-2.0

//! The driver: what happens between AF_VSOCK's calls, the rules of [`proto`](crate::proto), and the
//! device's queues.
//!
//! # Locks
//!
//! Those on a packet's way are spinlocks that keep bottom halves away; none is held while memory of the
//! user is touched, and nothing in here waits for `lock_sock()`. From the outermost to the innermost:
//!
//! 1. `Rx`: the receive queue and the buffers in it.
//! 2. The spinlock of a socket's lock ([`WeakSock::own_or_defer`]).
//! 3. `Tx`: the transmit queue and the packets that wait for room in it.
//! 4. The list of connections that could not tell their news.
//! 5. `Conn`: the state of one connection, its credit, what it has received.
//! 6. A bucket of a table, of connections or of ports; `Backlog`: what of one connection waits for room.
//!
//! Nothing else is locked within these: `Requests::waiting` (requests that wait to be handled), the event
//! queue, `Ports::next` (where to look for a port), `WeakSock::sk` (whether there is a socket), and
//! af_vsock's own table lock.
//!
//! Mutexes come before all of them, and none within another: the configuration space, which is held
//! while events are handled; the registrations with af_vsock; the connections that wait for their listeners.
//!
//! Packets, sockets and received pages are freed with none of the locks 3 to 6 held, since the last reference
//! to a socket may go with them, and since there may be many.
//!
//! # Who runs what
//!
//! Receiving and reclaiming sent packets are bottom halves. Requests for connections and events are
//! handled in process context, as they allocate and take af_vsock's mutex. Sending happens in the
//! call that sends.
//!
//! [`WeakSock::own_or_defer`]: crate::ext::net::vsock::WeakSock::own_or_defer

#![deny(unsafe_code)]

mod abandoned;
mod accept;
mod closing;
mod conn;
mod data;
mod debugfs;
mod device;
mod dgram;
mod hash_table;
mod inbox;
mod link;
mod news;
mod parameters;
mod queue;
mod stats;
mod table;
mod transport;
mod unread;
mod writer;

pub(crate) use self::{
    debugfs::show,
    device::Driver, //
};

use crate::ext::sync::Kept;
use kernel::prelude::*;

/// What sockets are served by while the module is loaded. Its parts end in the order of the fields.
pub(crate) struct Shared {
    _slot: Kept<transport::Slot>,
    _connections: Kept<table::Connections>,
    _ports: Kept<dgram::Ports>,
}

impl Shared {
    /// No sockets yet. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            _slot: transport::Slot::keep()?,
            _connections: table::Connections::keep()?,
            _ports: dgram::Ports::keep()?,
        })
    }
}
