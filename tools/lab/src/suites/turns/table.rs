// SPDX-License-Identifier: GPL-2.0

//! What each qdisc leaves a stream beside a flood of datagrams, and a round trip beside four streams, and what it is without.

use std::time::Duration;

use anyhow::{Context, Result};

use super::control::{prepare, scheduled};
use crate::{
    session::{Session, Side},
    suites::{
        dgram::flow::in_a_flood,
        our_device::{listen, streams::echo},
        LONG,
    },
};

const QDISCS: &[(&str, &[&str])] = &[
    ("down", &[]),
    ("pfifo_fast", &["qdisc add DEV root handle 1: pfifo_fast"]),
    ("prio", &["qdisc add DEV root handle 1: prio"]),
    ("fq_codel", &["qdisc add DEV root handle 1: fq_codel"]),
    ("fq", &["qdisc add DEV root handle 1: fq"]),
    (
        "sfq by the hash",
        &[
            "qdisc add DEV root handle 1: sfq",
            "filter add DEV parent 1: protocol all handle 1 flow hash keys rxhash divisor 1024",
        ],
    ),
    ("cake", &["qdisc add DEV root handle 1: cake"]),
];

/// A row of the table.
fn row(s: &mut Session, time: Duration) -> Result<String> {
    let floods = in_a_flood(s, time)?;
    let flood = floods.first().context("no flood to the host")?;
    let (port, listener) = listen(s)?;
    let _echo = echo(listener, 2);
    let ping = format!(
        "ping --cid 2 --port {port} --size 64 --ms {}",
        time.as_millis()
    );
    let times = |s: &mut Session| -> Result<[f64; 2]> {
        let text = s.rvtest(Side::Guest, &ping)?.success(LONG)?;
        let of = |name: &str| {
            let word = text.split_whitespace().find_map(|w| w.strip_prefix(name));
            word.and_then(|w| w.parse().ok())
                .with_context(|| format!("no {name} in {text:?}"))
        };
        Ok([of("p50=")?, of("p99=")?])
    };
    let alone = times(s)?;
    let reader = super::streams::Reader::new(s)?;
    let senders = (0..4)
        .map(|_| reader.endless(s, ""))
        .collect::<Result<Vec<_>>>()?;
    reader.has_more_than(200_000, LONG)?;
    let beside = times(s)?;
    reader.is_right()?;
    drop(senders);
    Ok(format!(
        "stream {:.0} MB/s alone, {:.0} beside {:.0} in {:.0} datagrams/s; round trip {:.0} us alone ({:.0} of 99 in 100), {:.0} beside four streams ({:.0})",
        flood.alone / 1e6,
        flood.beside / 1e6,
        flood.bytes / 1e6,
        flood.datagrams,
        alone[0],
        alone[1],
        beside[0],
        beside[1],
    ))
}

pub fn all(s: &mut Session) -> Result<()> {
    let time = Duration::from_secs(3) * s.config.guest.slowness();
    prepare(s)?;
    for (name, commands) in QDISCS {
        let row = if commands.is_empty() {
            row(s, time)
        } else {
            scheduled(s, commands, |s| row(s, time))
        };
        let row = row.with_context(|| *name)?;
        s.events.note(format!("{name}: {row}"));
    }
    Ok(())
}
