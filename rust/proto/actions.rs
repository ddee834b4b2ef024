// SPDX-License-Identifier: GPL-2.0

//! What a packet or a call leads to, as a value: the state machine decides, others carry it out.

use crate::wire::ShutdownFlags;

#[cfg(doc)]
use super::{
    reset_reply,
    Connection,
    Endpoint, //
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
    /// No reader is left for the payload: drop it. It counts as received and consumed at once.
    pub discard: bool,
    /// No reader is left for what is stored and unread: drop it.
    pub drop_unread: bool,
    /// The packet makes no sense in this state: drop it and count it (H4).
    pub count_bad_op: bool,
    /// The connection is established: enter it into the tables, wake who waits in connect().
    pub established: bool,
    /// [`Connection::peer_shutdown`] has grown: publish it and wake all who wait.
    pub peer_shutdown_changed: bool,
    /// Take the socket out of the tables, so that the peer's port can connect anew at once.
    pub unlink: bool,
    /// Send a control packet to the connection's peer.
    pub send: Option<Control>,
    /// Send a CREDIT_UPDATE, after that.
    pub update: bool,
    /// Send a CREDIT_REQUEST, after that.
    pub ask: bool,
    /// Answer the packet by an RST to where it came from, made of its own header: [`reset_reply`].
    pub reply_rst: bool,
    /// Set `sk_err` and report it.
    pub error: Option<SockError>,
    /// The peer is to answer: call [`Endpoint::wait_for_close`] once the socket's owner does not linger (any
    /// more), unless it is done.
    pub start_close_timer: bool,
    /// The connection is over for good: nothing is sent or awaited any more (SOCK_DONE). Once only,
    /// unless it is connected again.
    pub done: bool,
    /// connect() has given up: of all this, tell the socket nothing.
    pub silent: bool,
    /// Wake who waits to read: there is as much as he waits for, or as can come.
    pub wake_reader: bool,
    /// Wake who waits to write: there is room.
    pub wake_writer: bool,
    /// Call [`Endpoint::catch_up`] soon, when there may be memory.
    pub catch_up_soon: bool,
    /// Call [`Endpoint::on_timeout`] at [`Endpoint::deadline`].
    pub start_timer: bool,
}

impl Actions {
    /// Nothing to do.
    pub const NONE: Self = Self {
        deliver: false,
        discard: false,
        drop_unread: false,
        count_bad_op: false,
        established: false,
        peer_shutdown_changed: false,
        unlink: false,
        send: None,
        update: false,
        ask: false,
        reply_rst: false,
        error: None,
        start_close_timer: false,
        done: false,
        silent: false,
        wake_reader: false,
        wake_writer: false,
        catch_up_soon: false,
        start_timer: false,
    };

    /// Try again soon what there was no memory for.
    pub(super) const CATCH_UP_SOON: Self = Self {
        catch_up_soon: true,
        ..Self::NONE
    };

    /// Whether there is nothing to do.
    // For tests.
    #[allow(dead_code)]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Whether they end a connection, or tell its peer so: carried out late, they would end the next one.
    pub fn are_of_an_end(&self) -> bool {
        self.done
            || self.reply_rst
            || matches!(self.send, Some(Control::Rst | Control::Shutdown(_)))
    }

    /// The control packets that are to be sent, in their order.
    pub fn packets(&self) -> impl Iterator<Item = Control> {
        let update = self.update.then_some(Control::CreditUpdate);
        let ask = self.ask.then_some(Control::CreditRequest);
        [self.send, update, ask].into_iter().flatten()
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
