// SPDX-License-Identifier: GPL-2.0

//! H1: a buffer that comes back as a packet, and still holds what it held before.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use anyhow::{ensure, Context, Result};

use super::super::our_device::connect;
use crate::session::{Session, Side};

const ROUNDS: u32 = 6;
/// More packets than the queue has buffers: each then holds a header of the connection that is to live.
const PACKETS: u32 = 400;
/// Connections that end in a round, each of which gives back a buffer that nobody wrote to.
const ENDS: u32 = 30;

/// Old headers of a connection's packets, without their payload, do it no harm.
pub fn headers(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    let (mut living, _) = connect(s, port)?;
    for round in 1..=ROUNDS {
        for i in 0..PACKETS {
            echo(&mut living, i as u8).with_context(|| format!("round {round}, echo {i}"))?;
        }
        for _ in 0..ENDS {
            let (mut other, _) = connect(s, port)?;
            echo(&mut other, 0)?;
        }
    }
    Ok(())
}

fn echo(stream: &mut UnixStream, with: u8) -> Result<()> {
    let (message, mut back) = ([with; 200], [0; 200]);
    stream.write_all(&message)?;
    stream.read_exact(&mut back)?;
    ensure!(message == back, "the echo differs");
    Ok(())
}
