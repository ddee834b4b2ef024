// SPDX-License-Identifier: GPL-2.0

//! Tests of `ext/net/device` in a kernel, on an interface that carries nothing.
//!
//! Some run when the module is loaded, some when its interface goes up, and some when the module goes while turns wait.
//! Each says `ok` or `not ok` in the log, with its name; tools/lab/src/suites/ext.rs has the names, and what other
//! programs see and do meanwhile.

#![deny(unsafe_code)]

use crate::ext::{
    net::{
        device::{
            Interface,
            NetDevice,
            Registration,
            Statistics,
            Token,
            Turn, //
        },
        skbuff::SkBuff, //
    },
    sync::{
        new_spinlock_bh,
        SpinLockBh, //
    },
    work::{
        new_work,
        Where,
        Work,
        Workqueues, //
    }, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    str::CStr,
    sync::{
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

#[path = "../ext/mod.rs"]
#[allow(dead_code, unreachable_pub, unsafe_code, unused_imports, unused_macros)]
mod ext;

module! {
    type: DeviceTest,
    name: "rust_device_test",
    authors: ["The rvsock developers"],
    description: "Tests of ext/ on a network interface",
    license: "GPL",
}

const HEADER: usize = 44;
const LEN: usize = 1000;
/// As many bytes as no limit allows.
const MUCH: u32 = 1 << 26;

/// Says how a test went.
fn check(ok: bool, what: &str) {
    let verdict = if ok { "ok" } else { "not ok" };
    pr_info!("{}: {}\n", verdict, what);
}

/// Waits for something, a second at most.
fn comes(what: impl Fn() -> bool) -> bool {
    for _ in 0..1000 {
        if what() {
            return true;
        }
        fsleep(Delta::from_millis(1));
    }
    false
}

/// Lets pass what would come.
fn a_while() {
    fsleep(Delta::from_millis(30));
}

/// A packet of so many bytes.
fn packet(len: usize) -> Result<SkBuff> {
    let mut packet = SkBuff::alloc(len, GFP_KERNEL, ())?;
    let mut bytes = KVec::new();
    bytes.resize(len, 1, GFP_KERNEL)?;
    packet.put_slice(&bytes)?;
    Ok(packet)
}

fn token(queue: u16, key: u32) -> Result<Token> {
    Token::new(&packet(LEN)?, HEADER, key, queue, key)
}

fn turn(token: &Token) -> Result<Turn> {
    token.turn(None::<&SkBuff>)
}

/// What a packet must be to have turns.
fn test_lengths() -> Result {
    let new = |len: usize, header: usize| Token::new(&packet(len)?, header, 1, 0, 1);
    let refused = |len, header| matches!(new(len, header), Err(error) if error == EINVAL);
    check(
        refused(64, 0) && refused(64, 65) && refused(512, 257),
        "a turn has a header, which its packet has",
    );
    let most = HEADER.saturating_add(PAGE_SIZE.saturating_mul(SkBuff::<()>::MAX_PAGES));
    check(
        refused(most.saturating_add(1), HEADER),
        "and no more than fits",
    );
    for len in [1, HEADER, HEADER + 1, 65535 + 46, most] {
        let token = new(len, HEADER.min(len))?;
        if turn(&token)?.len() != len {
            check(false, "a turn is as long as its packet");
        }
    }
    check(true, "a turn is as long as its packet");
    Ok(())
}

/// Whose a turn is, and whether it is there.
fn test_tokens() -> Result {
    let (one, other) = (token(0, 7)?, token(0, 7)?);
    check(!one.is_out(), "at first no turn is out");
    let first = turn(&one)?;
    check(
        one.is_out() && !other.is_out() && matches!(turn(&one), Err(error) if error == EBUSY),
        "there is one turn of a token at a time",
    );
    check(first.key() == Some(7), "a turn knows its key");
    check(
        one.matches(&first) && !other.matches(&first),
        "a turn is of one token, whatever their keys",
    );
    drop(first);
    check(!one.is_out(), "a turn that was used is out no more");
    turn(&one)?.refuse();
    check(!one.is_out(), "nor is one that was refused");
    let last = turn(&one)?;
    drop(one);
    let new = token(0, 7)?;
    check(
        !new.is_out() && !new.matches(&last) && last.key() == Some(7) && last.len() == LEN,
        "a turn outlives its token, and is nobody's",
    );
    Ok(())
}

/// All that can be asked of an interface which is not there, or of a queue.
fn test_nothing(device: &NetDevice, when: &str) -> Result {
    let one = token(0, 1)?;
    let taken = device.submit(turn(&one)?);
    for queue in [0, TestInterface::TX_QUEUES, u16::MAX] {
        device.stop_queue(queue);
        device.wake_queue(queue);
        device.completed(queue, 1, u32::MAX);
        device.sent(queue, u32::MAX);
        device.completed(queue, 1, u32::MAX);
    }
    device.set_carrier(true);
    check(!one.is_out(), when);
    if when == BEFORE || when == AFTER {
        check(!taken, "and it is said so");
    }
    Ok(())
}

const BEFORE: &str = "before it is registered no turn is taken";
const DOWN: &str = "while it is down no turn is kept";
const AFTER: &str = "once it is unregistered no turn is taken";

/// What has come out.
struct Came {
    turns: KVec<(u16, Turn)>,
}

#[pin_data]
struct State {
    device: Arc<NetDevice>,
    #[pin]
    came: SpinLockBh<Came>,
    strangers: Atomic<u64>,
    is_up: AtomicFlag,
    #[pin]
    went_up: Work<State>,
    #[pin]
    sends: Work<State>,
    #[pin]
    completes: Work<State>,
    busy: Atomic<u64>,
    tested: AtomicFlag,
}

impl State {
    fn new(device: Arc<NetDevice>) -> Result<Arc<Self>> {
        let turns = KVec::with_capacity(16, GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                device,
                came <- new_spinlock_bh!(Came { turns }, "State::came"),
                strangers: Atomic::new(0),
                is_up: AtomicFlag::new(false),
                went_up <- new_work!(Self::when_up, "State::went_up"),
                sends <- new_work!(Self::send, "State::sends"),
                completes <- new_work!(Self::complete, "State::completes"),
                busy: Atomic::new(0),
                tested: AtomicFlag::new(false),
            }),
            GFP_KERNEL,
        )
    }

    /// Those that have come, which are taken out.
    fn taken(&self) -> KVec<(u16, Turn)> {
        core::mem::take(&mut self.came.lock().turns)
    }

    /// Whether the one turn that comes is of `token`, and of its queue.
    fn brings(&self, token: &Token, queue: u16) -> bool {
        comes(|| !self.came.lock().turns.is_empty())
            && matches!(&self.taken()[..], [(of, turn)] if *of == queue && token.matches(turn))
    }

    /// The first time, for as long as it takes.
    fn when_up(self: Arc<Self>) {
        if self.tested.load(Relaxed) {
            return;
        }
        self.tested.store(true, Relaxed);
        if let Err(error) = self.test_queues().and_then(|()| self.test_bytes()) {
            check(false, "the tests of an interface that is up");
            pr_err!("{error:?}\n");
        }
        check(true, "all tests of an interface that is up have run");
    }

    fn test_queues(&self) -> Result {
        let device = &self.device;
        let first = token(0, 1)?;
        let activated = comes(|| {
            turn(&first).is_ok_and(|turn| {
                device.submit(turn);
                !self.taken().is_empty()
            })
        });
        check(activated, "once there is a qdisc turns come");
        for queue in 0..TestInterface::TX_QUEUES {
            let token = token(queue, 1)?;
            check(
                device.submit(turn(&token)?) && self.brings(&token, queue),
                "a turn comes out of its queue",
            );
            check(
                !token.is_out(),
                "its end is in the hand of whoever takes it",
            );
        }
        let beyond = token(TestInterface::TX_QUEUES, 1)?;
        check(
            device.submit(turn(&beyond)?) && self.brings(&beyond, 0),
            "that of a queue that is none, out of the first",
        );
        let (one, other) = (token(0, 1)?, token(0, 2)?);
        device.stop_queue(0);
        device.submit(turn(&one)?);
        device.submit(turn(&other)?);
        a_while();
        check(
            self.taken().is_empty() && one.is_out() && other.is_out(),
            "a queue that is stopped keeps turns",
        );
        device.wake_queue(0);
        let both = comes(|| self.came.lock().turns.len() == 2);
        check(
            both && matches!(&self.taken()[..], [(0, first), (0, second)]
                if one.matches(first) && other.matches(second)),
            "and gives them out in order when it is woken",
        );
        device.set_carrier(false);
        let lost = comes(|| {
            turn(&one).is_ok_and(|turn| {
                device.submit(turn);
                self.taken().is_empty() && !one.is_out()
            })
        });
        check(lost, "without a carrier turns are lost");
        device.set_carrier(true);
        let found = comes(|| {
            turn(&one).is_ok_and(|turn| {
                device.submit(turn);
                !self.taken().is_empty()
            })
        });
        check(found, "with one they come again");
        Ok(())
    }

    fn test_bytes(self: &Arc<Self>) -> Result {
        let device = &self.device;
        let one = token(1, 1)?;
        device.completed(1, 1, u32::MAX);
        check(
            device.submit(turn(&one)?) && self.brings(&one, 1),
            "more is completed than was sent, and nothing happens",
        );
        device.sent(1, MUCH);
        device.submit(turn(&one)?);
        a_while();
        check(
            one.is_out() == cfg!(CONFIG_BQL) && self.taken().is_empty() == cfg!(CONFIG_BQL),
            "too many bytes in the hardware keep turns",
        );
        device.completed(1, 1, MUCH);
        if cfg!(CONFIG_BQL) {
            check(self.brings(&one, 1), "until they are completed");
        }
        for _ in 0..100 {
            device.sent(1, MUCH);
        }
        device.completed(1, 100, u32::MAX);
        device.completed(1, 100, u32::MAX);
        // The core does not take so many at once.
        device.sent(1, u32::MAX);
        check(
            device.submit(turn(&one)?) && self.brings(&one, 1),
            "no number of bytes is too large",
        );
        self.busy.store(2, Relaxed);
        self.sends.queue(self, Where::Percpu);
        self.completes.queue(self, Where::Unbound);
        let end = comes(|| self.busy.load(Relaxed) == 0);
        device.completed(0, 1, u32::MAX);
        check(end, "bytes are sent by many and completed by many");
        Ok(())
    }

    /// Many at once: bytes that were not counted would be completed all the same.
    fn send(self: Arc<Self>) {
        for at in 0..20_000 {
            self.device.sent(0, 1000);
            if at % 2 == 0 {
                self.device.completed(0, 1, 2000);
            }
        }
        self.busy.fetch_sub(1, Relaxed);
    }

    fn complete(self: Arc<Self>) {
        for at in 0..20_000 {
            self.device.completed(0, 1, 1000);
            if at % 2 == 0 {
                self.device.sent(0, 1000);
            }
        }
        self.busy.fetch_sub(1, Relaxed);
    }
}

/// What the kernel calls.
struct TestInterface(Arc<State>);

impl Interface for TestInterface {
    const NAME: &'static CStr = c"turntest%d";
    const TX_QUEUES: u16 = 2;
    const MTU: u32 = 32768;
    const COUNTERS: &'static [&'static str] = &["strangers", "forty two"];

    fn open(&self) {
        self.0.is_up.store(true, Relaxed);
        self.0.went_up.queue(&self.0, Where::Unbound);
    }

    fn stop(&self) {
        self.0.is_up.store(false, Relaxed);
    }

    fn transmit(&self, queue: u16, turn: Turn, _more: bool) {
        match turn.key() {
            // None has it.
            None | Some(0) => {
                self.0.strangers.fetch_add(1, Relaxed);
                turn.refuse();
            }
            Some(_) => {
                // What does not fit is dropped.
                let _ = self.0.came.lock().turns.push((queue, turn), GFP_ATOMIC);
            }
        }
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            rx_packets: 1,
            rx_bytes: 2,
            tx_packets: 3,
            tx_bytes: 4,
            rx_dropped: 5,
            tx_dropped: 6,
        }
    }

    fn counter(&self, index: usize) -> u64 {
        match index {
            0 => self.0.strangers.load(Relaxed),
            _ => 42,
        }
    }
}

impl Drop for TestInterface {
    fn drop(&mut self) {
        check(true, "an interface is dropped");
    }
}

/// Fields drop in this order, after what `drop()` does: when the interface is gone, nobody queues work any more.
struct DeviceTest {
    registration: Option<Registration>,
    state: Arc<State>,
    _workqueues: Workqueues,
}

impl kernel::Module for DeviceTest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        test_lengths()?;
        test_tokens()?;
        let workqueues = Workqueues::new::<Self>()?;
        let device = NetDevice::new()?;
        test_nothing(&device, BEFORE)?;
        let state = State::new(device.clone())?;
        let new = || Arc::new(TestInterface(state.clone()), GFP_KERNEL);
        let registration = Registration::new(&device, new()?, None)?;
        check(
            registration.name().to_bytes() == b"turntest0",
            "an interface has the first name that is free",
        );
        let second = Registration::new(&device, new()?, None);
        check(
            matches!(second, Err(error) if error == EBUSY),
            "there is one interface at a time",
        );
        drop(second);
        test_nothing(&device, DOWN)?;
        Ok(Self {
            registration: Some(registration),
            state,
            _workqueues: workqueues,
        })
    }
}

impl DeviceTest {
    /// The interface goes while turns wait in its queue.
    fn test_end(&mut self) -> Result {
        let device = &self.state.device;
        let tokens = [token(0, 1)?, token(0, 2)?, token(0, 3)?];
        let is_up = self.state.is_up.load(Relaxed);
        device.stop_queue(0);
        for token in &tokens {
            device.submit(turn(token)?);
        }
        check(
            tokens.iter().all(Token::is_out) == is_up,
            "turns wait while the interface goes",
        );
        drop(self.registration.take());
        check(
            !tokens.iter().any(Token::is_out) && self.state.taken().is_empty(),
            "and are lost then",
        );
        test_nothing(device, AFTER)
    }
}

impl Drop for DeviceTest {
    fn drop(&mut self) {
        if self.test_end().is_err() {
            check(false, "the tests of the end");
        }
    }
}
