// SPDX-License-Identifier: GPL-2.0

//! Credit as a property: one side against any peer, and two sides against each other.

mod config;

use std::collections::VecDeque;

use proptest::prelude::*;
use rvsock_hosttest::proto::{
    Advertised,
    RxCredit,
    TxCredit, //
};

/// Counters that are about to wrap, most of the time.
fn start() -> impl Strategy<Value = u32> {
    prop_oneof![u32::MAX - 5000..=u32::MAX, Just(0), any::<u32>()]
}

/// Sizes of buffers: tiny, ordinary, and the greatest.
fn size() -> impl Strategy<Value = u32> {
    prop_oneof![
        1..5u32,
        1..5000u32,
        Just(65536),
        Just(262_144),
        any::<u32>(),
        Just(u32::MAX)
    ]
}

#[derive(Clone, Debug)]
enum Tx {
    Take(u32),
    GiveBack(u32),
    /// The buffer's size, and a count relative to what was sent: honest, stale or a lie.
    Update(u32, i64),
    Limit(u32),
}

fn tx() -> impl Strategy<Value = Tx> {
    prop_oneof![
        prop_oneof![0..5000u32, any::<u32>()].prop_map(Tx::Take),
        prop_oneof![0..5000u32, any::<u32>()].prop_map(Tx::GiveBack),
        (size(), prop_oneof![-5000..5000i64, any::<i64>()]).prop_map(|(a, f)| Tx::Update(a, f)),
        size().prop_map(Tx::Limit),
    ]
}

proptest! {
    #![proptest_config(config::cases(2000))]

    #[test]
    fn k1_never_negative_nor_over_the_window(
        start in start(), own in size(), steps in prop::collection::vec(tx(), 1..100)
    ) {
        let mut credit = TxCredit::starting_at(own, start);
        // The model counts without wrapping: taken and not given back, and reported as read.
        let (mut own, mut alloc, mut sent, mut read) = (own, 0u32, 0i128, 0i128);
        for step in steps {
            match step {
                Tx::Take(want) => {
                    let free = credit.free();
                    let got = credit.take(want);
                    prop_assert_eq!(got, want.min(free));
                    sent += i128::from(got);
                    // What is taken never exceeds the window.
                    if got > 0 {
                        prop_assert!(sent - read <= i128::from(own.min(alloc)));
                    }
                }
                Tx::GiveBack(unsent) => {
                    credit.give_back(unsent);
                    sent -= i128::from(unsent).min(sent - read);
                }
                Tx::Update(size, behind) => {
                    let fwd_cnt = start.wrapping_add(sent as u32).wrapping_sub(behind as u32);
                    credit.update(size, fwd_cnt);
                    alloc = size;
                    // Modulo 2^32, is it between what was read and what was sent?
                    let claimed = i128::from(behind as u32);
                    if claimed <= sent - read {
                        read = sent - claimed;
                    }
                }
                Tx::Limit(limit) => {
                    credit.set_own_limit(limit);
                    own = limit;
                }
            }
            let window = i128::from(own.min(alloc));
            prop_assert_eq!(i128::from(credit.window()), window);
            prop_assert_eq!(i128::from(credit.in_flight()), sent - read);
            prop_assert_eq!(i128::from(credit.free()), (window - (sent - read)).max(0));
        }
    }
}

#[derive(Clone, Debug)]
enum Rx {
    Receive(u32),
    Consume(u32),
    Advertise,
    Size(u32),
    PeerLimit(u32),
}

fn rx() -> impl Strategy<Value = Rx> {
    prop_oneof![
        3 => prop_oneof![0..5000u32, any::<u32>()].prop_map(Rx::Receive),
        3 => prop_oneof![0..5000u32, any::<u32>()].prop_map(Rx::Consume),
        3 => Just(Rx::Advertise),
        1 => size().prop_map(Rx::Size),
        1 => prop_oneof![Just(0), size()].prop_map(Rx::PeerLimit),
    ]
}

proptest! {
    #![proptest_config(config::cases(2000))]

    #[test]
    fn k3_unread_is_bounded_by_what_was_promised(
        start in start(), size in size(), steps in prop::collection::vec(rx(), 1..100)
    ) {
        let mut credit = RxCredit::starting_at(size, start);
        let (mut received, mut read, mut promised, mut greatest) = (0u128, 0u128, 0u128, 0u32);
        for step in steps {
            match step {
                Rx::Receive(len) => {
                    let fits = received + u128::from(len) <= promised;
                    prop_assert_eq!(credit.receive(len).is_ok(), fits);
                    if fits {
                        received += u128::from(len);
                    }
                }
                Rx::Consume(len) => {
                    credit.consume(len);
                    read += u128::from(len).min(received - read);
                }
                Rx::Advertise => {
                    let Advertised { buf_alloc: alloc, fwd_cnt } = credit.advertise();
                    prop_assert_eq!(fwd_cnt, start.wrapping_add(read as u32));
                    promised = promised.max(read + u128::from(alloc));
                    greatest = greatest.max(alloc);
                }
                Rx::Size(size) => {
                    let changed = credit.buf_alloc() != size;
                    prop_assert_eq!(credit.set_buf_alloc(size), changed);
                }
                Rx::PeerLimit(limit) => { credit.set_peer_limit(limit); }
            }
            prop_assert_eq!(u128::from(credit.unread()), received - read);
            prop_assert!(credit.unread() <= greatest);
            prop_assert!(u128::from(credit.peer_free()) <= promised - received);
            if credit.update_due(1) {
                let mut told = credit;
                let _ = told.advertise();
                prop_assert!(told.peer_free() > credit.peer_free());
                prop_assert!(!told.update_due(u32::MAX));
            }
        }
    }
}

/// A packet: payload, and the credit fields of its sender.
#[derive(Clone, Copy)]
struct Packet {
    payload: u32,
    buf_alloc: u32,
    fwd_cnt: u32,
}

/// One sender and one receiver, each with packets on their way to it.
#[derive(Clone)]
struct Model {
    tx: TxCredit,
    /// The sender's own buffer, which it tells, and which bounds what it sends (K1).
    own: u32,
    rx: RxCredit,
    to_receiver: VecDeque<Packet>,
    to_sender: VecDeque<Packet>,
    updates: u32,
    /// How many bytes the receiver's user waits for, `SO_RCVLOWAT`.
    target: u32,
}

impl Model {
    fn new(own: u32, size: u32, start: u32) -> Self {
        let mut model = Self {
            tx: TxCredit::starting_at(own, start),
            own,
            rx: RxCredit::starting_at(size, start),
            to_receiver: VecDeque::new(),
            to_sender: VecDeque::new(),
            updates: 0,
            target: 0,
        };
        // REQUEST and RESPONSE.
        model.rx.set_peer_limit(own);
        model.tell();
        model
    }

    fn tell(&mut self) {
        let Advertised { buf_alloc, fwd_cnt } = self.rx.advertise();
        self.to_sender.push_back(Packet {
            payload: 0,
            buf_alloc,
            fwd_cnt,
        });
        self.updates += 1;
    }

    fn tell_if_due(&mut self, target: u32) {
        if self.rx.update_due(target) {
            self.tell();
        }
    }

    fn send(&mut self, want: u32) {
        let payload = self.tx.take(want);
        if payload > 0 {
            self.to_receiver.push_back(Packet {
                payload,
                buf_alloc: self.own,
                fwd_cnt: 0,
            });
        }
    }

    fn at_receiver(&mut self) -> Result<bool, TestCaseError> {
        let Some(packet) = self.to_receiver.pop_front() else {
            return Ok(false);
        };
        let changed = self.rx.set_peer_limit(packet.buf_alloc);
        // K3: a peer within its credit is never reset.
        prop_assert_eq!(self.rx.receive(packet.payload), Ok(()));
        if changed {
            self.tell_if_due(self.target);
        }
        Ok(true)
    }

    fn at_sender(&mut self) -> bool {
        let Some(packet) = self.to_sender.pop_front() else {
            return false;
        };
        self.tx.update(packet.buf_alloc, packet.fwd_cnt);
        true
    }

    fn limit(&mut self, own: u32) {
        self.own = own;
        self.tx.set_own_limit(own);
        // A change is told in any case.
        self.to_receiver.push_back(Packet {
            payload: 0,
            buf_alloc: own,
            fwd_cnt: 0,
        });
    }

    fn size(&mut self, size: u32) {
        if self.rx.set_buf_alloc(size) {
            self.tell();
        }
    }

    fn settle(&mut self) -> Result<(), TestCaseError> {
        while self.at_receiver()? || self.at_sender() {}
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(u32),
    Wait(u32),
    GiveBack(u32, u32),
    AtReceiver,
    AtSender,
    Read(u32),
    Size(u32),
    Limit(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let amount = || prop_oneof![1..100u32, 1..70_000u32, any::<u32>()];
    prop_oneof![
        6 => amount().prop_map(Step::Send),
        1 => (amount(), amount()).prop_map(|(n, m)| Step::GiveBack(n, m)),
        6 => Just(Step::AtReceiver),
        4 => Just(Step::AtSender),
        5 => amount().prop_map(Step::Read),
        1 => size().prop_map(Step::Size),
        1 => size().prop_map(Step::Limit),
        1 => target().prop_map(Step::Wait),
    ]
}

/// What a reader waits for: a byte, most of a buffer, or more than any buffer.
fn target() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1), 1..5000u32, 60_000..270_000u32, any::<u32>()]
}

proptest! {
    #![proptest_config(config::cases(1000))]

    #[test]
    fn k2_k4_k6_two_sides_never_overrun_and_never_deadlock(
        own in size(), size in size(), start in start(),
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut model = Model::new(own, size, start);
        for step in steps {
            match step {
                Step::Send(want) => model.send(want),
                Step::GiveBack(want, unsent) => {
                    let taken = model.tx.take(want);
                    model.tx.give_back(unsent.min(taken));
                    let payload = taken - unsent.min(taken);
                    if payload > 0 {
                        model.to_receiver.push_back(Packet { payload, buf_alloc: model.own, fwd_cnt: 0 });
                    }
                }
                Step::AtReceiver => { model.at_receiver()?; }
                Step::AtSender => { model.at_sender(); }
                Step::Read(len) => {
                    model.rx.consume(len);
                    model.tell_if_due(model.target);
                }
                Step::Size(size) => model.size(size),
                Step::Limit(own) => model.limit(own),
                Step::Wait(target) => {
                    // setsockopt(SO_RCVLOWAT).
                    model.target = target;
                    model.tell_if_due(target);
                }
            }

            // At any moment: a writer who writes all he can satisfies a reader who only waits, in poll().
            let mut waits = model.clone();
            waits.settle()?;
            waits.send(u32::MAX);
            waits.settle()?;
            prop_assert!(
                waits.rx.unread() >= waits.rx.reachable(waits.target),
                "the reader waits for {} of {} for ever", waits.target, waits.rx.unread(),
            );
        }

        // A reader that takes everything: the sender may go on, again and again.
        model.settle()?;
        for _ in 0..20 {
            model.rx.consume(model.rx.unread());
            model.tell_if_due(1);
            model.settle()?;
            prop_assert!(model.tx.free() > 0);
            model.send(u32::MAX);
            model.settle()?;
            prop_assert!(model.rx.unread() > 0);
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
    answers: bool,
}

fn host() -> impl Strategy<Value = Host> {
    let reports = prop_oneof![
        (1..=65536u32).prop_map(Reports::WhenFreeIsBelow),
        (1..=4_194_304u32).prop_map(Reports::AfterNews),
    ];
    (1..8_388_608u32, reports, any::<bool>()).prop_map(|(buffer, reports, answers)| Host {
        buffer,
        // No host reports so late that its own buffer being full is no reason.
        reports: match reports {
            Reports::AfterNews(news) => Reports::AfterNews(news.min(buffer)),
            other => other,
        },
        answers,
    })
}

proptest! {
    #![proptest_config(config::cases(2000))]

    /// A writer who waits, blocked or in poll(), goes on, whatever the host reports by; it looks for room
    /// each time that it writes, and the driver looks each second.
    #[test]
    fn k6_a_writer_goes_on_on_any_host(
        own in prop_oneof![1..5000u32, Just(262_144)], host in host(), start in start(), slow in 0..4u32,
    ) {
        let mut tx = TxCredit::starting_at(own, start);
        tx.update(host.buffer, start);
        let (mut received, mut read, mut told, mut goal) = (0u32, 0u32, 0u32, 0u32);
        for _ in 0..20 {
            goal = goal.wrapping_add(tx.window());
            let mut seconds = 0;
            while received < goal {
                received = received.wrapping_add(tx.take(goal - received));
                let mut asks = tx.free() == 0 && tx.ask();
                // The program on the host reads, at once or seconds later.
                loop {
                    if seconds >= slow {
                        read = received;
                    }
                    let free = host.buffer - received.wrapping_sub(told).min(host.buffer);
                    let news = read.wrapping_sub(told);
                    let due = news > 0 && match host.reports {
                        Reports::WhenFreeIsBelow(below) => free < below,
                        Reports::AfterNews(after) => news >= after,
                    };
                    if due || (asks && host.answers) {
                        told = read;
                        tx.update(host.buffer, start.wrapping_add(told));
                    }
                    if tx.free() > 0 || received >= goal {
                        break;
                    }
                    seconds += 1;
                    prop_assert!(seconds < slow + 5, "{own}: stuck");
                    prop_assert!(slow > 0 || !host.answers, "a host that answers was not asked at once");
                    asks = tx.look();
                    // K1: our own buffer is no bound for a host alone that answers nothing.
                    prop_assert!(!host.answers || tx.window() <= own);
                    if tx.free() > 0 {
                        break;
                    }
                }
            }
        }
    }
}

/// How many updates a megabyte takes, in writes and reads of one size.
fn updates_per_mib(write: u32, read: u32, keep: u32) -> u32 {
    let mut model = Model::new(262_144, 262_144, u32::MAX - 1000);
    model.settle().unwrap();
    model.updates = 0;
    let mut moved = 0;
    while moved < 1 << 20 {
        model.send(write);
        while model.at_receiver().unwrap() {}
        while model.rx.unread() > keep {
            let len = read.min(model.rx.unread());
            model.rx.consume(len);
            moved += len;
            model.tell_if_due(0);
        }
        model.tell_if_due(1);
        model.settle().unwrap();
    }
    model.updates
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
