// SPDX-License-Identifier: GPL-2.0

//! T4: what waits to be sent, as the lines of connections have it.

use std::thread;

use anyhow::{ensure, Result};

use super::connections::{connections, Line};
use crate::{
    session::{Session, Side, HOST_CID},
    suites::{
        our_device::{
            control::{paused, stats},
            listen,
            waits::Signal,
        },
        LONG,
    },
};

/// So many connections that not all that they write is with the device.
const WRITERS: u32 = 6;
const PIECES: u32 = 3;
const PIECE: u32 = 65536;

/// Has a program in the guest write more than a device that takes nothing is given, and does `then` meanwhile.
pub fn while_much_waits<T>(
    s: &mut Session,
    then: impl FnOnce(&mut Session, &[Line]) -> Result<T>,
) -> Result<T> {
    let ((port, listener), signal) = (listen(s)?, Signal::new(s));
    let accepting = thread::spawn(move || -> Vec<_> {
        let accepted = (0..WRITERS).map(|_| listener.accept());
        accepted.filter_map(|c| c.ok()).collect()
    });
    let client = format!(
        "hold-client --cid {HOST_CID} --port {port} --connections {WRITERS} --pieces {PIECES} --size {PIECE} --when {signal}"
    );
    let program = s.rvtest(Side::Guest, &client)?;
    program.expect("CONNECTED", LONG)?;
    let held = accepting.join();
    let outcome = paused(s, "tx", |s| {
        signal.give(s)?;
        program.expect("FILLED", LONG)?;
        let lines = connections(s)?;
        let lines: Vec<_> = lines
            .into_iter()
            .filter(|l| l.is("peer", &format!("{HOST_CID}:{port}")))
            .collect();
        ensure!(
            lines.len() == WRITERS as usize,
            "{} of {WRITERS} are shown",
            lines.len()
        );
        then(s, &lines)
    });
    drop(held);
    outcome
}

/// Each connection says what the device has not taken.
pub fn lines(s: &mut Session) -> Result<()> {
    const WRITTEN: u64 = (PIECES * PIECE) as u64;
    while_much_waits(s, |s, lines| {
        let mut all = 0;
        for line in lines {
            let (unsent, waiting) = (line.number("unsent")?, line.number("waiting")?);
            ensure!(
                unsent == WRITTEN && line.number("in_flight")? == WRITTEN,
                "{WRITTEN} bytes were written, and nothing was taken: {line:?}"
            );
            let memory = line.number("waiting_memory")?;
            ensure!(
                memory >= waiting * 32768 && memory <= waiting * 40960,
                "{waiting} packets of 32 KiB hold {memory} bytes"
            );
            all += waiting;
        }
        let counted = stats(s)?["tx_waiting"];
        ensure!(
            all == counted && all > 0,
            "{all} packets of all wait, and {counted} are counted"
        );
        Ok(())
    })
}
