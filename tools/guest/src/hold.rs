//! Connections that only exist, empty or full: what they cost is measured beside them.

use std::{thread, time::Duration};

use anyhow::{ensure, Context, Result};

use crate::{
    socket::{Kind, Peer, Socket, DEFAULT_BUFFER},
    stream,
};

/// Accepts a number of connections, and never reads.
pub fn server(port: u32, connections: u64, kind: Kind) -> Result<()> {
    stream::raise_file_limit()?;
    let listener = Socket::listening(kind, DEFAULT_BUFFER, port)?;
    println!("READY {port}");
    let mut held = Vec::new();
    for i in 0..connections {
        held.push(
            listener
                .accept()
                .with_context(|| format!("accept of connection {i}"))?,
        );
    }
    println!("HELD {}", held.len());
    thread::sleep(Duration::MAX);
    Ok(())
}

/// Opens a number of connections, writes so many pieces of `size` bytes to each, and holds them.
pub fn client(peer: Peer, connections: u64, pieces: u64, size: usize, kind: Kind) -> Result<()> {
    stream::raise_file_limit()?;
    let held = (0..connections)
        .map(|i| {
            Socket::connected(kind, DEFAULT_BUFFER, peer).with_context(|| format!("connection {i}"))
        })
        .collect::<Result<Vec<_>>>()?;
    let piece = vec![0x5a; size];
    for (i, socket) in held.iter().enumerate() {
        for _ in 0..pieces {
            let sent = socket
                .send(&piece, 0)
                .with_context(|| format!("write on connection {i}"))?;
            ensure!(sent == size, "{sent} of {size} bytes were written");
        }
    }
    println!("FILLED {}", held.len());
    thread::sleep(Duration::MAX);
    Ok(())
}
