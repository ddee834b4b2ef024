// SPDX-License-Identifier: GPL-2.0

//! Small questions: what does connect() say and how fast, when does a connection end and how.

use std::{
    io::{self, Read},
    os::fd::AsRawFd,
    time::Instant,
};

use anyhow::{Context, Result};
use nix::sys::{
    socket::{setsockopt, socket, AddressFamily, SockFlag, SockType, VsockAddr},
    time::TimeVal,
};
use vsock::VsockStream;

use crate::{
    errno::errno_name,
    socket::{ConnectTimeout, Kind, Peer, Socket},
    stream, unix,
};

/// As connect(), for a peer that does not answer: it waits longer than the kernel would by itself.
fn connect_patiently(cid: u32, port: u32, seconds: u64) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, ConnectTimeout, &TimeVal::new(seconds as i64, 0))?;
    Ok(nix::sys::socket::connect(
        socket.as_raw_fd(),
        &VsockAddr::new(cid, port),
    )?)
}

/// Prints what connect() gave and after how many milliseconds; with patience also when it is about to be called.
pub fn connect(cid: u32, port: u32, patience: Option<u64>) -> Result<()> {
    let start = Instant::now();
    let outcome = match patience {
        Some(seconds) => {
            println!("CONNECTING");
            connect_patiently(cid, port, seconds)
        }
        None => unix::stream(cid, port).map(drop),
    };
    let outcome = match outcome {
        Ok(()) => "ok".into(),
        Err(e) => errno_name(&e),
    };
    println!(
        "CONNECT {outcome} {:.1}",
        start.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

/// Reads until the connection ends, and prints how it ended.
fn wait_end(mut stream: VsockStream) {
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return println!("END eof"),
            Ok(_) => continue,
            Err(e) => return println!("END {}", errno_name(&e)),
        }
    }
}

pub fn wait_end_client(cid: u32, port: u32) -> Result<()> {
    let stream = stream::connect(cid, port)?;
    // The end may be long in coming.
    stream.set_read_timeout(None)?;
    println!("CONNECTED");
    wait_end(stream);
    Ok(())
}

pub fn wait_end_server(port: u32) -> Result<()> {
    let (stream, _) = stream::listen(port)?.accept().context("accept")?;
    println!("ACCEPTED");
    wait_end(stream);
    Ok(())
}

/// Prints the CID that this machine has.
pub fn local_cid() -> Result<()> {
    println!("CID {}", vsock::get_local_cid().context("the local CID")?);
    Ok(())
}

/// Prints the size of the buffer of a socket that asks for `buffer`, before and after it is connected.
pub fn buffer_size(peer: Peer, buffer: u64) -> Result<()> {
    let socket = Socket::new(Kind::Stream, buffer)?;
    let before = socket.buffer()?;
    socket
        .try_connect(peer)
        .with_context(|| format!("connect to CID {} port {}", peer.cid, peer.port))?;
    println!("BUFFER {before} {}", socket.buffer()?);
    Ok(())
}
