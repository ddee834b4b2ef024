// SPDX-License-Identifier: GPL-2.0

//! SOCK_DGRAM: messages without a connection, which may be lost. The server sends each back to its sender.
//!
//! `dgram server 1234` in one machine; `dgram client 3 1234` in another, which knows the first by CID 3. Without a
//! device that has datagrams (Documentation/datagrams.rst) both fail with ENODEV.

use std::{
    env,
    error::Error,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            bind, connect, recv, recvfrom, send, sendto, setsockopt, socket, sockopt,
            AddressFamily, MsgFlags, SockFlag, SockType, VsockAddr,
        },
        time::TimeVal,
    },
};
use vsock::VMADDR_CID_ANY;

const NONE: MsgFlags = MsgFlags::empty();

fn new() -> nix::Result<OwnedFd> {
    let (family, ty) = (AddressFamily::Vsock, SockType::Datagram);
    socket(family, ty, SockFlag::SOCK_CLOEXEC, None)
}

fn serve(port: u32) -> nix::Result<()> {
    let socket = new()?;
    bind(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, port))?;
    println!("waiting on port {port}");
    // None is longer.
    let mut message = vec![0; 65536];
    loop {
        let (length, from) = recvfrom::<VsockAddr>(socket.as_raw_fd(), &mut message)?;
        if let Some(from) = from {
            println!("{length} bytes from {from}");
            sendto(socket.as_raw_fd(), &message[..length], &from, NONE)?;
        }
    }
}

fn talk(cid: u32, port: u32) -> nix::Result<()> {
    let socket = new()?;
    // It hears this peer only, and is told (ECONNREFUSED) if nobody is there.
    connect(socket.as_raw_fd(), &VsockAddr::new(cid, port))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    let mut answer = vec![0; 65536];
    for _ in 0..5 {
        send(socket.as_raw_fd(), b"hello, world", NONE)?;
        match recv(socket.as_raw_fd(), &mut answer, NONE) {
            Err(Errno::EAGAIN) => println!("no answer within a second: once more"),
            length => {
                println!("{}", String::from_utf8_lossy(&answer[..length?]));
                return Ok(());
            }
        }
    }
    Err(Errno::ETIMEDOUT)
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", port] => serve(port.parse()?)?,
        ["client", cid, port] => talk(cid.parse()?, port.parse()?)?,
        _ => return Err("usage: dgram server PORT, or dgram client CID PORT".into()),
    }
    Ok(())
}
