// SPDX-License-Identifier: GPL-2.0

//! The state machine as a property: any events in any order, and two of them talking to each other.

mod config;

use std::collections::VecDeque;

use proptest::prelude::*;
use rvsock_hosttest::{
    proto::{
        Actions,
        Connection,
        Control,
        SockError,
        State, //
    },
    wire::{
        Op,
        ShutdownFlags, //
    },
};

#[derive(Clone, Copy, Debug)]
enum Event {
    Packet(Op, u32, bool),
    Connect,
    Cancel,
    Claim,
    AbandonedTimeout,
    Shutdown(u32),
    Close,
    CloseTimeout,
    Drained,
    TransportReset,
    DeviceLeaving,
    DeviceGone,
    Abort,
}

fn op() -> impl Strategy<Value = Op> {
    (1..=7u16).prop_map(|raw| Op::try_from(raw).unwrap())
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (op(), prop_oneof![0..4u32, any::<u32>()], any::<bool>())
            .prop_map(|(op, flags, unread)| Event::Packet(op, flags, unread)),
        2 => Just(Event::Connect),
        1 => Just(Event::Cancel),
        2 => Just(Event::Claim),
        1 => Just(Event::AbandonedTimeout),
        2 => (0..5u32).prop_map(Event::Shutdown),
        1 => Just(Event::Close),
        1 => Just(Event::CloseTimeout),
        2 => Just(Event::Drained),
        1 => Just(Event::TransportReset),
        1 => Just(Event::DeviceLeaving),
        1 => Just(Event::DeviceGone),
        1 => Just(Event::Abort),
    ]
}

fn apply(connection: &mut Connection, event: Event) -> Actions {
    match event {
        Event::Packet(op, flags, unread) => connection.packet(op, flags, unread),
        Event::Connect => connection.connect(),
        Event::Cancel => {
            connection.cancel();
            Actions::NONE
        }
        Event::Claim => {
            connection.claim();
            Actions::NONE
        }
        Event::AbandonedTimeout => connection.abandoned_timeout(),
        Event::Shutdown(raw) => connection.shutdown(ShutdownFlags::from_raw(raw)),
        Event::Close => connection.close(),
        Event::CloseTimeout => connection.close_timeout(),
        Event::Drained => connection.drained(),
        Event::TransportReset => connection.transport_reset(),
        Event::DeviceLeaving => connection.device_leaving(),
        Event::DeviceGone => connection.device_gone(),
        Event::Abort => connection.abort(SockError::NoBufs),
    }
}

proptest! {
    #![proptest_config(config::cases(2000))]

    #[test]
    fn any_event_in_any_state(accepted: bool, events in prop::collection::vec(event(), 1..60)) {
        let mut connection = if accepted { Connection::accepted() } else { Connection::new() };
        let (mut done, mut errors, mut established) = (0, 0, 0);
        for event in events {
            let before = connection;
            let actions = apply(&mut connection, event);

            // C2: an RST is never answered by an RST.
            if matches!(event, Event::Packet(Op::Rst, ..)) {
                prop_assert!(!actions.reply_rst);
                prop_assert_eq!(actions.send, None);
            }
            if actions.reply_rst {
                prop_assert!(matches!(event, Event::Packet(..)));
            }
            // Over is over: nothing but RST for a packet, until it is connected again.
            if before.state() == State::Closed && !matches!(event, Event::Connect) {
                prop_assert_eq!(actions, Actions { reply_rst: actions.reply_rst, ..Actions::NONE });
                prop_assert_eq!(connection.state(), State::Closed);
            }
            // C8: a new attempt, from a clean state.
            if actions.send == Some(Control::Request) {
                prop_assert!(matches!(event, Event::Connect));
                let mut fresh = Connection::new();
                let _ = fresh.connect();
                prop_assert_eq!(connection, fresh);
                (done, errors, established) = (0, 0, 0);
            } else {
                // What the peer has shut down stays shut down.
                prop_assert!(connection.peer_shutdown().contains(before.peer_shutdown()));
                prop_assert!(connection.local_shutdown().contains(before.local_shutdown()));
            }
            done += u32::from(actions.done);
            errors += u32::from(actions.error.is_some());
            established += u32::from(actions.established);
            prop_assert!(done <= 1 && errors <= 1 && established <= 1);
            if actions.error.is_some() {
                prop_assert!(actions.done);
            }
            if actions.peer_shutdown_changed {
                prop_assert!(connection.peer_shutdown() != before.peer_shutdown());
            }
            // Who leaves the tables does so when it is done, or to let the port be used again.
            if actions.unlink {
                prop_assert!(actions.done || connection.state() == State::Draining);
            }
            if actions.deliver || actions.discard {
                prop_assert_eq!(before.state(), State::Established);
                prop_assert!(matches!(event, Event::Packet(Op::Rw, ..)));
            }
            prop_assert_eq!(actions.start_close_timer,
                connection.state() == State::Closing && before.state() != State::Closing);
            prop_assert!(!connection.is_abandoned() || matches!(connection.state(),
                State::Connecting | State::Established | State::Draining));
            match connection.state() {
                State::Closed => prop_assert_eq!(done, 1),
                State::Connecting | State::Established | State::Closing => prop_assert_eq!(done, 0),
                State::Idle | State::Draining => {}
            }
        }
        // From anywhere, a closed socket is over once its timer has run.
        let _ = connection.close();
        let _ = connection.close_timeout();
        prop_assert_eq!(connection.state(), State::Closed);
    }
}

/// One end, with the packets that are on their way to it.
struct End {
    connection: Connection,
    inbox: VecDeque<(Op, u32)>,
    unread: u32,
}

impl End {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            inbox: VecDeque::new(),
            unread: 0,
        }
    }
}

/// Two ends; index 0 has connected, index 1 was accepted.
struct Pair([End; 2]);

impl Pair {
    fn carry_out(&mut self, who: usize, actions: Actions) {
        let peer = &mut self.0[1 - who].inbox;
        match actions.send {
            Some(Control::Request) => peer.push_back((Op::Request, 0)),
            Some(Control::Shutdown(flags)) => peer.push_back((Op::Shutdown, flags.as_raw())),
            Some(Control::Rst) => peer.push_back((Op::Rst, 0)),
            Some(Control::CreditUpdate) => peer.push_back((Op::CreditUpdate, 0)),
            Some(Control::CreditRequest) => peer.push_back((Op::CreditRequest, 0)),
            None => {}
        }
        if actions.reply_rst {
            peer.push_back((Op::Rst, 0));
        }
        if actions.deliver {
            self.0[who].unread += 1;
        }
        assert!(!actions.count_bad_op, "two honest ends offend each other");
        assert!(!matches!(actions.error, Some(SockError::Proto)));
    }

    fn deliver(&mut self, who: usize) -> bool {
        let end = &mut self.0[who];
        let Some((op, flags)) = end.inbox.pop_front() else {
            return false;
        };
        let actions = end.connection.packet(op, flags, end.unread > 0);
        self.carry_out(who, actions);
        true
    }

    fn read(&mut self, who: usize) {
        let end = &mut self.0[who];
        if end.unread > 0 {
            end.unread -= 1;
            if end.unread == 0 {
                let actions = end.connection.drained();
                self.carry_out(who, actions);
            }
        }
    }

    fn write(&mut self, who: usize) {
        if self.0[who].connection.may_send() {
            self.0[1 - who].inbox.push_back((Op::Rw, 0));
        }
    }
}

proptest! {
    #![proptest_config(config::cases(2000))]

    #[test]
    fn c4_two_ends_part_without_a_timer(
        steps in prop::collection::vec((0..12u8, 0..2usize, 1..4u32), 0..60),
        first in 0..2usize,
    ) {
        let mut connector = Connection::new();
        let _ = connector.connect();
        let mut pair = Pair([End::new(connector), End::new(Connection::accepted())]);
        pair.0[0].inbox.push_back((Op::Response, 0));
        let mut closed = [false; 2];
        for (what, who, flags) in steps {
            let actions = match what {
                0..=3 => { pair.deliver(who); continue }
                4..=6 if !closed[who] => { pair.write(who); continue }
                7..=8 if !closed[who] => { pair.read(who); continue }
                9 if !closed[who] => pair.0[who].connection.shutdown(ShutdownFlags::from_raw(flags)),
                10 => {
                    pair.0[0].connection.cancel();
                    if flags > 1 {
                        pair.0[0].connection.claim();
                    }
                    continue
                }
                11 if flags == 1 && !closed[who] => {
                    closed[who] = true;
                    pair.0[who].connection.close()
                }
                _ => continue,
            };
            pair.carry_out(who, actions);
        }
        for who in [first, 1 - first] {
            let actions = pair.0[who].connection.close();
            pair.carry_out(who, actions);
        }
        while pair.deliver(0) || pair.deliver(1) {}
        prop_assert_eq!(pair.0[0].connection.state(), State::Closed);
        prop_assert_eq!(pair.0[1].connection.state(), State::Closed);
    }
}
