// SPDX-License-Identifier: GPL-2.0

//! The state machine as a property: any events in any order. Two of them that talk to each other are endpoints.

mod config;

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
