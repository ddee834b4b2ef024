// SPDX-License-Identifier: GPL-2.0

//! Shows the driver at work in a few lines: what was negotiated, echoes both ways, speed, the end.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::{
    events::Event,
    session::{Session, Side},
    suites::{
        dgram::{host::Counters, rules},
        our_device, LONG,
    },
};

/// The feature bits that a virtio socket device may have, as the specification names them.
const FEATURES: &[(usize, &str)] = &[
    (0, "STREAM"),
    (1, "SEQPACKET"),
    (2, "NO_IMPLIED_STREAM"),
    (28, "RING_INDIRECT_DESC"),
    (29, "RING_EVENT_IDX"),
    (32, "VERSION_1"),
    (33, "ACCESS_PLATFORM"),
    (34, "RING_PACKED"),
    (35, "IN_ORDER"),
    (40, "RING_RESET"),
];

/// What is shown on vhost-vsock, and what on a device that has more.
pub const PARTS: [&str; 2] = ["demo", "demo of datagrams and merged buffers"];

pub fn run(s: &mut Session) -> Result<()> {
    part(s, PARTS[0], show)
}

pub fn run_on_device(s: &mut Session) -> Result<()> {
    part(s, PARTS[1], show_datagrams)
}

fn part(s: &mut Session, name: &str, show: fn(&mut Session) -> Result<()>) -> Result<()> {
    let start = std::time::Instant::now();
    s.events.start(name);
    let outcome = show(s);
    let outcome = s.settle(outcome).and_then(|()| switch_off(s));
    if outcome.as_ref().is_err_and(Session::is_rig_death) {
        return outcome;
    }
    let failed = outcome.as_ref().err().map(|e| format!("{e:#}"));
    s.events.end(name, start.elapsed(), outcome);
    ensure!(failed.is_none(), "{}", failed.unwrap_or_default());
    Ok(())
}

fn say(s: &Session, text: impl Into<String>) {
    s.events.send(Event::Say { text: text.into() });
}

/// The values of a line such as `OK count=3 p50=12.5`.
pub fn value(line: &str, name: &str) -> Result<f64> {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .find(|(n, _)| *n == name)
        .and_then(|(_, v)| v.parse().ok())
        .with_context(|| format!("no number {name} in {line:?}"))
}

fn show(s: &mut Session) -> Result<()> {
    s.ensure_guest()?;
    let kernel = s.guest_sh("uname -r")?;
    say(
        s,
        format!(
            "guest      Linux {}, up in {}",
            kernel.trim(),
            s.guest_sh("cut -d' ' -f1 /proc/uptime")?.trim().to_owned() + " s"
        ),
    );
    say(
        s,
        format!("driver     {} loaded", s.driver.modules().join(" + ")),
    );
    let (device, driver) = s.device()?;
    let cid = s.rvtest(Side::Guest, "cid")?.success(LONG)?;
    let bits = s.guest_sh(&format!("cat /sys/bus/virtio/devices/{device}/features"))?;
    let names: Vec<String> = bits
        .trim()
        .char_indices()
        .filter(|(_, c)| *c == '1')
        .map(|(bit, _)| {
            FEATURES
                .iter()
                .find(|(b, _)| *b == bit)
                .map_or(format!("bit {bit}"), |(_, name)| (*name).into())
        })
        .collect();
    say(
        s,
        format!("device     {device}, bound to {driver}; {}", cid.trim()),
    );
    say(s, format!("features   {}", names.join(" ")));
    let log = s.machine()?.serial.since(0);
    if let Some((_, said)) = log.iter().find_map(|l| l.split_once("rvsock: virtio")) {
        // "1: guest CID 3, features 0x... (ratified), 3 queues, ..."
        let queues = said.split_once("), ").map_or(said, |(_, queues)| queues);
        say(
            s,
            format!("queues     {}", queues.replacen(" queues", "", 1)),
        );
    }

    for (client, words) in [
        (Side::Guest, "guest to host"),
        (Side::Host, "host to guest"),
    ] {
        let port = s.fresh_port();
        let peer = format!("--cid {} --port {port}", client.other().cid());
        let _server = s.server(client.other(), &format!("echo-server --port {port}"))?;
        let text = s
            .rvtest(
                client,
                &format!("echo-client {peer} --connections 8 --bytes 262144"),
            )?
            .success(LONG)?;
        let crc = text
            .split_whitespace()
            .find_map(|w| w.strip_prefix("crc="))
            .unwrap_or("?")
            .to_owned();
        say(s, format!("echo       {words}: 8 connections at once, 8 x 256 KiB there and back, every byte checked, checksum {crc}"));
        let text = s
            .rvtest(client, &format!("ping {peer} --size 64 --ms 700"))?
            .success(LONG)?;
        let (p50, p99) = (value(&text, "p50")?, value(&text, "p99")?);
        let sink = s.fresh_port();
        let _sink = s.server(client.other(), &format!("sink --port {sink}"))?;
        let text = s
            .rvtest(
                client,
                &format!(
                    "source --cid {} --port {sink} --write-size 65536 --ms 1000",
                    client.other().cid()
                ),
            )?
            .success(LONG)?;
        let speed = value(&text, "bytes")? / value(&text, "seconds")? / 1e6;
        say(s, format!("speed      {words}: {speed:.0} MB/s in writes of 64 KiB; a round trip of 64 bytes takes {p50:.0} us (99 of 100 below {p99:.0} us)"));
    }
    s.unload_when_free()?;
    say(s, "driver     unloaded");
    Ok(())
}

/// On rvsock-device: datagrams both ways, and packets over several buffers of a page.
fn show_datagrams(s: &mut Session) -> Result<()> {
    s.ensure_guest()?;
    let log = s.machine()?.serial.since(0);
    if let Some((_, said)) = log.iter().find_map(|l| l.split_once("guest CID ")) {
        say(s, format!("device     rvsock-device; CID {said}"));
    }
    let before = Counters::read(s)?;
    let since = |now: &Counters, name: &str| -> Result<u64> {
        Ok(now.device(name)? - before.device(name)?)
    };
    rules::d2_from_guest(s)?;
    rules::d2_from_host(s)?;
    let now = Counters::read(s)?;
    say(
        s,
        format!(
            "datagrams  guest to host and back, host to guest: {} and {} of 0 to 65536 bytes, every byte checked",
            since(&now, "dgram_tx_packets")?,
            since(&now, "dgram_rx_packets")?,
        ),
    );
    our_device::echoes(s)?;
    let now = Counters::read(s)?;
    for (what, queue) in [("datagrams ", "dgram_rx"), ("stream    ", "rx")] {
        say(
            s,
            format!(
                "{what} received: {} packets, {} bytes, in {} buffers of {} bytes",
                since(&now, &format!("{queue}_packets"))?,
                since(&now, &format!("{queue}_bytes"))?,
                since(&now, &format!("{queue}_buffers"))?,
                now.driver(&format!("{queue}_buffer_bytes"))?,
            ),
        );
    }
    s.unload_when_free()?;
    say(s, "driver     unloaded");
    Ok(())
}

fn switch_off(s: &mut Session) -> Result<()> {
    // The agent hangs up when the machine goes.
    drop(
        s.spawn(Side::Guest, &["poweroff", "-f"])?
            .wait(Duration::from_secs(20)),
    );
    let off = s.machine()?.wait_end(Duration::from_secs(20));
    s.check_log(Ok(()))?;
    s.discard_guest();
    ensure!(off, "the guest did not switch off");
    say(s, "guest      switched off");
    Ok(())
}
