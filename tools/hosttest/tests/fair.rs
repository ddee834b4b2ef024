// SPDX-License-Identifier: GPL-2.0

//! Whoever sends what, connections take turns, and no packet overtakes one of its own connection (K8).

mod config;

use std::collections::VecDeque;

use proptest::prelude::*;
use rvsock_hosttest::proto::{cost, Fair, Place, Share};

/// The greatest packet.
const PACKET: usize = 32 * 1024;
/// What a turn is at most: a quantum, and the packet that ends it.
const TURN: usize = 128 * 1024 + cost(PACKET);

#[derive(Clone, Debug)]
enum Step {
    /// A connection sends packets of so many bytes.
    Send(usize, usize, usize),
    /// The device takes so many packets.
    Take(usize),
}

fn step(flows: usize) -> impl Strategy<Value = Step> {
    let len = prop_oneof![1..200usize, 1..PACKET, Just(PACKET)];
    prop_oneof![
        2 => (0..flows, len, 1..20usize).prop_map(|(flow, len, count)| Step::Send(flow, len, count)),
        3 => (1..10usize).prop_map(Step::Take),
    ]
}

#[derive(Clone, Debug)]
struct Packet {
    flow: usize,
    number: usize,
    len: usize,
    place: Option<Place>,
}

#[derive(Default)]
struct Flow {
    share: Share,
    /// A packet of it is in one of the lists.
    listed: bool,
    rest: VecDeque<Packet>,
    sent: usize,
    /// Packets that wait, or that the device has.
    ahead: usize,
    taken: usize,
    /// What went to the device by others' turns since this one's packet came to wait, or went.
    passed: usize,
    /// How many flows have waited for turns at once since then.
    beside: usize,
}

/// The driver's part around the rule, as `Waiting`, and a device with `room` for packets.
struct Queue {
    fair: Fair,
    room: usize,
    flows: Vec<Flow>,
    first: VecDeque<Packet>,
    turns: VecDeque<Packet>,
    device: VecDeque<Packet>,
}

impl Queue {
    fn new(flows: usize, room: usize) -> Self {
        Self {
            fair: Fair::new(),
            room,
            flows: (0..flows).map(|_| Flow::default()).collect(),
            first: VecDeque::new(),
            turns: VecDeque::new(),
            device: VecDeque::new(),
        }
    }

    fn send(&mut self, flow: usize, len: usize) {
        let state = &mut self.flows[flow];
        let mut packet = Packet {
            flow,
            number: state.sent,
            len,
            place: None,
        };
        state.sent += 1;
        state.ahead += 1;
        if state.listed {
            state.rest.push_back(packet);
        } else {
            state.listed = true;
            state.share = Share::new();
            (state.passed, state.beside) = (0, 0);
            if state.ahead <= 1 {
                packet.place = Some(Place::First);
                self.first.push_back(packet);
            } else {
                packet.place = Some(Place::Turn);
                self.turns.push_back(packet);
            }
        }
        self.fill();
    }

    fn fill(&mut self) {
        while self.device.len() < self.room {
            let waiting = self.turns.len();
            let Some(place) = self.fair.next(!self.first.is_empty(), self.turns.len()) else {
                break;
            };
            let packet = match place {
                Place::First => self.first.pop_front().unwrap(),
                Place::Turn => loop {
                    let packet = self.turns.pop_front().unwrap();
                    if self.flows[packet.flow].share.may_send() {
                        break packet;
                    }
                    self.turns.push_back(packet);
                },
            };
            let cost = cost(packet.len);
            self.fair.give(cost, packet.flow);
            for other in &self.turns {
                let state = &mut self.flows[other.flow];
                state.beside = state.beside.max(waiting);
                if other.flow != packet.flow && place == Place::Turn {
                    state.passed += cost;
                }
            }
            let state = &mut self.flows[packet.flow];
            assert!(
                state.passed <= state.beside.max(1) * 2 * TURN,
                "{} bytes of others, of {}, in turns before one",
                state.passed,
                state.beside
            );
            (state.passed, state.beside) = (0, 0);
            if place == Place::Turn {
                state.share.spend(cost);
            }
            match state.rest.pop_front() {
                Some(mut next) => {
                    next.place = Some(Place::Turn);
                    match place {
                        Place::First => self.turns.push_back(next),
                        Place::Turn => self.turns.push_front(next),
                    }
                }
                None => state.listed = false,
            }
            self.device.push_back(packet);
        }
    }

    fn take(&mut self) {
        let Some(packet) = self.device.pop_front() else {
            return;
        };
        self.fair.take(cost(packet.len), self.device.len() as u64);
        let state = &mut self.flows[packet.flow];
        assert_eq!(packet.number, state.taken, "overtaken by its own");
        state.taken += 1;
        state.ahead -= 1;
        self.fill();
    }

    fn waits(&self) -> bool {
        !self.first.is_empty() || !self.turns.is_empty()
    }
}

proptest! {
    #![proptest_config(config::cases(2000))]

    #[test]
    fn k8_turns_are_even_and_no_packet_is_lost(
        steps in prop::collection::vec(step(6), 1..120),
        room in 1..40usize,
    ) {
        let mut queue = Queue::new(6, room);
        for step in steps {
            match step {
                Step::Send(flow, len, count) => (0..count).for_each(|_| queue.send(flow, len)),
                Step::Take(count) => (0..count).for_each(|_| queue.take()),
            }
            prop_assert!(!queue.waits() || !queue.device.is_empty(), "an idle device");
        }
        while !queue.device.is_empty() {
            queue.take();
        }
        prop_assert!(!queue.waits());
        for flow in &queue.flows {
            prop_assert!(!flow.listed && flow.rest.is_empty());
            prop_assert_eq!(flow.taken, flow.sent);
        }
    }

    /// Connections that always have more to send get the same, whatever the size of their packets.
    #[test]
    fn k8_shares_are_even(
        lens in prop::collection::vec(prop_oneof![1..300usize, 1..PACKET, Just(PACKET)], 2..8),
    ) {
        let mut queue = Queue::new(lens.len(), 128);
        let mut bytes = vec![0; lens.len()];
        let mut taken = 0;
        while bytes.iter().sum::<usize>() < lens.len() * 20 * TURN {
            for (flow, len) in lens.iter().enumerate() {
                while queue.flows[flow].ahead < 300 {
                    queue.send(flow, *len);
                }
            }
            let packet = queue.device.front().unwrap();
            // Before the others come, the first fills the device's queue.
            if taken >= 128 {
                bytes[packet.flow] += cost(packet.len);
            }
            taken += 1;
            queue.take();
        }
        let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
        prop_assert!(most - least <= 6 * TURN, "{bytes:?}");
    }

    /// A packet whose connection has nothing before it waits for what the device has, and for no turn.
    #[test]
    fn k8_a_lone_packet_waits_for_no_turn(others in 2..40usize, len in 1..PACKET) {
        let mut queue = Queue::new(others + 1, 128);
        for _ in 0..20 {
            (1..=others).for_each(|flow| queue.send(flow, PACKET));
        }
        for _ in 0..10 {
            queue.send(0, len);
            prop_assert_eq!(queue.device.back().map(|p| p.flow), Some(0));
            let before: usize = queue.device.iter().map(|p| p.len).sum();
            let enough = (others * 64).clamp(256, 1024) * 1024;
            prop_assert!(before <= enough + (others + 2) * PACKET, "{before} bytes before it");
            while queue.flows[0].ahead > 0 {
                queue.take();
            }
        }
    }
}
