// SPDX-License-Identifier: GPL-2.0

//! Virtio sockets of either type with everything that the calls can say: flags, timeouts, buffers.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use clap::{Args, ValueEnum};
use nix::{
    errno::Errno,
    fcntl::{fcntl, FcntlArg, OFlag},
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::{
        socket::{getsockopt, setsockopt, sockopt, SockType},
        time::TimeVal,
    },
};

use crate::unix;

pub const SO_VM_SOCKETS_BUFFER_SIZE: i32 = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: i32 = 2;
const SO_VM_SOCKETS_CONNECT_TIMEOUT: i32 = 6;

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

/// A virtio socket.
pub struct Socket(OwnedFd);

/// What recvmsg() gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub len: usize,
    /// With `MSG_EOR` or `MSG_TRUNC`.
    pub flags: i32,
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

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: A structure of numbers alone, for which zero is a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

impl Socket {
    /// A new socket with a buffer of that size.
    pub fn new(kind: Kind, buffer: u64) -> Result<Self> {
        let socket = Self::plain(kind)?;
        for name in [SO_VM_SOCKETS_BUFFER_MAX_SIZE, SO_VM_SOCKETS_BUFFER_SIZE] {
            socket.set(libc::AF_VSOCK, name, buffer)?;
        }
        Ok(socket)
    }

    /// A new socket, of which nothing but patience is asked: what it costs to connect is measured elsewhere.
    pub fn plain(kind: Kind) -> Result<Self> {
        if unix::uds().is_some() {
            return Ok(Self(unix::new(kind.socket_type())?));
        }
        let ty = kind.socket_type() as i32;
        // SAFETY: The call takes numbers alone and gives a new descriptor.
        let fd = Errno::result(unsafe { libc::socket(libc::AF_VSOCK, ty | libc::SOCK_CLOEXEC, 0) })
            .with_context(|| format!("socket() of {kind:?}"))?;
        // SAFETY: The descriptor is new, and nobody else's.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let patience = libc::timeval {
            tv_sec: STALL.as_secs() as i64,
            tv_usec: 0,
        };
        socket.set(libc::AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, patience)?;
        Ok(socket)
    }

    /// Sets an option whose value is a number, of the size that the option has.
    fn set<T: Copy + std::fmt::Debug>(&self, level: i32, name: i32, value: T) -> Result<()> {
        // The device has a buffer of its own, of whatever size.
        if level == libc::AF_VSOCK && unix::uds().is_some() {
            return Ok(());
        }
        // SAFETY: The value lives through the call, and its size is told.
        let result = unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        Errno::result(result).with_context(|| format!("setsockopt({level}, {name}, {value:?})"))?;
        Ok(())
    }

    /// From now on calls may have `MSG_ZEROCOPY`.
    pub fn allow_zerocopy(&self) -> Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)
    }

    /// The size of its buffer.
    pub fn buffer(&self) -> Result<u64> {
        let (mut value, mut len) = (0u64, size_of::<u64>() as libc::socklen_t);
        // SAFETY: The value lives through the call, and its size is told.
        let result = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::AF_VSOCK,
                SO_VM_SOCKETS_BUFFER_SIZE,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        Errno::result(result).context("getsockopt(SO_VM_SOCKETS_BUFFER_SIZE)")?;
        Ok(value)
    }

    pub fn receive_timeout(&self, timeout: Duration) -> Result<()> {
        let timeout = TimeVal::new(timeout.as_secs() as i64, timeout.subsec_micros().into());
        Ok(setsockopt(self, sockopt::ReceiveTimeout, &timeout)?)
    }

    pub fn send_timeout(&self, timeout: Duration) -> Result<()> {
        let timeout = TimeVal::new(timeout.as_secs() as i64, timeout.subsec_micros().into());
        Ok(setsockopt(self, sockopt::SendTimeout, &timeout)?)
    }

    /// How long connect() waits for an answer.
    pub fn connect_timeout(&self, timeout: Duration) -> Result<()> {
        let timeout = libc::timeval {
            tv_sec: timeout.as_secs() as i64,
            tv_usec: timeout.subsec_micros().into(),
        };
        self.set(libc::AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, timeout)
    }

    /// How many bytes poll() and recv() wait for.
    pub fn set_lowat(&self, bytes: i32) -> Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
    }

    /// How many bytes there are to read.
    pub fn unread(&self) -> Result<i32> {
        let mut unread = 0;
        // SAFETY: The number lives through the call.
        let result = unsafe { libc::ioctl(self.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
        Errno::result(result).context("ioctl(SIOCINQ)")?;
        Ok(unread)
    }

    /// What connect() gives.
    pub fn try_connect(&self, peer: Peer) -> io::Result<()> {
        if unix::uds().is_some() {
            unix::ask(self, peer.port)?;
            return unix::answer(self);
        }
        let address = address(peer.cid, peer.port);
        // SAFETY: The address lives through the call, and its size is told.
        let result =
            unsafe { libc::connect(self.as_raw_fd(), (&raw const address).cast(), ADDRESS_LEN) };
        Errno::result(result)?;
        Ok(())
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
        let address = address(libc::VMADDR_CID_ANY, port);
        // SAFETY: The address lives through the call, and its size is told.
        let result =
            unsafe { libc::bind(self.as_raw_fd(), (&raw const address).cast(), ADDRESS_LEN) };
        Errno::result(result).with_context(|| format!("bind to port {port}"))?;
        Ok(())
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
        // SAFETY: The call takes numbers alone.
        Errno::result(unsafe { libc::listen(self.as_raw_fd(), backlog) }).context("listen")?;
        Ok(())
    }

    pub fn accept(&self) -> Result<Self> {
        // SAFETY: No address is asked for; the call gives a new descriptor.
        let fd = Errno::result(unsafe {
            libc::accept4(
                self.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        })
        .context("accept")?;
        // SAFETY: The descriptor is new, and nobody else's.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.receive_timeout(STALL)?;
        socket.send_timeout(STALL)?;
        Ok(socket)
    }

    pub fn send(&self, bytes: &[u8], flags: i32) -> io::Result<usize> {
        // SAFETY: The bytes live through the call. With `MSG_ZEROCOPY` the kernel holds the pages.
        let sent = unsafe {
            libc::send(
                self.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                flags | libc::MSG_NOSIGNAL,
            )
        };
        Ok(Errno::result(sent)? as usize)
    }

    pub fn receive(&self, buffer: &mut [u8], flags: i32) -> io::Result<Received> {
        // SAFETY: The buffer is ours.
        unsafe { self.receive_at(buffer.as_mut_ptr(), buffer.len(), flags) }
    }

    /// Receives into memory that need not be there.
    ///
    /// # Safety
    ///
    /// What is there of it must be writable, and nobody else's.
    pub unsafe fn receive_at(&self, at: *mut u8, len: usize, flags: i32) -> io::Result<Received> {
        let mut iov = libc::iovec {
            iov_base: at.cast(),
            iov_len: len,
        };
        // SAFETY: A structure of numbers and pointers, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        // SAFETY: All that the message points to lives through the call; the memory by the caller.
        let len = unsafe { libc::recvmsg(self.as_raw_fd(), &raw mut message, flags) };
        Ok(Received {
            len: Errno::result(len)? as usize,
            flags: message.msg_flags,
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
        let sent = self.send(line.as_bytes(), 0)?;
        ensure!(sent == 8, "{sent} bytes of {word:?} were sent");
        Ok(())
    }

    /// Waits for a word of the other end.
    pub fn word(&self) -> Result<String> {
        let mut line = [0; 8];
        let got = self.receive(&mut line, libc::MSG_WAITALL)?;
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
