// SPDX-License-Identifier: GPL-2.0

//! SOCK_DGRAM: what its calls give, and datagrams to and from a peer that the lab plays.
//!
//! The lab's end is a unix socket of the device, which is why there is a guest's end only.

mod blocked;
mod calls;
mod crowd;
mod notify;
mod peers;
mod sequence;
mod sizes;
mod socket;

use std::{fmt::Debug, io, time::Duration};

use anyhow::{ensure, Result};
use clap::Subcommand;
use nix::errno::Errno;

pub use sequence::{check, fill};
pub use sizes::{READS, SIZES};
pub use socket::{Address, Dgram, LARGEST};

#[derive(Subcommand)]
pub enum Task {
    /// Say what socket() gives
    Socket,
    /// bind(): what is refused, and which ports are picked
    Bind {
        #[arg(long)]
        port: u32,
    },
    /// Hold 1024 ports in a row, and then ask for any
    CrowdPorts,
    /// Fill the buffers of sockets and close them, for so many milliseconds; then wait for room
    CrowdClosed {
        #[command(flatten)]
        peer: Address,
        #[arg(long)]
        ms: u64,
    },
    /// Where nobody can be, and what is too long
    Destinations {
        #[arg(long)]
        port: u32,
    },
    /// A socket that has nothing: recv(), poll(), the ioctls
    Empty,
    /// getsockname(), getpeername(), connect() and its end
    Names {
        #[arg(long)]
        port: u32,
    },
    /// What shutdown() ends
    Shutdown {
        #[arg(long)]
        port: u32,
    },
    /// Send back what comes, to whoever sent it, until told to end
    Echo {
        #[arg(long)]
        port: u32,
    },
    /// Send datagrams of all sizes, and read them back
    SizesSend {
        #[command(flatten)]
        peer: Address,
    },
    /// Read datagrams of all sizes in all ways
    SizesReceive {
        #[arg(long)]
        port: u32,
    },
    /// Send numbered datagrams
    Send {
        #[command(flatten)]
        peer: Address,
        #[arg(long)]
        count: u64,
        /// The longest
        #[arg(long, default_value_t = 256)]
        size: usize,
        /// End after so many milliseconds, if there are more
        #[arg(long)]
        ms: Option<u64>,
    },
    /// Receive numbered datagrams at one port until told on the next to end; count those that are missing
    Collect {
        #[arg(long)]
        port: u32,
        /// The size of the receive queue
        #[arg(long)]
        buffer: Option<usize>,
        /// Read nothing before the end
        #[arg(long)]
        sleepy: bool,
    },
    /// Print what one port of this CID gets
    Print {
        #[command(flatten)]
        at: Address,
    },
    /// A sender whose buffer is full: flags, time-outs, signals, another thread's calls
    Full {
        #[command(flatten)]
        peer: Address,
    },
    /// Be refused: once, if connected
    Refused {
        #[command(flatten)]
        peer: Address,
    },
    /// Hear nobody but the peer, while there is one
    OnlyPeer {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        peer_port: u32,
    },
    /// Many sockets with a datagram there and one back on each
    Many {
        #[command(flatten)]
        peer: Address,
        #[arg(long)]
        count: usize,
    },
    /// A socket that outlives the device
    Outlive {
        #[arg(long)]
        port: u32,
        #[command(flatten)]
        peer: PeerPort,
    },
    /// Say how long the next datagrams are, and from whom, each in a line
    Lengths {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        count: usize,
    },
    /// Send to a port where nobody is, and hear nothing of it
    Unheard {
        #[command(flatten)]
        peer: Address,
    },
    /// Tell a notify socket that all is well, as sd_notify() does
    Notify {
        #[command(flatten)]
        peer: Address,
    },
}

/// A port of the host's, where another port is named too.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct PeerPort {
    #[arg(long)]
    peer_port: u32,
}

impl Task {
    pub fn run(self) -> Result<()> {
        match self {
            Task::Socket => calls::socket(),
            Task::Bind { port } => calls::bind(port),
            Task::CrowdPorts => crowd::ports(),
            Task::CrowdClosed { peer, ms } => crowd::closed(peer, Duration::from_millis(ms)),
            Task::Destinations { port } => calls::destinations(port),
            Task::Empty => calls::empty(),
            Task::Names { port } => calls::names(port),
            Task::Shutdown { port } => calls::shutdown(port),
            Task::Echo { port } => peers::echo(port),
            Task::SizesSend { peer } => sizes::send(peer),
            Task::SizesReceive { port } => sizes::receive(port),
            Task::Send {
                peer,
                count,
                size,
                ms,
            } => sequence::send(peer, count, size, ms),
            Task::Collect {
                port,
                buffer,
                sleepy,
            } => sequence::collect(port, buffer, sleepy),
            Task::Print { at } => peers::print(at),
            Task::Full { peer } => blocked::full(peer),
            Task::Refused { peer } => peers::refused(peer),
            Task::OnlyPeer { port, peer_port } => peers::only_peer(port, peer_port),
            Task::Many { peer, count } => peers::many(peer, count),
            Task::Outlive { port, peer } => peers::outlive(port, peer.peer_port),
            Task::Lengths { port, count } => sizes::lengths(port, count),
            Task::Unheard { peer } => peers::unheard(peer),
            Task::Notify { peer } => notify::ready(peer),
        }
    }
}

/// The call must have failed in this way.
fn fails<T: Debug>(what: &str, outcome: io::Result<T>, errno: Errno) -> Result<()> {
    ensure!(
        matches!(&outcome, Err(e) if e.raw_os_error() == Some(errno as i32)),
        "{what} gave {outcome:?}, not {errno:?}"
    );
    Ok(())
}
