// SPDX-License-Identifier: GPL-2.0

//! MSG_ZEROCOPY: the data at the other end, and the notifications in the error queue.

use std::{
    io,
    mem::size_of,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use io_uring::{cqueue, opcode, types, IoUring};
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::{
        mman::{mmap_anonymous, MapFlags, ProtFlags},
        socket::MsgFlags,
    },
};

use crate::{
    pattern,
    socket::{Kind, Peer, Socket, DEFAULT_BUFFER, MSG_ZEROCOPY},
};

const SOL_VSOCK: i32 = 287;
const VSOCK_RECVERR: i32 = 1;
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;
const IORING_SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
const IORING_NOTIF_USAGE_ZC_COPIED: i32 = 1 << 31;

/// How long a notification may take: it waits for the driver's timer at the most.
const PATIENCE: Duration = Duration::from_secs(10);
/// Those that come twice come at once.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// What the notifications must say of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Expect {
    Pinned,
    Copied,
    /// Either: the memory or the credit may not have been there for all of a call.
    Any,
}

/// When a sender stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// All is sent, and every notification has come.
    Notified,
    /// All is sent: it closes and unmaps at once.
    Sent,
    /// A call fails; every notification has come nevertheless.
    Error,
}

#[derive(Args)]
pub struct Load {
    #[arg(long)]
    kind: Kind,
    #[arg(long)]
    calls: u64,
    #[arg(long)]
    size: usize,
    #[arg(long, default_value_t = DEFAULT_BUFFER)]
    buffer: u64,
}

#[derive(Subcommand)]
pub enum Task {
    /// Read all calls of a sender and check every byte
    Server {
        #[arg(long)]
        port: u32,
        #[command(flatten)]
        load: Load,
        /// Start to read only then
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
    },
    /// Send with MSG_ZEROCOPY and count the notifications
    Client {
        #[command(flatten)]
        peer: Peer,
        #[command(flatten)]
        load: Load,
        #[arg(long)]
        expect: Expect,
        #[arg(long)]
        until: Until,
        /// There are as many notifications as calls, since no call has to wait for room
        #[arg(long)]
        exact: bool,
    },
    /// Send by io_uring, which has a notification of its own for each call
    Ring {
        #[command(flatten)]
        peer: Peer,
        #[command(flatten)]
        load: Load,
        #[arg(long)]
        expect: Expect,
        /// With SO_ZEROCOPY, which io_uring does not ask for
        #[arg(long)]
        allowed: bool,
    },
    /// Read what `absent` sends
    AbsentServer {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        calls: usize,
    },
    /// Send with MSG_ZEROCOPY what lies in memory that is not all there yet
    Absent {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        calls: usize,
    },
    /// Send with MSG_ZEROCOPY to one who sends it back
    Chunks {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        count: u64,
    },
}

impl Task {
    pub fn run(self) -> Result<()> {
        match self {
            Task::Server {
                port,
                load,
                pause_ms,
            } => server(port, &load, Duration::from_millis(pause_ms)),
            Task::Client {
                peer,
                load,
                expect,
                until,
                exact,
            } => client(peer, &load, expect, until, exact),
            Task::Ring {
                peer,
                load,
                expect,
                allowed,
            } => ring(peer, &load, expect, allowed),
            Task::AbsentServer { port, calls } => absent_server(port, calls),
            Task::Absent { peer, calls } => absent(peer, calls),
            Task::Chunks { peer, size, count } => chunks(peer, size, count),
        }
    }
}

/// The notifications of a socket: each names a range of calls.
#[derive(Default)]
struct Notes {
    /// How many times each call was named.
    seen: Vec<u8>,
    ranges: u64,
    copied: u64,
}

impl Notes {
    /// Takes in what is there.
    fn take(&mut self, socket: &Socket) -> Result<()> {
        while let Some(error) = next_error(socket)? {
            ensure!(
                error.ee_errno == 0 && error.ee_origin == SO_EE_ORIGIN_ZEROCOPY,
                "the error queue has an error {} of origin {}",
                error.ee_errno,
                error.ee_origin
            );
            let (first, last) = (error.ee_info as usize, error.ee_data as usize);
            ensure!(
                first <= last && last < 1 << 24,
                "a notification names the calls {first} to {last}"
            );
            if self.seen.len() <= last {
                self.seen.resize(last + 1, 0);
            }
            for (call, times) in self.seen.iter_mut().enumerate().take(last + 1).skip(first) {
                ensure!(*times == 0, "call {call} was notified twice");
                *times = 1;
            }
            self.ranges += 1;
            if error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED != 0 {
                self.copied += (last - first + 1) as u64;
            }
        }
        Ok(())
    }

    fn complete(&self, calls: u64) -> bool {
        self.seen.len() as u64 >= calls && self.seen.iter().all(|times| *times == 1)
    }

    /// Waits until all of `calls`, and none other before the last, was named.
    fn wait(&mut self, socket: &Socket, calls: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.take(socket)?;
            if self.complete(calls) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "after {PATIENCE:?} notifications are missing: {} calls were made, those up to {} are named, without {:?}",
                calls,
                self.seen.len(),
                self.seen.iter().position(|times| *times == 0)
            );
            socket.poll(PollFlags::empty(), Duration::from_millis(50))?;
        }
    }
}

/// The next entry of the error queue, if there is one.
fn next_error(socket: &Socket) -> Result<Option<libc::sock_extended_err>> {
    let mut control = [0u64; 16];
    // SAFETY: A structure of numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; 16]>();
    // SAFETY: All that the message points to lives through the call.
    let result = Errno::result(unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut message,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    });
    match result {
        Err(Errno::EAGAIN) => return Ok(None),
        other => other.context("reading the error queue")?,
    };
    ensure!(
        message.msg_flags & libc::MSG_CTRUNC == 0,
        "a notification was cut"
    );
    // SAFETY: The kernel has filled the header in; both calls stay within the control buffer.
    let (header, data) = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        ensure!(!header.is_null(), "an entry of the error queue is empty");
        (*header, libc::CMSG_DATA(header))
    };
    ensure!(
        header.cmsg_level == SOL_VSOCK && header.cmsg_type == VSOCK_RECVERR,
        "an entry of the error queue has level {} and type {}",
        header.cmsg_level,
        header.cmsg_type
    );
    // SAFETY: The data of such a header is of this type, and need not be aligned.
    Ok(Some(unsafe {
        data.cast::<libc::sock_extended_err>().read_unaligned()
    }))
}

/// Sends all of a call; what a stream takes in pieces is several calls to the kernel. Returns how many.
fn send_all(socket: &Socket, bytes: &[u8], notes: &mut Notes) -> Result<u64, io::Error> {
    let (mut sent, mut calls) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while sent < bytes.len() {
        match socket.send(&bytes[sent..], MSG_ZEROCOPY) {
            Ok(n) => {
                sent += n;
                calls += 1;
            }
            // Too many notifications wait to be read.
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(e),
        }
        notes.take(socket).map_err(io::Error::other)?;
    }
    Ok(calls)
}

fn client(peer: Peer, load: &Load, expect: Expect, until: Until, exact: bool) -> Result<()> {
    let socket = Socket::connected(load.kind, load.buffer, peer)?;
    socket.allow_zerocopy()?;
    println!("CONNECTED");
    // Memory of its own for each call, as none of it may be written again before it is sent.
    let distinct = if until == Until::Error { 1 } else { load.calls };
    let mut memory = vec![0; load.size * distinct as usize];
    for (call, bytes) in (0..).zip(memory.chunks_mut(load.size)) {
        pattern::fill(bytes, 0, call * load.size as u64);
    }
    let (mut notes, mut calls) = (Notes::default(), 0);
    let start = Instant::now();
    loop {
        if until != Until::Error && calls >= load.calls {
            break;
        }
        let at = (calls % distinct) as usize * load.size;
        match send_all(&socket, &memory[at..at + load.size], &mut notes) {
            Ok(_) => {
                calls += 1;
                if calls == 1 {
                    println!("BEGUN");
                }
            }
            Err(e) if until == Until::Error && e.raw_os_error().is_some() => {
                println!("ERROR {}", crate::errno::errno_name(&e));
                break;
            }
            Err(e) => return Err(e).with_context(|| format!("call {calls}")),
        }
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "after {calls} calls the end has not come"
        );
    }
    if until == Until::Sent {
        drop(socket);
        drop(memory);
        println!("OK calls={calls}");
        return Ok(());
    }
    notes.wait(&socket, calls)?;
    std::thread::sleep(AFTERWARDS);
    notes.take(&socket)?;
    let named = notes.seen.len() as u64;
    ensure!(
        !exact || named == calls,
        "{calls} calls gave notifications for {named}"
    );
    match expect {
        Expect::Pinned if notes.copied > 0 => bail!("{} of {named} were copied", notes.copied),
        Expect::Copied if notes.copied < named => {
            bail!("only {} of {named} say that they were copied", notes.copied)
        }
        _ => {}
    }
    println!(
        "OK calls={calls} named={named} ranges={} copied={}",
        notes.ranges, notes.copied
    );
    Ok(())
}

fn server(port: u32, load: &Load, pause: Duration) -> Result<()> {
    let listener = Socket::listening(load.kind, load.buffer, port)?;
    println!("READY {port}");
    let socket = listener.accept()?;
    println!("ACCEPTED");
    std::thread::sleep(pause);
    let (mut buffer, mut received) = (vec![0; load.size + 1], 0u64);
    loop {
        let got = socket
            .receive(&mut buffer, MsgFlags::empty())
            .with_context(|| format!("after {received} bytes"))?;
        if got.len == 0 {
            break;
        }
        ensure!(
            load.kind == Kind::Stream || got.len == load.size,
            "a message of {} bytes, {} were sent",
            got.len,
            load.size
        );
        if let Some(place) = pattern::mismatch(&buffer[..got.len], 0, received) {
            bail!("the byte at {place} is wrong");
        }
        received += got.len as u64;
    }
    let sent = load.calls * load.size as u64;
    ensure!(received == sent, "{received} bytes came, {sent} were sent");
    println!("OK received={received}");
    Ok(())
}

fn ring(peer: Peer, load: &Load, expect: Expect, allowed: bool) -> Result<()> {
    let socket = Socket::connected(load.kind, load.buffer, peer)?;
    if allowed {
        socket.allow_zerocopy()?;
    }
    // It outlives the ring, whatever happens.
    let mut bytes = vec![0; load.size];
    let mut ring = IoUring::new(8).context("io_uring_setup()")?;
    let mut copied = 0;
    for call in 0..load.calls {
        pattern::fill(&mut bytes, 0, call * load.size as u64);
        let fd = types::Fd(socket.as_raw_fd());
        let send = opcode::SendZc::new(fd, bytes.as_ptr(), load.size as u32)
            .flags(libc::MSG_WAITALL)
            .zc_flags(IORING_SEND_ZC_REPORT_USAGE)
            .build()
            .user_data(call);
        // SAFETY: The memory is left alone until the notification has come.
        unsafe { ring.submission().push(&send) }.context("io_uring is full")?;
        let (mut sent, mut note) = (None, None);
        while sent.is_none() || note.is_none() {
            ring.submit_and_wait(1).context("io_uring_enter()")?;
            for entry in ring.completion() {
                let (result, flags) = (entry.result(), entry.flags());
                ensure!(
                    entry.user_data() == call,
                    "call {} was completed again, by {result}",
                    entry.user_data()
                );
                let is_note = cqueue::notif(flags);
                ensure!(
                    is_note || (result as usize == load.size && cqueue::more(flags)),
                    "call {call} gave {result}, with flags {flags:#x}"
                );
                let which = if is_note { &mut note } else { &mut sent };
                ensure!(
                    which.replace(result).is_none(),
                    "call {call} was completed twice"
                );
            }
        }
        copied += u64::from(note.is_some_and(|n| n & IORING_NOTIF_USAGE_ZC_COPIED != 0));
    }
    std::thread::sleep(AFTERWARDS);
    ensure!(
        ring.completion().next().is_none(),
        "more was completed than {} calls",
        load.calls
    );
    let wanted = match expect {
        Expect::Pinned => 0,
        Expect::Copied => load.calls,
        Expect::Any => copied,
    };
    ensure!(
        copied == wanted,
        "{copied} of {} calls say that they were copied",
        load.calls
    );
    println!("OK calls={} copied={copied}", load.calls);
    Ok(())
}

/// What a table of pages maps.
const TABLE: usize = 2 << 20;
/// How much is there before the end of a table, and is not there behind it: more than a packet, and not a multiple of it.
const PRESENT: usize = 96 << 10;
const ABSENT: usize = 32 << 10;

fn absent(peer: Peer, calls: usize) -> Result<()> {
    let socket = Socket::connected(Kind::Stream, 4 << 20, peer)?;
    socket.allow_zerocopy()?;
    let (mut notes, mut sent) = (Notes::default(), 0);
    for call in 0..calls {
        let length = (4 * TABLE).try_into()?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: New memory, of which nobody else knows.
        let memory = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }?;
        // Nobody has touched what this table is for, nor the next.
        let end = (memory.as_ptr() as usize + 2 * TABLE).next_multiple_of(TABLE);
        let start = (end - PRESENT) as *mut u8;
        // SAFETY: It lies within the memory, which is never unmapped, and nobody else uses it.
        let present = unsafe { std::slice::from_raw_parts_mut(start, PRESENT) };
        pattern::fill(present, call as u64, 0);
        // SAFETY: As above. What was not written is zero.
        let bytes = unsafe { std::slice::from_raw_parts(start, PRESENT + ABSENT) };
        sent += send_all(&socket, bytes, &mut notes).with_context(|| format!("call {call}"))?;
    }
    notes.wait(&socket, sent)?;
    println!("OK calls={calls} sends={sent}");
    Ok(())
}

fn absent_server(port: u32, calls: usize) -> Result<()> {
    let listener = Socket::listening(Kind::Stream, 4 << 20, port)?;
    println!("READY {port}");
    let socket = listener.accept()?;
    let mut bytes = vec![0; PRESENT + ABSENT];
    for call in 0..calls {
        let got = socket.receive(&mut bytes, MsgFlags::MSG_WAITALL)?.len;
        ensure!(got == bytes.len(), "call {call}: {got} bytes came");
        let (present, absent) = bytes.split_at(PRESENT);
        let wrong = pattern::mismatch(present, call as u64, 0);
        ensure!(
            wrong.is_none(),
            "call {call}: the byte at {wrong:?} is wrong"
        );
        ensure!(
            absent.iter().all(|byte| *byte == 0),
            "call {call}: what is not there is not zero"
        );
    }
    let more = socket.receive(&mut bytes, MsgFlags::empty())?.len;
    ensure!(more == 0, "{more} bytes more came than were sent");
    println!("OK calls={calls}");
    Ok(())
}

fn chunks(peer: Peer, size: usize, count: u64) -> Result<()> {
    let socket = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    socket.allow_zerocopy()?;
    let (mut message, mut back) = (vec![0; size], vec![0; size]);
    let (mut notes, mut calls) = (Notes::default(), 0);
    for chunk in 0..count {
        pattern::fill(&mut message, 0, chunk * size as u64);
        calls += send_all(&socket, &message, &mut notes)
            .with_context(|| format!("chunk {chunk}: send"))?;
        let mut got = 0;
        while got < size {
            match socket.receive(&mut back[got..], MsgFlags::empty()) {
                Ok(part) if part.len > 0 => got += part.len,
                other => bail!("chunk {chunk}: receiving after {got} bytes gave {other:?}"),
            }
        }
        ensure!(message == back, "chunk {chunk} came back changed");
        // What was sent may be written again from here on.
        notes.wait(&socket, calls)?;
    }
    println!(
        "OK count={count} named={} copied={}",
        notes.seen.len(),
        notes.copied
    );
    Ok(())
}
