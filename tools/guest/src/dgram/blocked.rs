// SPDX-License-Identifier: GPL-2.0

//! A sender whose buffer is full, as the device takes nothing.

use std::{
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use nix::{
    errno::Errno,
    fcntl::{fcntl, FcntlArg, OFlag},
    poll::PollFlags,
    sys::socket::{MsgFlags, Shutdown},
};

use super::{
    fails,
    sequence::fill,
    socket::{Address, Dgram, STALL},
};
use crate::signals;

const NONE: MsgFlags = MsgFlags::empty();
const DONTWAIT: MsgFlags = MsgFlags::MSG_DONTWAIT;
/// The kernel doubles it.
const BUFFER: usize = 32 << 10;
const SIZE: usize = 1000;
/// From here on are the numbers of those that are sent by the way.
const ASIDE: u64 = 1_000_000;

/// Datagrams with numbers that count up.
struct Numbered<'a> {
    socket: &'a Dgram,
    to: Address,
    next: u64,
}

impl Numbered<'_> {
    fn send(&mut self, flags: MsgFlags) -> std::io::Result<()> {
        let mut datagram = Vec::new();
        fill(&mut datagram, self.next, SIZE);
        let len = self.socket.send_to(&datagram, self.to, flags)?;
        assert_eq!(len, datagram.len(), "a part of a datagram was sent");
        self.next += 1;
        Ok(())
    }

    /// Sends until there is no room; how many there was room for.
    fn fill(&mut self) -> Result<u64> {
        let start = self.next;
        loop {
            match self.send(DONTWAIT) {
                Ok(()) => ensure!(
                    self.next - start < 1000,
                    "1000 datagrams found room in {} bytes",
                    2 * BUFFER
                ),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(self.next - start)
                }
                Err(e) => return Err(e).context("filling the buffer"),
            }
        }
    }
}

fn nonblocking(socket: &Dgram, yes: bool) -> Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(socket.as_fd(), FcntlArg::F_GETFL)?);
    let mut flags = flags & !OFlag::O_NONBLOCK;
    flags.set(OFlag::O_NONBLOCK, yes);
    fcntl(socket.as_fd(), FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// The lab stops the device when it is told to, and has it go on when told to.
pub fn full(peer: Address) -> Result<()> {
    let socket = Dgram::bound(peer.port)?;
    socket.send_buffer(BUFFER)?;
    println!("READY {}", peer.port);
    socket.hear("paused")?;
    let mut sender = Numbered {
        socket: &socket,
        to: peer,
        next: 0,
    };
    let room = sender.fill()?;
    ensure!(
        room >= 8,
        "there is room for {room} datagrams of up to {SIZE} bytes in {} bytes",
        2 * BUFFER
    );
    let unsent = socket.unsent()?;
    ensure!(
        unsent > room as i32 && unsent < 4 * BUFFER as i32,
        "SIOCOUTQ says {unsent} for {room} datagrams"
    );
    // af_vsock knows of no buffer there.
    let events = socket.poll(PollFlags::POLLOUT, Duration::ZERO)?;
    ensure!(
        events == PollFlags::POLLOUT,
        "poll() says {events:?} of a full buffer"
    );
    nonblocking(&socket, true)?;
    fails("send() with O_NONBLOCK", sender.send(NONE), Errno::EAGAIN)?;
    nonblocking(&socket, false)?;

    let timeout = Duration::from_millis(200);
    socket.send_timeout(timeout)?;
    let start = Instant::now();
    fails("send() with SO_SNDTIMEO", sender.send(NONE), Errno::EAGAIN)?;
    let took = start.elapsed();
    ensure!(
        took + Duration::from_millis(5) > timeout && took < STALL,
        "with a time-out of {timeout:?} send() came back after {took:?}"
    );

    signals::allow()?;
    for timeout in [Duration::ZERO, STALL] {
        socket.send_timeout(timeout)?;
        let outcome = signals::interrupted(|| sender.send(NONE))?;
        fails("send() and a signal", outcome, Errno::EINTR)?;
    }

    let other = Dgram::bound(u32::MAX)?;
    other.send_buffer(BUFFER)?;
    let mut aside = Numbered {
        socket: &other,
        to: peer,
        next: ASIDE,
    };
    // Another socket has room of its own.
    let others = aside.fill()?;
    ensure!(
        others * 2 > room,
        "a second socket has room for {others} datagrams, the first had for {room}"
    );
    thread::scope(|scope| -> Result<()> {
        let waiting = scope.spawn(|| aside.send(NONE));
        thread::sleep(Duration::from_millis(200));
        let _ = other.shutdown(Shutdown::Write);
        let outcome = waiting.join().expect("a sender");
        fails("a send() that shutdown() ends", outcome, Errno::EPIPE)
    })?;

    thread::scope(|scope| -> Result<()> {
        let waiting = scope.spawn(|| sender.send(NONE));
        thread::sleep(Duration::from_millis(100));
        println!("WAITING");
        // The socket is not locked meanwhile.
        socket.hear("hello")?;
        ensure!(!waiting.is_finished(), "the sender did not wait");
        println!("HEARD");
        waiting
            .join()
            .expect("a sender")
            .context("a send() that waited for room")
    })?;
    let start = Instant::now();
    while let Err(e) = sender.send(DONTWAIT) {
        ensure!(
            start.elapsed() < STALL,
            "there is no room after a send() that waited: {e}"
        );
    }
    while socket.unsent()? > 0 {
        ensure!(
            start.elapsed() < STALL,
            "SIOCOUTQ still says {}",
            socket.unsent()?
        );
        thread::sleep(Duration::from_millis(5));
    }
    println!("OK sent={} others={others}", sender.next);
    Ok(())
}
