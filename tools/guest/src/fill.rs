// SPDX-License-Identifier: GPL-2.0

//! Writers whose packets nobody takes: how much they may have on its way, and what it costs.

use std::{
    io,
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{connect, socket, AddressFamily, MsgFlags, SockFlag, SockType, VsockAddr},
};

use crate::socket::{Kind, Peer, Socket, DEFAULT_BUFFER};

/// What the byte at this place of a stream is.
pub const fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

/// Opens connections, waits for a word on the first, and writes single bytes to all in turn until there is no room.
pub fn bytes(peer: Peer, connections: usize) -> Result<()> {
    let sockets = (0..connections)
        .map(|_| Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer))
        .collect::<Result<Vec<_>>>()?;
    println!("CONNECTED");
    let first = sockets.first().context("no connection")?;
    first
        .receive(&mut [0; 1], MsgFlags::empty())
        .context("the word")?;
    let mut sent = vec![0; connections];
    let mut left = connections;
    while left > 0 {
        left = 0;
        for (socket, sent) in sockets.iter().zip(&mut sent) {
            match socket.send(&[byte(*sent)], MsgFlags::MSG_DONTWAIT) {
                Ok(n) => {
                    *sent += n as u64;
                    left += 1;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e).context("writing a byte"),
            }
        }
    }
    let sent: Vec<_> = sent.iter().map(u64::to_string).collect();
    println!("FILLED {}", sent.join(" "));
    thread::sleep(Duration::MAX);
    Ok(())
}

/// Begins to connect and closes, again and again.
pub fn given_up(peer: Peer, time: Duration) -> Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        // With the kernel's own time-out: so long it keeps the socket.
        let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        match connect(socket.as_raw_fd(), &VsockAddr::new(peer.cid, peer.port)) {
            Ok(()) | Err(Errno::EINPROGRESS) => count += 1,
            Err(e) => return Err(e).context("connect"),
        }
    }
    println!("OK count={count}");
    Ok(())
}
