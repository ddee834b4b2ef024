// SPDX-License-Identifier: GPL-2.0

//! T2 and T3: packets and socket buffers that are dropped are traced with their reasons.

use std::{io::Write, thread, time::Duration};

use anyhow::{ensure, Context, Result};

use super::{connections::Line, traced::Trace, waiting::while_much_waits};
use crate::{
    session::{Session, Side, GUEST_CID, HOST_CID},
    suites::{
        our_device::{
            connect,
            control::{paused, say},
            echoes,
            victim::{flood, Letterbox, Victim, Watch, STREAM},
        },
        until, LONG,
    },
};

const DROPS: &[&str] = &["rvsock/rvsock_drop_pkt"];
const BUFFERS: &[&str] = &["skb/kfree_skb"];

/// What is traced of a packet to a port of the guest's that is dropped.
fn line(from: u32, to: u32, rest: &str) -> String {
    format!("rvsock_drop_pkt: {HOST_CID}:{from} -> {GUEST_CID}:{to} {rest}")
}

/// Whether the driver counts a reason: then its counter has its name.
fn is_counted(reason: &str) -> bool {
    !matches!(
        reason,
        "rx_unwanted" | "rx_stray" | "tx_over" | "tx_reset" | "tx_no_device"
    )
}

/// Does `cause`, and sees to it that it is traced for `reason`, and counted by the same name.
fn traces(
    s: &mut Session,
    reason: &str,
    wanted: &str,
    cause: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    let (watch, trace) = (Watch::new(s)?, Trace::begin(s, DROPS)?);
    (|| {
        cause(s)?;
        trace.expect(s, &[format!("{wanted} reason={reason}")])?;
        if is_counted(reason) {
            let counted = watch.moved(s, reason)?;
            let lines = trace.lines(s)?;
            let suffix = format!(" reason={reason}");
            let traced = lines.iter().filter(|l| l.ends_with(&suffix)).count() as u64;
            ensure!(
                traced == counted,
                "{traced} drops are traced, and {counted} are counted"
            );
        }
        Ok(())
    })()
    .with_context(|| format!("{reason}, {wanted:?}"))?;
    trace.end(s)
}

pub fn received(s: &mut Session) -> Result<()> {
    let victim = Victim::new(s, STREAM)?;
    let (from, to, _) = victim.ports();
    let stream = "type=STREAM";
    for (words, rest, reason) in [
        (
            "op=8 zeros=10",
            format!("len=10 {stream} op=0x8 flags=0x0"),
            "rx_bad_op",
        ),
        (
            "op=1",
            format!("len=0 {stream} op=REQUEST flags=0x0"),
            "rx_bad_op",
        ),
        (
            "op=5 zeros=6 flags=1 dst_cid=9",
            format!("len=6 {stream} op=RW flags=0x1"),
            "rx_bad_address",
        ),
        (
            "type=9 op=5 zeros=4",
            "len=4 type=0x9 op=RW flags=0x0".into(),
            "rx_refused",
        ),
    ] {
        let wanted = line(from, to, &rest);
        let wanted = match reason {
            "rx_bad_address" => wanted.replace(&format!("-> {GUEST_CID}:"), "-> 9:"),
            _ => wanted,
        };
        traces(s, reason, &wanted, |s| {
            let kind = if words.contains("type=9") { 9 } else { STREAM };
            victim.inject_as(s, kind, &words.replace("type=9 ", ""))
        })?;
    }
    // All 64 bits of a CID.
    let wanted = line(from, to, &format!("len=3 {stream} op=RW flags=0x0"));
    let wanted = wanted.replace(&format!(" {HOST_CID}:"), " 4294967298:");
    traces(s, "rx_bad_address", &wanted, |s| {
        victim.inject(s, "op=5 zeros=3 src_cid=0x100000002")
    })?;
    let nobody = s.fresh_port();
    let wanted = line(1, nobody, &format!("len=0 {stream} op=RST flags=0x0"));
    traces(s, "rx_stray", &wanted, |s| {
        say(s, &format!("inject rx op=3 dst_port={nobody}")).map(drop)
    })?;
    traces(s, "rx_unwritten", &nothing(), |s| {
        say(s, "inject rx raw= used=46").map(drop)
    })?;
    victim.survives()?;
    let victim = Victim::new(s, STREAM)?;
    let (from, to, _) = victim.ports();
    let wanted = line(from, to, &format!("len=99 {stream} op=RW flags=0x0"));
    traces(s, "rx_damaged", &wanted, |s| {
        victim.inject(s, "zeros=100 len=99")
    })?;
    victim.is_over("ECONNRESET")?;
    unwanted(s)?;
    beyond_credit(s)
}

/// What is said of a packet of which there is no header.
fn nothing() -> String {
    "rvsock_drop_pkt: 0:0 -> 0:0 len=0 type=0x0 op=INVALID flags=0x0".into()
}

/// A socket that was shut down for receiving.
fn unwanted(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("hold-server --port {port} --connections 1 --shut"),
    )?;
    let (_stream, host_port) = connect(s, port)?;
    server.expect("HELD", LONG)?;
    let wanted = line(host_port, port, "len=11 type=STREAM op=RW flags=0x0");
    traces(s, "rx_unwanted", &wanted, |s| {
        say(
            s,
            &format!("inject rx src_port={host_port} dst_port={port} zeros=11"),
        )
        .map(drop)
    })
}

/// More than the connection's credit.
fn beyond_credit(s: &mut Session) -> Result<()> {
    const PIECE: u32 = 32768;
    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("hold-server --port {port} --connections 1"),
    )?;
    let (_stream, host_port) = connect(s, port)?;
    server.expect("HELD", LONG)?;
    let wanted = line(
        host_port,
        port,
        &format!("len={PIECE} type=STREAM op=RW flags=0x0"),
    );
    let spread = spread(s, PIECE)?;
    traces(s, "rx_overrun", &wanted, |s| {
        flood(s, 9, |_| {
            format!("inject rx src_port={host_port} dst_port={port} zeros={PIECE} spread={spread}")
        })
    })
}

/// How a packet of so much payload lies in the driver's merged buffers.
fn spread(s: &Session, payload: u32) -> Result<String> {
    let buffer = crate::suites::our_device::control::stats(s)?["rx_buffer_bytes"];
    let (mut left, mut pieces) = (u64::from(payload) + 46, Vec::new());
    while left > 0 {
        pieces.push(left.min(buffer).to_string());
        left -= left.min(buffer);
    }
    Ok(pieces.join(","))
}

/// Sends a signal to the program that prints datagrams.
fn signal(s: &Session, signal: &str) -> Result<()> {
    // The pattern is not found in the shell's own words.
    s.guest_sh(&format!(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline | grep -q '[d]gram print' && kill -{signal} ${{p#/proc/}} && exit; done; false"
    ))
    .map(drop)
}

/// A socket that nobody reads, until it has no room.
fn unread_datagrams(s: &mut Session, letterbox: &Letterbox) -> Result<()> {
    signal(s, "STOP")?;
    let outcome = flood(s, 400, |_| {
        format!(
            "inject dgram-rx src_port=77 dst_port={} zeros=3000",
            letterbox.port
        )
    });
    outcome.and(signal(s, "CONT"))
}

pub fn datagrams(s: &mut Session) -> Result<()> {
    let letterbox = Letterbox::new(s, u32::MAX)?;
    let to = letterbox.port;
    let wanted = line(77, to, "len=3000 type=DGRAM op=RW flags=0x0");
    traces(s, "rx_dgram_dropped", &wanted, |s| {
        unread_datagrams(s, &letterbox)
    })?;
    for (words, rest, reason) in [
        (
            "op=8 zeros=2",
            "len=2 type=DGRAM op=0x8 flags=0x0",
            "rx_bad_op",
        ),
        (
            "zeros=100 len=99",
            "len=99 type=DGRAM op=RW flags=0x0",
            "rx_damaged",
        ),
    ] {
        traces(s, reason, &line(77, to, rest), |s| {
            say(
                s,
                &format!("inject dgram-rx src_port=77 dst_port={to} {words}"),
            )
            .map(drop)
        })?;
    }
    let nobody = s.fresh_port();
    let wanted = line(77, nobody, "len=1 type=DGRAM op=RW flags=0x0");
    traces(s, "rx_refused", &wanted, |s| {
        say(
            s,
            &format!("inject dgram-rx src_port=77 dst_port={nobody} zeros=1"),
        )
        .map(drop)
    })
}

/// Without merging, a buffer that came back too short is no more than that.
pub fn without_merging(s: &mut Session) -> Result<()> {
    let victim = Victim::new(s, STREAM)?;
    traces(s, "rx_short", &nothing(), |s| {
        victim.inject(s, "zeros=10 used=43")
    })?;
    victim.survives()
}

/// The first of these connections of which packets wait.
fn waiting(lines: &[Line]) -> Result<&Line> {
    let found = lines
        .iter()
        .find(|l| l.number("waiting").is_ok_and(|n| n > 1));
    found.context("no connection has packets that wait")
}

pub fn unsent(s: &mut Session) -> Result<()> {
    while_much_waits(s, |s, lines| {
        let one = waiting(lines)?;
        let (local, peer) = (one.value("local")?, one.value("peer")?);
        let wanted =
            format!("rvsock_drop_pkt: {local} -> {peer} len=32768 type=STREAM op=RW flags=0x0");
        traces(s, "tx_over", &wanted, |s| reset_by_peer(s, one))?;
        let other = lines
            .iter()
            .rev()
            .find(|l| l.number("waiting").is_ok_and(|n| n > 1));
        let local = other.context("one alone waits")?.value("local")?;
        let wanted =
            format!("rvsock_drop_pkt: {local} -> {peer} len=32768 type=STREAM op=RW flags=0x0");
        traces(s, "tx_reset", &wanted, |s| say(s, "reset").map(drop))
    })?;
    deaf(s)?;
    no_device(s)
}

/// The peer ends a connection of which packets wait.
fn reset_by_peer(s: &Session, line: &Line) -> Result<()> {
    let port = |name| -> Result<String> {
        let address = line.value(name)?;
        let port = address.rsplit(':').next().context("a port")?;
        Ok(port.to_owned())
    };
    let words = format!("src_port={} dst_port={}", port("peer")?, port("local")?);
    say(s, &format!("inject rx op=3 {words}")).map(drop)
}

/// Replies of which too many wait.
fn deaf(s: &mut Session) -> Result<()> {
    let nobody = s.fresh_port();
    let wanted = format!("rvsock_drop_pkt: {GUEST_CID}:{nobody} -> {HOST_CID}:");
    paused(s, "tx", |s| {
        let (watch, trace) = (Watch::new(s)?, Trace::begin(s, DROPS)?);
        flood(s, 2000, |i| {
            format!("inject rx op=5 src_port={} dst_port={nobody}", 100_000 + i)
        })?;
        watch.expect(s, &[("rx_refused", 2000)])?;
        let dropped = watch.moved(s, "tx_reply_dropped")?;
        let lines = trace.lines(s)?;
        let of_ours = |line: &&String| {
            line.starts_with(&wanted)
                && line.ends_with(" len=0 type=STREAM op=RST flags=0x0 reason=tx_reply_dropped")
        };
        let traced = lines.iter().filter(of_ours).count() as u64;
        ensure!(
            dropped > 0 && traced == dropped,
            "{dropped} replies were dropped, and {traced} are traced"
        );
        trace.end(s)
    })
}

/// The device is unbound while replies wait that it does not take. What connections send ends with them before.
fn no_device(s: &mut Session) -> Result<()> {
    const COUNT: u32 = 600;
    let nobody = s.fresh_port();
    let (device, driver) = s.device()?;
    let folder = format!("/sys/bus/virtio/drivers/{driver}");
    paused(s, "tx", |s| {
        let watch = Watch::new(s)?;
        flood(s, COUNT, |i| {
            format!("inject rx op=5 src_port={} dst_port={nobody}", 100_000 + i)
        })?;
        watch.expect(s, &[("rx_refused", COUNT.into())])?;
        let last = 100_000 + COUNT - 1;
        let reply = format!(
            "rvsock_drop_pkt: {GUEST_CID}:{nobody} -> {HOST_CID}:{last} len=0 type=STREAM op=RST flags=0x0"
        );
        traces(s, "tx_no_device", &reply, |s| {
            s.guest_sh(&format!("echo {device} >{folder}/unbind"))
                .map(drop)
        })?;
        s.guest_sh(&format!("echo {device} >{folder}/bind"))
            .map(drop)
    })
}

/// What the kernel traces of a socket buffer of ours that is dropped for `reason`. The function that drops it may have
/// become a part of its caller.
fn says(lines: &[String], reason: &str) -> usize {
    let ours = lines
        .iter()
        .filter(|l| l.contains("[rvsock]") || l.contains("location=dev_kfree_skb_any_reason"));
    ours.filter(|l| l.contains(" reason: ") && l.ends_with(reason))
        .count()
}

/// The same must be there now, and no buffer without a reason.
fn dropped_for(
    s: &mut Session,
    reason: &str,
    cause: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    let trace = Trace::begin(s, BUFFERS)?;
    cause(s).with_context(|| reason.to_owned())?;
    // What a closing socket has is dropped soon, and all of it then.
    until(LONG, || {
        let lines = trace.lines(s)?;
        ensure!(
            says(&lines, reason) > 0,
            "no buffer was dropped for {reason}: {}",
            lines.join("\n")
        );
        Ok(())
    })?;
    thread::sleep(Duration::from_millis(300));
    let lines = trace.lines(s)?;
    let (with, without) = (says(&lines, reason), says(&lines, "NOT_SPECIFIED"));
    ensure!(
        with > 0 && without == 0,
        "{with} buffers were dropped for {reason}, and {without} for no reason: {}",
        lines.join("\n")
    );
    trace.end(s)
}

pub fn buffers(s: &mut Session) -> Result<()> {
    // What nobody has read.
    let port = s.fresh_port();
    let server = s.server(
        Side::Guest,
        &format!("hold-server --port {port} --connections 1 --bytes 1000"),
    )?;
    let (mut stream, _) = connect(s, port)?;
    stream.write_all(&[1; 1000])?;
    server.expect("HELD", LONG)?;
    dropped_for(s, "SOCKET_CLOSE", |_| {
        server.kill();
        Ok(())
    })?;
    let letterbox = Letterbox::new(s, u32::MAX)?;
    dropped_for(s, "SOCKET_RCVBUFF", |s| unread_datagrams(s, &letterbox))?;
    while_much_waits(s, |s, lines| {
        let one = waiting(lines)?;
        dropped_for(s, "SOCKET_CLOSE", |s| reset_by_peer(s, one))?;
        dropped_for(s, "QUEUE_PURGE", |s| say(s, "reset").map(drop))
    })?;
    dropped_for(s, "FULL_RING", deaf)?;
    dropped_for(s, "DEV_READY", no_device)
}

/// Of what is sent and read nothing counts as dropped.
pub fn consumed(s: &mut Session) -> Result<()> {
    let trace = Trace::begin(s, BUFFERS)?;
    echoes(s)?;
    let mut letterbox = Letterbox::new(s, u32::MAX)?;
    letterbox.gets(s)?;
    let lines = trace.lines(s)?;
    let lost = says(&lines, "");
    ensure!(
        lost == 0,
        "{lost} buffers were dropped of what was sent and read: {}",
        lines.join("\n")
    );
    trace.end(s)
}
