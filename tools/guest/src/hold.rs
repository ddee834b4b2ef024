// SPDX-License-Identifier: GPL-2.0

//! Connections that only exist, empty or full: what they cost is measured beside them.

use std::{
    os::fd::AsRawFd,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use nix::sys::socket::{shutdown, MsgFlags, Shutdown};

use crate::{
    socket::{Kind, Peer, Socket, DEFAULT_BUFFER},
    stream,
};

/// How long all bytes may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(120);

/// Accepts a number of connections, waits until so many bytes are unread in each, and never reads.
/// With `shut` each is shut down for receiving.
pub fn server(port: u32, connections: u64, kind: Kind, bytes: u64, shut: bool) -> Result<()> {
    stream::raise_file_limit()?;
    let listener = Socket::listening(kind, DEFAULT_BUFFER, port)?;
    println!("READY {port}");
    let mut held = Vec::new();
    for i in 0..connections {
        let socket = listener
            .accept()
            .with_context(|| format!("accept of connection {i}"))?;
        if shut {
            shutdown(socket.as_raw_fd(), Shutdown::Read)?;
        }
        held.push(socket);
    }
    let until = Instant::now() + ARRIVAL;
    for (i, socket) in held.iter().enumerate() {
        loop {
            let unread = socket.unread()?;
            if u64::try_from(unread).is_ok_and(|unread| unread >= bytes) {
                break;
            }
            ensure!(
                Instant::now() < until,
                "connection {i} has {unread} of {bytes} bytes to read"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
    println!("HELD {}", held.len());
    thread::sleep(Duration::MAX);
    Ok(())
}

/// What is written to each connection: so many pieces of `size` bytes, once there is a file `when`.
pub struct Load {
    pub pieces: u64,
    pub size: usize,
    pub when: Option<PathBuf>,
}

/// Opens a number of connections, writes to each, and holds them.
pub fn client(peer: Peer, connections: u64, kind: Kind, load: Load) -> Result<()> {
    stream::raise_file_limit()?;
    let held = (0..connections)
        .map(|i| {
            Socket::connected(kind, DEFAULT_BUFFER, peer).with_context(|| format!("connection {i}"))
        })
        .collect::<Result<Vec<_>>>()?;
    let Load { pieces, size, when } = load;
    println!("CONNECTED {}", held.len());
    while when.as_ref().is_some_and(|file| !file.exists()) {
        thread::sleep(Duration::from_millis(10));
    }
    let piece = vec![0x5a; size];
    for (i, socket) in held.iter().enumerate() {
        for _ in 0..pieces {
            let sent = socket
                .send(&piece, MsgFlags::empty())
                .with_context(|| format!("write on connection {i}"))?;
            ensure!(sent == size, "{sent} of {size} bytes were written");
        }
    }
    println!("FILLED {}", held.len());
    thread::sleep(Duration::MAX);
    Ok(())
}
