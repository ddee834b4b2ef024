// SPDX-License-Identifier: GPL-2.0

//! Endpoints as a property: two of them with their users, and one with any host.

mod config;
mod world;

use proptest::prelude::*;
use rvsock_hosttest::{
    proto::{
        Endpoint,
        Retry,
        State,
        Time, //
    },
    wire::{
        Header,
        Op,
        ShutdownFlags,
        SocketType, //
    },
};
use world::World;

fn ty() -> impl Strategy<Value = SocketType> {
    prop_oneof![Just(SocketType::Stream), Just(SocketType::Seqpacket)]
}

/// Sizes of buffers: tiny, small, ordinary.
fn size() -> impl Strategy<Value = u32> {
    prop_oneof![1..5u32, 1..5000u32, Just(65536), Just(262_144)]
}

/// What a reader waits for: a byte, most of a buffer, or more than any buffer.
fn lowat() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1), 1..5000u32, 60_000..270_000u32, any::<u32>()]
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u32),
    Deliver(usize),
    Read(usize, u32),
    Lowat(usize, u32),
    Size(usize, u32),
    Memory(usize, bool),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let amount = || prop_oneof![1..100u32, 1..70_000u32, 1..600_000u32];
    let who = || 0..2usize;
    prop_oneof![
        6 => (who(), amount()).prop_map(|(who, len)| Step::Write(who, len)),
        8 => who().prop_map(Step::Deliver),
        5 => (who(), amount()).prop_map(|(who, len)| Step::Read(who, len)),
        1 => (who(), lowat()).prop_map(|(who, lowat)| Step::Lowat(who, lowat)),
        1 => (who(), size()).prop_map(|(who, size)| Step::Size(who, size)),
        1 => (who(), any::<bool>()).prop_map(|(who, none)| Step::Memory(who, none)),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(config::cases(300))]

    /// K2, K3, K4, K6, S3: whatever the buffers, what is waited for, and the order of things, nobody overruns anybody,
    /// and at any moment those who only sleep are woken until all is sent, and all is read that can be.
    #[test]
    fn k6_nobody_sleeps_for_ever(
        ty in ty(), sizes in [size(), size()], polls: [bool; 2], read in 1..100_000u32,
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut world = World::new(ty, sizes);
        for (side, polls) in world.sides.iter_mut().zip(polls) {
            side.polls = polls;
        }
        for step in steps {
            match step {
                Step::Write(who, len) => {
                    let sizes = world.sides.each_ref().map(|side| side.end.buf_alloc());
                    let most = sizes.into_iter().min().unwrap();
                    let len = match ty {
                        // A few rounds at most.
                        SocketType::Stream => len.min(most.saturating_mul(6)),
                        // A message that can be sent, mostly.
                        _ => len % most.saturating_add(1) + 1,
                    };
                    world.sides[who].to_write.push_back(len);
                    world.write(who);
                }
                Step::Deliver(who) => { world.deliver(who); }
                Step::Read(who, len) => { world.read(who, len); }
                Step::Lowat(who, lowat) => world.set_lowat(who, lowat),
                Step::Size(who, size) => world.set_size(who, size),
                Step::Memory(who, none) => {
                    world.sides[who].no_memory = none;
                    world.catch_up(who);
                }
                Step::Wait => { world.wait(); }
            }
        }
        let most = world.sides.iter().map(|side| side.end.buf_alloc()).min().unwrap();
        world.settle(read.min(most.saturating_mul(2)).max(most / 20));
        prop_assert_eq!(world.is_at_rest(), Ok(()));
    }

    /// K6: a writer who writes all he can satisfies a reader who only waits, in poll().
    #[test]
    fn k6_a_reader_gets_what_he_waits_for(
        sizes in [size(), size()], reads in prop::collection::vec((1..300_000u32, lowat()), 0..20),
        goal in lowat(), polls: bool,
    ) {
        let mut world = World::new(SocketType::Stream, sizes);
        world.sides[1].polls = polls;
        let fill = |world: &mut World| {
            world.sides[0].to_write = [u32::MAX].into();
            while world.deliver(0) || world.deliver(1) || world.write(0) {}
        };
        fill(&mut world);
        for (len, lowat) in reads {
            world.set_lowat(1, lowat);
            world.read(1, len);
            fill(&mut world);
        }
        // setsockopt(), and then poll(), which tells nobody.
        world.set_lowat(1, goal);
        fill(&mut world);
        prop_assert!(world.sides[1].end.is_readable(goal), "{:?}", world.sides);
    }

    /// C4: two ends part without a timer, whatever was before.
    #[test]
    fn c4_two_ends_part_without_a_timer(
        steps in prop::collection::vec((0..12u8, 0..2usize, 1..4u32), 0..60),
        first in 0..2usize,
    ) {
        let mut world = World::new(SocketType::Stream, [1000, 1000]);
        let mut closed = [false; 2];
        for (what, who, flags) in steps {
            let side = &mut world.sides[who];
            let actions = match what {
                0..=3 => { world.deliver(who); continue }
                4..=6 if !closed[who] => {
                    side.to_write.push_back(1);
                    world.write(who);
                    continue
                }
                7..=8 if !closed[who] => { world.read(who, 1); continue }
                9 if !closed[who] => side.end.shutdown(ShutdownFlags::from_raw(flags)),
                10 if !closed[0] => {
                    let actions = world.sides[0].end.give_up(Time::from_millis(0));
                    world.carry_out(0, actions);
                    if flags > 1 {
                        let retry = world.sides[0].end.retry(true, Time::from_millis(1));
                        if let Retry::GoOn(actions) | Retry::LetGo(actions) = retry {
                            world.carry_out(0, actions);
                        }
                    }
                    continue
                }
                11 if flags == 1 && !closed[who] => {
                    closed[who] = true;
                    side.end.close(false)
                }
                _ => continue,
            };
            world.carry_out(who, actions);
        }
        for who in [first, 1 - first] {
            let actions = world.sides[who].end.close(false);
            world.carry_out(who, actions);
        }
        while world.deliver(0) || world.deliver(1) {}
        for side in &world.sides {
            prop_assert_eq!(side.end.state(), State::Closed);
            prop_assert!(side.ends <= 1 && side.errors <= side.ends, "{} ends, {} errors", side.ends, side.errors);
            let mut end = side.end;
            prop_assert_eq!(end.deadline(Time::from_millis(0)), None);
        }
    }
}

/// How a host tells of what its program has read.
#[derive(Clone, Copy, Debug)]
enum Reports {
    /// When less than so much of its buffer is free, as the host counts.
    WhenFreeIsBelow(u32),
    /// After so many bytes of news.
    AfterNews(u32),
}

/// A host whose buffer is larger than ours, of which it knows nothing.
#[derive(Clone, Copy, Debug)]
struct Host {
    buffer: u32,
    reports: Reports,
    /// It has but as much as ours at first, and makes it larger when that is full.
    grows: bool,
    /// How many milliseconds it takes to answer a CREDIT_REQUEST; none if it does not know any.
    answers: Option<u64>,
}

fn host() -> impl Strategy<Value = Host> {
    let reports = prop_oneof![
        (1..=65536u32).prop_map(Reports::WhenFreeIsBelow),
        (1..=4_194_304u32).prop_map(Reports::AfterNews),
    ];
    let answers = prop_oneof![Just(Some(0)), (0..700u64).prop_map(Some), Just(None)];
    let parts = (1..8_388_608u32, reports, any::<bool>(), answers);
    parts.prop_map(|(buffer, reports, grows, answers)| Host {
        buffer,
        // No host reports so late that its own buffer being full is no reason.
        reports: match reports {
            Reports::AfterNews(news) => Reports::AfterNews(news.min(buffer)),
            other => other,
        },
        grows,
        answers,
    })
}

/// A writer and a host, whose program reads `slow` milliseconds after it got something to read.
struct Talk {
    end: Endpoint,
    host: Host,
    /// What it has told of its buffer.
    buffer: u32,
    now: u64,
    received: u32,
    read: u32,
    told: u32,
    /// When the host answers.
    answer: Option<u64>,
    timer: Option<Time>,
    sleeps: bool,
}

impl Talk {
    fn carry_out(&mut self, actions: rvsock_hosttest::proto::Actions) {
        if actions.ask {
            self.answer = self
                .answer
                .or(self.host.answers.map(|late| self.now + late));
        }
        if actions.start_timer {
            self.timer = self.end.deadline(Time::from_millis(self.now));
        }
        self.sleeps &= !actions.wake_writer;
    }

    /// The host tells how far its program has read.
    fn tell(&mut self) {
        self.told = self.read;
        let header = Header {
            op: Op::CreditUpdate.into(),
            buf_alloc: self.buffer,
            fwd_cnt: self.told,
            ..Header::default()
        };
        let actions = self.end.on_packet(&header, Op::CreditUpdate, false);
        self.carry_out(actions);
    }

    /// What happens at this very moment.
    fn step(&mut self, reads: bool) {
        if reads {
            self.read = self.received;
        }
        let in_buffer = self.received.wrapping_sub(self.told);
        let grows = in_buffer >= self.buffer && self.buffer < self.host.buffer;
        if grows {
            self.buffer = self.host.buffer;
        }
        let free = self.buffer.saturating_sub(in_buffer);
        let news = self.read.wrapping_sub(self.told);
        let due = match self.host.reports {
            Reports::WhenFreeIsBelow(below) => free < below,
            Reports::AfterNews(after) => news >= after,
        };
        let asked = self.answer.take_if(|at| *at <= self.now).is_some();
        if asked || grows || (news > 0 && due) {
            self.tell();
        }
        let now = Time::from_millis(self.now);
        if self.timer.take_if(|at| *at <= now).is_some() {
            let actions = self.end.on_timeout(now);
            self.carry_out(actions);
        }
    }
}

proptest! {
    #![proptest_config(config::cases(500))]

    /// A writer who waits, blocked or in poll(), goes on, whatever the host reports by, and whether and when it
    /// answers.
    #[test]
    fn k6_a_writer_goes_on_on_any_host(
        own in prop_oneof![1..5000u32, Just(262_144)], host in host(), slow in prop_oneof![Just(0), 0..4000u64],
        sleeps: bool,
    ) {
        let mut end = Endpoint::new(SocketType::Stream, own);
        let buffer = if host.grows { host.buffer.min(own) } else { host.buffer };
        end.accept(&Header { buf_alloc: buffer, ..Header::default() });
        let mut talk = Talk {
            end, host, buffer, now: 0, received: 0, read: 0, told: 0, answer: None, timer: None, sleeps: false,
        };
        for _ in 0..20 {
            let goal = talk.received.wrapping_add(own.min(host.buffer));
            let (mut since, mut waited) = (talk.now, 0);
            while talk.received != goal {
                // One who polls looks whenever he wakes up for whatever reason; one who sleeps does not.
                if !talk.sleeps || !sleeps {
                    let granted = talk.end.reserve(goal.wrapping_sub(talk.received)).unwrap();
                    talk.received = talk.received.wrapping_add(granted);
                    if granted > 0 {
                        since = talk.now;
                    } else {
                        talk.sleeps = true;
                    }
                    if talk.end.free() == 0 {
                        let actions = talk.end.on_wait_to_write();
                        talk.carry_out(actions);
                    }
                }
                talk.step(talk.now - since >= slow);
                // K1: our own buffer is no bound for a host alone that answers nothing.
                if host.answers.is_some() {
                    let in_flight = talk.received.wrapping_sub(talk.told);
                    prop_assert!(in_flight <= own, "{in_flight} in flight");
                }
                let waits = talk.end.free() == 0 || (talk.sleeps && sleeps);
                if waits && talk.received != goal {
                    talk.now += 50;
                    waited += 50;
                }
                prop_assert!(waited <= slow + 3000, "stuck for {waited} ms");
                prop_assert!(
                    slow > 0 || host.answers != Some(0) || waited == 0,
                    "a host that answers was not asked at once"
                );
            }
        }
    }
}

/// How many updates a megabyte takes, in writes and reads of one size.
fn updates_per_mib(write: u32, read: u32, keep: u32) -> u32 {
    let mut world = World::new(SocketType::Stream, [262_144; 2]);
    while world.deliver(0) || world.deliver(1) {}
    world.sides[1].updates = 0;
    let mut moved = 0;
    while moved < 1 << 20 {
        world.sides[0].to_write.push_back(write);
        while world.write(0) {}
        while world.deliver(1) {}
        while world.sides[1].end.unread() > keep {
            let before = world.sides[1].end.unread();
            world.read(1, read);
            moved += before - world.sides[1].end.unread();
        }
        world.read(1, 0);
        while world.deliver(0) || world.deliver(1) {}
    }
    world.sides[1].updates
}

#[test]
fn k4_updates_are_few() {
    for (write, read, keep) in [
        (64, 64, 0),
        (4096, 64, 0),
        (65536, 65536, 0),
        (65536, 64, 0),
        // A reader that is far behind, and reads in small pieces.
        (65536, 64, 150_000),
    ] {
        let updates = updates_per_mib(write, read, keep);
        println!("writes of {write}, reads of {read}, {keep} unread: {updates} updates per MiB");
        assert!(updates <= 16, "{write}, {read}, {keep}: {updates}");
    }
}
