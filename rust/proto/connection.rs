// SPDX-License-Identifier: GPL-2.0

//! The connection's state machine: what a packet or a call does, as a value to be carried out.
//!
//! Source: virtio 1.3, "Socket Device", "Connection Establishment" and "Stream Sockets".
//!
//! ```text
//!              connect()             RESPONSE
//!   Idle ------------------> Connecting --> Established <-------- accepted()
//!                                |           |   |   |
//!             cancel(), RST, ... |     RST   |   |   | close()
//!                                v           |   |   v
//!   Closed <-------------------------<-------+   | Closing -- RST, time-out --> Closed
//!      ^                                         |
//!      |      drained(), close()                 | the peer ended it; data is unread
//!      +--------------------- Draining <---------+
//! ```
//!
//! It runs under the caller's lock and decides alone; the caller carries the [`Actions`] out, in the
//! order of their fields, and may do so after the lock is released.

use crate::wire::{
    Header,
    Op,
    ShutdownFlags, //
};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never connected.
    Idle,
    /// REQUEST is sent, and nothing has come back.
    Connecting,
    /// Data may flow, in the directions that are not shut down.
    Established,
    /// The peer has ended it, and nothing can be sent; what it sent is still being read.
    Draining,
    /// The socket is released, SHUTDOWN is sent, and the peer has not answered yet.
    Closing,
    /// Over. A connection that is over may be connected again (C8).
    Closed,
}

/// A control packet on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// [`Op::Request`].
    Request,
    /// [`Op::Shutdown`], with these flags: all that was shut down so far.
    Shutdown(ShutdownFlags),
    /// [`Op::Rst`].
    Rst,
    /// [`Op::CreditUpdate`].
    CreditUpdate,
}

/// What the socket's owner is to be told through `sk_err`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockError {
    /// ECONNRESET: the peer refused, or the host has lost the connection.
    ConnReset,
    /// EPROTO: the peer answered a REQUEST by something that is no answer.
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
    /// The peer may have made room: wake writers if there is credit.
    pub write_space: bool,
    /// [`Connection::peer_shutdown`] has grown: publish it and wake everybody.
    pub peer_shutdown_changed: bool,
    /// Take the socket out of the tables, so that the peer's port can connect anew at once.
    pub unlink: bool,
    /// Send a control packet to the connection's peer.
    pub send: Option<Send>,
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
        write_space: false,
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

    const fn send(packet: Send) -> Self {
        Self {
            send: Some(packet),
            ..Self::NONE
        }
    }

    const fn bad_op() -> Self {
        Self {
            count_bad_op: true,
            ..Self::NONE
        }
    }

    const fn reply_rst() -> Self {
        Self {
            reply_rst: true,
            ..Self::NONE
        }
    }
}

/// A connection: the authority on its state.
///
/// # Invariants
///
/// - `done` is false in `Connecting`, `Established` and `Closing`.
/// - In `Draining`, `done` is the opposite of "the peer still waits for our RST".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    state: State,
    /// What our side has shut down.
    local: ShutdownFlags,
    /// What the peer has shut down.
    peer: ShutdownFlags,
    /// [`Actions::done`] was given out.
    done: bool,
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}

impl Connection {
    /// How long the peer has to answer a SHUTDOWN of both directions, in milliseconds (C4).
    pub const CLOSE_TIMEOUT_MS: u32 = 8000;

    /// A connection of a new socket.
    pub const fn new() -> Self {
        Self::in_state(State::Idle)
    }

    /// A connection that a listener has accepted; RESPONSE is the caller's to send (C3).
    pub const fn accepted() -> Self {
        Self::in_state(State::Established)
    }

    const fn in_state(state: State) -> Self {
        Self {
            state,
            local: ShutdownFlags::NONE,
            peer: ShutdownFlags::NONE,
            done: false,
        }
    }

    /// Where it stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// What the peer will not do any more: [`ShutdownFlags::RCV`] means that sending is in vain.
    ///
    /// Both once the connection is over, however it ended.
    pub const fn peer_shutdown(&self) -> ShutdownFlags {
        self.peer
    }

    /// What our side has shut down by [`Connection::shutdown`] or [`Connection::close`].
    pub const fn local_shutdown(&self) -> ShutdownFlags {
        self.local
    }

    /// Whether payload may be sent, credit permitting.
    pub const fn may_send(&self) -> bool {
        matches!(self.state, State::Established)
            && !self.local.contains(ShutdownFlags::SEND)
            && !self.peer.contains(ShutdownFlags::RCV)
    }

    /// Whether payload may still arrive, so that a reader may wait for it.
    pub const fn may_receive(&self) -> bool {
        matches!(self.state, State::Established)
            && !self.local.contains(ShutdownFlags::RCV)
            && !self.peer.contains(ShutdownFlags::SEND)
    }

    /// Starts to connect, from a clean state (C8): the caller resets its credit along with it.
    ///
    /// In a state that is none to connect from, which af_vsock excludes, nothing happens.
    pub fn connect(&mut self) -> Actions {
        match self.state {
            State::Idle | State::Connecting | State::Closed => {
                *self = Self::in_state(State::Connecting);
                Actions::send(Send::Request)
            }
            State::Established | State::Draining | State::Closing => Actions::NONE,
        }
    }

    /// connect() gave up: its time is over, or a signal came. A RESPONSE that comes later is
    /// answered by RST.
    ///
    /// A connection that was established before anybody could report it is reset.
    pub fn cancel(&mut self) -> Actions {
        match self.state {
            State::Connecting => self.over(Actions::NONE),
            State::Established => self.over(Actions::send(Send::Rst)),
            State::Idle | State::Draining | State::Closing | State::Closed => Actions::NONE,
        }
    }

    /// A packet has come from the peer. `flags` are the header's, `unread` tells whether received
    /// data, this packet's not included, waits for the reader.
    ///
    /// The credit fields are the caller's to note before. An [`Op::Rst`] never leads to an RST (C2).
    pub fn packet(&mut self, op: Op, flags: u32, unread: bool) -> Actions {
        match self.state {
            State::Idle | State::Closed => match op {
                Op::Rst => Actions::NONE,
                _ => Actions::reply_rst(),
            },
            State::Connecting => self.packet_connecting(op),
            State::Established => self.packet_established(op, flags, unread),
            State::Draining => match op {
                // The peer does not wait for our RST any more.
                Op::Rst => self.finish(Actions::NONE),
                _ => Actions::reply_rst(),
            },
            State::Closing => self.packet_closing(op, flags),
        }
    }

    fn packet_connecting(&mut self, op: Op) -> Actions {
        match op {
            Op::Response => {
                self.state = State::Established;
                Actions {
                    established: true,
                    // What was shut down meanwhile, the peer could not be told before.
                    send: (!self.local.is_empty()).then_some(Send::Shutdown(self.local)),
                    ..Actions::NONE
                }
            }
            Op::Rst => self.over(Actions {
                error: Some(SockError::ConnReset),
                ..Actions::NONE
            }),
            Op::Request | Op::Shutdown | Op::Rw | Op::CreditUpdate | Op::CreditRequest => self
                .over(Actions {
                    reply_rst: true,
                    error: Some(SockError::Proto),
                    ..Actions::NONE
                }),
        }
    }

    fn packet_established(&mut self, op: Op, flags: u32, unread: bool) -> Actions {
        match op {
            // After its own word that it will send no more, nothing may follow the end of file.
            Op::Rw if self.peer.contains(ShutdownFlags::SEND) => Actions::bad_op(),
            Op::Rw => {
                // With our receiving side shut down, the peer may not know yet: no offence.
                let discard = self.local.contains(ShutdownFlags::RCV);
                Actions {
                    deliver: !discard,
                    discard,
                    ..Actions::NONE
                }
            }
            Op::CreditUpdate => Actions {
                write_space: true,
                ..Actions::NONE
            },
            Op::CreditRequest => Actions::send(Send::CreditUpdate),
            Op::Shutdown => self.peer_shuts_down(flags, unread),
            Op::Rst => {
                let mut actions = self.over(Actions::NONE);
                if unread {
                    // INVARIANT: it is done, and the peer waits for nothing.
                    self.state = State::Draining;
                }
                actions.peer_shutdown_changed = true;
                actions
            }
            Op::Request | Op::Response => Actions::bad_op(),
        }
    }

    fn peer_shuts_down(&mut self, flags: u32, unread: bool) -> Actions {
        let flags = ShutdownFlags::from_raw(flags);
        if flags.is_empty() {
            return Actions::bad_op();
        }
        let peer = self.peer.union(flags);
        let changed = peer != self.peer;
        self.peer = peer;
        if !peer.is_both() {
            return Actions {
                peer_shutdown_changed: changed,
                ..Actions::NONE
            };
        }
        if unread {
            // INVARIANT: it is not done, and the peer waits for our RST.
            self.state = State::Draining;
            return Actions {
                peer_shutdown_changed: true,
                unlink: true,
                ..Actions::NONE
            };
        }
        let mut actions = self.over(Actions::send(Send::Rst));
        actions.peer_shutdown_changed = true;
        actions
    }

    fn packet_closing(&mut self, op: Op, flags: u32) -> Actions {
        match op {
            Op::Rst => self.over(Actions::NONE),
            Op::Shutdown => {
                // Both sides close at once: neither needs to wait for the other's RST.
                self.peer = self.peer.union(ShutdownFlags::from_raw(flags));
                if self.peer.is_both() {
                    self.over(Actions::send(Send::Rst))
                } else {
                    Actions::NONE
                }
            }
            // Sent before the peer saw our SHUTDOWN, perhaps: no offence.
            Op::Rw | Op::CreditUpdate | Op::CreditRequest => Actions::NONE,
            Op::Request | Op::Response => Actions::bad_op(),
        }
    }

    /// shutdown() was called: our side will not do `how` any more.
    ///
    /// While connecting, it is remembered and sent once the connection stands.
    pub fn shutdown(&mut self, how: ShutdownFlags) -> Actions {
        let local = self.local.union(how);
        let changed = local != self.local;
        self.local = local;
        match self.state {
            State::Established if changed => Actions::send(Send::Shutdown(local)),
            _ => Actions::NONE,
        }
    }

    /// The reader has taken the last byte that was unread. To be called whenever that happens.
    ///
    /// A peer that has shut both directions down is answered now, not at close() only (C4).
    pub fn drained(&mut self) -> Actions {
        match self.state {
            State::Draining if self.done => {
                self.state = State::Closed;
                Actions::NONE
            }
            State::Draining => self.over(Actions::send(Send::Rst)),
            _ => Actions::NONE,
        }
    }

    /// The socket is released. In [`State::Closing`] afterwards it must live on, in the tables, until
    /// [`Actions::done`]; in any other state it can go.
    pub fn close(&mut self) -> Actions {
        match self.state {
            // Without an RST the host might keep its half of what we forget.
            State::Connecting => self.over(Actions::send(Send::Rst)),
            State::Established => {
                let told = self.local.is_both();
                self.local = ShutdownFlags::BOTH;
                self.state = State::Closing;
                Actions {
                    send: (!told).then_some(Send::Shutdown(ShutdownFlags::BOTH)),
                    start_close_timer: true,
                    ..Actions::NONE
                }
            }
            State::Draining if !self.done => self.over(Actions::send(Send::Rst)),
            State::Idle | State::Draining | State::Closed => self.over(Actions::NONE),
            State::Closing => Actions::NONE,
        }
    }

    /// The time of [`Actions::start_close_timer`] is over: the peer is told by RST (C4).
    pub fn close_timeout(&mut self) -> Actions {
        match self.state {
            State::Closing => self.over(Actions::send(Send::Rst)),
            _ => Actions::NONE,
        }
    }

    /// Ends the connection since bytes were lost, or would be: the peer gets an RST, the owner an
    /// error (K3, M2). A stream with a hole is never continued.
    pub fn abort(&mut self, error: SockError) -> Actions {
        match self.state {
            State::Connecting | State::Established => self.over(Actions {
                send: Some(Send::Rst),
                error: Some(error),
                ..Actions::NONE
            }),
            State::Closing => self.over(Actions::send(Send::Rst)),
            State::Idle | State::Draining | State::Closed => Actions::NONE,
        }
    }

    /// The host has lost its connections, and there is nobody to tell (C5).
    pub fn transport_reset(&mut self) -> Actions {
        self.lost(None)
    }

    /// The device goes away in order: the peer is told by RST while it can be (C7).
    pub fn device_leaving(&mut self) -> Actions {
        self.lost(Some(Send::Rst))
    }

    /// The device has gone, by surprise: local errors only (C7).
    pub fn device_gone(&mut self) -> Actions {
        self.lost(None)
    }

    fn lost(&mut self, send: Option<Send>) -> Actions {
        match self.state {
            State::Connecting | State::Established => self.over(Actions {
                send,
                error: Some(SockError::ConnReset),
                ..Actions::NONE
            }),
            State::Closing => self.over(Actions {
                send,
                ..Actions::NONE
            }),
            // What was received stays readable; the peer waits for our RST at most.
            State::Draining if !self.done => self.finish(Actions {
                send,
                ..Actions::NONE
            }),
            State::Idle | State::Draining | State::Closed => Actions::NONE,
        }
    }

    /// Enters `Closed`, by way of `actions`.
    fn over(&mut self, actions: Actions) -> Actions {
        self.state = State::Closed;
        self.peer = ShutdownFlags::BOTH;
        self.finish(actions)
    }

    /// Gives out `done`, if it was not.
    fn finish(&mut self, mut actions: Actions) -> Actions {
        if !self.done {
            self.done = true;
            actions.done = true;
            actions.unlink = true;
        }
        actions
    }
}

/// The RST that answers a packet which belongs to no socket, or to one that does not want it (C2).
///
/// Its type is the packet's, even an unknown one. `None` for an RST, and for addresses that are none.
/// Datagrams are none of this function's business.
pub fn reset_reply(header: &Header) -> Option<Header> {
    let addressed = header.src().is_ok() && header.dst().is_ok();
    (addressed && header.op != u16::from(Op::Rst)).then(|| header.reply(Op::Rst))
}
