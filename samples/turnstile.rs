// SPDX-License-Identifier: GPL-2.0

//! A network interface that carries nothing, and shows what the kernel's packet scheduling does.
//!
//! While `turn0` is up, each of its flows asks for a turn every 10 ms, unless it waits for one: for a turn as of a packet
//! of `length` bytes. What comes out of the qdisc has passed, what the qdisc has dropped is lost, and nothing is ever sent.
//! So `tc qdisc replace dev turn0 root ...` is to be seen at work with no network at all: `ip -s link show turn0` counts
//! what has passed, `tc -s qdisc` what the qdisc knows, and `ethtool -S turn0`, or a read of
//! `/sys/module/rust_turnstile/parameters/counters`, what the sample knows.
//!
//! ```text
//!   ask(): Token::turn() -> NetDevice::submit() -> qdisc -> transmit(): Token::matches(), passed
//!     ^                                              |
//!     +-- 10 ms later: Token::is_out() says no, lost +
//! ```
//!
//! It is a second, small driver on `ext/`. There is no `unsafe` in it.

#![deny(unsafe_code)]

use crate::ext::{
    module_info::module_version,
    module_param::{
        module_param_text,
        module_param_u32,
        Page, //
    },
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
        Kept,
        RcuArc,
        SpinLockBh, //
    },
    work::{
        new_delayed_work,
        DelayedWork,
        Workqueues, //
    },
};
use core::fmt::Write;
use kernel::{
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
    time::msecs_to_jiffies, //
};

#[path = "../rust/ext/mod.rs"]
#[allow(dead_code, unreachable_pub, unsafe_code, unused_imports, unused_macros)]
mod ext;

module! {
    type: TurnstileModule,
    name: "rust_turnstile",
    authors: ["The rvsock developers"],
    description: "Sample network interface whose turns the packet scheduler orders",
    license: "GPL",
}
module_version!("1.0.0");

module_param_u32!(flows, 16, 1..=1024, 0o444, "flows that ask for turns");
module_param_u32!(length, 1500, 64..=65535, 0o444, "length of a turn in bytes");
module_param_text!(counters, show, 0o400, "what became of the turns");

/// What filters see: the number of the flow in four bytes, most significant first, and zeroes.
const HEADER: usize = 44;

/// How long a flow waits before it asks again, in milliseconds.
const INTERVAL: u32 = 10;

/// What [`show`] finds.
static TURNSTILE: RcuArc<Turnstile> = RcuArc::new();

/// A flow, and whether it has asked for a turn that is neither back nor lost.
struct Flow {
    token: Token,
    waits: bool,
}

impl Flow {
    fn new(number: u32) -> Result<Self> {
        const ZEROES: &[u8] = &[0; 64];
        let len = length.get() as usize;
        // What the turn is to look like.
        let mut packet = SkBuff::alloc(len, GFP_KERNEL, ())?;
        packet.put_slice(&number.to_be_bytes())?;
        while packet.len() < len {
            let more = ZEROES.len().min(len.saturating_sub(packet.len()));
            packet.put_slice(ZEROES.get(..more).unwrap_or_default())?;
        }
        // Numbers that follow each other are to be far apart.
        let hash = number.wrapping_mul(0x9e37_79b1);
        Ok(Self {
            token: Token::new(&packet, HEADER, hash, 0, number)?,
            waits: false,
        })
    }
}

/// The flows, and what became of their turns.
#[pin_data]
struct Turnstile {
    device: Arc<NetDevice>,
    #[pin]
    asking: SpinLockBh<KVec<Flow>>,
    #[pin]
    ask: DelayedWork<Turnstile>,
    is_up: AtomicFlag,
    given: Atomic<u64>,
    passed: Atomic<u64>,
    bytes: Atomic<u64>,
    lost: Atomic<u64>,
    strangers: Atomic<u64>,
}

impl Turnstile {
    fn new() -> Result<Arc<Self>> {
        let mut all = KVec::with_capacity(flows.get() as usize, GFP_KERNEL)?;
        for number in 0..flows.get() {
            all.push(Flow::new(number)?, GFP_KERNEL)?;
        }
        let device = NetDevice::new()?;
        Arc::pin_init(
            pin_init!(Self {
                device,
                asking <- new_spinlock_bh!(all, "Turnstile::asking"),
                ask <- new_delayed_work!(Self::ask, "Turnstile::ask"),
                is_up: AtomicFlag::new(false),
                given: Atomic::new(0),
                passed: Atomic::new(0),
                bytes: Atomic::new(0),
                lost: Atomic::new(0),
                strangers: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// Finds out whether a flow's turn is lost.
    fn settle(&self, flow: &mut Flow) {
        if flow.waits && !flow.token.is_out() {
            self.lost.fetch_add(1, Relaxed);
            flow.waits = false;
        }
    }

    /// Has each flow ask that does not wait, and comes back a little later, while the interface is up.
    fn ask(self: Arc<Self>) {
        for at in 0.. {
            let mut all = self.asking.lock();
            let Some(flow) = all.get_mut(at) else {
                break;
            };
            self.settle(flow);
            if flow.waits {
                continue;
            }
            // Busy while whoever takes the last one has not dropped it.
            let Ok(turn) = flow.token.turn(None::<&SkBuff>) else {
                continue;
            };
            flow.waits = true;
            self.given.fetch_add(1, Relaxed);
            // It may come out at once.
            drop(all);
            self.device.submit(turn);
        }
        if self.is_up.load(Relaxed) {
            self.ask.queue_in(&self, msecs_to_jiffies(INTERVAL));
        }
    }
}

/// What the kernel calls.
struct Front(Arc<Turnstile>);

impl Interface for Front {
    const NAME: &'static CStr = c"turn%d";
    const TX_QUEUES: u16 = 1;
    const MTU: u32 = 65535;
    const COUNTERS: &'static [&'static str] = &["given", "passed", "lost", "strangers"];

    fn open(&self) {
        let this = &self.0;
        this.is_up.store(true, Relaxed);
        // What asks now is lost: there is no qdisc yet.
        this.ask.queue_in(this, msecs_to_jiffies(INTERVAL));
    }

    fn stop(&self) {
        self.0.is_up.store(false, Relaxed);
        self.0.ask.cancel_sync();
    }

    fn transmit(&self, _queue: u16, turn: Turn, _more: bool) {
        let this = &self.0;
        let mut all = this.asking.lock();
        let flow = turn.key().and_then(|key| all.get_mut(key as usize));
        match flow {
            Some(flow) if flow.waits && flow.token.matches(&turn) => {
                flow.waits = false;
                this.passed.fetch_add(1, Relaxed);
                this.bytes.fetch_add(turn.len() as u64, Relaxed);
            }
            _ => {
                this.strangers.fetch_add(1, Relaxed);
                turn.refuse();
            }
        }
    }

    fn statistics(&self) -> Statistics {
        let this = &self.0;
        Statistics {
            tx_packets: this.passed.load(Relaxed),
            tx_bytes: this.bytes.load(Relaxed),
            tx_dropped: this.lost.load(Relaxed),
            ..Statistics::default()
        }
    }

    fn counter(&self, index: usize) -> u64 {
        let this = &self.0;
        // Nobody asks while the interface is down, and what was in its qdisc is lost then.
        for flow in this.asking.lock().iter_mut() {
            this.settle(flow);
        }
        let all = [&this.given, &this.passed, &this.lost, &this.strangers];
        all.get(index).map_or(0, |counter| counter.load(Relaxed))
    }
}

/// What reading the parameter `counters` gives.
fn show(out: &mut Page<'_>) -> Result {
    let front = Front(TURNSTILE.load().ok_or(ENODEV)?);
    for (at, name) in Front::COUNTERS.iter().enumerate() {
        writeln!(out, "{name} {}", front.counter(at))?;
    }
    Ok(())
}

/// Fields drop in this order: when the interface is gone, nobody queues work any more.
struct TurnstileModule {
    _found: Kept<Turnstile>,
    _registration: Registration,
    _workqueues: Workqueues,
}

impl kernel::Module for TurnstileModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let workqueues = Workqueues::new::<Self>()?;
        let turnstile = Turnstile::new()?;
        let front = Arc::new(Front(turnstile.clone()), GFP_KERNEL)?;
        let registration = Registration::new(&turnstile.device, front, None)?;
        Ok(Self {
            _found: TURNSTILE.keep(turnstile),
            _registration: registration,
            _workqueues: workqueues,
        })
    }
}
