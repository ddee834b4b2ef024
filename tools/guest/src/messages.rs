// SPDX-License-Identifier: GPL-2.0

//! SOCK_SEQPACKET: boundaries, flags, many of them, parts of them, and memory that is not there.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail, ensure, Context, Result};
use clap::Subcommand;
use nix::{
    poll::PollFlags,
    sys::{
        mman,
        socket::{getsockopt, sockopt::SocketError, MsgFlags},
    },
};

use crate::{
    errno::errno_name,
    memory, pattern,
    socket::{Kind, Pair, Peer, Received, Socket, DEFAULT_BUFFER},
};

#[derive(Subcommand)]
pub enum Task {
    /// Take many messages in before reading any, and say what they hold
    FloodServer {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        count: u64,
        #[arg(long, default_value_t = DEFAULT_BUFFER)]
        buffer: u64,
    },
    /// Send many messages of 1 to 64 bytes
    FloodClient {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        count: u64,
        #[arg(long, default_value_t = DEFAULT_BUFFER)]
        buffer: u64,
    },
    /// Without waiting send small messages, as many as are asked for, and then a long one, until it is said to be sent
    LongClient {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        len: usize,
    },
    /// Read messages of all sizes in all ways
    SizesServer {
        #[arg(long)]
        port: u32,
    },
    /// Send messages of all sizes, and one that is too long
    SizesClient {
        #[command(flatten)]
        peer: Peer,
    },
    /// Be sent a part of a message, and see nothing of it until the rest has come
    PartServer {
        #[arg(long)]
        port: u32,
    },
    /// Send a part of a message, and the rest when told so
    PartClient {
        #[command(flatten)]
        peer: Peer,
    },
    /// Read into memory that is not there
    FaultServer {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        kind: Kind,
    },
    /// Send what is read into memory that is not there
    FaultClient {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        kind: Kind,
    },
    /// Accept connections, send every message back, and say how each connection ended
    EchoServer {
        #[arg(long)]
        port: u32,
    },
    /// Send messages of all sizes, and have each come back as it was
    EchoClient {
        #[command(flatten)]
        peer: Peer,
    },
    /// Say what connect() gives for messages
    Connect {
        #[command(flatten)]
        peer: Peer,
    },
}

impl Task {
    pub fn run(self) -> Result<()> {
        match self {
            Task::FloodServer {
                port,
                count,
                buffer,
            } => flood_server(port, count, buffer),
            Task::FloodClient {
                peer,
                count,
                buffer,
            } => flood_client(peer, count, buffer),
            Task::LongClient { peer, len } => long_client(peer, len),
            Task::SizesServer { port } => sizes_server(port),
            Task::SizesClient { peer } => sizes_client(peer),
            Task::PartServer { port } => part_server(port),
            Task::PartClient { peer } => part_client(peer),
            Task::FaultServer { port, kind } => fault_server(port, kind),
            Task::FaultClient { peer, kind } => fault_client(peer, kind),
            Task::EchoServer { port } => echo_server(port),
            Task::EchoClient { peer } => {
                let socket = Socket::connected(Kind::Seqpacket, DEFAULT_BUFFER, peer)?;
                echo_client(
                    |message| socket.send(message, MsgFlags::empty()),
                    |buffer| Ok(socket.receive(buffer, MsgFlags::empty())?.len),
                )?;
                println!("OK messages={}", ECHO_ROUNDS * SIZES.len());
                Ok(())
            }
            Task::Connect { peer } => {
                let outcome = match Socket::new(Kind::Seqpacket, DEFAULT_BUFFER)?.try_connect(peer)
                {
                    Ok(()) => "ok".into(),
                    Err(e) => errno_name(&e),
                };
                println!("CONNECT {outcome}");
                Ok(())
            }
        }
    }
}

/// Message `i` of a flood: its length, and whether it ends a record.
pub fn small(i: u64) -> (usize, bool) {
    let mixed = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (1 + (mixed % 64) as usize, mixed % 3 == 0)
}

fn eor(yes: bool) -> MsgFlags {
    if yes {
        MsgFlags::MSG_EOR
    } else {
        MsgFlags::empty()
    }
}

fn flood_server(port: u32, count: u64, buffer: u64) -> Result<()> {
    let pair = Pair::accept(Kind::Seqpacket, buffer, port)?;
    let before = memory::kernel()?;
    pair.control.say("go")?;
    pair.control.hear("sent")?;
    let held = memory::kernel()? - before;
    let unread: u64 = (0..count).map(|i| small(i).0 as u64).sum();
    println!("HELD bytes={held} unread={unread}");
    let (mut got, mut want) = ([0; 128], [0; 64]);
    for i in 0..count {
        let (len, ends) = small(i);
        let received = pair
            .data
            .receive(&mut got, MsgFlags::empty())
            .with_context(|| format!("message {i} of {count}"))?;
        ensure!(
            received.len == len,
            "message {i} has {} bytes, {len} were sent",
            received.len
        );
        ensure!(
            received.flags.contains(MsgFlags::MSG_EOR) == ends,
            "message {i}: MSG_EOR should be {ends}"
        );
        pattern::fill(&mut want[..len], i, 0);
        ensure!(got[..len] == want[..len], "message {i} is another");
    }
    pair.control.say("read")?;
    println!("OK messages={count}");
    Ok(())
}

fn flood_client(peer: Peer, count: u64, buffer: u64) -> Result<()> {
    let pair = Pair::connect(Kind::Seqpacket, buffer, peer)?;
    pair.control.hear("go")?;
    let mut message = [0; 64];
    for i in 0..count {
        let (len, ends) = small(i);
        pattern::fill(&mut message[..len], i, 0);
        let sent = pair
            .data
            .send(&message[..len], eor(ends))
            .with_context(|| format!("message {i} of {count}"))?;
        ensure!(sent == len, "{sent} bytes of message {i} were sent");
    }
    pair.control.say("sent")?;
    pair.control.hear("read")?;
    println!("OK messages={count}");
    Ok(())
}

/// How long the small ones are that go before a long one, and how many are asked for at once.
pub const SMALL: usize = 200;
pub const BATCH: u8 = 10;

fn long_client(peer: Peer, len: usize) -> Result<()> {
    let pair = Pair::connect(Kind::Seqpacket, DEFAULT_BUFFER, peer)?;
    let mut count = 0;
    loop {
        match pair.control.word()?.as_str() {
            "more" => {}
            "long" => break,
            word => bail!("the peer said {word:?}"),
        }
        for i in 0..BATCH {
            let sent = pair.data.send(&[i; SMALL], MsgFlags::MSG_DONTWAIT);
            let sent = sent.with_context(|| format!("small message {count}"))?;
            ensure!(sent == SMALL, "{sent} bytes of a small one were sent");
            count += 1;
        }
    }
    let mut long = vec![0; len];
    pattern::fill(&mut long, count, 0);
    let mut tries = 0;
    loop {
        let sent = pair.data.send(&long, MsgFlags::MSG_DONTWAIT);
        tries += 1;
        if tries == 1 {
            pair.control.say("tried")?;
        }
        match sent {
            Ok(sent) => {
                ensure!(sent == len, "{sent} bytes of the long message were sent");
                break;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(10))
            }
            Err(e) => return Err(e).context("the long message"),
        }
    }
    pair.control.say("sent")?;
    pair.control.hear("read")?;
    println!("OK tries={tries}");
    Ok(())
}

/// Sizes around whatever may change at one: a page, a packet, a receive buffer less a header, the window.
pub const SIZES: &[usize] = &[
    1,
    2,
    63,
    64,
    200,
    4052,
    4095,
    4096,
    4097,
    16383,
    16384,
    32723,
    32724,
    32725,
    32768,
    32769,
    65536,
    65537,
    100_000,
    DEFAULT_BUFFER as usize,
];

/// How a message is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Whole,
    LookedAtFirst,
    /// Its end is cut off; recvmsg() says how much it gave.
    Cut,
    /// Its end is cut off; recvmsg() says how long it was.
    CutAndMeasured,
}

const WAYS: &[Way] = &[
    Way::Whole,
    Way::LookedAtFirst,
    Way::Cut,
    Way::CutAndMeasured,
];

fn every_size() -> impl Iterator<Item = (u64, usize, Way)> {
    let all = SIZES
        .iter()
        .flat_map(|size| WAYS.iter().map(|way| (*size, *way)));
    (0..).zip(all).map(|(i, (size, way))| (i, size, way))
}

fn sizes_server(port: u32) -> Result<()> {
    let pair = Pair::accept(Kind::Seqpacket, DEFAULT_BUFFER, port)?;
    let mut buffer = vec![0; DEFAULT_BUFFER as usize + 1];
    for (i, size, way) in every_size() {
        let ends = i % 3 == 0;
        let (room, flags) = match way {
            Way::Whole | Way::LookedAtFirst => (buffer.len(), MsgFlags::empty()),
            // Without any room recvmsg() would not wait for a message.
            Way::Cut => (size.div_ceil(2), MsgFlags::empty()),
            Way::CutAndMeasured => (size.div_ceil(2), MsgFlags::MSG_TRUNC),
        };
        let looks = if way == Way::LookedAtFirst { 2 } else { 1 };
        for look in 1..=looks {
            buffer.fill(0);
            let peek = if look < looks {
                MsgFlags::MSG_PEEK
            } else {
                MsgFlags::empty()
            };
            let got = pair
                .data
                .receive(&mut buffer[..room], flags | peek)
                .with_context(|| format!("{way:?}: message {i} of {size} bytes"))?;
            let cut = room < size;
            let len = if way == Way::Cut { room } else { size };
            ensure!(
                got.len == len,
                "{way:?}: message {i} of {size} bytes gave {}, not {len}",
                got.len
            );
            ensure!(
                got.flags.contains(MsgFlags::MSG_TRUNC) == cut,
                "{way:?}: message {i} of {size} bytes: MSG_TRUNC should be {cut}"
            );
            ensure!(
                got.flags.contains(MsgFlags::MSG_EOR) == ends,
                "{way:?}: message {i} of {size} bytes: MSG_EOR should be {ends}"
            );
            let there = room.min(size);
            if let Some(place) = pattern::mismatch(&buffer[..there], i, 0) {
                bail!("{way:?}: message {i} of {size} bytes: byte {place} is wrong");
            }
            ensure!(
                buffer[there..].iter().all(|b| *b == 0),
                "{way:?}: message {i} of {size} bytes: more was written than there is"
            );
        }
    }
    pair.control.say("read")?;
    println!("OK messages={}", every_size().count());
    Ok(())
}

fn sizes_client(peer: Peer) -> Result<()> {
    let pair = Pair::connect(Kind::Seqpacket, DEFAULT_BUFFER, peer)?;
    let mut buffer = vec![0; DEFAULT_BUFFER as usize + 1];
    // Longer than what the other end can ever have room for.
    match pair.data.send(&buffer, MsgFlags::empty()) {
        Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => {}
        other => bail!(
            "{} bytes into a window of one less gave {other:?}",
            buffer.len()
        ),
    }
    for (i, size, way) in every_size() {
        pattern::fill(&mut buffer[..size], i, 0);
        let sent = pair
            .data
            .send(&buffer[..size], eor(i % 3 == 0))
            .with_context(|| format!("{way:?}: message {i} of {size} bytes"))?;
        ensure!(
            sent == size,
            "{sent} bytes of message {i} of {size} were sent"
        );
    }
    pair.control.hear("read")?;
    println!("OK messages={}", every_size().count());
    Ok(())
}

/// How often a client of the echo goes through all sizes.
const ECHO_ROUNDS: usize = 3;

/// Sends messages of all sizes and receives each back, while others are on their way; over any socket that keeps messages.
pub fn echo_client(
    send: impl Fn(&[u8]) -> io::Result<usize> + Sync,
    receive: impl Fn(&mut [u8]) -> io::Result<usize>,
) -> Result<()> {
    let sizes = || SIZES.iter().cycle().take(ECHO_ROUNDS * SIZES.len());
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            for (i, size) in (0..).zip(sizes()) {
                let mut message = vec![0; *size];
                pattern::fill(&mut message, i, 0);
                let sent =
                    send(&message).with_context(|| format!("message {i} of {size} bytes"))?;
                ensure!(sent == *size, "{sent} of {size} bytes were sent");
            }
            Ok(())
        });
        let mut buffer = vec![0; DEFAULT_BUFFER as usize + 1];
        for (i, size) in (0..).zip(sizes()) {
            let len = receive(&mut buffer)
                .with_context(|| format!("the echo of message {i}, of {size} bytes"))?;
            ensure!(
                len == *size,
                "the echo of message {i}, of {size} bytes, has {len}"
            );
            if let Some(place) = pattern::mismatch(&buffer[..len], i, 0) {
                bail!("the echo of message {i}, of {size} bytes: byte {place} is wrong");
            }
        }
        sender
            .join()
            .map_err(|_| anyhow!("the sending thread panicked"))?
    })
}

fn echo_server(port: u32) -> Result<()> {
    let listener = Socket::listening(Kind::Seqpacket, DEFAULT_BUFFER, port)?;
    println!("READY {port}");
    loop {
        let socket = listener.accept()?;
        println!("ACCEPTED");
        thread::spawn(move || {
            let mut buffer = vec![0; DEFAULT_BUFFER as usize + 1];
            let how = loop {
                match socket.receive(&mut buffer, MsgFlags::empty()) {
                    // The kernel tells a reader who waits for a message of the error only when asked.
                    Ok(Received { len: 0, .. }) => match getsockopt(&socket, SocketError) {
                        Ok(0) => break "eof".into(),
                        Ok(error) => break errno_name(&io::Error::from_raw_os_error(error)),
                        Err(e) => break e.to_string(),
                    },
                    Ok(Received { len, .. }) => {
                        if let Err(e) = socket.send(&buffer[..len], MsgFlags::empty()) {
                            break errno_name(&e);
                        }
                    }
                    Err(e) => break errno_name(&e),
                }
            };
            println!("END {how}");
        });
    }
}

const FIRST: usize = 100_000;
const SECOND: usize = 200_000;
const REST: usize = 10;
/// What of the second message has room beside the first.
const PART: usize = DEFAULT_BUFFER as usize - FIRST;

fn part_server(port: u32) -> Result<()> {
    let pair = Pair::accept(Kind::Seqpacket, DEFAULT_BUFFER, port)?;
    pair.control.hear("part")?;
    let mut buffer = vec![0; SECOND];
    let first = pair
        .data
        .receive(&mut buffer, MsgFlags::empty())
        .context("the first")?;
    ensure!(first.len == FIRST, "the first has {} bytes", first.len);

    let events = pair
        .data
        .poll(PollFlags::POLLIN, Duration::from_millis(500))?;
    ensure!(
        !events.contains(PollFlags::POLLIN),
        "poll() reports a part of a message"
    );
    for (flags, timeout) in [(MsgFlags::MSG_DONTWAIT, 0), (MsgFlags::empty(), 300)] {
        pair.data
            .receive_timeout(Duration::from_millis(timeout.max(1)))?;
        let start = Instant::now();
        let outcome = pair.data.receive(&mut buffer, flags);
        let took = start.elapsed();
        ensure!(
            matches!(&outcome, Err(e) if e.raw_os_error() == Some(libc::EAGAIN)),
            "reading a part of a message gave {outcome:?}"
        );
        // The kernel's clock ticks every four milliseconds.
        ensure!(
            took >= Duration::from_millis(timeout).saturating_sub(Duration::from_millis(5)),
            "with a timeout of {timeout} ms recvmsg() came back after {took:?}"
        );
    }
    pair.control.say("more")?;
    let events = pair.data.poll(PollFlags::POLLIN, Duration::from_secs(20))?;
    ensure!(
        events.contains(PollFlags::POLLIN),
        "poll() does not report the whole message"
    );
    let whole = pair.data.receive(&mut buffer, MsgFlags::MSG_DONTWAIT)?;
    ensure!(
        whole.len == PART + REST,
        "the second has {} bytes",
        whole.len
    );
    ensure!(
        whole.flags.contains(MsgFlags::MSG_EOR),
        "the second's end is no end of a record"
    );
    for (bytes, seed) in [(&buffer[..PART], 1), (&buffer[PART..whole.len], 2)] {
        ensure!(
            pattern::mismatch(bytes, seed, 0).is_none(),
            "part {seed} of the second is wrong"
        );
    }
    pair.control.say("read")?;
    println!("OK");
    Ok(())
}

/// A call that runs into its timeout leaves a message without an end; the next one ends it.
fn part_client(peer: Peer) -> Result<()> {
    let pair = Pair::connect(Kind::Seqpacket, DEFAULT_BUFFER, peer)?;
    let mut buffer = vec![0; SECOND];
    ensure!(pair.data.send(&buffer[..FIRST], MsgFlags::empty())? == FIRST);
    pair.data.send_timeout(Duration::from_millis(300))?;
    pattern::fill(&mut buffer, 1, 0);
    let outcome = pair.data.send(&buffer, MsgFlags::empty());
    ensure!(
        matches!(&outcome, Err(e) if e.raw_os_error() == Some(libc::EAGAIN)),
        "{SECOND} bytes, of which {PART} have room, gave {outcome:?}"
    );
    pair.control.say("part")?;
    pair.control.hear("more")?;
    pattern::fill(&mut buffer[..REST], 2, 0);
    ensure!(pair.data.send(&buffer[..REST], MsgFlags::MSG_EOR)? == REST);
    pair.control.hear("read")?;
    println!("OK");
    Ok(())
}

/// Stored together with others, and as the pages that they came in.
const FAULTS: &[usize] = &[5000, 100_000];
/// So much of the memory is there.
const THERE: usize = 1000;

fn fault_server(port: u32, kind: Kind) -> Result<()> {
    let pair = Pair::accept(kind, DEFAULT_BUFFER, port)?;
    pair.control.hear("sent")?;
    let page = memory::page_size();
    // SAFETY: New anonymous mappings touch no memory that anybody has.
    let place = unsafe {
        let pages = mman::mmap_anonymous(
            None,
            (64 * page).try_into()?,
            mman::ProtFlags::PROT_READ | mman::ProtFlags::PROT_WRITE,
            mman::MapFlags::MAP_PRIVATE,
        )?;
        mman::mprotect(pages.byte_add(page), 63 * page, mman::ProtFlags::PROT_NONE)?;
        pages.byte_add(page - THERE)
    };
    let mut whole = vec![0; 2 * FAULTS[1]];
    for (i, size) in (0..).zip(FAULTS) {
        for flags in [MsgFlags::MSG_PEEK, MsgFlags::empty()] {
            // SAFETY: The first bytes are in the page that is there, and no reference to it exists.
            let outcome = unsafe { pair.data.receive_at(place.as_ptr().cast(), *size, flags) };
            ensure!(
                matches!(&outcome, Err(e) if e.raw_os_error() == Some(libc::EFAULT)),
                "reading {size} bytes into {THERE}, flags {flags:?}, gave {outcome:?}"
            );
        }
        if kind == Kind::Stream {
            // No byte is lost.
            let got = pair
                .data
                .receive(&mut whole[..*size], MsgFlags::MSG_WAITALL)
                .context("after EFAULT")?;
            ensure!(
                got.len == *size && pattern::mismatch(&whole[..*size], i, 0).is_none(),
                "after EFAULT the stream goes on with something else"
            );
        } else {
            // The message that could not be written is lost, and no other.
            let got = pair
                .data
                .receive(&mut whole, MsgFlags::empty())
                .with_context(|| format!("after EFAULT with a message of {size} bytes"))?;
            ensure!(
                got.len == 100 && pattern::mismatch(&whole[..100], 10 + i, 0).is_none(),
                "after EFAULT the next message is another, of {} bytes",
                got.len
            );
        }
    }
    pair.control.say("read")?;
    println!("OK");
    Ok(())
}

fn fault_client(peer: Peer, kind: Kind) -> Result<()> {
    let pair = Pair::connect(kind, DEFAULT_BUFFER, peer)?;
    for (i, size) in (0..).zip(FAULTS) {
        let mut message = vec![0; *size];
        pattern::fill(&mut message, i, 0);
        ensure!(pair.data.send(&message, MsgFlags::empty())? == *size);
        if kind == Kind::Seqpacket {
            pattern::fill(&mut message[..100], 10 + i, 0);
            ensure!(pair.data.send(&message[..100], MsgFlags::empty())? == 100);
        }
    }
    pair.control.say("sent")?;
    pair.control.hear("read")?;
    println!("OK");
    Ok(())
}
