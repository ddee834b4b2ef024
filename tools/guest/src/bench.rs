// SPDX-License-Identifier: GPL-2.0

//! Loads whose numbers are the result: throughput, round trips, connects.

use std::{
    io::{Read, Write},
    net::Shutdown,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    socket::{Kind, Peer},
    stream,
};

/// The shares of round trips of which the time is told, in percent.
pub const PERCENTILES: &[u32] = &[1, 10, 25, 50, 75, 90, 95, 99];

/// Accepts connections, reads everything and throws it away; a line per connection that ended. Of a message that is longer
/// than the `buffer`, the rest is dropped where it lies.
pub fn sink(kind: Kind, port: u32, buffer: usize) -> Result<()> {
    let listener = stream::listen_as(kind, port)?;
    loop {
        let (mut stream, _) = listener.accept().context("accept")?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; buffer];
            let (mut total, start) = (0u64, Instant::now());
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                total += n as u64;
            }
            println!("SUNK {total} {:.6}", start.elapsed().as_secs_f64());
        });
    }
}

/// Writes for `duration` on each of `flows` connections at once, and waits until all of it was read.
pub fn source(
    kind: Kind,
    peer: Peer,
    write_size: usize,
    flows: usize,
    duration: Duration,
) -> Result<()> {
    let streams = (0..flows)
        .map(|_| stream::connect_as(kind, peer))
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let threads: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || -> Result<u64> {
                /// The clock is asked once for so much: it may be as slow as a small write.
                const BETWEEN: usize = 64 << 10;
                let buffer = vec![0x5a; write_size];
                let writes = (BETWEEN / write_size).max(1);
                let mut total = 0;
                // Once at the least, however late the thread comes to run.
                loop {
                    for _ in 0..writes {
                        stream.write_all(&buffer)?;
                    }
                    total += (writes * write_size) as u64;
                    if start.elapsed() >= duration {
                        break;
                    }
                }
                stream.shutdown(Shutdown::Write)?;
                // The sink closes when it has read the last byte.
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest)?;
                Ok(total)
            })
        })
        .collect();
    let mut totals = Vec::new();
    for thread in threads {
        totals.push(
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a flow's thread panicked"))??,
        );
    }
    let seconds = start.elapsed().as_secs_f64();
    let sum: u64 = totals.iter().sum();
    let flows = totals
        .iter()
        .map(u64::to_string)
        .collect::<Vec<_>>()
        .join(",");
    println!("OK bytes={sum} seconds={seconds:.6} flows={flows}");
    Ok(())
}

/// Round trips of `size` bytes against an echo server for `duration`.
pub fn ping(cid: u32, port: u32, size: usize, duration: Duration) -> Result<()> {
    let mut stream = stream::connect(cid, port)?;
    let (message, mut back) = (vec![0x5a; size], vec![0; size]);
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < duration {
        let begin = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut back)?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let shares: Vec<_> = PERCENTILES
        .iter()
        .map(|percent| format!("p{percent}={:.1}", at(f64::from(*percent) / 100.0)))
        .collect();
    println!("OK count={} {}", times.len(), shares.join(" "));
    Ok(())
}

/// Copies `size` bytes again and again for `duration`: what no socket can be faster than here.
pub fn copy(size: usize, duration: Duration) -> Result<()> {
    let (from, mut to) = (vec![0x5a; size], vec![0; size]);
    let start = Instant::now();
    let mut total = 0u64;
    while start.elapsed() < duration {
        for _ in 0..16 {
            std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(&from));
        }
        total += 16 * size as u64;
    }
    println!(
        "OK bytes={total} seconds={:.6}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Accepts connections and closes them, one after the other, for ever.
pub fn accepts(port: u32) -> Result<()> {
    let listener = stream::listen(port)?;
    loop {
        drop(listener.accept().context("accept")?);
    }
}

/// Connects and closes, one after the other, for `duration`.
pub fn connects(cid: u32, port: u32, duration: Duration) -> Result<()> {
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < duration {
        drop(stream::connect(cid, port).with_context(|| format!("connect number {count}"))?);
        count += 1;
    }
    println!(
        "OK count={count} seconds={:.6}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
