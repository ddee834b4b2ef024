// SPDX-License-Identifier: GPL-2.0

//! SOCK_SEQPACKET: a connection that keeps messages apart. The server sends each message back.
//!
//! `seqpacket server 1234` in one machine; `seqpacket client 3 1234` in another, which knows the first by CID 3.

use std::{
    env,
    error::Error,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::sys::socket::{
    accept, bind, connect, listen, recv, send, socket, AddressFamily, Backlog, MsgFlags, SockFlag,
    SockType, VsockAddr,
};
use vsock::VMADDR_CID_ANY;

const NONE: MsgFlags = MsgFlags::empty();

fn new() -> nix::Result<OwnedFd> {
    let (family, ty) = (AddressFamily::Vsock, SockType::SeqPacket);
    socket(family, ty, SockFlag::SOCK_CLOEXEC, None)
}

fn serve(port: u32) -> nix::Result<()> {
    let listener = new()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, port))?;
    listen(&listener, Backlog::new(16)?)?;
    println!("waiting on port {port}");
    let mut message = [0; 4096];
    loop {
        // SAFETY: The descriptor is new, and nobody else's.
        let client = unsafe { OwnedFd::from_raw_fd(accept(listener.as_raw_fd())?) };
        // One call reads one message; the end of what did not fit is lost. 0 is the end of the connection.
        while let Ok(length @ 1..) = recv(client.as_raw_fd(), &mut message, NONE) {
            println!("a message of {length} bytes");
            send(client.as_raw_fd(), &message[..length], NONE)?;
        }
    }
}

fn talk(cid: u32, port: u32) -> nix::Result<()> {
    let server = new()?;
    connect(server.as_raw_fd(), &VsockAddr::new(cid, port))?;
    for message in ["hello", "world"] {
        send(server.as_raw_fd(), message.as_bytes(), NONE)?;
    }
    let mut answer = [0; 4096];
    for _ in 0..2 {
        let length = recv(server.as_raw_fd(), &mut answer, NONE)?;
        println!("{}", String::from_utf8_lossy(&answer[..length]));
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", port] => serve(port.parse()?)?,
        ["client", cid, port] => talk(cid.parse()?, port.parse()?)?,
        _ => return Err("usage: seqpacket server PORT, or seqpacket client CID PORT".into()),
    }
    Ok(())
}
