// SPDX-License-Identifier: GPL-2.0

//! Measures the C driver and this one in turn, or this one with an option and without, in guests that differ in nothing
//! else: on vhost-vsock, and on hosts in user space.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{ensure, Context, Result};

use guest::bench::PERCENTILES;

use super::probes::Probes;
use crate::{
    config::{Backend, Compared},
    demo::value,
    events::Event,
    session::{Session, Side},
    suites::LONG,
};

pub const SIZES: &[(usize, &str)] = &[
    (64, "64 B"),
    (1 << 10, "1 KiB"),
    (4 << 10, "4 KiB"),
    (64 << 10, "64 KiB"),
    (256 << 10, "256 KiB"),
];
/// The sizes of what lies unread while memory is measured.
const UNREAD: &[(u64, &str)] = &[
    (64, "64 B"),
    (200, "200 B"),
    (1 << 10, "1 KiB"),
    (4 << 10, "4 KiB"),
    (64 << 10, "64 KiB"),
];
/// How many connections there are beside one that is used.
pub const IDLE_CONNECTIONS: &[(u64, &str)] = &[(1, "1"), (10, "10"), (100, "100"), (1000, "1000")];
/// The hosts in user space, with the device's options for them. The programs end by a half-close, which the others pass on to
/// nobody.
pub const HOSTS: &[(&str, &[&str])] = &[
    ("cloud-hypervisor", &["--host", "cloud-hypervisor"]),
    ("default", &["--host", "default"]),
];
const BOUND: &str = "memory of a bound device";
pub const COPY: &str = "copy in the guest, 64 KiB";
const IDLE: &str = "memory of an idle connection";

/// What one measurement found, by unit.
type Values = BTreeMap<String, f64>;

struct Bench<'a> {
    s: &'a mut Session,
    /// What is measured.
    subject: &'static str,
    round: u32,
    /// How long a cell is measured.
    ms: u32,
    /// Only cells whose name contains one of these; all if there are none.
    cells: &'a [String],
}

pub fn run(
    session: &mut Session,
    compared: Compared,
    round: u32,
    quick: bool,
    cells: &[String],
) -> Result<()> {
    for subject in compared.subjects() {
        let mut deaths = 0;
        loop {
            session.discard_guest();
            session.driver = subject.driver;
            if let Backend::VhostUser(device) = &mut session.config.backend {
                device.parameters = subject.parameters.into();
            }
            session
                .events
                .start(&format!("round {round}, {}", subject.name));
            let mut bench = Bench {
                s: session,
                subject: subject.name,
                round,
                ms: if quick { 150 } else { 1000 },
                cells,
            };
            let outcome = bench.guest();
            match session.settle(outcome) {
                // Cells that came before the rig died are measured again; the later value counts.
                Err(e) if Session::is_rig_death(&e) && deaths < 3 => {
                    deaths += 1;
                    session
                        .events
                        .note(format!("{e:#}: the round is measured again"));
                }
                outcome => break outcome?,
            }
        }
    }
    Ok(())
}

pub fn way(client: Side) -> &'static str {
    match client {
        Side::Guest => "guest to host",
        Side::Host => "host to guest",
    }
}

/// What a program has moved, in megabytes per second.
fn rate(text: &str) -> Result<f64> {
    Ok(value(text, "bytes")? / value(text, "seconds")? / 1e6)
}

fn megabytes(text: &str) -> Result<f64> {
    Ok(value(text, "bytes")? / 1e6)
}

/// The program that sends all that it can.
fn source(client: Side, port: u32, size: usize, flows: usize, ms: u32) -> String {
    let cid = client.other().cid();
    format!("source --cid {cid} --port {port} --write-size {size} --flows {flows} --ms {ms}")
}

/// The unit of what a share of round trips takes, in percent.
pub fn share(percent: u32) -> String {
    format!("us, p{percent}")
}

fn name_of(client: Side) -> &'static str {
    match client {
        Side::Guest => "guest",
        Side::Host => "host",
    }
}

impl Bench<'_> {
    fn report(
        &self,
        cell: impl Into<String>,
        values: impl IntoIterator<Item = (impl Into<String>, f64)>,
    ) {
        self.s.events.send(Event::Measure {
            driver: self.subject.into(),
            round: self.round,
            cell: cell.into(),
            values: values
                .into_iter()
                .map(|(unit, v)| (unit.into(), v))
                .collect::<Values>(),
        });
    }

    fn wants(&self, cell: &str) -> bool {
        self.cells.is_empty() || self.cells.iter().any(|c| cell.contains(c.as_str()))
    }

    /// Whether events and memory are counted as well: where the host's kernel is the device.
    fn counts(&self) -> bool {
        matches!(self.s.config.backend, Backend::Vhost)
    }

    /// Everything in one guest.
    fn guest(&mut self) -> Result<()> {
        self.s.ensure_guest()?;
        if self.counts() && self.wants(BOUND) {
            self.pinned()?;
        }
        self.copy()?;
        for client in [Side::Guest, Side::Host] {
            let sink = self.s.fresh_port();
            let echo = self.s.fresh_port();
            let _sink = self
                .s
                .server(client.other(), &format!("sink --port {sink}"))?;
            let _echo = self
                .s
                .server(client.other(), &format!("echo-server --port {echo}"))?;
            for (size, name) in SIZES {
                self.throughput(client, sink, *size, name)?;
            }
            self.messages(client)?;
            self.parallel(client, sink)?;
            for (size, name) in [SIZES[0], SIZES[2]] {
                self.round_trips(client, echo, size, name)?;
            }
            self.beside_bulk(client, echo, sink)?;
            self.connects(client)?;
        }
        if !self.counts() {
            return Ok(());
        }
        self.idle()?;
        for kind in ["stream", "seqpacket"] {
            for (size, name) in UNREAD {
                self.unread(kind, *size, name)?;
            }
        }
        Ok(())
    }

    fn source(
        &self,
        client: Side,
        port: u32,
        size: usize,
        flows: usize,
        ms: u32,
    ) -> Result<String> {
        self.s
            .rvtest(client, &source(client, port, size, flows, ms))?
            .success(LONG)
    }

    /// What a program costs in events, in a run of its own, for each of what it says that it has done.
    fn events(
        &mut self,
        cell: &str,
        client: Side,
        program: &str,
        each: &str,
        done: fn(&str) -> Result<f64>,
    ) -> Result<()> {
        if !self.counts() {
            return Ok(());
        }
        let probes = Probes::start(self.s)?;
        let text = self.s.rvtest(client, program)?.success(LONG)?;
        let counts = probes.stop(self.s)?;
        let done = done(&text)?;
        self.report(
            cell,
            (counts.into_iter()).map(|(what, n)| (format!("{what}/{each}"), n / done)),
        );
        Ok(())
    }

    /// Bytes per second undisturbed; then what each megabyte costs.
    fn throughput(&mut self, client: Side, port: u32, size: usize, name: &str) -> Result<()> {
        let cell = format!("throughput, {}, {name}", way(client));
        if !self.wants(&cell) {
            return Ok(());
        }
        let text = self.source(client, port, size, 1, self.ms)?;
        self.report(&cell, [("MB/s", rate(&text)?)]);
        let program = source(client, port, size, 1, self.ms / 3);
        self.events(&cell, client, &program, "MB", megabytes)
    }

    /// Eight flows at once: their sum, and the share of the slowest in an even part.
    fn parallel(&mut self, client: Side, port: u32) -> Result<()> {
        let cell = format!("8 parallel streams, {}, 64 KiB", way(client));
        if !self.wants(&cell) {
            return Ok(());
        }
        let text = self.source(client, port, 64 << 10, 8, self.ms)?;
        let flows: Vec<f64> = text
            .split_whitespace()
            .find_map(|w| w.strip_prefix("flows="))
            .context("no flows in the answer")?
            .split(',')
            .map(|n| n.parse().context("a flow's bytes"))
            .collect::<Result<_>>()?;
        let (sum, least) = (
            flows.iter().sum::<f64>(),
            flows.iter().copied().fold(f64::MAX, f64::min),
        );
        ensure!(sum > 0.0, "nothing was sent");
        self.report(
            &cell,
            [
                ("MB/s", sum / value(&text, "seconds")? / 1e6),
                ("least flow's share of even", least * 8.0 / sum),
            ],
        );
        let program = source(client, port, 64 << 10, 8, self.ms / 3);
        self.events(&cell, client, &program, "MB", megabytes)
    }

    fn round_trips(&mut self, client: Side, port: u32, size: usize, name: &str) -> Result<()> {
        let cell = format!("round trip from the {}, {name}", name_of(client));
        self.ping(client, port, size, cell)
    }

    fn ping(&mut self, client: Side, port: u32, size: usize, cell: String) -> Result<()> {
        if !self.wants(&cell) {
            return Ok(());
        }
        let cid = client.other().cid();
        let text = self
            .s
            .rvtest(
                client,
                &format!(
                    "ping --cid {cid} --port {port} --size {size} --ms {}",
                    self.ms
                ),
            )?
            .success(LONG)?;
        let shares = PERCENTILES
            .iter()
            .map(|percent| Ok((share(*percent), value(&text, &format!("p{percent}"))?)))
            .collect::<Result<Vec<_>>>()?;
        self.report(cell, shares);
        Ok(())
    }

    /// Round trips of a connection beside which four others send all that they can the same way.
    fn beside_bulk(&mut self, client: Side, echo: u32, sink: u32) -> Result<()> {
        let cid = client.other().cid();
        let cell = format!("round trip beside 4 streams, from the {}", name_of(client));
        if !self.wants(&cell) {
            return Ok(());
        }
        // Longer than the round trips take: their program is started meanwhile.
        let bulk = self.s.rvtest(
            client,
            &format!(
                "source --cid {cid} --port {sink} --write-size {} --flows 4 --ms {}",
                64 << 10,
                self.ms + 600
            ),
        )?;
        let pinged = self.ping(client, echo, 64, cell);
        bulk.success(LONG)?;
        pinged
    }

    /// Whether the device has messages.
    fn has_messages(&self) -> Result<bool> {
        let (device, _) = self.s.device()?;
        let features = self
            .s
            .guest_sh(&format!("cat /sys/bus/virtio/devices/{device}/features"))?;
        // A digit for each bit, from the lowest; VIRTIO_VSOCK_F_SEQPACKET is bit 1.
        Ok(features.chars().nth(1) == Some('1'))
    }

    /// Messages instead of a stream; and messages that the reader drops but for a byte, which is what the rest of the way
    /// allows.
    fn messages(&mut self, client: Side) -> Result<()> {
        if !self.has_messages()? {
            return Ok(());
        }
        for (size, name) in [SIZES[2], SIZES[3]] {
            let cell = format!("messages, {}, {name}", way(client));
            self.message(client, size, 256 << 10, cell)?;
        }
        let (size, name) = SIZES[3];
        let cell = format!("messages, {}, {name}, dropped", way(client));
        self.message(client, size, 1, cell)
    }

    fn message(&mut self, client: Side, size: usize, buffer: usize, cell: String) -> Result<()> {
        if !self.wants(&cell) {
            return Ok(());
        }
        let port = self.s.fresh_port();
        let _sink = self.s.server(
            client.other(),
            &format!("sink --port {port} --kind seqpacket --buffer {buffer}"),
        )?;
        let cid = client.other().cid();
        let text = self
            .s
            .rvtest(
                client,
                &format!(
                    "source --cid {cid} --port {port} --kind seqpacket --write-size {size} --flows 1 --ms {}",
                    self.ms
                ),
            )?
            .success(LONG)?;
        self.report(cell, [("MB/s", rate(&text)?)]);
        Ok(())
    }

    /// What nothing that copies once can be faster than.
    fn copy(&mut self) -> Result<()> {
        if !self.wants(COPY) {
            return Ok(());
        }
        let text = self
            .s
            .rvtest(
                Side::Guest,
                &format!("copy --size {} --ms {}", 64 << 10, self.ms),
            )?
            .success(LONG)?;
        self.report(COPY, [("MB/s", rate(&text)?)]);
        Ok(())
    }

    fn connects(&mut self, client: Side) -> Result<()> {
        let cell = format!("connections, {}", way(client));
        if !self.wants(&cell) {
            return Ok(());
        }
        let port = self.s.fresh_port();
        let _server = self
            .s
            .server(client.other(), &format!("accepts --port {port}"))?;
        let cid = client.other().cid();
        let program = format!("connects --cid {cid} --port {port} --ms {}", self.ms);
        let text = self.s.rvtest(client, &program)?.success(LONG)?;
        self.report(
            &cell,
            [(
                "per second",
                value(&text, "count")? / value(&text, "seconds")?,
            )],
        );
        self.events(&cell, client, &program, "connection", |text| {
            value(text, "count")
        })
    }

    /// What the guest's kernel holds beside caches and user memory, in bytes, once it holds still.
    fn kernel_memory(&self) -> Result<f64> {
        value(
            &self.s.rvtest(Side::Guest, "memory")?.success(LONG)?,
            "kernel",
        )
    }

    /// Receive buffers: the difference that the device's driver makes.
    fn pinned(&mut self) -> Result<()> {
        let (device, driver) = self.s.device()?;
        let at = format!("/sys/bus/virtio/drivers/{driver}");
        self.s.guest_sh(&format!("echo {device} > {at}/unbind"))?;
        let without = self.kernel_memory()?;
        self.s.guest_sh(&format!("echo {device} > {at}/bind"))?;
        let with = self.kernel_memory()?;
        self.report(BOUND, [("KiB", (with - without) / 1024.0)]);
        Ok(())
    }

    /// Opens connections from the host, writes to each, and says what they cost the guest; calls `beside` meanwhile.
    fn held(
        &mut self,
        kind: &str,
        connections: u64,
        pieces: u64,
        size: u64,
        beside: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<f64> {
        let port = self.s.fresh_port();
        let server = self.s.server(
            Side::Guest,
            &format!(
                "hold-server --port {port} --connections {connections} --kind {kind} --bytes {}",
                pieces * size
            ),
        )?;
        let before = self.kernel_memory()?;
        let client = self.s.rvtest(
            Side::Host,
            &format!(
                "hold-client --cid {} --port {port} --connections {connections} --pieces {pieces} --size {size} --kind {kind}",
                Side::Guest.cid()
            ),
        )?;
        client.expect("FILLED", LONG)?;
        server.expect("HELD", LONG)?;
        let held = self.kernel_memory()? - before;
        beside(self)?;
        drop((server, client));
        // They end by themselves: what they held is nothing that the next one finds.
        std::thread::sleep(Duration::from_millis(500));
        Ok(held)
    }

    /// Connections that do nothing: their memory, and the round trips of another one beside them.
    fn idle(&mut self) -> Result<()> {
        let port = self.s.fresh_port();
        let _echo = self
            .s
            .server(Side::Host, &format!("echo-server --port {port}"))?;
        for (connections, name) in IDLE_CONNECTIONS {
            let trips = format!("round trip beside {name} idle connections, from the guest");
            if !self.wants(&trips) && !self.wants(IDLE) {
                continue;
            }
            let used = self.held("stream", *connections, 0, 0, |bench| {
                bench.ping(Side::Guest, port, 64, trips)
            })?;
            // Of few, the noise is all that there is to see.
            if *connections >= 1000 {
                self.report(IDLE, [("bytes", used / *connections as f64)]);
            }
        }
        Ok(())
    }

    fn unread(&mut self, kind: &str, size: u64, name: &str) -> Result<()> {
        /// Three quarters of a default buffer.
        const BYTES: u64 = 192 << 10;
        /// The C driver resets a connection that has 456 small messages unread.
        const MESSAGES: u64 = 400;
        let cell = format!("memory per unread byte, {kind}, {name}");
        if !self.wants(&cell) {
            return Ok(());
        }
        let connections = if size < 1 << 10 { 10 } else { 40 };
        let mut pieces = BYTES / size;
        if kind == "seqpacket" {
            pieces = pieces.min(MESSAGES);
        }
        let used = self.held(kind, connections, pieces, size, |_| Ok(()))?;
        self.report(
            cell,
            [("bytes", used / (connections * pieces * size) as f64)],
        );
        Ok(())
    }
}
