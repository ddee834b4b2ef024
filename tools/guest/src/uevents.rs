// SPDX-License-Identifier: GPL-2.0

//! Events of the kernel, as udev gets them.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sys::socket::{
    bind, recv, socket, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};

/// The multicast group in which the kernel sends them.
const FROM_KERNEL: u32 = 1;

/// Prints each in a line, with its variables in their order.
pub fn print() -> Result<()> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )
    .context("a socket for events")?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, FROM_KERNEL)).context("events of the kernel")?;
    println!("READY");
    let mut buffer = [0; 8192];
    loop {
        let len = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("an event")?;
        let words = buffer[..len].split(|b| *b == 0).filter(|w| !w.is_empty());
        let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
        println!("EVENT {}", words.join(" "));
    }
}
