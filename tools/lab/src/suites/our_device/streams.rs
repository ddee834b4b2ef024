// SPDX-License-Identifier: GPL-2.0

//! Streams between the guest and programs on the host.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    thread,
    time::Duration,
};

use anyhow::{anyhow, ensure, Context, Result};

use super::{connect, joined, listen, uds, STALL};
use crate::{
    process::allowed,
    session::{Session, Side},
    suites::{AT_ONCE, LONG},
};

/// What goes over one connection in each direction.
const MUCH: u64 = 64 << 20;

/// Sends back what comes, for so many connections, each until its end.
pub fn echo(listener: UnixListener, connections: usize) -> thread::JoinHandle<Result<()>> {
    thread::spawn(move || {
        let mut flows = Vec::new();
        for _ in 0..connections {
            let (stream, _) = listener.accept()?;
            flows.push(thread::spawn(move || echo_one(stream)));
        }
        for flow in flows {
            flow.join().map_err(|_| anyhow!("an echo panicked"))??;
        }
        Ok(())
    })
}

fn echo_one(mut stream: UnixStream) -> Result<()> {
    stream.set_read_timeout(Some(allowed(STALL)))?;
    stream.set_write_timeout(Some(allowed(STALL)))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = stream.read(&mut buffer).context("echo: read")?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n]).context("echo: write")?;
    }
}

/// What goes there and back where it is not about how much.
const SOME: u64 = 2 << 20;

/// Some from each side and back, then 64 connections at once.
pub fn both_ways(s: &mut Session) -> Result<()> {
    much_from_guest(s, SOME)?;
    much_from_host(s, SOME)?;
    at_once(s, 50_000)
}

/// The guest ends its half first, and must still get all that comes back.
pub fn from_guest(s: &mut Session) -> Result<()> {
    much_from_guest(s, MUCH)
}

fn much_from_guest(s: &mut Session, bytes: u64) -> Result<()> {
    let (port, listener) = listen(s)?;
    let echo = echo(listener, 1);
    s.rvtest(
        Side::Guest,
        &format!(
            "echo-client --cid 2 --port {port} --connections 1 --bytes {bytes} --write-size 65536"
        ),
    )?
    .success(LONG)?;
    joined(echo)
}

/// A little there and back, for tests of something else.
pub fn little(s: &mut Session) -> Result<()> {
    let (port, listener) = listen(s)?;
    let echo = echo(listener, 1);
    s.rvtest(
        Side::Guest,
        &format!(
            "echo-client --cid 2 --port {port} --connections 1 --bytes 300000 --write-size 10007"
        ),
    )?
    .success(LONG)?;
    joined(echo)
}

/// The same the other way round.
pub fn from_host(s: &mut Session) -> Result<()> {
    much_from_host(s, MUCH)
}

fn much_from_host(s: &mut Session, much: u64) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    let (mut stream, _) = connect(s, port)?;
    let mut writer = stream.try_clone()?;
    let sender = thread::spawn(move || -> Result<()> {
        guest::stream::send_pattern(&mut writer, 7, much, 100_000)?;
        Ok(writer.shutdown(Shutdown::Write)?)
    });
    let (bytes, _) = guest::stream::receive_pattern(&mut stream, 7)?;
    joined(sender)?;
    ensure!(bytes == much, "{bytes} bytes of {much} came back");
    Ok(())
}

pub fn many_from_guest(s: &mut Session) -> Result<()> {
    at_once(s, 300_000)
}

fn at_once(s: &mut Session, bytes: u64) -> Result<()> {
    let (port, listener) = listen(s)?;
    let echo = echo(listener, 64);
    s.rvtest(
        Side::Guest,
        &format!(
            "echo-client --cid 2 --port {port} --connections 64 --bytes {bytes} --write-size 10007"
        ),
    )?
    .success(LONG)?;
    joined(echo)
}

/// All are open before the first echo.
pub fn many_from_host(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    guest::stream::raise_file_limit()?;
    let mut streams = Vec::new();
    for i in 0..2000 {
        let (stream, _) = connect(s, port).with_context(|| format!("connection {i}"))?;
        streams.push(stream);
    }
    for (i, stream) in streams.iter_mut().enumerate() {
        let message = i.to_le_bytes();
        let mut back = [0; 8];
        stream.write_all(&message)?;
        stream
            .read_exact(&mut back)
            .with_context(|| format!("the echo on connection {i}"))?;
        ensure!(message == back, "the echo on connection {i} differs");
    }
    Ok(())
}

pub fn nobody_listens(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let mut stream = UnixStream::connect(uds(s)?)?;
    stream.set_read_timeout(Some(allowed(AT_ONCE)))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let n = stream.read(&mut [0; 16]).context("no answer at all")?;
    ensure!(n == 0, "CONNECT to a port where nobody listens is answered");
    let text = s
        .rvtest(Side::Guest, &format!("connect --cid 2 --port {port}"))?
        .success(LONG)?;
    ensure!(
        text.contains("ECONNRESET"),
        "connect() gave something else than ECONNRESET: {text}"
    );
    Ok(())
}

pub fn reads_nothing(s: &mut Session) -> Result<()> {
    let (port, listener) = listen(s)?;
    let sender = s.rvtest(
        Side::Guest,
        &format!("send --cid 2 --port {port} --bytes {}", 8 << 20),
    )?;
    let (mut stream, _) = listener.accept()?;
    thread::sleep(Duration::from_millis(500));
    ensure!(
        !sender.text().contains("SENT"),
        "8 MiB went into the buffers of a program that reads nothing"
    );
    many_from_guest(s)?;
    stream.set_read_timeout(Some(allowed(STALL)))?;
    let (bytes, _) = guest::stream::receive_pattern(&mut stream, 0)?;
    ensure!(bytes == 8 << 20, "{bytes} bytes came");
    drop(stream);
    sender.success(LONG)?;
    Ok(())
}

/// A close of the host's socket is seen by a reader in the guest at once.
pub fn host_leaves(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let server = s.server(Side::Guest, &format!("wait-end-server --port {port}"))?;
    let (stream, _) = connect(s, port)?;
    thread::sleep(Duration::from_millis(100));
    drop(stream);
    let text = server.success(AT_ONCE)?;
    ensure!(text.contains("END"), "the guest saw no end: {text}");
    Ok(())
}

/// Its exit code is 0, and its sockets go with it.
pub fn ends(s: &mut Session) -> Result<()> {
    let path = uds(s)?;
    let device = s.vhost_user_device()?;
    device.ask_to_end()?;
    device.success(AT_ONCE)?;
    ensure!(!path.exists(), "{} is left behind", path.display());
    s.discard_guest();
    Ok(())
}
