// SPDX-License-Identifier: GPL-2.0

//! What a hostile device aims at, and what it must not hit.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};

use super::{
    connect,
    control::{say, stats, Control},
    messages::{echoes, Messages},
    STALL,
};
use crate::{
    process::{allowed, Process},
    session::{Session, Side},
    suites::{AT_ONCE, LONG},
};

/// The numbers of the types of sockets in packets.
pub const STREAM: u16 = 1;
pub const SEQPACKET: u16 = 2;

/// The host's end of a connection.
enum End {
    Stream(UnixStream),
    Messages(Messages),
}

/// A connection of the host's with a program in the guest that says how it ended.
pub struct Victim {
    kind: u16,
    host_port: u32,
    guest_port: u32,
    server: Process,
    end: End,
}

impl Victim {
    pub fn new(s: &mut Session, kind: u16) -> Result<Self> {
        let guest_port = s.fresh_port();
        let server = match kind {
            STREAM => format!("wait-end-server --port {guest_port}"),
            _ => format!("messages echo-server --port {guest_port}"),
        };
        let server = s.server(Side::Guest, &server)?;
        let (end, host_port) = match kind {
            STREAM => connect(s, guest_port).map(|(stream, port)| (End::Stream(stream), port))?,
            _ => Messages::connect(s, guest_port).map(|(m, port)| (End::Messages(m), port))?,
        };
        server.expect("ACCEPTED", LONG)?;
        Ok(Self {
            kind,
            host_port,
            guest_port,
            server,
            end,
        })
    }

    /// Its ports, the host's first, and its type.
    pub fn ports(&self) -> (u32, u32, u16) {
        (self.host_port, self.guest_port, self.kind)
    }

    /// A packet of this connection, by which the device breaks a rule.
    pub fn inject(&self, s: &Session, words: &str) -> Result<()> {
        self.inject_as(s, self.kind, words)
    }

    /// The same, as if it were of another type.
    pub fn inject_as(&self, s: &Session, kind: u16, words: &str) -> Result<()> {
        let (src, dst) = (self.host_port, self.guest_port);
        let command = format!("inject rx type={kind} src_port={src} dst_port={dst} {words}");
        say(s, &command).map(drop)
    }

    /// It has ended in the guest, as it must, and the host was told.
    pub fn is_over(&self, how: &str) -> Result<()> {
        self.is_over_in_guest(how)?;
        self.is_over_for_host()
    }

    /// It has ended in the guest, whatever the host knows.
    pub fn is_over_in_guest(&self, how: &str) -> Result<()> {
        let end = self.server.expect("END ", AT_ONCE)?;
        // Who calls recv() only when the connection is gone is told so by af_vsock.
        let late = how == "ECONNRESET" && end == "END ENOTCONN";
        ensure!(
            late || end.starts_with(&format!("END {how}")),
            "END {how} was expected, not {end}"
        );
        Ok(())
    }

    fn is_over_for_host(&self) -> Result<()> {
        let mut buffer = [0; 65536];
        let start = Instant::now();
        loop {
            let outcome = match &self.end {
                End::Stream(stream) => {
                    let mut stream = stream;
                    stream.read(&mut buffer)
                }
                End::Messages(messages) => messages.receive(&mut buffer),
            };
            match outcome {
                Ok(0) => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => return Ok(()),
                other => other.context("the host's end of a connection that is over")?,
            };
            ensure!(
                start.elapsed() < allowed(STALL),
                "the host's end goes on and on"
            );
        }
    }

    /// It lives, and ends in an orderly way.
    pub fn survives(self) -> Result<()> {
        match &self.end {
            End::Stream(stream) => {
                let mut stream = stream;
                stream.write_all(b"still there").context("a victim")?;
            }
            End::Messages(messages) => echoes(messages).context("a victim")?,
        }
        ensure!(
            !self.server.text().contains("END"),
            "the connection has ended in the guest: {}",
            self.server.text()
        );
        drop(self.end);
        self.server.expect("END eof", AT_ONCE).map(drop)
    }
}

/// A connection that is nobody's aim.
pub struct Bystander {
    port: u32,
    _server: Process,
    stream: UnixStream,
}

impl Bystander {
    pub fn new(s: &mut Session) -> Result<Self> {
        let port = s.fresh_port();
        let server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
        let (stream, _) = connect(s, port)?;
        Ok(Self {
            port,
            _server: server,
            stream,
        })
    }

    /// Where its server listens.
    pub fn port(&self) -> u32 {
        self.port
    }

    pub fn is_well(&mut self) -> Result<()> {
        echo(&mut self.stream).context("another connection")
    }

    pub fn is_over(&mut self) -> Result<()> {
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => Ok(()),
            other => anyhow::bail!("another connection has not ended, but: {other:?}"),
        }
    }

    /// Its server takes new connections.
    pub fn takes_new(&self, s: &Session) -> Result<()> {
        let (mut stream, _) = connect(s, self.port).context("a new connection")?;
        echo(&mut stream).context("a new connection")
    }

    /// The same once what holds it up is over.
    pub fn takes_new_soon(&self, s: &Session) -> Result<()> {
        let deadline = Instant::now() + allowed(STALL);
        loop {
            match self.takes_new(s) {
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(100)),
                outcome => return outcome,
            }
        }
    }

    /// The same once the device has come back; the connection that was lost is made anew.
    pub fn takes_new_again(&mut self, s: &Session) -> Result<()> {
        self.takes_new_soon(s)?;
        self.stream = connect(s, self.port)?.0;
        Ok(())
    }
}

fn echo(stream: &mut UnixStream) -> Result<()> {
    let mut back = [0; 4096];
    let message: Vec<u8> = (0..back.len()).map(|i| i as u8).collect();
    stream.write_all(&message)?;
    stream.read_exact(&mut back)?;
    ensure!(message == back, "the echo differs");
    Ok(())
}

/// A program in the guest that prints the datagrams that its port gets.
pub struct Letterbox {
    pub port: u32,
    program: Process,
    count: u32,
}

impl Letterbox {
    /// Bound to this CID.
    pub fn new(s: &mut Session, cid: u32) -> Result<Self> {
        let port = s.fresh_port();
        let program = s.rvtest(
            Side::Guest,
            &format!("dgram print --cid {cid} --port {port}"),
        )?;
        let mut new = Self {
            port,
            program,
            count: 0,
        };
        // It does not say when it is there.
        let deadline = Instant::now() + LONG;
        while new.gets_within(s, Duration::from_millis(500)).is_err() {
            ensure!(
                Instant::now() < deadline && !new.program.ended(),
                "it gets no datagram: {}",
                new.program.text()
            );
        }
        Ok(new)
    }

    /// A datagram to it, with a text of its own.
    pub fn gets(&mut self, s: &Session) -> Result<()> {
        self.gets_within(s, STALL)
    }

    fn gets_within(&mut self, s: &Session, time: Duration) -> Result<()> {
        self.count += 1;
        let text = format!("datagram {}", self.count);
        // What came before may not have ended its line.
        let data: Vec<_> = format!("\n{text}\n")
            .bytes()
            .map(|b| format!("{b:02x}"))
            .collect();
        say(
            s,
            &format!(
                "inject dgram-rx dst_port={} data={}",
                self.port,
                data.concat()
            ),
        )?;
        self.program.expect(&text, time).map(drop)
    }

    /// All that it has printed.
    pub fn text(&self) -> String {
        self.program.text()
    }
}

/// What of the driver's counters has moved.
pub struct Watch(std::collections::BTreeMap<String, u64>);

impl Watch {
    pub fn new(s: &Session) -> Result<Self> {
        Ok(Self(stats(s)?))
    }

    pub fn moved(&self, s: &Session, name: &str) -> Result<u64> {
        let now = stats(s)?;
        let get = |map: &std::collections::BTreeMap<String, u64>| {
            map.get(name)
                .copied()
                .with_context(|| format!("the driver has no counter {name}"))
        };
        Ok(get(&now)?.saturating_sub(get(&self.0)?))
    }

    /// Since this began, so many of each were counted, neither more nor less.
    pub fn expect(&self, s: &Session, wanted: &[(&str, u64)]) -> Result<()> {
        let deadline = Instant::now() + allowed(STALL);
        for (name, count) in wanted {
            loop {
                let moved = self.moved(s, name)?;
                if moved == *count {
                    break;
                }
                ensure!(
                    moved < *count && Instant::now() < deadline,
                    "{name} moved by {moved}, not by {count}"
                );
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

/// Says a command again and again, and waits whenever the driver has no buffers for it, or resets the device.
pub fn flood(s: &Session, count: u32, mut command: impl FnMut(u32) -> String) -> Result<()> {
    let mut control = Control::new(s)?;
    for i in 0..count {
        let command = command(i);
        let deadline = Instant::now() + allowed(STALL);
        loop {
            let answer = control.try_say(&command)?;
            if answer.starts_with("ok") {
                break;
            }
            ensure!(
                ["buffers there", "not set up"]
                    .iter()
                    .any(|e| answer.contains(e))
                    && Instant::now() < deadline,
                "packet {i} of {count}, {command}: {answer}"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}
