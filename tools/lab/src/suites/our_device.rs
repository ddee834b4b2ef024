// SPDX-License-Identifier: GPL-2.0

//! Against the device of tools/device, in each of the profiles that it can offer.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{ensure, Context, Result};

use super::{Test, LONG};
use crate::{
    config::{Driver, VhostUser},
    session::{Session, Side, GUEST_CID},
};

/// One way to start the device, and the tests that run on it.
pub struct Setup {
    options: &'static [&'static str],
    queues: u8,
    /// The C driver knows the features that are offered.
    c_driver: bool,
    pub tests: &'static [Test],
}

macro_rules! test {
    ($setup:literal, $name:literal, $run:expr) => {
        Test {
            name: concat!("rvsock-device, ", $setup, ": ", $name),
            run: $run,
        }
    };
}

pub const SETUPS: &[Setup] = &[
    Setup {
        options: &["--features", "stream,seqpacket"],
        queues: 3,
        c_driver: true,
        tests: &[
            test!("three queues", "echo, guest to host", echo_from_guest),
            test!("three queues", "echo, host to guest", echo_from_host),
        ],
    },
    Setup {
        options: &["--features", "stream,seqpacket,dgram,mrg-rxbuf"],
        queues: 5,
        c_driver: false,
        tests: &[
            test!("five queues", "echo, guest to host", echo_from_guest),
            test!("five queues", "echo, host to guest", echo_from_host),
        ],
    },
];

/// Those that a driver can run.
pub fn tests(driver: Driver) -> Vec<&'static Test> {
    SETUPS
        .iter()
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

const CHUNK: usize = 64 << 10;
const COUNT: u64 = 40;
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

fn echo_from_guest(s: &mut Session) -> Result<()> {
    let (port, listener) = listen(s)?;
    thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let mut buffer = vec![0; CHUNK];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        }
    });
    let text = s
        .rvtest(
            Side::Guest,
            &format!("chunks --cid 2 --port {port} --size {CHUNK} --count {COUNT}"),
        )?
        .success(LONG)?;
    ensure!(
        text.contains(&format!("OK count={COUNT}")),
        "not every chunk came back: {text}"
    );
    Ok(())
}

fn echo_from_host(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    let mut stream = connect(s, port)?;
    let (mut message, mut back) = (vec![0; CHUNK], vec![0; CHUNK]);
    for chunk in 0..COUNT {
        guest::pattern::fill(&mut message, 1, chunk * CHUNK as u64);
        stream
            .write_all(&message)
            .with_context(|| format!("chunk {chunk}: write"))?;
        stream
            .read_exact(&mut back)
            .with_context(|| format!("chunk {chunk}: read"))?;
        ensure!(message == back, "chunk {chunk} came back changed");
    }
    Ok(())
}
