// SPDX-License-Identifier: GPL-2.0

//! A driver that finds no memory: what it owes it sends later, and what it keeps is little.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};

use super::{connect, control::counters, listen, memory::held, uds, waits::Signal, STALL};
use crate::{
    process::allowed,
    session::{Session, Side, GUEST_CID},
    suites::{
        faults::{failing, IN_PIECES, RECEIVE_NOTHING, RESPONSE, SHUTDOWN},
        AT_ONCE, LONG,
    },
};

/// The end of the guest's half finds no memory where shutdown() is called; who tries again finds some.
pub fn half_close(s: &mut Session) -> Result<()> {
    let ((port, listener), signal) = (listen(s)?, Signal::new(s));
    let program = s.rvtest(
        Side::Guest,
        &format!("waits half-close --cid 2 --port {port} --when {signal}"),
    )?;
    program.expect("CONNECTED", LONG)?;
    let (mut stream, _) = listener.accept()?;
    failing(s, &SHUTDOWN, |s| {
        signal.give(s)?;
        program.expect("SHUT", LONG)?;
        stream.set_read_timeout(Some(allowed(AT_ONCE)))?;
        let got = stream
            .read(&mut [0; 16])
            .context("the end of the guest's half does not come")?;
        ensure!(got == 0, "{got} bytes came, and none were sent");
        Ok(())
    })
}

/// The host ends both halves, and the RST that answers it finds no memory in the bottom half.
pub fn answer(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("hold-server --port {port} --connections 1"),
    )?;
    let (stream, _) = connect(s, port)?;
    server.expect("HELD", LONG)?;
    let resets = |s: &Session| -> Result<u64> {
        let counters = counters(s)?;
        counters[GUEST_CID.to_string()]["resets_received"]
            .as_u64()
            .context("no resets_received")
    };
    let before = resets(s)?;
    failing(s, &RECEIVE_NOTHING, |s| {
        drop(stream);
        let start = Instant::now();
        while resets(s)? == before {
            ensure!(start.elapsed() < allowed(AT_ONCE), "no RST comes");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })
}

/// The answer to a REQUEST finds no memory: the caller is refused, and accept() does not see him.
pub fn refusal(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("hold-server --port {port} --connections 1"),
    )?;
    failing(s, &RESPONSE, |s| {
        let mut caller = UnixStream::connect(uds(s)?)?;
        caller.set_read_timeout(Some(allowed(AT_ONCE)))?;
        caller.write_all(format!("CONNECT {port}\n").as_bytes())?;
        let got = caller
            .read(&mut [0; 16])
            .context("the caller hears nothing")?;
        ensure!(got == 0, "the caller was accepted without memory");
        Ok(())
    })?;
    ensure!(
        !server.text().contains("HELD"),
        "accept() has got a connection that was refused"
    );
    // The next one finds memory.
    let (stream, _) = connect(s, port)?;
    stream.set_read_timeout(Some(allowed(STALL)))?;
    server.expect("HELD", LONG).map(drop)
}

/// Messages of a few bytes from the host, to those who read nothing, where there are pages, but not several in a row. Each
/// is a packet.
pub fn bytes_in_pieces(s: &mut Session) -> Result<()> {
    // More than the allocator has large objects left for.
    const CONNECTIONS: u64 = 4;
    const MESSAGES: u64 = 32 << 10;
    const SIZE: u64 = 4;
    // Twice the bytes and what marks their boundaries, with the overhead of buffers of a page, and what one large buffer
    // more or less holds for each; what else the kernel does meanwhile.
    const MOST: i64 = 8 << 20;
    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!(
            "hold-server --port {port} --connections {CONNECTIONS} --kind seqpacket --bytes {}",
            MESSAGES * SIZE
        ),
    )?;
    let before = held(s)?;
    let mut more = 0;
    failing(s, &IN_PIECES, |s| {
        let client = s.rvtest(
            Side::Host,
            &format!(
                "hold-client --cid {GUEST_CID} --port {port} --connections {CONNECTIONS} --pieces {MESSAGES} --size {SIZE} --kind seqpacket"
            ),
        )?;
        client.expect("FILLED", LONG)?;
        server.expect("HELD", LONG)?;
        more = held(s)? - before;
        Ok(())
    })?;
    ensure!(
        more < MOST,
        "{} unread bytes hold {more} bytes of memory",
        CONNECTIONS * MESSAGES * SIZE
    );
    Ok(())
}
