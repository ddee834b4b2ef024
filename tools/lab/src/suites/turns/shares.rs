// SPDX-License-Identifier: GPL-2.0

//! N4: what classifiers and schedulers see of a turn, by the shares that two streams get.

use std::{thread, time::Duration};

use anyhow::{ensure, Context, Result};

use super::{
    control::{bpf_for_port, for_port, scheduled},
    streams::{rates, Reader},
};
use crate::{
    process::Process,
    session::{Session, Side},
    suites::{measured, our_device::listen, our_device::streams::echo, tried, LONG},
};

/// How long two streams are looked at, once both have begun.
const MEASURED: Duration = Duration::from_secs(4);
const BEGUN: u64 = 200_000;

/// Two streams that always have more, and what is to tell them apart.
struct Two {
    readers: [Reader; 2],
    _senders: [Process; 2],
}

impl Two {
    /// With these options of `send`.
    fn begin(s: &Session, readers: [Reader; 2], options: [&str; 2]) -> Result<Self> {
        let senders = [
            readers[0].endless(s, options[0])?,
            readers[1].endless(s, options[1])?,
        ];
        Ok(Self {
            readers,
            _senders: senders,
        })
    }

    /// The share of the first, which must be within these; in words.
    fn share(&self, s: &mut Session, what: &str, (least, most): (f64, f64)) -> Result<String> {
        let [first, second] = &self.readers;
        first.has_more_than(BEGUN, LONG)?;
        tried(s, |_| {
            thread::sleep(Duration::from_secs(1));
            let rates = rates(&[first, second], MEASURED)?;
            let share = rates[0] / (rates[0] + rates[1]);
            let text = format!(
                "{what}: the first of two streams has {:.1} %",
                share * 100.0
            );
            Ok(measured((least..=most).contains(&share), text))
        })
    }
}

/// Two classes, of which one may have three times of what the other has.
const HTB: &[&str] = &[
    "qdisc add DEV root handle 1: htb default 20",
    "class add DEV parent 1: classid 1:1 htb rate 8mbit burst 70kb cburst 70kb",
    "class add DEV parent 1:1 classid 1:10 htb rate 6mbit ceil 8mbit burst 70kb cburst 70kb quantum 66000",
    "class add DEV parent 1:1 classid 1:20 htb rate 2mbit ceil 8mbit burst 70kb cburst 70kb quantum 66000",
];

/// Bands of which the second has what the first leaves.
const PRIO: &[&str] = &[
    "qdisc add DEV root handle 1: tbf rate 8mbit burst 70kb limit 4mb",
    "qdisc add DEV parent 1:1 handle 10: prio",
];

/// By this qdisc and a filter for the first of two streams, the first has the share.
fn filtered(
    s: &mut Session,
    qdisc: &[&str],
    filter: impl FnOnce(u32) -> String,
    options: [&str; 2],
    bounds: (f64, f64),
) -> Result<()> {
    let readers = [Reader::new(s)?, Reader::new(s)?];
    let mut commands: Vec<_> = qdisc.iter().map(|c| c.to_string()).collect();
    let filter = filter(readers[0].port);
    if !filter.is_empty() {
        commands.push(filter.clone());
    }
    let what = format!("{} {filter}", qdisc[qdisc.len() - 1]);
    let text = scheduled(s, &commands, |s| {
        Two::begin(s, readers, options)?.share(s, &what, bounds)
    })?;
    s.events.note(text);
    Ok(())
}

const THREE_OF_FOUR: (f64, f64) = (0.70, 0.80);
const NEARLY_ALL: (f64, f64) = (0.90, 1.0);
const ALIKE: [&str; 2] = ["", ""];

pub fn htb_by_port(s: &mut Session) -> Result<()> {
    filtered(
        s,
        HTB,
        |port| {
            format!(
                "filter add DEV parent 1: protocol all {} flowid 1:10",
                for_port(port)
            )
        },
        ALIKE,
        THREE_OF_FOUR,
    )
}

pub fn htb_by_mark(s: &mut Session) -> Result<()> {
    let filter = "filter add DEV parent 1: protocol all handle 7 fw classid 1:10";
    filtered(s, HTB, |_| filter.into(), ["--mark 7", ""], THREE_OF_FOUR)
}

pub fn prio_by_priority(s: &mut Session) -> Result<()> {
    // By the usual map of priorities: 6 is of the first band, 2 of the last.
    let options = ["--priority 6", "--priority 2"];
    filtered(s, PRIO, |_| String::new(), options, NEARLY_ALL)
}

pub fn prio_by_match(s: &mut Session) -> Result<()> {
    filtered(
        s,
        PRIO,
        |port| {
            format!(
                "filter add DEV parent 10: protocol all basic match 'u32({} at 20)' classid 10:1",
                for_port(port)
                    .trim_start_matches("u32 match ")
                    .trim_end_matches(" at 20")
            )
        },
        ALIKE,
        NEARLY_ALL,
    )
}

pub fn prio_by_bpf(s: &mut Session) -> Result<()> {
    filtered(
        s,
        PRIO,
        |port| {
            format!(
                "filter add DEV parent 10: protocol all bpf bytecode '{}' flowid 10:1",
                bpf_for_port(port)
            )
        },
        ALIKE,
        NEARLY_ALL,
    )
}

/// The classid of the cgroup that the program is in.
pub fn prio_by_cgroup(s: &mut Session) -> Result<()> {
    const GROUP: &str = "/tmp/net_cls/first";
    s.guest_sh(&format!(
        "mkdir -p /tmp/net_cls && {{ [ -d {GROUP} ] || mount -t cgroup -o net_cls net_cls /tmp/net_cls; }} && mkdir -p {GROUP} && echo 0x00100001 >{GROUP}/net_cls.classid"
    ))
    .context("a cgroup with a classid")?;
    let readers = [Reader::new(s)?, Reader::new(s)?];
    let commands: Vec<_> = PRIO
        .iter()
        .copied()
        .chain(["filter add DEV parent 10: protocol all handle 1: cgroup"])
        .collect();
    let text = scheduled(s, &commands, |s| {
        let command = |port| format!("rvtest send --cid 2 --port {port} --bytes {}", 1u64 << 40);
        let inside = format!(
            "echo $$ >{GROUP}/cgroup.procs && exec {}",
            command(readers[0].port)
        );
        let senders = [
            s.spawn(Side::Guest, &["sh", "-c", &inside])?,
            readers[1].endless(s, "")?,
        ];
        let two = Two {
            readers,
            _senders: senders,
        };
        two.share(s, "prio by the cgroup of the first", NEARLY_ALL)
    })?;
    s.events.note(text);
    Ok(())
}

/// How long round trips take beside four streams, in microseconds, at the median.
fn round_trip(s: &mut Session, qdisc: &[&str]) -> Result<f64> {
    let commands: Vec<_> = std::iter::once(PRIO[0])
        .chain(qdisc.iter().copied())
        .collect();
    scheduled(s, &commands, |s| {
        let reader = Reader::new(s)?;
        let _senders = (0..4)
            .map(|_| reader.endless(s, ""))
            .collect::<Result<Vec<_>>>()?;
        reader.has_more_than(BEGUN, LONG)?;
        thread::sleep(Duration::from_secs(1));
        let (port, listener) = listen(s)?;
        let _echo = echo(listener, 1);
        let command = format!("ping --cid 2 --port {port} --size 64 --ms 4000");
        let text = s.rvtest(Side::Guest, &command)?.success(LONG)?;
        let word = text.split_whitespace().find_map(|w| w.strip_prefix("p50="));
        let median = word.and_then(|w| w.parse().ok());
        reader.is_right()?;
        median.with_context(|| format!("no median in {text:?}"))
    })
}

/// Who knows connections by the hash of a turn, or by its socket, has a round trip wait for one packet of each stream, and
/// not for all that they have written. `sfq` looks into packets of the protocols that it knows, and has to be told.
pub fn flows(s: &mut Session) -> Result<()> {
    let fifo = round_trip(s, &["qdisc add DEV parent 1:1 handle 10: pfifo limit 1000"])?;
    let mut slow = Vec::new();
    for (name, qdisc) in [
        ("fq", &["qdisc add DEV parent 1:1 handle 10: fq"][..]),
        ("fq_codel", &["qdisc add DEV parent 1:1 handle 10: fq_codel"]),
        ("cake", &["qdisc add DEV parent 1:1 handle 10: cake"]),
        (
            "sfq by the hash",
            &[
                "qdisc add DEV parent 1:1 handle 10: sfq",
                "filter add DEV parent 10: protocol all handle 1 flow hash keys rxhash divisor 1024",
            ],
        ),
    ] {
        let median = round_trip(s, qdisc)?;
        let text = format!(
            "beside four streams at 8 Mbit/s a round trip takes {:.0} ms by {name}, and {:.0} by one queue",
            median / 1e3,
            fifo / 1e3
        );
        if median > fifo / 2.0 {
            slow.push(text.clone());
        }
        s.events.note(text);
    }
    ensure!(slow.is_empty(), "{}", slow.join("; "));
    Ok(())
}
