// SPDX-License-Identifier: GPL-2.0

//! A socket of AF_PACKET on the interface whose queues order turns: what passes there, and what has no business there.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use clap::Subcommand;
use nix::{
    errno::Errno,
    sys::{
        socket::{recv, send, setsockopt, sockopt, MsgFlags},
        time::TimeVal,
    },
};

/// Of the packet for which a turn is, without merging receive buffers and with them.
const HEADERS: [usize; 2] = [44, 46];
const PAYLOAD_LENGTH: usize = 24;

nix::ioctl_readwrite_bad!(interface_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);

#[derive(Subcommand)]
pub enum Task {
    /// Look at all that passes an interface, until it is more than so many packets and bytes, for so many milliseconds at
    /// the most
    Tap {
        #[arg(long)]
        interface: String,
        #[arg(long)]
        packets: u64,
        #[arg(long)]
        bytes: u64,
        #[arg(long)]
        ms: u64,
    },
    /// Send packets into an interface that are nobody's turns
    Inject {
        #[arg(long)]
        interface: String,
        #[arg(long)]
        count: u64,
        #[arg(long)]
        size: usize,
    },
    /// Set an interface up, where the kernel has not the sockets that ip(8) needs for it
    Up {
        #[arg(long)]
        interface: String,
    },
}

impl Task {
    pub fn run(self) -> Result<()> {
        match self {
            Task::Tap {
                interface,
                packets,
                bytes,
                ms,
            } => tap(&interface, [packets, bytes], Duration::from_millis(ms)),
            Task::Inject {
                interface,
                count,
                size,
            } => inject(&interface, count, size),
            Task::Up { interface } => up(&interface),
        }
    }
}

/// Any socket will do.
fn up(interface: &str) -> Result<()> {
    let socket = UnixDatagram::unbound()?;
    // SAFETY: A structure of numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    ensure!(
        interface.len() < request.ifr_name.len(),
        "{interface:?} is no name of an interface"
    );
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: The request lives through the call, and names an interface; then the kernel has filled in the flags.
    unsafe {
        interface_flags(socket.as_raw_fd(), &raw mut request)
            .with_context(|| format!("the flags of {interface}"))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        set_interface_flags(socket.as_raw_fd(), &raw const request)
            .with_context(|| format!("set {interface} up"))?;
    }
    Ok(())
}

/// A socket for everything that passes this interface.
fn open(interface: &str) -> Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let name = CString::new(interface)?;
    // SAFETY: The name lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "there is no interface {interface:?}");
    // SAFETY: A system call without pointers.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            all.into(),
        )
    };
    let fd = Errno::result(fd).context("socket(AF_PACKET)")?;
    // SAFETY: The descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: A structure of numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index as i32;
    // SAFETY: The address lives through the call, and has that size.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    Errno::result(result).with_context(|| format!("bind to {interface}"))?;
    Ok(socket)
}

/// Each must begin with the header of a packet, and be as long as that packet.
fn tap(interface: &str, wanted: [u64; 2], most: Duration) -> Result<()> {
    let socket = open(interface)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000))?;
    println!("READY");
    let (end, mut buffer) = (Instant::now() + most, vec![0; 1 << 17]);
    let [mut packets, mut bytes] = [0u64; 2];
    while packets <= wanted[0] || bytes <= wanted[1] {
        ensure!(
            Instant::now() < end,
            "{packets} packets of {bytes} bytes have passed"
        );
        let len = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Ok(len) => len,
            Err(Errno::EAGAIN) => continue,
            Err(e) => return Err(e).context("a packet of the interface"),
        };
        let packet = &buffer[..len.min(buffer.len())];
        let field = packet.get(PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4);
        let field = field.with_context(|| format!("a turn of {len} bytes"))?;
        let payload = u32::from_le_bytes(field.try_into()?) as usize;
        ensure!(
            payload > 0 && HEADERS.iter().any(|header| len == header + payload),
            "a turn of {len} bytes is for a packet of {payload}"
        );
        packets += 1;
        bytes += len as u64;
    }
    println!("OK packets={packets} bytes={bytes}");
    Ok(())
}

fn inject(interface: &str, count: u64, size: usize) -> Result<()> {
    let socket = open(interface)?;
    let bytes = vec![0xa5; size];
    let mut sent = 0u64;
    for _ in 0..count {
        match send(socket.as_raw_fd(), &bytes, MsgFlags::empty()) {
            Ok(_) => sent += 1,
            // A queue without room.
            Err(Errno::ENOBUFS) => {}
            Err(e) => return Err(io::Error::from(e)).context("a packet into the interface"),
        }
    }
    println!("OK sent={sent}");
    Ok(())
}
