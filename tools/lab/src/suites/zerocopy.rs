// SPDX-License-Identifier: GPL-2.0

//! MSG_ZEROCOPY: the data, and each notification once, also when the socket or the device goes first.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::{Test, LONG};
use crate::session::{Session, Side};

pub const TESTS: &[Test] = &[
    Test {
        name: "zerocopy: one notification for each of 60 calls, streams",
        run: |s| exact(s, "stream", "pinned"),
    },
    Test {
        name: "zerocopy: one notification for each of 60 calls, messages",
        run: |s| exact(s, "seqpacket", "pinned"),
    },
    Test {
        name: "zerocopy: 1000 calls that wait for room, none lost or doubled, streams",
        run: |s| many(s, "stream"),
    },
    Test {
        name: "zerocopy: 1000 calls that wait for room, none lost or doubled, messages",
        run: |s| many(s, "seqpacket"),
    },
    Test {
        name: "zerocopy: io_uring, one notification for each of 60 calls",
        run: |s| ring(s, "pinned", "--allowed"),
    },
    Test {
        name: "zerocopy: io_uring, the same without SO_ZEROCOPY",
        run: |s| ring(s, "pinned", ""),
    },
    Test {
        name: "zerocopy: forbidden by zerocopy=0, the notifications say that it was copied",
        run: forbidden,
    },
    Test {
        name: "zerocopy: the socket is closed and the memory unmapped first",
        run: closed_first,
    },
    Test {
        name: "zerocopy: the device is unbound first",
        run: unbound_first,
    },
];

struct Load<'a> {
    kind: &'a str,
    calls: u32,
    size: u32,
    buffer: u32,
}

/// The guest sends `load`, the host reads and checks it.
fn send(s: &mut Session, load: &Load, client: &str, server: &str) -> Result<String> {
    let port = s.fresh_port();
    let words = format!(
        "--port {port} --kind {} --calls {} --size {} --buffer {}",
        load.kind, load.calls, load.size, load.buffer
    );
    let server = s.server(Side::Host, &format!("zerocopy server {words} {server}"))?;
    let client = s.rvtest(
        Side::Guest,
        &format!(
            "zerocopy client --cid {} {words} {client}",
            Side::Host.cid()
        ),
    )?;
    let text = client.success(LONG)?;
    server.success(LONG)?;
    Ok(text)
}

/// All calls fit the window, so the kernel is called once for each, and tells of each once.
fn exact(s: &mut Session, kind: &str, expect: &str) -> Result<()> {
    let load = Load {
        kind,
        calls: 60,
        size: 60_000,
        buffer: 4 << 20,
    };
    send(
        s,
        &load,
        &format!("--expect {expect} --until notified --exact"),
        "",
    )
    .map(drop)
}

/// io_uring brings its own notifications along.
fn ring(s: &mut Session, expect: &str, allowed: &str) -> Result<()> {
    for kind in ["stream", "seqpacket"] {
        let port = s.fresh_port();
        let words = format!("--port {port} --kind {kind} --calls 60 --size 60000 --buffer 4194304");
        let server = s.server(Side::Host, &format!("zerocopy server {words}"))?;
        let client = s.rvtest(
            Side::Guest,
            &format!(
                "zerocopy ring --cid {} {words} --expect {expect} {allowed}",
                Side::Host.cid()
            ),
        )?;
        client.success(LONG)?;
        server.success(LONG)?;
    }
    Ok(())
}

fn many(s: &mut Session, kind: &str) -> Result<()> {
    let load = Load {
        kind,
        calls: 1000,
        size: 20_000,
        buffer: 256 << 10,
    };
    send(s, &load, "--expect any --until notified", "").map(drop)
}

fn forbidden(s: &mut Session) -> Result<()> {
    const PARAMETER: &str = "/sys/module/rvsock/parameters/zerocopy";
    s.guest_sh(&format!("echo 0 > {PARAMETER}"))?;
    let outcome = exact(s, "stream", "copied").and_then(|()| exact(s, "seqpacket", "copied"));
    let outcome = outcome.and_then(|()| ring(s, "copied", ""));
    s.guest_sh(&format!("echo 1 > {PARAMETER}"))?;
    outcome?;
    exact(s, "stream", "pinned")
}

/// What was pinned stays what it was until the host has it, whatever becomes of the sender.
fn closed_first(s: &mut Session) -> Result<()> {
    for kind in ["stream", "seqpacket"] {
        for pause in [0, 300] {
            let load = Load {
                kind,
                calls: 30,
                size: 100_000,
                buffer: 4 << 20,
            };
            send(
                s,
                &load,
                "--expect any --until sent",
                &format!("--pause-ms {pause}"),
            )?;
        }
    }
    Ok(())
}

fn unbound_first(s: &mut Session) -> Result<()> {
    let (device, driver) = s.device()?;
    for kind in ["stream", "seqpacket"] {
        let port = s.fresh_port();
        let words = format!("--port {port} --kind {kind} --calls 1 --size 60000");
        let server = s.server(Side::Host, &format!("zerocopy server {words}"))?;
        let client = s.rvtest(
            Side::Guest,
            &format!(
                "zerocopy client --cid {} {words} --expect any --until error",
                Side::Host.cid()
            ),
        )?;
        server.expect("ACCEPTED", LONG)?;
        client.expect("BEGUN", LONG)?;
        std::thread::sleep(Duration::from_millis(500));
        s.guest_sh(&format!(
            "echo {device} > /sys/bus/virtio/drivers/{driver}/unbind"
        ))?;
        let outcome = client.success(Duration::from_secs(20));
        s.guest_sh(&format!(
            "echo {device} > /sys/bus/virtio/drivers/{driver}/bind"
        ))?;
        let text = outcome?;
        ensure!(
            text.contains("ERROR ") && !text.contains("OK calls=0 "),
            "the sender was not interrupted: {text}"
        );
    }
    Ok(())
}
