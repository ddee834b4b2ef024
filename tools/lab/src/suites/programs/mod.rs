// SPDX-License-Identifier: GPL-2.0

//! Programs that people use, between the guest and the host: socat, ncat, SSH, Python, ss, tcpdump.

mod files;
mod monitor;
mod sockets;

pub use sockets::python_runs;

use std::{
    fs::File,
    io::{copy, Write},
    net::TcpListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};

use super::{Test, LONG};
use crate::{
    process::Process,
    session::{Session, Side},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "programs: socat carries a file of 64 MiB, host to guest",
        run: |s| files::socat(s, Side::Host),
    },
    Test {
        name: "programs: socat carries a file of 64 MiB, guest to host",
        run: |s| files::socat(s, Side::Guest),
    },
    Test {
        name: "programs: ncat --vsock, both directions, guest is client",
        run: |s| files::ncat(s, Side::Guest),
    },
    Test {
        name: "programs: ncat --vsock, both directions, host is client",
        run: |s| files::ncat(s, Side::Host),
    },
    Test {
        name: "programs: SSH into the guest through socat",
        run: files::ssh,
    },
    Test {
        name: "programs: Python's socket module on each socket type, guest to host",
        run: |s| sockets::python(s, Side::Guest),
    },
    Test {
        name: "programs: Python's socket module on each socket type, host to guest",
        run: |s| sockets::python(s, Side::Host),
    },
    Test {
        name: "programs: ss --vsock shows listeners and connections while they are there",
        run: sockets::ss,
    },
    Test {
        name: "programs: tcpdump on a vsockmon device captures and decodes every packet",
        run: monitor::vsockmon,
    },
];

/// Unpacks the programs into the guest, and into the host if that is a host VM.
pub fn unpack(s: &Session) -> Result<()> {
    let archive = &s.config.extras;
    if !Path::new("/usr/bin/ncat").exists() {
        sh(
            s,
            Side::Host,
            &format!("cd / && cpio -id < {}", archive.display()),
        )?;
    }
    unpack_in_guest(s)
}

/// Unpacks them into the guest alone.
pub fn unpack_in_guest(s: &Session) -> Result<()> {
    let archive = &s.config.extras;
    if s.guest_try("[ -e /etc/extras ]", LONG)?.0 == 0 {
        return Ok(());
    }
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let mut file =
        File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    thread::spawn(move || -> Result<()> {
        copy(&mut file, &mut listener.accept()?.0)?;
        Ok(())
    });
    sh(
        s,
        Side::Guest,
        &format!("cd / && nc 10.0.2.2 {port} < /dev/null | cpio -id"),
    )
    .context("unpacking programs in the guest")?;
    Ok(())
}

fn start(s: &Session, side: Side, script: &str) -> Result<Process> {
    s.spawn(side, &["sh", "-c", script])
}

/// Runs a shell command on one side; it must succeed.
fn sh(s: &Session, side: Side, script: &str) -> Result<String> {
    start(s, side, script)?.success(LONG)
}

/// Where a test keeps a file on one side.
fn place(s: &Session, side: Side, name: &str) -> String {
    match side {
        Side::Guest => format!("/tmp/{name}"),
        Side::Host => s.config.scratch.join(name).display().to_string(),
    }
}

/// A file on the host whose every block differs, and its checksum.
fn make_file(s: &Session, path: &str, bytes: usize) -> Result<String> {
    let mut file = File::create(path)?;
    let mut block = vec![0; 1 << 20];
    for offset in (0..bytes).step_by(block.len()) {
        guest::pattern::fill(&mut block, 7, offset as u64);
        file.write_all(&block)?;
    }
    checksum(s, Side::Host, path)
}

fn checksum(s: &Session, side: Side, path: &str) -> Result<String> {
    let text = sh(s, side, &format!("sha256sum < {path}"))?;
    Ok(text
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// What `ss --vsock` says on one side.
pub fn sockets(s: &Session, side: Side, options: &str) -> Result<String> {
    sh(s, side, &format!("/usr/bin/ss --vsock --numeric {options}"))
}

/// Waits for a server that does not say when it listens.
fn wait_for_listener(s: &Session, side: Side, port: u32, server: &Process) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let ending = format!(":{port}");
    while Instant::now() < deadline {
        let table = sockets(s, side, "--listening")?;
        if table.split_whitespace().any(|w| w.ends_with(&ending)) {
            return Ok(());
        }
        ensure!(!server.ended(), "the server ended: {}", server.text());
        thread::sleep(Duration::from_millis(50));
    }
    bail!("nobody listens on port {port} on the {side:?} side")
}
