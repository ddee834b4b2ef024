// SPDX-License-Identifier: GPL-2.0

//! Against an independent device in user space, the crate vhost-device-vsock: connections go to and come from unix sockets.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{ensure, Context, Result};

use super::{Test, LONG};
use crate::{
    config::{Hardware, VhostUser},
    images::Places,
    session::{Session, Side},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "vhost-device-vsock: echo with writes of 64 KiB, guest to host",
        run: guest_to_host,
    },
    Test {
        name: "vhost-device-vsock: echo with writes of 64 KiB, host to guest",
        run: host_to_guest,
    },
    Test {
        name: "vhost-device-vsock: MSG_ZEROCOPY with zerocopy=0 keeps packets in one piece",
        run: zerocopy_forbidden,
    },
    Test {
        name: "vhost-device-vsock: it has no SOCK_SEQPACKET, and connect() says so",
        run: no_messages,
    },
];

/// The program, and QEMU's part of it.
pub fn device(places: &Places) -> VhostUser {
    let program = places.vhost_device().to_string_lossy().into_owned();
    let arguments = "--guest-cid 3 --socket SOCKET-3 --uds-path UDS-3";
    VhostUser {
        command: std::iter::once(program)
            .chain(arguments.split(' ').map(str::to_owned))
            .collect(),
        qemu: "vhost-user-vsock-pci".into(),
        neighbour: None,
        parameters: String::new(),
        then: String::new(),
        hardware: Hardware::default(),
    }
}

const SIZE: usize = 64 << 10;
const COUNT: u32 = 40;

fn uds(s: &Session) -> Result<PathBuf> {
    s.config
        .vhost_user_uds()
        .context("this session has no vhost-user device")
}

/// Sends back what comes for a new port: the device looks for us under its path with the port's number.
fn echo_here(s: &mut Session) -> Result<u32> {
    let port = s.fresh_port();
    let path = PathBuf::from(format!("{}_{port}", uds(s)?.display()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    std::thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let mut buffer = vec![0; SIZE];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        }
    });
    Ok(port)
}

pub(super) fn guest_to_host(s: &mut Session) -> Result<()> {
    let port = echo_here(s)?;
    // The device does not forward a half-close, so the client counts instead of waiting for the end.
    let text = s
        .rvtest(
            Side::Guest,
            &format!(
                "chunks --cid {} --port {port} --size {SIZE} --count {COUNT}",
                Side::Host.cid()
            ),
        )?
        .success(LONG)?;
    ensure!(
        text.contains(&format!("OK count={COUNT}")),
        "not every chunk came back: {text}"
    );
    Ok(())
}

pub(super) fn host_to_guest(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let _server = s.server(Side::Guest, &format!("echo-server --port {port}"))?;
    let path = uds(s)?;
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("cannot connect to {}", path.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut answer = String::new();
    reader
        .read_line(&mut answer)
        .context("waiting for the device's OK")?;
    ensure!(
        answer.starts_with("OK "),
        "the device answered {answer:?} to CONNECT {port}"
    );
    let (mut message, mut back) = (vec![0; SIZE], vec![0; SIZE]);
    for chunk in 0..u64::from(COUNT) {
        guest::pattern::fill(&mut message, 1, chunk * SIZE as u64);
        stream
            .write_all(&message)
            .with_context(|| format!("chunk {chunk}: write"))?;
        reader
            .read_exact(&mut back)
            .with_context(|| format!("chunk {chunk}: read"))?;
        ensure!(message == back, "chunk {chunk} came back changed");
    }
    Ok(())
}

/// The device resets connections whose packets come in pieces: the administrator's word must be heard.
fn zerocopy_forbidden(s: &mut Session) -> Result<()> {
    const PARAMETER: &str = "/sys/module/rvsock/parameters/zerocopy";
    let port = echo_here(s)?;
    s.guest_sh(&format!("echo 0 > {PARAMETER}"))?;
    let outcome = s
        .rvtest(
            Side::Guest,
            &format!(
                "zerocopy chunks --cid {} --port {port} --size {SIZE} --count {COUNT}",
                Side::Host.cid()
            ),
        )?
        .success(LONG);
    s.guest_sh(&format!("echo 1 > {PARAMETER}"))?;
    let text = outcome?;
    let number = |name: &str| -> Option<u32> {
        text.split_whitespace()
            .find_map(|w| w.strip_prefix(name)?.parse().ok())
    };
    ensure!(
        number("count=") == Some(COUNT) && number("named=") == number("copied="),
        "not every call was copied: {text}"
    );
    Ok(())
}

pub(super) fn no_messages(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let text = s
        .rvtest(
            Side::Guest,
            &format!("messages connect --cid {} --port {port}", Side::Host.cid()),
        )?
        .success(LONG)?;
    ensure!(
        text.contains("CONNECT ESOCKTNOSUPPORT"),
        "connect() gave something else than ESOCKTNOSUPPORT: {text}"
    );
    Ok(())
}
