// SPDX-License-Identifier: GPL-2.0

//! Those who wait: a reader for more than a byte, a writer for room, two threads for one error. Nobody may wait
//! for ever.

use std::{
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail, ensure, Context, Result};
use clap::Subcommand;
use nix::{
    errno::Errno,
    poll::PollFlags,
    sched::{sched_setaffinity, CpuSet},
    sys::{
        pthread::pthread_self,
        socket::{getsockopt, shutdown, sockopt, MsgFlags, Shutdown},
    },
    unistd::Pid,
};

use crate::{
    signals,
    socket::{Kind, Peer, Socket, DEFAULT_BUFFER},
};

/// Who waits for longer waits for ever.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Subcommand)]
pub enum Task {
    /// Read most of a full buffer in two pieces, then wait in poll() for `SO_RCVLOWAT` bytes
    Lowat {
        #[arg(long)]
        port: u32,
        #[arg(long)]
        first: usize,
        #[arg(long)]
        second: usize,
        #[arg(long)]
        lowat: i32,
        /// Begin to read when this file is there
        #[arg(long)]
        when: PathBuf,
    },
    /// Write so much; with --poll never wait but in poll()
    Write {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        bytes: usize,
        #[arg(long)]
        poll: bool,
    },
    /// Wait in recv(), and see another thread take the connection's error
    ErrorTaken {
        #[command(flatten)]
        peer: Peer,
    },
    /// Give up connect(), and see that nothing is left behind of what the peer has sent
    LateAnswer {
        #[command(flatten)]
        peer: Peer,
    },
    /// Have connect() interrupted before it wakes, by when the peer has accepted, greeted and closed
    CameAndWent {
        #[command(flatten)]
        peer: Peer,
        #[arg(long, default_value = "")]
        greeting: String,
    },
    /// Lose a connection with data unsent, and make another between the same ports
    Successor {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        from: u32,
        /// How many other connections fill the queue
        #[arg(long)]
        fillers: usize,
        /// Write when this file is there
        #[arg(long)]
        when: PathBuf,
    },
    /// Connect once, and with writers that write until there is no room, of which some are closed
    Farewell {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        writers: usize,
        #[arg(long)]
        close: usize,
        /// Write when this file is there
        #[arg(long)]
        when: PathBuf,
    },
    /// Connect writers that write until there is no room, and one that writes a byte after them
    Turns {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        writers: usize,
        /// Write when this file is there
        #[arg(long)]
        when: PathBuf,
    },
    /// Write so much once, and see the connection reset
    TooLong {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        bytes: usize,
    },
    /// End the own half, and keep the other
    HalfClose {
        #[command(flatten)]
        peer: Peer,
        /// End it when this file is there
        #[arg(long)]
        when: PathBuf,
    },
    /// Write small pieces while the device takes nothing, and close
    LastWords {
        #[command(flatten)]
        peer: Peer,
        #[arg(long)]
        pieces: usize,
        /// Write when this file is there
        #[arg(long)]
        when: PathBuf,
        #[arg(long)]
        close: bool,
        /// In small writes that may be put together
        #[arg(long)]
        together: bool,
    },
    /// Write little while the device takes nothing, then look for an answer; then say that more follows
    Cork {
        #[command(flatten)]
        peer: Peer,
        /// Write when this file is there
        #[arg(long)]
        when: PathBuf,
        /// Look for an answer when this file is there
        #[arg(long)]
        then: PathBuf,
        /// Say that more follows when this file is there
        #[arg(long)]
        more: PathBuf,
    },
    /// Write little, and do nothing more
    Leave {
        #[command(flatten)]
        peer: Peer,
        /// Write when this file is there
        #[arg(long)]
        when: PathBuf,
        /// End when this file is there
        #[arg(long)]
        then: PathBuf,
    },
}

impl Task {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Lowat {
                port,
                first,
                second,
                lowat,
                when,
            } => wait_for_lowat(port, [first, second], lowat, &when),
            Self::Write { peer, bytes, poll } => write(peer, bytes, poll),
            Self::ErrorTaken { peer } => error_taken(peer),
            Self::LateAnswer { peer } => late_answer(peer),
            Self::CameAndWent { peer, greeting } => came_and_went(peer, greeting.as_bytes()),
            Self::Successor {
                peer,
                from,
                fillers,
                when,
            } => successor(peer, from, fillers, &when),
            Self::Farewell {
                peer,
                writers,
                close,
                when,
            } => farewell(peer, writers, close, &when),
            Self::Turns {
                peer,
                writers,
                when,
            } => turns(peer, writers, &when),
            Self::TooLong { peer, bytes } => too_long(peer, bytes),
            Self::HalfClose { peer, when } => half_close(peer, &when),
            Self::LastWords {
                peer,
                pieces,
                when,
                close,
                together,
            } => last_words(peer, pieces, &when, close, together),
            Self::Cork {
                peer,
                when,
                then,
                more,
            } => cork(peer, [&when, &then, &more]),
            Self::Leave { peer, when, then } => leave(peer, &when, &then),
        }
    }
}

fn wait_for_file(file: &PathBuf) -> Result<()> {
    let start = Instant::now();
    while !file.exists() {
        ensure!(start.elapsed() < 4 * PATIENCE, "{file:?} never came");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn wait_for_lowat(port: u32, reads: [usize; 2], lowat: i32, when: &PathBuf) -> Result<()> {
    let listener = Socket::listening(Kind::Stream, DEFAULT_BUFFER, port)?;
    println!("READY {port}");
    let socket = listener.accept()?;
    let start = Instant::now();
    while (socket.unread()? as u64) < DEFAULT_BUFFER {
        ensure!(start.elapsed() < PATIENCE, "the buffer is never full");
        thread::sleep(Duration::from_millis(5));
    }
    println!("FULL");
    wait_for_file(when)?;
    for want in reads {
        let mut buffer = vec![0; want];
        let got = socket.receive(&mut buffer, MsgFlags::MSG_WAITALL)?.len;
        ensure!(got == want, "recv() gave {got} of {want} bytes");
    }
    socket.set_lowat(lowat)?;
    println!("WAITS unread={}", socket.unread()?);
    let events = socket.poll(PollFlags::POLLIN, PATIENCE)?;
    let unread = socket.unread()?;
    ensure!(
        events.contains(PollFlags::POLLIN),
        "poll() for {lowat} bytes ended with {events:?} and {unread} bytes"
    );
    let got = socket
        .receive(&mut vec![0; 1 << 20], MsgFlags::empty())?
        .len;
    ensure!(got >= lowat as usize, "recv() gave {got} of {lowat} bytes");
    println!("OK unread={unread} received={got}");
    Ok(())
}

fn write(peer: Peer, bytes: usize, poll: bool) -> Result<()> {
    let socket = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    let piece = vec![0x5a; 64 << 10];
    let flags = if poll {
        MsgFlags::MSG_DONTWAIT
    } else {
        MsgFlags::empty()
    };
    let start = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        let len = piece.len().min(bytes - sent);
        match socket.send(&piece[..len], flags) {
            Ok(n) => sent += n,
            Err(e) if poll && e.raw_os_error() == Some(libc::EAGAIN) => {
                let events = socket.poll(PollFlags::POLLOUT, PATIENCE)?;
                ensure!(
                    events.contains(PollFlags::POLLOUT),
                    "no room for {PATIENCE:?} after {sent} of {bytes} bytes"
                );
            }
            Err(e) => return Err(e).with_context(|| format!("send() after {sent} bytes")),
        }
    }
    println!(
        "OK sent={sent} seconds={:.3}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn error_taken(peer: Peer) -> Result<()> {
    let socket = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    socket.receive_timeout(Duration::ZERO)?;
    println!("CONNECTED");
    thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| socket.receive(&mut [0; 16], MsgFlags::empty()));
        // Spins, so as to be there before the reader is.
        let start = Instant::now();
        let error = loop {
            match getsockopt(&socket, sockopt::SocketError)? {
                0 if start.elapsed() < 2 * PATIENCE => {}
                0 => bail!("the connection never failed"),
                error => break error,
            }
        };
        println!("TAKEN {error}");
        let start = Instant::now();
        while !reader.is_finished() {
            if start.elapsed() > PATIENCE {
                // The reader cannot be joined.
                println!("STUCK");
                std::process::exit(1);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })?;
    println!("OK");
    Ok(())
}

fn late_answer(peer: Peer) -> Result<()> {
    let socket = Socket::plain(Kind::Stream)?;
    socket.connect_timeout(Duration::from_secs(1))?;
    let error = socket
        .try_connect(peer)
        .err()
        .and_then(|e| e.raw_os_error());
    ensure!(
        error == Some(libc::ETIMEDOUT),
        "connect() was to time out, and gave {error:?}"
    );
    // The peer's answer and its greeting come, and the time of both is over.
    thread::sleep(Duration::from_secs(9));
    ensure!(socket.unread()? == 0, "{} bytes to read", socket.unread()?);
    socket.listen(4)?;
    let events = socket.poll(PollFlags::POLLIN, Duration::from_millis(500))?;
    ensure!(
        !events.contains(PollFlags::POLLIN),
        "a listener that nobody has connected to has {events:?}"
    );
    println!("OK");
    Ok(())
}

/// The caller has the processor of this thread alone, and this one goes first.
fn came_and_went(peer: Peer, greeting: &[u8]) -> Result<()> {
    const TRIES: usize = 20;
    const WANTED: usize = 3;
    signals::allow()?;
    let mut processor = CpuSet::new();
    processor.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &processor)?;
    let mut unseen = 0;
    for _ in 0..TRIES {
        let socket = Socket::plain(Kind::Stream)?;
        let returned = AtomicBool::new(false);
        let (tell, who) = mpsc::channel();
        let (gone, outcome) = thread::scope(|scope| -> Result<_> {
            let caller = scope.spawn(|| {
                let told = tell.send(pthread_self());
                let outcome = socket.try_connect(peer);
                returned.store(true, Ordering::SeqCst);
                told.map(|()| outcome)
            });
            let who = who.recv()?;
            thread::sleep(Duration::from_millis(50));
            goes_first(true)?;
            // Less than what the scheduler takes for a thread that runs wild.
            let (start, mut gone) = (Instant::now(), false);
            while !gone && start.elapsed() < Duration::from_millis(800) {
                gone = has_left(&socket)?;
            }
            unseen += usize::from(gone && !returned.load(Ordering::SeqCst));
            signals::interrupt(who)?;
            goes_first(false)?;
            let outcome = caller.join().map_err(|_| anyhow!("the caller panicked"))?;
            Ok((gone, outcome?))
        })?;
        match outcome {
            // The peer was too late.
            Err(e) if !gone && e.raw_os_error() == Some(libc::EINTR) => continue,
            outcome => outcome.context("connect(), and the peer had accepted")?,
        }
        let mut buffer = vec![0; greeting.len() + 1];
        let got = socket.receive(&mut buffer, MsgFlags::MSG_WAITALL)?.len;
        ensure!(
            buffer.get(..got) == Some(greeting),
            "the greeting was {:?}",
            &buffer[..got]
        );
        if unseen == WANTED {
            println!("OK");
            return Ok(());
        }
    }
    bail!("of {TRIES} connections {unseen} came and went before connect() woke")
}

/// Whether the peer will send no more; nix has no name for that.
fn has_left(socket: &Socket) -> Result<bool> {
    let mut fd = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: The one descriptor lives through the call.
    Errno::result(unsafe { libc::poll(&raw mut fd, 1, 0) })?;
    Ok(fd.revents & libc::POLLRDHUP != 0)
}

/// Whether this thread runs before all others of its processor.
fn goes_first(first: bool) -> Result<()> {
    let policy = if first {
        libc::SCHED_FIFO
    } else {
        libc::SCHED_OTHER
    };
    let parameters = libc::sched_param {
        sched_priority: first.into(),
    };
    // SAFETY: The parameters live through the call.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) })
        .context("sched_setscheduler()")
        .map(drop)
}

fn successor(peer: Peer, from: u32, fillers: usize, when: &PathBuf) -> Result<()> {
    let fillers = (0..fillers)
        .map(|_| Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer))
        .collect::<Result<Vec<_>>>()?;
    let first = Socket::bound(Kind::Stream, from)?.connect(peer)?;
    println!("CONNECTED");
    wait_for_file(when)?;
    // More than the queue is deep, of so many that none is kept from it for having sent too much.
    for filler in &fillers {
        for _ in 0..15 {
            send_apart(filler, &[1])?;
        }
        thread::yield_now();
    }
    first.send(&[2; 1000], MsgFlags::MSG_DONTWAIT)?;
    println!("WRITTEN");
    first.poll(PollFlags::POLLIN, PATIENCE)?;
    let end = first.receive(&mut [0; 16], MsgFlags::MSG_DONTWAIT);
    ensure!(
        !matches!(&end, Err(e) if e.raw_os_error() == Some(libc::EAGAIN)),
        "the first connection does not end"
    );
    drop(first);
    let second = Socket::bound(Kind::Stream, from)?;
    println!("AGAIN");
    let second = second.connect(peer).context("the second connection")?;
    second.send(&[3; 10], MsgFlags::empty())?;
    let mut back = [0; 10];
    let got = second.receive(&mut back, MsgFlags::MSG_WAITALL)?.len;
    ensure!(
        got == 10 && back == [3; 10],
        "the echo was {:?}",
        &back[..got]
    );
    println!("OK");
    Ok(())
}

/// Sends a packet by itself: a driver that puts small writes together sends them when their writer waits for his peer.
fn send_apart(socket: &Socket, bytes: &[u8]) -> Result<()> {
    socket.send(bytes, MsgFlags::MSG_DONTWAIT)?;
    ensure!(
        socket.receive(&mut [0], MsgFlags::MSG_DONTWAIT).is_err(),
        "the peer was to be silent"
    );
    Ok(())
}

/// Small writes.
const BYTES: [u8; 100] = [4; 100];

/// A connection by which nine of them are sent when that file is there.
fn nine_writes(peer: Peer, when: &PathBuf) -> Result<Socket> {
    let socket = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    println!("CONNECTED");
    wait_for_file(when)?;
    for _ in 0..9 {
        socket.send(&BYTES, MsgFlags::MSG_DONTWAIT)?;
    }
    println!("WRITTEN");
    Ok(socket)
}

fn leave(peer: Peer, when: &PathBuf, then: &PathBuf) -> Result<()> {
    let socket = nine_writes(peer, when)?;
    wait_for_file(then)?;
    drop(socket);
    Ok(())
}

fn cork(peer: Peer, [when, then, more]: [&PathBuf; 3]) -> Result<()> {
    let socket = nine_writes(peer, when)?;
    wait_for_file(then)?;
    send_apart(&socket, &BYTES)?;
    println!("ASKED");
    wait_for_file(more)?;
    // nix has no name for it.
    let more_follows = MsgFlags::from_bits_retain(libc::MSG_MORE);
    for flags in [more_follows, more_follows, MsgFlags::empty()] {
        socket.send(&BYTES, flags)?;
    }
    println!("MORE");
    // Of these the rest never comes.
    socket.send(&BYTES, more_follows)?;
    socket.poll(PollFlags::POLLIN, PATIENCE)?;
    Ok(())
}

fn farewell(peer: Peer, writers: usize, close: usize, when: &PathBuf) -> Result<()> {
    // In two pieces each, of the header and of what is too long to lie behind it.
    const PIECE: [u8; 5000] = [7; 5000];
    let quiet = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    let mut writers = (0..writers)
        .map(|_| Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer))
        .collect::<Result<Vec<_>>>()?;
    println!("CONNECTED");
    wait_for_file(when)?;
    for writer in &writers {
        while send_apart(writer, &PIECE).is_ok() {}
    }
    writers.drain(..close);
    println!("WRITTEN");
    quiet.poll(PollFlags::POLLIN, PATIENCE)?;
    Ok(())
}

fn turns(peer: Peer, writers: usize, when: &PathBuf) -> Result<()> {
    let lone = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    let writers = (0..writers)
        .map(|_| Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer))
        .collect::<Result<Vec<_>>>()?;
    println!("CONNECTED");
    wait_for_file(when)?;
    for writer in &writers {
        while writer.send(&[7; 16 << 10], MsgFlags::MSG_DONTWAIT).is_ok() {}
    }
    lone.send(&[7], MsgFlags::empty())?;
    println!("WRITTEN");
    lone.poll(PollFlags::POLLIN, PATIENCE)?;
    Ok(())
}

fn too_long(peer: Peer, bytes: usize) -> Result<()> {
    let socket = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    let sent = socket.send(&vec![1; bytes], MsgFlags::empty())?;
    ensure!(sent == bytes, "{sent} of {bytes} bytes were written");
    socket.poll(PollFlags::POLLIN, PATIENCE)?;
    let error = getsockopt(&socket, sockopt::SocketError)?;
    ensure!(
        error == libc::ECONNRESET,
        "the connection was to end by ECONNRESET, and has error {error}"
    );
    println!("OK");
    Ok(())
}

fn half_close(peer: Peer, when: &PathBuf) -> Result<()> {
    let socket = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    println!("CONNECTED");
    wait_for_file(when)?;
    shutdown(socket.as_raw_fd(), Shutdown::Write)?;
    println!("SHUT");
    socket.poll(PollFlags::POLLHUP, PATIENCE)?;
    Ok(())
}

fn last_words(
    peer: Peer,
    pieces: usize,
    when: &PathBuf,
    close: bool,
    together: bool,
) -> Result<()> {
    let socket = Socket::connected(Kind::Stream, DEFAULT_BUFFER, peer)?;
    println!("CONNECTED");
    wait_for_file(when)?;
    for i in 0..pieces {
        let piece = (i as u64).to_le_bytes();
        if together {
            socket.send(&piece, MsgFlags::MSG_DONTWAIT)?;
        } else {
            send_apart(&socket, &piece)?;
        }
    }
    if close {
        drop(socket);
        println!("WRITTEN");
        return Ok(());
    }
    println!("WRITTEN");
    socket.poll(PollFlags::POLLIN, PATIENCE)?;
    Ok(())
}
