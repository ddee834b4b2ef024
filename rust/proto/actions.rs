// SPDX-License-Identifier: GPL-2.0

//! What a packet or a call leads to, as a value: the state machine decides, others carry it out.

use crate::wire::ShutdownFlags;

#[cfg(doc)]
use super::{
    reset_reply,
    Connection, //
};
#[cfg(doc)]
use crate::wire::Op;

/// A control packet on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// [`Op::Request`].
    Request,
    /// [`Op::Shutdown`], with these flags: all that was shut down so far.
    Shutdown(ShutdownFlags),
    /// [`Op::Rst`].
    Rst,
    /// [`Op::CreditUpdate`].
    CreditUpdate,
    /// [`Op::CreditRequest`].
    CreditRequest,
}

/// What the socket's owner is to be told through `sk_err`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockError {
    /// ECONNRESET: the peer refused, or the host has lost the connection.
    ConnReset,
    /// EPROTO: the peer accepted a REQUEST after it had sent what belongs to a connection.
    Proto,
    /// ENOBUFS: the peer sent more than its credit, so that bytes would be lost.
    NoBufs,
    /// ENOMEM: there was no memory for received bytes, so that bytes would be lost.
    NoMem,
}

/// What is to be done, in the order of the fields. Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Actions {
    /// Store the packet's payload for the reader.
    pub deliver: bool,
    /// Nobody will read the payload: count it as received and consumed at once, and drop it.
    pub discard: bool,
    /// The packet makes no sense in this state: drop it and count it (H4).
    pub count_bad_op: bool,
    /// The connection is established: enter it into the tables, wake who waits in connect().
    pub established: bool,
    /// [`Connection::peer_shutdown`] has grown: publish it and wake everybody.
    pub peer_shutdown_changed: bool,
    /// Take the socket out of the tables, so that the peer's port can connect anew at once.
    pub unlink: bool,
    /// Send a control packet to the connection's peer.
    pub send: Option<Control>,
    /// Answer the packet by an RST to where it came from, made of its own header: [`reset_reply`].
    pub reply_rst: bool,
    /// Set `sk_err` and report it.
    pub error: Option<SockError>,
    /// Call [`Connection::close_timeout`] after [`Connection::CLOSE_TIMEOUT_MS`], unless it is done.
    pub start_close_timer: bool,
    /// The connection is over for good: nothing is sent or awaited any more (SOCK_DONE). Once only,
    /// unless it is connected again.
    pub done: bool,
}

impl Actions {
    /// Nothing to do.
    pub const NONE: Self = Self {
        deliver: false,
        discard: false,
        count_bad_op: false,
        established: false,
        peer_shutdown_changed: false,
        unlink: false,
        send: None,
        reply_rst: false,
        error: None,
        start_close_timer: false,
        done: false,
    };

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Send a packet, and nothing else.
    pub(super) const fn send(packet: Control) -> Self {
        Self {
            send: Some(packet),
            ..Self::NONE
        }
    }

    /// Count an offence, and nothing else.
    pub(super) const fn bad_op() -> Self {
        Self {
            count_bad_op: true,
            ..Self::NONE
        }
    }

    /// Answer by RST, and nothing else.
    pub(super) const fn reply_rst() -> Self {
        Self {
            reply_rst: true,
            ..Self::NONE
        }
    }
}
