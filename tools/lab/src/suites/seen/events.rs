// SPDX-License-Identifier: GPL-2.0

//! T5: udev is told of what ends all connections.

use std::{thread, time::Duration};

use anyhow::{ensure, Result};

use crate::{
    process::Process,
    session::{Session, Side},
    suites::{
        our_device::{
            control::say,
            victim::{Bystander, Watch},
        },
        LONG,
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
    let deadline = std::time::Instant::now() + LONG;
    while heard(program, change).is_empty() {
        ensure!(
            std::time::Instant::now() < deadline && !program.ended(),
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
    let watch = Watch::new(s)?;
    for _ in 0..FLOOD {
        say(s, "reset")?;
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(1500));
    let (resets, events) = (
        watch.moved(s, "events")?,
        heard(&program, "TRANSPORT_RESET").len(),
    );
    ensure!(
        resets > FLOOD / 2,
        "the driver has seen {resets} of {FLOOD} resets"
    );
    // The first, one in each of the seconds that the others took, and the last.
    ensure!(
        (2..=6).contains(&events),
        "of {resets} resets in two seconds udev hears {events} times"
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
