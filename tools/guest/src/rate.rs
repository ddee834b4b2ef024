// SPDX-License-Identifier: GPL-2.0

//! How many datagrams pass in a second: of AF_VSOCK, or of UDP beside it.

use std::{
    io,
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::socket::MsgFlags;

use crate::dgram::{Address, Dgram};

/// Nothing for so long is the end.
const SILENCE: Duration = Duration::from_millis(700);

#[derive(Args)]
pub struct Way {
    /// UDP to this address and port, instead of AF_VSOCK
    #[arg(long)]
    udp: Option<String>,
    #[command(flatten)]
    peer: Address,
    /// The size of each
    #[arg(long)]
    size: usize,
}

/// A socket that is connected to the peer.
enum Socket {
    Udp(UdpSocket),
    Vsock(Dgram),
}

impl Socket {
    fn new(way: &Way) -> Result<Self> {
        Ok(match &way.udp {
            Some(address) => {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(address)?;
                Self::Udp(socket)
            }
            None => {
                let socket = Dgram::new()?;
                socket.connect(way.peer)?;
                Self::Vsock(socket)
            }
        })
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.send(bytes),
            Self::Vsock(socket) => socket.send(bytes, MsgFlags::empty()),
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.recv(buffer).map(drop),
            Self::Vsock(socket) => socket.receive(buffer, MsgFlags::empty()).map(drop),
        }
    }

    fn receive_timeout(&self, timeout: Duration) -> Result<()> {
        match self {
            Self::Udp(socket) => Ok(socket.set_read_timeout(Some(timeout))?),
            Self::Vsock(socket) => socket.receive_timeout(timeout),
        }
    }
}

/// Sends as fast as it goes.
pub fn send(way: &Way, duration: Duration) -> Result<()> {
    let socket = Socket::new(way)?;
    let bytes = vec![0x5a; way.size];
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < duration {
        socket.send(&bytes).context("send")?;
        count += 1;
    }
    println!("OK count={count} seconds={}", start.elapsed().as_secs_f64());
    Ok(())
}

/// Tells the peer where it is, and counts what comes.
pub fn receive(way: &Way) -> Result<()> {
    let socket = Socket::new(way)?;
    let mut buffer = vec![0; way.size];
    socket.send(b"here").context("the first word")?;
    socket.receive_timeout(Duration::from_secs(20))?;
    socket.receive(&mut buffer).context("the first datagram")?;
    socket.receive_timeout(SILENCE)?;
    let start = Instant::now();
    let (mut last, mut count) = (start, 0u64);
    loop {
        match socket.receive(&mut buffer) {
            Ok(()) => {
                count += 1;
                last = Instant::now();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e).context("receive"),
        }
    }
    println!(
        "OK count={count} seconds={}",
        last.duration_since(start).as_secs_f64()
    );
    Ok(())
}
