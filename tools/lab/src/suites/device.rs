// SPDX-License-Identifier: GPL-2.0

//! The device's life: unbound and bound under traffic, asleep and awake, switched off.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use serde_json::json;

use super::{Test, AT_ONCE, LONG};
use crate::{
    process::allowed,
    session::{Session, Side},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "device: the host's sockets end at once at unbind",
        run: unbind_is_seen,
    },
    Test {
        name: "device: 20 rounds of unbind and bind under traffic",
        run: rebind_under_traffic,
    },
    Test {
        name: "leaks: kmemleak finds nothing before the guest switches off",
        run: leaks,
    },
    Test {
        name: "device: the guest's poweroff is seen by the host at once",
        run: poweroff_is_seen,
    },
    Test {
        name: "device: suspend to memory and wake up, listeners work after it",
        run: |s| suspend(s, "mem"),
    },
    Test {
        name: "leaks: kmemleak finds nothing after the sleep",
        run: leaks,
    },
];

/// What user space may be told when its device goes away.
const CLEAN_ERRORS: &[&str] = &[
    "ECONNRESET",
    "EPIPE",
    "ENODEV",
    "ENOTCONN",
    "ENETUNREACH",
    "UnexpectedEof",
];

fn unbind_is_seen(s: &mut Session) -> Result<()> {
    let (device, driver) = s.device()?;
    let mut late = Vec::new();
    for host_connects in [true, false] {
        let port = s.fresh_port();
        let (server_side, client_side) = if host_connects {
            (Side::Guest, Side::Host)
        } else {
            (Side::Host, Side::Guest)
        };
        let server = s.server(server_side, &format!("wait-end-server --port {port}"))?;
        let client = s.rvtest(
            client_side,
            &format!("wait-end-client --cid {} --port {port}", server_side.cid()),
        )?;
        server.expect("ACCEPTED", LONG)?;
        client.expect("CONNECTED", LONG)?;
        let start = Instant::now();
        s.guest_sh(&format!(
            "echo {device} > /sys/bus/virtio/drivers/{driver}/unbind"
        ))?;
        for (process, side) in [(server, server_side), (client, client_side)] {
            if process
                .expect("END", AT_ONCE.saturating_sub(start.elapsed()))
                .is_err()
            {
                late.push(format!("{side:?}"));
            }
        }
        s.guest_sh(&format!(
            "echo {device} > /sys/bus/virtio/drivers/{driver}/bind"
        ))?;
    }
    ensure!(
        late.is_empty(),
        "not ended {AT_ONCE:?} after the unbind: the sockets of {late:?}"
    );
    Ok(())
}

fn rebind_under_traffic(s: &mut Session) -> Result<()> {
    let (device, driver) = s.device()?;
    let (out, back) = (s.fresh_port(), s.fresh_port());
    let _host = s.server(Side::Host, &format!("echo-server --port {out}"))?;
    let _guest = s.server(Side::Guest, &format!("echo-server --port {back}"))?;
    let traffic = [
        (
            Side::Guest,
            s.rvtest(
                Side::Guest,
                &format!(
                    "traffic --cid {} --port {out} --flows 4 --seconds 25",
                    Side::Host.cid()
                ),
            )?,
        ),
        (
            Side::Host,
            s.rvtest(
                Side::Host,
                &format!(
                    "traffic --cid {} --port {back} --flows 4 --seconds 25",
                    Side::Guest.cid()
                ),
            )?,
        ),
    ];
    for (_, load) in &traffic {
        load.expect("RUNNING", LONG)?;
    }
    for round in 1..=20 {
        std::thread::sleep(Duration::from_millis(300));
        for action in ["unbind", "bind"] {
            s.guest_sh(&format!(
                "echo {device} > /sys/bus/virtio/drivers/{driver}/{action}"
            ))
            .with_context(|| format!("round {round}: {action}"))?;
            std::thread::sleep(Duration::from_millis(30));
        }
    }
    for (side, load) in traffic {
        let text = load.success(LONG)?;
        let names: BTreeSet<_> = text
            .lines()
            .filter_map(|l| {
                l.strip_prefix("ERROR ")?
                    .split_whitespace()
                    .next()?
                    .split_once(':')
                    .map(|(_, name)| name)
            })
            .collect();
        let unclean: Vec<_> = names
            .iter()
            .filter(|n| side == Side::Guest && !CLEAN_ERRORS.contains(n))
            .collect();
        ensure!(
            unclean.is_empty(),
            "user space on the {side:?} side saw {unclean:?}; all it saw: {text}"
        );
        ensure!(
            !names.contains("EAGAIN"),
            "a connection on the {side:?} side did not end with the device, but hung: {text}"
        );
        ensure!(
            !names.contains("CORRUPT"),
            "wrong data on the {side:?} side: {text}"
        );
        ensure!(
            !text.contains("OK echoes=0\n"),
            "no echo at all on the {side:?} side: {text}"
        );
    }
    // All is as before.
    for (client, port) in [(Side::Guest, out), (Side::Host, back)] {
        s.rvtest(
            client,
            &format!(
                "echo-client --cid {} --port {port} --connections 4 --bytes 100000",
                client.other().cid()
            ),
        )?
        .success(LONG)
        .context("echo after the last bind")?;
    }
    Ok(())
}

pub fn suspend(s: &mut Session, state: &str) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    let client = format!(
        "echo-client --cid {} --port {port} --connections 4 --bytes 50000",
        Side::Guest.cid()
    );
    s.rvtest(Side::Host, &client)?
        .success(LONG)
        .context("echo before the sleep")?;
    let states = s.guest_sh("cat /sys/power/state")?;
    ensure!(
        states.split_whitespace().any(|w| w == state),
        "the guest's kernel knows the sleep states {states:?}, not {state}"
    );
    if state == "mem" {
        s.guest_sh("echo deep > /sys/power/mem_sleep")
            .context("the guest has no S3")?;
    }
    let mark = s.machine()?.serial.mark();
    let sleep = s.spawn(
        Side::Guest,
        &["sh", "-c", &format!("echo 0 > /sys/class/rtc/rtc0/wakealarm; echo +3 > /sys/class/rtc/rtc0/wakealarm; sleep 0.2; echo {state} > /sys/power/state && echo AWAKE")],
    )?;
    let guest = s.machine()?;
    if guest
        .serial
        .wait_for(mark, "PM: suspend entry", Duration::from_secs(10))
        .is_none()
    {
        bail!("the guest did not begin to sleep: {}", sleep.text());
    }
    if sleep.expect("AWAKE", Duration::from_secs(10)).is_err() {
        // An emulated clock may be late: the monitor wakes it, as a key or the power button would.
        let key = if state == "mem" {
            "system_wakeup"
        } else {
            "system_powerdown"
        };
        s.machine()?
            .monitor(key, json!({}))
            .context("waking the guest up")?;
        sleep.expect("AWAKE", Duration::from_secs(20))?;
    }
    ensure!(
        s.machine()?
            .serial
            .wait_for(mark, "PM: suspend exit", Duration::from_secs(10))
            .is_some(),
        "the guest never said that it woke"
    );
    s.rvtest(Side::Host, &client)?
        .success(LONG)
        .context("echo with the listener from before the sleep")?;
    let port = s.fresh_port();
    let _host = s.server(Side::Host, &format!("echo-server --port {port}"))?;
    s.rvtest(
        Side::Guest,
        &format!(
            "echo-client --cid {} --port {port} --connections 4 --bytes 50000",
            Side::Host.cid()
        ),
    )?
    .success(LONG)
    .context("echo from the guest after the sleep")?;
    Ok(())
}

/// A scan reports what nothing pointed to in this one, if it is not too young; the first makes the second sure.
fn leaks(s: &mut Session) -> Result<()> {
    s.guest_sh("sleep 6; echo scan > /sys/kernel/debug/kmemleak")?;
    let found = s.guest_sh("sleep 6; cd /sys/kernel/debug; echo scan > kmemleak; cat kmemleak")?;
    ensure!(found.trim().is_empty(), "kmemleak found: {found}");
    Ok(())
}

fn poweroff_is_seen(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let server = s.server(Side::Host, &format!("wait-end-server --port {port}"))?;
    let client = s.rvtest(
        Side::Guest,
        &format!("wait-end-client --cid {} --port {port}", Side::Host.cid()),
    )?;
    server.expect("ACCEPTED", LONG)?;
    client.expect("CONNECTED", LONG)?;
    // Without ending processes first: the driver itself must tell the host. The device stays there meanwhile.
    let mark = s.machine()?.serial.mark();
    let off = s.spawn(Side::Guest, &["poweroff", "-f"])?;
    let start = Instant::now();
    let end = server.expect("END", Duration::from_secs(20))?;
    let took = start.elapsed();
    drop(off);
    let guest = s.machine()?;
    // What is left is the emulator's part. Where that does not see it for ten seconds, the guest's kernel complains.
    let is_down = |line: &String| line.contains("reboot: Power down");
    ensure!(
        guest.wait_end(Duration::from_secs(6)) || guest.serial.since(mark).iter().any(is_down),
        "the guest did not switch off"
    );
    let outcome = match guest.serial.complaints_since(mark).first() {
        Some(line) => bail!("the guest's kernel said: {}", line.trim()),
        None => Ok(()),
    };
    s.discard_guest();
    ensure!(
        took < allowed(AT_ONCE),
        "the end ({end}) was seen after {took:?}"
    );
    outcome
}
