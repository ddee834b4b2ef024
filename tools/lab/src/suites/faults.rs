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
        name: "faults: K3 single bytes hold little where memory is in pieces",
        run: |s| failing(s, &IN_PIECES, bytes_in_pieces),
    },
    Test {
        name: "faults: K4 a credit update that finds no memory is sent later",
        run: |s| failing(s, &DEQUEUE, |s| stream(s, "--pause-ms 200 --poll", 65_536)),
    },
];

/// Allocations that fail.
pub struct Faults {
    /// A function of the driver, as a part of its mangled name: they happen in what it calls.
    function: &'static str,
    percent: u32,
    /// Also those that may wait for memory.
    patient: bool,
    /// Only those of 2^n pages or more.
    order: u32,
}

const RECEIVE: Faults = Faults {
    function: "4Pair7receive",
    percent: 40,
    patient: false,
    order: 0,
};
/// As where memory is fragmented: pages there are, but not several in a row.
const IN_PIECES: Faults = Faults {
    function: "4Pair7receive",
    percent: 100,
    patient: false,
    order: 1,
};
const DEQUEUE: Faults = Faults {
    function: "9callbacks14stream_dequeue",
    percent: 100,
    patient: true,
    order: 0,
};
pub const FIND_QUEUES: Faults = Faults {
    function: "11find_queues",
    percent: 100,
    patient: true,
    order: 0,
};

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

/// Single bytes from the host, 16 Ki of them, to one who reads nothing; each is a packet.
fn bytes_in_pieces(s: &mut Session) -> Result<()> {
    const BYTES: u64 = 16 << 10;
    // Twice the bytes, the overhead of buffers of a page, and what one large buffer more or less holds; what else the
    // kernel does meanwhile.
    const MOST: i64 = 4 << 20;
    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("hold-server --port {port} --connections 1 --kind seqpacket --bytes {BYTES}"),
    )?;
    let held = |s: &Session| -> Result<i64> {
        let text = s.rvtest(Side::Guest, "memory")?.success(LONG)?;
        let number = text
            .split_whitespace()
            .find_map(|w| w.strip_prefix("kernel=")?.parse().ok());
        number.with_context(|| format!("no kernel= in {text:?}"))
    };
    let before = held(s)?;
    let client = s.rvtest(
        Side::Host,
        &format!(
            "hold-client --cid {} --port {port} --connections 1 --pieces {BYTES} --size 1 --kind seqpacket",
            Side::Guest.cid()
        ),
    )?;
    client.expect("FILLED", LONG)?;
    server.expect("HELD", LONG)?;
    let more = held(s)? - before;
    ensure!(
        more < MOST,
        "{BYTES} unread messages of a byte hold {more} bytes of memory"
    );
    Ok(())
}

/// Runs `test` while allocations fail.
pub fn failing(
    s: &mut Session,
    faults: &Faults,
    test: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    /// More than a test can use up.
    const TIMES: u64 = 1_000_000_000;
    let Faults {
        function,
        percent,
        patient,
        order,
    } = *faults;
    let (start, end) = place(s, function)?;
    let impatient = if patient { "N" } else { "Y" };
    // Objects of the slab are in pages that are there.
    let all = ["failslab", "fail_page_alloc"];
    let kinds = if order > 0 { &all[1..] } else { &all[..] };
    for kind in kinds {
        s.guest_sh(&format!(
            "cd /sys/kernel/debug/{kind} && {{ [ ! -e min-order ] || echo {order} > min-order; echo 0 > verbose;
            echo {TIMES} > times; echo {start:#x} > require-start; echo {end:#x} > require-end;
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
        failed |= left < TIMES;
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
