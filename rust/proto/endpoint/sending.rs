// SPDX-License-Identifier: GPL-2.0

//! What a connection sends: how much payload, which control packets still make sense, what they say of our
//! buffer, and what becomes of them without memory.

use super::{
    Actions,
    Advertised,
    Control,
    Endpoint,
    SocketType,
    State, //
};

/// Why nothing can be sent, now or ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// EPIPE: the connection is over, or one of the two has shut this direction down.
    Over,
    /// EMSGSIZE: the message is longer than what may ever be in flight (S4).
    TooLong,
}

impl Endpoint {
    /// How many bytes may be sent now (K1). A writer who finds none, waiting or polling, calls
    /// [`Endpoint::on_wait_to_write`].
    pub fn free(&self) -> u32 {
        self.credit.tx.free()
    }

    /// A writer finds no room, and waits or polls: a peer that does not know of it is asked (K6).
    pub fn on_wait_to_write(&mut self) -> Actions {
        let asks = self.asks();
        Actions {
            ask: asks,
            start_timer: self.is_writer_stuck(),
            ..Actions::NONE
        }
    }

    /// Takes credit for up to `want` bytes, of one message in a socket of messages, that are about to be sent
    /// (K2). Zero if there is no room now.
    ///
    /// # Errors
    ///
    /// - [`SendError::Over`]: there is no sending any more.
    /// - [`SendError::TooLong`]: a message can never be sent, being longer than the window (S4).
    pub fn reserve(&mut self, want: u32) -> Result<u32, SendError> {
        if !self.state.may_send() {
            return Err(SendError::Over);
        }
        if self.ty == SocketType::Seqpacket && want > self.credit.tx.window() {
            return Err(SendError::TooLong);
        }
        Ok(self.credit.tx.take(want))
    }

    /// Gives back credit for `unsent` bytes of what was reserved.
    pub fn give_back(&mut self, unsent: u32) {
        self.credit.tx.give_back(unsent);
    }

    /// What a packet to the peer says of our buffer; from now on the peer counts as told. None if it may not go
    /// out any more: the connection is over, and its successor between the same addresses would suffer for it.
    ///
    /// `last`: the packet is the RST; then `is_replaced` says whether there is such a successor.
    pub fn advertise(
        &mut self,
        last: bool,
        is_replaced: impl FnOnce() -> bool,
    ) -> Option<Advertised> {
        let live = matches!(
            self.state(),
            State::Connecting | State::Established | State::Closing
        );
        (live || (last && !is_replaced())).then(|| self.credit.rx.advertise())
    }

    /// Whether a control packet makes sense still, as it is about to be made; `is_replaced` as in
    /// [`Endpoint::advertise`]: the peer of a connection that is over could take it for another's.
    pub fn may_send_control(&self, what: Control, is_replaced: impl FnOnce() -> bool) -> bool {
        match what {
            Control::Request => true,
            Control::CreditUpdate | Control::CreditRequest => self.state() == State::Established,
            Control::Shutdown(_) | Control::Rst => !is_replaced(),
        }
    }

    /// There was no memory for a control packet, or no device for a REQUEST or a CREDIT_REQUEST.
    pub fn on_unsent(&mut self, what: Control) -> Actions {
        match what {
            // connect() says so itself.
            Control::Request => Actions {
                silent: true,
                ..self.transport_reset()
            },
            // It is sent again when the writer is looked after.
            Control::CreditRequest => {
                self.credit.tx.could_not_ask();
                Actions::NONE
            }
            Control::CreditUpdate => {
                self.update_owed = true;
                Actions::CATCH_UP_SOON
            }
            Control::Shutdown(_) | Control::Rst => {
                self.owed = Some(what);
                Actions::CATCH_UP_SOON
            }
        }
    }

    /// Takes up again what there was no memory for.
    pub fn catch_up(&mut self) -> Actions {
        let update = core::mem::take(&mut self.update_owed);
        Actions {
            send: self.owed.take(),
            update: update && self.state() == State::Established,
            ..Actions::NONE
        }
    }

    /// Whether a CREDIT_REQUEST is to be sent, which then counts as sent.
    pub(super) fn asks(&mut self) -> bool {
        let asks = self.state() == State::Established && self.credit.tx.ask();
        if asks {
            self.look_at = None;
        }
        asks
    }
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_endpoint_sending))]
mod tests {
    use super::*;
    use crate::{
        proto::Time,
        wire::{
            Header,
            Op,
            ShutdownFlags, //
        }, //
    };

    fn packet(op: Op, buf_alloc: u32, fwd_cnt: u32) -> Header {
        Header {
            op: op.into(),
            buf_alloc,
            fwd_cnt,
            ..Header::default()
        }
    }

    /// An end with a buffer of 100 bytes, connected to a peer with one of `peer` bytes.
    fn established(ty: SocketType, peer: u32) -> Endpoint {
        let mut end = Endpoint::new(ty, 100);
        end.accept(&packet(Op::Request, peer, 0));
        end
    }

    fn update(end: &mut Endpoint, buf_alloc: u32, fwd_cnt: u32) -> Actions {
        let header = packet(Op::CreditUpdate, buf_alloc, fwd_cnt);
        end.on_packet(&header, Op::CreditUpdate, false)
    }

    #[test]
    fn s4_who_may_send_what() {
        let mut end = established(SocketType::Stream, 60);
        assert_eq!(end.reserve(u32::MAX), Ok(60));
        assert_eq!(end.reserve(1), Ok(0));
        end.give_back(10);
        assert_eq!((end.free(), end.reserve(4)), (10, Ok(4)));
        let mut end = established(SocketType::Seqpacket, 1000);
        assert_eq!(end.reserve(101), Err(SendError::TooLong));
        assert_eq!(end.reserve(100), Ok(100));
        let _ = end.shutdown(ShutdownFlags::SEND);
        assert_eq!(end.reserve(101), Err(SendError::Over));
        let mut idle = Endpoint::new(SocketType::Stream, 100);
        assert_eq!(idle.reserve(1), Err(SendError::Over));
    }

    #[test]
    fn k6_a_writer_without_room_has_the_peer_asked() {
        let mut end = established(SocketType::Stream, 1000);
        assert!(end.on_wait_to_write().is_empty());
        assert_eq!(end.reserve(100), Ok(100));
        let actions = end.on_wait_to_write();
        assert!(actions.ask && actions.start_timer);
        let mut packets = actions.packets();
        assert_eq!(packets.next(), Some(Control::CreditRequest));
        assert_eq!(packets.next(), None);
        assert!(!end.on_wait_to_write().ask);
        // Progress is room, and then a new question.
        assert!(update(&mut end, 1000, 1).wake_writer);
        assert_eq!(end.reserve(1), Ok(1));
        assert!(end.on_wait_to_write().ask);
    }

    #[test]
    fn k6_a_peer_that_enlarges_its_buffer_is_asked_at_once() {
        let mut end = established(SocketType::Stream, 100);
        assert_eq!(end.reserve(100), Ok(100));
        assert!(end.on_wait_to_write().is_empty());
        let actions = update(&mut end, 200, 0);
        assert!(actions.ask && actions.start_timer && !actions.wake_writer);
        // It is looked after, also if it has been asked before.
        let _ = update(&mut end, 100, 0);
        let actions = update(&mut end, 200, 0);
        assert!(!actions.ask && actions.start_timer);
    }

    #[test]
    fn k6_a_question_that_was_not_sent_is_asked_again() {
        let mut end = established(SocketType::Stream, 1000);
        assert_eq!(end.reserve(100), Ok(100));
        assert!(end.on_wait_to_write().ask);
        let _ = end.on_unsent(Control::CreditRequest);
        assert!(end.on_wait_to_write().ask);
    }

    #[test]
    fn what_there_was_no_memory_for_is_owed() {
        let mut end = established(SocketType::Stream, 1000);
        assert!(end.catch_up().is_empty());
        assert!(end.on_unsent(Control::CreditUpdate).catch_up_soon);
        let rcv = Control::Shutdown(ShutdownFlags::RCV);
        assert!(end.on_unsent(rcv).catch_up_soon);
        let actions = end.catch_up();
        assert_eq!(actions.send, Some(rcv));
        assert!(actions.update);
        assert!(end.catch_up().is_empty());
        // The last word counts; and of room nobody is told who cannot use it.
        let _ = end.on_unsent(rcv);
        let _ = end.on_unsent(Control::CreditUpdate);
        let rst = end.device_leaving().send;
        assert!(rst.is_some_and(|rst| end.on_unsent(rst).catch_up_soon));
        let actions = end.catch_up();
        assert_eq!(actions.send, Some(Control::Rst));
        assert!(!actions.update);
    }

    #[test]
    fn c8_a_request_that_was_not_sent_ends_in_silence() {
        let mut end = Endpoint::new(SocketType::Stream, 100);
        let request = end.connect(Time::from_millis(0), 1).send;
        assert_eq!(request, Some(Control::Request));
        let actions = end.on_unsent(Control::Request);
        assert!(actions.silent && actions.unlink && actions.done);
        assert!(actions.send.is_none() && !actions.catch_up_soon);
        assert_eq!(end.state(), State::Closed);
    }

    #[test]
    fn c2_what_is_over_says_nothing_to_its_successors_peer() {
        let mut end = established(SocketType::Stream, 1000);
        assert!(end.advertise(false, || true).is_some());
        for what in [Control::CreditUpdate, Control::CreditRequest] {
            assert!(end.may_send_control(what, || true));
        }
        let _ = end.device_leaving();
        // The last packet goes out, and none that was made before; with a successor in its place none at all.
        assert!(end.advertise(true, || false).is_some());
        assert!(end.advertise(false, || false).is_none());
        assert!(end.advertise(true, || true).is_none());
        assert!(end.may_send_control(Control::Rst, || false));
        assert!(!end.may_send_control(Control::Rst, || true));
        let both = Control::Shutdown(ShutdownFlags::BOTH);
        assert!(!end.may_send_control(both, || true));
        for what in [Control::CreditUpdate, Control::CreditRequest] {
            assert!(!end.may_send_control(what, || false));
        }
        assert!(end.may_send_control(Control::Request, || true));
    }
}
