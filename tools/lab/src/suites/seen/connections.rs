// SPDX-License-Identifier: GPL-2.0

//! T4: debugfs has a line for each connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};

use crate::{
    process::allowed,
    session::{Session, Side, GUEST_CID, HOST_CID},
    suites::{
        our_device::{
            connect,
            control::{paused, say},
            messages::Messages,
            victim::{Victim, STREAM},
            STALL,
        },
        until, LONG,
    },
};

const FILE: &str = "/sys/kernel/debug/rvsock/connections";
/// The greatest size of a page; more than that is read in pieces on any machine.
const PAGE: usize = 65536;
const MANY: u32 = 600;

/// What is said of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(BTreeMap<String, String>);

impl Line {
    fn parse(line: &str) -> Result<Self> {
        let words = line.split_whitespace().map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        let map: Option<BTreeMap<_, _>> = words.collect();
        let map = map.with_context(|| format!("names and values were expected: {line:?}"))?;
        Ok(Self(map))
    }

    pub fn value(&self, name: &str) -> Result<&str> {
        let value = self.0.get(name);
        let value = value.with_context(|| format!("no {name} is said: {:?}", self.0))?;
        Ok(value)
    }

    pub fn number(&self, name: &str) -> Result<u64> {
        let value = self.value(name)?;
        value.parse().with_context(|| format!("{name}={value}"))
    }

    pub fn is(&self, name: &str, value: &str) -> bool {
        self.0.get(name).is_some_and(|v| v == value)
    }

    /// Each of these is said.
    fn expect(&self, wanted: &[(&str, &str)]) -> Result<()> {
        for (name, value) in wanted {
            ensure!(
                self.is(name, value),
                "{name}={value} was expected: {:?}",
                self.0
            );
        }
        Ok(())
    }
}

/// All connections that the driver shows.
pub fn connections(s: &Session) -> Result<Vec<Line>> {
    s.guest_sh(&format!("cat {FILE}"))?
        .lines()
        .map(Line::parse)
        .collect()
}

/// The first for which `wanted` says so; it may take a while.
fn soon(s: &Session, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
    until(STALL, || {
        let all = connections(s)?;
        let found = all.iter().find(|line| wanted(line)).cloned();
        found.with_context(|| format!("it is not among {all:?}"))
    })
}

/// Waits until a connection to this peer is begun, which does not answer.
pub fn is_connecting(s: &Session, cid: u32, port: u32) -> Result<()> {
    let peer = format!("{cid}:{port}");
    soon(s, |l| l.is("peer", &peer) && l.is("state", "connecting")).map(drop)
}

/// The one between a port of the guest's and one of the host's, once `what` is so.
fn changed(s: &Session, here: u32, there: u32, (what, value): (&str, &str)) -> Result<Line> {
    let (local, peer) = (format!("{GUEST_CID}:{here}"), format!("{HOST_CID}:{there}"));
    let is_it = |l: &Line| l.is("local", &local) && l.is("peer", &peer) && l.is(what, value);
    soon(s, is_it).with_context(|| format!("{what}={value} of {local} and {peer}"))
}

/// The same, once it is `state`.
fn line_of(s: &Session, here: u32, there: u32, state: &str) -> Result<Line> {
    changed(s, here, there, ("state", state))
}

/// A program in the guest that reads nothing, and the host's end of its connection.
fn unread_stream(
    s: &mut Session,
    bytes: usize,
) -> Result<(crate::process::Process, UnixStream, u32, u32)> {
    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("hold-server --port {port} --connections 1 --bytes {bytes}"),
    )?;
    let (mut stream, host_port) = connect(s, port)?;
    stream.write_all(&vec![1; bytes])?;
    server.expect("HELD", LONG)?;
    Ok((server, stream, port, host_port))
}

pub fn lines(s: &mut Session) -> Result<()> {
    let mode = s.guest_sh(&format!("stat -c %a:%u {FILE}"))?;
    ensure!(
        mode.trim() == "400:0",
        "others than root can read it: {mode}"
    );
    let (server, stream, port, host_port) = unread_stream(s, 1000)?;
    let line = line_of(s, port, host_port, "established")?;
    line.expect(&[
        ("type", "stream"),
        ("shut", "0"),
        ("peer_shut", "0"),
        ("in_flight", "0"),
        ("buf_alloc", "262144"),
        ("peer_may_send", "261144"),
        ("unread", "1000"),
        ("messages", "0"),
        ("unsent", "0"),
        ("waiting", "0"),
        ("waiting_memory", "0"),
        ("dropped", "0"),
    ])?;
    ensure!(line.number("may_send")? > 0, "no credit is said: {line:?}");
    // The peer sends no more, and then has ended it.
    let from_peer = format!("inject rx src_port={host_port} dst_port={port} op=4");
    say(s, &format!("{from_peer} flags=2"))?;
    let line = changed(s, port, host_port, ("peer_shut", "2"))?;
    line.expect(&[("unread", "1000"), ("state", "established")])?;
    say(s, &format!("{from_peer} flags=3"))?;
    are_gone(s)?;
    drop((server, stream));
    begin_and_end(s)?;

    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("hold-server --port {port} --connections 1 --kind seqpacket"),
    )?;
    let (messages, host_port) = Messages::connect(s, port)?;
    for _ in 0..3 {
        messages.send(&[2; 50])?;
    }
    server.expect("HELD", LONG)?;
    let line = changed(s, port, host_port, ("messages", "3"))?;
    line.expect(&[("type", "seqpacket"), ("messages", "3"), ("unread", "150")])?;

    let victim = Victim::new(s, STREAM)?;
    let (host_port, port, _) = victim.ports();
    victim.inject(s, "op=2")?;
    victim.inject(s, "op=1")?;
    let line = changed(s, port, host_port, ("dropped", "2"))?;
    line.expect(&[("unread", "0")])?;
    victim.survives()?;
    drop((server, messages));
    are_gone(s)
}

/// One that connects, and one that was closed, while the device takes nothing.
fn begin_and_end(s: &mut Session) -> Result<()> {
    let (server, _stream, port, host_port) = unread_stream(s, 0)?;
    let nobody = s.fresh_port();
    paused(s, "tx", |s| {
        server.kill();
        let connect = format!("connect --cid {HOST_CID} --port {nobody} --patience 20");
        let _connecting = s.rvtest(Side::Guest, &connect)?;
        line_of(s, port, host_port, "closing")?;
        is_connecting(s, HOST_CID, nobody)
    })
}

/// Where there is none any more, none is shown.
fn are_gone(s: &Session) -> Result<()> {
    let deadline = Instant::now() + allowed(LONG);
    while !connections(s)?.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "they stay: {:?}",
            connections(s)?
        );
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Connections of the host's with a program in the guest.
fn open(s: &mut Session, count: u32) -> Result<(crate::process::Process, Vec<(UnixStream, u32)>)> {
    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("hold-server --port {port} --connections {count}"),
    )?;
    let held = (0..count)
        .map(|_| connect(s, port))
        .collect::<Result<_>>()?;
    server.expect("HELD", LONG)?;
    Ok((server, held))
}

fn are_all_there(held: &[(UnixStream, u32)], lines: &[Line]) -> Result<()> {
    let peers: BTreeSet<_> = lines.iter().filter_map(|l| l.value("peer").ok()).collect();
    for (_, port) in held {
        let peer = format!("{HOST_CID}:{port}");
        ensure!(
            peers.contains(peer.as_str()),
            "{peer} is missing among {} lines",
            lines.len()
        );
    }
    Ok(())
}

pub fn many(s: &mut Session) -> Result<()> {
    let (_server, held) = open(s, MANY)?;
    let text = s.guest_sh(&format!("cat {FILE}"))?;
    ensure!(
        text.len() > PAGE,
        "{MANY} connections have {} bytes",
        text.len()
    );
    let lines = connections(s)?;
    ensure!(
        lines.len() == MANY as usize,
        "{MANY} have {} lines",
        lines.len()
    );
    are_all_there(&held, &lines)?;
    // Nothing moves meanwhile; so it is the same in pieces, and from the middle on.
    let differ = s.guest_sh(&format!(
        "cd /tmp; cat {FILE} >whole
         dd if={FILE} of=pieces bs=7 2>/dev/null; cmp whole pieces
         dd if={FILE} of=rest bs=1000 skip=50 2>/dev/null; tail -c +50001 whole | cmp - rest
         while read -r line; do echo \"$line\"; done <{FILE} >read; cmp whole read
         rm whole pieces rest read"
    ))?;
    ensure!(
        differ.trim().is_empty(),
        "it depends on how it is read: {differ}"
    );
    Ok(())
}

pub fn changing(s: &mut Session) -> Result<()> {
    let (_server, held) = open(s, MANY)?;
    let port = s.fresh_port();
    let _echoes = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    let session: &Session = s;
    let (over, count) = (&AtomicBool::new(false), &AtomicU32::new(0));
    thread::scope(|scope| {
        let others = scope.spawn(move || -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                drop(
                    (0..20)
                        .map(|_| connect(session, port))
                        .collect::<Result<Vec<_>>>()?,
                );
                count.fetch_add(20, Ordering::Relaxed);
            }
            Ok(())
        });
        let (mut looks, start) = (0, Instant::now());
        let outcome = (|| {
            while looks < 30 || count.load(Ordering::Relaxed) <= 100 {
                are_all_there(&held, &connections(session)?)?;
                looks += 1;
                ensure!(
                    start.elapsed() < allowed(LONG) && !others.is_finished(),
                    "while it was looked {looks} times, {count:?} came and went"
                );
            }
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        others
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        outcome
    })
}
