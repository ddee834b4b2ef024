// SPDX-License-Identifier: GPL-2.0

//! T5: udev is told of what ends all connections.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Result};

use crate::{
    process::{allowed, Process},
    session::{Session, Side},
    suites::{
        our_device::{
            control::say,
            victim::{Bystander, Watch},
            STALL,
        },
        until, LONG,
    },
};

/// A program in the guest that hears the kernel's events.
fn listen(s: &Session) -> Result<Process> {
    s.server(Side::Guest, "uevents")
}

/// The events of the driver's that it has heard of.
fn heard(program: &Process, change: &str) -> Vec<String> {
    let word = format!(" RVSOCK={change} ");
    let text = program.text();
    text.lines()
        .filter(|l| l.contains(&word))
        .map(str::to_owned)
        .collect()
}

/// There is one, of the device of the driver under test.
fn expect(s: &Session, program: &Process, change: &str) -> Result<()> {
    let (device, _) = s.device()?;
    let start = "EVENT change@/devices/";
    let deadline = Instant::now() + LONG;
    while heard(program, change).is_empty() {
        ensure!(
            Instant::now() < deadline && !program.ended(),
            "udev hears of no {change}, but: {}",
            program.text()
        );
        thread::sleep(Duration::from_millis(20));
    }
    let events = heard(program, change);
    ensure!(
        events.iter().all(|e| e.starts_with(start)
            && e.contains(&format!("/{device} "))
            && e.contains(" ACTION=change ")
            && e.contains(" SUBSYSTEM=virtio ")),
        "it is no change of {device}: {events:?}"
    );
    Ok(())
}

pub fn transport_reset(s: &mut Session) -> Result<()> {
    const FLOOD: u64 = 100;
    // Those that come before the guest has heard of the last are one for it.
    const SEEN: u64 = 50;
    let mut bystander = Bystander::new(s)?;
    let program = listen(s)?;
    bystander.is_well()?;
    thread::sleep(Duration::from_millis(300));
    ensure!(
        heard(&program, "TRANSPORT_RESET").is_empty(),
        "without a reset: {}",
        program.text()
    );
    say(s, "reset")?;
    expect(s, &program, "TRANSPORT_RESET")?;
    bystander.is_over()?;
    // They are told soon, and once a second.
    let (watch, start) = (Watch::new(s)?, Instant::now());
    let mut resets = 0;
    while resets <= SEEN {
        ensure!(
            start.elapsed() < allowed(STALL),
            "the driver has seen {resets} resets"
        );
        for _ in 0..FLOOD {
            say(s, "reset")?;
            thread::sleep(Duration::from_millis(20));
        }
        resets = watch.moved(s, "events")?;
    }
    thread::sleep(Duration::from_millis(1500));
    until(STALL, || {
        let events = heard(&program, "TRANSPORT_RESET").len();
        ensure!(
            events > 1,
            "of {resets} resets udev hears of the first alone"
        );
        Ok(())
    })?;
    let events = heard(&program, "TRANSPORT_RESET").len();
    let took = start.elapsed();
    // The first, one in each of the seconds that the others took, and the last.
    ensure!(
        events as u64 <= took.as_secs() + 3,
        "of {resets} resets in {took:?} udev hears {events} times"
    );
    Ok(())
}

pub fn framing_lost(s: &mut Session) -> Result<()> {
    let mut bystander = Bystander::new(s)?;
    let program = listen(s)?;
    let watch = Watch::new(s)?;
    say(s, "inject rx num_buffers=0 zeros=1")?;
    expect(s, &program, "FRAMING_LOST")?;
    watch.expect(s, &[("rx_framing_lost", 1)])?;
    let events = heard(&program, "FRAMING_LOST").len();
    ensure!(events == 1, "udev hears of it {events} times");
    bystander.takes_new_again(s)
}
