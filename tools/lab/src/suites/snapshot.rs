// SPDX-License-Identifier: GPL-2.0

//! A guest that is saved to a file with its connections, and restored: under its CID, and under another (C5).

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};

use super::{our_device::STALL, seen::connections::is_connecting, Test, AT_ONCE, LONG};
use crate::{
    config::Driver,
    process::allowed,
    session::{Session, Side, GUEST_CID},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "snapshot: a restored guest's connections end at once, listeners go on",
        run: |s| restored(s, GUEST_CID),
    },
    Test {
        name:
            "snapshot: a guest restored with another CID ends its connections and has the new one",
        run: |s| restored(s, GUEST_CID + 40),
    },
];

/// Nobody has this CID, and vhost drops what is for it: connecting to it waits.
const NOBODY: u32 = 99;

/// Starts a program of rvtest that outlives its control connection, which a new emulator does not know.
fn detached(s: &Session, log: &str, command: &str) -> Result<()> {
    // The agent ends what is in the group of what it started: so this waits until the program has left it.
    s.guest_sh(&format!(
        "setsid sh -c 'echo STARTED > /tmp/{log}; exec rvtest {command} >> /tmp/{log}' < /dev/null > /tmp/{log}.error 2>&1 &
        until grep -q STARTED /tmp/{log}; do sleep 0.02; done"
    ))?;
    Ok(())
}

/// Waits until a detached program has said something that starts with `start`, and gives it all.
fn said(s: &Session, log: &str, start: &str, timeout: Duration) -> Result<String> {
    let deadline = Instant::now() + timeout;
    loop {
        let text = s.guest_sh(&format!("cat /tmp/{log} /tmp/{log}.error"))?;
        if text.lines().any(|l| l.starts_with(start)) {
            return Ok(text);
        }
        ensure!(
            Instant::now() < deadline,
            "{log}: no {start:?} within {timeout:?}; it said: {text}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}

fn restored(s: &mut Session, new_cid: u32) -> Result<()> {
    // A guest that has been restored before is no fresh one.
    s.discard_guest();
    s.ensure_guest()?;
    let [out, back, any, old, unanswered] = std::array::from_fn(|_| s.fresh_port());
    let host = Side::Host.cid();

    let host_server = s.server(Side::Host, &format!("wait-end-server --port {out}"))?;
    detached(
        s,
        "client",
        &format!("wait-end-client --cid {host} --port {out}"),
    )?;
    detached(s, "server", &format!("wait-end-server --port {back}"))?;
    detached(s, "any", &format!("echo-server --port {any}"))?;
    detached(
        s,
        "old",
        &format!("echo-server --port {old} --cid {GUEST_CID}"),
    )?;
    for log in ["server", "any", "old"] {
        said(s, log, "READY", LONG)?;
    }
    let host_client = s.rvtest(
        Side::Host,
        &format!("wait-end-client --cid {GUEST_CID} --port {back}"),
    )?;
    said(s, "client", "CONNECTED", LONG)?;
    said(s, "server", "ACCEPTED", LONG)?;
    host_server.expect("ACCEPTED", LONG)?;
    host_client.expect("CONNECTED", LONG)?;
    detached(
        s,
        "connecting",
        &format!("connect --cid {NOBODY} --port {unanswered} --patience 600"),
    )?;
    said(s, "connecting", "CONNECTING", LONG)?;
    if s.driver == Driver::Rvsock {
        is_connecting(s, NOBODY, unanswered)?;
    }
    thread::sleep(Duration::from_millis(300));

    let file = s.config.scratch.join("guest.saved");
    s.save(&file).context("saving the guest")?;
    let outcome = s.restore(&file, new_cid).context("restoring the guest");
    let _ = std::fs::remove_file(&file);
    outcome?;

    s.guest_sh("true").context("the restored guest's agent")?;
    let start = Instant::now();
    for (log, word) in [
        ("client", "END"),
        ("server", "END"),
        ("connecting", "CONNECT "),
    ] {
        let text = said(s, log, word, allowed(STALL).saturating_sub(start.elapsed()))
            .with_context(|| format!("the guest's {log} after it was restored"))?;
        ensure!(
            text.lines()
                .any(|l| l.starts_with(word) && l.contains("ECONNRESET")),
            "the guest's {log} ended with something else than ECONNRESET: {text}"
        );
    }
    for (process, what) in [(&host_server, "server"), (&host_client, "client")] {
        process
            .expect("END", AT_ONCE)
            .with_context(|| format!("the host's {what}"))?;
    }

    let text = s.rvtest(Side::Guest, "cid")?.success(LONG)?;
    ensure!(
        text == format!("CID {new_cid}\n"),
        "the guest's CID is {new_cid}; it says: {text}"
    );
    if s.driver == Driver::Rvsock {
        let stats = s.guest_sh("cat /sys/kernel/debug/rvsock/stats")?;
        let lines: Vec<_> = stats.lines().collect();
        ensure!(
            lines.contains(&format!("guest_cid: {new_cid}").as_str())
                && !lines.contains(&"events: 0"),
            "CID {new_cid} and an event are not in the driver's stats: {stats}"
        );
    }
    for (port, bound) in [(any, "any CID"), (old, "the CID before")] {
        s.rvtest(
            Side::Host,
            &format!("echo-client --cid {new_cid} --port {port} --connections 3 --bytes 100000"),
        )?
        .success(LONG)
        .with_context(|| format!("echo with the listener bound to {bound}"))?;
    }
    let port = s.fresh_port();
    let _echo = s.server(Side::Host, &format!("echo-server --port {port}"))?;
    s.rvtest(
        Side::Guest,
        &format!("echo-client --cid {host} --port {port} --connections 3 --bytes 100000"),
    )?
    .success(LONG)
    .context("echo from the restored guest")?;
    if new_cid != GUEST_CID {
        // The next test expects the usual CID.
        let outcome = s.settle(Ok(()));
        s.discard_guest();
        return outcome;
    }
    Ok(())
}
