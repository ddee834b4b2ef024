// SPDX-License-Identifier: GPL-2.0

//! C5: what a host does in the moment in which the guest has heard of a reset.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use anyhow::{ensure, Context, Result};

use super::super::our_device::{connect, control::say, uds, STALL};
use crate::{
    process::allowed,
    session::{Session, Side},
};

/// Connections that the host's programs ask for while the device holds them back.
const COUNT: u32 = 20;
/// Connections of before, which the guest has to drop in that moment.
const BEFORE: u32 = 300;
const ROUNDS: u32 = 5;

/// All that the host asks for before the driver has said that it is done with the reset comes in the moment it
/// says so; none may be taken for one of before.
pub fn twenty(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    for round in 1..=ROUNDS {
        let before = (0..BEFORE)
            .map(|_| connect(s, port))
            .collect::<Result<Vec<_>>>()?;
        say(s, "pause event")?;
        say(s, "reset")?;
        let asked = (0..COUNT).map(|_| ask(s, port)).collect::<Result<Vec<_>>>();
        // They are with the device, and not with the guest.
        thread::sleep(Duration::from_millis(50));
        say(s, "resume event")?;
        drop(before);
        let alive = asked?.iter().filter(|c| lives(c).is_ok()).count() as u32;
        ensure!(
            alive == COUNT,
            "{alive} of {COUNT} connections lived in round {round}"
        );
    }
    Ok(())
}

fn ask(s: &Session, port: u32) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(uds(s)?).context("the device's socket")?;
    stream.set_read_timeout(Some(allowed(STALL)))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    Ok(stream)
}

/// The guest has accepted it, and echoes a while later still.
fn lives(stream: &UnixStream) -> Result<()> {
    let mut stream = stream;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).context("the OK")?;
    }
    for _ in 0..2 {
        stream.write_all(b"e")?;
        stream.read_exact(&mut byte).context("the echo")?;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
