// SPDX-License-Identifier: GPL-2.0

//! Streams under load: many connections, slow and stuck readers, tiny writes, sudden ends.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use super::{
    measured,
    played::{beyond_buffers, counted, needs_counting},
    tried, Test, AT_ONCE, LONG,
};
use crate::{
    kernel::Arch,
    process::allowed,
    session::{Session, Side},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "streams: 64 connections echo at once, guest to host",
        run: |s| echo_64(s, Side::Guest),
    },
    Test {
        name: "streams: 64 connections echo at once, host to guest",
        run: |s| echo_64(s, Side::Host),
    },
    Test {
        name: "streams: 500 connections open at once, guest to host",
        run: |s| open_at_once(s, Side::Guest, 500),
    },
    Test {
        name: "streams: 500 connections open at once, host to guest",
        run: |s| open_at_once(s, Side::Host, 500),
    },
    Test {
        name: "streams: C3 1000 connects in a burst, guest to host",
        run: |s| burst(s, Side::Guest),
    },
    Test {
        name: "streams: C3 1000 connects in a burst, host to guest",
        run: |s| burst(s, Side::Host),
    },
    Test {
        name: "streams: a slow reader in the guest stops nobody else",
        run: |s| slow_reader(s, Side::Guest),
    },
    Test {
        name: "streams: a slow reader on the host stops nobody else",
        run: |s| slow_reader(s, Side::Host),
    },
    Test {
        name: "streams: a reader in a page fault inside recv() stops nobody else",
        run: stuck_reader,
    },
    Test {
        name: "streams: one-byte writes to a sleeping reader, host to guest",
        run: |s| one_byte_writes(s, Side::Host),
    },
    Test {
        name: "streams: one-byte writes to a sleeping reader, guest to host",
        run: |s| one_byte_writes(s, Side::Guest),
    },
    Test {
        name: "streams: connect to a port where nobody listens, from the guest",
        run: |s| nobody_listens(s, Side::Guest),
    },
    Test {
        name: "streams: connect to a port where nobody listens, from the host",
        run: |s| nobody_listens(s, Side::Host),
    },
    Test {
        name: "streams: C8 connect() interrupted by a signal and called again, from the guest",
        run: |s| interrupted(s, Side::Guest, "again"),
    },
    Test {
        name: "streams: C8 connect() interrupted and called again after the peer's answer, from the guest",
        run: |s| interrupted(s, Side::Guest, "later"),
    },
    Test {
        name: "streams: C8 connect() interrupted and called for another port, from the guest",
        run: |s| interrupted(s, Side::Guest, "elsewhere"),
    },
    Test {
        name: "streams: connect() interrupted and not called again, from the guest",
        run: |s| interrupted(s, Side::Guest, "nothing"),
    },
    Test {
        name: "streams: connect() interrupted and the socket closed, from the guest",
        run: |s| interrupted(s, Side::Guest, "close"),
    },
    Test {
        name: "streams: connect() interrupted by a signal and called again, from the host",
        run: |s| interrupted(s, Side::Host, "again --lossy"),
    },
    Test {
        name: "streams: SIGKILL of the guest's side is seen by the host",
        run: |s| sigkill(s, Side::Guest),
    },
    Test {
        name: "streams: SIGKILL of the host's side is seen by the guest",
        run: |s| sigkill(s, Side::Host),
    },
];

/// A server on the side opposite to `client`; gives it with the words that name it to a client.
fn echo_server(s: &mut Session, client: Side) -> Result<(crate::process::Process, String)> {
    let port = s.fresh_port();
    let server = s.server(client.other(), &format!("echo-server --port {port}"))?;
    Ok((
        server,
        format!("--cid {} --port {port}", client.other().cid()),
    ))
}

/// How long a reader sleeps: less where nothing is emulated, nor watched.
fn pause(s: &Session, ms: u64) -> u64 {
    match s.config.guest.arch {
        Arch::Um if !s.config.guest.is_debug() => ms / 4,
        _ => ms,
    }
}

/// What tells a reader how much its writer sends, where the end of it does not.
fn most(s: &Session, writer: Side, bytes: u64) -> String {
    if needs_counting(s, writer) {
        format!("--bytes {bytes}")
    } else {
        String::new()
    }
}

pub(super) fn echo_64(s: &mut Session, client: Side) -> Result<()> {
    let (_server, peer) = echo_server(s, client)?;
    s.rvtest(
        client,
        &format!(
            "echo-client {peer} --connections 64 --bytes 300000 --write-size 10007 {}",
            counted(s, client)
        ),
    )?
    .success(LONG)?;
    Ok(())
}

pub(super) fn open_at_once(s: &mut Session, client: Side, connections: u32) -> Result<()> {
    let (_server, peer) = echo_server(s, client)?;
    s.rvtest(client, &format!("many {peer} --connections {connections}"))?
        .success(LONG)?;
    Ok(())
}

/// The listener's backlog has room for all of them, so that none may be refused.
pub(super) fn burst(s: &mut Session, client: Side) -> Result<()> {
    let (_server, peer) = echo_server(s, client)?;
    s.rvtest(client, &format!("many {peer} --connections 1000 --burst"))?
        .success(LONG)?;
    Ok(())
}

/// How often a reader sleeps twice as long, where the others were done too late to tell whether they had waited for it.
const SLEEPS: u32 = 3;

/// Runs a test with a reader that sleeps for so many milliseconds, until it can tell: it returns whether it could.
fn asleep(
    s: &mut Session,
    ms: u64,
    test: impl Fn(&mut Session, u64) -> Result<bool>,
) -> Result<()> {
    for doubled in 0..SLEEPS {
        let ms = pause(s, ms) << doubled;
        if test(s, ms)? {
            return Ok(());
        }
        s.events.note(format!(
            "the others were done after the {ms} ms that a reader sleeps"
        ));
    }
    bail!("however long the reader slept, the others were done only after it had woken")
}

/// Others must echo while one reader sleeps with its buffer full; then it must get every byte.
pub(super) fn slow_reader(s: &mut Session, reader: Side) -> Result<()> {
    asleep(s, 6000, |s, ms| beside_slow_reader(s, reader, ms))
}

fn beside_slow_reader(s: &mut Session, reader: Side, ms: u64) -> Result<bool> {
    let (port, writer) = (s.fresh_port(), reader.other());
    let bytes = (3 << 20) + beyond_buffers(s, reader);
    let slow = s.server(
        reader,
        &format!(
            "slow-server --port {port} --pause-ms {ms} {}",
            most(s, writer, bytes)
        ),
    )?;
    // The reader sleeps later.
    let start = Instant::now();
    let sender = s.rvtest(
        writer,
        &format!(
            "send --cid {} --port {port} --bytes {bytes} {}",
            reader.cid(),
            counted(s, writer)
        ),
    )?;
    slow.expect("ACCEPTED", LONG)?;
    // The writer runs into the reader's full buffer.
    std::thread::sleep(Duration::from_millis(700));
    let sent = sender.text().contains("SENT");
    ensure!(
        !sent || start.elapsed() >= Duration::from_millis(ms),
        "{bytes} bytes went into the buffer of a reader that sleeps"
    );
    others_echo(s, writer, "a slow reader")?;
    let told = !sent && !slow.ended();
    sender.success(LONG)?;
    let text = slow.success(LONG)?;
    ensure!(
        text.contains(&format!("received={bytes} ")),
        "the slow reader got something else than {bytes} bytes: {text}"
    );
    Ok(told)
}

/// Ten connections echo in both directions, within a time that a stopped device would not keep.
fn others_echo(s: &mut Session, client: Side, beside: &str) -> Result<()> {
    for client in [client, client.other()] {
        let (_server, peer) = echo_server(s, client)?;
        s.rvtest(
            client,
            &format!(
                "echo-client {peer} --connections 4 --bytes 40000 --write-size 4000 {}",
                counted(s, client)
            ),
        )?
        .success(Duration::from_secs(20))
        .with_context(|| format!("echo beside {beside}"))?;
    }
    Ok(())
}

/// The guest's reader holds its socket's lock inside a page fault: no other path may wait for that lock.
pub(super) fn stuck_reader(s: &mut Session) -> Result<()> {
    asleep(s, 6000, beside_stuck_reader)
}

fn beside_stuck_reader(s: &mut Session, ms: u64) -> Result<bool> {
    let port = s.fresh_port();
    let bytes = 1 << 20;
    let stuck = s.server(
        Side::Guest,
        &format!(
            "stuck-server --port {port} --hold-ms {ms} {}",
            most(s, Side::Host, bytes)
        ),
    )?;
    let sender = s.rvtest(
        Side::Host,
        &format!(
            "send --cid {} --port {port} --bytes {bytes} {}",
            Side::Guest.cid(),
            counted(s, Side::Host)
        ),
    )?;
    stuck.expect("STUCK", LONG)?;
    // More data and credit for the stuck socket arrive while it is locked.
    std::thread::sleep(Duration::from_millis(300));
    others_echo(s, Side::Host, "a reader in a page fault")?;
    let told = !stuck.text().contains("RELEASED");
    sender.success(LONG)?;
    let text = stuck.success(LONG)?;
    ensure!(
        text.contains(&format!("received={bytes}")),
        "the reader got something else than {bytes} bytes: {text}"
    );
    Ok(told)
}

/// 100,000 of them, and fewer where each costs many times as much.
pub(super) fn one_byte_writes(s: &mut Session, writer: Side) -> Result<()> {
    let bytes = 100_000 / s.config.guest.slowness();
    let (port, reader) = (s.fresh_port(), writer.other());
    let slow = s.server(
        reader,
        &format!(
            "slow-server --port {port} --pause-ms {} {}",
            pause(s, 12000),
            most(s, writer, bytes.into())
        ),
    )?;
    let sender = s.rvtest(
        writer,
        &format!(
            "send --cid {} --port {port} --bytes {bytes} --write-size 1 {}",
            reader.cid(),
            counted(s, writer)
        ),
    )?;
    sender.success(LONG)?;
    let text = slow.success(LONG)?;
    ensure!(
        text.contains(&format!("received={bytes} ")),
        "the reader got something else than {bytes} bytes: {text}"
    );
    Ok(())
}

pub(super) fn nobody_listens(s: &mut Session, client: Side) -> Result<()> {
    tried(s, |s| nobody_listens_once(s, client)).map(drop)
}

fn nobody_listens_once(s: &mut Session, client: Side) -> Result<Result<String>> {
    let port = s.fresh_port();
    let text = s
        .rvtest(
            client,
            &format!("connect --cid {} --port {port}", client.other().cid()),
        )?
        .success(LONG)?;
    let mut words = text.split_whitespace().skip(1);
    let (outcome, ms) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    ensure!(
        outcome == "ECONNRESET",
        "connect() gave {outcome}, not ECONNRESET"
    );
    let ms: f64 = ms.parse().with_context(|| format!("a time of {ms:?}"))?;
    Ok(measured(
        ms < 500.0,
        format!("connect() took {ms} ms to fail"),
    ))
}

/// Of what the server has accepted nothing may be lost, unless the client wants it no longer.
pub(super) fn interrupted(s: &mut Session, client: Side, then: &str) -> Result<()> {
    // Three ports: two to connect to, and one to ask on.
    let port = s.fresh_port();
    s.fresh_port();
    s.fresh_port();
    let server = client.other();
    let _server = s.server(server, &format!("interrupted-server --port {port}"))?;
    let cid = server.cid();
    s.rvtest(
        client,
        &format!("interrupted-client --cid {cid} --port {port} --times 50 --then {then}"),
    )?
    .success(LONG)?;
    Ok(())
}

pub(super) fn sigkill(s: &mut Session, victim: Side) -> Result<()> {
    for victim_connects in [true, false] {
        let (port, survivor) = (s.fresh_port(), victim.other());
        let (server_side, client_side) = if victim_connects {
            (survivor, victim)
        } else {
            (victim, survivor)
        };
        let server = s.server(server_side, &format!("wait-end-server --port {port}"))?;
        let client = s.rvtest(
            client_side,
            &format!("wait-end-client --cid {} --port {port}", server_side.cid()),
        )?;
        server.expect("ACCEPTED", LONG)?;
        client.expect("CONNECTED", LONG)?;
        let (killed, left) = if victim_connects {
            (client, server)
        } else {
            (server, client)
        };
        let start = Instant::now();
        killed.kill();
        let end = left.expect("END", LONG)?;
        ensure!(
            start.elapsed() < allowed(AT_ONCE),
            "the end ({end}) was seen after {:?}",
            start.elapsed()
        );
    }
    Ok(())
}
