// SPDX-License-Identifier: GPL-2.0

//! Many datagrams: what becomes of them, and of streams beside them.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use guest::dgram::{check, fill, LARGEST};

use super::{
    host::{command, Counters, Port, Since},
    number,
};
use crate::{
    process::{allowed, Process},
    session::{Session, Side},
    suites::LONG,
};

const MANY: u64 = 100_000;

pub fn many_from_guest(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let since = Since::now(s)?;
    let client = s.rvtest(
        Side::Guest,
        &format!("dgram send --cid 2 --port {} --count {MANY}", port.number),
    )?;
    let mut next = 0;
    let in_order = |bytes: &[u8], _: &str| {
        let number = check(bytes)?;
        ensure!(number >= next, "datagram {number} came after {}", next - 1);
        next = number + 1;
        Ok(())
    };
    let received = port.until_all(&client, in_order, |received| {
        let now = Counters::read(s)?;
        let (sent, there, dropped) = (
            since.device(&now, "dgram_tx_packets")?,
            since.device(&now, "dgram_to_host")?,
            since.device(&now, "dgram_to_host_full")?,
        );
        ensure!(
            sent == MANY && there == received && there + dropped == sent,
            "the device took {sent} of {MANY}, gave {there} to the host's socket, where {received} came, and dropped {dropped}"
        );
        Ok(received)
    })?;
    ensure!(
        received > MANY / 100 / u64::from(s.config.guest.slowness()),
        "only {received} came"
    );
    Ok(())
}

/// Sends numbered datagrams to a program that counts them; what is missing must be what was counted as dropped.
fn counted(s: &mut Session, count: u64, size: usize, options: &str) -> Result<u64> {
    let (port, teller) = (Port::new(s)?, Port::new(s)?);
    let (guest, end) = (s.fresh_port(), s.fresh_port());
    let server = s.server(
        Side::Guest,
        &format!("dgram collect --port {guest} {options}"),
    )?;
    port.aim(guest)?;
    teller.aim(end)?;
    let since = Since::now(s)?;
    let mut bytes = Vec::new();
    for number in 0..count {
        fill(&mut bytes, number, size);
        port.send(&bytes)
            .with_context(|| format!("datagram {number}"))?;
    }
    let lost = since.taken(s, count)?;
    teller.send(b"end")?;
    server.expect("DRAINED", LONG)?;
    fill(&mut bytes, count, size);
    port.send(&bytes)?;
    let text = server.success(LONG)?;
    let line = text.lines().last().unwrap_or_default();
    let (received, dropped) = (number(line, "received")?, number(line, "dropped")?);
    let counted = since.driver(&Counters::read(s)?, "rx_dgram_dropped")?;
    ensure!(
        received + dropped + lost == count && counted == dropped,
        "of {count} datagrams {received} came, SO_RXQ_OVFL says that {dropped} were dropped, the driver {counted}, \
         and {lost} were lost in the device"
    );
    Ok(received)
}

pub fn many_from_host(s: &mut Session) -> Result<()> {
    let received = counted(s, MANY, 256, "")?;
    ensure!(
        received > MANY / 100 / u64::from(s.config.guest.slowness()),
        "only {received} came"
    );
    Ok(())
}

pub fn sleepy(s: &mut Session) -> Result<()> {
    for (count, size) in [(2000, 0), (500, 4000), (20, LARGEST)] {
        // The kernel doubles it.
        let received = counted(s, count, size, "--sleepy --buffer 60000")?;
        ensure!(
            received > 0 && received < count,
            "{received} of {count} datagrams of up to {size} bytes found room"
        );
    }
    Ok(())
}

const CHUNK: u64 = 64 << 10;

/// Sends so many chunks over a stream, there and back.
fn stream(s: &mut Session, chunks: u64) -> Result<()> {
    let port = s.fresh_port();
    let uds = s.config.vhost_user_uds().context("no vhost-user device")?;
    let path = format!("{}_{port}", uds.display());
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {path}"))?;
    thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; CHUNK as usize];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                n => stream.write_all(&buffer[..n])?,
            }
        }
    });
    let text = s
        .rvtest(
            Side::Guest,
            &format!("chunks --cid 2 --port {port} --size {CHUNK} --count {chunks}"),
        )?
        .success(LONG)?;
    ensure!(
        text.contains(&format!("OK count={chunks}")),
        "not every chunk came back: {text}"
    );
    let _ = std::fs::remove_file(&path);
    Ok(())
}

pub fn stalled(s: &mut Session) -> Result<()> {
    const COUNT: u64 = 2000;
    let port = Port::new(s)?;
    let since = Since::now(s)?;
    for queue in ["dgram-rx", "dgram-tx"] {
        command(s, &format!("pause {queue}"))?;
    }
    let beside = |s: &mut Session| -> Result<_> {
        let sender = s.rvtest(
            Side::Guest,
            &format!(
                "dgram send --cid 2 --port {} --count {COUNT} --size 1000",
                port.number
            ),
        )?;
        thread::sleep(Duration::from_millis(500));
        stream(s, 100)?;
        ensure!(!sender.ended(), "the sender did not wait for the device");
        Ok(sender)
    };
    let outcome = beside(s);
    for queue in ["dgram-rx", "dgram-tx"] {
        command(s, &format!("resume {queue}"))?;
    }
    let sender = outcome?;
    let take = |bytes: &[u8], _: &str| check(bytes).map(drop);
    port.until_all(&sender, take, |_| {
        let sent = since.device(&Counters::read(s)?, "dgram_tx_packets")?;
        ensure!(sent == COUNT, "the device took {sent} of {COUNT} datagrams");
        Ok(())
    })
}

/// A stream to the host and one to the guest at once: how many bytes per second each carries.
fn streams(s: &mut Session, time: Duration) -> Result<[f64; 2]> {
    let uds = s.config.vhost_user_uds().context("no vhost-user device")?;
    let (host, guest) = (s.fresh_port(), s.fresh_port());
    let path = format!("{}_{host}", uds.display());
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {path}"))?;
    thread::spawn(move || -> std::io::Result<u64> {
        std::io::copy(&mut listener.accept()?.0, &mut std::io::sink())
    });
    let _sink = s.server(Side::Guest, &format!("sink --port {guest}"))?;
    let source = s.rvtest(
        Side::Guest,
        &format!(
            "source --cid 2 --port {host} --write-size {CHUNK} --ms {}",
            time.as_millis()
        ),
    )?;
    let mut stream = UnixStream::connect(&uds)?;
    stream.set_write_timeout(Some(LONG))?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(format!("CONNECT {guest}\n").as_bytes())?;
    let (start, mut written, block) = (Instant::now(), 0, [0; CHUNK as usize]);
    while start.elapsed() < time {
        stream.write_all(&block).context("writing to the guest")?;
        written += CHUNK;
    }
    stream.shutdown(Shutdown::Write)?;
    // The guest closes when it has read the last byte.
    std::io::copy(&mut stream, &mut std::io::sink())?;
    let to_guest = written as f64 / start.elapsed().as_secs_f64();
    let text = source.success(LONG)?;
    let _ = std::fs::remove_file(&path);
    let seconds = text
        .split_whitespace()
        .find_map(|w| w.strip_prefix("seconds=")?.parse::<f64>().ok())
        .with_context(|| format!("no seconds in {text:?}"))?;
    Ok([number(&text, "bytes")? as f64 / seconds, to_guest])
}

/// A stream must carry at least so many bytes for each of the flood's that goes the same way. Both compete for the
/// same two processors, in programs of which the flood has more.
const FAIR: f64 = 0.25;

/// What a flood of datagrams leaves a stream in the same direction.
pub struct Flood {
    pub way: &'static str,
    /// Of the stream, in bytes per second.
    pub alone: f64,
    pub beside: f64,
    /// Of the flood.
    pub bytes: f64,
    pub datagrams: f64,
}

/// Measures streams in both directions for `time`, alone and in a flood of datagrams in both directions.
pub fn in_a_flood(s: &mut Session, time: Duration) -> Result<Vec<Flood>> {
    const SIZE: usize = 1400;
    let alone = streams(s, time)?;
    let (inward, outward) = (Port::new(s)?, Port::new(s)?);
    let guest = s.fresh_port();
    s.fresh_port();
    let _server = s.server(Side::Guest, &format!("dgram collect --port {guest}"))?;
    inward.aim(guest)?;
    let sender = s.rvtest(
        Side::Guest,
        &format!(
            "dgram send --cid 2 --port {} --count 1000000000 --size {SIZE}",
            outward.number
        ),
    )?;
    let over = AtomicBool::new(false);
    let (since, start) = (Since::now(s)?, Instant::now());
    let beside = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut bytes, mut number) = (Vec::new(), 0);
            while !over.load(Ordering::Relaxed) {
                fill(&mut bytes, number, SIZE);
                number += 1;
                if inward.send(&bytes).is_err() {
                    return;
                }
            }
        });
        scope.spawn(|| {
            let mut buffer = vec![0; LARGEST];
            while !over.load(Ordering::Relaxed) {
                let _ = outward.receive(&mut buffer, Duration::from_millis(100));
            }
        });
        let beside = streams(s, time);
        over.store(true, Ordering::Relaxed);
        beside
    })?;
    let (now, took) = (Counters::read(s)?, start.elapsed().as_secs_f64());
    ensure!(!sender.ended(), "the flood ended: {}", sender.text());
    sender.kill();
    [("guest to host", "dgram_tx"), ("host to guest", "dgram_rx")]
        .into_iter()
        .zip(alone.into_iter().zip(beside))
        .map(|((way, counter), (alone, beside))| {
            let rate = |what| -> Result<f64> {
                Ok(since.device(&now, &format!("{counter}_{what}"))? as f64 / took)
            };
            Ok(Flood {
                way,
                alone,
                beside,
                bytes: rate("bytes")?,
                datagrams: rate("packets")?,
            })
        })
        .collect()
}

/// A share is fair, or not, when it was so this often: the programs that compete have other company on a busy workstation,
/// and one measurement alone says little of the driver.
const TWICE: usize = 2;

pub fn flood(s: &mut Session) -> Result<()> {
    let time = Duration::from_secs(2) * s.config.guest.slowness();
    let (mut fair, mut unfair) = (0, Vec::new());
    while fair < TWICE {
        let mut less = Vec::new();
        for flood in in_a_flood(s, time)? {
            let text = format!(
                "{}: a stream carries {:.1} MB/s alone, and {:.1} beside {:.1} MB/s in {:.0} datagrams/s",
                flood.way,
                flood.alone / 1e6,
                flood.beside / 1e6,
                flood.bytes / 1e6,
                flood.datagrams,
            );
            s.events.note(text.clone());
            if flood.beside < flood.bytes * FAIR {
                less.push(text);
            }
        }
        if less.is_empty() {
            fair += 1;
        } else {
            unfair.push(less);
        }
        ensure!(unfair.len() < TWICE, "{unfair:?}");
    }
    Ok(())
}

/// What wakes so late was held by the flood, and not by a busy host.
const HELD: Duration = Duration::from_secs(3);

/// By how much a thread wakes late at most, in microseconds, that sleeps a millisecond again and again on each processor.
fn lateness(
    s: &mut Session,
    priority: u8,
    time: Duration,
    meanwhile: impl FnOnce(&Process) -> Result<()>,
) -> Result<u64> {
    let command = format!("lateness --priority {priority} --ms {}", time.as_millis());
    let threads = s.rvtest(Side::Guest, &command)?;
    threads.expect("READY", LONG)?;
    meanwhile(&threads)?;
    number(&threads.success(LONG)?, "latest")
}

/// A way to a socket in the guest that nobody reads: what goes there costs the least, and comes the fastest.
fn unread(s: &mut Session) -> Result<(Port, Process)> {
    let (port, guest) = (Port::new(s)?, s.fresh_port());
    s.fresh_port();
    let command = format!("dgram collect --port {guest} --sleepy --buffer 60000");
    let server = s.server(Side::Guest, &command)?;
    port.aim(guest)?;
    Ok((port, server))
}

/// A turn of the receive queue is a few packets, and then others have theirs, however many there are.
pub fn lets_go(s: &mut Session) -> Result<()> {
    let time = allowed(HELD) * 2;
    // Many buffers each, which cost the guest more than the device.
    let datagram = vec![0; LARGEST - 1];
    // With PREEMPT_RT, the threads of interrupts have 50.
    for (priority, what) in [(80, "above"), (1, "below")] {
        let alone = lateness(s, priority, Duration::from_secs(1), |_| Ok(()))?;
        let (port, _server) = unread(s)?;
        let since = Since::now(s)?;
        let beside = lateness(s, priority, time, |threads| {
            let deadline = Instant::now() + time * 5;
            while !threads.ended() {
                port.send(&datagram)?;
                ensure!(Instant::now() < deadline, "a thread does not wake at all");
            }
            Ok(())
        })?;
        let datagrams = since.device(&Counters::read(s)?, "dgram_rx_packets")?;
        let text = format!(
            "a thread {what} the interrupts' priority wakes {alone} us late at most alone, and {beside} in a flood of {:.0} datagrams/s",
            datagrams as f64 / time.as_secs_f64(),
        );
        ensure!(datagrams > 500, "that was no flood: {text}");
        ensure!(u128::from(beside) < allowed(HELD).as_micros(), "{text}");
        s.events.note(text);
    }
    takes_turns(s)
}

/// Small ones come faster than they are taken: turns are over with packets left.
fn takes_turns(s: &mut Session) -> Result<()> {
    let (port, _server) = unread(s)?;
    let since = Since::now(s)?;
    let deadline = Instant::now() + allowed(HELD) * 5;
    while since.driver(&Counters::read(s)?, "rx_turns")? == 0 {
        ensure!(
            Instant::now() < deadline,
            "no turn was over with packets left"
        );
        for _ in 0..20_000 {
            port.send(&[])?;
        }
    }
    Ok(())
}
