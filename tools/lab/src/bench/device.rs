// SPDX-License-Identifier: GPL-2.0

//! Measures datagrams beside UDP, and receive buffers of a page that are merged beside single large ones, on our
//! device.

use std::{
    io::{Read, Write},
    net::{Shutdown, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    demo::value,
    events::Event,
    process::Process,
    session::{Session, Side},
    suites::{
        dgram::{flow, host::Port},
        our_device, LONG,
    },
};

/// The greatest payload of a UDP datagram, which is what "64 KiB" means for both.
const LARGEST: usize = 65507;
const SIZES: &[(usize, &str)] = &[
    (64, "64 B"),
    (1 << 10, "1 KiB"),
    (4 << 10, "4 KiB"),
    (LARGEST, "64 KiB"),
];
/// How QEMU's network calls the host.
const GATEWAY: &str = "10.0.2.2";
/// Nothing for so long is the end.
const SILENCE: Duration = Duration::from_millis(500);

/// The kinds of receive buffers, and the device's options for them.
pub const COLUMNS: &[(&str, &[&str])] = &[
    ("single", &["--features", "stream,seqpacket,dgram"]),
    ("merged", our_device::ALL),
];

struct Bench<'a> {
    s: &'a mut Session,
    round: u32,
    ms: u64,
}

/// One end of the host's: a port of the device, or a UDP socket that the guest reaches through QEMU's network.
enum Peer {
    Vsock(Port),
    Udp(UdpSocket),
}

pub fn run(s: &mut Session, round: u32, quick: bool, column: &str) -> Result<()> {
    s.ensure_guest()?;
    let ms = if quick { 200 } else { 1000 };
    let mut bench = Bench { s, round, ms };
    for (size, name) in [(64 << 10, "64 KiB"), (256 << 10, "256 KiB")] {
        bench.stream(column, size, name)?;
    }
    bench.flood(column)?;
    // Of both kinds of buffers the one that datagrams were made for.
    if column == "merged" {
        for kind in ["udp", "vsock"] {
            for (size, name) in SIZES {
                bench.outward(kind, *size, name)?;
                bench.inward(kind, *size, name)?;
            }
        }
    }
    Ok(())
}

impl Bench<'_> {
    fn report(&self, column: &str, cell: String, values: &[(&str, f64)]) {
        self.s.events.send(Event::Measure {
            driver: column.into(),
            round: self.round,
            cell,
            values: values.iter().map(|(u, v)| ((*u).to_owned(), *v)).collect(),
        });
    }

    fn device(&self) -> Result<Duration> {
        self.s.vhost_user_device()?.used()
    }

    /// A stream from the host, and how busy the device was with it.
    fn stream(&mut self, column: &str, size: usize, name: &str) -> Result<()> {
        let port = self.s.fresh_port();
        let _sink = self.s.server(Side::Guest, &format!("sink --port {port}"))?;
        let (mut stream, _) = our_device::connect(self.s, port)?;
        let bytes = vec![0x5a; size];
        let (start, used, mut sent) = (Instant::now(), self.device()?, 0u64);
        while start.elapsed() < Duration::from_millis(self.ms) {
            stream.write_all(&bytes)?;
            sent += size as u64;
        }
        stream.shutdown(Shutdown::Write)?;
        // The sink closes when it has read the last byte.
        stream.read_to_end(&mut Vec::new())?;
        let seconds = start.elapsed().as_secs_f64();
        let busy = (self.device()? - used).as_secs_f64() / seconds * 100.0;
        self.report(
            column,
            format!("stream, host to guest, {name}"),
            &[
                ("MB/s", sent as f64 / seconds / 1e6),
                ("device busy, %", busy),
            ],
        );
        Ok(())
    }

    /// What a flood of datagrams leaves a stream (D7).
    fn flood(&mut self, column: &str) -> Result<()> {
        for flood in flow::in_a_flood(self.s, Duration::from_millis(self.ms))? {
            self.report(
                column,
                format!("stream in a flood of datagrams, {}", flood.way),
                &[
                    ("MB/s", flood.beside / 1e6),
                    ("MB/s, alone", flood.alone / 1e6),
                    ("MB/s, the flood", flood.bytes / 1e6),
                ],
            );
        }
        Ok(())
    }

    fn peer(&mut self, kind: &str) -> Result<(Peer, String)> {
        if kind == "udp" {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            let port = socket.local_addr()?.port();
            let way = format!("--udp {GATEWAY}:{port} --cid 2 --port 0");
            return Ok((Peer::Udp(socket), way));
        }
        let port = Port::new(self.s)?;
        let way = format!("--cid 2 --port {}", port.number);
        Ok((Peer::Vsock(port), way))
    }

    fn report_rate(&self, kind: &str, way: &str, name: &str, rate: f64, busy: f64) {
        self.report(
            kind,
            format!("datagrams received, {way}, {name}"),
            &[("per second", rate), ("device busy, %", busy)],
        );
    }

    /// Datagrams that reach a program on the host.
    fn outward(&mut self, kind: &str, size: usize, name: &str) -> Result<()> {
        let (peer, way) = self.peer(kind)?;
        let ms = self.ms;
        let (start, used) = (Instant::now(), self.device()?);
        let sender = self.s.rvtest(
            Side::Guest,
            &format!("rate-send {way} --size {size} --ms {ms}"),
        )?;
        let count = peer.count(&sender)?;
        let line = sender.success(LONG)?;
        let busy = (self.device()? - used).as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
        let rate = count as f64 / value(&line, "seconds")?;
        self.report_rate(kind, "guest to host", name, rate, busy);
        Ok(())
    }

    /// Datagrams that reach a program in the guest.
    fn inward(&mut self, kind: &str, size: usize, name: &str) -> Result<()> {
        let (peer, way) = self.peer(kind)?;
        let receiver = self
            .s
            .rvtest(Side::Guest, &format!("rate-receive {way} --size {size}"))?;
        let (start, used) = (Instant::now(), self.device()?);
        peer.flood(size, Duration::from_millis(self.ms))?;
        let busy = (self.device()? - used).as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
        let line = receiver.success(LONG)?;
        let seconds = value(&line, "seconds")?.max(0.001);
        self.report_rate(
            kind,
            "host to guest",
            name,
            value(&line, "count")? / seconds,
            busy,
        );
        Ok(())
    }
}

impl Peer {
    /// How many come until the sender has ended, and what it sent is there.
    fn count(&self, sender: &Process) -> Result<u64> {
        let mut buffer = vec![0; 1 << 16];
        let mut count = 0;
        loop {
            let came = match self {
                Self::Vsock(port) => port.receive(&mut buffer, SILENCE)?.is_some(),
                Self::Udp(socket) => {
                    socket.set_read_timeout(Some(SILENCE))?;
                    socket.recv(&mut buffer).is_ok()
                }
            };
            if came {
                count += 1;
            } else if sender.ended() {
                return Ok(count);
            }
        }
    }

    /// Sends as fast as it goes to whoever says to be there.
    fn flood(&self, size: usize, time: Duration) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let bytes = vec![0x5a; size];
        match self {
            Self::Vsock(port) => {
                let (_, from) = port
                    .receive(&mut buffer, LONG)?
                    .context("the guest did not say where it is")?;
                let start = Instant::now();
                while start.elapsed() < time {
                    port.answer(&bytes, &from)?;
                }
            }
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(LONG))?;
                let (_, from) = socket
                    .recv_from(&mut buffer)
                    .context("the guest did not say where it is")?;
                let start = Instant::now();
                while start.elapsed() < time {
                    socket.send_to(&bytes, from)?;
                }
            }
        }
        Ok(())
    }
}
