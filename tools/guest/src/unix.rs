// SPDX-License-Identifier: GPL-2.0

//! The host's side of a device in user space: its programs speak unix sockets, and greet the device for a connection.
//!
//! With the device's path in the environment every socket here is such a socket, so that the same peers work there.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    sys::socket::{
        bind, connect, getsockopt, recv, send, socket, sockopt, AddressFamily, MsgFlags, SockFlag,
        SockType, UnixAddr,
    },
};
use vsock::VsockStream;

/// The name of the variable that says where the device's socket is.
pub const VARIABLE: &str = "RVTEST_UDS";

/// The longest answer to a greeting.
const LINE: usize = 32;

/// The path of the device's socket, where there is one.
pub fn uds() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

fn named(suffix: &str) -> io::Result<UnixAddr> {
    let mut path = uds().unwrap_or_default().into_os_string();
    path.push(suffix);
    Ok(UnixAddr::new(path.as_os_str())?)
}

/// A new socket of this type.
pub fn new(ty: SockType) -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        ty,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// Asks the device for a connection to this port of the guest's.
pub fn ask(fd: &impl AsFd, port: u32) -> io::Result<()> {
    let messages = getsockopt(&fd.as_fd(), sockopt::SockType)? == SockType::SeqPacket;
    let (suffix, end) = if messages {
        (".seqpacket", "")
    } else {
        ("", "\n")
    };
    let raw = fd.as_fd().as_raw_fd();
    connect(raw, &named(suffix)?)?;
    let line = format!("CONNECT {port}{end}");
    match send(raw, line.as_bytes(), MsgFlags::MSG_NOSIGNAL) {
        Err(Errno::EPIPE) => Err(Errno::ECONNRESET.into()),
        sent => Ok(sent.map(drop)?),
    }
}

/// Waits for the device's word that the guest has accepted.
///
/// # Errors
///
/// ECONNRESET when it has not.
pub fn answer(fd: &impl AsFd) -> io::Result<()> {
    let messages = getsockopt(&fd.as_fd(), sockopt::SockType)? == SockType::SeqPacket;
    let mut line = [0; LINE];
    let mut have = 0;
    // Of a stream nothing behind the line may be taken.
    while have < LINE && !line[..have].ends_with(b"\n") {
        let room = if messages { LINE } else { have + 1 };
        match recv(
            fd.as_fd().as_raw_fd(),
            &mut line[have..room],
            MsgFlags::empty(),
        ) {
            Ok(0) => return Err(Errno::ECONNRESET.into()),
            Ok(n) => have += n,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        if messages {
            break;
        }
    }
    if line.starts_with(b"OK ") {
        Ok(())
    } else {
        Err(Errno::EPROTO.into())
    }
}

/// Binds to where connections to this port arrive.
pub fn bind_to(fd: &impl AsFd, port: u32) -> io::Result<()> {
    let address = named(&format!("_{port}"))?;
    if let Some(path) = address.path() {
        let _ = std::fs::remove_file(path);
    }
    Ok(bind(fd.as_fd().as_raw_fd(), &address)?)
}

/// A stream to that port, over whichever kind of socket.
pub fn stream(cid: u32, port: u32) -> io::Result<VsockStream> {
    if uds().is_none() {
        return VsockStream::connect_with_cid_port(cid, port);
    }
    let fd = new(SockType::Stream)?;
    ask(&fd, port)?;
    answer(&fd)?;
    Ok(fd.into())
}
