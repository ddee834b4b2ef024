// SPDX-License-Identifier: GPL-2.0

//! Our end of a connection: its state, its credit, what is unread, and what is due when.
//!
//! Whoever has an [`Endpoint`] tells it of everything that happens, and carries out the [`Actions`] that it
//! answers with, in the order of their fields:
//!
//! ```text
//!   a packet:  on_packet() -- deliver? store the payload -- on_stored() -- carry out
//!   the user:  retry(), connect(), give_up() · reserve(), on_wait_to_write()
//!              on_wait_to_read(), on_read() · shutdown(), close(), wait_for_close()
//!              set_buf_alloc()
//!   time:      on_timeout(), at deadline()
//!   sending:   may_send_control(), advertise() · on_unsent(), catch_up()
//!   the host:  transport_reset(), device_leaving()
//! ```
//!
//! It runs under the caller's lock, which may be released before the actions are carried out. It has no clock:
//! time is an argument. What the payload lies in is the caller's: here it is a number of bytes and messages.

mod sending;
mod timing;

pub use self::sending::SendError;
pub use self::timing::{
    Retry,
    Time, //
};
use super::{
    Actions,
    Advertised,
    Connection,
    Control,
    Credit,
    SockError,
    State, //
};
use crate::wire::{
    Header,
    Op,
    SeqFlags,
    ShutdownFlags,
    SocketType, //
};

/// Our end of a connection.
///
/// # Invariants
///
/// - `credit.rx.unread()` is the number of payload bytes that are stored, between the calls that
///   [`Actions::deliver`] asks for, and until [`Actions::drop_unread`] says that nobody will read them.
/// - `messages` is the number of messages of which the last part is stored; zero in a stream.
/// - `closing` is `None` but in [`State::Closing`] and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    ty: SocketType,
    state: Connection,
    credit: Credit,
    /// How many bytes the reader waits for, `SO_RCVLOWAT`.
    lowat: u32,
    /// How many whole messages are unread.
    messages: u32,
    /// When the last REQUEST was sent.
    requested: Option<Time>,
    /// When connect() last gave up.
    given_up: Option<Time>,
    /// Since when the peer is waited for, to answer our SHUTDOWN.
    closing: Option<Time>,
    /// When the writer without room is to be looked after again; soon, if it is not known.
    look_at: Option<Time>,
    /// There was no memory for this: the last word, as it says all that those before it did.
    owed: Option<Control>,
    /// There was no memory for a credit update.
    update_owed: bool,
}

impl Endpoint {
    /// The end of a new socket of type `ty`, not connected to anything, with a buffer of `buf_alloc` bytes.
    pub const fn new(ty: SocketType, buf_alloc: u32) -> Self {
        // INVARIANT: nothing is stored.
        Self {
            ty,
            state: Connection::new(),
            credit: Credit::new(buf_alloc),
            lowat: 1,
            messages: 0,
            requested: None,
            given_up: None,
            closing: None,
            look_at: None,
            owed: None,
            update_owed: false,
        }
    }

    /// Takes the part of a new socket that was connected to (C3): the peer sent `request`, and RESPONSE is the
    /// caller's to send.
    pub fn accept(&mut self, request: &Header) {
        self.state = Connection::accepted();
        let _ = self.credit.update(request);
    }

    /// The type of the socket.
    pub const fn socket_type(&self) -> SocketType {
        self.ty
    }

    /// Where the connection stands.
    pub const fn state(&self) -> State {
        self.state.state()
    }

    /// Whether connect() has given up what it began, and is to hear of nothing.
    pub const fn is_abandoned(&self) -> bool {
        self.state.is_abandoned()
    }

    /// What the peer will not do any more.
    pub const fn peer_shutdown(&self) -> ShutdownFlags {
        self.state.peer_shutdown()
    }

    /// What our side has shut down.
    pub const fn local_shutdown(&self) -> ShutdownFlags {
        self.state.local_shutdown()
    }

    /// The size of our buffer in bytes.
    pub const fn buf_alloc(&self) -> u32 {
        self.credit.rx.buf_alloc()
    }

    /// Who may send how much.
    pub const fn credit(&self) -> &Credit {
        &self.credit
    }

    /// How many bytes the reader waits for.
    pub const fn lowat(&self) -> u32 {
        self.lowat
    }

    /// How many bytes are stored and unread.
    pub const fn unread(&self) -> u32 {
        self.credit.rx.unread()
    }

    /// How many bytes there are to read: none if they came to a connect() that gave up.
    pub const fn readable(&self) -> u32 {
        if self.is_abandoned() {
            return 0;
        }
        self.unread()
    }

    /// How many whole messages there are to read (S3).
    pub const fn messages(&self) -> u32 {
        if self.is_abandoned() {
            return 0;
        }
        self.messages
    }

    /// Whether the socket is to look connected though the connection is over: there is something to read, or
    /// connect() may not have woken yet.
    ///
    /// A connection that came and went before it wakes was made all the same. Up to Linux 7.2, connect() takes
    /// one that looks over for one that failed if a signal came too, or its time is over. One who only polls to
    /// write, without credit, must see the end.
    pub fn looks_connected(&self) -> bool {
        let may_be_unseen = self.requested.is_some()
            && self.credit.is_unused()
            && self.local_shutdown().is_empty()
            && self.free() > 0;
        self.unread() > 0 || may_be_unseen
    }

    /// Whether a reader who waits for `target` bytes has them, or as many as can come (K6).
    pub fn is_readable(&self, target: u32) -> bool {
        let readable = self.readable();
        readable > 0 && readable >= self.credit.rx.reachable(target)
    }

    /// A packet has come from the peer. `damaged`: bytes of it were lost on the way (M2).
    ///
    /// With [`Actions::deliver`] its payload counts as unread: store it, and have
    /// [`Endpoint::on_stored`] complete the actions.
    pub fn on_packet(&mut self, header: &Header, op: Op, damaged: bool) -> Actions {
        self.decide(|this| {
            if damaged {
                return this.state.abort(SockError::ConnReset);
            }
            let had_room = this.free() > 0;
            // A peer that has just told of another buffer may stall earlier than was thought, and stop us
            // later.
            let changed = this.credit.update(header);
            let has_room = this.free() > 0;
            let mut actions = this.state.packet(op, header.flags, this.unread() > 0);
            if actions.deliver || actions.discard {
                if this.credit.rx.receive(header.len).is_err() {
                    return this.state.abort(SockError::NoBufs);
                }
                if actions.discard {
                    this.credit.rx.consume(header.len);
                    // Not every host forwards our SHUTDOWN: its program is not to stall.
                    actions.update = this.is_reader_short();
                }
            }
            if actions.send == Some(Control::CreditUpdate) {
                actions.send = None;
                actions.update = true;
            }
            // While connecting, the peer was not told of a new buffer, nor asked for what the reader waits for.
            if changed || actions.established {
                // Whether a message is stuck is to be seen once this part of it is stored.
                actions.update |= if actions.deliver {
                    this.is_reader_short()
                } else {
                    this.is_update_due()
                };
                actions.wake_reader = this.has_enough_for_reader();
                if !has_room {
                    actions.ask = this.asks();
                    actions.start_timer = this.is_writer_stuck();
                }
            }
            actions.wake_writer = has_room && !had_room;
            actions
        })
    }

    /// The payload of `header`'s packet was stored, or could not be, as [`Actions::deliver`] asked for: returns
    /// what is to be done instead of `actions`.
    pub fn on_stored(
        &mut self,
        header: &Header,
        actions: Actions,
        result: Result<(), SockError>,
    ) -> Actions {
        self.decide(|this| {
            if let Err(error) = result {
                // What is lost must not count as there to be read: a reader would look for it for ever.
                this.credit.rx.consume(header.len);
                return this.state.abort(error);
            }
            let ends = SeqFlags::from_raw(header.flags).contains(SeqFlags::EOM);
            let wakes = match this.ty {
                SocketType::Seqpacket if ends => {
                    // INVARIANT: the last part of one more message is stored.
                    this.messages = this.messages.saturating_add(1);
                    true
                }
                _ => this.has_enough_for_reader(),
            };
            Actions {
                update: actions.update || this.is_message_stuck(),
                wake_reader: wakes,
                ..actions
            }
        })
    }

    /// The reader has taken `bytes`, and with them the ends of `messages`; he waits for `lowat` bytes next time:
    /// [`Endpoint::lowat`], if that has not changed.
    pub fn on_read(&mut self, bytes: u32, messages: u32, lowat: u32) -> Actions {
        self.decide(|this| {
            // INVARIANT: they are stored no more.
            this.messages = this.messages.saturating_sub(messages);
            if bytes == 0 {
                return Actions::NONE;
            }
            this.credit.rx.consume(bytes);
            this.lowat = lowat;
            let drained = if this.unread() == 0 {
                this.state.drained()
            } else {
                Actions::NONE
            };
            Actions {
                update: this.is_update_due(),
                ..drained
            }
        })
    }

    /// A reader waits for `lowat` bytes, now or in poll(): the peer must be able to send them (K6).
    pub fn on_wait_to_read(&mut self, lowat: u32) -> Actions {
        self.lowat = lowat;
        Actions {
            update: self.is_update_due(),
            ..Actions::NONE
        }
    }

    /// Sets the size of our buffer in bytes, which bounds both directions (K1); the peer is told.
    pub fn set_buf_alloc(&mut self, buf_alloc: u32) -> Actions {
        let (had_room, had_enough) = (self.free() > 0, self.has_enough_for_reader());
        let changed = self.credit.set_buf_alloc(buf_alloc);
        // A writer who waits in poll() does not come by again.
        let asks = self.asks();
        Actions {
            update: changed && self.state() == State::Established,
            ask: asks,
            // Less can come now than he waits for.
            wake_reader: self.has_enough_for_reader() && !had_enough,
            wake_writer: self.free() > 0 && !had_room,
            start_timer: self.is_writer_stuck(),
            ..Actions::NONE
        }
    }

    /// shutdown() was called: our side will not do `how` any more.
    pub fn shutdown(&mut self, how: ShutdownFlags) -> Actions {
        self.state.shutdown(how)
    }

    /// The socket is released: nobody will read what is unread. In [`State::Closing`] afterwards it must live
    /// on until [`Actions::done`]; in any other state it can go.
    ///
    /// `unseen`: it is the [first call](Endpoint::is_first_call) of connect() that is given up, and the device
    /// has not seen its REQUEST, and will not.
    pub fn close(&mut self, unseen: bool) -> Actions {
        self.decide(|this| {
            let mut actions = this.state.close();
            if unseen {
                actions.send = None;
            }
            actions.drop_unread = true;
            actions
        })
    }

    /// Ends the connection, since bytes were lost or would be: the peer is told (K3, M2).
    pub fn abort(&mut self, error: SockError) -> Actions {
        self.decide(|this| this.state.abort(error))
    }

    /// The host has lost its connections, or the device is gone: there is nobody to tell (C5, C7).
    pub fn transport_reset(&mut self) -> Actions {
        self.decide(|this| this.state.transport_reset())
    }

    /// The device goes away in order: the peer is told while it can be (C7).
    pub fn device_leaving(&mut self) -> Actions {
        self.decide(|this| this.state.device_leaving())
    }

    /// Has the state machine decide. What connect() does not want to hear of, nobody hears of; and if it ends,
    /// nobody will read what it brought.
    fn decide(&mut self, decision: impl FnOnce(&mut Self) -> Actions) -> Actions {
        let was_abandoned = self.is_abandoned();
        let mut actions = decision(self);
        if was_abandoned {
            actions.silent = true;
            if self.state() == State::Closed {
                // INVARIANT: it is dropped. It counts as read, or a later use of the socket would look for it.
                self.credit.rx.consume(u32::MAX);
                self.messages = 0;
                actions.drop_unread = true;
            }
        }
        actions
    }

    /// Whether the peer is to be told of room (K4, K6).
    fn is_update_due(&self) -> bool {
        self.is_reader_short() || self.is_message_stuck()
    }

    /// Whether the peer is about to stall, or cannot send what the reader waits for (K4, K6).
    fn is_reader_short(&self) -> bool {
        self.state() == State::Established && self.credit.rx.update_due(self.lowat)
    }

    /// Whether the peer cannot end the message that it has begun without being told of room (K4).
    fn is_message_stuck(&self) -> bool {
        self.ty == SocketType::Seqpacket
            && self.state() == State::Established
            && self.messages == 0
            && self.credit.rx.update_due(self.unread().saturating_add(1))
    }

    /// Whether a reader of a stream has what he waits for, or all that can come (K6). Messages he hears of one
    /// by one (S3).
    fn has_enough_for_reader(&self) -> bool {
        self.ty == SocketType::Stream
            && self.unread() > 0
            && self.unread() >= self.credit.rx.reachable(self.lowat)
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_endpoint))]
mod tests {
    use super::*;

    const KIB: u32 = 1024;

    /// A packet of a peer with a buffer of `buf_alloc` bytes.
    fn packet(op: Op, len: u32, flags: u32, buf_alloc: u32) -> Header {
        Header {
            len,
            op: op.into(),
            flags,
            buf_alloc,
            ..Header::default()
        }
    }

    /// An end that is connected to a peer with a buffer of 256 KiB, which knows of ours of `size` bytes.
    fn established(ty: SocketType, size: u32) -> Endpoint {
        let mut end = Endpoint::new(ty, size);
        end.accept(&packet(Op::Request, 0, 0, 256 * KIB));
        let _ = end.advertise(false, || false);
        end
    }

    fn stream(size: u32) -> Endpoint {
        established(SocketType::Stream, size)
    }

    fn hears(end: &mut Endpoint, op: Op, len: u32, flags: u32) -> Actions {
        end.on_packet(&packet(op, len, flags, 256 * KIB), op, false)
    }

    /// A packet with payload comes and is stored.
    fn receives(end: &mut Endpoint, len: u32, flags: u32) -> Actions {
        let header = packet(Op::Rw, len, flags, 256 * KIB);
        let actions = end.on_packet(&header, Op::Rw, false);
        assert!(actions.deliver);
        end.on_stored(&header, actions, Ok(()))
    }

    #[test]
    fn k3_more_than_the_peer_may_send_ends_the_connection() {
        let mut end = stream(100);
        let _ = receives(&mut end, 100, 0);
        let actions = hears(&mut end, Op::Rw, 1, 0);
        assert!(!actions.deliver && actions.done);
        assert_eq!(actions.error, Some(SockError::NoBufs));
        assert_eq!(actions.send, Some(Control::Rst));
        assert_eq!(end.unread(), 100);
        // Once only.
        let actions = hears(&mut end, Op::Rw, 1, 0);
        assert!(!actions.done && actions.error.is_none() && actions.reply_rst);
    }

    #[test]
    fn m2_what_is_damaged_ends_the_connection() {
        let mut end = stream(100);
        let header = packet(Op::Rw, 10, 0, 256 * KIB);
        let actions = end.on_packet(&header, Op::Rw, true);
        assert!(!actions.deliver);
        assert_eq!(actions.error, Some(SockError::ConnReset));
        assert_eq!(actions.send, Some(Control::Rst));
    }

    #[test]
    fn k3_what_could_not_be_stored_is_not_there_to_be_read() {
        let mut end = stream(100);
        let header = packet(Op::Rw, 10, 0, 256 * KIB);
        let actions = end.on_packet(&header, Op::Rw, false);
        let actions = end.on_stored(&header, actions, Err(SockError::NoMem));
        assert_eq!(actions.error, Some(SockError::NoMem));
        assert_eq!(actions.send, Some(Control::Rst));
        assert!(!actions.deliver && !actions.wake_reader);
        assert_eq!(end.unread(), 0);
        assert!(!end.is_readable(1));
    }

    #[test]
    fn k2_what_nobody_will_read_counts_as_read() {
        let mut end = stream(100);
        let _ = end.shutdown(ShutdownFlags::RCV);
        let actions = hears(&mut end, Op::Rw, 60, 0);
        assert!(actions.discard && !actions.deliver);
        assert_eq!(end.unread(), 0);
        let told = end.advertise(false, || false);
        assert_eq!(told.map(|told| told.fwd_cnt), Some(60));
        // A peer that goes on does not stall.
        assert!(!hears(&mut end, Op::Rw, 50, 0).update);
        assert!(hears(&mut end, Op::Rw, 1, 0).update);
    }

    #[test]
    fn k6_a_reader_is_woken_by_what_he_waits_for() {
        let mut end = stream(1000);
        let _ = end.on_wait_to_read(100);
        assert!(!receives(&mut end, 99, 0).wake_reader);
        assert!(!end.is_readable(100));
        assert!(receives(&mut end, 1, 0).wake_reader);
        assert!(end.is_readable(100));
        // He reads, and waits for the same.
        let _ = end.on_read(50, 0, end.lowat());
        assert!(!receives(&mut end, 49, 0).wake_reader);
        assert!(receives(&mut end, 1, 0).wake_reader);
    }

    #[test]
    fn k6_a_reader_is_woken_by_all_that_can_come() {
        let mut end = stream(100);
        let _ = end.on_wait_to_read(u32::MAX);
        assert!(!receives(&mut end, 99, 0).wake_reader);
        assert!(receives(&mut end, 1, 0).wake_reader);
        assert!(end.is_readable(u32::MAX));
        // The peer says that no more than what is there can come.
        let mut end = stream(100);
        let _ = end.on_wait_to_read(90);
        assert!(!receives(&mut end, 50, 0).wake_reader);
        let header = packet(Op::CreditUpdate, 0, 0, 50);
        let actions = end.on_packet(&header, Op::CreditUpdate, false);
        assert!(actions.wake_reader && !actions.update);
        // Or we do.
        let mut end = stream(100);
        let _ = end.on_wait_to_read(90);
        let _ = receives(&mut end, 50, 0);
        assert!(!end.set_buf_alloc(51).wake_reader);
        assert!(end.set_buf_alloc(50).wake_reader);
        assert!(!end.set_buf_alloc(40).wake_reader);
    }

    #[test]
    fn k6_room_is_told_to_a_reader_who_waits_for_it() {
        let mut end = stream(256 * KIB);
        let _ = receives(&mut end, 190 * KIB, 0);
        // The peer has 66 KiB left, which is no reason, but the reader waits for more.
        assert!(!end.on_read(190 * KIB, 0, 1).update);
        assert!(!end.on_wait_to_read(66 * KIB).update);
        assert!(end.on_wait_to_read(67 * KIB).update);
        assert!(end.on_read(0, 0, 1).is_empty());
        let _ = end.advertise(false, || false);
        assert!(!end.on_wait_to_read(67 * KIB).update);
    }

    #[test]
    fn k4_an_update_when_reading_makes_it_due() {
        let mut end = stream(100);
        let _ = receives(&mut end, 100, 0);
        assert!(!end.on_read(49, 0, 1).update);
        assert!(end.on_read(1, 0, 1).update);
        // The one that was told is due no more.
        let _ = end.advertise(false, || false);
        assert!(!end.on_read(1, 0, 1).update);
    }

    #[test]
    fn k4_an_update_when_the_peers_new_buffer_makes_it_due() {
        let mut end = stream(100);
        let _ = receives(&mut end, 40, 0);
        assert!(!end.on_read(40, 0, 1).update);
        let header = packet(Op::CreditUpdate, 0, 0, 50);
        assert!(end.on_packet(&header, Op::CreditUpdate, false).update);
        // With payload, too, which the reader has not yet.
        let mut end = stream(100);
        let _ = receives(&mut end, 40, 0);
        let _ = end.on_read(40, 0, 1);
        let header = packet(Op::Rw, 1, 0, 50);
        let actions = end.on_packet(&header, Op::Rw, false);
        assert!(end.on_stored(&header, actions, Ok(())).update);
    }

    #[test]
    fn k4_a_question_is_answered_by_one_update() {
        let mut end = stream(100);
        let actions = hears(&mut end, Op::CreditRequest, 0, 0);
        assert_eq!(
            actions,
            Actions {
                update: true,
                ..Actions::NONE
            }
        );
        let mut packets = actions.packets();
        assert_eq!(packets.next(), Some(Control::CreditUpdate));
        assert_eq!(packets.next(), None);
    }

    #[test]
    fn s3_a_reader_is_woken_by_a_whole_message() {
        let mut end = established(SocketType::Seqpacket, 1000);
        assert!(!receives(&mut end, 100, 0).wake_reader);
        assert_eq!(end.messages(), 0);
        assert!(receives(&mut end, 100, 1).wake_reader);
        assert_eq!((end.messages(), end.readable()), (1, 200));
        // An empty one is one.
        assert!(receives(&mut end, 0, 3).wake_reader);
        assert_eq!(end.messages(), 2);
        let _ = end.on_read(200, 1, 1);
        let _ = end.on_read(0, 1, 1);
        assert_eq!((end.messages(), end.unread()), (0, 0));
    }

    #[test]
    fn k4_the_peer_can_end_a_message_that_it_has_begun() {
        let mut end = established(SocketType::Seqpacket, 100);
        let _ = receives(&mut end, 30, 1);
        let _ = receives(&mut end, 60, 0);
        assert!(!end.on_read(30, 1, 1).update);
        // Now the peer has nothing left, and the reader nothing to read.
        assert!(receives(&mut end, 10, 0).update);
        let _ = end.advertise(false, || false);
        assert!(!receives(&mut end, 30, 1).update);
        // As long as there is a message to read, that makes room.
        let mut end = established(SocketType::Seqpacket, 100);
        let _ = receives(&mut end, 20, 1);
        let _ = receives(&mut end, 20, 1);
        let _ = receives(&mut end, 60, 0);
        assert!(!end.on_read(20, 1, 1).update);
        assert!(end.on_read(20, 1, 1).update);
        // Its own buffer may be what stops it.
        let mut end = established(SocketType::Seqpacket, 100);
        let _ = receives(&mut end, 20, 1);
        let _ = end.on_read(20, 1, 1);
        let _ = receives(&mut end, 30, 0);
        let header = packet(Op::CreditUpdate, 0, 0, 50);
        assert!(end.on_packet(&header, Op::CreditUpdate, false).update);
    }

    #[test]
    fn c4_the_peer_is_answered_when_the_last_byte_is_read() {
        let mut end = stream(100);
        let _ = receives(&mut end, 10, 0);
        let actions = hears(&mut end, Op::Shutdown, 0, 3);
        assert!(actions.peer_shutdown_changed && actions.send.is_none());
        assert!(end.on_read(9, 0, 1).is_empty());
        let actions = end.on_read(1, 0, 1);
        assert_eq!(actions.send, Some(Control::Rst));
        assert!(actions.done);
    }

    #[test]
    fn c7_the_device_leaves_and_the_peer_is_told_unless_it_was() {
        let mut end = stream(100);
        let actions = end.device_leaving();
        assert_eq!(actions.send, Some(Control::Rst));
        assert_eq!(actions.error, Some(SockError::ConnReset));
        let mut end = stream(100);
        let _ = end.close(false);
        let actions = end.device_leaving();
        assert!(actions.send.is_none() && actions.done);
        let mut end = stream(100);
        let actions = end.transport_reset();
        assert!(actions.send.is_none() && actions.done);
    }

    #[test]
    fn k1_a_new_size_of_our_buffer_is_told_in_any_case() {
        let mut end = stream(100);
        assert!(end.set_buf_alloc(101).update);
        assert!(end.set_buf_alloc(101).is_empty());
        let mut idle = Endpoint::new(SocketType::Stream, 100);
        assert!(!idle.set_buf_alloc(101).update);
        // It is our own bound, too.
        assert_eq!(end.reserve(200), Ok(101));
        assert!(!end.set_buf_alloc(100).wake_writer);
        assert!(end.set_buf_alloc(102).wake_writer);
        assert_eq!(end.free(), 1);
    }
}
