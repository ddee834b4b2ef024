// SPDX-License-Identifier: GPL-2.0

//! Memory that is not there when the driver asks for it where it may not wait: nothing may be lost, and nobody reset.

use anyhow::{ensure, Context, Result};

use super::{interfaces, messages, Test, LONG};
use crate::session::{Session, Side};

pub const TESTS: &[Test] = &[
    Test {
        name: "faults: a stream loses nothing when its receiver finds no memory",
        run: |s| {
            failing(s, &RECEIVE, |s| {
                for size in [100, 5_000, 65_536] {
                    stream(s, "--pause-ms 200", size)?;
                }
                Ok(())
            })
        },
    },
    Test {
        name: "faults: messages lose nothing when their receiver finds no memory",
        run: |s| {
            failing(s, &RECEIVE, |s| {
                messages::pair(s, Side::Guest, "sizes", "").map(drop)
            })
        },
    },
    Test {
        name: "faults: sockmap gets all messages when read_skb finds no memory",
        run: |s| {
            failing(s, &RECEIVE, |s| {
                interfaces::sockmap(s, "unix", "seqpacket", 300_000, 300, "")
            })
        },
    },
    Test {
        name: "faults: sockmap redirects all of a stream when its receiver finds no memory",
        run: |s| {
            failing(s, &RECEIVE, |s| {
                interfaces::sockmap(s, "unix", "stream", 300_000, 100, "")
            })
        },
    },
    Test {
        // The kernel's psock finds no memory either, and puts off what it gets. vsock_bpf_recvmsg() sends a blocking
        // recv() that comes then on to wait for the transport, where it does not see that the bytes have come.
        name: "faults: sockmap passes all of a stream on when its receiver finds no memory",
        run: |s| {
            failing(s, &RECEIVE, |s| {
                interfaces::sockmap(s, "pass", "stream", 300_000, 100, "--dont-wait")
            })
        },
    },
    Test {
        name: "faults: zero-copy goes on where it was when a part of the memory cannot be pinned",
        run: half_pinned,
    },
    Test {
        name: "faults: K4 a credit update that finds no memory is sent later",
        run: |s| failing(s, &DEQUEUE, |s| stream(s, "--pause-ms 200 --poll", 65_536)),
    },
];

/// The kernel's two ways to get memory, by the names of what makes them fail.
const BOTH: &[&str] = &[SLAB, PAGES];
const SLAB: &str = "failslab";
const PAGES: &str = "fail_page_alloc";

/// Allocations that fail.
pub struct Faults {
    /// A function of the driver, as a part of its mangled name: they happen in what it calls.
    function: &'static str,
    percent: u32,
    /// Also those that may wait for memory.
    patient: bool,
    /// Only those of 2^n pages or more.
    order: u32,
    /// So many of each kind.
    times: u64,
    kinds: &'static [&'static str],
}

/// More than a test can use up.
const MANY: u64 = 1_000_000_000;

const RECEIVE: Faults = Faults {
    function: "8Receiver7receive",
    percent: 40,
    patient: false,
    order: 0,
    times: MANY,
    kinds: BOTH,
};
/// As where memory is fragmented: pages there are, but not several in a row.
pub const IN_PIECES: Faults = Faults {
    percent: 100,
    order: 1,
    // Objects of the slab are in pages that are there.
    kinds: &[PAGES],
    ..RECEIVE
};
/// Not even for an answer.
pub const RECEIVE_NOTHING: Faults = Faults {
    percent: 100,
    ..RECEIVE
};
pub const SHUTDOWN: Faults = Faults {
    function: "9callbacks8shutdown",
    ..DEQUEUE
};
/// RESPONSE is the first packet that is made there; the RST in its place finds memory.
pub const RESPONSE: Faults = Faults {
    function: "6accept7enqueue",
    times: 1,
    // Of one in a row the first is the slab's, as all begin with an object of it.
    kinds: &[SLAB],
    ..DEQUEUE
};
const DEQUEUE: Faults = Faults {
    function: "9callbacks14stream_dequeue",
    percent: 100,
    patient: true,
    order: 0,
    times: MANY,
    kinds: BOTH,
};
/// A table for the user's pages, and once more when the rest is tried.
const PIN: Faults = Faults {
    function: "4Conn7enqueue",
    times: 2,
    kinds: &[PAGES],
    ..DEQUEUE
};
pub const FIND_QUEUES: Faults = Faults {
    function: "11find_queues",
    ..DEQUEUE
};

/// The first packet of a call is sent, and of the second a part has been pinned when there is no memory for the rest.
fn half_pinned(s: &mut Session) -> Result<()> {
    for _ in 0..4 {
        let port = s.fresh_port();
        let words = format!("--port {port} --calls 1");
        let server = s.server(Side::Host, &format!("zerocopy absent-server {words}"))?;
        failing(s, &PIN, |s| {
            let sender = format!("zerocopy absent --cid {} {words}", Side::Host.cid());
            s.rvtest(Side::Guest, &sender)?.success(LONG).map(drop)
        })?;
        server.success(LONG)?;
    }
    Ok(())
}

/// 2 MiB from the host in writes of `size` bytes to a reader in the guest.
fn stream(s: &mut Session, reader: &str, size: u32) -> Result<()> {
    const BYTES: u32 = 2 << 20;
    let port = s.fresh_port();
    let server = s.server(Side::Guest, &format!("slow-server --port {port} {reader}"))?;
    let sender = s.rvtest(
        Side::Host,
        &format!(
            "send --cid {} --port {port} --bytes {BYTES} --write-size {size}",
            Side::Guest.cid()
        ),
    )?;
    let text = server.success(LONG)?;
    sender.success(LONG)?;
    ensure!(
        text.contains(&format!("received={BYTES} ")),
        "the reader got something else than {BYTES} bytes: {text}"
    );
    Ok(())
}

/// Runs `test` while allocations fail.
pub fn failing(
    s: &mut Session,
    faults: &Faults,
    test: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    let Faults {
        function,
        percent,
        patient,
        order,
        times,
        kinds,
    } = *faults;
    let (start, end) = place(s, function)?;
    let impatient = if patient { "N" } else { "Y" };
    for kind in kinds {
        s.guest_sh(&format!(
            "cd /sys/kernel/debug/{kind} && {{ [ ! -e min-order ] || echo {order} > min-order; echo 0 > verbose;
            echo {times} > times; echo {start:#x} > require-start; echo {end:#x} > require-end;
            echo {impatient} > ignore-gfp-wait; echo {percent} > probability; }}"
        ))?;
    }
    let outcome = test(s);
    let mut failed = false;
    for kind in kinds {
        let left = s.guest_sh(&format!(
            "cd /sys/kernel/debug/{kind}; echo 0 > probability; cat times"
        ))?;
        let left: u64 = left.trim().parse().context("a number in times")?;
        failed |= left < times;
    }
    outcome.with_context(|| {
        let stats = s.guest_sh("cat /sys/kernel/debug/rvsock/stats");
        format!(
            "the driver says: {}",
            stats.unwrap_or_default().trim().replace('\n', ", ")
        )
    })?;
    ensure!(failed, "no allocation failed: the test has shown nothing");
    Ok(())
}

/// Where a function of the driver begins and ends in the guest's memory.
fn place(s: &Session, function: &str) -> Result<(u64, u64)> {
    let text = s.guest_sh("grep -w rvsock /proc/kallsyms")?;
    let mut symbols: Vec<(u64, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((address, words.nth(1)?))
        })
        .collect();
    symbols.sort_unstable();
    let is_it = |name: &str| name.contains(function) && !name.starts_with("__");
    let at = symbols
        .iter()
        .position(|(_, name)| is_it(name))
        .with_context(|| format!("the driver has no function {function}"))?;
    let start = symbols[at].0;
    let end = symbols[at..]
        .iter()
        .find(|(address, _)| *address > start)
        .with_context(|| format!("nothing follows {function}"))?
        .0;
    Ok((start, end))
}
