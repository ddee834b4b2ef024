// SPDX-License-Identifier: GPL-2.0

//! rvtest: what the tests run in the guest and on the host; `rvtest help` lists it.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use guest::{
    agent, bench, dgram, files, fill, hold, interrupted, lateness, memory, messages, probe, rate,
    socket::{self, Class, Kind, Peer},
    sockmap, stream, stuck, turns, uevents, waits, zerocopy,
};

/// Peers, probes and loads for AF_VSOCK, usable on both sides.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// SOCK_SEQPACKET: many messages, of all sizes, parts of them
    #[command(subcommand)]
    Messages(messages::Task),
    /// SOCK_DGRAM: what its calls give, and datagrams to and from a peer
    #[command(subcommand)]
    Dgram(dgram::Task),
    /// MSG_ZEROCOPY, and its notifications
    #[command(subcommand)]
    Zerocopy(zerocopy::Task),
    /// sendfile() and splice()
    #[command(subcommand)]
    Files(files::Task),
    /// A BPF program that decides about what a socket receives
    #[command(subcommand)]
    Sockmap(sockmap::Task),
    /// A reader, a writer or a caller who must not wait for ever
    #[command(subcommand)]
    Waits(waits::Task),
    /// The interface whose queues order turns, as AF_PACKET has it
    #[command(subcommand)]
    Turns(turns::Task),
    /// Serve the lab's control connections over TCP
    Agent {
        #[arg(long)]
        port: u16,
    },
    /// Send back whatever comes, on any number of connections
    EchoServer {
        #[arg(long)]
        port: u32,
        /// Bound to this CID instead of any
        #[arg(long)]
        cid: Option<u32>,
    },
    /// Echo over several connections at once, and check every byte
    EchoClient {
        #[command(flatten)]
        peer: Peer,
        #[arg(long, default_value_t = 1)]
        connections: u64,
        #[arg(long)]
        bytes: u64,
        #[arg(long, default_value_t = 65536)]
        write_size: usize,
        /// Count the bytes that come back, and close no half
        #[arg(long)]
        counted: bool,
    },
    /// Open many connections, keep them, then an echo on each
    Many {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        connections: u64,
        /// Begin to connect with all before any is waited for
        #[arg(long)]
        burst: bool,
    },
    /// Send chunks and read each back whole, without closing a half
    Chunks {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        count: u64,
    },
    /// Accept one connection, sleep, then read and check everything
    SlowServer {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        pause_ms: u64,
        /// Wait in poll(), never in read()
        #[arg(long)]
        poll: bool,
        /// Read no more than this
        #[arg(long)]
        bytes: Option<u64>,
    },
    /// Send checked data and wait for the peer's close
    Send {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        bytes: u64,
        #[arg(long, default_value_t = 65536)]
        write_size: usize,
        /// The peer counts: no half is closed
        #[arg(long)]
        counted: bool,
        #[command(flatten)]
        class: Class,
    },
    /// Connect and echo again and again; count errors by name
    Traffic {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        flows: u64,
        #[arg(long)]
        seconds: u64,
    },
    /// Accept one connection and sit in a page fault inside recv()
    StuckServer {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        hold_ms: u64,
        /// Read no more than this
        #[arg(long)]
        bytes: Option<u64>,
    },
    /// Listen, and sit in a page fault with the listener locked
    StuckListener {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        backlog: i32,
        #[arg(long)]
        hold_ms: u64,
    },
    /// Accept a number of connections, and never read
    HoldServer {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        connections: u64,
        #[arg(long, default_value = "stream")]
        kind: Kind,
        /// How many bytes have to arrive in each before it says that they are held
        #[arg(long, default_value_t = 0)]
        bytes: u64,
        /// Shut each down for receiving
        #[arg(long)]
        shut: bool,
    },
    /// Open a number of connections, write pieces to each, and hold them
    HoldClient {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        connections: u64,
        #[arg(long, default_value_t = 0)]
        pieces: u64,
        #[arg(long, default_value_t = 0)]
        size: usize,
        #[arg(long, default_value = "stream")]
        kind: Kind,
        /// Write when there is this file
        #[arg(long)]
        when: Option<PathBuf>,
    },
    /// Write single bytes to connections in turn until there is no room, and hold them
    FillBytes {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        connections: usize,
    },
    /// Begin to connect, and close, for so many milliseconds
    GiveUp {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        ms: u64,
    },
    /// Say what connect() gives, and how fast
    Connect {
        #[command(flatten)]
        peer: Peer,
        /// For so many seconds, if nobody answers
        #[arg(long)]
        patience: Option<u64>,
    },
    /// Call connect() until it was interrupted so many times
    InterruptedClient {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        times: u64,
        /// What is done then
        #[arg(long)]
        then: interrupted::Then,
        /// This side's kernel may reset what was interrupted
        #[arg(long)]
        lossy: bool,
    },
    /// Greet whoever connects, and tell what became of them
    InterruptedServer {
        #[arg(long)]
        port: u32,
    },
    /// Say which CID this machine has
    Cid,
    /// Say what the kernel tells udev
    Uevents,
    /// Say how large a buffer is, before and after connect()
    BufferSize {
        #[command(flatten)]
        peer: Peer,
        #[arg(long, default_value_t = socket::DEFAULT_BUFFER)]
        buffer: u64,
    },
    /// Connect, and say how the connection ended
    WaitEndClient {
        #[command(flatten)]
        peer: Peer,
    },
    /// Accept one connection, and say how it ended
    WaitEndServer {
        #[arg(long)]
        port: u32,
    },
    /// Say what the kernel holds, once it holds still
    Memory,
    /// Send datagrams as fast as it goes
    RateSend {
        #[command(flatten)]
        way: rate::Way,
        #[arg(long)]
        ms: u64,
    },
    /// Say to the peer where datagrams are wanted, and count them
    RateReceive {
        #[command(flatten)]
        way: rate::Way,
    },
    /// Say how late a thread wakes at most that is before all programs, on each processor
    Lateness {
        /// Of SCHED_FIFO
        #[arg(long)]
        priority: i32,
        #[arg(long)]
        ms: u64,
    },
    /// Read everything and throw it away
    Sink {
        #[arg(long)]
        port: u32,
        #[arg(long, value_enum, default_value_t = Kind::Stream)]
        kind: Kind,
        /// Read so many bytes at a time; of a longer message, no more
        #[arg(long, default_value_t = 256 << 10)]
        buffer: usize,
    },
    /// Write as fast as it goes
    Source {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        write_size: usize,
        #[arg(long, default_value_t = 1)]
        flows: usize,
        #[arg(long)]
        ms: u64,
        #[arg(long, value_enum, default_value_t = Kind::Stream)]
        kind: Kind,
    },
    /// Copy memory
    Copy {
        #[arg(long)]
        size: usize,
        #[arg(long)]
        ms: u64,
    },
    /// Round trips against an echo server
    Ping {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        ms: u64,
    },
    /// Accept and close, one after the other
    Accepts {
        #[arg(long)]
        port: u32,
    },
    /// Connect and close, one after the other
    Connects {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        ms: u64,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Messages(task) => task.run(),
        Command::Dgram(task) => task.run(),
        Command::Zerocopy(task) => task.run(),
        Command::Files(task) => task.run(),
        Command::Sockmap(task) => task.run(),
        Command::Waits(task) => task.run(),
        Command::Turns(task) => task.run(),
        Command::Agent { port } => agent::serve(port),
        Command::EchoServer { port, cid } => stream::echo_server(port, cid),
        Command::EchoClient {
            peer,
            connections,
            bytes,
            write_size,
            counted,
        } => stream::echo_client(
            peer.cid,
            peer.port,
            stream::Load {
                connections,
                bytes,
                write_size,
                counted,
            },
        ),
        Command::Many {
            peer,
            connections,
            burst,
        } => stream::many(peer.cid, peer.port, connections, burst),
        Command::Chunks { peer, size, count } => stream::chunks(peer.cid, peer.port, size, count),
        Command::SlowServer {
            port,
            pause_ms,
            poll,
            bytes,
        } => stream::slow_server(port, Duration::from_millis(pause_ms), poll, bytes),
        Command::Send {
            peer,
            bytes,
            write_size,
            counted,
            class,
        } => stream::send(peer, bytes, write_size, counted, class),
        Command::Traffic {
            peer,
            flows,
            seconds,
        } => stream::traffic(peer.cid, peer.port, flows, Duration::from_secs(seconds)),
        Command::StuckServer {
            port,
            hold_ms,
            bytes,
        } => stuck::server(port, Duration::from_millis(hold_ms), bytes),
        Command::StuckListener {
            port,
            backlog,
            hold_ms,
        } => stuck::listener(port, backlog, Duration::from_millis(hold_ms)),
        Command::HoldServer {
            port,
            connections,
            kind,
            bytes,
            shut,
        } => hold::server(port, connections, kind, bytes, shut),
        Command::HoldClient {
            peer,
            connections,
            pieces,
            size,
            kind,
            when,
        } => hold::client(peer, connections, kind, hold::Load { pieces, size, when }),
        Command::FillBytes { peer, connections } => fill::bytes(peer, connections),
        Command::GiveUp { peer, ms } => fill::given_up(peer, Duration::from_millis(ms)),
        Command::Connect { peer, patience } => probe::connect(peer.cid, peer.port, patience),
        Command::InterruptedClient {
            peer,
            times,
            then,
            lossy,
        } => interrupted::client(peer, times, then, lossy),
        Command::InterruptedServer { port } => interrupted::server(port),
        Command::Cid => probe::local_cid(),
        Command::Uevents => uevents::print(),
        Command::BufferSize { peer, buffer } => probe::buffer_size(peer, buffer),
        Command::WaitEndClient { peer } => probe::wait_end_client(peer.cid, peer.port),
        Command::WaitEndServer { port } => probe::wait_end_server(port),
        Command::Memory => {
            println!("OK kernel={}", memory::kernel()?);
            Ok(())
        }
        Command::RateSend { way, ms } => rate::send(&way, Duration::from_millis(ms)),
        Command::RateReceive { way } => rate::receive(&way),
        Command::Lateness { priority, ms } => {
            lateness::measure(priority, Duration::from_millis(ms))
        }
        Command::Sink { port, kind, buffer } => bench::sink(kind, port, buffer),
        Command::Copy { size, ms } => bench::copy(size, Duration::from_millis(ms)),
        Command::Source {
            peer,
            write_size,
            flows,
            ms,
            kind,
        } => bench::source(kind, peer, write_size, flows, Duration::from_millis(ms)),
        Command::Ping { peer, size, ms } => {
            bench::ping(peer.cid, peer.port, size, Duration::from_millis(ms))
        }
        Command::Accepts { port } => bench::accepts(port),
        Command::Connects { peer, ms } => {
            bench::connects(peer.cid, peer.port, Duration::from_millis(ms))
        }
    }
}
