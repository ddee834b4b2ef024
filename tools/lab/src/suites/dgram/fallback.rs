// SPDX-License-Identifier: GPL-2.0

//! A device without datagrams, the kernel's vhost-vsock: what programs do that would like to have them.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use nix::sys::{
    socket::{
        accept, bind, getpeername, listen, recv, setsockopt, socket, sockopt, AddressFamily,
        Backlog, MsgFlags, SockFlag, SockType, VsockAddr,
    },
    time::TimeVal,
};

use crate::{
    session::{Session, Side, GUEST_CID},
    suites::LONG,
};

/// SOCK_SEQPACKET is what sd_notify() tries next.
pub fn notify(s: &mut Session) -> Result<()> {
    let port = s.fresh_port();
    let patient = |fd: OwnedFd| -> Result<OwnedFd> {
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(30, 0))?;
        Ok(fd)
    };
    let (family, ty) = (AddressFamily::Vsock, SockType::SeqPacket);
    let listener = patient(socket(family, ty, SockFlag::SOCK_CLOEXEC, None)?)?;
    let any = VsockAddr::new(libc::VMADDR_CID_ANY, port);
    bind(listener.as_raw_fd(), &any).with_context(|| format!("cannot bind to port {port}"))?;
    listen(&listener, Backlog::new(1)?)?;

    let command = format!("dgram notify --cid 2 --port {port}");
    let client = s.rvtest(Side::Guest, &command)?;
    let fd = accept(listener.as_raw_fd()).with_context(|| client.text())?;
    // SAFETY: The descriptor is new, and nobody else's.
    let connection = patient(unsafe { OwnedFd::from_raw_fd(fd) })?;
    let from: VsockAddr = getpeername(connection.as_raw_fd())?;
    ensure!(
        from.cid() == GUEST_CID && from.port() < 1024,
        "it comes from {from}, which is no privileged port of the guest's"
    );
    let mut buffer = [0; 64];
    let mut receive = || recv(connection.as_raw_fd(), &mut buffer, MsgFlags::empty());
    let length = receive().context("the message")?;
    let rest = receive().context("the end")?;
    drop(connection);
    let text = client.success(LONG)?;
    ensure!(text.trim() == "NOTIFIED SeqPacket", "it said {text:?}");
    ensure!(
        buffer[..length] == *b"READY=1" && rest == 0,
        "{:?} came, and {rest} bytes after it",
        String::from_utf8_lossy(&buffer[..length])
    );
    Ok(())
}
