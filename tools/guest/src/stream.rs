// SPDX-License-Identifier: GPL-2.0

//! Peers that move data over connected streams: echo, bulk, many at once.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use nix::{
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::{
        resource::{getrlimit, setrlimit, Resource},
        socket::Backlog,
    },
};
use vsock::{VsockListener, VsockStream, VMADDR_CID_ANY};

use crate::{
    errno::errno_name,
    pattern,
    socket::{Class, Kind, Peer, Socket, DEFAULT_BUFFER},
    unix,
};

/// A connection that stops answering for this long has failed: nothing here may hang for ever.
const STALL: Duration = Duration::from_secs(60);

pub fn listen(port: u32) -> Result<VsockListener> {
    listen_at(VMADDR_CID_ANY, port)
}

fn listen_at(cid: u32, port: u32) -> Result<VsockListener> {
    if unix::uds().is_some() {
        let socket = Socket::listening(Kind::Stream, DEFAULT_BUFFER, port)?;
        println!("READY {port}");
        return Ok(OwnedFd::from(socket).into());
    }
    let listener = VsockListener::bind_with_cid_port(cid, port)
        .with_context(|| format!("cannot listen on vsock port {port}"))?;
    // The crate's backlog of 128 is too short for peers that connect as fast as they can.
    nix::sys::socket::listen(&listener, Backlog::new(4096)?)?;
    println!("READY {port}");
    Ok(listener)
}

pub fn connect(cid: u32, port: u32) -> Result<VsockStream> {
    connect_as(Kind::Stream, Peer { cid, port })
}

/// A connection of either type: what reads and writes does not care.
pub fn connect_as(kind: Kind, peer: Peer) -> Result<VsockStream> {
    let socket = Socket::plain(kind)?.connect(peer)?;
    Ok(OwnedFd::from(socket).into())
}

/// Listens for connections of either type.
pub fn listen_as(kind: Kind, port: u32) -> Result<VsockListener> {
    if kind == Kind::Stream {
        return listen(port);
    }
    let socket = Socket::listening(kind, DEFAULT_BUFFER, port)?;
    println!("READY {port}");
    Ok(OwnedFd::from(socket).into())
}

/// Room for thousands of connections.
pub fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

fn small_thread<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    Ok(thread::Builder::new().stack_size(128 << 10).spawn(body)?)
}

/// Sends everything back, on any number of connections, for ever.
pub fn echo_server(port: u32, cid: Option<u32>) -> Result<()> {
    raise_file_limit()?;
    let listener = listen_at(cid.unwrap_or(VMADDR_CID_ANY), port)?;
    loop {
        let (mut stream, _) = listener.accept().context("accept")?;
        small_thread(move || {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        })?;
    }
}

/// What a load of echoes consists of.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub connections: u64,
    pub bytes: u64,
    pub write_size: usize,
    /// The bytes are counted and no half is closed, for peers that cannot tell that.
    pub counted: bool,
}

/// Opens all connections at once; each sends and receives at the same time, and checks every byte.
pub fn echo_client(cid: u32, port: u32, load: Load) -> Result<()> {
    raise_file_limit()?;
    let start = Instant::now();
    let flows = (0..load.connections)
        .map(|seed| small_thread(move || echo_one(cid, port, load, seed)))
        .collect::<Result<Vec<_>>>()?;
    let mut sum = 0;
    for (seed, flow) in flows.into_iter().enumerate() {
        let crc = flow
            .join()
            .map_err(|_| anyhow::anyhow!("connection {seed}: its thread panicked"))?;
        sum ^= crc.with_context(|| format!("connection {seed} of {}", load.connections))?;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "OK connections={} bytes={} crc={sum:08x} seconds={seconds:.3}",
        load.connections,
        load.bytes * load.connections
    );
    Ok(())
}

fn echo_one(cid: u32, port: u32, load: Load, seed: u64) -> Result<u32> {
    let mut stream = connect(cid, port)?;
    let mut writer = stream.try_clone()?;
    let sender = small_thread(move || -> Result<()> {
        send_pattern(&mut writer, seed, load.bytes, load.write_size)?;
        if load.counted {
            return Ok(());
        }
        Ok(writer.shutdown(Shutdown::Write)?)
    })?;
    let received = if load.counted {
        receive_pattern(&mut (&mut stream).take(load.bytes), seed)
    } else {
        receive_pattern(&mut stream, seed)
    };
    let sent = sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sending thread panicked"))?;
    sent.context("sending")?;
    let (bytes, crc) = received.context("receiving")?;
    ensure!(
        bytes == load.bytes,
        "{bytes} bytes came back, {} were sent",
        load.bytes
    );
    Ok(crc)
}

pub fn send_pattern(to: &mut impl Write, seed: u64, bytes: u64, write_size: usize) -> Result<()> {
    let mut buffer = vec![0; write_size];
    let mut sent = 0;
    while sent < bytes {
        let n = write_size.min((bytes - sent) as usize);
        pattern::fill(&mut buffer[..n], seed, sent);
        to.write_all(&buffer[..n])
            .with_context(|| format!("write at byte {sent}"))?;
        sent += n as u64;
    }
    Ok(())
}

/// Reads until the end of the stream, checks every byte; returns their number and checksum.
pub fn receive_pattern(from: &mut impl Read, seed: u64) -> Result<(u64, u32)> {
    let mut buffer = vec![0; 32 << 10];
    let mut received = 0;
    let mut crc = crc32fast::Hasher::new();
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok((received, crc.finalize())),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                bail!("nothing came for {STALL:?} after byte {received}")
            }
            Err(e) => return Err(e).with_context(|| format!("read at byte {received}")),
        };
        if let Some(place) = pattern::mismatch(&buffer[..n], seed, received) {
            bail!("the byte at {place} is wrong");
        }
        crc.update(&buffer[..n]);
        received += n as u64;
    }
}

/// Opens `connections` and keeps them all open; only then an echo on each, all at once.
pub fn many(cid: u32, port: u32, connections: u64, burst: bool) -> Result<()> {
    raise_file_limit()?;
    let nth = |i| format!("connection {i} of {connections}");
    let mut streams = if burst {
        connect_in_a_burst(cid, port, connections)?
    } else {
        (0..connections)
            .map(|i| connect(cid, port).with_context(|| nth(i)))
            .collect::<Result<Vec<_>>>()?
    };
    println!("OPEN {connections}");
    let message = |i| {
        let mut message = [0; 64];
        pattern::fill(&mut message, i as u64, 0);
        message
    };
    for (i, stream) in streams.iter_mut().enumerate() {
        stream
            .write_all(&message(i))
            .with_context(|| format!("write on connection {i}"))?;
    }
    for (i, stream) in streams.iter_mut().enumerate() {
        let mut back = [0; 64];
        stream
            .read_exact(&mut back)
            .with_context(|| format!("echo on connection {i}"))?;
        ensure!(message(i) == back, "the echo on connection {i} differs");
    }
    println!("OK connections={connections}");
    Ok(())
}

/// Begins to connect with all sockets before it asks what became of any.
fn connect_in_a_burst(cid: u32, port: u32, connections: u64) -> Result<Vec<VsockStream>> {
    let peer = Peer { cid, port };
    let begun = (0..connections)
        .map(|_| Socket::connecting(Kind::Stream, peer))
        .collect::<Result<Vec<_>>>()?;
    println!("BEGUN {connections}");
    let mut failed = std::collections::BTreeMap::<String, u64>::new();
    let mut streams = Vec::new();
    for socket in begun {
        match socket.connected_by_now() {
            Ok(socket) => streams.push(OwnedFd::from(socket).into()),
            Err(e) => *failed.entry(format!("{e:#}")).or_default() += 1,
        }
    }
    ensure!(
        failed.is_empty(),
        "of {connections} connections failed: {failed:?}"
    );
    Ok(streams)
}

/// Sends a chunk in one write, reads it back, and so on: for peers that cannot tell a half-close.
pub fn chunks(cid: u32, port: u32, size: usize, count: u64) -> Result<()> {
    let mut stream = connect(cid, port)?;
    let (mut message, mut back) = (vec![0; size], vec![0; size]);
    for chunk in 0..count {
        pattern::fill(&mut message, 0, chunk * size as u64);
        stream
            .write_all(&message)
            .with_context(|| format!("chunk {chunk}: write"))?;
        stream
            .read_exact(&mut back)
            .with_context(|| format!("chunk {chunk}: read"))?;
        ensure!(message == back, "chunk {chunk} came back changed");
    }
    println!("OK count={count}");
    Ok(())
}

/// Accepts one connection, sleeps, then reads everything, or so many bytes, and checks it.
pub fn slow_server(port: u32, pause: Duration, poll: bool, bytes: Option<u64>) -> Result<()> {
    let (stream, _) = listen(port)?.accept().context("accept")?;
    println!("ACCEPTED");
    thread::sleep(pause);
    let most = bytes.unwrap_or(u64::MAX);
    let (bytes, crc) = receive_pattern(&mut Patient { stream, poll }.take(most), 0)?;
    println!("OK received={bytes} crc={crc:08x}");
    Ok(())
}

/// A stream whose reader waits in read(), or in poll() alone.
struct Patient {
    stream: VsockStream,
    poll: bool,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.poll {
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            let limit = PollTimeout::try_from(STALL).map_err(io::Error::other)?;
            if poll(&mut fds, limit)? == 0 {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        self.stream.read(buffer)
    }
}

/// Sends a number of bytes, says so, and waits until the peer has closed; it does so at the end, or counts.
///
/// Where it must count, its close may be told by a reset.
pub fn send(peer: Peer, bytes: u64, write_size: usize, counted: bool, class: Class) -> Result<()> {
    let mut stream = connect_as(Kind::Stream, peer)?;
    class.give(&stream)?;
    println!("CONNECTED");
    // The reader may sleep for long: only the tests that say so wait for it.
    stream.set_write_timeout(None)?;
    stream.set_read_timeout(None)?;
    send_pattern(&mut stream, 0, bytes, write_size)?;
    println!("SENT {bytes}");
    if !counted {
        stream.shutdown(Shutdown::Write)?;
    }
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(e) if counted && e.kind() == ErrorKind::ConnectionReset => {}
        other => drop(other.context("waiting for the peer's close")?),
    }
    println!("OK sent={bytes}");
    Ok(())
}

/// In traffic a connection whose device went away must end sooner than this; EAGAIN says that it did not. The driver would
/// give up a close after eight seconds.
const TRAFFIC_STALL: Duration = Duration::from_secs(7);

/// Connects and echoes, again and again, through whatever happens to the device; every error is counted by its name.
pub fn traffic(cid: u32, port: u32, flows: u64, duration: Duration) -> Result<()> {
    let until = Instant::now() + duration;
    println!("RUNNING");
    let flows = (0..flows)
        .map(|seed| small_thread(move || traffic_one(cid, port, seed, until)))
        .collect::<Result<Vec<_>>>()?;
    let (mut echoes, mut errors) = (0, std::collections::BTreeMap::<String, u64>::new());
    for flow in flows {
        let (n, seen) = flow
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        echoes += n;
        for name in seen {
            *errors.entry(name).or_default() += 1;
        }
    }
    for (name, count) in errors {
        println!("ERROR {name} {count}");
    }
    println!("OK echoes={echoes}");
    Ok(())
}

fn traffic_one(cid: u32, port: u32, seed: u64, until: Instant) -> (u64, Vec<String>) {
    let (mut echoes, mut errors) = (0, Vec::new());
    while Instant::now() < until {
        let outcome = (|| -> io::Result<()> {
            let socket = Socket::plain(Kind::Stream)
                .map_err(|e| io::Error::other(format!("socket:{:?}", e.root_cause())))?;
            socket
                .try_connect(Peer { cid, port })
                .map_err(|e| io::Error::new(e.kind(), format!("connect:{}", errno_name(&e))))?;
            let mut stream = VsockStream::from(OwnedFd::from(socket));
            stream.set_read_timeout(Some(TRAFFIC_STALL))?;
            stream.set_write_timeout(Some(TRAFFIC_STALL))?;
            let (mut message, mut back) = ([0; 4096], [0; 4096]);
            while Instant::now() < until {
                pattern::fill(&mut message, seed, echoes * 4096);
                stream
                    .write_all(&message)
                    .map_err(|e| io::Error::new(e.kind(), format!("write:{}", errno_name(&e))))?;
                stream
                    .read_exact(&mut back)
                    .map_err(|e| io::Error::new(e.kind(), format!("read:{}", errno_name(&e))))?;
                if back != message {
                    return Err(io::Error::other("echo:CORRUPT"));
                }
                echoes += 1;
            }
            Ok(())
        })();
        if let Err(e) = outcome {
            errors.push(e.to_string());
            thread::sleep(Duration::from_millis(20));
        }
    }
    (echoes, errors)
}
