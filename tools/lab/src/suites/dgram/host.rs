// SPDX-License-Identifier: GPL-2.0

//! The host's end of datagrams, and what counts them: the device, by its control socket, and the driver.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::{
    process::{allowed, Process},
    session::{Session, GUEST_CID},
    suites::{until, LONG},
};

/// A peer that stands still for so long has failed.
pub const STALL: Duration = Duration::from_secs(30);

fn uds(s: &Session) -> Result<String> {
    let uds = s.config.vhost_user_uds();
    let uds = uds.context("this session has no vhost-user device")?;
    Ok(uds.display().to_string())
}

/// A port of the host's.
pub struct Port {
    socket: UnixDatagram,
    pub number: u32,
    path: PathBuf,
    uds: String,
}

impl Drop for Port {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Port {
    pub fn new(s: &mut Session) -> Result<Self> {
        let number = s.fresh_port();
        let uds = uds(s)?;
        let path = PathBuf::from(format!("{uds}_{number}"));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)
            .with_context(|| format!("cannot bind to {}", path.display()))?;
        socket.set_read_timeout(Some(allowed(STALL)))?;
        socket.set_write_timeout(Some(allowed(STALL)))?;
        Ok(Self {
            socket,
            number,
            path,
            uds,
        })
    }

    /// What it [`send`](Self::send)s goes to this port of the guest's from now on.
    pub fn aim(&self, guest_port: u32) -> Result<()> {
        self.send(format!("CONNECT {guest_port}\n").as_bytes())?;
        let mut line = [0; 64];
        let len = self
            .socket
            .recv(&mut line)
            .context("waiting for the device's OK")?;
        let line = String::from_utf8_lossy(&line[..len]).into_owned();
        ensure!(
            line.trim() == format!("OK {}", self.number),
            "the device answered {line:?} to CONNECT {guest_port}"
        );
        Ok(())
    }

    /// Sends to the port that it is aimed at. Waits for the device.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        self.answer(bytes, &format!("{}.dgram", self.uds))
    }

    /// The next datagram within `time`, and the guest's port that it comes from.
    pub fn receive(&self, buffer: &mut [u8], time: Duration) -> Result<Option<(usize, String)>> {
        self.socket.set_read_timeout(Some(time))?;
        let outcome = self.socket.recv_from(buffer);
        self.socket.set_read_timeout(Some(allowed(STALL)))?;
        match outcome {
            Ok((len, from)) => {
                let path = from.as_pathname().context("a datagram without a sender")?;
                Ok(Some((len, path.display().to_string())))
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e).context("receive from the guest"),
        }
    }

    /// Sends to one of the device's sockets, such as that from which a datagram came.
    pub fn answer(&self, bytes: &[u8], to: &str) -> Result<()> {
        let sent = self
            .socket
            .send_to(bytes, to)
            .with_context(|| format!("a datagram to {to}"))?;
        ensure!(sent == bytes.len(), "{sent} bytes of a datagram were sent");
        Ok(())
    }

    /// Hands over what comes while a program runs, and is there when it ends; how many came. What the program has sent last
    /// may be with the driver still.
    pub fn while_runs(
        &self,
        program: &Process,
        mut take: impl FnMut(&[u8], &str) -> Result<()>,
    ) -> Result<u64> {
        let (mut buffer, mut came) = (vec![0; 1 << 17], 0);
        loop {
            let ended = program.ended();
            let time = Duration::from_millis(100);
            match self.receive(&mut buffer, time)? {
                Some((len, from)) => {
                    take(&buffer[..len], &from)?;
                    came += 1;
                }
                None if ended => return Ok(came),
                None => {}
            }
        }
    }

    /// The same of a program that must succeed, and on until `all` has no error, which is given how many came.
    pub fn until_all<T>(
        &self,
        program: &Process,
        mut take: impl FnMut(&[u8], &str) -> Result<()>,
        mut all: impl FnMut(u64) -> Result<T>,
    ) -> Result<T> {
        let mut came = self.while_runs(program, &mut take)?;
        program.success(LONG)?;
        let deadline = Instant::now() + allowed(STALL);
        loop {
            match all(came) {
                Err(_) if Instant::now() < deadline => {
                    came += self.while_runs(program, &mut take)?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends back what comes while a program runs; how many came.
    pub fn echo_while(&self, program: &Process) -> Result<u64> {
        self.while_runs(program, |bytes, from| self.answer(bytes, from))
    }
}

/// Of several that may come, one is there.
pub fn has_come(count: u64) -> Result<()> {
    ensure!(count > 0, "no datagram comes");
    Ok(())
}

/// Gives the device a command; what it answers.
pub fn command(s: &Session, line: &str) -> Result<String> {
    let path = s.config.vhost_user_control();
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("cannot connect to {}", path.display()))?;
    stream.set_read_timeout(Some(allowed(STALL)))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    let text = answer.trim().strip_prefix("ok");
    let text = text.with_context(|| format!("the device answered {answer:?} to {line:?}"))?;
    Ok(text.trim().to_owned())
}

/// What the device and the driver have counted.
pub struct Counters {
    device: Value,
    driver: String,
}

impl Counters {
    pub fn read(s: &Session) -> Result<Self> {
        let mut new = Self::of_device(s)?;
        new.driver = s.guest_sh("cat /sys/kernel/debug/rvsock/stats")?;
        Ok(new)
    }

    /// Without the driver's.
    fn of_device(s: &Session) -> Result<Self> {
        let mut all: Value = serde_json::from_str(&command(s, "counters")?)?;
        Ok(Self {
            device: all[GUEST_CID.to_string()].take(),
            driver: String::new(),
        })
    }

    pub fn device(&self, name: &str) -> Result<u64> {
        let value = self.device[name].as_u64();
        value.with_context(|| format!("the device has no counter {name}"))
    }

    pub fn driver(&self, name: &str) -> Result<u64> {
        let value = self
            .driver
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")?.parse().ok());
        value.with_context(|| format!("the driver has no counter {name}"))
    }
}

/// What was counted since.
pub struct Since(pub Counters);

impl Since {
    /// From when the device has counted what the test before has sent: it may have the last of that still.
    pub fn now(s: &Session) -> Result<Self> {
        let deadline = Instant::now() + allowed(STALL);
        let mut before = Counters::read(s)?;
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = Counters::read(s)?;
            if now.device == before.device || Instant::now() > deadline {
                return Ok(Self(now));
            }
            before = now;
        }
    }

    pub fn device(&self, now: &Counters, name: &str) -> Result<u64> {
        Ok(now.device(name)? - self.0.device(name)?)
    }

    pub fn driver(&self, now: &Counters, name: &str) -> Result<u64> {
        Ok(now.driver(name)? - self.0.driver(name)?)
    }

    /// Waits until so many datagrams are in the guest or lost on the way, and says how many are lost. Asks the device alone.
    pub fn taken(&self, s: &Session, datagrams: u64) -> Result<u64> {
        until(STALL, || {
            let now = Counters::of_device(s)?;
            let mut lost = 0;
            for name in ["dgram_rx_no_buffers", "dgram_rx_too_big"] {
                lost += self.device(&now, name)?;
            }
            let done = self.device(&now, "dgram_rx_packets")?;
            ensure!(
                done + lost >= datagrams,
                "of {datagrams} datagrams {done} are in the guest and {lost} lost"
            );
            Ok(lost)
        })
    }
}
