// SPDX-License-Identifier: GPL-2.0

//! Seqpackets between the guest and programs on the host: a message here is a message there.

use std::{
    io::Result as Outcome,
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use guest::messages::{echo_client, SIZES};
use nix::sys::{
    socket::{
        accept, bind, connect, listen, recv, send, setsockopt, socket, sockopt, AddressFamily,
        Backlog, MsgFlags, SockFlag, SockType, UnixAddr,
    },
    time::TimeVal,
};

use super::{
    control::{say, stats},
    joined, uds, STALL,
};
use crate::{
    process::allowed,
    session::{Session, Side},
    suites::{until, AT_ONCE, LONG},
};

/// A unix socket that keeps messages.
pub struct Messages(OwnedFd);

impl Messages {
    fn new() -> Result<Self> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        Self(fd).patient()
    }

    fn patient(self) -> Result<Self> {
        let time = TimeVal::new(allowed(STALL).as_secs() as i64, 0);
        setsockopt(&self.0, sockopt::ReceiveTimeout, &time)?;
        setsockopt(&self.0, sockopt::SendTimeout, &time)?;
        // The longest message needs it where an unprivileged user has less.
        setsockopt(&self.0, sockopt::SndBuf, &(1 << 20))?;
        Ok(self)
    }

    /// A connection to a port of the guest's, and the port that it has at the host's end.
    pub fn connect(s: &Session, port: u32) -> Result<(Self, u32)> {
        let path = format!("{}.seqpacket", uds(s)?.display());
        let new = Self::new()?;
        connect(new.0.as_raw_fd(), &UnixAddr::new(path.as_str())?)
            .with_context(|| format!("cannot connect to {path}"))?;
        new.send(format!("CONNECT {port}").as_bytes())?;
        let mut line = [0; 64];
        let n = new.receive(&mut line).context("waiting for the OK")?;
        let line = String::from_utf8_lossy(&line[..n]).into_owned();
        let host_port = line
            .strip_prefix("OK ")
            .and_then(|n| n.trim().parse().ok())
            .with_context(|| format!("the device answered {line:?} to CONNECT {port}"))?;
        Ok((new, host_port))
    }

    /// What connections to a new port arrive at.
    fn listen(s: &mut Session) -> Result<(u32, Self)> {
        let port = s.fresh_port();
        let path = format!("{}_{port}", uds(s)?.display());
        let _ = std::fs::remove_file(&path);
        let new = Self::new()?;
        bind(new.0.as_raw_fd(), &UnixAddr::new(path.as_str())?)
            .with_context(|| format!("cannot bind to {path}"))?;
        listen(&new.0, Backlog::new(16)?)?;
        Ok((port, new))
    }

    fn accept(&self) -> Result<Self> {
        use std::os::fd::FromRawFd;
        let fd = accept(self.0.as_raw_fd()).context("accept")?;
        // SAFETY: The descriptor is new, and nobody else's.
        Self(unsafe { OwnedFd::from_raw_fd(fd) }).patient()
    }

    pub fn send(&self, message: &[u8]) -> Outcome<usize> {
        Ok(send(self.0.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?)
    }

    /// The length of the next message, however much of it the buffer takes.
    pub fn receive(&self, buffer: &mut [u8]) -> Outcome<usize> {
        Ok(recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC)?)
    }
}

/// A message there and back.
pub fn echoes(messages: &Messages) -> Result<()> {
    let mut buffer = [0; 64];
    messages.send(b"a message").context("a message")?;
    let n = messages.receive(&mut buffer).context("its echo")?;
    ensure!(&buffer[..n] == b"a message", "its echo has {n} bytes");
    Ok(())
}

pub fn from_host(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let server = s.server(Side::Guest, &format!("messages echo-server --port {port}"))?;
    let (messages, _) = Messages::connect(s, port)?;
    echo_client(|m| messages.send(m), |b| messages.receive(b))?;
    drop(messages);
    server.expect("END eof", AT_ONCE).map(drop)
}

pub fn from_guest(s: &mut Session) -> Result<()> {
    let (port, listener) = Messages::listen(s)?;
    let echo = thread::spawn(move || -> Result<usize> {
        let messages = listener.accept()?;
        let mut buffer = vec![0; *SIZES.iter().max().unwrap_or(&0) + 1];
        for count in 0.. {
            match messages.receive(&mut buffer).context("echo: receive")? {
                0 => return Ok(count),
                n => messages.send(&buffer[..n]).context("echo: send")?,
            };
        }
        Ok(0)
    });
    let client = s.rvtest(
        Side::Guest,
        &format!("messages echo-client --cid 2 --port {port}"),
    )?;
    let text = client.success(LONG)?;
    let count = joined(echo)?;
    ensure!(
        text.contains(&format!("messages={count}")),
        "{count} messages came, and the guest says: {text}"
    );
    Ok(())
}

/// Thousands of small ones, which nobody reads before all are sent.
pub fn small(s: &mut Session) -> Result<()> {
    thousands(s, false)
}

/// The same while the device takes nothing for a while: the writer has to wait, as what waits would hold too much
/// memory, and goes on when the device does (K5).
pub fn small_behind(s: &mut Session) -> Result<()> {
    thousands(s, true)
}

/// Messages are what they are though so much waits that a writer is to wait: one who does not, and is told so, has sent
/// nothing (S1).
pub fn whole_behind(s: &mut Session) -> Result<()> {
    // Of memory so much may wait: two buffers of 256 KiB. Its first two packets are beyond it, and there is credit for all.
    const NEARLY_ALL: std::ops::Range<u64> = 460 << 10..510 << 10;
    const LEN: usize = 90_000;
    let (port, listener) = Messages::listen(s)?;
    let (control_port, control) = super::listen(s)?;
    ensure!(control_port == port + 1, "a port was taken in between");
    let client = s.rvtest(
        Side::Guest,
        &format!("messages long-client --cid 2 --port {port} --len {LEN}"),
    )?;
    let messages = listener.accept()?;
    let (mut control, _) = control.accept()?;
    control.set_read_timeout(Some(allowed(STALL)))?;
    use std::io::{Read, Write};
    say(s, "pause tx")?;
    // Each is a packet that was given to the device, or waits.
    let sent = |s: &Session| -> Result<u64> {
        let stats = stats(s)?;
        Ok(stats["tx_packets"] + stats["tx_waiting"])
    };
    let (before, mut count) = (sent(s)?, 0);
    let waiting = loop {
        control.write_all(b"more    ")?;
        count += u64::from(guest::messages::BATCH);
        until(STALL, || {
            let now = sent(s)?.saturating_sub(before);
            ensure!(now >= count, "of {count} messages {now} were sent");
            Ok(())
        })?;
        let waiting = stats(s)?["tx_waiting_bytes"];
        if waiting >= NEARLY_ALL.start || count > 1000 {
            break waiting;
        }
    };
    ensure!(
        NEARLY_ALL.contains(&waiting),
        "{waiting} bytes of memory wait of {count} messages"
    );
    control.write_all(b"long    ")?;
    // What it says of that is behind all that waits.
    thread::sleep(allowed(Duration::from_millis(500)));
    say(s, "resume tx")?;
    let mut word = [0; 8];
    for expected in [b"tried   ", b"sent    "] {
        control.read_exact(&mut word).context("the guest's word")?;
        ensure!(&word == expected, "the guest said {word:?}");
    }
    let mut buffer = vec![0; 2 * LEN];
    for i in 0..count {
        let n = messages.receive(&mut buffer)?;
        ensure!(n == guest::messages::SMALL, "message {i} has {n} bytes");
    }
    let n = messages.receive(&mut buffer)?;
    let mut want = vec![0; LEN];
    guest::pattern::fill(&mut want, count, 0);
    ensure!(
        n == LEN && buffer[..LEN] == want,
        "the long message has {n} bytes, or others"
    );
    control.write_all(b"read    ")?;
    client.success(LONG).map(drop)
}

fn thousands(s: &mut Session, behind: bool) -> Result<()> {
    const COUNT: u64 = 3000;
    let (port, listener) = Messages::listen(s)?;
    // The connection beside it is a stream, to the port after.
    let (control_port, control) = super::listen(s)?;
    ensure!(control_port == port + 1, "a port was taken in between");
    let client = s.rvtest(
        Side::Guest,
        &format!("messages flood-client --cid 2 --port {port} --count {COUNT}"),
    )?;
    let messages = listener.accept()?;
    let (mut control, _) = control.accept()?;
    control.set_read_timeout(Some(allowed(STALL)))?;
    let mut word = [0; 8];
    use std::io::{Read, Write};
    if behind {
        say(s, "pause tx")?;
    }
    control.write_all(b"go      ")?;
    if behind {
        let much = until(LONG, || {
            let waiting = stats(s)?["tx_waiting_bytes"];
            ensure!(waiting > 256 << 10, "{waiting} bytes of memory wait");
            Ok(())
        });
        // The writer may go on for a while.
        thread::sleep(allowed(Duration::from_millis(500)));
        let waiting = stats(s)?["tx_waiting_bytes"];
        say(s, "resume tx")?;
        much?;
        // Twice the buffer, and a packet.
        ensure!(
            waiting < (512 << 10) + 8192,
            "{waiting} bytes of memory wait"
        );
    }
    control.read_exact(&mut word).context("the guest's word")?;
    ensure!(&word == b"sent    ", "the guest said {word:?}");
    let (mut got, mut want) = ([0; 128], [0; 64]);
    for i in 0..COUNT {
        let (len, _) = guest::messages::small(i);
        let n = messages.receive(&mut got)?;
        guest::pattern::fill(&mut want[..len], i, 0);
        ensure!(
            n == len && got[..n] == want[..len],
            "message {i} of {len} bytes has {n}, or others"
        );
    }
    control.write_all(b"read    ")?;
    client.success(LONG).map(drop)
}
