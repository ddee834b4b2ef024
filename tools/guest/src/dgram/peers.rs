// SPDX-License-Identifier: GPL-2.0

//! Who hears whom: many sockets, peers, refusals, and a device that goes and comes.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use nix::{errno::Errno, poll::PollFlags, sys::socket::MsgFlags};

use super::{
    fails,
    sequence::{check, fill},
    socket::{Address, Dgram, LARGEST, STALL},
};

const ANY_PORT: u32 = u32::MAX;
const NONE: MsgFlags = MsgFlags::empty();

/// Sends everything back, and ends after "end".
pub fn echo(port: u32) -> Result<()> {
    let socket = Dgram::bound(port)?;
    socket.wide_receive_buffer(8 << 20)?;
    println!("READY {port}");
    let (mut buffer, mut count) = (vec![0; LARGEST], 0);
    loop {
        let got = socket.receive(&mut buffer, NONE)?;
        let from = got.from.context("a datagram without a sender")?;
        socket.send_to(&buffer[..got.len], from, NONE)?;
        count += 1;
        if &buffer[..got.len] == b"end" {
            println!("OK count={count}");
            return Ok(());
        }
    }
}

/// Prints what it gets at this address, until it is ended.
pub fn print(at: Address) -> Result<()> {
    let socket = Dgram::new()?;
    socket.bind(at).with_context(|| format!("bind to {at:?}"))?;
    let mut buffer = vec![0; LARGEST];
    let mut out = std::io::stdout();
    loop {
        let got = socket.receive(&mut buffer, NONE)?;
        out.write_all(&buffer[..got.len])?;
        out.flush()?;
    }
}

/// Waits until the socket has an error.
fn wait_for_error(socket: &Dgram) -> Result<()> {
    let events = socket.poll(PollFlags::empty(), Duration::from_secs(20))?;
    ensure!(
        events.contains(PollFlags::POLLERR),
        "nobody answers, and poll() says {events:?}"
    );
    Ok(())
}

/// Sends to a port where nobody is.
pub fn refused(peer: Address) -> Result<()> {
    let mut buffer = [0; 16];
    let connected = Dgram::bound(ANY_PORT)?;
    let unconnected = Dgram::bound(ANY_PORT)?;
    connected.connect(peer)?;
    let silent = |socket: &Dgram| {
        fails(
            "recv() after that",
            socket.receive(&mut [0; 16], MsgFlags::MSG_DONTWAIT),
            Errno::EAGAIN,
        )
    };

    unconnected.send_to(b"x", peer, NONE)?;
    connected.send(b"x", NONE)?;
    wait_for_error(&connected)?;
    fails(
        "recv() when nobody is there",
        connected.receive(&mut buffer, NONE),
        Errno::ECONNREFUSED,
    )?;
    silent(&connected)?;

    connected.send(b"x", NONE)?;
    wait_for_error(&connected)?;
    fails(
        "send() when nobody is there",
        connected.send(b"x", NONE),
        Errno::ECONNREFUSED,
    )?;
    silent(&connected)?;

    connected.send(b"x", NONE)?;
    wait_for_error(&connected)?;
    let (first, second) = (connected.error()?, connected.error()?);
    ensure!(
        first == Errno::ECONNREFUSED as i32 && second == 0,
        "SO_ERROR says {first} and then {second}"
    );
    silent(&connected)?;

    // One that was woken by the news.
    thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| connected.receive(&mut [0; 16], NONE));
        thread::sleep(Duration::from_millis(100));
        connected.send(b"x", NONE)?;
        let outcome = reader.join().expect("a reader");
        fails("a recv() that waited", outcome, Errno::ECONNREFUSED)
    })?;
    silent(&connected)?;

    // By now the answer to the very first datagram has come.
    silent(&unconnected)?;
    ensure!(
        unconnected.error()? == 0,
        "a socket without a peer has an error"
    );
    println!("OK");
    Ok(())
}

/// Sends to a port where nobody is, on a host that does not say so.
pub fn unheard(peer: Address) -> Result<()> {
    let socket = Dgram::bound(ANY_PORT)?;
    socket.connect(peer)?;
    for _ in 0..3 {
        socket.send(b"x", NONE)?;
        let events = socket.poll(PollFlags::POLLIN, Duration::from_millis(300))?;
        ensure!(events.is_empty(), "poll() says {events:?}");
    }
    fails(
        "recv()",
        socket.receive(&mut [0; 16], MsgFlags::MSG_DONTWAIT),
        Errno::EAGAIN,
    )?;
    println!("OK");
    Ok(())
}

/// Hears both others, then one alone, then both again.
pub fn only_peer(port: u32, peer_port: u32) -> Result<()> {
    let socket = Dgram::bound(port)?;
    println!("READY {port}");
    socket.hear("other one")?;
    ensure!(
        socket.hear("peer one")? == Address::host(peer_port),
        "the peer has another port"
    );
    socket.connect(Address::host(peer_port))?;
    println!("CONNECTED");
    // The other's second comes before that, and must not.
    socket.hear("peer two")?;
    fails(
        "recv() after the peer's",
        socket.receive(&mut [0; 16], MsgFlags::MSG_DONTWAIT),
        Errno::EAGAIN,
    )?;
    socket.disconnect()?;
    println!("DISCONNECTED");
    socket.hear("other three")?;
    println!("OK");
    Ok(())
}

/// Many sockets at once; what comes back on each must be its own.
pub fn many(peer: Address, count: usize) -> Result<()> {
    let sockets: Vec<_> = (0..count)
        .map(|_| Dgram::bound(ANY_PORT))
        .collect::<Result<_>>()?;
    let (mut datagram, mut buffer) = (Vec::new(), vec![0; 1000]);
    for round in 0..2 {
        for (number, socket) in (0..).zip(&sockets) {
            fill(&mut datagram, number, 500);
            socket.send_to(&datagram, peer, NONE)?;
            let got = socket
                .receive(&mut buffer, NONE)
                .with_context(|| format!("socket {number} in round {round}"))?;
            let back = check(&buffer[..got.len])?;
            ensure!(
                back == number && got.from == Some(peer),
                "socket {number} was sent what is for socket {back}, from {:?}",
                got.from
            );
        }
    }
    for (number, socket) in (0..).zip(&sockets) {
        fails(
            &format!("recv() on socket {number}"),
            socket.receive(&mut buffer, MsgFlags::MSG_DONTWAIT),
            Errno::EAGAIN,
        )?;
    }
    println!("OK count={count}");
    Ok(())
}

/// Sends until the outcome is `done`'s.
fn send_until(
    socket: &Dgram,
    to: Address,
    done: impl Fn(&std::io::Result<usize>) -> bool,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let outcome = socket.send_to(b"there?", to, NONE);
        if done(&outcome) {
            return Ok(());
        }
        ensure!(start.elapsed() < STALL, "sendto() still gives {outcome:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn outlive(port: u32, peer_port: u32) -> Result<()> {
    let to = Address::host(peer_port);
    let socket = Dgram::bound(port)?;
    let reader = Dgram::bound(port + 1)?;
    thread::scope(|scope| -> Result<()> {
        // One that waits waits on.
        let waiting = scope.spawn(|| reader.hear("again"));
        send_until(&socket, to, Result::is_ok)?;
        println!("READY {port}");
        send_until(
            &socket,
            to,
            |o| matches!(o, Err(e) if e.raw_os_error() == Some(libc::ENODEV)),
        )?;
        fails("socket()", Dgram::try_new().map(drop), Errno::ENODEV)?;
        fails(
            "recv()",
            socket.receive(&mut [0; 16], MsgFlags::MSG_DONTWAIT),
            Errno::EAGAIN,
        )?;
        ensure!(
            socket.name()?.port == port,
            "the socket lost its name: {:?}",
            socket.name()?
        );
        println!("GONE");
        send_until(&socket, to, Result::is_ok)?;
        // The device runs a moment before there are new sockets.
        let start = Instant::now();
        while let Err(e) = Dgram::try_new() {
            ensure!(start.elapsed() < STALL, "socket() still gives {e}");
            thread::sleep(Duration::from_millis(10));
        }
        println!("BACK");
        socket.hear("again")?;
        waiting.join().expect("a reader")?;
        Ok(())
    })?;
    println!("OK");
    Ok(())
}
