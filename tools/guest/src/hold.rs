//! Connections that only exist, empty or full: what they cost is measured beside them.

use std::{io::Write, thread, time::Duration};

use anyhow::{Context, Result};

use crate::stream;

/// Accepts a number of connections, and never reads.
pub fn server(port: u32, connections: u64) -> Result<()> {
    stream::raise_file_limit()?;
    let listener = stream::listen(port)?;
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

/// Opens a number of connections, writes `bytes` to each in pieces of `write_size`, and holds them.
pub fn client(cid: u32, port: u32, connections: u64, bytes: u64, write_size: usize) -> Result<()> {
    stream::raise_file_limit()?;
    let mut held = (0..connections)
        .map(|i| stream::connect(cid, port).with_context(|| format!("connection {i}")))
        .collect::<Result<Vec<_>>>()?;
    let piece = vec![0x5a; write_size];
    for (i, stream) in held.iter_mut().enumerate() {
        for _ in 0..bytes.checked_div(write_size as u64).unwrap_or(0) {
            stream
                .write_all(&piece)
                .with_context(|| format!("write on connection {i}"))?;
        }
    }
    println!("FILLED {}", held.len());
    thread::sleep(Duration::MAX);
    Ok(())
}
