//! Writers whose packets nobody takes: how much they may have on its way, and what it costs.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    socket::{Kind, Peer, Socket, DEFAULT_BUFFER},
    stream,
};

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
    first.receive(&mut [0; 1], 0).context("the word")?;
    let mut sent = vec![0; connections];
    let mut left = connections;
    while left > 0 {
        left = 0;
        for (socket, sent) in sockets.iter().zip(&mut sent) {
            match socket.send(&[byte(*sent)], libc::MSG_DONTWAIT) {
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
    stream::raise_file_limit()?;
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        drop(Socket::connecting(Kind::Stream, peer)?);
        count += 1;
    }
    println!("OK count={count}");
    Ok(())
}
