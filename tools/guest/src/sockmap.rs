// SPDX-License-Identifier: GPL-2.0

//! A BPF program that decides about every buffer that a virtio socket receives: into another socket, or to the reader.

use std::{
    io::{ErrorKind, Read},
    mem::size_of,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use clap::{Subcommand, ValueEnum};
use nix::{errno::Errno, poll::PollFlags, sys::socket::MsgFlags};

use crate::{
    pattern,
    socket::{Kind, Pair, Peer, Socket, DEFAULT_BUFFER},
};

const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_SKB: u32 = 14;
const BPF_SK_SKB_VERDICT: u32 = 38;
const BPF_FUNC_SK_REDIRECT_MAP: i32 = 52;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const SK_PASS: i32 = 1;

/// The places in the map: whom the program looks at, and whom it sends to.
const SOURCE: u32 = 0;
const TARGET: u32 = 1;

/// Where the program sends what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// To the socket's own reader.
    Pass,
    /// Into a unix socket.
    Unix,
    /// Into another virtio socket, back to where it comes from.
    Vsock,
}

#[derive(Subcommand)]
pub enum Task {
    /// Put a connection into a map with a program, and check what comes out where the program sends it
    Server {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        bytes: u64,
        #[arg(long)]
        kind: Kind,
        #[arg(long)]
        verdict: Verdict,
        /// Put it there when bytes wait already
        #[arg(long)]
        late: bool,
        /// Read what is passed on with MSG_DONTWAIT
        #[arg(long)]
        dont_wait: bool,
    },
    /// Send to it
    Client {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        bytes: u64,
        #[arg(long)]
        kind: Kind,
        #[arg(long)]
        verdict: Verdict,
        #[arg(long)]
        write_size: usize,
    },
}

impl Task {
    pub fn run(self) -> Result<()> {
        match self {
            Task::Server {
                port,
                bytes,
                kind,
                verdict,
                late,
                dont_wait,
            } => {
                let flags = if dont_wait {
                    MsgFlags::MSG_DONTWAIT
                } else {
                    MsgFlags::empty()
                };
                server(port, bytes, kind, verdict, late, flags)
            }
            Task::Client {
                peer,
                bytes,
                kind,
                verdict,
                write_size,
            } => client(peer, bytes, kind, verdict, write_size),
        }
    }
}

#[repr(C)]
struct Instruction {
    code: u8,
    /// The destination in the low half, the source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | (from << 4),
        offset: 0,
        immediate,
    }
}

const LOAD_64: u8 = 0x18;
const MOVE: u8 = 0xb7;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapUpdate {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// bpf(2).
///
/// # Safety
///
/// `attributes` must be what `command` takes, and all that it points to must live.
unsafe fn bpf<T>(command: i32, attributes: &T) -> nix::Result<i32> {
    // SAFETY: By the caller.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    Ok(Errno::result(result)? as i32)
}

fn new_fd(fd: i32) -> OwnedFd {
    // SAFETY: It is what a call has just made, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn new_map() -> Result<OwnedFd> {
    let attributes = MapCreate {
        map_type: BPF_MAP_TYPE_SOCKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: 2,
        map_flags: 0,
    };
    // SAFETY: They are what the command takes.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &attributes) }.context("making a sockmap")?;
    Ok(new_fd(fd))
}

fn put(map: &OwnedFd, key: u32, socket: &impl AsRawFd) -> Result<()> {
    let value = socket.as_raw_fd();
    let attributes = MapUpdate {
        map_fd: map.as_raw_fd() as u32,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        ..Default::default()
    };
    // SAFETY: They are what the command takes; key and value are of the map's sizes, and live.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attributes) }
        .with_context(|| format!("putting a socket into place {key} of the map"))?;
    Ok(())
}

/// Loads the program and attaches it to the map.
fn attach(map: &OwnedFd, verdict: Verdict) -> Result<OwnedFd> {
    let program = match verdict {
        Verdict::Pass => vec![instruction(MOVE, 0, 0, SK_PASS), instruction(EXIT, 0, 0, 0)],
        Verdict::Unix | Verdict::Vsock => vec![
            // The buffer is in register 1; then map, place and flags.
            instruction(LOAD_64, 2, BPF_PSEUDO_MAP_FD, map.as_raw_fd()),
            instruction(0, 0, 0, 0),
            instruction(MOVE, 3, 0, TARGET as i32),
            instruction(MOVE, 4, 0, 0),
            instruction(CALL, 0, 0, BPF_FUNC_SK_REDIRECT_MAP),
            instruction(EXIT, 0, 0, 0),
        ],
    };
    let mut log = vec![0u8; 16 << 10];
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_SK_SKB,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
    };
    // SAFETY: They are what the command takes, and program, licence and log live.
    let program = match unsafe { bpf(BPF_PROG_LOAD, &attributes) } {
        Ok(fd) => new_fd(fd),
        Err(e) => bail!(
            "loading the program: {e}: {}",
            String::from_utf8_lossy(&log).trim_end_matches('\0')
        ),
    };
    let attributes = ProgAttach {
        target_fd: map.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_SK_SKB_VERDICT,
        attach_flags: 0,
    };
    // SAFETY: They are what the command takes.
    unsafe { bpf(BPF_PROG_ATTACH, &attributes) }.context("attaching the program")?;
    Ok(program)
}

/// Reads `bytes` by `read` and checks them.
fn check(bytes: u64, mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize>) -> Result<()> {
    let (mut buffer, mut received) = (vec![0; 32 << 10], 0);
    while received < bytes {
        let n = read(&mut buffer).with_context(|| format!("after {received} of {bytes} bytes"))?;
        ensure!(n > 0, "the end came after {received} of {bytes} bytes");
        if let Some(place) = pattern::mismatch(&buffer[..n], 0, received) {
            bail!("the byte at {place} is wrong");
        }
        received += n as u64;
    }
    ensure!(
        received == bytes,
        "{received} bytes came, {bytes} were sent"
    );
    Ok(())
}

/// Reads what a verdict has passed on, and waits for it.
///
/// The kernel's vsock_msg_wait_data() looks once after a wake-up: if the bytes are on their way from the
/// verdict's queue to the reader's at that moment, a blocking recv() ends with EAGAIN.
fn read_passed(socket: &Socket, buffer: &mut [u8], flags: MsgFlags) -> std::io::Result<usize> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match socket.receive(buffer, flags) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            result => return Ok(result?.len),
        }
    }
}

fn server(
    port: u32,
    bytes: u64,
    kind: Kind,
    verdict: Verdict,
    late: bool,
    flags: MsgFlags,
) -> Result<()> {
    let back = (verdict == Verdict::Vsock)
        .then(|| Socket::listening(Kind::Stream, DEFAULT_BUFFER, port + 2))
        .transpose()?;
    let pair = Pair::accept(kind, DEFAULT_BUFFER, port)?;
    let map = new_map()?;
    let _program = attach(&map, verdict)?;
    let (near, mut far) = UnixStream::pair()?;
    let back = back.map(|listener| listener.accept()).transpose()?;
    match &back {
        Some(back) => put(&map, TARGET, back)?,
        None if verdict == Verdict::Unix => put(&map, TARGET, &near)?,
        None => {}
    }
    if late {
        pair.control.say("go")?;
        // All of it, if the sender's credit lasts.
        thread::sleep(Duration::from_millis(500));
        let events = pair.data.poll(PollFlags::POLLIN, Duration::from_secs(20))?;
        ensure!(events.contains(PollFlags::POLLIN), "nothing came");
    }
    put(&map, SOURCE, &pair.data)?;
    if !late {
        pair.control.say("go")?;
    }
    match verdict {
        Verdict::Pass => check(bytes, |buffer| read_passed(&pair.data, buffer, flags))?,
        Verdict::Unix => {
            far.set_read_timeout(Some(Duration::from_secs(20)))?;
            check(bytes, |buffer| far.read(buffer))?;
        }
        // The client checks.
        Verdict::Vsock => {}
    }
    if verdict != Verdict::Vsock {
        pair.control.say("read")?;
    }
    pair.control.hear("bye")?;
    println!("OK bytes={bytes}");
    Ok(())
}

fn client(peer: Peer, bytes: u64, kind: Kind, verdict: Verdict, write_size: usize) -> Result<()> {
    let pair = Pair::connect(kind, DEFAULT_BUFFER, peer)?;
    let back = match verdict {
        Verdict::Vsock => Some(Socket::connected(
            Kind::Stream,
            DEFAULT_BUFFER,
            Peer {
                port: peer.port + 2,
                ..peer
            },
        )?),
        _ => None,
    };
    pair.control.hear("go")?;
    let reader = back.map(|back| {
        thread::spawn(move || {
            back.receive_timeout(Duration::from_secs(20))?;
            check(bytes, |buffer| {
                Ok(back.receive(buffer, MsgFlags::empty())?.len)
            })
        })
    });
    let (mut buffer, mut sent) = (vec![0; write_size], 0);
    while sent < bytes {
        let n = write_size.min((bytes - sent) as usize);
        pattern::fill(&mut buffer[..n], 0, sent);
        let n = pair
            .data
            .send(&buffer[..n], MsgFlags::empty())
            .with_context(|| format!("after {sent} bytes"))?;
        sent += n as u64;
    }
    println!("SENT {sent}");
    match reader {
        Some(reader) => reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))??,
        None => pair.control.hear("read")?,
    }
    pair.control.say("bye")?;
    println!("OK bytes={bytes}");
    Ok(())
}
