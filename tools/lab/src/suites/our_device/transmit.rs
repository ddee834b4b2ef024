// SPDX-License-Identifier: GPL-2.0

//! A device that is slow to take what the guest sends, or does not see it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Result};

use super::{
    control::{say, stats},
    listen,
    victim::Bystander,
    STALL,
};
use crate::{
    process::{allowed, Process},
    session::{Session, Side},
    suites::{until, LONG},
};

/// A program in the guest that has written so many pieces to one on the host, and holds the connection.
fn holder(s: &mut Session, pieces: u32, size: u32) -> Result<Process> {
    let (port, listener) = listen(s)?;
    thread::spawn(move || -> std::io::Result<u64> {
        let (mut stream, _) = listener.accept()?;
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    s.rvtest(
        Side::Guest,
        &format!(
            "hold-client --cid 2 --port {port} --connections 1 --pieces {pieces} --size {size}"
        ),
    )
}

/// Waits until the driver has nothing under way.
fn nothing_under_way(s: &Session) -> Result<()> {
    until(STALL, || {
        let stats = stats(s)?;
        let left = stats["tx_in_flight"] + stats["tx_waiting"];
        ensure!(
            left == 0,
            "{left} packets are under way, which the device has used"
        );
        Ok(())
    })
}

/// Packets that are used one by one, each after the driver has looked for the last time, are taken back though nobody
/// sends any more; a closed socket does not keep the module.
pub fn reclaimed(s: &mut Session) -> Result<()> {
    const PIECES: u32 = 12;
    say(s, "pace tx 30")?;
    let outcome = (|s: &mut Session| -> Result<()> {
        let program = holder(s, PIECES, 100)?;
        program.expect("FILLED", LONG)?;
        thread::sleep(Duration::from_millis(30 * u64::from(PIECES)));
        nothing_under_way(s)?;
        program.kill();
        Ok(())
    })(s);
    say(s, "pace tx 0")?;
    outcome?;
    s.unload_when_free()?;
    s.load()
}

/// A device without EVENT_IDX seems to want to be told of nothing, too: it is told of packets, and not when they are taken
/// back, which a timer does here.
pub fn kicks(s: &mut Session) -> Result<()> {
    const TIMES: u64 = 20;
    let mut bystander = Bystander::new(s)?;
    bystander.is_well()?;
    let before = stats(s)?;
    for _ in 0..TIMES {
        bystander.is_well()?;
        thread::sleep(Duration::from_millis(60));
    }
    let after = stats(s)?;
    let [kicks, packets] = ["tx_kicks", "tx_packets"].map(|name| after[name] - before[name]);
    ensure!(
        kicks <= packets && packets >= TIMES,
        "the device was told {kicks} times of {packets} packets"
    );
    Ok(())
}

/// A device that has lost its place in the queue, and with EVENT_IDX never asks for a kick again, is told of packets that
/// have been there for a second.
pub fn forgotten(s: &mut Session) -> Result<()> {
    let mut bystander = Bystander::new(s)?;
    bystander.is_well()?;
    for _ in 0..2 {
        say(s, "forget tx")?;
        let start = Instant::now();
        bystander.is_well()?;
        let took = start.elapsed();
        ensure!(
            took > Duration::from_millis(500) && took < allowed(Duration::from_secs(4)),
            "the device, which sees no packet before a kick, had an answer after {took:?}"
        );
    }
    Ok(())
}
