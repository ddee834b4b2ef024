// SPDX-License-Identifier: GPL-2.0

//! Virtio sockets of either type with everything that the calls can say: flags, timeouts, buffers.

use std::{
    fmt::Debug,
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use clap::{Args, ValueEnum};
use nix::{
    errno::Errno,
    fcntl::{fcntl, FcntlArg, OFlag},
    getsockopt_impl,
    poll::{poll, PollFd, PollFlags, PollTimeout},
    setsockopt_impl, sockopt_impl,
    sys::{
        socket::{
            self, getsockopt, setsockopt, sockopt, AddressFamily, Backlog, MsgFlags, SetSockOpt,
            SockFlag, SockType, VsockAddr,
        },
        time::TimeVal,
    },
};

use crate::unix;

pub const SO_VM_SOCKETS_BUFFER_SIZE: i32 = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: i32 = 2;
const SO_VM_SOCKETS_CONNECT_TIMEOUT: i32 = 6;

sockopt_impl!(
    BufferSize,
    Both,
    libc::AF_VSOCK,
    SO_VM_SOCKETS_BUFFER_SIZE,
    u64
);
sockopt_impl!(
    BufferMaxSize,
    SetOnly,
    libc::AF_VSOCK,
    SO_VM_SOCKETS_BUFFER_MAX_SIZE,
    u64
);
sockopt_impl!(
    /// How long connect() waits for an answer.
    ConnectTimeout,
    SetOnly,
    libc::AF_VSOCK,
    SO_VM_SOCKETS_CONNECT_TIMEOUT,
    TimeVal
);
sockopt_impl!(
    ReceiveLowat,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    i32
);
sockopt_impl!(Priority, SetOnly, libc::SOL_SOCKET, libc::SO_PRIORITY, i32);
sockopt_impl!(ZeroCopy, SetOnly, libc::SOL_SOCKET, libc::SO_ZEROCOPY, bool);

nix::ioctl_read_bad!(siocinq, libc::FIONREAD, i32);

/// What nix has no name for.
pub const MSG_ZEROCOPY: MsgFlags = MsgFlags::from_bits_retain(libc::MSG_ZEROCOPY);

/// What af_vsock gives a socket that asks for nothing.
pub const DEFAULT_BUFFER: u64 = 256 << 10;

/// A connection that stops answering for this long has failed.
const STALL: Duration = Duration::from_secs(60);

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Stream,
    Seqpacket,
}

impl Kind {
    fn socket_type(self) -> SockType {
        match self {
            Kind::Stream => SockType::Stream,
            Kind::Seqpacket => SockType::SeqPacket,
        }
    }
}

/// Where the one who connects finds the other. The port after it is for what the two tell each other.
#[derive(Args, Clone, Copy, Debug)]
pub struct Peer {
    #[arg(long)]
    pub cid: u32,
    #[arg(long)]
    pub port: u32,
}

/// By what the kernel's classifiers know a socket.
#[derive(Args, Clone, Copy, Debug)]
pub struct Class {
    /// SO_PRIORITY
    #[arg(long)]
    priority: Option<i32>,
    /// SO_MARK
    #[arg(long)]
    mark: Option<u32>,
}

impl Class {
    /// Gives it to a socket.
    pub fn give(self, socket: &impl AsFd) -> Result<()> {
        if let Some(priority) = &self.priority {
            setsockopt(socket, Priority, priority).context("setsockopt(SO_PRIORITY)")?;
        }
        if let Some(mark) = &self.mark {
            setsockopt(socket, sockopt::Mark, mark).context("setsockopt(SO_MARK)")?;
        }
        Ok(())
    }
}

/// A virtio socket.
pub struct Socket(OwnedFd);

/// What recvmsg() gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub len: usize,
    /// With `MSG_EOR` or `MSG_TRUNC`.
    pub flags: MsgFlags,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.0
    }
}

/// A duration as socket options have it.
pub fn time(duration: Duration) -> TimeVal {
    TimeVal::new(duration.as_secs() as i64, duration.subsec_micros().into())
}

impl Socket {
    /// A new socket with a buffer of that size.
    pub fn new(kind: Kind, buffer: u64) -> Result<Self> {
        let socket = Self::plain(kind)?;
        socket.set_vsock(BufferMaxSize, buffer)?;
        socket.set_vsock(BufferSize, buffer)?;
        Ok(socket)
    }

    /// A new socket, of which nothing but patience is asked: what it costs to connect is measured elsewhere.
    pub fn plain(kind: Kind) -> Result<Self> {
        if unix::uds().is_some() {
            return Ok(Self(unix::new(kind.socket_type())?));
        }
        let (family, ty) = (AddressFamily::Vsock, kind.socket_type());
        let socket = socket::socket(family, ty, SockFlag::SOCK_CLOEXEC, None)
            .map(Self)
            .with_context(|| format!("socket() of {kind:?}"))?;
        socket.connect_timeout(STALL)?;
        Ok(socket)
    }

    /// Sets an option of af_vsock's. The device has a buffer of its own, of whatever size.
    fn set_vsock<O>(&self, option: O, value: O::Val) -> Result<()>
    where
        O: SetSockOpt<Val: Debug + Sized> + Copy + Debug,
    {
        if unix::uds().is_some() {
            return Ok(());
        }
        setsockopt(self, option, &value)
            .with_context(|| format!("setsockopt({option:?}, {value:?})"))
    }

    /// From now on calls may have `MSG_ZEROCOPY`.
    pub fn allow_zerocopy(&self) -> Result<()> {
        setsockopt(self, ZeroCopy, &true).context("setsockopt(SO_ZEROCOPY)")
    }

    /// The size of its buffer.
    pub fn buffer(&self) -> Result<u64> {
        getsockopt(self, BufferSize).context("getsockopt(SO_VM_SOCKETS_BUFFER_SIZE)")
    }

    pub fn receive_timeout(&self, timeout: Duration) -> Result<()> {
        Ok(setsockopt(self, sockopt::ReceiveTimeout, &time(timeout))?)
    }

    pub fn send_timeout(&self, timeout: Duration) -> Result<()> {
        Ok(setsockopt(self, sockopt::SendTimeout, &time(timeout))?)
    }

    /// How long connect() waits for an answer.
    pub fn connect_timeout(&self, timeout: Duration) -> Result<()> {
        self.set_vsock(ConnectTimeout, time(timeout))
    }

    /// How many bytes poll() and recv() wait for.
    pub fn set_lowat(&self, bytes: i32) -> Result<()> {
        setsockopt(self, ReceiveLowat, &bytes).context("setsockopt(SO_RCVLOWAT)")
    }

    /// How many bytes there are to read.
    pub fn unread(&self) -> Result<i32> {
        let mut unread = 0;
        // SAFETY: The number lives through the call.
        unsafe { siocinq(self.as_raw_fd(), &raw mut unread) }.context("ioctl(SIOCINQ)")?;
        Ok(unread)
    }

    /// What connect() gives.
    pub fn try_connect(&self, peer: Peer) -> io::Result<()> {
        if unix::uds().is_some() {
            unix::ask(self, peer.port)?;
            return unix::answer(self);
        }
        let address = VsockAddr::new(peer.cid, peer.port);
        Ok(socket::connect(self.as_raw_fd(), &address)?)
    }

    /// A connection to `peer`.
    pub fn connected(kind: Kind, buffer: u64, peer: Peer) -> Result<Self> {
        Self::new(kind, buffer)?.connect(peer)
    }

    /// Connects to `peer`.
    pub fn connect(self, peer: Peer) -> Result<Self> {
        self.try_connect(peer)
            .with_context(|| format!("connect to CID {} port {}", peer.cid, peer.port))?;
        self.receive_timeout(STALL)?;
        self.send_timeout(STALL)?;
        Ok(self)
    }

    /// Begins to connect to `peer`; [`connected_by_now`](Self::connected_by_now) waits for the end.
    pub fn connecting(kind: Kind, peer: Peer) -> Result<Self> {
        let socket = Self::plain(kind)?;
        if unix::uds().is_some() {
            unix::ask(&socket, peer.port).context("connect")?;
            return Ok(socket);
        }
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        match socket.try_connect(peer) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e).context("connect"),
            _ => Ok(socket),
        }
    }

    /// Waits until it is connected; from then on its calls wait, too.
    pub fn connected_by_now(self) -> Result<Self> {
        ensure!(
            !self.poll(PollFlags::POLLOUT, STALL)?.is_empty(),
            "connect() has not ended"
        );
        match getsockopt(&self, sockopt::SocketError)? {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)).context("connect"),
        }
        if unix::uds().is_some() {
            unix::answer(&self).context("connect")?;
        }
        fcntl(&self, FcntlArg::F_SETFL(OFlag::empty()))?;
        self.receive_timeout(STALL)?;
        self.send_timeout(STALL)?;
        Ok(self)
    }

    /// A new socket that is bound to `port`.
    pub fn bound(kind: Kind, port: u32) -> Result<Self> {
        let socket = Self::plain(kind)?;
        socket.bind(port)?;
        Ok(socket)
    }

    fn bind(&self, port: u32) -> Result<()> {
        if unix::uds().is_some() {
            return unix::bind_to(self, port).with_context(|| format!("bind to port {port}"));
        }
        let address = VsockAddr::new(libc::VMADDR_CID_ANY, port);
        socket::bind(self.as_raw_fd(), &address).with_context(|| format!("bind to port {port}"))
    }

    /// A listener; what it accepts inherits its buffer.
    pub fn listening(kind: Kind, buffer: u64, port: u32) -> Result<Self> {
        let socket = Self::new(kind, buffer)?;
        socket.bind(port)?;
        socket.listen(4096)?;
        Ok(socket)
    }

    /// Listens, for `backlog` connections at a time.
    pub fn listen(&self, backlog: i32) -> Result<()> {
        socket::listen(self, Backlog::new(backlog)?).context("listen")
    }

    pub fn accept(&self) -> Result<Self> {
        let fd = socket::accept4(self.as_raw_fd(), SockFlag::SOCK_CLOEXEC).context("accept")?;
        // SAFETY: The descriptor is new, and nobody else's.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.receive_timeout(STALL)?;
        socket.send_timeout(STALL)?;
        Ok(socket)
    }

    pub fn send(&self, bytes: &[u8], flags: MsgFlags) -> io::Result<usize> {
        Ok(socket::send(
            self.as_raw_fd(),
            bytes,
            flags | MsgFlags::MSG_NOSIGNAL,
        )?)
    }

    pub fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> io::Result<Received> {
        let mut parts = [IoSliceMut::new(buffer)];
        let got = socket::recvmsg::<()>(self.as_raw_fd(), &mut parts, None, flags)?;
        Ok(Received {
            len: got.bytes,
            flags: got.flags,
        })
    }

    /// Receives into memory that need not be there.
    ///
    /// # Safety
    ///
    /// What is there of it must be writable, and nobody else's.
    pub unsafe fn receive_at(
        &self,
        at: *mut u8,
        len: usize,
        flags: MsgFlags,
    ) -> io::Result<Received> {
        let mut iov = libc::iovec {
            iov_base: at.cast(),
            iov_len: len,
        };
        // SAFETY: A structure of numbers and pointers, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        // SAFETY: All that the message points to lives through the call; the memory by the caller.
        let len = unsafe { libc::recvmsg(self.as_raw_fd(), &raw mut message, flags.bits()) };
        Ok(Received {
            len: Errno::result(len)? as usize,
            flags: MsgFlags::from_bits_retain(message.msg_flags),
        })
    }

    /// What poll() says of `events` within `timeout`.
    pub fn poll(&self, events: PollFlags, timeout: Duration) -> Result<PollFlags> {
        let mut fds = [PollFd::new(self.as_fd(), events)];
        poll(&mut fds, PollTimeout::try_from(timeout)?)?;
        Ok(fds[0].revents().unwrap_or(PollFlags::empty()))
    }

    /// Sends a word to the other end, for its [`hear`](Self::hear).
    pub fn say(&self, word: &str) -> Result<()> {
        let line = format!("{word:<8}");
        ensure!(line.len() == 8, "{word:?} is too long a word");
        let sent = self.send(line.as_bytes(), MsgFlags::empty())?;
        ensure!(sent == 8, "{sent} bytes of {word:?} were sent");
        Ok(())
    }

    /// Waits for a word of the other end.
    pub fn word(&self) -> Result<String> {
        let mut line = [0; 8];
        let got = self.receive(&mut line, MsgFlags::MSG_WAITALL)?;
        Ok(String::from_utf8_lossy(&line[..got.len]).trim().to_owned())
    }

    /// Waits for a word of the other end; it must be `word`.
    pub fn hear(&self, word: &str) -> Result<()> {
        let heard = self
            .word()
            .with_context(|| format!("waiting for the peer's {word:?}"))?;
        ensure!(heard == word, "the peer said {heard:?}, not {word:?}");
        Ok(())
    }
}

/// A connection, and one beside it for what the two ends tell each other.
pub struct Pair {
    pub data: Socket,
    pub control: Socket,
}

impl Pair {
    pub fn connect(kind: Kind, buffer: u64, peer: Peer) -> Result<Self> {
        let control = Peer {
            port: peer.port + 1,
            ..peer
        };
        Ok(Self {
            data: Socket::connected(kind, buffer, peer)?,
            control: Socket::connected(Kind::Stream, DEFAULT_BUFFER, control)?,
        })
    }

    pub fn accept(kind: Kind, buffer: u64, port: u32) -> Result<Self> {
        let data = Socket::listening(kind, buffer, port)?;
        let control = Socket::listening(Kind::Stream, DEFAULT_BUFFER, port + 1)?;
        println!("READY {port}");
        Ok(Self {
            data: data.accept()?,
            control: control.accept()?,
        })
    }
}
