// SPDX-License-Identifier: GPL-2.0

//! T1: packets are traced.

use std::io::{Read, Write};

use anyhow::{bail, ensure, Result};

use crate::{
    session::{Session, Side, GUEST_CID, HOST_CID},
    suites::{
        our_device::{connect, messages::Messages, victim::Letterbox, STALL},
        until,
    },
};

const TRACING: &str = "/sys/kernel/tracing";

/// Events that are traced.
pub struct Trace<'a>(&'a [&'a str]);

impl<'a> Trace<'a> {
    /// Begins with an empty trace. An event is named by its system and its own name.
    pub fn begin(s: &Session, events: &'a [&'a str]) -> Result<Self> {
        s.guest_sh(&format!("echo >{TRACING}/trace"))?;
        Self(events).switch(s, 1)
    }

    fn switch(self, s: &Session, on: u8) -> Result<Self> {
        for event in self.0 {
            s.guest_sh(&format!("echo {on} >{TRACING}/events/{event}/enable"))?;
        }
        Ok(self)
    }

    /// What was traced: an event's name, and what it says, in each line.
    pub fn lines(&self, s: &Session) -> Result<Vec<String>> {
        let text = s.guest_sh(&format!("cat {TRACING}/trace"))?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        // Before it are the task, the processor, flags and the time, each of which may have a colon.
        let events = lines.filter_map(|line| {
            let names = self.0.iter().filter_map(|event| event.rsplit('/').next());
            let starts = names.filter_map(|name| line.find(&format!(" {name}: ")));
            starts.min().map(|at| line[at + 1..].to_owned())
        });
        Ok(events.collect())
    }

    /// Each of these is traced, soon.
    pub fn expect(&self, s: &Session, wanted: &[String]) -> Result<()> {
        wanted.iter().try_for_each(|line| {
            until(STALL, || {
                let lines = self.lines(s)?;
                ensure!(
                    lines.iter().any(|l| l.starts_with(line.as_str())),
                    "not traced: {line:?}; but:\n{}",
                    lines.join("\n")
                );
                Ok(())
            })
        })
    }

    /// Nothing is traced any more.
    pub fn end(self, s: &Session) -> Result<()> {
        self.switch(s, 0).map(drop)
    }
}

const PACKETS: &[&str] = &[
    "rvsock/rvsock_alloc_pkt",
    "rvsock/rvsock_send_pkt",
    "rvsock/rvsock_recv_pkt",
];

/// Who reads an event by its description alone, as bpftrace does of a module that has no BTF, knows the types of all fields.
pub fn fields(s: &mut Session) -> Result<()> {
    let text = s.guest_sh(&format!("cat {TRACING}/events/rvsock/*/format"))?;
    let types: Vec<_> = (text.lines())
        .filter_map(|line| line.trim().strip_prefix("field:")?.split(';').next())
        .filter_map(|field| field.rsplit_once(' ').map(|(ty, _)| ty))
        .collect();
    ensure!(types.len() >= 4 * 9, "so few fields: {types:?}");
    // The first four of each are the kernel's.
    let known = [
        "__u64",
        "__u32",
        "__u16",
        "unsigned short",
        "unsigned char",
        "int",
    ];
    let strange: Vec<_> = types.iter().filter(|ty| !known.contains(ty)).collect();
    ensure!(strange.is_empty(), "fields are of other types: {strange:?}");
    Ok(())
}

/// A connection of the host's, five bytes and their echo, for both types of connections.
pub fn packets(s: &mut Session) -> Result<()> {
    for (kind, flags) in [("STREAM", "0x0"), ("SEQPACKET", "0x1")] {
        let port = s.fresh_port();
        let server = match kind {
            "STREAM" => format!("echo-server --port {port}"),
            _ => format!("messages echo-server --port {port}"),
        };
        let _server = s.server(Side::Guest, &server)?;
        let trace = Trace::begin(s, PACKETS)?;
        let (stream, messages, host_port) = if kind == "STREAM" {
            let (mut stream, host_port) = connect(s, port)?;
            stream.write_all(b"hello")?;
            stream.read_exact(&mut [0; 5])?;
            (Some(stream), None, host_port)
        } else {
            let (messages, host_port) = Messages::connect(s, port)?;
            messages.send(b"hello")?;
            messages.receive(&mut [0; 5])?;
            (None, Some(messages), host_port)
        };
        let here = format!("{GUEST_CID}:{port}");
        let there = format!("{HOST_CID}:{host_port}");
        let line = |event: &str, from: &str, to: &str, rest: &str| {
            format!("rvsock_{event}_pkt: {from} -> {to} {rest}")
        };
        let begins = |op| format!("len=0 type={kind} op={op} flags=0x0 ");
        let carries = format!("len=5 type={kind} op=RW flags={flags} ");
        trace.expect(
            s,
            &[
                line("recv", &there, &here, &begins("REQUEST")),
                line("alloc", &here, &there, &begins("RESPONSE")),
                line("send", &here, &there, &begins("RESPONSE")),
                line("recv", &there, &here, &carries),
                // Credit is filled in when it is sent.
                line(
                    "alloc",
                    &here,
                    &there,
                    &format!("{carries}buf_alloc=0 fwd_cnt=0"),
                ),
                line(
                    "send",
                    &here,
                    &there,
                    &format!("{carries}buf_alloc=262144 fwd_cnt=5"),
                ),
            ],
        )?;
        trace.end(s)?;
        drop((stream, messages));
    }
    Ok(())
}

/// A datagram to a program in the guest, one to nobody, with its answer, and one of a program's.
pub fn datagrams(s: &mut Session) -> Result<()> {
    let letterbox = Letterbox::new(s, u32::MAX)?;
    let nobody = s.fresh_port();
    let trace = Trace::begin(s, PACKETS)?;
    let inject = |s: &Session, port: u32| {
        let words = format!("inject dgram-rx src_port=77 dst_port={port} zeros=9");
        crate::suites::our_device::control::say(s, &words)
    };
    inject(s, letterbox.port)?;
    inject(s, nobody)?;
    let hex = |n: u32| n.to_le_bytes().map(|b| format!("{b:02x}")).concat();
    let address = format!(
        "SOCKET-SENDTO:40:2:0:x0000{}{}00000000",
        hex(78),
        hex(HOST_CID)
    );
    s.guest_sh(&format!("printf abc | socat -u STDIN {address}"))?;
    let (port, here, there) = (letterbox.port, GUEST_CID, HOST_CID);
    trace.expect(
        s,
        &[
            format!("rvsock_recv_pkt: {there}:77 -> {here}:{port} len=9 type=DGRAM op=RW "),
            format!("rvsock_recv_pkt: {there}:77 -> {here}:{nobody} len=9 type=DGRAM op=RW "),
            format!("rvsock_alloc_pkt: {here}:{nobody} -> {there}:77 len=0 type=DGRAM op=RST "),
            format!("rvsock_send_pkt: {here}:{nobody} -> {there}:77 len=0 type=DGRAM op=RST "),
        ],
    )?;
    let ours = trace.lines(s)?;
    for event in ["alloc", "send"] {
        let (name, rest) = (
            format!("rvsock_{event}_pkt: {here}:"),
            format!(" -> {there}:78 len=3 type=DGRAM op=RW flags=0x0 buf_alloc=0 fwd_cnt=0"),
        );
        if !ours
            .iter()
            .any(|l| l.starts_with(&name) && l.ends_with(&rest))
        {
            bail!(
                "{name:?}...{rest:?} is not traced, but:\n{}",
                ours.join("\n")
            );
        }
    }
    trace.end(s)
}
