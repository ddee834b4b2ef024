// SPDX-License-Identifier: GPL-2.0

//! Those who wait, and what waits: nobody for ever, and nothing for the wrong connection.

use std::{
    fmt,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure, Context, Result};

use super::{
    connect,
    control::{counters, paused, say, stats},
    joined, listen, uds, STALL,
};
use crate::{
    process::{allowed, Process},
    session::{Session, Side, GUEST_CID},
    suites::{measured, tried, AT_ONCE, LONG, TRIES},
};

/// Longer than a program in the guest waits before it gives up.
const HANG: Duration = Duration::from_secs(40);

const OTHER_CID: u32 = 78;

/// A file in the guest that a program waits for.
pub struct Signal(String);

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Signal {
    pub fn new(s: &mut Session) -> Self {
        Self(format!("/tmp/signal-{}", s.fresh_port()))
    }

    pub fn give(&self, s: &Session) -> Result<()> {
        s.guest_sh(&format!("touch {self}")).map(drop)
    }
}

/// Has `program`, once it is connected, write while the device takes nothing, and goes on with `then` before the device
/// does again.
fn writes_unseen<T>(
    s: &mut Session,
    program: &Process,
    signal: &Signal,
    then: impl FnOnce(&mut Session) -> Result<T>,
) -> Result<T> {
    program.expect("CONNECTED", LONG)?;
    paused(s, "tx", |s| {
        signal.give(s)?;
        program.expect("WRITTEN", LONG)?;
        then(s)
    })
}

/// Reads all that comes to `listener`'s first connection, beginning after `pause`; returns how much it was.
fn reader(listener: UnixListener, pause: Duration) -> thread::JoinHandle<Result<u64>> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(allowed(STALL)))?;
        thread::sleep(pause);
        let mut all = 0;
        let mut buffer = [0; 65536];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(all),
                Ok(n) => all += n as u64,
                Err(e) => return Err(e).with_context(|| format!("after {all} bytes")),
            }
        }
    })
}

/// A reader that waits for more than what makes an update due. The device does not see the second read's room in time.
pub fn lowat(s: &mut Session) -> Result<()> {
    const KIB: usize = 1024;
    let (port, signal) = (s.fresh_port(), Signal::new(s));
    let program = s.server(
        Side::Guest,
        &format!(
            "waits lowat --port {port} --first {} --second {} --lowat {} --when {signal}",
            70 * KIB,
            186 * KIB,
            100 * KIB
        ),
    )?;
    let (stream, _) = connect(s, port)?;
    let mut writer = stream.try_clone()?;
    // Until the guest closes.
    let writer = thread::spawn(move || while writer.write_all(&[7; 65536]).is_ok() {});
    program.expect("FULL", LONG)?;
    paused(s, "rx", |s| {
        signal.give(s)?;
        program.expect("WAITS", LONG)
    })?;
    let outcome = program.success(HANG);
    let _ = stream.shutdown(std::net::Shutdown::Both);
    writer.join().map_err(|_| anyhow!("the writer panicked"))?;
    outcome.map(drop)
}

/// The host's buffer is larger than the guest's, it reports by its own, and its program is slow.
fn write(s: &mut Session, how: &str) -> Result<()> {
    const BYTES: u64 = 4 << 20;
    let (port, listener) = listen(s)?;
    let reader = reader(listener, Duration::from_secs(1));
    let program = s.rvtest(
        Side::Guest,
        &format!("waits write --cid 2 --port {port} --bytes {BYTES} {how}"),
    )?;
    program.success(HANG)?;
    let all = joined(reader)?;
    ensure!(all == BYTES, "the host got {all} of {BYTES} bytes");
    Ok(())
}

pub fn blocking_writer(s: &mut Session) -> Result<()> {
    write(s, "")
}

pub fn polling_writer(s: &mut Session) -> Result<()> {
    write(s, "--poll")
}

/// One thread takes the error, and the other must see that the connection is over.
pub fn error_taken(s: &mut Session) -> Result<()> {
    for round in 0..8 {
        let (port, listener) = listen(s)?;
        let program = s.rvtest(
            Side::Guest,
            &format!("waits error-taken --cid 2 --port {port}"),
        )?;
        program.expect("CONNECTED", LONG)?;
        let held = listener.accept()?;
        thread::sleep(Duration::from_millis(100));
        say(s, "reset")?;
        program
            .success(HANG)
            .with_context(|| format!("round {round}"))?;
        drop(held);
    }
    Ok(())
}

/// The host accepts when connect() has given up, and greets.
pub fn late_answer(s: &mut Session) -> Result<()> {
    let (port, listener) = listen(s)?;
    let greeter = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(allowed(STALL)))?;
        let _ = stream.write_all(b"welcome");
        // The guest ends it.
        let _ = stream.read(&mut [0; 16]);
        Ok(())
    });
    say(s, "delay rx 5000")?;
    let program = s.rvtest(
        Side::Guest,
        &format!("waits late-answer --cid 2 --port {port}"),
    );
    let outcome = program.and_then(|p| p.success(HANG));
    say(s, "delay rx 0")?;
    joined(greeter)?;
    outcome.map(drop)
}

/// The host accepts, greets and closes before connect() wakes, and a signal wakes it, too.
pub fn came_and_went(s: &mut Session) -> Result<()> {
    for (greeting, how) in [("", ""), ("welcome", "--greeting welcome")] {
        let (port, listener) = listen(s)?;
        let path = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let greeter = thread::spawn({
            let over = over.clone();
            move || -> Result<()> {
                loop {
                    let (mut stream, _) = listener.accept()?;
                    if over.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                    // The caller may have given up by now.
                    let _ = stream.write_all(greeting.as_bytes());
                }
            }
        });
        say(s, "delay rx 300")?;
        let program = s.rvtest(
            Side::Guest,
            &format!("waits came-and-went --cid 2 --port {port} {how}"),
        );
        let outcome = program.and_then(|p| p.success(LONG));
        say(s, "delay rx 0")?;
        over.store(true, Ordering::SeqCst);
        UnixStream::connect_addr(&path)?;
        joined(greeter)?;
        outcome.with_context(|| format!("greeted with {greeting:?}"))?;
    }
    Ok(())
}

/// What a connection that was reset had waiting must not reach its successor between the same ports.
pub fn successor(s: &mut Session) -> Result<()> {
    const FILLERS: usize = 32;
    let (port, listener) = listen(s)?;
    let (from, signal) = (s.fresh_port(), Signal::new(s));
    // The first are the fillers'.
    let echoes = thread::spawn(move || -> Result<()> {
        let mut held = Vec::new();
        for i in 0..FILLERS + 2 {
            let (stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(allowed(STALL)))?;
            held.push(stream.try_clone()?);
            if i == FILLERS + 1 {
                let mut buffer = [0; 10];
                let mut stream = &stream;
                stream.read_exact(&mut buffer)?;
                stream.write_all(&buffer)?;
            }
        }
        Ok(())
    });
    let program = s.rvtest(
        Side::Guest,
        &format!("waits successor --cid 2 --port {port} --from {from} --fillers {FILLERS} --when {signal}"),
    )?;
    let outcome = writes_unseen(s, &program, &signal, |s| {
        say(s, &format!("abort {from}"))?;
        program.expect("AGAIN", LONG)?;
        // Its REQUEST is to wait, too.
        thread::sleep(Duration::from_millis(300));
        Ok(())
    });
    outcome.and(program.success(HANG).map(drop))?;
    joined(echoes)
}

fn unbind(s: &Session) -> Result<(Process, String)> {
    let (device, driver) = s.device()?;
    let path = format!("/sys/bus/virtio/drivers/{driver}");
    let process = s.spawn(
        Side::Guest,
        &["sh", "-c", &format!("echo {device} > {path}/unbind")],
    )?;
    Ok((process, format!("echo {device} > {path}/bind")))
}

/// What a program has written when the device is unbound, though the device is slow to take it. The driver gives it less
/// than a second: what is lost counts if the device went on in time.
fn last_words(s: &mut Session, how: &str) -> Result<()> {
    const PIECES: u64 = 350;
    const IN_TIME: Duration = Duration::from_millis(500);
    for attempt in 1.. {
        let (all, took) = last_words_once(s, how, PIECES)?;
        if all == PIECES * 8 {
            break;
        }
        let text = format!(
            "the host got {all} of {} bytes, where the device went on {took:?} after the unbind",
            PIECES * 8
        );
        ensure!(took > IN_TIME && attempt < TRIES, "{text}");
        s.events.note(text);
    }
    Ok(())
}

/// How many bytes the host got, and when the device went on after the unbind.
fn last_words_once(s: &mut Session, how: &str, pieces: u64) -> Result<(u64, Duration)> {
    let (port, listener) = listen(s)?;
    let signal = Signal::new(s);
    let reader = reader(listener, Duration::ZERO);
    let program = s.rvtest(
        Side::Guest,
        &format!("waits last-words --cid 2 --port {port} --pieces {pieces} --when {signal} {how}"),
    )?;
    let (start, unbinding, bind) = writes_unseen(s, &program, &signal, |s| {
        // The C driver, and an older one of ours, do not say.
        let waiting = stats(s)?.get("tx_waiting").copied();
        ensure!(
            waiting != Some(0) || how.contains("--together"),
            "nothing waits"
        );
        let start = Instant::now();
        let (unbinding, bind) = unbind(s)?;
        thread::sleep(Duration::from_millis(200));
        Ok((start, unbinding, bind))
    })?;
    let took = start.elapsed();
    unbinding.success(LONG)?;
    s.guest_sh(&bind)?;
    program.wait(LONG)?;
    Ok((joined(reader)?, took))
}

pub fn last_words_of_a_connection(s: &mut Session) -> Result<()> {
    last_words(s, "")
}

/// What is written while the device is behind goes as few packets; a lone write, and what is before a look for an answer,
/// waits for nothing; and what its user says more of follows.
pub fn cork(s: &mut Session) -> Result<()> {
    // A writer that stands still between two writes makes them two packets.
    tried(s, cork_once).map(drop)
}

fn cork_once(s: &mut Session) -> Result<Result<String>> {
    const BYTES: u64 = 100;
    let (port, listener) = listen(s)?;
    let signals = [(); 3].map(|()| Signal::new(s));
    let [when, then, more] = &signals;
    let program = s.rvtest(
        Side::Guest,
        &format!("waits cork --cid 2 --port {port} --when {when} --then {then} --more {more}"),
    )?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(allowed(STALL)))?;
    let mut read = |bytes: u64| -> Result<()> {
        let mut buffer = vec![0; bytes as usize];
        stream.read_exact(&mut buffer)?;
        ensure!(buffer.iter().all(|b| *b == 4), "other bytes came");
        Ok(())
    };
    let in_flight = |s: &Session, wanted: u64| -> Result<()> {
        let in_flight = stats(s)?["tx_in_flight"];
        ensure!(
            in_flight == wanted,
            "{in_flight} packets are with the device, and not {wanted}"
        );
        Ok(())
    };
    writes_unseen(s, &program, when, |s| {
        in_flight(s, 1)?;
        then.give(s)?;
        program.expect("ASKED", LONG)?;
        in_flight(s, 2)
    })?;
    read(10 * BYTES)?;
    let packets = |s: &Session| -> Result<u64> {
        let count = counters(s)?[GUEST_CID.to_string()]["tx_packets"].as_u64();
        count.context("no tx_packets are counted")
    };
    let before = packets(s)?;
    more.give(s)?;
    program.expect("MORE", LONG)?;
    read(4 * BYTES)?;
    let sent = packets(s)? - before;
    drop(stream);
    program.wait(LONG)?;
    let text = format!("four writes, the third one without MSG_MORE, were {sent} packets");
    Ok(measured(sent == 2, text))
}

/// Nine small writes of a program that then looks for nothing.
pub fn left_alone(s: &mut Session) -> Result<()> {
    let (port, listener) = listen(s)?;
    let [when, then] = [(); 2].map(|()| Signal::new(s));
    let program = s.rvtest(
        Side::Guest,
        &format!("waits leave --cid 2 --port {port} --when {when} --then {then}"),
    )?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(allowed(STALL)))?;
    let joined = stats(s)?["tx_joined"];
    writes_unseen(s, &program, &when, |_| Ok(()))?;
    let mut bytes = [0; 900];
    stream
        .read_exact(&mut bytes)
        .context("nine writes of 100 bytes")?;
    // The first goes at once, and the second is the packet that the others join.
    let joined = stats(s)?["tx_joined"] - joined;
    ensure!(
        joined == 7,
        "{joined} writes were added to others, and not 7"
    );
    then.give(s)?;
    program.success(LONG)?;
    Ok(())
}

/// A byte that is written when many connections have written all that they may.
pub fn turns(s: &mut Session) -> Result<()> {
    const WRITERS: usize = 6;
    /// What the device has of them at the most, what goes before it at once, and what another thread has read by the
    /// time that it is looked at.
    const BEFORE: u64 = (256 << 10) + (WRITERS as u64) * (32 << 10) + (128 << 10);
    let (port, listener) = listen(s)?;
    let signal = Signal::new(s);
    let program = s.rvtest(
        Side::Guest,
        &format!("waits turns --cid 2 --port {port} --writers {WRITERS} --when {signal}"),
    )?;
    let (mut lone, _) = listener.accept()?;
    lone.set_read_timeout(Some(allowed(STALL)))?;
    let waited = stats(s)?["tx_waited"];
    let bytes = Arc::new(AtomicU64::new(0));
    let mut readers = Vec::new();
    for _ in 0..WRITERS {
        let (mut stream, _) = listener.accept()?;
        let bytes = bytes.clone();
        readers.push(thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                bytes.fetch_add(n as u64, Ordering::Relaxed);
            }
        }));
    }
    writes_unseen(s, &program, &signal, |s| say(s, "pace tx 100").map(drop))?;
    lone.read_exact(&mut [0])?;
    let before = bytes.load(Ordering::Relaxed);
    say(s, "pace tx 0")?;
    let waited = stats(s)?["tx_waited"] - waited;
    // It has waited for this.
    lone.write_all(&[1])?;
    program.wait(LONG)?;
    drop(lone);
    for reader in readers {
        reader.join().map_err(|_| anyhow!("a reader panicked"))?;
    }
    let all = bytes.load(Ordering::Relaxed);
    ensure!(
        all > 2 * BEFORE,
        "the others wrote {all} bytes: too few to wait for"
    );
    ensure!(waited > 0, "no packet is said to have waited");
    ensure!(
        before <= BEFORE,
        "{before} bytes of {all} went before one of another connection"
    );
    Ok(())
}

/// Small writes that were put together, of which the device has seen the first alone.
pub fn last_words_together(s: &mut Session) -> Result<()> {
    last_words(s, "--together")?;
    last_words(s, "--together --close")
}

pub fn last_words_of_a_closed_socket(s: &mut Session) -> Result<()> {
    last_words(s, "--close")
}

/// What many sockets have written, some of them closed since, is more than a slow device takes until it is unbound: the
/// connections that are left are ended all the same.
pub fn farewell(s: &mut Session) -> Result<()> {
    tried(s, farewell_once).map(drop)
}

fn farewell_once(s: &mut Session) -> Result<Result<String>> {
    const WRITERS: u64 = 6;
    const CLOSED: u64 = 3;
    let (port, listener) = listen(s)?;
    let signal = Signal::new(s);
    let program = s.rvtest(
        Side::Guest,
        &format!(
            "waits farewell --cid 2 --port {port} --writers {WRITERS} --close {CLOSED} --when {signal}"
        ),
    )?;
    program.expect("CONNECTED", LONG)?;
    let mut streams = Vec::new();
    for _ in 0..=WRITERS {
        let (mut stream, _) = listener.accept()?;
        streams.push(thread::spawn(move || {
            std::io::copy(&mut stream, &mut std::io::sink())
        }));
    }
    let count = |s: &Session, name: &str| -> Result<u64> {
        let count = counters(s)?[GUEST_CID.to_string()][name].as_u64();
        count.with_context(|| format!("no {name} is counted"))
    };
    let (taken, resets) = (count(s, "tx_packets")?, count(s, "resets_received")?);
    let outcome = writes_unseen(s, &program, &signal, |s| {
        let waiting = stats(s)?["tx_waiting"];
        say(s, "pace tx 5")?;
        Ok((unbind(s)?, waiting))
    });
    let ((unbinding, bind), waiting) = outcome?;
    unbinding.success(LONG)?;
    say(s, "pace tx 0")?;
    let (taken, resets) = (
        count(s, "tx_packets")? - taken,
        count(s, "resets_received")? - resets,
    );
    s.guest_sh(&bind)?;
    program.wait(LONG)?;
    if taken >= waiting {
        return Ok(Err(anyhow!(
            "the device was not slow: it took {taken} packets, and {waiting} waited"
        )));
    }
    // What the host tells those that were closed is answered by RST, too.
    let text = format!("the device got {resets} RST, and {taken} packets in all");
    Ok(measured(resets > WRITERS - CLOSED, text))
}

/// On a queue of a single descriptor no packet with payload can ever be sent, as that has a piece for the header.
pub fn too_long(s: &mut Session) -> Result<()> {
    let (port, listener) = listen(s)?;
    let before = stats(s)?["tx_too_long"];
    let reader = reader(listener, Duration::ZERO);
    let program = s.rvtest(
        Side::Guest,
        &format!("waits too-long --cid 2 --port {port} --bytes 100"),
    )?;
    program.success(HANG)?;
    // The device ends the stream of a connection that was reset.
    let all = joined(reader)?;
    ensure!(all == 0, "the host got {all} bytes");
    let counted = stats(s)?["tx_too_long"] - before;
    ensure!(counted == 1, "{counted} packets were too long");
    Ok(())
}

/// An event costs no line of the log each.
pub fn quiet(s: &mut Session) -> Result<()> {
    const RESETS: usize = 100;
    // Those that come before the guest has heard of the last are one for it.
    const EVENTS: u64 = 50;
    let mark = s.machine()?.serial.mark();
    let (before, start) = (stats(s)?["events"], Instant::now());
    let mut events = 0;
    while events < EVENTS {
        ensure!(start.elapsed() < LONG, "{events} events only");
        for _ in 0..RESETS {
            say(s, "reset")?;
            thread::sleep(Duration::from_millis(3));
        }
        events = stats(s)?["events"] - before;
    }
    let lines = s.machine()?.serial.since(mark);
    let lines = lines.iter().filter(|l| l.contains("rvsock")).count();
    ensure!(lines <= 30, "{lines} lines in the log for {events} events");
    Ok(())
}

/// A listener whose owner sits in a page fault has as many wait for it as its backlog is long.
pub fn stuck_listener(s: &mut Session) -> Result<()> {
    tried(s, beside_stuck_listener)
}

fn beside_stuck_listener(s: &mut Session) -> Result<Result<()>> {
    const BACKLOG: usize = 20;
    // The device refuses who waits for ten seconds.
    const HELD_MS: u64 = 6000;
    const CALLERS: usize = 60;
    let (port, other) = (s.fresh_port(), s.fresh_port());
    let stuck = s.server(
        Side::Guest,
        &format!("stuck-listener --port {port} --backlog {BACKLOG} --hold-ms {HELD_MS}"),
    )?;
    let _echo = s.server(Side::Guest, &format!("echo-server --port {other}"))?;
    stuck.expect("STUCK", LONG)?;
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = UnixStream::connect(uds(s)?)?;
        caller.write_all(format!("CONNECT {port}\n").as_bytes())?;
        caller.set_nonblocking(true)?;
        callers.push(caller);
    }
    // Others are served meanwhile.
    drop(connect(s, other)?);
    let refused = || {
        (callers.iter())
            .filter(|caller| matches!((&mut &**caller).read(&mut [0; 16]), Ok(0)))
            .count()
    };
    // One more than the number, as everywhere in the kernel.
    let expected = CALLERS - BACKLOG - 1;
    let until = Instant::now() + allowed(AT_ONCE);
    while refused() < expected && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    // And none after these.
    thread::sleep(Duration::from_millis(300));
    let refused = refused();
    if stuck.text().contains("RELEASED") {
        return Ok(Err(anyhow!(
            "too late: the listener was released, when {refused} callers had been refused"
        )));
    }
    ensure!(
        refused == expected,
        "of {CALLERS} callers {refused} were refused, with a backlog of {BACKLOG}"
    );
    stuck.expect("RELEASED", LONG)?;
    let start = Instant::now();
    let mut accepted = 0;
    while accepted < CALLERS - refused && start.elapsed() < LONG {
        accepted += (callers.iter())
            .filter(|caller| {
                let mut line = [0; 16];
                matches!((&mut &**caller).read(&mut line), Ok(1..)) && line.starts_with(b"OK")
            })
            .count();
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(
        accepted == CALLERS - refused,
        "{accepted} callers were accepted"
    );
    Ok(Ok(()))
}

/// A host that restores the guest under another CID may say nothing: listeners hear what comes for the new one.
pub fn silent_renumbering(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _echo = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    for cid in [OTHER_CID, GUEST_CID] {
        say(s, &format!("become cid={cid}"))?;
        let (mut stream, _) = connect(s, port).with_context(|| format!("with CID {cid}"))?;
        stream.write_all(b"who")?;
        let mut back = [0; 3];
        stream.read_exact(&mut back)?;
        ensure!(back == *b"who", "the echo was {back:?}");
        let stats = stats(s)?;
        ensure!(
            stats["guest_cid"] == u64::from(cid),
            "the driver has CID {}",
            stats["guest_cid"]
        );
    }
    Ok(())
}
