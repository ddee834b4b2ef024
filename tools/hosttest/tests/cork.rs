// SPDX-License-Identifier: GPL-2.0

//! Whatever a user writes and a device takes, no byte is lost or overtaken, and none waits for nothing (K7).

mod config;

use std::collections::VecDeque;

use proptest::prelude::*;
use rvsock_hosttest::proto::{After, Cork};

/// The greatest payload of a packet.
const PACKET: usize = 32 * 1024;

#[derive(Clone, Debug)]
enum Step {
    /// The user writes so many bytes, and may say that more follow.
    Write(usize, bool),
    /// The device takes so many packets.
    Take(usize),
    /// The user looks for an answer.
    Look,
    /// The worker has its turn.
    Work,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 1..200usize, 2 => 200..5000usize, 1 => 5000..100_000usize];
    prop_oneof![
        6 => (len, prop::bool::weighted(0.1)).prop_map(|(len, more)| Step::Write(len, more)),
        3 => (1..4usize).prop_map(Step::Take),
        1 => Just(Step::Look),
        1 => Just(Step::Work),
    ]
}

struct Open {
    bytes: Vec<u8>,
    room: usize,
    more: bool,
}

/// The driver's part around the rule, and a device.
#[derive(Default)]
struct Stream {
    cork: Cork,
    open: Option<Open>,
    /// Packets that the device has not yet taken.
    ahead: VecDeque<Vec<u8>>,
    written: Vec<u8>,
    taken: Vec<u8>,
    packets: usize,
}

impl Stream {
    fn send(&mut self, bytes: Vec<u8>) {
        assert!(!bytes.is_empty() && bytes.len() <= PACKET);
        self.cork.send();
        self.ahead.push_back(bytes);
        self.packets += 1;
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.cork.go();
            self.send(open.bytes);
        }
    }

    /// As `Backlog::park()`.
    fn park(&mut self, open: Open) {
        let full = open.bytes.len() == open.room;
        if full {
            self.cork.fill();
        }
        let waits = !full && self.cork.waits(open.more);
        self.open = Some(open);
        if !waits {
            self.close();
        }
    }

    /// As `Conn::enqueue()`.
    fn write(&mut self, len: usize, more: bool) {
        let start = self.written.len();
        self.written.extend((start..start + len).map(|at| at as u8));
        let mut bytes = self.written[start..].to_vec();
        while !bytes.is_empty() {
            if let Some(mut open) = self.open.take() {
                let added = bytes.len().min(open.room - open.bytes.len());
                open.bytes.extend(bytes.drain(..added));
                open.more = more;
                self.park(open);
            } else if let Some(room) = self.cork.begin(bytes.len(), more) {
                let first = bytes.drain(..bytes.len().min(room)).collect();
                self.park(Open {
                    bytes: first,
                    room,
                    more,
                });
            } else {
                let packet = bytes.drain(..bytes.len().min(PACKET)).collect();
                self.send(packet);
            }
        }
    }

    /// As `Tx::reclaim()`.
    fn take(&mut self) {
        let Some(packet) = self.ahead.pop_front() else {
            return;
        };
        self.taken.extend(packet);
        if self.cork.take(self.open.as_ref().map(|o| o.bytes.len())) == After::Goes {
            self.close();
        }
    }

    /// As `Tx::send_lingering()`.
    fn work(&mut self) {
        if self.cork.lingers() {
            self.close();
        }
    }
}

proptest! {
    #![proptest_config(config::cases(2000))]

    #[test]
    fn k7_no_byte_is_lost_and_none_waits_for_nothing(steps in prop::collection::vec(step(), 1..80)) {
        let mut stream = Stream::default();
        for step in steps {
            match step {
                Step::Write(len, more) => {
                    let lone = stream.ahead.is_empty() && stream.open.is_none();
                    let packets = stream.packets;
                    stream.write(len, more);
                    if lone && !more {
                        prop_assert!(stream.packets > packets, "a lone write waits");
                    }
                }
                Step::Take(count) => (0..count).for_each(|_| stream.take()),
                Step::Look => stream.close(),
                Step::Work => stream.work(),
            }
            if let Some(open) = &stream.open {
                let waits = open.more || !stream.ahead.is_empty() || stream.cork.lingers();
                prop_assert!(waits, "it waits for nothing");
                prop_assert!(open.room <= PACKET);
            } else {
                prop_assert!(!stream.cork.lingers(), "what has gone lingers");
            }
        }
        stream.close();
        while !stream.ahead.is_empty() {
            stream.take();
        }
        prop_assert!(stream.open.is_none());
        prop_assert_eq!(stream.taken, stream.written);
    }

    /// K5: a device that takes nothing is sent few packets, however small the writes are.
    #[test]
    fn k5_small_writes_are_few_packets(len in 1..2000usize, writes in 1..3000usize) {
        let mut stream = Stream::default();
        for _ in 0..writes {
            stream.write(len, false);
        }
        let most = 8 + len * writes / (PACKET / 2);
        prop_assert!(stream.packets <= most, "{} packets, and not {most}", stream.packets);
    }
}
