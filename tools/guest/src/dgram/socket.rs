// SPDX-License-Identifier: GPL-2.0

//! Datagram sockets with everything that the calls can say.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use clap::Args;
use nix::{
    errno::Errno,
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::{
        socket::{
            self, getpeername, getsockname, getsockopt, setsockopt, sockopt, AddressFamily,
            ControlMessageOwned, MsgFlags, SockFlag, SockType, VsockAddr,
        },
        time::TimeVal,
    },
};

use crate::socket::time;

/// The greatest datagram in bytes (D2).
pub const LARGEST: usize = 64 << 10;
/// What does not come within this time does not come at all.
pub const STALL: Duration = Duration::from_secs(30);
const SIOCINQ: u64 = 0x541b;
const SIOCOUTQ: u64 = 0x5411;

nix::ioctl_read_bad!(siocinq, SIOCINQ, i32);
nix::ioctl_read_bad!(siocoutq, SIOCOUTQ, i32);

/// Where a datagram comes from or goes to.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    #[arg(long)]
    pub cid: u32,
    #[arg(long)]
    pub port: u32,
}

impl Address {
    /// On the host.
    pub const fn host(port: u32) -> Self {
        let cid = libc::VMADDR_CID_HOST;
        Self { cid, port }
    }

    /// On this machine, whichever CID it has.
    pub const fn own(port: u32) -> Self {
        let cid = libc::VMADDR_CID_ANY;
        Self { cid, port }
    }
}

impl From<Address> for VsockAddr {
    fn from(address: Address) -> Self {
        VsockAddr::new(address.cid, address.port)
    }
}

impl From<VsockAddr> for Address {
    fn from(address: VsockAddr) -> Self {
        Self {
            cid: address.cid(),
            port: address.port(),
        }
    }
}

/// A datagram socket.
pub struct Dgram(OwnedFd);

/// What recvmsg() gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub len: usize,
    pub from: Option<Address>,
    pub truncated: bool,
    /// `SO_RXQ_OVFL`: how many were dropped before it, if any were.
    pub drops: Option<u32>,
    /// `SO_TIMESTAMP`.
    pub time: Option<TimeVal>,
}

impl AsFd for Dgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dgram {
    /// What socket() gives.
    pub fn try_new() -> io::Result<Self> {
        Ok(Self(socket::socket(
            AddressFamily::Vsock,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?))
    }

    pub fn new() -> Result<Self> {
        Self::try_new().context("socket(SOCK_DGRAM)")
    }

    /// One that is bound to `port`, and whose calls do not wait for ever.
    pub fn bound(port: u32) -> Result<Self> {
        let socket = Self::new()?;
        socket
            .bind(Address::own(port))
            .with_context(|| format!("bind to port {port}"))?;
        socket.receive_timeout(STALL)?;
        socket.send_timeout(STALL)?;
        Ok(socket)
    }

    pub fn bind(&self, address: Address) -> io::Result<()> {
        Ok(socket::bind(self.0.as_raw_fd(), &VsockAddr::from(address))?)
    }

    pub fn connect(&self, peer: Address) -> io::Result<()> {
        Ok(socket::connect(self.0.as_raw_fd(), &VsockAddr::from(peer))?)
    }

    /// Forgets the peer.
    pub fn disconnect(&self) -> io::Result<()> {
        // SAFETY: A structure of numbers alone, for which zero is a value.
        let mut nobody: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        nobody.svm_family = libc::AF_UNSPEC as libc::sa_family_t;
        let len = size_of_val(&nobody) as libc::socklen_t;
        // SAFETY: The address lives through the call, and its size is told.
        let result = unsafe { libc::connect(self.0.as_raw_fd(), (&raw const nobody).cast(), len) };
        Errno::result(result)?;
        Ok(())
    }

    pub fn name(&self) -> io::Result<Address> {
        Ok(getsockname::<VsockAddr>(self.0.as_raw_fd())?.into())
    }

    pub fn peer(&self) -> io::Result<Address> {
        Ok(getpeername::<VsockAddr>(self.0.as_raw_fd())?.into())
    }

    pub fn send(&self, bytes: &[u8], flags: MsgFlags) -> io::Result<usize> {
        Ok(socket::send(
            self.0.as_raw_fd(),
            bytes,
            flags | MsgFlags::MSG_NOSIGNAL,
        )?)
    }

    pub fn send_to(&self, bytes: &[u8], to: Address, flags: MsgFlags) -> io::Result<usize> {
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        let to = VsockAddr::from(to);
        Ok(socket::sendto(self.0.as_raw_fd(), bytes, &to, flags)?)
    }

    pub fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> io::Result<Received> {
        let mut space = nix::cmsg_space!(u32, TimeVal);
        let mut parts = [IoSliceMut::new(buffer)];
        let got =
            socket::recvmsg::<VsockAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let (mut drops, mut time) = (None, None);
        for message in got.cmsgs()? {
            match message {
                ControlMessageOwned::RxqOvfl(count) => drops = Some(count),
                ControlMessageOwned::ScmTimestamp(at) => time = Some(at),
                other => return Err(io::Error::other(format!("an unexpected {other:?}"))),
            }
        }
        Ok(Received {
            len: got.bytes,
            from: got.address.map(Address::from),
            truncated: got.flags.contains(MsgFlags::MSG_TRUNC),
            drops,
            time,
        })
    }

    pub fn receive_timeout(&self, timeout: Duration) -> Result<()> {
        Ok(setsockopt(self, sockopt::ReceiveTimeout, &time(timeout))?)
    }

    pub fn send_timeout(&self, timeout: Duration) -> Result<()> {
        Ok(setsockopt(self, sockopt::SendTimeout, &time(timeout))?)
    }

    /// Gives the receive queue (`SO_RCVBUF`) so many bytes; the kernel doubles them.
    pub fn receive_buffer(&self, bytes: usize) -> Result<()> {
        Ok(setsockopt(self, sockopt::RcvBuf, &bytes)?)
    }

    /// The same, beyond what the unprivileged may have.
    pub fn wide_receive_buffer(&self, bytes: usize) -> Result<()> {
        Ok(setsockopt(self, sockopt::RcvBufForce, &bytes)?)
    }

    /// The same for what waits to be sent (`SO_SNDBUF`).
    pub fn send_buffer(&self, bytes: usize) -> Result<()> {
        Ok(setsockopt(self, sockopt::SndBuf, &bytes)?)
    }

    /// From now on datagrams come with how many were dropped, and when they came.
    pub fn tell_drops_and_time(&self) -> Result<()> {
        setsockopt(self, sockopt::RxqOvfl, &1)?;
        Ok(setsockopt(self, sockopt::ReceiveTimestamp, &true)?)
    }

    /// `SO_ERROR`.
    pub fn error(&self) -> Result<i32> {
        Ok(getsockopt(self, sockopt::SocketError)?)
    }

    /// `SIOCINQ`.
    pub fn unread(&self) -> Result<i32> {
        let mut bytes = 0;
        // SAFETY: The number lives through the call.
        unsafe { siocinq(self.0.as_raw_fd(), &raw mut bytes) }.context("SIOCINQ")?;
        Ok(bytes)
    }

    /// `SIOCOUTQ`.
    pub fn unsent(&self) -> Result<i32> {
        let mut bytes = 0;
        // SAFETY: The number lives through the call.
        unsafe { siocoutq(self.0.as_raw_fd(), &raw mut bytes) }.context("SIOCOUTQ")?;
        Ok(bytes)
    }

    pub fn shutdown(&self, how: socket::Shutdown) -> io::Result<()> {
        Ok(socket::shutdown(self.0.as_raw_fd(), how)?)
    }

    /// What poll() says of `events` within `timeout`.
    pub fn poll(&self, events: PollFlags, timeout: Duration) -> Result<PollFlags> {
        let mut fds = [PollFd::new(self.as_fd(), events)];
        poll(&mut fds, PollTimeout::try_from(timeout)?)?;
        Ok(fds[0].revents().unwrap_or(PollFlags::empty()))
    }

    /// Waits for a datagram that says `word`.
    pub fn hear(&self, word: &str) -> Result<Address> {
        let mut line = [0; 64];
        let got = self
            .receive(&mut line, MsgFlags::empty())
            .with_context(|| format!("waiting for {word:?}"))?;
        let heard = String::from_utf8_lossy(&line[..got.len]).into_owned();
        ensure!(heard == word, "the peer said {heard:?}, not {word:?}");
        got.from.context("a datagram without a sender")
    }
}
