// SPDX-License-Identifier: GPL-2.0

//! What of a connection takes time: connect() that gives up and is called again, a close that nobody
//! answers, and a writer whom the peer leaves without room.

use super::{
    Actions,
    Connection,
    Endpoint,
    State, //
};

/// A time, in milliseconds since some moment, by a clock that only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// So many milliseconds since that moment.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// How many milliseconds it is after `earlier`; zero if it is before.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// So many milliseconds later.
    #[must_use]
    pub const fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// What connect() is to do, when there may be something that an earlier call has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Retry {
    /// It goes on with that: carry out what has become of it meanwhile.
    GoOn(Actions),
    /// Nothing is left to go on with: call [`Endpoint::connect`].
    Begin,
    /// It is no good any more: carry this out, at the old addresses, and then begin.
    LetGo(Actions),
}

impl Endpoint {
    /// How long the peer has to answer a SHUTDOWN of both directions, in milliseconds (C4).
    // CAST: lossless; `From` is not const.
    pub const CLOSE_TIMEOUT_MS: u64 = Connection::CLOSE_TIMEOUT_MS as u64;

    /// How long what connect() gave up is kept for the next call, in milliseconds (C8).
    // CAST: lossless; `From` is not const.
    pub const ABANDONED_TIMEOUT_MS: u64 = Connection::ABANDONED_TIMEOUT_MS as u64;

    /// How often a writer without room is looked after, in milliseconds (K6): a little more often than each
    /// second, so that a timer of a second misses no turn.
    pub const LOOK_INTERVAL_MS: u64 = 900;

    /// connect() is called: says whether there is something that an earlier call has begun and given up (C8).
    /// `same`: it is between the same addresses.
    ///
    /// The peer may have accepted it, and then an RST would end what this call is to get: Linux hosts answer
    /// this call's REQUEST by RST as long as their application holds the old socket.
    pub fn retry(&mut self, same: bool, now: Time) -> Retry {
        if !self.state.is_abandoned() {
            return Retry::Begin;
        }
        let connecting = self.state() == State::Connecting;
        if same && connecting && is_stale(self.requested, now) {
            // No answer is to be expected; another REQUEST may get one.
            return Retry::Begin;
        }
        if !same || !self.state.claim() {
            return Retry::LetGo(self.decide(|this| this.state.close()));
        }
        Retry::GoOn(Actions {
            established: !connecting,
            peer_shutdown_changed: !self.peer_shutdown().is_empty(),
            ..Actions::NONE
        })
    }

    /// Starts to connect, from a clean state (C8): the reader waits for `lowat` bytes, and what is stored is
    /// dropped.
    ///
    /// In a state that is none to connect from, which af_vsock excludes, nothing happens.
    pub fn connect(&mut self, now: Time, lowat: u32) -> Actions {
        let actions = self.state.connect();
        if actions.send.is_none() {
            return actions;
        }
        self.credit.reset();
        // INVARIANT: the caller drops what is stored.
        *self = Self {
            state: self.state,
            credit: self.credit,
            lowat,
            requested: Some(now),
            // An earlier REQUEST may still be accepted.
            given_up: self.given_up,
            ..Self::new(self.ty, self.buf_alloc())
        };
        Actions {
            drop_unread: true,
            ..actions
        }
    }

    /// connect() gives up, and is to be told nothing. It may be called again, and the peer's answer may be on its
    /// way: an RST now would end what the next call is about to want.
    pub fn give_up(&mut self, now: Time) -> Actions {
        self.state.cancel();
        self.given_up = Some(now);
        Actions {
            start_timer: self.is_abandoned(),
            ..Actions::NONE
        }
    }

    /// Whether it is connecting, and the device has seen one REQUEST at the most: an earlier one may have been
    /// accepted.
    pub fn is_first_call(&self) -> bool {
        self.state() == State::Connecting && self.given_up.is_none()
    }

    /// The REQUEST of the [first call](Endpoint::is_first_call), which was given up, has been taken back before
    /// the device saw it: nothing will come of it.
    pub fn on_request_withdrawn(&mut self) -> Actions {
        self.decide(|this| match this.state() {
            State::Connecting => this.state.abandoned_timeout(),
            _ => Actions::NONE,
        })
    }

    /// The socket's owner has gone, after [`Actions::start_close_timer`]: from now on the peer has
    /// [`Endpoint::CLOSE_TIMEOUT_MS`] to answer (C4). False if it has answered already.
    pub fn wait_for_close(&mut self, now: Time) -> bool {
        let waits = self.state() == State::Closing && self.closing.is_none();
        if waits {
            self.closing = Some(now);
        }
        waits
    }

    /// When [`Endpoint::on_timeout`] is to be called next, as seen from `now`; `None` if there is no need. It may
    /// as well be called at any other time.
    pub fn deadline(&mut self, now: Time) -> Option<Time> {
        let close = self
            .closing
            .filter(|_| self.state() == State::Closing)
            .map(|since| since.after(Self::CLOSE_TIMEOUT_MS));
        let abandoned = self
            .given_up
            .filter(|_| self.is_abandoned())
            .map(|since| since.after(Self::ABANDONED_TIMEOUT_MS));
        let writer = self.is_writer_stuck().then(|| {
            // One who asks again and again does not put it off.
            *(self.look_at).get_or_insert(now.after(Self::LOOK_INTERVAL_MS))
        });
        [close, abandoned, writer].into_iter().flatten().min()
    }

    /// Ends what takes too long: a close (C4), or what connect() was not called again for (C8); and looks after
    /// a writer without room (K6).
    pub fn on_timeout(&mut self, now: Time) -> Actions {
        let actions = self.decide(|this| {
            if this.closing.is_some_and(|since| is_over(since, now)) {
                return this.state.close_timeout();
            }
            if this.is_abandoned() && is_stale(this.given_up, now) {
                return this.state.abandoned_timeout();
            }
            this.look_after_writer(now)
        });
        Actions {
            start_timer: self.deadline(now).is_some(),
            ..actions
        }
    }

    fn look_after_writer(&mut self, now: Time) -> Actions {
        if !self.is_writer_stuck() {
            return Actions::NONE;
        }
        let next = now.after(Self::LOOK_INTERVAL_MS);
        // The peer was asked a moment ago, or nobody has looked yet: it has its time to answer.
        let at = *self.look_at.get_or_insert(next);
        if at > now {
            return Actions::NONE;
        }
        self.look_at = Some(next);
        let ask = self.credit.tx.look();
        Actions {
            ask,
            wake_writer: self.free() > 0,
            ..Actions::NONE
        }
    }

    /// Whether our own buffer stops a writer, of which the peer does not know.
    pub(super) fn is_writer_stuck(&self) -> bool {
        self.state() == State::Established && self.credit.tx.is_stuck()
    }
}

fn is_over(since: Time, now: Time) -> bool {
    now.since(since) >= Endpoint::CLOSE_TIMEOUT_MS
}

/// What was begun is not good for ever.
fn is_stale(since: Option<Time>, now: Time) -> bool {
    since.is_none_or(|since| now.since(since) >= Endpoint::ABANDONED_TIMEOUT_MS)
}

#[cfg(any(test, CONFIG_KUNIT = "y"))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rvsock_endpoint_timing))]
mod tests {
    use super::*;
    use crate::{
        proto::{
            Control,
            SockError, //
        },
        wire::{
            Header,
            Op,
            ShutdownFlags,
            SocketType, //
        }, //
    };

    const START: Time = Time::from_millis(5000);

    fn at(millis: u64) -> Time {
        START.after(millis)
    }

    fn hears(end: &mut Endpoint, op: Op, len: u32, flags: u32) -> Actions {
        let header = Header {
            len,
            op: op.into(),
            flags,
            buf_alloc: 1000,
            ..Header::default()
        };
        let actions = end.on_packet(&header, op, false);
        if actions.deliver {
            return end.on_stored(&header, actions, Ok(()));
        }
        actions
    }

    /// One that has sent its REQUEST at the start.
    fn connecting() -> Endpoint {
        let mut end = Endpoint::new(SocketType::Stream, 100);
        let actions = end.connect(START, 7);
        assert_eq!(actions.send, Some(Control::Request));
        assert!(end.advertise(false, || false).is_some());
        end
    }

    fn established() -> Endpoint {
        let mut end = connecting();
        assert!(hears(&mut end, Op::Response, 0, 0).established);
        end
    }

    #[test]
    fn c8_what_came_and_went_looks_connected_until_it_is_used() {
        let over = |mut end: Endpoint| {
            assert!(hears(&mut end, Op::Rst, 0, 0).done);
            end.looks_connected()
        };
        assert!(over(established()));
        let mut end = established();
        assert!(hears(&mut end, Op::Shutdown, 0, 3).done && end.looks_connected());
        // What was sent, or read, was seen to be connected before.
        let mut end = established();
        assert_eq!(end.reserve(1), Ok(1));
        assert!(!over(end));
        let mut end = established();
        let _ = hears(&mut end, Op::Rw, 2, 0);
        let _ = end.on_read(1, 0, 1);
        assert!(hears(&mut end, Op::Rst, 0, 0).done && end.looks_connected());
        let _ = end.on_read(1, 0, 1);
        assert!(!end.looks_connected());
        let mut end = established();
        let _ = end.shutdown(ShutdownFlags::RCV);
        assert!(!over(end));
        // One who has no credit, and waits for some, is to see the end.
        let mut end = connecting();
        for op in [Op::Response, Op::Rst] {
            let header = Header {
                op: op.into(),
                ..Header::default()
            };
            let _ = end.on_packet(&header, op, false);
        }
        assert_eq!(end.state(), State::Closed);
        assert!(!end.looks_connected());
        // Nobody connects who was accepted.
        let mut end = Endpoint::new(SocketType::Stream, 100);
        end.accept(&Header {
            op: Op::Request.into(),
            buf_alloc: 1000,
            ..Header::default()
        });
        assert!(!over(end));
    }

    #[test]
    fn k6_what_changes_while_connecting_is_told_afterwards() {
        let mut end = connecting();
        // Some hosts ask for credit before they answer.
        assert!(!hears(&mut end, Op::CreditRequest, 0, 0).update);
        assert!(!end.set_buf_alloc(1000).update);
        assert!(!end.on_wait_to_read(500).update);
        assert!(hears(&mut end, Op::Response, 0, 0).update);
    }

    #[test]
    fn c8_connect_starts_clean() {
        let mut end = established();
        let _ = hears(&mut end, Op::Rw, 10, 0);
        assert_eq!(end.reserve(5), Ok(5));
        let _ = end.on_unsent(Control::CreditUpdate);
        let _ = end.on_unsent(Control::Rst);
        let _ = hears(&mut end, Op::Rst, 0, 0);
        let _ = end.on_read(10, 0, 1);
        assert_eq!(end.state(), State::Closed);
        assert_eq!(end.retry(true, START), Retry::Begin);
        let actions = end.connect(START, 7);
        assert_eq!(actions.send, Some(Control::Request));
        assert!(actions.drop_unread);
        let mut fresh = Endpoint::new(SocketType::Stream, 100);
        let _ = fresh.connect(START, 7);
        assert_eq!(end, fresh);
    }

    #[test]
    fn k6_connect_knows_what_the_reader_waits_for() {
        let mut end = established();
        assert!(!hears(&mut end, Op::Rw, 6, 0).wake_reader);
        assert!(hears(&mut end, Op::Rw, 1, 0).wake_reader);
    }

    #[test]
    fn c8_while_connecting_only_two_packets_decide() {
        for (op, lost) in [
            (Op::CreditUpdate, false),
            (Op::CreditRequest, false),
            (Op::Rw, true),
            (Op::Shutdown, true),
        ] {
            let mut end = connecting();
            let actions = hears(&mut end, op, 0, 3);
            assert!(!actions.done && actions.send.is_none() && !actions.update);
            assert_eq!(end.state(), State::Connecting);
            let actions = hears(&mut end, Op::Response, 0, 0);
            assert_eq!(actions.established, !lost);
            assert_eq!(actions.error, lost.then_some(SockError::Proto));
        }
    }

    #[test]
    fn c8_the_next_call_gets_what_the_peer_has_accepted() {
        let mut end = connecting();
        assert!(end.give_up(at(10)).start_timer);
        let actions = hears(&mut end, Op::Response, 0, 0);
        assert!(actions.established && actions.silent);
        // What comes meanwhile is not to be read yet.
        let _ = hears(&mut end, Op::Rw, 10, 0);
        assert_eq!((end.unread(), end.readable()), (10, 0));
        assert!(!end.is_readable(1));
        let expected = Actions {
            established: true,
            ..Actions::NONE
        };
        assert_eq!(end.retry(true, at(900)), Retry::GoOn(expected));
        assert_eq!(end.readable(), 10);
        assert_eq!(end.deadline(at(900)), None);
        assert!(!hears(&mut end, Op::Rw, 1, 0).silent);
    }

    #[test]
    fn c8_the_next_call_waits_for_an_answer_that_may_come() {
        let mut end = connecting();
        let _ = end.give_up(at(10));
        let mut early = end;
        assert_eq!(early.retry(true, at(999)), Retry::GoOn(Actions::NONE));
        assert!(hears(&mut early, Op::Response, 0, 0).established);
        // The REQUEST is too old: another one may be answered.
        assert_eq!(end.retry(true, at(1000)), Retry::Begin);
        let actions = end.connect(at(1000), 1);
        assert_eq!(actions.send, Some(Control::Request));
        assert!(!end.is_abandoned());
        // The second call gives up, and the third still waits for the second REQUEST.
        let _ = end.give_up(at(1500));
        assert!(matches!(end.retry(true, at(1999)), Retry::GoOn(_)));
    }

    #[test]
    fn c8_what_was_begun_for_another_peer_is_let_go() {
        let mut end = established();
        let _ = end.give_up(at(10));
        let retry = end.retry(false, at(20));
        assert!(matches!(
            retry,
            Retry::LetGo(Actions {
                send: Some(Control::Rst),
                silent: true,
                unlink: true,
                ..
            })
        ));
        assert_eq!(end.state(), State::Closed);
    }

    #[test]
    fn c8_what_is_over_is_nothing_to_go_on_with() {
        let mut end = established();
        let _ = hears(&mut end, Op::Rw, 10, 0);
        let _ = end.give_up(at(10));
        let actions = hears(&mut end, Op::Rst, 0, 0);
        // Nobody is told, and nobody looks for what it brought.
        assert!(actions.silent && actions.drop_unread && actions.done);
        assert_eq!((end.state(), end.unread()), (State::Closed, 0));
        assert_eq!(end.retry(true, at(20)), Retry::Begin);
    }

    #[test]
    fn c8_nobody_comes_back_in_time() {
        let mut end = established();
        let _ = hears(&mut end, Op::Rw, 10, 0);
        let _ = end.give_up(at(10));
        assert_eq!(end.deadline(at(10)), Some(at(1010)));
        let actions = end.on_timeout(at(1009));
        assert!(!actions.done && actions.start_timer);
        let actions = end.on_timeout(at(1010));
        assert_eq!(actions.send, Some(Control::Rst));
        assert!(actions.silent && actions.drop_unread && actions.done && !actions.start_timer);
        assert_eq!((end.unread(), end.state()), (0, State::Closed));
        // One that has no answer yet ends without a word: a RESPONSE is answered by RST.
        let mut end = connecting();
        let _ = end.give_up(at(10));
        assert!(end.on_timeout(at(1010)).send.is_none());
        assert!(hears(&mut end, Op::Response, 0, 0).reply_rst);
    }

    #[test]
    fn c8_a_request_that_nobody_has_seen_comes_to_nothing() {
        let mut end = connecting();
        assert!(end.is_first_call());
        let _ = end.give_up(at(10));
        // Of two, the first may have been seen.
        assert!(!end.is_first_call());
        let mut back = end;
        assert!(matches!(back.retry(true, at(20)), Retry::GoOn(_)));
        assert!(back.on_request_withdrawn().is_empty());
        let actions = end.on_request_withdrawn();
        assert!(actions.done && actions.silent && actions.send.is_none());
        assert_eq!(end.state(), State::Closed);
        let _ = end.connect(at(30), 1);
        assert!(!end.is_first_call());
        // A socket that is released meanwhile has nothing to tell the peer either.
        let mut end = connecting();
        assert!(end.close(true).send.is_none());
        let mut end = connecting();
        assert_eq!(end.close(false).send, Some(Control::Rst));
    }

    #[test]
    fn c4_a_close_that_nobody_answers_ends() {
        let mut end = established();
        assert!(!end.wait_for_close(START));
        let actions = end.close(false);
        assert!(actions.start_close_timer && actions.drop_unread);
        // While the owner lingers, no time runs.
        assert_eq!(end.deadline(START), None);
        assert!(end.on_timeout(at(60_000)).is_empty());
        assert!(end.wait_for_close(at(60_000)));
        assert_eq!(end.deadline(at(60_000)), Some(at(68_000)));
        let actions = end.on_timeout(at(67_999));
        assert!(actions.start_timer && !actions.done);
        let actions = end.on_timeout(at(68_000));
        assert_eq!(actions.send, Some(Control::Rst));
        assert!(actions.done && !actions.start_timer);
        // The peer may answer before.
        let mut end = established();
        let _ = end.close(false);
        assert!(hears(&mut end, Op::Rst, 0, 0).done);
        assert!(!end.wait_for_close(START));
        assert_eq!(end.deadline(START), None);
    }

    #[test]
    fn k6_a_writer_is_looked_after_until_there_is_room() {
        let mut end = established();
        assert_eq!(end.reserve(100), Ok(100));
        assert!(end.on_wait_to_write().ask);
        assert_eq!(end.deadline(START), Some(at(900)));
        // Who polls does not put it off.
        assert!(end.on_wait_to_write().start_timer);
        assert_eq!(end.deadline(at(500)), Some(at(900)));
        // Nothing has come: it is asked again, and not before another second.
        let actions = end.on_timeout(at(900));
        assert!(actions.ask && actions.start_timer && !actions.wake_writer);
        assert_eq!(end.deadline(at(901)), Some(at(1800)));
        assert!(!end.on_timeout(at(1799)).wake_writer);
        // It knows no such question: its own buffer alone is the bound.
        let actions = end.on_timeout(at(1800));
        assert!(actions.wake_writer && !actions.ask && !actions.start_timer);
        assert_eq!(end.free(), 900);
    }

    #[test]
    fn k6_a_peer_that_answers_is_asked_again_each_second() {
        let mut end = established();
        assert_eq!(end.reserve(100), Ok(100));
        assert!(end.on_wait_to_write().ask);
        assert_eq!(end.deadline(at(0)), Some(at(900)));
        for second in 1..6 {
            let _ = hears(&mut end, Op::CreditUpdate, 0, 0);
            assert!(end.on_timeout(at(second * 1000)).ask);
            assert_eq!(end.free(), 0);
        }
    }

    #[test]
    fn k6_a_peer_that_was_just_asked_has_a_second_to_answer() {
        let mut end = established();
        assert_eq!(end.reserve(100), Ok(100));
        assert!(end.on_wait_to_write().ask);
        // The timer fires for another reason.
        for ms in [0, 5, 899] {
            assert!(!end.on_timeout(at(ms)).ask);
        }
        assert!(end.on_timeout(at(905)).ask);
    }
}
