// SPDX-License-Identifier: GPL-2.0

//! K3 as a property: whatever arrives and however it is read, memory stays near payload.

mod config;

use std::collections::VecDeque;

use proptest::{
    prelude::*,
    test_runner::TestCaseError, //
};
use rvsock_hosttest::proto::{
    held_at_most,
    may_take_pages,
    smaller,
    store,
    Arrival,
    Store, //
};

/// struct sk_buff, and what is allocated along with a linear one's bytes.
const SKB: usize = 256;
const LINEAR: usize = 384;

/// The size of the connection's buffer.
const BUF_ALLOC: usize = 256 * 1024;

#[derive(Debug)]
struct Buffer {
    memory: usize,
    room: usize,
    unread: usize,
    /// Of pages that were taken for want of memory, what is no payload.
    unused: usize,
}

/// The greatest bucket that the allocator can give.
#[derive(Clone, Copy, Debug)]
struct Allocator(usize);

impl Allocator {
    const ANY: Self = Self(usize::MAX);
}

#[derive(Debug, Default)]
struct Queue {
    buffers: VecDeque<Buffer>,
    unread: usize,
    memory: usize,
    unused: usize,
}

impl Queue {
    /// Stores a payload; false if it has to wait for memory.
    fn arrive(&mut self, payload: usize, buffer: usize, allocator: Allocator) -> bool {
        let arrival = Arrival {
            payload,
            buffer,
            tail_room: self.buffers.back().map_or(0, |last| last.room),
            unread: self.unread,
        };
        let mut unused = 0;
        let (memory, room) = match store(&arrival) {
            Store::Append => {
                let last = self.buffers.back_mut().unwrap();
                last.room -= payload;
                last.unread += payload;
                self.unread += payload;
                return true;
            }
            Store::Compact { capacity } => {
                let mut capacity = Some(capacity);
                let found = loop {
                    let Some(bytes) = capacity else { break None };
                    // As the kernel's allocator rounds.
                    let bucket = (bytes + LINEAR).next_power_of_two();
                    assert_eq!(bucket, bytes + LINEAR);
                    if bucket <= allocator.0 {
                        break Some((bucket + SKB, bytes - payload));
                    }
                    capacity = smaller(bytes, payload);
                };
                match found {
                    Some(found) => found,
                    None if may_take_pages(&arrival, self.unused, BUF_ALLOC) => {
                        unused = buffer - payload;
                        (buffer + SKB + 512, 0)
                    }
                    None => return false,
                }
            }
            Store::TakePages => (buffer + SKB + 512, 0),
        };
        self.buffers.push_back(Buffer {
            memory,
            room,
            unread: payload,
            unused,
        });
        self.unread += payload;
        self.memory += memory;
        self.unused += unused;
        true
    }

    fn read(&mut self, mut want: usize) {
        while want > 0 {
            let Some(first) = self.buffers.front_mut() else {
                break;
            };
            let len = want.min(first.unread);
            first.unread -= len;
            want -= len;
            self.unread -= len;
            if first.unread == 0 {
                self.memory -= first.memory;
                self.unused -= first.unused;
                self.buffers.pop_front();
            }
        }
    }
}

/// Sizes where something changes, and any others.
fn payload(buffer: usize) -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 1..=256usize,
        2 => 1..=buffer,
        2 => Just(1usize),
        2 => (buffer / 2).saturating_sub(2).max(1)..=buffer / 2 + 1,
        1 => Just(buffer),
        1 => (600..=700usize).prop_map(move |n| n.min(buffer)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(Vec<usize>, usize),
    Read(usize),
}

fn steps(buffer: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        // A pattern, repeated: what an adversary would do.
        3 => (prop::collection::vec(payload(buffer), 1..4), 1..200usize)
            .prop_map(|(pattern, times)| Step::Arrive(pattern, times)),
        2 => (0..400_000usize).prop_map(Step::Read),
        1 => (0..2000usize).prop_map(Step::Read),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(config::cases(400))]

    #[test]
    fn k3_memory_stays_near_payload(
        (buffer, steps) in prop_oneof![Just(4096usize), Just(16384), Just(32768), Just(65536)]
            .prop_flat_map(|buffer| (Just(buffer), steps(buffer)))
    ) {
        let mut queue = Queue::default();
        for step in steps {
            match step {
                Step::Arrive(pattern, times) => {
                    for _ in 0..times {
                        for &payload in &pattern {
                            queue.arrive(payload, buffer, Allocator::ANY);
                            prop_assert!(
                                queue.memory <= held_at_most(queue.unread, buffer),
                                "{} bytes hold {}", queue.unread, queue.memory
                            );
                        }
                    }
                }
                Step::Read(want) => {
                    queue.read(want);
                    prop_assert!(
                        queue.memory <= held_at_most(queue.unread, buffer),
                        "{} bytes hold {}", queue.unread, queue.memory
                    );
                }
            }
        }
    }
}

/// Where memory is in pieces, or there is none for a while, payload holds what the rule says, and what pages may hold
/// for want of it; what does not find its place waits.
fn in_pieces(
    largest: usize,
    steps: &[(usize, usize, bool)],
    buffer: usize,
) -> Result<(), TestCaseError> {
    let mut queue = Queue::default();
    for (payload, times, none) in steps {
        let allocator = Allocator(if *none { 0 } else { largest });
        for _ in 0..*times {
            if queue.unread + payload > BUF_ALLOC {
                queue.read(payload * 3);
            }
            let (before, unused) = (queue.unread, queue.unused);
            let stored = queue.arrive(*payload, buffer, allocator);
            prop_assert_eq!(queue.unread, before + if stored { *payload } else { 0 });
            // Nothing waits, and no page is held, where there is memory for the payload alone.
            if (*payload + LINEAR).next_power_of_two() <= allocator.0 {
                prop_assert!(stored && queue.unused == unused);
            }
            // Buffers of less room: more of them, each with its overhead.
            let small = queue.unread.div_ceil(largest / 4) * (SKB + LINEAR);
            let most = held_at_most(queue.unread, buffer) + small + BUF_ALLOC;
            prop_assert!(
                queue.memory <= most,
                "{} bytes hold {}, not {most}",
                queue.unread,
                queue.memory
            );
            prop_assert!(queue.unused <= BUF_ALLOC);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config::cases(400))]

    #[test]
    fn k3_memory_in_pieces_stays_near_payload(
        largest in prop_oneof![Just(1024usize), Just(4096), Just(8192)],
        buffer in prop_oneof![Just(4096usize), Just(32768)],
        steps in prop::collection::vec((1..2000usize, 1..500usize, prop::bool::weighted(0.2)), 1..20)
    ) {
        in_pieces(largest, &steps, buffer)?;
    }
}

/// A full default buffer of messages of one size, unread.
fn ratio(payload: usize) -> f64 {
    let mut queue = Queue::default();
    while queue.unread + payload <= 256 * 1024 {
        queue.arrive(payload, 32 * 1024, Allocator::ANY);
    }
    queue.memory as f64 / queue.unread as f64
}

#[test]
fn k3_messages_of_one_size() {
    for payload in [1, 10, 64, 200, 1000, 1024, 4096, 32 * 1024 - 46] {
        let ratio = ratio(payload);
        println!("{payload} bytes: {ratio:.2}");
        assert!(ratio < 1.35, "{payload} bytes: {ratio:.2}");
    }
    for payload in (1..=32 * 1024).step_by(97) {
        assert!(
            ratio(payload) < 2.1,
            "{payload} bytes: {:.2}",
            ratio(payload)
        );
    }
}
