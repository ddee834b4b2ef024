// SPDX-License-Identifier: GPL-2.0

//! Virtqueues, and what is on them.
//!
//! - `rx`: a receive queue: buffers to the device, packets from it;
//! - `payload`: what a received packet brought, in the buffers that it came in;
//! - `tx`: a transmit queue: packets to the device, and back to memory;
//! - `packet`: a packet to be sent, and what it asks of its [`Sender`];
//! - `waiting`, `backlog`: packets that wait for room, whose turn it is, and what of one sender does, small writes that are
//!   put together included;
//! - `scheduled`, `slots`: packets whose turn a network interface's scheduler gives, and the table of those turns;
//! - `crowd`: all datagram sockets as one sender, where they share the queue of connections;
//! - `lingering`: whose open packets wait for a worker;
//! - `bound`: how much memory may wait, of connections and of datagrams;
//! - `events`: what the device tells of itself;
//! - `tap`: copies for monitors.

mod backlog;
mod bound;
mod crowd;
mod events;
mod lingering;
mod packet;
mod payload;
mod rx;
mod scheduled;
mod slots;
mod tap;
mod tx;
mod waiting;

pub(super) use self::{
    backlog::Backlog,
    bound::Whose,
    crowd::Crowd,
    events::Events,
    packet::{
        control,
        data,
        datagram,
        extend,
        open,
        Cause,
        Open,
        Packet,
        Packets,
        Pinned,
        Sender, //
    },
    payload::Payload,
    rx::{
        BufferLayout,
        Outcome,
        Routed,
        Rx, //
    },
    tx::{
        Afterwards,
        Tx, //
    }, //
};
