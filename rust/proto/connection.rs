// SPDX-License-Identifier: GPL-2.0

//! The connection's state machine: what a packet or a call does, as a value to be carried out.
//!
//! Source: virtio 1.3, "Socket Device", "Connection Establishment" and "Stream Sockets".
//!
//! ```text
//!              connect()             RESPONSE
//!   Idle ------------------> Connecting --> Established <-------- accepted()
//!                                |           |   |   |
//!                       RST, ... |     RST   |   |   | close()
//!                                v           |   |   v
//!   Closed <-------------------------<-------+   | Closing -- RST, time-out --> Closed
//!      ^                                         |
//!      |      drained(), close()                 | the peer ended it; data is unread
//!      +--------------------- Draining <---------+
//! ```
//!
//! A connect() that gives up leaves what it has begun *abandoned*: it goes on without anybody being told,
//! until connect() is called again and claims it, or its time is over.
//!
//! It runs under the caller's lock and decides alone; the caller carries the [`Actions`] out, in the
//! order of their fields, and may do so after the lock is released.

use super::actions::{
    Actions,
    Control,
    SockError, //
};
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

/// A connection: the authority on its state.
///
/// # Invariants
///
/// - `done` is false in `Connecting`, `Established` and `Closing`.
/// - `abandoned` is false in `Idle`, `Closing` and `Closed`.
/// - `torn` is false but in `Connecting`.
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
    /// connect() has given up.
    abandoned: bool,
    /// The peer sent what belongs to a connection before it has accepted ours: that is lost.
    torn: bool,
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}

impl Connection {
    /// How long the peer has to answer a SHUTDOWN of both directions, in milliseconds (C4).
    pub const CLOSE_TIMEOUT_MS: u32 = 8000;

    /// How long connect() may take to be called again and find what the peer has answered to the call that
    /// gave up, in milliseconds.
    pub const ABANDONED_TIMEOUT_MS: u32 = 1000;

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
            abandoned: false,
            torn: false,
        }
    }

    /// Where it stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// connect() has given up, and wants to hear of nothing: [`Actions`] are to be told to nobody.
    pub const fn is_abandoned(&self) -> bool {
        self.abandoned
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

    /// Starts to connect, from a clean state (C8): the caller resets its credit along with it.
    ///
    /// In a state that is none to connect from, which af_vsock excludes, nothing happens.
    pub fn connect(&mut self) -> Actions {
        match self.state {
            State::Idle | State::Connecting | State::Closed => {
                *self = Self::in_state(State::Connecting);
                Actions::send(Control::Request)
            }
            State::Established | State::Draining | State::Closing => Actions::NONE,
        }
    }

    /// connect() gave up: its time is over, or a signal came. It may be called again, and the peer's answer
    /// may be on its way: an RST now would end what the next call is about to want.
    ///
    /// Call [`Connection::abandoned_timeout`] after [`Connection::ABANDONED_TIMEOUT_MS`].
    pub fn cancel(&mut self) {
        self.abandoned = matches!(
            self.state,
            State::Connecting | State::Established | State::Draining
        );
    }

    /// connect() is called again, for the same peer: goes on with what was begun, and returns whether there is
    /// anything. It may be established by now, and whatever may follow that.
    pub fn claim(&mut self) -> bool {
        let there = self.abandoned && !self.done;
        self.abandoned &= self.done;
        there
    }

    /// connect() was not called again: a RESPONSE that comes later is answered by RST.
    pub fn abandoned_timeout(&mut self) -> Actions {
        match self.state {
            _ if !self.abandoned => Actions::NONE,
            State::Connecting => self.over(Actions::NONE),
            _ => self.close(),
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

    /// RESPONSE and RST alone decide (C8). Some hosts ask for credit before they answer.
    fn packet_connecting(&mut self, op: Op) -> Actions {
        match op {
            // A stream with a hole, or one whose end went unseen, is never begun.
            Op::Response if self.torn => self.over(Actions {
                reply_rst: true,
                error: Some(SockError::Proto),
                ..Actions::NONE
            }),
            Op::Response => {
                self.state = State::Established;
                Actions {
                    established: true,
                    // What was shut down meanwhile, the peer could not be told before.
                    send: (!self.local.is_empty()).then_some(Control::Shutdown(self.local)),
                    ..Actions::NONE
                }
            }
            Op::Rst => self.over(Actions {
                error: Some(SockError::ConnReset),
                ..Actions::NONE
            }),
            Op::CreditUpdate | Op::CreditRequest => Actions::NONE,
            Op::Request => Actions::bad_op(),
            Op::Shutdown | Op::Rw => {
                self.torn = true;
                Actions::bad_op()
            }
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
            // What it tells is in every packet.
            Op::CreditUpdate => Actions::NONE,
            Op::CreditRequest => Actions::send(Control::CreditUpdate),
            Op::Shutdown => self.peer_shuts_down(flags, unread),
            Op::Rst => {
                let wanted = unread && !self.abandoned;
                let mut actions = self.over(Actions::NONE);
                if wanted {
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
                // What connect() may come back for stays where its time-out finds it.
                unlink: !self.abandoned,
                ..Actions::NONE
            };
        }
        let mut actions = self.over(Actions::send(Control::Rst));
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
                    self.over(Actions::send(Control::Rst))
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
            State::Established if changed => Actions::send(Control::Shutdown(local)),
            _ => Actions::NONE,
        }
    }

    /// The reader has taken the last byte that was unread. To be called whenever that happens.
    ///
    /// A peer that has shut both directions down is answered now, not at close() only (C4).
    pub fn drained(&mut self) -> Actions {
        match self.state {
            State::Draining if self.done => self.over(Actions::NONE),
            State::Draining => self.over(Actions::send(Control::Rst)),
            _ => Actions::NONE,
        }
    }

    /// The socket is released. In [`State::Closing`] afterwards it must live on, in the tables, until
    /// [`Actions::done`]; in any other state it can go.
    pub fn close(&mut self) -> Actions {
        match self.state {
            // Without an RST the host might keep its half of what we forget.
            State::Connecting => self.over(Actions::send(Control::Rst)),
            State::Established if self.abandoned => self.over(Actions::send(Control::Rst)),
            State::Established => {
                let told = self.local.is_both();
                self.local = ShutdownFlags::BOTH;
                self.state = State::Closing;
                Actions {
                    send: (!told).then_some(Control::Shutdown(ShutdownFlags::BOTH)),
                    start_close_timer: true,
                    ..Actions::NONE
                }
            }
            State::Draining if !self.done => self.over(Actions::send(Control::Rst)),
            State::Idle | State::Draining | State::Closed => self.over(Actions::NONE),
            State::Closing => Actions::NONE,
        }
    }

    /// The time of [`Actions::start_close_timer`] is over: the peer is told by RST (C4).
    pub fn close_timeout(&mut self) -> Actions {
        match self.state {
            State::Closing => self.over(Actions::send(Control::Rst)),
            _ => Actions::NONE,
        }
    }

    /// Ends the connection since bytes were lost, or would be: the peer gets an RST, the owner an
    /// error (K3, M2). A stream with a hole is never continued.
    pub fn abort(&mut self, error: SockError) -> Actions {
        match self.state {
            State::Connecting | State::Established => self.over(Actions {
                send: Some(Control::Rst),
                error: Some(error),
                ..Actions::NONE
            }),
            State::Closing => self.over(Actions::send(Control::Rst)),
            State::Idle | State::Draining | State::Closed => Actions::NONE,
        }
    }

    /// The host has lost its connections (C5), or the device has gone by surprise (C7): there is nobody to tell.
    pub fn transport_reset(&mut self) -> Actions {
        self.lost(None)
    }

    /// The device goes away in order: the peer is told by RST while it can be (C7).
    ///
    /// Not of what is being closed: it has our SHUTDOWN, and some hosts drop what they hold at an RST.
    pub fn device_leaving(&mut self) -> Actions {
        self.lost(Some(Control::Rst))
    }

    fn lost(&mut self, send: Option<Control>) -> Actions {
        match self.state {
            State::Connecting | State::Established => self.over(Actions {
                send,
                error: Some(SockError::ConnReset),
                ..Actions::NONE
            }),
            State::Closing => self.over(Actions::NONE),
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
        // INVARIANT: it is over for everybody.
        self.abandoned = false;
        self.torn = false;
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

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_connection))]
mod tests {
    use super::*;
    use crate::wire::{
        Address,
        SocketType, //
    };

    const OPS: [Op; 7] = [
        Op::Request,
        Op::Response,
        Op::Rst,
        Op::Shutdown,
        Op::Rw,
        Op::CreditUpdate,
        Op::CreditRequest,
    ];

    const RCV: ShutdownFlags = ShutdownFlags::RCV;
    const SEND: ShutdownFlags = ShutdownFlags::SEND;
    const BOTH: ShutdownFlags = ShutdownFlags::BOTH;

    fn connecting() -> Connection {
        let mut connection = Connection::new();
        let _ = connection.connect();
        connection
    }

    fn closing() -> Connection {
        let mut connection = Connection::accepted();
        let _ = connection.close();
        connection
    }

    /// Data is unread, and the peer has shut both directions down.
    fn draining() -> Connection {
        let mut connection = Connection::accepted();
        let _ = connection.packet(Op::Shutdown, 3, true);
        connection
    }

    fn closed() -> Connection {
        let mut connection = Connection::accepted();
        let _ = connection.packet(Op::Rst, 0, false);
        connection
    }

    fn over(actions: Actions) -> Actions {
        Actions {
            unlink: true,
            done: true,
            ..actions
        }
    }

    fn reset(error: Option<SockError>, send: Option<Control>) -> Actions {
        over(Actions {
            error,
            send,
            ..Actions::NONE
        })
    }

    #[test]
    fn connect_sends_a_request_and_a_response_establishes() {
        let mut connection = Connection::new();
        assert_eq!(connection.state(), State::Idle);
        assert_eq!(connection.connect(), Actions::send(Control::Request));
        assert_eq!(connection.state(), State::Connecting);
        assert!(!connection.may_send());
        let actions = connection.packet(Op::Response, 0, false);
        let expected = Actions {
            established: true,
            ..Actions::NONE
        };
        assert_eq!(actions, expected);
        assert_eq!(connection.state(), State::Established);
        assert!(connection.may_send());
        assert!(connection.connect().is_empty());
    }

    #[test]
    fn connect_is_refused_by_rst() {
        let mut connection = connecting();
        let actions = connection.packet(Op::Rst, 0, false);
        assert_eq!(actions, reset(Some(SockError::ConnReset), None));
        assert_eq!(connection.state(), State::Closed);
    }

    #[test]
    fn c8_while_connecting_response_and_rst_alone_decide() {
        for op in OPS {
            if matches!(op, Op::Response | Op::Rst) {
                continue;
            }
            let mut connection = connecting();
            let actions = connection.packet(op, 3, false);
            let credit = matches!(op, Op::CreditUpdate | Op::CreditRequest);
            let expected = if credit {
                Actions::NONE
            } else {
                Actions::bad_op()
            };
            assert_eq!(actions, expected);
            assert_eq!(connection.state(), State::Connecting);
            let mut refused = connection;
            let actions = refused.packet(Op::Rst, 0, false);
            assert_eq!(actions, reset(Some(SockError::ConnReset), None));
            // What bytes or what end was lost, nobody knows: that is no connection.
            let lost = matches!(op, Op::Rw | Op::Shutdown);
            let actions = connection.packet(Op::Response, 0, false);
            assert_eq!(actions.established, !lost);
            assert_eq!(actions.reply_rst, lost);
            assert_eq!(actions.error, lost.then_some(SockError::Proto));
        }
    }

    #[test]
    fn c2_without_a_connection_everything_but_rst_is_answered_by_rst() {
        for connection in [Connection::new(), closed()] {
            for op in OPS {
                for unread in [false, true] {
                    let mut connection = connection;
                    let actions = connection.packet(op, u32::MAX, unread);
                    let answered = !matches!(op, Op::Rst);
                    assert_eq!(actions.reply_rst, answered);
                    assert_eq!(actions.is_empty(), !answered);
                }
            }
        }
    }

    #[test]
    fn c2_rst_never_leads_to_rst() {
        for connection in [
            Connection::new(),
            connecting(),
            Connection::accepted(),
            draining(),
            closing(),
            closed(),
        ] {
            for unread in [false, true] {
                let mut connection = connection;
                let actions = connection.packet(Op::Rst, u32::MAX, unread);
                assert!(!actions.reply_rst);
                assert_eq!(actions.send, None);
            }
        }
    }

    #[test]
    fn c8_a_retried_connect_starts_clean() {
        let mut connection = connecting();
        let _ = connection.shutdown(BOTH);
        connection.cancel();
        assert!(connection.is_abandoned());
        assert_eq!(connection.connect(), Actions::send(Control::Request));
        assert_eq!(connection, connecting());
        assert!(connection.packet(Op::Response, 0, false).established);
        assert!(connection.may_send());
        // Done again, although the first attempt was done.
        assert!(connection.packet(Op::Rst, 0, false).done);
    }

    #[test]
    fn connect_again_while_connecting_sends_again() {
        let mut connection = connecting();
        assert_eq!(connection.connect(), Actions::send(Control::Request));
        assert_eq!(connection.state(), State::Connecting);
    }

    /// connect() had given up before the peer's RESPONSE came.
    fn abandoned() -> Connection {
        let mut connection = connecting();
        connection.cancel();
        assert!(connection.packet(Op::Response, 0, false).established);
        assert!(connection.is_abandoned());
        connection
    }

    #[test]
    fn c8_a_retried_connect_claims_what_the_peer_has_accepted() {
        let mut connection = abandoned();
        assert!(connection.packet(Op::Rw, 0, false).deliver);
        assert!(connection.claim());
        assert_eq!(connection, Connection::accepted());
        assert!(!connection.claim());

        // The RESPONSE was there, and connect() gave up before it was told.
        let mut connection = connecting();
        assert!(connection.packet(Op::Response, 0, false).established);
        connection.cancel();
        assert!(connection.claim());
        assert_eq!(connection, Connection::accepted());

        // The RESPONSE has yet to come.
        let mut connection = connecting();
        connection.cancel();
        assert!(connection.claim());
        assert_eq!(connection, connecting());
    }

    #[test]
    fn c8_what_is_abandoned_stays_in_the_table_until_its_time_is_over() {
        let mut connection = abandoned();
        let actions = connection.packet(Op::Shutdown, 3, true);
        assert!(actions.peer_shutdown_changed && !actions.unlink);
        assert_eq!(connection.state(), State::Draining);
        assert_eq!(
            connection.abandoned_timeout(),
            reset(None, Some(Control::Rst))
        );
    }

    #[test]
    fn c8_a_retried_connect_claims_what_the_peer_has_shut_down() {
        for (flags, state) in [(2, State::Established), (3, State::Draining)] {
            let mut connection = abandoned();
            let _ = connection.packet(Op::Shutdown, flags, true);
            assert!(connection.claim());
            assert_eq!(connection.state(), state);
            assert_eq!(connection.peer_shutdown().as_raw(), flags);
        }
    }

    #[test]
    fn c8_nothing_is_left_to_claim_of_what_the_peer_has_ended() {
        for unread in [false, true] {
            let mut refused = connecting();
            refused.cancel();
            let mut ended = abandoned();
            let mut ended_while_draining = abandoned();
            let _ = ended_while_draining.packet(Op::Shutdown, 3, unread);
            for connection in [&mut refused, &mut ended, &mut ended_while_draining] {
                let _ = connection.packet(Op::Rst, 0, unread);
                assert!(!connection.claim());
                let _ = connection.close();
                assert_eq!(connection.connect(), Actions::send(Control::Request));
                assert_eq!(*connection, connecting());
            }
        }
    }

    #[test]
    fn c8_what_nobody_claims_is_reset() {
        let mut unanswered = connecting();
        unanswered.cancel();
        assert_eq!(unanswered.abandoned_timeout(), reset(None, None));
        assert_eq!(
            unanswered.packet(Op::Response, 0, false),
            Actions::reply_rst()
        );
        let rst = Some(Control::Rst);
        assert_eq!(abandoned().abandoned_timeout(), reset(None, rst));
        assert_eq!(abandoned().close(), reset(None, rst));
        let mut connection = abandoned();
        assert!(connection.claim());
        assert!(connection.abandoned_timeout().is_empty());
        assert!(connecting().abandoned_timeout().is_empty());
    }

    #[test]
    fn cancel_of_what_is_not_connecting_does_nothing() {
        for connection in [Connection::new(), closing(), closed()] {
            let mut after = connection;
            after.cancel();
            assert_eq!(after, connection);
        }
    }

    #[test]
    fn payload_is_delivered() {
        let mut connection = Connection::accepted();
        let actions = connection.packet(Op::Rw, 0, false);
        assert!(actions.deliver);
        assert!(!actions.discard);
    }

    #[test]
    fn payload_after_our_rcv_shutdown_is_discarded_and_credited() {
        let mut connection = Connection::accepted();
        assert_eq!(
            connection.shutdown(RCV),
            Actions::send(Control::Shutdown(RCV))
        );
        let actions = connection.packet(Op::Rw, 0, false);
        assert!(actions.discard);
        assert!(!actions.deliver);
        assert!(!actions.count_bad_op);
        assert!(connection.may_send());
    }

    #[test]
    fn payload_after_the_peers_send_shutdown_is_dropped() {
        let mut connection = Connection::accepted();
        let _ = connection.packet(Op::Shutdown, SEND.as_raw(), false);
        assert_eq!(connection.packet(Op::Rw, 0, false), Actions::bad_op());
    }

    #[test]
    fn credit_packets() {
        let mut connection = Connection::accepted();
        assert!(connection.packet(Op::CreditUpdate, 0, false).is_empty());
        assert_eq!(
            connection.packet(Op::CreditRequest, 0, false),
            Actions::send(Control::CreditUpdate)
        );
    }

    #[test]
    fn h4_request_and_response_in_a_connection_are_counted() {
        for connection in [Connection::accepted(), closing()] {
            for op in [Op::Request, Op::Response] {
                let mut after = connection;
                assert_eq!(after.packet(op, 0, false), Actions::bad_op());
                assert_eq!(after, connection);
            }
        }
    }

    #[test]
    fn h4_shutdown_without_a_known_flag_is_counted() {
        for flags in [0, 4, !3] {
            let mut connection = Connection::accepted();
            assert_eq!(
                connection.packet(Op::Shutdown, flags, false),
                Actions::bad_op()
            );
            assert!(connection.peer_shutdown().is_empty());
        }
    }

    #[test]
    fn c4_peers_shutdown_is_permanent_and_adds_up() {
        let mut connection = Connection::accepted();
        assert!(
            connection
                .packet(Op::Shutdown, 1, false)
                .peer_shutdown_changed
        );
        assert_eq!(connection.peer_shutdown(), RCV);
        assert!(!connection.may_send());
        assert!(connection.packet(Op::Shutdown, 1, false).is_empty());
        let mut expected = reset(None, Some(Control::Rst));
        expected.peer_shutdown_changed = true;
        assert_eq!(connection.packet(Op::Shutdown, 2, false), expected);
        assert_eq!(connection.state(), State::Closed);
        assert!(connection.peer_shutdown().is_both());
    }

    #[test]
    fn c4_peer_closes_while_data_is_unread() {
        let mut connection = Connection::accepted();
        let expected = Actions {
            peer_shutdown_changed: true,
            unlink: true,
            ..Actions::NONE
        };
        assert_eq!(connection.packet(Op::Shutdown, 3, true), expected);
        assert_eq!(connection.state(), State::Draining);
        assert!(!connection.may_send());
        // The reader finishes, or closes before it does: the peer gets its RST either way.
        let mut closes = connection;
        assert_eq!(connection.drained(), reset(None, Some(Control::Rst)));
        assert_eq!(connection.state(), State::Closed);
        assert!(connection.drained().is_empty());
        assert_eq!(closes.close(), reset(None, Some(Control::Rst)));
        assert_eq!(closes.state(), State::Closed);
    }

    #[test]
    fn c4_peer_gives_up_waiting_for_the_reader() {
        let mut connection = draining();
        assert_eq!(connection.packet(Op::Rst, 0, true), reset(None, None));
        assert_eq!(connection.state(), State::Draining);
        assert!(connection.packet(Op::Rst, 0, true).is_empty());
        assert!(connection.drained().is_empty());
        assert_eq!(connection.state(), State::Closed);
    }

    #[test]
    fn rst_ends_at_once() {
        let mut connection = Connection::accepted();
        let mut expected = reset(None, None);
        expected.peer_shutdown_changed = true;
        assert_eq!(connection.packet(Op::Rst, 0, false), expected);
        assert_eq!(connection.state(), State::Closed);
        assert!(connection.peer_shutdown().is_both());
    }

    #[test]
    fn rst_leaves_what_is_unread() {
        let mut connection = Connection::accepted();
        let actions = connection.packet(Op::Rst, 0, true);
        assert!(actions.done);
        assert!(actions.unlink);
        assert_eq!(connection.state(), State::Draining);
        // Nobody waits for an RST, and it is not done twice.
        let mut closes = connection;
        assert!(closes.close().is_empty());
        assert!(connection.drained().is_empty());
        assert_eq!(connection.state(), State::Closed);
    }

    #[test]
    fn shutdown_is_sent_once_per_direction() {
        let mut connection = Connection::accepted();
        assert!(connection.shutdown(ShutdownFlags::NONE).is_empty());
        assert_eq!(
            connection.shutdown(SEND),
            Actions::send(Control::Shutdown(SEND))
        );
        assert!(connection.shutdown(SEND).is_empty());
        assert!(!connection.may_send());
        assert_eq!(
            connection.shutdown(RCV),
            Actions::send(Control::Shutdown(BOTH))
        );
        assert!(connection.local_shutdown().is_both());
        assert_eq!(connection.state(), State::Established);
    }

    #[test]
    fn shutdown_while_connecting_is_sent_once_established() {
        let mut connection = connecting();
        assert!(connection.shutdown(SEND).is_empty());
        let actions = connection.packet(Op::Response, 0, false);
        assert!(actions.established);
        assert_eq!(actions.send, Some(Control::Shutdown(SEND)));
    }

    #[test]
    fn c4_close_shuts_down_and_waits_for_rst() {
        let mut connection = Connection::accepted();
        let expected = Actions {
            send: Some(Control::Shutdown(BOTH)),
            start_close_timer: true,
            ..Actions::NONE
        };
        assert_eq!(connection.close(), expected);
        assert_eq!(connection.state(), State::Closing);
        assert!(connection.close().is_empty());
        assert!(connection.shutdown(BOTH).is_empty());
        assert!(connection.packet(Op::Rw, 0, false).is_empty());
        assert!(connection.packet(Op::CreditUpdate, 0, false).is_empty());
        assert!(connection.packet(Op::CreditRequest, 0, false).is_empty());
        assert_eq!(connection.packet(Op::Rst, 0, false), reset(None, None));
        assert!(connection.close_timeout().is_empty());
    }

    #[test]
    fn c4_close_after_shutdown_of_both_does_not_repeat_it() {
        let mut connection = Connection::accepted();
        let _ = connection.shutdown(BOTH);
        let actions = connection.close();
        assert_eq!(actions.send, None);
        assert!(actions.start_close_timer);
    }

    #[test]
    fn c4_close_times_out_with_an_rst() {
        let mut connection = closing();
        assert_eq!(connection.close_timeout(), reset(None, Some(Control::Rst)));
        assert!(connection.close_timeout().is_empty());
        assert!(Connection::accepted().close_timeout().is_empty());
    }

    #[test]
    fn c4_both_sides_close_at_once() {
        let mut connection = closing();
        assert!(connection.packet(Op::Shutdown, 2, false).is_empty());
        assert_eq!(
            connection.packet(Op::Shutdown, 1, false),
            reset(None, Some(Control::Rst))
        );
    }

    #[test]
    fn close_in_the_other_states() {
        assert_eq!(Connection::new().close(), reset(None, None));
        assert_eq!(connecting().close(), reset(None, Some(Control::Rst)));
        assert!(closed().close().is_empty());
    }

    #[test]
    fn c5_transport_reset_ends_connecting_and_established() {
        for connection in [connecting(), Connection::accepted()] {
            let mut connection = connection;
            let expected = reset(Some(SockError::ConnReset), None);
            assert_eq!(connection.transport_reset(), expected);
            assert_eq!(connection.state(), State::Closed);
            assert!(connection.transport_reset().is_empty());
        }
        assert_eq!(closing().transport_reset(), reset(None, None));
        assert!(Connection::new().transport_reset().is_empty());
    }

    #[test]
    fn c5_transport_reset_leaves_what_is_unread() {
        let mut connection = draining();
        assert_eq!(connection.transport_reset(), reset(None, None));
        assert_eq!(connection.state(), State::Draining);
        assert!(connection.transport_reset().is_empty());
        assert!(connection.close().is_empty());
    }

    #[test]
    fn c7_orderly_departure_tells_every_peer() {
        let rst = Some(Control::Rst);
        let error = Some(SockError::ConnReset);
        assert_eq!(connecting().device_leaving(), reset(error, rst));
        assert_eq!(Connection::accepted().device_leaving(), reset(error, rst));
        assert_eq!(closing().device_leaving(), reset(None, None));
        assert_eq!(draining().device_leaving(), reset(None, rst));
        assert!(Connection::new().device_leaving().is_empty());
        assert!(closed().device_leaving().is_empty());
    }

    #[test]
    fn c7_surprise_removal_sends_nothing() {
        for connection in [connecting(), Connection::accepted(), closing(), draining()] {
            let mut connection = connection;
            let actions = connection.transport_reset();
            assert!(actions.done);
            assert_eq!(actions.send, None);
        }
    }

    #[test]
    fn k3_abort_resets_and_reports() {
        let rst = Some(Control::Rst);
        for error in [SockError::NoBufs, SockError::NoMem] {
            let mut connection = Connection::accepted();
            assert_eq!(connection.abort(error), reset(Some(error), rst));
            assert!(connection.abort(error).is_empty());
            assert_eq!(closing().abort(error), reset(None, rst));
            assert!(draining().abort(error).is_empty());
        }
    }

    #[test]
    fn c2_reset_reply_for_everything_but_rst() {
        let here = Address { cid: 3, port: 9 };
        let there = Address { cid: 2, port: 8 };
        for op in 0..9 {
            let mut header = Header::new(there, here, SocketType::Stream, Op::Rw);
            header.op = op;
            header.ty = 99;
            let reply = reset_reply(&header);
            assert_eq!(reply.is_none(), op == 3);
            assert!(reply.is_none_or(|reply| {
                reply.src() == Ok(here)
                    && reply.dst() == Ok(there)
                    && reply.ty == 99
                    && reply.operation() == Ok(Op::Rst)
            }));
            // What has no address cannot be answered.
            header.src_cid |= 1 << 32;
            assert!(reset_reply(&header).is_none());
        }
    }
}
