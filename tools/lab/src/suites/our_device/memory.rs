// SPDX-License-Identifier: GPL-2.0

//! What guest programs can make the driver hold while the device takes nothing (K5).

use std::{
    io::{Read, Write},
    thread,
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use guest::fill::byte;

use super::{
    control::{paused, stats},
    listen, STALL,
};
use crate::{
    process::allowed,
    session::{Session, Side},
    suites::{dgram::host::Port, played::shares_dgrams, until, LONG},
};

/// The memory that packets of a connection with the default buffer may wait in, in bytes.
const OF_CONNECTION: i64 = 2 * (256 << 10);
/// The same of all connections, or of all datagrams.
const OF_ALL: i64 = 16 << 20;
/// The packets in a ring of 256, if they are small.
const SMALL_RING: i64 = 256 * 1024;

/// What else the kernel does with its memory meanwhile.
fn slack(s: &Session) -> i64 {
    (2 << 20) + s.kernel().quarantine()
}

/// What the guest's kernel holds, in bytes.
pub(super) fn held(s: &Session) -> Result<i64> {
    let text = s.rvtest(Side::Guest, "memory")?.success(LONG)?;
    let found = text
        .split_whitespace()
        .find_map(|w| w.strip_prefix("kernel=")?.parse().ok());
    found.with_context(|| format!("no kernel= in {text:?}"))
}

/// Single bytes, written in turn to several connections until there is no room, hold no more memory than the guide
/// says, and come as they were written.
pub fn single_bytes(s: &mut Session) -> Result<()> {
    const CONNECTIONS: usize = 3;
    let (port, listener) = listen(s)?;
    let program = s.rvtest(
        Side::Guest,
        &format!("fill-bytes --cid 2 --port {port} --connections {CONNECTIONS}"),
    )?;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(allowed(STALL)))?;
        streams.push(stream);
    }
    program.expect("CONNECTED", LONG)?;
    let line = paused(s, "tx", |s| {
        let before = held(s)?;
        streams[0].write_all(b"x")?;
        let line = program.expect("FILLED", LONG)?;
        let (more, gauge) = (held(s)? - before, stats(s)?["tx_waiting_bytes"]);
        let (most, most_waiting) = (
            CONNECTIONS as i64 * OF_CONNECTION + SMALL_RING + slack(s),
            CONNECTIONS as i64 * (OF_CONNECTION + 8192),
        );
        ensure!(
            more < most && (gauge as i64) < most_waiting,
            "{line}: they hold {more} bytes of memory, {gauge} of them in packets that wait"
        );
        Ok(line)
    })?;
    let counts = line
        .split_whitespace()
        .skip_while(|w| *w != "FILLED")
        .skip(1);
    let counts: Vec<u64> = counts.map(|w| Ok(w.parse()?)).collect::<Result<_>>()?;
    ensure!(counts.len() == CONNECTIONS, "{line:?} has other counts");
    for (mut stream, count) in streams.into_iter().zip(counts) {
        ensure!(count > 100 << 10, "there was room for {count} bytes only");
        let mut bytes = vec![0; count as usize];
        stream.read_exact(&mut bytes).context("reading them")?;
        let wrong = (0..).zip(&bytes).find(|(at, b)| byte(*at) != **b);
        ensure!(wrong.is_none(), "byte {wrong:?} is another");
    }
    Ok(())
}

/// Connections that are begun and given up, while the device sees nothing of it, leave nothing behind.
pub fn given_up(s: &mut Session) -> Result<()> {
    let (port, _listener) = listen(s)?;
    let round = |s: &mut Session| -> Result<i64> {
        let command = format!("give-up --cid 2 --port {port} --ms 1000");
        s.rvtest(Side::Guest, &command)?.success(LONG)?;
        // af_vsock keeps each socket for the time of its connect().
        thread::sleep(Duration::from_secs(4));
        held(s)
    };
    paused(s, "tx", |s| {
        // The first round fills the allocator's own lists.
        let before = round(s)?;
        round(s)?;
        until(STALL, || {
            let (more, waiting) = (held(s)? - before, stats(s)?["tx_waiting"]);
            // For each that is in the ring, an RST.
            ensure!(
                more < 2 * SMALL_RING + slack(s) && waiting <= 260,
                "they hold {more} bytes of memory, and {waiting} packets wait"
            );
            Ok(())
        })
    })
}

/// Where another driver has the name of ours, the module is not loaded, again and again.
pub fn not_loaded(s: &mut Session) -> Result<()> {
    const TIMES: u32 = 40;
    /// What is made before the driver is registered, in bytes; the allocator rounds it up to twice as much.
    const TABLES: i64 = 32 << 10;
    s.unload_when_free()?;
    s.guest_sh("insmod /modules/rvsock_namesake.ko")?;
    let outcome = (|| {
        let round = |s: &mut Session, times: u32| -> Result<i64> {
            for _ in 0..times {
                let (code, text) = s.guest_try("insmod /modules/rvsock.ko", LONG)?;
                ensure!(
                    code != 0 && text.contains("Device or resource busy"),
                    "the module was to be refused by EBUSY: {text}"
                );
            }
            held(s)
        };
        // The first round fills the allocator's own lists.
        let before = round(s, 4)?;
        let more = round(s, TIMES)? - before;
        ensure!(
            more < i64::from(TIMES) * TABLES,
            "{TIMES} times leave {more} bytes of memory behind"
        );
        Ok(())
    })();
    s.guest_sh("rmmod rvsock_namesake")?;
    s.load()?;
    outcome
}

/// Datagrams of sockets that were closed hold a bounded memory; who comes later waits, as for his own buffer.
pub fn closed_datagram_sockets(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let (queue, gauge) = if shares_dgrams(s) {
        ("tx", "tx_waiting_bytes")
    } else {
        ("dgram-tx", "dgram_tx_waiting_bytes")
    };
    let program = paused(s, queue, |s| {
        let before = held(s)?;
        let program = s.rvtest(
            Side::Guest,
            &format!(
                "dgram crowd-closed --cid 2 --port {} --ms 2000",
                port.number
            ),
        )?;
        program.expect("FILLED", LONG)?;
        let (more, waiting) = (held(s)? - before, stats(s)?[gauge]);
        // The ring may be full of the greatest ones.
        let most = OF_ALL + 256 * (66 << 10) + slack(s);
        ensure!(
            more < most && (waiting as i64) < OF_ALL + (128 << 10),
            "they hold {more} bytes of memory, {waiting} of them in datagrams that wait"
        );
        program.expect("WAITING", LONG)?;
        thread::sleep(Duration::from_millis(300));
        ensure!(!program.ended(), "the last sender did not wait");
        Ok(program)
    })?;
    port.while_runs(&program, |_, _| Ok(()))?;
    program.success(LONG).map(drop)
}
