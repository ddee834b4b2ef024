// SPDX-License-Identifier: GPL-2.0

//! N7, N9, N10: what is counted, what a tap sees, what others do with turns, and what has no business there.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::{
    carried::{datagrams, Loss},
    control::{prepare, scheduled, tc, Counted, ETHTOOL, INTERFACE, IP, TC},
    streams::Reader,
};
use crate::{
    process::allowed,
    session::{Session, Side},
    suites::{
        dgram::number,
        our_device::{
            self,
            control::{paused, stats},
            messages, streams,
        },
        until, AT_ONCE, LONG,
    },
};

/// What `ip -s link` has of the interface.
fn link(s: &Session) -> Result<Value> {
    let text = s.guest_sh(&format!("{IP} -s -j link show dev {INTERFACE}"))?;
    let all: Value = serde_json::from_str(&text).with_context(|| format!("ip said {text:?}"))?;
    Ok(all[0].clone())
}

/// What `ethtool -S` has.
fn ethtool(s: &Session) -> Result<BTreeMap<String, u64>> {
    let text = s.guest_sh(&format!("{ETHTOOL} -S {INTERFACE}"))?;
    Ok(text
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect())
}

/// The numbers of `ethtool -S` are those of debugfs, by the same names; `ip -s` and `tc -s` agree with what was sent.
pub fn numbers(s: &mut Session) -> Result<()> {
    scheduled(s, &["qdisc add DEV root handle 1: pfifo limit 1000"], |s| {
        let before = link(s)?;
        our_device::echoes(s)?;
        messages::small(s)?;
        datagrams(s, 300, Loss::None)?;
        // Sockets that are still closing may have a word to say.
        let deadline = Instant::now() + allowed(AT_ONCE);
        let (shown, counted) = loop {
            let (before, shown, after) = (stats(s)?, ethtool(s)?, stats(s)?);
            if before == after {
                break (shown, after);
            }
            ensure!(Instant::now() < deadline, "the counters do not hold still");
        };
        ensure!(shown.len() > 10, "ethtool -S shows no more than {shown:?}");
        for (name, value) in &shown {
            ensure!(
                counted.get(name) == Some(value),
                "{name} is {value} by ethtool -S, and {:?} in debugfs",
                counted.get(name)
            );
        }
        let (device, driver) = s.device()?;
        let text = s.guest_sh(&format!("{ETHTOOL} -i {INTERFACE}"))?;
        for line in [format!("driver: {driver}"), format!("bus-info: {device}")] {
            ensure!(
                text.lines().any(|l| l == line),
                "{line:?} was expected: {text}"
            );
        }
        let now = link(s)?;
        ensure!(
            now["link_type"] == "none" && now["flags"].to_string().contains("NOARP"),
            "ip says of it: {now}"
        );
        let since = |way: &str, what: &str| -> Result<u64> {
            let of = |link: &Value| link["stats64"][way][what].as_u64();
            let (before, now) = (of(&before), of(&now));
            Ok(now.context("ip has no numbers")? - before.context("ip has no numbers")?)
        };
        let qdisc = Counted::now(s)?;
        ensure!(
            since("tx", "packets")? >= qdisc.packets && qdisc.packets > 300,
            "ip -s has {} sent packets, where {qdisc:?} had turns",
            since("tx", "packets")?
        );
        for (way, what) in [("tx", "bytes"), ("rx", "bytes")] {
            ensure!(
                since(way, what)? > 300_000,
                "ip -s has {} {what} of {way}",
                since(way, what)?
            );
        }
        for (way, what) in [("tx", "dropped"), ("rx", "dropped"), ("tx", "errors")] {
            ensure!(
                since(way, what)? == 0,
                "ip -s has {} {what} of {way}",
                since(way, what)?
            );
        }
        Ok(())
    })
}

/// A tap sees each turn with the header of its packet and the packet's length, and holds clones of it.
pub fn tap(s: &mut Session) -> Result<()> {
    scheduled(s, &["qdisc add DEV root handle 1: pfifo limit 1000"], |s| {
        let command = format!(
            "turns tap --interface {INTERFACE} --packets 1000 --bytes 4000000 --ms {}",
            allowed(LONG).as_millis()
        );
        let tap = s.server(Side::Guest, &command)?;
        streams::both_ways(s)?;
        messages::small(s)?;
        let lost = datagrams(s, 1000, Loss::None)?;
        tap.success(LONG)?;
        ensure!(lost == 0, "{lost} datagrams are lost");
        Ok(())
    })
}

/// What a program sends into the interface is nobody's turn: it is dropped and counted, and hurts nothing.
pub fn foreign(s: &mut Session) -> Result<()> {
    const COUNT: u64 = 1000;
    scheduled(s, &["qdisc add DEV root handle 1: pfifo limit 1000"], |s| {
        let dropped = |s: &Session| -> Result<u64> {
            let link = link(s)?;
            link["stats64"]["tx"]["dropped"]
                .as_u64()
                .context("ip has no number of dropped packets")
        };
        let mut all = 0;
        // Shorter than a header, as long as one, and much longer.
        for size in [1, 44, 52, 1400, 32_000] {
            let before = dropped(s)?;
            let command =
                format!("turns inject --interface {INTERFACE} --count {COUNT} --size {size}");
            let injecting = s.rvtest(Side::Guest, &command)?;
            our_device::echoes(s)?;
            let sent = number(&injecting.success(LONG)?, "sent")?;
            ensure!(sent > 0, "none of {size} bytes could be sent");
            let deadline = Instant::now() + allowed(AT_ONCE);
            while dropped(s)? - before < sent {
                ensure!(
                    Instant::now() < deadline,
                    "of {sent} packets of {size} bytes {} are counted as dropped",
                    dropped(s)? - before
                );
                thread::sleep(Duration::from_millis(20));
            }
            all += sent;
        }
        s.events.note(format!("{all} foreign packets"));
        datagrams(s, 300, Loss::None).map(drop)
    })
}

/// Turns that go by way of another interface, which gives them back, at once and late, and copies of them that go there as
/// well.
pub fn redirected(s: &mut Session) -> Result<()> {
    prepare(s)?;
    s.guest_sh(&format!(
        "[ -e /sys/class/net/ifb0 ] || {IP} link add ifb0 type ifb; {IP} link set ifb0 up"
    ))?;
    for (action, other) in [
        ("redirect", "pfifo limit 1000"),
        ("redirect", "netem delay 30ms limit 10000"),
        ("mirror", "pfifo limit 1000"),
    ] {
        let what = format!("{action} to {other}");
        s.guest_sh(&format!(
            "{TC} qdisc replace dev ifb0 root handle 2: {other}"
        ))?;
        let before = Counted::at(s, "ifb0")?;
        let commands = [
            "qdisc add DEV root handle 1: prio".to_owned(),
            format!("filter add DEV parent 1: protocol all matchall action mirred egress {action} dev ifb0"),
        ];
        scheduled(s, &commands, |s| {
            streams::both_ways(s)?;
            messages::small(s)?;
            datagrams(s, 300, Loss::Any).map(drop)
        })
        .with_context(|| what.clone())?;
        let now = Counted::at(s, "ifb0")?;
        ensure!(
            now.packets > before.packets + 300,
            "{what}: the other interface has counted {now:?} after {before:?}"
        );
        s.guest_sh(&format!("{TC} qdisc del dev ifb0 root"))?;
    }
    s.guest_sh(&format!("{IP} link set ifb0 down")).map(drop)
}

/// Where the device takes nothing, what is written waits in the qdisc, and not in the ring.
pub fn bql(s: &mut Session) -> Result<()> {
    const LIMITS: &str = "queues/tx-0/byte_queue_limits";
    // The limit that it learns of a fast device may be all that eight connections may send.
    const MOST: u64 = 200_000;
    // So many turns a root of two queues gives at once, whatever the limit is.
    const AT_ONCE_MOST: u64 = 8 * 33_000;
    const MUCH: u64 = 500_000;
    scheduled(s, &["qdisc add DEV root handle 1: fq_codel"], |s| {
        s.guest_sh(&format!(
            "echo {MOST} >/sys/class/net/{INTERFACE}/{LIMITS}/limit_max"
        ))?;
        streams::both_ways(s)?;
        let of = |s: &Session, name: &str| -> Result<u64> {
            let text = s.guest_sh(&format!("cat /sys/class/net/{INTERFACE}/{LIMITS}/{name}"))?;
            Ok(text.trim().parse()?)
        };
        let reader = Reader::new(s)?;
        let senders = (0..8)
            .map(|_| reader.endless(s, ""))
            .collect::<Result<Vec<_>>>()?;
        for sender in &senders {
            sender.expect("CONNECTED", LONG)?;
        }
        reader.has_more_than(reader.bytes() + 1_000_000, LONG)?;
        let (limit, in_flight, waits) = paused(s, "tx", |s| {
            until(our_device::STALL, || {
                let waits = Counted::now(s)?;
                ensure!(waits.backlog > MUCH, "too little waits: {waits:?}");
                Ok(())
            })?;
            // The ring may fill further.
            thread::sleep(Duration::from_millis(500));
            Ok((of(s, "limit")?, of(s, "inflight")?, Counted::now(s)?))
        })?;
        let text = format!(
            "with eight streams and a device that takes nothing, {in_flight} bytes are with it (limit {limit}), and {} bytes of {} turns wait in the qdisc",
            waits.backlog, waits.waiting
        );
        ensure!(
            in_flight > 0 && in_flight < MOST + AT_ONCE_MOST && waits.backlog > MUCH,
            "{text}"
        );
        s.events.note(text);
        let goes = reader.bytes();
        reader.has_more_than(goes + 4_000_000, LONG)?;
        reader.is_right()?;
        drop(senders);
        // When all of it is with the host, nothing is in flight.
        let deadline = Instant::now() + LONG;
        while of(s, "inflight")? > 0 {
            ensure!(
                Instant::now() < deadline,
                "{} bytes are in flight for ever",
                of(s, "inflight")?
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    })
}

/// A filter may have all turns come out of one of the two queues.
pub fn moved(s: &mut Session) -> Result<()> {
    for queue in [0, 1] {
        let commands = [
            "qdisc add DEV clsact".to_owned(),
            format!(
                "filter add DEV egress protocol all matchall action skbedit queue_mapping {queue}"
            ),
        ];
        scheduled(s, &commands, |s| {
            streams::both_ways(s)?;
            datagrams(s, 300, Loss::None).map(drop)
        })?;
    }
    Ok(())
}

/// A filter may have priorities of its own for turns, and change what they carry: which packet goes is not theirs to say.
pub fn edited(s: &mut Session) -> Result<()> {
    let commands = [
        "qdisc add DEV root handle 1: prio",
        "qdisc add DEV clsact",
        "filter add DEV egress protocol all matchall action skbedit priority 1:1 mark 9",
    ];
    scheduled(s, &commands, |s| {
        streams::both_ways(s)?;
        messages::small(s)?;
        datagrams(s, 300, Loss::None)?;
        let text = tc(s, &format!("-s filter show dev {INTERFACE} egress"))?;
        ensure!(text.contains("skbedit"), "tc shows no action: {text}");
        Ok(())
    })
}
