// SPDX-License-Identifier: GPL-2.0

//! Against the device of tools/device, in each of the profiles that it can offer.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{anyhow, ensure, Context, Result};

use super::{Test, AT_ONCE, LONG};
use crate::{
    config::{Driver, VhostUser},
    session::{Session, Side, GUEST_CID},
};

/// One way to start the device, and the tests that run on it.
pub struct Setup {
    pub(super) options: &'static [&'static str],
    pub(super) queues: u8,
    /// The C driver knows the features that are offered.
    pub(super) c_driver: bool,
    pub tests: &'static [Test],
}

macro_rules! tests {
    ($setup:literal: $($name:literal => $run:expr,)*) => {
        &[$(Test {
            name: concat!("rvsock-device, ", $setup, ": ", $name),
            run: $run,
        },)*]
    };
}

pub const SETUPS: &[Setup] = &[
    Setup {
        options: &["--features", "stream,seqpacket"],
        queues: 3,
        c_driver: true,
        tests: tests! { "three queues":
            "64 MiB from the guest and back, with half-closes" => streams_from_guest,
            "64 MiB from the host and back, with half-closes" => streams_from_host,
            "64 connections echo at once, from the guest" => many_from_guest,
            "2000 connections of the host's" => many_from_host,
            "nobody listens, on either side" => nobody_listens,
            "a program on the host that reads nothing stops nobody else" => reads_nothing,
            "the host's program is killed" => host_leaves,
            "the device ends when it is asked to" => ends,
        },
    },
    Setup {
        options: &["--features", "stream,seqpacket,dgram,mrg-rxbuf"],
        queues: 5,
        c_driver: false,
        tests: tests! { "five queues":
            "64 MiB from the guest and back, with half-closes" => streams_from_guest,
            "64 MiB from the host and back, with half-closes" => streams_from_host,
            "64 connections echo at once, from the guest" => many_from_guest,
            "2000 connections of the host's" => many_from_host,
            "nobody listens, on either side" => nobody_listens,
            "a program on the host that reads nothing stops nobody else" => reads_nothing,
            "the host's program is killed" => host_leaves,
            "the device ends when it is asked to" => ends,
        },
    },
    Setup {
        options: &[
            "--features",
            "none",
            "--event-idx",
            "off",
            "--indirect",
            "off",
        ],
        queues: 3,
        c_driver: true,
        tests: tests! { "no features":
            "64 MiB from the guest and back, with half-closes" => streams_from_guest,
            "64 MiB from the host and back, with half-closes" => streams_from_host,
        },
    },
];

/// Those that a driver can run.
pub fn tests(driver: Driver) -> Vec<&'static Test> {
    super::device_setups()
        .filter(|s| driver == Driver::Rvsock || s.c_driver)
        .flat_map(|s| s.tests)
        .collect()
}

impl Setup {
    pub fn device(&self, program: &Path) -> VhostUser {
        let mut command = vec![program.to_string_lossy().into_owned()];
        command.extend(
            [
                "--guest",
                &format!("cid={GUEST_CID},socket=SOCKET,uds=UDS"),
                "--control",
                "CONTROL",
            ]
            .iter()
            .chain(self.options)
            .map(|s| s.to_string()),
        );
        VhostUser {
            command,
            qemu: format!(
                "vhost-user-test-device-pci,id=vsock,virtio-id=19,num_vqs={},config_size=8,vq_size=256",
                self.queues
            ),
        }
    }
}

/// What goes over one connection in each direction.
const MUCH: u64 = 64 << 20;
/// A peer that stands still for so long has failed.
const STALL: Duration = Duration::from_secs(30);

fn uds(s: &Session) -> Result<PathBuf> {
    s.config
        .vhost_user_uds()
        .context("this session has no vhost-user device")
}

/// A socket of a program on the host that connections to a new port arrive at.
fn listen(s: &mut Session) -> Result<(u32, UnixListener)> {
    let port = s.fresh_port();
    let path = format!("{}_{port}", uds(s)?.display());
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {path}"))?;
    Ok((port, listener))
}

/// A connection to a port of the guest's.
fn connect(s: &Session, port: u32) -> Result<UnixStream> {
    let path = uds(s)?;
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("cannot connect to {}", path.display()))?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = String::new();
    // A reader of its own must not take what comes behind the line.
    BufReader::with_capacity(1, &stream)
        .read_line(&mut line)
        .context("waiting for the device's OK")?;
    ensure!(
        line.starts_with("OK "),
        "the device answered {line:?} to CONNECT {port}"
    );
    Ok(stream)
}

/// Sends back what comes, for so many connections, each until its end.
fn echo(listener: UnixListener, connections: usize) -> thread::JoinHandle<Result<()>> {
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
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = stream.read(&mut buffer).context("echo: read")?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n]).context("echo: write")?;
    }
}

fn joined<T>(thread: thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// The guest ends its half first, and must still get all that comes back.
fn streams_from_guest(s: &mut Session) -> Result<()> {
    let (port, listener) = listen(s)?;
    let echo = echo(listener, 1);
    s.rvtest(
        Side::Guest,
        &format!(
            "echo-client --cid 2 --port {port} --connections 1 --bytes {MUCH} --write-size 65536"
        ),
    )?
    .success(LONG)?;
    joined(echo)
}

/// A little there and back, for tests of something else.
pub fn echoes(s: &mut Session) -> Result<()> {
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
fn streams_from_host(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    let mut stream = connect(s, port)?;
    let mut writer = stream.try_clone()?;
    let sender = thread::spawn(move || -> Result<()> {
        guest::stream::send_pattern(&mut writer, 7, MUCH, 100_000)?;
        Ok(writer.shutdown(Shutdown::Write)?)
    });
    let (bytes, _) = guest::stream::receive_pattern(&mut stream, 7)?;
    joined(sender)?;
    ensure!(bytes == MUCH, "{bytes} bytes of {MUCH} came back");
    Ok(())
}

fn many_from_guest(s: &mut Session) -> Result<()> {
    let (port, listener) = listen(s)?;
    let echo = echo(listener, 64);
    s.rvtest(
        Side::Guest,
        &format!(
            "echo-client --cid 2 --port {port} --connections 64 --bytes 300000 --write-size 10007"
        ),
    )?
    .success(LONG)?;
    joined(echo)
}

/// All are open before the first echo.
fn many_from_host(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    guest::stream::raise_file_limit()?;
    let mut streams = Vec::new();
    for i in 0..2000 {
        streams.push(connect(s, port).with_context(|| format!("connection {i}"))?);
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

fn nobody_listens(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let mut stream = UnixStream::connect(uds(s)?)?;
    stream.set_read_timeout(Some(AT_ONCE))?;
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

fn reads_nothing(s: &mut Session) -> Result<()> {
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
    stream.set_read_timeout(Some(STALL))?;
    let (bytes, _) = guest::stream::receive_pattern(&mut stream, 0)?;
    ensure!(bytes == 8 << 20, "{bytes} bytes came");
    drop(stream);
    sender.success(LONG)?;
    Ok(())
}

/// A close of the host's socket is seen by a reader in the guest at once.
fn host_leaves(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let server = s.server(Side::Guest, &format!("wait-end-server --port {port}"))?;
    let stream = connect(s, port)?;
    thread::sleep(Duration::from_millis(100));
    drop(stream);
    let text = server.success(AT_ONCE)?;
    ensure!(text.contains("END"), "the guest saw no end: {text}");
    Ok(())
}

/// Its exit code is 0, and its sockets go with it.
fn ends(s: &mut Session) -> Result<()> {
    let path = uds(s)?;
    let device = s.vhost_user_device()?;
    device.ask_to_end()?;
    device.success(AT_ONCE)?;
    ensure!(!path.exists(), "{} is left behind", path.display());
    s.discard_guest();
    Ok(())
}
