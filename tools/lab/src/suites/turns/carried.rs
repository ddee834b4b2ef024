// SPDX-License-Identifier: GPL-2.0

//! N1 to N3, N6: whatever is done with turns, streams and messages come whole, and datagrams whole or not at all.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Result};
use guest::dgram::check;

use super::{
    control::{prepare, scheduled, switch, tc, Counted, INTERFACE},
    streams::{rates, Reader},
};
use crate::{
    process::allowed,
    session::{Session, Side},
    suites::{
        dgram::host::{Counters, Port, Since},
        measured,
        our_device::{self, messages, streams},
        tried, AT_ONCE, LONG,
    },
};

/// At first it is down: nothing passes its qdisc, and nothing does when it is down again.
pub fn down(s: &mut Session) -> Result<()> {
    let load = |s: &mut Session| -> Result<()> {
        our_device::echoes(s)?;
        messages::small(s)?;
        datagrams(s, 100, Loss::None).map(drop)
    };
    prepare(s)?;
    let flags = s.guest_sh(&format!("cat /sys/class/net/{INTERFACE}/flags"))?;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16)?;
    ensure!(flags & 1 == 0, "it is up at first: flags {flags:#x}");
    tc(
        s,
        &format!("qdisc add dev {INTERFACE} root handle 1: pfifo limit 1000"),
    )?;
    load(s)?;
    let first = Counted::now(s)?;
    ensure!(
        first.packets == 0 && first.waiting == 0,
        "while it is down, its qdisc has counted {first:?}"
    );
    switch(s, "up")?;
    load(s)?;
    let up = Counted::now(s)?;
    ensure!(
        up.packets > 100 && up.bytes > 300_000 && up.drops == 0,
        "while it is up, its qdisc has counted {up:?}"
    );
    switch(s, "down")?;
    load(s)?;
    let last = Counted::now(s)?;
    ensure!(
        last.packets <= up.packets,
        "when it is down again, its qdisc goes on from {up:?} to {last:?}"
    );
    tc(s, &format!("qdisc del dev {INTERFACE} root")).map(drop)
}

/// What becomes of turns of datagrams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    None,
    Some,
    Any,
}

/// Datagrams to the host: in their order, each once at the most, and as many as the qdisc lets through. How many are lost.
pub fn datagrams(s: &mut Session, count: u64, loss: Loss) -> Result<u64> {
    datagrams_through(s, "", count, loss)
}

/// The same through `qdisc`. With netem they come in any order: that is what it is for.
pub fn datagrams_through(s: &mut Session, qdisc: &str, count: u64, loss: Loss) -> Result<u64> {
    let in_order = !qdisc.contains("netem");
    let port = Port::new(s)?;
    let since = Since::now(s)?;
    let command = format!(
        "dgram send --cid 2 --port {} --count {count} --size 1400",
        port.number
    );
    let sender = s.rvtest(Side::Guest, &command)?;
    let (mut next, mut seen) = (0, BTreeSet::new());
    let take = |bytes: &[u8], _: &str| {
        let number = check(bytes)?;
        ensure!(seen.insert(number), "datagram {number} came twice");
        ensure!(
            number >= next || !in_order,
            "datagram {number} came where {next} or a later one was due"
        );
        next = number + 1;
        Ok(())
    };
    let lost = port.until_all(&sender, take, |received| {
        let now = Counters::read(s)?;
        let (taken, full) = (
            since.device(&now, "dgram_tx_packets")?,
            since.device(&now, "dgram_to_host_full")?,
        );
        let lost = since.driver(&now, LOST_DATAGRAMS)?;
        ensure!(
            taken + lost == count && received + full == taken,
            "of {count} datagrams the driver lost {lost} and the device took {taken}, of which {received} came, and {full} found no room"
        );
        Ok(lost)
    })?;
    ensure!(
        loss == Loss::Any || (loss == Loss::None) == (lost == 0),
        "{lost} of {count} datagrams were lost"
    );
    Ok(lost)
}

/// The counter of those that were lost with their turns.
const LOST_DATAGRAMS: &str = "tx_dgram_dropped";

/// Streams both ways, with halves that end, and many at once; messages; datagrams.
pub fn everything(s: &mut Session, commands: &[&str], loss: Loss) -> Result<()> {
    scheduled(s, commands, |s| {
        streams::both_ways(s)?;
        messages::from_guest(s)?;
        datagrams_through(s, &commands.concat(), 2000, loss)?;
        let counted = Counted::now(s)?;
        ensure!(
            counted.packets > 500 && (loss != Loss::Some || counted.drops > 0),
            "the qdisc has counted {counted:?}"
        );
        Ok(())
    })
}

/// Streams alone, where the host has no more.
pub fn streams_alone(s: &mut Session, commands: &[&str]) -> Result<()> {
    scheduled(s, commands, |s| {
        crate::suites::vhost_user::guest_to_host(s)?;
        crate::suites::vhost_user::host_to_guest(s)?;
        let counted = Counted::now(s)?;
        ensure!(counted.packets > 40, "the qdisc has counted {counted:?}");
        Ok(())
    })
}

/// A turn that is lost is asked for again, and again: a stream on a lossy way is slower, and whole. The first asks wait for
/// 10 ms, and later ones for longer.
pub fn lossy(s: &mut Session) -> Result<()> {
    const BYTES: u64 = 4 << 20;
    scheduled(s, &["qdisc add DEV root handle 1: netem loss 50%"], |s| {
        let reader = Reader::new(s)?;
        let sender = reader.sender(s, BYTES, "")?;
        sender.success(LONG)?;
        reader.has_more_than(BYTES - 1, AT_ONCE)?;
        reader.is_right()?;
        let counted = Counted::now(s)?;
        ensure!(counted.drops > 20, "that lost hardly a turn: {counted:?}");
        Ok(())
    })
}

/// A way that no turn passes: connections begin and end there, what was written waits, and goes on when it is open. How often
/// is asked in vain is bounded by the doubling waits.
pub fn closed(s: &mut Session) -> Result<()> {
    const BYTES: u64 = 300_000;
    const CLOSED: Duration = Duration::from_secs(5);
    scheduled(s, &["qdisc add DEV root handle 1: netem loss 100%"], |s| {
        let reader = Reader::new(s)?;
        let sender = reader.sender(s, BYTES, "")?;
        sender.expect("CONNECTED", AT_ONCE)?;
        thread::sleep(CLOSED);
        let counted = Counted::now(s)?;
        ensure!(
            reader.bytes() == 0,
            "{} bytes came without a turn",
            reader.bytes()
        );
        // Ten in the first seconds, and one in each 640 ms then, for each packet that waits.
        ensure!(
            (5..=400).contains(&counted.drops),
            "in {CLOSED:?} so many turns were lost: {counted:?}"
        );
        tc(
            s,
            &format!("qdisc replace dev {INTERFACE} root handle 2: pfifo"),
        )?;
        sender.success(LONG)?;
        reader.has_more_than(BYTES - 1, AT_ONCE)?;
        reader.is_right()
    })
}

/// At 8 kbit/s connections begin, end and are refused as fast as ever, as control packets have no turns.
pub fn control(s: &mut Session) -> Result<()> {
    let commands = ["qdisc add DEV root handle 1: tbf rate 8kbit burst 70kb limit 1mb"];
    scheduled(s, &commands, |s| {
        let bulk = Reader::new(s)?;
        let _bulk = bulk.endless(s, "")?;
        Counted::until_waiting(s)?;
        let other = Reader::new(s)?;
        let command = format!("connects --cid 2 --port {} --ms 2000", other.port);
        let text = s.rvtest(Side::Guest, &command)?.success(LONG)?;
        let count = crate::suites::dgram::number(&text, "count")?;
        // With turns, each would wait for those of the bulk: half a minute.
        ensure!(
            count >= 10,
            "{count} connections in two seconds at 8 kbit/s: {text}"
        );
        streams::nobody_listens(s)?;
        // One that the host opens, and closes: the guest's end is told at once.
        streams::host_leaves(s)?;
        // What the host sends has no turns, nor have its credit updates.
        let port = s.fresh_port();
        let _sink = s.server(Side::Guest, &format!("sink --port {port}"))?;
        let (mut stream, _) = our_device::connect(s, port)?;
        let start = Instant::now();
        std::io::Write::write_all(&mut stream, &vec![0x5a; 4 << 20])?;
        ensure!(
            start.elapsed() < allowed(our_device::STALL),
            "4 MiB from the host took {:?}",
            start.elapsed()
        );
        bulk.is_right()
    })
}

/// How near to its rate `tbf` lets a stream be.
const NEAR: f64 = 0.05;
const MEASURED: Duration = Duration::from_secs(4);

/// The rate counts headers, too. What passes at once is the burst: so the first second is not measured. A busy workstation
/// may not let a guest send so much.
pub fn rate(s: &mut Session) -> Result<()> {
    for (rate, bytes) in [("8mbit", 1e6), ("80mbit", 1e7)] {
        let command = format!("qdisc add DEV root handle 1: tbf rate {rate} burst 128kb limit 4mb");
        let text = scheduled(s, &[command], |s| {
            let reader = Reader::new(s)?;
            let _sender = reader.endless(s, "")?;
            reader.has_more_than(200_000, LONG)?;
            thread::sleep(Duration::from_secs(1));
            tried(s, |s| {
                let before = Counted::now(s)?;
                // To ask the guest takes a while, too.
                let start = Instant::now();
                let seen = rates(&[&reader], MEASURED)?[0];
                let now = Counted::now(s)?;
                let passed = (now.bytes - before.bytes) as f64;
                let share = seen * start.elapsed().as_secs_f64() / passed;
                let text = format!(
                    "at {rate}, {seen:.0} bytes of a stream came in a second, {share:.3} of what the qdisc counted"
                );
                let far = seen / bytes - 1.0;
                // A kernel that watches may not be able to send so much.
                let reached = far > -NEAR || s.config.guest.is_debug();
                let right = far < NEAR && reached && (0.9..1.1).contains(&share);
                Ok(measured(right, text))
            })
        })?;
        s.events.note(text);
    }
    Ok(())
}
