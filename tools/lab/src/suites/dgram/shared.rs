// SPDX-License-Identifier: GPL-2.0

//! Datagrams on the streams' queues: how long they may be, who hears of whom, and what each kind leaves the other.

use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure, Result};
use guest::dgram::check;

use super::{
    alone,
    host::{command, Counters, Port, Since, STALL},
};
use crate::{
    process::Process,
    session::{Session, Side},
    suites::{
        measured,
        our_device::{self, connect, control::paused, listen},
        tried, until, LONG,
    },
};

/// The device is what the parameter says, and each type of socket works.
pub fn works(s: &mut Session) -> Result<()> {
    let stats = s.guest_sh("cat /sys/kernel/debug/rvsock/stats")?;
    for line in [
        "profile: shared",
        "offers: stream seqpacket dgram",
        "queues: 3",
        "dgram_registered: yes",
    ] {
        ensure!(
            stats.lines().any(|l| l == line),
            "{line:?} was expected: {stats}"
        );
    }
    ensure!(
        !stats.contains("dgram_rx_buffers"),
        "there are queues of datagrams: {stats}"
    );
    our_device::echoes(s)?;
    our_device::messages::small(s)?;
    let port = Port::new(s)?;
    let command = format!("dgram many --count 10 --cid 2 --port {}", port.number);
    let client = s.rvtest(Side::Guest, &command)?;
    let echoed = port.echo_while(&client)?;
    client.success(LONG)?;
    ensure!(echoed == 20, "{echoed} datagrams came");
    Ok(())
}

/// What says so of each datagram.
fn lengths_at(s: &Session, port: u32, count: usize) -> Result<Process> {
    s.server(
        Side::Guest,
        &format!("dgram lengths --port {port} --count {count}"),
    )
}

/// A buffer's room is the bound: one byte more is lost, and counted; one of 64 KiB and more that it holds is received,
/// as a host may fill it to its end.
pub fn lengths(s: &mut Session) -> Result<()> {
    const HEADER: u64 = 44;
    let guest = s.fresh_port();
    let since = Since::now(s)?;
    let room = Counters::read(s)?.driver("rx_buffer_bytes")? - HEADER;
    ensure!(room >= 65536, "a buffer has room for {room} bytes");
    let server = lengths_at(s, guest, 3)?;
    // The driver posts a buffer again when it has looked at what it brought.
    let inject = |words: &str| -> Result<()> {
        let line = format!("inject dgram-rx dst_port={guest} {words}");
        let deadline = Instant::now() + LONG;
        loop {
            match command(s, &line) {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > deadline => return Err(e),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    };
    // The socket has room for the next when this one is read: each may cost a whole buffer.
    let arrives = |len: u64| -> Result<()> {
        inject(&format!("zeros={len}"))?;
        let line = server.expect(&format!("GOT len={len} cid=2 "), LONG)?;
        ensure!(line.ends_with("zeros=true"), "other bytes came: {line}");
        Ok(())
    };
    inject(&format!("len={} zeros={room}", room + 1))?;
    arrives(room)?;
    inject(&format!("len={} zeros=100", u32::MAX))?;
    arrives(65537)?;
    arrives(1)?;
    server.success(LONG)?;
    let damaged = since.driver(&Counters::read(s)?, "rx_damaged")?;
    ensure!(damaged == 2, "{damaged} were counted as damaged, not 2");
    Ok(())
}

pub fn swapped(s: &mut Session) -> Result<()> {
    let (port, guest) = (Port::new(s)?, s.fresh_port());
    let server = lengths_at(s, guest, 1)?;
    let since = Since::now(s)?;
    port.aim(guest)?;
    port.send(&[0; 9])?;
    let text = server.success(LONG)?;
    ensure!(
        text.contains("GOT len=9 cid=2 port=0 zeros=true"),
        "it was to come from port 0 of the host: {text}"
    );
    let bad = since.driver(&Counters::read(s)?, "rx_bad_address")?;
    ensure!(bad == 0, "{bad} packets had bad addresses");
    Ok(())
}

/// The device loses what lies in several pieces.
pub fn pieces(s: &mut Session) -> Result<()> {
    const COUNT: u64 = 200;
    let port = Port::new(s)?;
    let since = Since::now(s)?;
    let command = format!(
        "dgram send --cid 2 --port {} --count {COUNT} --size 65536",
        port.number
    );
    let sender = s.rvtest(Side::Guest, &command)?;
    let take = |bytes: &[u8], _: &str| check(bytes).map(drop);
    port.until_all(&sender, take, |_| {
        let now = Counters::read(s)?;
        let (taken, malformed) = (
            since.device(&now, "dgram_tx_packets")?,
            since.device(&now, "tx_malformed")?,
        );
        ensure!(
            taken == COUNT && malformed == 0,
            "of {COUNT} datagrams {taken} were taken, and {malformed} lay in several pieces"
        );
        Ok(())
    })
}

pub fn silence(s: &mut Session) -> Result<()> {
    let since = Since::now(s)?;
    let port = s.fresh_port();
    alone(s, &format!("unheard --cid 2 --port {port}"))?;
    until(STALL, || {
        let now = Counters::read(s)?;
        let (lost, said) = (
            since.device(&now, "dgram_to_host_nobody")?,
            since.device(&now, "rx_packets")?,
        );
        ensure!(
            lost == 3 && said == 0,
            "of 3 datagrams {lost} found nobody, and {said} answers came"
        );
        Ok(())
    })
}

pub fn nobody(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    port.aim(s.fresh_port())?;
    let since = Since::now(s)?;
    for _ in 0..3 {
        port.send(b"is anybody there?")?;
    }
    until(STALL, || {
        let dropped = since.driver(&Counters::read(s)?, "rx_dgram_dropped")?;
        ensure!(dropped >= 3, "of 3 datagrams {dropped} are counted");
        Ok(())
    })?;
    thread::sleep(Duration::from_millis(100));
    let now = Counters::read(s)?;
    for name in ["tx_packets", "dgram_resets_received", "resets_received"] {
        let count = since.device(&now, name)?;
        ensure!(count == 0, "{name} of the device went up by {count}");
    }
    Ok(())
}

/// What a packet costs beside its bytes, as the driver's turns have it.
const PACKET_COST: u64 = 1024;

/// What the device took of streams and of datagrams, as turns count it.
fn costs(since: &Since, now: &Counters) -> Result<[u64; 2]> {
    let of = |what| -> Result<u64> {
        Ok(since.device(now, &format!("{what}_bytes"))?
            + PACKET_COST * since.device(now, &format!("{what}_packets"))?)
    };
    let (all, datagrams) = (of("tx")?, of("dgram_tx")?);
    Ok([all.saturating_sub(datagrams), datagrams])
}

/// A stream has its turns as beside any connection, and all datagrams together have those of one, however many sockets send
/// them. The device is so slow that both always wait.
pub fn half(s: &mut Session) -> Result<()> {
    for sockets in [1, 8] {
        let text = tried(s, |s| beside_floods(s, sockets))?;
        s.events.note(text);
    }
    Ok(())
}

fn beside_floods(s: &mut Session, sockets: usize) -> Result<Result<String>> {
    const TIME: Duration = Duration::from_secs(4);
    let outward = Port::new(s)?;
    let (port, listener) = listen(s)?;
    let send = format!(
        "dgram send --cid 2 --port {} --count 1000000000 --size 1400",
        outward.number
    );
    command(s, "pace tx 1")?;
    let taken = (|| {
        let floods = (0..sockets)
            .map(|_| s.rvtest(Side::Guest, &send))
            .collect::<Result<Vec<_>>>()?;
        let source = s.rvtest(
            Side::Guest,
            &format!("source --cid 2 --port {port} --write-size 65536 --ms 600000"),
        )?;
        let (mut stream, _) = listener.accept()?;
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(1..) = stream.read(&mut buffer) {}
        });
        // Until all of them wait.
        thread::sleep(Duration::from_secs(1));
        let before = Since(Counters::read(s)?);
        thread::sleep(TIME);
        let now = Counters::read(s)?;
        for flood in floods {
            ensure!(!flood.ended(), "a flood ended: {}", flood.text());
            flood.kill();
        }
        ensure!(!source.ended(), "the stream ended: {}", source.text());
        source.kill();
        costs(&before, &now)
    })();
    command(s, "pace tx 0")?;
    let [stream, datagrams] = taken?;
    let share = stream as f64 / (stream + datagrams).max(1) as f64;
    let text = format!(
        "beside {sockets} sockets that flood, a stream has {:.0} % of the way: {stream} of {} bytes with what packets cost",
        100. * share,
        stream + datagrams
    );
    if stream + datagrams <= 1 << 20 {
        return Ok(Err(anyhow!("too little went: {text}")));
    }
    // All that one socket may have waits with the device already, so that it has turns without a packet.
    let most = if sockets == 1 { 1. } else { 0.6 };
    Ok(measured((0.4..most).contains(&share), text))
}

/// Writers whose peers read nothing, on either side, and datagrams there and back meanwhile.
pub fn stalled(s: &mut Session) -> Result<()> {
    const STREAMS: usize = 8;
    let (port, listener) = listen(s)?;
    let writers = s.rvtest(
        Side::Guest,
        &format!("source --cid 2 --port {port} --write-size 65536 --flows {STREAMS} --ms 600000"),
    )?;
    let mut held = Vec::new();
    for _ in 0..STREAMS {
        held.push(listener.accept()?.0);
    }
    let guest = s.fresh_port();
    let _readers = s.server(
        Side::Guest,
        &format!("hold-server --port {guest} --connections {STREAMS} --bytes 1000"),
    )?;
    for _ in 0..STREAMS {
        let (mut stream, _) = connect(s, guest)?;
        stream.set_nonblocking(true)?;
        let mut written = 0;
        while let Ok(n @ 1..) = stream.write(&[7; 65536]) {
            written += n;
        }
        ensure!(written >= 65536, "only {written} bytes were written");
        held.push(stream);
    }
    // Until nothing of them moves any more.
    let (mut before, deadline) = (Counters::read(s)?, Instant::now() + LONG);
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = Counters::read(s)?;
        let bytes =
            |c: &Counters| Ok::<_, anyhow::Error>((c.device("tx_bytes")?, c.device("rx_bytes")?));
        if bytes(&now)? == bytes(&before)? {
            break;
        }
        ensure!(Instant::now() < deadline, "the streams do not stand still");
        before = now;
    }
    ensure!(!writers.ended(), "the writers ended: {}", writers.text());
    super::rules::many_sockets(s)?;
    super::rules::many_senders(s)?;
    ensure!(!writers.ended(), "the writers ended: {}", writers.text());
    writers.kill();
    drop(held);
    Ok(())
}

/// A stream's writer does not wait for the memory that datagrams have taken, as there is as much for connections.
pub fn full(s: &mut Session) -> Result<()> {
    let port = Port::new(s)?;
    let (to, listener) = listen(s)?;
    let command = format!("fill-bytes --cid 2 --port {to} --connections 1");
    let writer = s.rvtest(Side::Guest, &command)?;
    let (mut stream, _) = listener.accept()?;
    writer.expect("CONNECTED", LONG)?;
    let filler = paused(s, "tx", |s| {
        let command = format!(
            "dgram crowd-closed --cid 2 --port {} --ms 2000",
            port.number
        );
        let filler = s.rvtest(Side::Guest, &command)?;
        filler.expect("WAITING", LONG)?;
        stream.write_all(b"x")?;
        let line = writer.expect("FILLED", LONG)?;
        let words = line.split_whitespace().skip_while(|w| *w != "FILLED");
        let count: u64 = words.last().and_then(|n| n.parse().ok()).unwrap_or(0);
        ensure!(
            count > 100 << 10,
            "beside datagrams that fill their memory there was room for {count} bytes of a stream"
        );
        ensure!(!filler.ended(), "the last sender of datagrams did not wait");
        Ok(filler)
    })?;
    port.while_runs(&filler, |_, _| Ok(()))?;
    filler.success(LONG).map(drop)
}
