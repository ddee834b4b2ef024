// SPDX-License-Identifier: GPL-2.0

//! A notify socket, as systemd's sd_notify() finds one: datagrams if there are, or else a connection.

use std::os::fd::AsRawFd;

use anyhow::{ensure, Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{
        bind, connect, recv, sendto, shutdown, socket, AddressFamily, MsgFlags, Shutdown, SockFlag,
        SockType, VsockAddr,
    },
};

use super::socket::Address;

const MESSAGE: &[u8] = b"READY=1";

/// Sends the message to `peer`, and says by which type of socket.
///
/// The steps and the errors at which the next type is tried are those of `pid_notify_with_fds_internal()` in
/// systemd's sd-daemon.c. It trusts socket(): with a SOCK_DGRAM that exists and carries nothing a machine would
/// never be seen to be ready.
pub fn ready(peer: Address) -> Result<()> {
    let new = |ty| socket(AddressFamily::Vsock, ty, SockFlag::SOCK_CLOEXEC, None);
    let unsupported = |e: Errno| {
        matches!(
            e,
            Errno::EOPNOTSUPP
                | Errno::ENOTTY
                | Errno::ENOSYS
                | Errno::EAFNOSUPPORT
                | Errno::EPFNOSUPPORT
                | Errno::EPROTONOSUPPORT
                | Errno::ESOCKTNOSUPPORT
                | Errno::ENOPROTOOPT
        )
    };
    let (mut ty, mut fd) = (SockType::Datagram, new(SockType::Datagram));
    if matches!(fd, Err(e) if unsupported(e) || e == Errno::ENODEV) {
        (ty, fd) = (SockType::SeqPacket, new(SockType::SeqPacket));
        if matches!(fd, Err(e) if unsupported(e)) {
            (ty, fd) = (SockType::Stream, new(SockType::Stream));
        }
    }
    let fd = fd.with_context(|| format!("socket({ty:?})"))?;
    // From a port that only the privileged have.
    let picked = (1..1024).rev().find(|port| {
        let own = VsockAddr::new(libc::VMADDR_CID_ANY, *port);
        bind(fd.as_raw_fd(), &own) != Err(Errno::EADDRINUSE)
    });
    ensure!(picked.is_some(), "no privileged port is free");
    let peer = VsockAddr::from(peer);
    let sent = if ty == SockType::Datagram {
        sendto(fd.as_raw_fd(), MESSAGE, &peer, MsgFlags::MSG_NOSIGNAL)?
    } else {
        connect(fd.as_raw_fd(), &peer).context("connect")?;
        let sent = nix::sys::socket::send(fd.as_raw_fd(), MESSAGE, MsgFlags::MSG_NOSIGNAL)?;
        // The end of the connection is the end of the message.
        shutdown(fd.as_raw_fd(), Shutdown::Write)?;
        ensure!(
            recv(fd.as_raw_fd(), &mut [0], MsgFlags::empty())? == 0,
            "the manager said something"
        );
        sent
    };
    ensure!(sent == MESSAGE.len(), "{sent} bytes were sent");
    println!("NOTIFIED {ty:?}");
    Ok(())
}
