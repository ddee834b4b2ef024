// SPDX-License-Identifier: GPL-2.0

//! Processes that take more than their share, and what they leave others.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nix::{errno::Errno, sys::socket::MsgFlags};

use super::{
    fails,
    socket::{Address, Dgram, LARGEST, STALL},
};
use crate::{signals, stream};

const ANY_PORT: u32 = u32::MAX;
const NONE: MsgFlags = MsgFlags::empty();

fn at_any_port() -> Result<Dgram> {
    let socket = Dgram::new()?;
    socket.bind(Address::own(ANY_PORT))?;
    Ok(socket)
}

/// Who holds the 1024 ports behind the one that was picked last leaves others for those who ask for any.
pub fn ports() -> Result<()> {
    stream::raise_file_limit()?;
    let first = at_any_port()?;
    let start = first.name()?.port;
    let mut held = vec![first];
    for i in 1..=1024 {
        let socket = Dgram::new()?;
        match socket.bind(Address::own(start.wrapping_add(i))) {
            Err(e) if e.raw_os_error() != Some(Errno::EADDRINUSE as i32) => {
                return Err(e).context("binding in a row")
            }
            _ => held.push(socket),
        }
    }
    for attempt in 1..=2 {
        let socket = at_any_port()
            .with_context(|| format!("any port beside 1024 in a row, attempt {attempt}"))?;
        held.push(socket);
    }
    println!("OK");
    Ok(())
}

/// Fills the buffers of sockets and closes them, again and again; the lab has stopped the device. Then others wait for
/// room, as they would for their own buffer's.
pub fn closed(peer: Address, time: Duration) -> Result<()> {
    let bytes = vec![0x5a; LARGEST];
    let (start, mut sent, mut empty) = (Instant::now(), 0u64, 0u64);
    while start.elapsed() < time || empty == 0 {
        ensure!(
            start.elapsed() < time + 2 * STALL,
            "{sent} datagrams of closed sockets found room, and more do"
        );
        let socket = Dgram::new()?;
        let before = sent;
        loop {
            match socket.send_to(&bytes, peer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => sent += 1,
                Err(e) if e.raw_os_error() == Some(Errno::EAGAIN as i32) => break,
                Err(e) => return Err(e).context("filling a buffer"),
            }
        }
        empty += u64::from(sent == before);
    }
    println!("FILLED sent={sent} empty={empty}");

    let socket = Dgram::new()?;
    let timeout = Duration::from_millis(200);
    socket.send_timeout(timeout)?;
    let start = Instant::now();
    fails(
        "send() with SO_SNDTIMEO",
        socket.send_to(b"x", peer, NONE),
        Errno::EAGAIN,
    )?;
    let took = start.elapsed();
    ensure!(
        took + Duration::from_millis(5) > timeout && took < STALL,
        "with a time-out of {timeout:?} send() came back after {took:?}"
    );
    signals::allow()?;
    socket.send_timeout(Duration::ZERO)?;
    let outcome = signals::interrupted(|| socket.send_to(b"x", peer, NONE))?;
    fails("send() and a signal", outcome, Errno::EINTR)?;
    println!("WAITING");
    let start = Instant::now();
    socket.send_to(b"x", peer, NONE).context("the last one")?;
    println!("OK waited={}", start.elapsed().as_millis());
    Ok(())
}
